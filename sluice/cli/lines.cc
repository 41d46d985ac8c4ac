#include "sluice/cli/lines.h"

#include <algorithm>

namespace sluice::cli {

std::string trimmed(std::string_view text) {
  constexpr std::string_view blanks = " \t\r\n";
  const size_t begin = text.find_first_not_of(blanks);
  if (begin == std::string_view::npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(blanks) - begin + 1));
}

std::vector<std::string> lines_of(std::string_view text, char separator) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    std::string line = trimmed(text.substr(0, end));
    if (!line.empty() && !line.starts_with('#')) lines.push_back(std::move(line));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

}  // namespace sluice::cli
