// Templates: text with {name} placeholders, as agent specs use them in arguments, environment,
// paths and files.
//
//   {gate}        the value as it is
//   {model|json}  the value as the inside of a JSON string
//   {{            a literal brace
//
// A brace that is not followed by a name and a closing brace is literal, so that JSON needs no
// escaping: {"a": {env:HOME}} has no placeholder in it. Plain values; any thread.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>

#include "sluice/base/core/result.h"

namespace sluice::agent {

using TemplateValues = std::map<std::string, std::string, std::less<>>;

// Replaces every placeholder. An unknown name or filter is kInvalidArgument and says which names
// are known.
Result<std::string> expand(std::string_view text, const TemplateValues& values);

// The names that `text` uses.
std::set<std::string> names_in(std::string_view text);

}  // namespace sluice::agent
