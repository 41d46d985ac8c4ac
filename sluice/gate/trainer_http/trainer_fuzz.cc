// The trainer API's messages: whatever comes is read or refused, and what is read can be written.
#include <cstddef>
#include <cstdint>

#include "sluice/gate/trainer_http/messages.h"
#include "sluice/llm/answer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace http = sluice::gate::trainer_http;
  const sluice::ByteView text(reinterpret_cast<const char*>(data), size);
  (void)http::take_from_json(text);
  (void)http::registration_from_json(text);
  (void)http::text_from_json(text, "version");
  (void)http::count_from_json(text, "versions");
  const auto replies = http::replies_from_json(text);
  if (!replies) return 0;
  for (const auto& each : replies->replies) {
    if (!each.reply) continue;
    if (const auto* answer = std::get_if<sluice::llm::Answer>(&each.reply->what)) {
      sluice::Bytes out;
      sluice::llm::append_json(out, *answer);
    }
  }
  return 0;
}
