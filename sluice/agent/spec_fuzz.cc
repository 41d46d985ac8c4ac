// Any text is a spec or an Error that names the file.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "sluice/agent/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto spec = sluice::agent::parse_spec(text, "fuzz.toml");
  if (!spec && spec.error().message.find("fuzz.toml") == std::string::npos) std::abort();
  return 0;
}
