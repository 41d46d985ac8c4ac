// Small text files: keys, variables.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sluice::cli {

// Without blanks and line ends around it.
std::string trimmed(std::string_view text);

// The pieces between separators, trimmed, without empty ones and those that begin with '#'.
std::vector<std::string> lines_of(std::string_view text, char separator);

}  // namespace sluice::cli
