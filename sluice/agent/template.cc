#include "sluice/agent/template.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <optional>
#include <vector>

#include "sluice/json/text.h"

namespace sluice::agent {
namespace {

struct Placeholder {
  std::string_view name;
  std::string_view filter;
  size_t length = 0;  // braces included
};

bool is_name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
}

// The placeholder at the start of `text` (which begins with a brace), if there is one.
std::optional<Placeholder> placeholder_at(std::string_view text) {
  size_t i = 1;
  while (i < text.size() && is_name_char(text[i])) ++i;
  Placeholder found{text.substr(1, i - 1), {}, 0};
  if (found.name.empty()) return std::nullopt;
  if (i < text.size() && text[i] == '|') {
    const size_t start = ++i;
    while (i < text.size() && is_name_char(text[i])) ++i;
    found.filter = text.substr(start, i - start);
  }
  if (i >= text.size() || text[i] != '}') return std::nullopt;
  found.length = i + 1;
  return found;
}

// Calls text_run(view) and placeholder(Placeholder) in the order of the text.
template <class TextRun, class OnPlaceholder>
Result<void> scan(std::string_view text, TextRun text_run, OnPlaceholder on_placeholder) {
  while (!text.empty()) {
    const size_t brace = text.find('{');
    text_run(text.substr(0, brace));
    if (brace == std::string_view::npos) break;
    text.remove_prefix(brace);
    if (text.starts_with("{{")) {
      text_run("{");
      text.remove_prefix(2);
    } else if (const auto found = placeholder_at(text)) {
      SLUICE_TRY_VOID(on_placeholder(*found));
      text.remove_prefix(found->length);
    } else {
      text_run("{");
      text.remove_prefix(1);
    }
  }
  return {};
}

}  // namespace

Result<std::string> expand(std::string_view text, const TemplateValues& values) {
  std::string out;
  auto scanned = scan(
      text, [&](std::string_view run) { out += run; },
      [&](const Placeholder& found) -> Result<void> {
        const auto value = values.find(found.name);
        if (value == values.end()) {
          std::vector<std::string_view> known;
          for (const auto& [name, ignored] : values) known.push_back(name);
          return Error(ErrorCode::kInvalidArgument,
                       fmt::format("unknown placeholder {{{}}}; known here: {}", found.name,
                                   fmt::join(known, ", ")));
        }
        if (found.filter.empty()) {
          out += value->second;
        } else if (found.filter == "json") {
          std::string quoted;
          json::append_string(quoted, value->second);
          out.append(quoted, 1, quoted.size() - 2);
        } else {
          return Error(
              ErrorCode::kInvalidArgument,
              fmt::format("unknown filter in {{{}|{}}}; known: json", found.name, found.filter));
        }
        return {};
      });
  if (!scanned) return std::move(scanned).error();
  return out;
}

std::set<std::string> names_in(std::string_view text) {
  std::set<std::string> names;
  const auto ignored = scan(
      text, [](std::string_view) {},
      [&](const Placeholder& found) -> Result<void> {
        names.emplace(found.name);
        return {};
      });
  static_cast<void>(ignored);
  return names;
}

}  // namespace sluice::agent
