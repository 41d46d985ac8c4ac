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

std::string cache_directory() {
  for (const char* name : {"SLUICE_CACHE_DIR", "XDG_CACHE_HOME"}) {
    const std::string path = environment(name);
    if (path.starts_with('/')) return name[0] == 'S' ? path : path + "/sluice";
  }
  return home_directory() + "/.cache/sluice";
}

}  // namespace sluice::cli
