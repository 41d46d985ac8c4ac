// What the codecs share: reading fields, walking a conversation, writing objects and event frames.
// Plain functions over views; any thread.
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/json/peek.h"
#include "sluice/json/raw.h"
#include "sluice/json/text.h"
#include "sluice/llm/dialect.h"

namespace sluice::llm::wire {

// --- Reading -------------------------------------------------------------------------------------

// Whether a field is there and says something.
bool given(const std::optional<json::Peeked>& field);
bool given(const json::Raw* field);

// The members of a body, which is one object.
Result<json::RawObject> object_in(const Bytes& body);

// The string under `name`, "" if it is absent or something else.
std::string string_in(const json::RawObject& fields, std::string_view name);
// The same of an object that need not be one.
std::string string_in(const json::Raw& object, std::string_view name);

// The members of what should be an object; none of what is not.
Result<json::RawObject> fields_of(const json::Raw& value);

// The value under `name` as it came, "" if it is absent or null.
std::string text_in(const json::RawObject& fields, std::string_view name);

// The elements of the list under `name`, which must be there.
Result<std::vector<json::Raw>> list_in(const json::RawObject& fields, std::string_view name);

// Has `judge` look at each element of a conversation that no earlier request had, until it says
// that one is wrong. What is let in is what the canonical form can read.
struct ElementHead {
  json::Type type = json::Type::kNull;
  std::string role, kind;  // what it has under "role" and "type"; "" if that is no string
};
using Judge = std::function<std::optional<BadRequest>(size_t index, const ElementHead& head)>;
std::optional<BadRequest> judge_fresh(const json::Peeked& conversation, const Judge& judge);
// "'system', 'user'": the names, for people.
std::string names_of(std::span<const std::pair<std::string_view, Role>> roles);

// The strings in a string or in an array of strings.
Result<std::vector<std::string>> strings_of(const json::Raw& value);

// Reads a message's text out of a string, or out of parts of which some are text or a refusal.
Result<void> read_content(const json::Raw& content, Message& message);

// The value that the names lead to, each in the object before it; nothing where they lead nowhere.
std::optional<json::Raw> at(const json::Raw& value, std::initializer_list<std::string_view> names);
// The string there, or "".
std::string text_at(const json::Raw& value, std::initializer_list<std::string_view> names);

// Adds the rows of a list of {"token": "...", LOGPROB: -0.5, ...} that have both.
void note_tokens(const std::optional<json::Raw>& list, std::string_view logprob, Said& said);

// Appends a piece of text in a line of its own.
void append_line(std::string& text, std::string_view piece);

// Reads the sampling parameters that stand at a request's top: temperature, top_p, and by these
// names, if they are not empty, the others.
struct SamplingNames {
  std::string_view top_k, max_tokens, stop;
};
Result<void> read_sampling(const json::RawObject& fields, const SamplingNames& names,
                           Request& request);

// A role's name in a dialect, as one of `roles`; kInvalidArgument, at `where`, for any other.
using RoleName = std::pair<std::string_view, Role>;
Result<Role> role_of(std::string_view name, std::span<const RoleName> roles,
                     std::string_view where);

// Why an answer ended, in a dialect's words and in chat's. Of several rows for a finish the first
// is written, of several for a word the first is read; a word without a row stays as it is.
using FinishName = std::pair<Finish, std::string_view>;
std::string_view word_of(Finish finish, std::span<const FinishName> names);
std::string finish_of(std::string word, std::span<const FinishName> names);

// The error that a dialect has for an HTTP status: the row of that status, else the first of 500
// and more or the first below that.
struct ErrorShape {
  int http;    // what it is for
  int status;  // what is sent
  std::string_view type;
};
const ErrorShape& shape_of(int http, std::span<const ErrorShape> shapes);

// A tool in canonical form, of the kind "function": name, description, and the schema under the
// first of these names that is there.
ToolOffer read_function(const json::RawObject& function, const json::Raw& raw,
                        std::initializer_list<std::string_view> schemas);

// --- Changing ------------------------------------------------------------------------------------

// `elements` (JSON, with commas between them) at the end of `array`, which stands in `text`: that
// text with them.
std::string with_elements(ByteView text, const json::Raw& array, std::string_view elements);

// What stands under "name".
std::string name_of(const json::Raw& tool);

// How a dialect whose `tools` are a list of functions has one of them.
struct ToolShape {
  // The name of one that an agent offers; "" if it has none.
  std::string (*name)(const json::Raw& tool);
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

using ReadMessage = Result<Message> (*)(const json::Raw& element);

// The text of the system messages that a conversation begins with, behind `before` in lines of
// their own.
std::string leading_system_text(std::string before, const json::Raw& conversation,
                                ReadMessage read);

// Codec::echo_at(): the assistant's messages in a row, each added to the first by `join`; only the
// first if there is none.
std::optional<Message> echo_at(const json::Raw& conversation, const HistoryMark& mark,
                               ReadMessage read, void (*join)(Message& echo, Message next));
// Adds a message line by line; `raw` stays as it is.
void join(Message& echo, Message next);

// --- Writing -------------------------------------------------------------------------------------

// A value, as its type is written.
inline void append_value(Bytes& out, std::string_view value) {
  json::append_string(out, value);
}
inline void append_value(Bytes& out, bool value) {
  out.append(value ? "true" : "false");
}
inline void append_value(Bytes& out, float value) {
  json::append_number(out, value);
}
template <std::integral Integer>
void append_value(Bytes& out, Integer value) {
  json::append_number(out, static_cast<int64_t>(value));
}

// A list, with commas where they belong. It ends with the scope.
class List {
 public:
  explicit List(Bytes& out) : out_(out) { out_.push_back('['); }
  ~List() { out_.push_back(']'); }
  List(const List&) = delete;
  List& operator=(const List&) = delete;
  // The place of the next element.
  Bytes& next() {
    if (out_.back() != '[') out_.push_back(',');
    return out_;
  }

 private:
  Bytes& out_;
};

// A list of these, each written by `append(out, element)`.
template <class Elements, class Append>
void append_list(Bytes& out, const Elements& elements, Append append) {
  List list(out);
  for (const auto& element : elements) append(list.next(), element);
}
template <class Elements>
void append_list(Bytes& out, const Elements& elements) {
  append_list(out, elements, [](Bytes& to, const auto& element) { append_value(to, element); });
}

// An object's members, with commas where they belong. The object ends with close(), or with the
// scope: what is written behind it, or returned, needs close() first.
class Members {
 public:
  explicit Members(Bytes& out) : out_(out) { out_.push_back('{'); }
  ~Members() {
    if (open_) close();
  }
  Members(const Members&) = delete;
  Members& operator=(const Members&) = delete;
  // The place of the member's value.
  Bytes& operator[](std::string_view name) {
    if (out_.back() != '{') out_.push_back(',');
    out_.push_back('"');
    return out_.append(name).append("\":");
  }
  void text(std::string_view name, std::string_view value);
  void text_or_null(std::string_view name, std::string_view value);
  // Leaves the member out if it is "".
  void text_if_any(std::string_view name, std::string_view value);
  void number(std::string_view name, int64_t value);
  void flag(std::string_view name, bool value) { append_value((*this)[name], value); }
  // A list, written as append_list() does it; left out if it is empty.
  template <class Elements, class... Append>
  void list_if_any(std::string_view name, const Elements& elements, Append... append) {
    if (!elements.empty()) append_list((*this)[name], elements, append...);
  }
  // `json` as it is.
  void raw(std::string_view name, std::string_view json) { (*this)[name].append(json); }
  void close() {
    out_.push_back('}');
    open_ = false;
  }

 private:
  Bytes& out_;
  bool open_ = true;
};

// The object whose members are written by `write(members)`.
template <class Write>
Bytes object(Write write) {
  Bytes out;
  Members members(out);
  write(members);
  members.close();
  return out;
}

// "event: NAME\ndata: JSON\n\n", the members of the JSON object written by `write(members)`. It has
// no line breaks: nothing here writes any.
template <class Write>
void append_event(Bytes& out, std::string_view name, Write write) {
  out.append("event: ").append(name).append("\ndata: ");
  Members members(out);
  write(members);
  members.close();
  out.append("\n\n");
}

// Agents drop reasoning that nothing seals, or may not send it back. Nothing here checks a seal, so
// a digest stands in where the answer brings none.
std::string seal_of(const Message& message);

// Whether `so_far` has more than was sent, and that all of it now was.
inline bool has_more(const Sent& sent, const Message& so_far) {
  return so_far.reasoning.size() > sent.reasoning || so_far.text.size() > sent.text;
}
inline void note_sent(Sent& sent, const Message& so_far) {
  sent.reasoning = so_far.reasoning.size();
  sent.text = so_far.text.size();
}

// A function's arguments as they are sent: the model's own text, or {} if that is blank. Clients
// parse it.
std::string_view function_arguments(std::string_view arguments);
// The text of a call that may be of a custom tool, whose input may be blank.
inline std::string_view sent_text(const ToolCall& call) {
  const bool custom = call.kind == ToolCall::Kind::kCustom;
  return custom ? std::string_view(call.arguments) : function_arguments(call.arguments);
}

// A tool call's arguments as an object, for dialects whose arguments are objects: the text itself
// if it is one, {} if it is blank, else {"INVALID_JSON": text}. (So Anthropic's documentation has
// agents wrap what their model wrote wrongly; a tool refuses it by its schema, and the model gets
// to read what it did.)
void append_arguments(Bytes& out, std::string_view arguments);

}  // namespace sluice::llm::wire
