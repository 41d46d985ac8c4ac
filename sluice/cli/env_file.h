// A file of NAME=VALUE lines, as OpenEnv's environments have beside them (.env).
#pragma once

#include <string>

#include "sluice/base/core/result.h"

namespace sluice::cli {

// Puts the file's variables into this process's environment, where they are unset or empty. To be
// called before there is a second thread.
Result<void> load_env_file(const std::string& path);

}  // namespace sluice::cli
