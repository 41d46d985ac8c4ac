// Small text files: keys, and NAME=VALUE lines, as OpenEnv's environments have beside them (.env).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "sluice/base/core/result.h"

namespace sluice::cli {

// The pieces between separators, without blanks and line ends around them, without empty ones and
// those that begin with '#'.
std::vector<std::string> lines_of(std::string_view text, char separator);

// Puts the file's variables into this process's environment, where they are unset or empty. To be
// called before there is a second thread.
Result<void> load_env_file(const std::string& path);

}  // namespace sluice::cli
