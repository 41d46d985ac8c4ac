// Any text is a task or an Error that names the file.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "sluice/rollout/task.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto task = sluice::rollout::parse_task(text, "fuzz.toml", "/nonexistent");
  if (!task && task.error().message.find("fuzz.toml") == std::string::npos) std::abort();
  return 0;
}
