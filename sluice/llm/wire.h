// What the codecs share: reading fields, walking a conversation, writing objects and event frames.
// Plain functions over views; any thread.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/json/peek.h"
#include "sluice/json/raw.h"
#include "sluice/llm/dialect.h"

namespace sluice::llm::wire {

// --- Reading -------------------------------------------------------------------------------------

// Whether a field is there and says something.
bool given(const std::optional<json::Peeked>& field);
bool given(const json::Raw* field);

// The string under `name`, "" if it is absent or something else.
Result<std::string> string_in(const json::RawObject& fields, std::string_view name);
// The same of an object that need not be one.
Result<std::string> string_in(const json::Raw& object, std::string_view name);

// The value under `name` as it came, "" if it is absent or null.
std::string text_in(const json::RawObject& fields, std::string_view name);

// The strings in a string or in an array of strings.
Result<std::vector<std::string>> strings_of(const json::Raw& value);

// The value that the names lead to, each in the object before it; nothing where they lead nowhere.
std::optional<json::Raw> at(const json::Raw& value, std::initializer_list<std::string_view> names);
// The string there, or "".
std::string text_at(const json::Raw& value, std::initializer_list<std::string_view> names);

// Adds the rows of a list of {"token": "...", LOGPROB: -0.5, ...} that have both.
void note_tokens(const std::optional<json::Raw>& list, std::string_view logprob, Said& said);

// Appends a piece of text in a line of its own.
void append_line(std::string& text, std::string_view piece);

// --- Changing ------------------------------------------------------------------------------------

// `elements` (JSON, with commas between them) at the end of `array`, which stands in `text`: that
// text with them.
std::string with_elements(ByteView text, const json::Raw& array, std::string_view elements);

// How a dialect whose `tools` are a list of functions has one of them.
struct ToolShape {
  // The name of one that an agent offers; "" if it has none.
  Result<std::string> (*name)(const json::Raw& tool);
  void (*append)(Bytes& out, const ToolDefinition& tool);
};
// Codec::with_tools() of such a dialect.
Result<std::optional<WithTools>> with_tools(json::Peeker& peeker, const Bytes& body,
                                            std::span<const ToolDefinition> tools,
                                            const ToolShape& shape);

// Those of `tools` that are not among `names`, each written by `append`, with commas between them.
std::string missing_tools(std::span<const ToolDefinition> tools,
                          const std::vector<std::string>& names,
                          void (*append)(Bytes& out, const ToolDefinition& tool));

// --- Walking -------------------------------------------------------------------------------------

// Steps through an array's elements without looking at what follows them.
class Elements {
 public:
  // Those behind `mark`: behind its bytes, if an element begins there, ...
  static Elements behind_bytes(const json::Raw& array, const HistoryMark& mark);
  // ... or, in an array whose beginning was written differently this time, by counting.
  static Elements behind_count(const json::Raw& array, size_t count);
  // All of them.
  static Elements of(const json::Raw& array) { return behind_count(array, 0); }

  // Nothing at the end, and where what follows is no JSON.
  std::optional<json::Raw> next();

 private:
  ByteView rest_;  // begins with an element, or is empty
};

// --- Writing -------------------------------------------------------------------------------------

// An object's members, with commas where they belong. close() ends it.
class Members {
 public:
  explicit Members(Bytes& out) : out_(out) { out_.push_back('{'); }
  // The place of the member's value.
  Bytes& operator[](std::string_view name);
  void text(std::string_view name, std::string_view value);
  void text_or_null(std::string_view name, std::string_view value);
  void number(std::string_view name, int64_t value);
  // `json` as it is.
  void raw(std::string_view name, std::string_view json) { (*this)[name].append(json); }
  void close() { out_.push_back('}'); }

 private:
  Bytes& out_;
};

// A list's elements, each written by `append(element)`, with commas between them.
template <class List, class Append>
void append_list(Bytes& out, const List& list, Append append) {
  out.push_back('[');
  bool first = true;
  for (const auto& element : list) {
    if (!first) out.push_back(',');
    first = false;
    append(element);
  }
  out.push_back(']');
}

// "event: NAME\ndata: JSON\n\n". The JSON has no line breaks: nothing here writes any.
void append_event(Bytes& out, std::string_view name, std::string_view json);

// Whether `so_far` has more than was sent, and that all of it now was.
inline bool has_more(const Sent& sent, const Message& so_far) {
  return so_far.reasoning.size() > sent.reasoning || so_far.text.size() > sent.text;
}
inline void note_sent(Sent& sent, const Message& so_far) {
  sent.reasoning = so_far.reasoning.size();
  sent.text = so_far.text.size();
}

// A tool call's arguments as an object, for dialects whose arguments are objects: the text itself
// if it is one, {} if it is empty, else {"INVALID_JSON": text}. (So Anthropic's documentation has
// agents wrap what their model wrote wrongly; a tool refuses it by its schema, and the model gets
// to read what it did.)
void append_arguments(Bytes& out, std::string_view arguments);

}  // namespace sluice::llm::wire
