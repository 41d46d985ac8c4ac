#include "sluice/cli/paths.h"

#include <cstdlib>

namespace sluice::cli {

std::string environment(const char* name) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing in this process changes the environment.
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

std::string state_directory() {
  if (const std::string xdg = environment("XDG_STATE_HOME"); xdg.starts_with('/')) {
    return xdg + "/sluice";
  }
  return environment("HOME") + "/.local/state/sluice";
}

}  // namespace sluice::cli
