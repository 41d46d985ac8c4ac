#include "sluice/json/non_numbers.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "sluice/json/text.h"

namespace sluice::json {
namespace {

// Where the string ends that begins at `at`; at the text's end if it does not.
size_t string_end(ByteView text, size_t at) {
  for (++at; at < text.size(); ++at) {
    at = next_escape(text, at);
    if (at >= text.size()) break;
    if (text[at] == '"') return at + 1;
    if (text[at] == '\\') ++at;
  }
  return text.size();
}

}  // namespace

WithoutNonNumbers without_non_numbers(ByteView text) {
  constexpr std::array<std::string_view, 3> kWords{"NaN", "Infinity", "-Infinity"};
  WithoutNonNumbers out;
  out.text.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const ByteView rest = text.substr(at);
    const auto word = std::find_if(kWords.begin(), kWords.end(),
                                   [&](std::string_view each) { return rest.starts_with(each); });
    if (word != kWords.end()) {
      out.places.push_back(out.text.size());
      out.text.append("null");
      at += word->size();
      continue;
    }
    const size_t end = rest.front() == '"' ? string_end(text, at) : at + 1;
    out.text.append(text.substr(at, end - at));
    at = end;
  }
  return out;
}

}  // namespace sluice::json
