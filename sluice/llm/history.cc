#include "sluice/llm/history.h"

#include <algorithm>
#include <utility>

#include "sluice/llm/wire.h"

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

bool same_call(const ToolCall& sampled, const ToolCall& echoed) {
  return echoed.id.empty() ? sampled.name == echoed.name : sampled.id == echoed.id;
}

// A refusal is text where the dialect, or the agent, does not tell the two apart.
std::string_view said(const Message& message) {
  return message.text.empty() ? message.refusal : message.text;
}

// REQUIRES: it is its echo.
bool is_verbatim(const Message& sampled, const Message& echoed) {
  const auto same = [](const ToolCall& a, const ToolCall& b) {
    return a.name == b.name && a.arguments == b.arguments;
  };
  return said(sampled) == said(echoed) &&
         std::equal(sampled.tool_calls.begin(), sampled.tool_calls.end(), echoed.tool_calls.begin(),
                    echoed.tool_calls.end(), same);
}

}  // namespace

bool is_echo(const Message& sampled, const Message& echoed) {
  if (echoed.role != Role::kAssistant) return false;
  if (sampled.tool_calls.size() != echoed.tool_calls.size()) return false;
  for (size_t i = 0; i < sampled.tool_calls.size(); ++i) {
    if (!same_call(sampled.tool_calls[i], echoed.tool_calls[i])) return false;
  }
  if (!sampled.tool_calls.empty()) return true;
  return same_words(said(sampled), said(echoed));
}

std::optional<Echo> find_echo(const Answer& answer, const Message& echoed) {
  for (size_t i = 0; i < answer.choices.size(); ++i) {
    const Message& sampled = answer.choices[i].message;
    if (is_echo(sampled, echoed)) return Echo{i, is_verbatim(sampled, echoed)};
  }
  return std::nullopt;
}

std::optional<Echo> find_echo(const Codec& codec, const HistoryMark& mark, const Answer& answer,
                              const json::Raw& conversation) {
  const auto echo = codec.echo_at(conversation, mark);
  return echo ? find_echo(answer, *echo) : std::nullopt;
}

std::optional<size_t> echoed_choice(const Codec& codec, const HistoryMark& mark,
                                    const Answer& answer, const json::Raw& conversation) {
  const auto echo = find_echo(codec, mark, answer, conversation);
  return echo ? std::optional(echo->choice) : std::nullopt;
}

bool extends(const json::Raw& earlier, const json::Raw& later) {
  if (!earlier.is(json::Type::kArray)) return earlier.text == later.text;
  Peek peek;
  peek.conversation = earlier;
  const size_t size = mark_of(peek).bytes;
  if (!later.text.starts_with(earlier.text.substr(0, size))) return false;
  // The next byte that counts begins a new element, or ends the array.
  const size_t next = later.text.find_first_not_of(" \n\r\t", size);
  if (next == ByteView::npos) return false;
  return later.text[next] == ',' || later.text[next] == ']' || earlier.text.substr(0, size) == "[";
}

bool extends(const Codec& codec, const json::Raw& earlier, const json::Raw& later) {
  if (extends(earlier, later)) return true;
  const auto next = [](wire::Elements& elements, std::optional<json::Raw>& single) {
    return single ? std::exchange(single, std::nullopt) : elements.next();
  };
  const auto single = [](const json::Raw& conversation) {
    return conversation.is(json::Type::kArray) ? std::nullopt : std::optional(conversation);
  };
  auto before = wire::Elements::of(earlier), after = wire::Elements::of(later);
  auto before_single = single(earlier), after_single = single(later);
  while (const auto a = next(before, before_single)) {
    const auto b = next(after, after_single);
    if (!b || (a->text != b->text && codec.canonical(*a) != codec.canonical(*b))) return false;
  }
  return true;
}

}  // namespace sluice::llm
