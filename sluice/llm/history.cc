#include "sluice/llm/history.h"

namespace sluice::llm {
namespace {

bool is_space(char c) {
  return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

// Equal when every run of white space counts as one blank, and none at the ends counts at all.
bool same_words(std::string_view a, std::string_view b) {
  size_t i = 0, j = 0;
  bool first = true;
  for (;;) {
    const size_t i_before = i, j_before = j;
    while (i < a.size() && is_space(a[i])) ++i;
    while (j < b.size() && is_space(b[j])) ++j;
    if (i == a.size() || j == b.size()) return i == a.size() && j == b.size();
    if (!first && (i > i_before) != (j > j_before)) return false;
    first = false;
    while (i < a.size() && j < b.size() && !is_space(a[i]) && !is_space(b[j])) {
      if (a[i++] != b[j++]) return false;
    }
  }
}

}  // namespace

bool is_echo(const Message& sampled, const Message& echoed) {
  if (echoed.role != Role::kAssistant) return false;
  if (sampled.tool_calls.size() != echoed.tool_calls.size()) return false;
  for (size_t i = 0; i < sampled.tool_calls.size(); ++i) {
    if (sampled.tool_calls[i].id != echoed.tool_calls[i].id) return false;
  }
  if (!sampled.tool_calls.empty()) return true;
  return same_words(sampled.text, echoed.text);
}

std::optional<size_t> echoed_choice(const Codec& codec, const HistoryMark& mark,
                                    const Answer& answer, const json::Raw& conversation) {
  const auto turn = codec.turn_at(conversation, mark);
  if (!turn) return std::nullopt;
  for (size_t i = 0; i < answer.choices.size(); ++i) {
    if (is_echo(answer.choices[i].message, *turn)) return i;
  }
  return std::nullopt;
}

bool extends(const json::Raw& earlier, const json::Raw& later) {
  Peek peek;
  peek.conversation = earlier;
  const size_t size = mark_of(peek).bytes;
  if (!later.text.starts_with(earlier.text.substr(0, size))) return false;
  // The next byte that counts begins a new element, or ends the array.
  const size_t next = later.text.find_first_not_of(" \n\r\t", size);
  if (next == ByteView::npos) return false;
  return later.text[next] == ',' || later.text[next] == ']' || earlier.text.substr(0, size) == "[";
}

}  // namespace sluice::llm
