// Patterns that name paths: `*` and `?` stand for what is within one name, `**` for any number of
// whole names. Everything else stands for itself.
//
// No state; any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// Of paths as texts: none of them with a '/' at its end.
bool is_at_or_below(std::string_view path, std::string_view place);

// A pattern without a '/' is one of the path's last name. The time is bounded by the product of the
// lengths, whatever stands in either.
bool glob_matches(std::string_view pattern, std::string_view path);

// Whether one of the patterns names `path` or a directory that it lies in, down from `top`, which
// itself is never meant. REQUIRES: `path` is `top` or below it.
bool glob_covers(const std::vector<std::string>& patterns, std::string_view top,
                 std::string_view path);

}  // namespace sluice
