// Damaged traces: whatever the lines say, loading them ends, and what it gives is consistent.
#include <cstdint>
#include <string_view>

#include "sluice/base/core/check.h"
#include "sluice/trace/reader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto trace =
      sluice::trace::parse({reinterpret_cast<const char*>(data), size}, "/nonexistent.jsonl");
  if (!trace) return 0;
  for (const auto& call : trace->calls) {
    CHECK(!call.id.empty());
    CHECK(trace->find(call.id) == &call);
    CHECK(!trace->body(call).has_value());
    const auto prompt = trace->prompt_ids(call);
    CHECK(!prompt || prompt->size() >= call.answer->prompt_ids.size());
  }
  return 0;
}
