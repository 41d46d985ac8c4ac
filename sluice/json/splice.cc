#include "sluice/json/splice.h"

#include <algorithm>
#include <vector>

#include "sluice/json/text.h"

namespace sluice::json {
namespace {

bool is_space(char c) {
  return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

struct Cut {
  size_t begin = 0, end = 0;
  std::string_view with;
};

// A field with one of the commas beside it. Several neighbours may be cut, so the comma is the one
// behind, unless there is none: then the cut is widened over the comma in front of it.
Cut removal(ByteView document, const Peeked& field) {
  size_t end = field.value_offset + field.value.text.size();
  while (end < document.size() && is_space(document[end])) ++end;
  if (end < document.size() && document[end] == ',') {
    ++end;
    while (end < document.size() && is_space(document[end])) ++end;
    return {field.name_offset, end, {}};
  }
  return {field.name_offset, field.value_offset + field.value.text.size(), {}};
}

}  // namespace

Result<Bytes> splice(Peeker& peeker, const Bytes& document, std::span<const Edit> edits) {
  std::vector<std::string_view> names;
  for (const Edit& edit : edits) {
    names.push_back(edit.name);
    if (edit.value) {
      SLUICE_TRY_VOID(read_value(*edit.value));
    }
  }
  SLUICE_TRY(const auto found, peeker.fields(document, names));

  std::vector<Cut> cuts;
  Bytes appended;
  for (size_t i = 0; i < edits.size(); ++i) {
    if (found[i] && edits[i].value) {
      const size_t begin = found[i]->value_offset;
      cuts.push_back({begin, begin + found[i]->value.text.size(), *edits[i].value});
    } else if (found[i]) {
      cuts.push_back(removal(document, *found[i]));
    } else if (edits[i].value) {
      appended.push_back(',');
      append_string(appended, edits[i].name);
      appended.push_back(':');
      appended.append(*edits[i].value);
    }
  }
  std::sort(cuts.begin(), cuts.end(), [](const Cut& a, const Cut& b) { return a.begin < b.begin; });

  const size_t close = document.rfind('}');
  Bytes out;
  // With room for a parser's padding, so that the result can be peeked into without a copy.
  out.reserve(document.size() + appended.size() + 256);
  size_t at = 0;
  for (const Cut& cut : cuts) {
    out.append(document, at, cut.begin - at);
    out.append(cut.with);
    at = cut.end;
  }
  out.append(document, at, close - at);
  // If the last field was cut, the comma in front of it is left over.
  size_t last = out.find_last_not_of(" \n\r\t");
  if (last != Bytes::npos && out[last] == ',') {
    out.erase(last, 1);
    last = out.find_last_not_of(" \n\r\t");
  }
  if (!appended.empty()) {
    const bool empty =
        last != Bytes::npos && out[last] == '{' && out.find_first_not_of(" \n\r\t") == last;
    out.append(empty ? ByteView(appended).substr(1) : ByteView(appended));
  }
  out.append(document, close);
  return out;
}

}  // namespace sluice::json
