#include "sluice/base/core/glob.h"

#include <algorithm>
#include <cstddef>

namespace sluice {
namespace {

// A star stands for any number of items. It is enough to try the last star again: whatever an
// earlier one could take in addition, the last can as well.
template <class IsStar, class Same>
bool match(size_t pattern_size, size_t size, IsStar is_star, Same same) {
  size_t p = 0, at = 0, behind_star = 0, again = 0;
  while (at < size) {
    if (p < pattern_size && is_star(p)) {
      behind_star = ++p;
      again = at;
    } else if (p < pattern_size && same(p, at)) {
      ++p;
      ++at;
    } else if (behind_star > 0) {
      p = behind_star;
      at = ++again;
    } else {
      return false;
    }
  }
  while (p < pattern_size && is_star(p)) ++p;
  return p == pattern_size;
}

bool name_matches(std::string_view pattern, std::string_view name) {
  return match(
      pattern.size(), name.size(), [&](size_t p) { return pattern[p] == '*'; },
      [&](size_t p, size_t at) { return pattern[p] == '?' || pattern[p] == name[at]; });
}

std::vector<std::string_view> names_of(std::string_view path) {
  std::vector<std::string_view> names;
  while (!path.empty()) {
    const size_t slash = path.find('/');
    if (slash != 0) names.push_back(path.substr(0, slash));
    path = slash == path.npos ? std::string_view() : path.substr(slash + 1);
  }
  return names;
}

}  // namespace

bool is_at_or_below(std::string_view path, std::string_view place) {
  return path.starts_with(place) && (path.size() == place.size() || path[place.size()] == '/');
}

bool glob_matches(std::string_view pattern, std::string_view path) {
  if (pattern.find('/') == pattern.npos) {
    return name_matches(pattern, path.substr(path.rfind('/') + 1));
  }
  const auto patterns = names_of(pattern), names = names_of(path);
  return match(
      patterns.size(), names.size(), [&](size_t p) { return patterns[p] == "**"; },
      [&](size_t p, size_t at) { return name_matches(patterns[p], names[at]); });
}

bool glob_covers(const std::vector<std::string>& patterns, std::string_view top,
                 std::string_view path) {
  size_t end = top.size();
  while (end < path.size()) {
    end = std::min(path.find('/', end + 1), path.size());
    for (const std::string& pattern : patterns) {
      if (glob_matches(pattern, path.substr(0, end))) return true;
    }
  }
  return false;
}

}  // namespace sluice
