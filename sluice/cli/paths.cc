#include "sluice/cli/paths.h"

#include <cstdlib>

#include "sluice/base/core/passwd.h"

namespace sluice::cli {

std::string environment(const char* name) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing changes the environment once there are threads.
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

std::string state_directory() {
  if (const std::string xdg = environment("XDG_STATE_HOME"); xdg.starts_with('/')) {
    return xdg + "/sluice";
  }
  return home_directory() + "/.local/state/sluice";
}

}  // namespace sluice::cli
