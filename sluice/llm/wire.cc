#include "sluice/llm/wire.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>

#include "sluice/json/splice.h"
#include "sluice/json/text.h"

namespace sluice::llm::wire {
namespace {

using json::Raw;
using json::Type;

constexpr std::string_view kSpace = " \n\r\t";

// `text` from its first byte that is no white space.
ByteView trimmed(ByteView text) {
  const size_t first = text.find_first_not_of(kSpace);
  return first == ByteView::npos ? ByteView() : text.substr(first);
}

}  // namespace

bool given(const std::optional<json::Peeked>& field) {
  return field && !field->value.is(Type::kNull);
}

bool given(const Raw* field) {
  return field != nullptr && !field->is(Type::kNull);
}

Result<json::RawObject> object_in(const Bytes& body) {
  SLUICE_TRY(const Raw root, json::read_value(body));
  return json::fields(root);
}

Result<json::RawObject> fields_of(const Raw& value) {
  if (!value.is(Type::kObject)) return json::RawObject();
  return json::fields(value);
}

std::string string_in(const json::RawObject& fields, std::string_view name) {
  const Raw* value = fields.find(name);
  if (value == nullptr || !value->is(Type::kString)) return std::string();
  return json::to_text(*value).value_or("");
}

std::string string_in(const Raw& object, std::string_view name) {
  if (!object.is(Type::kObject)) return std::string();
  const auto fields = json::fields(object);
  return fields ? string_in(*fields, name) : std::string();
}

std::string name_of(const Raw& tool) {
  return string_in(tool, "name");
}

std::string text_in(const json::RawObject& fields, std::string_view name) {
  const Raw* value = fields.find(name);
  return given(value) ? std::string(value->text) : std::string();
}

Result<std::vector<Raw>> list_in(const json::RawObject& fields, std::string_view name) {
  const Raw* list = fields.find(name);
  if (list != nullptr) return json::elements(*list);
  return Error(ErrorCode::kInvalidArgument, std::string(name) + ": missing", ErrorOrigin::kAgent);
}

std::optional<BadRequest> judge_fresh(const json::Peeked& conversation, const Judge& judge) {
  constexpr int kDepth = 2;  // in the body's object and its array
  static constexpr std::array<std::string_view, 2> kMembers{"role", "type"};
  ByteView rest = trimmed(conversation.fresh);
  for (size_t index = conversation.fresh_at; !rest.empty(); ++index) {
    std::array<Raw, kMembers.size()> members;
    const auto element = json::first_value(rest, &rest, kDepth, kMembers, members);
    if (!element) break;  // who asked for the check of all of it knows already
    ElementHead head{element->type, {}, {}};
    if (members[0].is(Type::kString)) head.role = json::to_text(members[0]).value_or("");
    if (members[1].is(Type::kString)) head.kind = json::to_text(members[1]).value_or("");
    if (auto bad = judge(index, head)) return bad;
    rest = trimmed(rest);
    rest = rest.starts_with(',') ? rest.substr(1) : ByteView();
  }
  return std::nullopt;
}

std::string names_of(std::span<const RoleName> roles) {
  std::string out;
  for (const auto& [name, role] : roles) {
    if (!name.empty())
      fmt::format_to(std::back_inserter(out), "{}'{}'", out.empty() ? "" : ", ", name);
  }
  return out;
}

Result<std::vector<std::string>> strings_of(const Raw& value) {
  std::vector<std::string> out;
  if (value.is(Type::kString)) {
    SLUICE_TRY(std::string text, json::to_text(value));
    out.push_back(std::move(text));
  } else if (value.is(Type::kArray)) {
    SLUICE_TRY(const auto list, json::elements(value));
    for (const Raw& element : list) {
      if (!element.is(Type::kString)) continue;
      SLUICE_TRY(std::string text, json::to_text(element));
      out.push_back(std::move(text));
    }
  }
  return out;
}

Result<void> read_content(const Raw& content, Message& message) {
  if (content.is(Type::kString)) {
    SLUICE_TRY(message.text, json::to_text(content));
  } else if (content.is(Type::kArray)) {
    SLUICE_TRY(const auto parts, json::elements(content));
    for (const Raw& part : parts) {
      append_line(message.text, string_in(part, "text"));
      append_line(message.refusal, string_in(part, "refusal"));
    }
  }
  return {};
}

ToolOffer read_function(const json::RawObject& function, const Raw& raw,
                        std::initializer_list<std::string_view> schemas) {
  ToolOffer tool;
  tool.name = string_in(function, "name");
  tool.description = string_in(function, "description");
  for (const std::string_view name : schemas) {
    if (tool.parameters.empty()) tool.parameters = text_in(function, name);
  }
  tool.kind = "function";
  tool.raw = raw.text;
  return tool;
}

std::optional<Raw> at(const Raw& value, std::initializer_list<std::string_view> names) {
  Raw here = value;
  for (const std::string_view name : names) {
    if (!here.is(Type::kObject)) return std::nullopt;
    const auto fields = json::fields(here);
    const Raw* inner = fields ? fields->find(name) : nullptr;
    if (inner == nullptr) return std::nullopt;
    here = *inner;
  }
  return here;
}

std::string text_at(const Raw& value, std::initializer_list<std::string_view> names) {
  const auto found = at(value, names);
  if (!found || !found->is(Type::kString)) return {};
  return json::to_text(*found).value_or(std::string());
}

void note_tokens(const std::optional<Raw>& list, std::string_view logprob, Said& said) {
  if (!list) return;
  auto rows = Elements::of(*list);
  while (const auto row = rows.next()) {
    if (!row->is(Type::kObject)) continue;
    const auto fields = json::fields(*row);
    const Raw* text = fields ? fields->find("token") : nullptr;
    const Raw* number = fields ? fields->find(logprob) : nullptr;
    if (text == nullptr || !text->is(Type::kString)) continue;
    if (number == nullptr || !number->is(Type::kNumber)) continue;
    auto token = json::to_text(*text);
    const auto value = json::to_float(*number);
    if (!token || !value) continue;
    said.tokens.push_back(std::move(*token));
    said.logprobs.push_back(*value);
  }
}

Result<void> read_sampling(const json::RawObject& fields, const SamplingNames& names,
                           Request& request) {
  const auto find = [&](std::string_view name) {
    return name.empty() ? nullptr : fields.find(name);
  };
  if (const Raw* value = find("temperature")) request.temperature = to_double(*value);
  if (const Raw* value = find("top_p")) request.top_p = to_double(*value);
  if (const Raw* value = find(names.top_k)) request.top_k = to_integer(*value);
  if (const Raw* value = find(names.max_tokens)) request.max_tokens = to_integer(*value);
  if (const Raw* value = find(names.stop)) {
    SLUICE_TRY(request.stop, strings_of(*value));
  }
  return {};
}

Result<Role> role_of(std::string_view name, std::span<const RoleName> roles,
                     std::string_view where) {
  for (const auto& [known, role] : roles) {
    if (known == name) return role;
  }
  return Error(ErrorCode::kInvalidArgument, fmt::format("{}: no such role: '{}'", where, name),
               ErrorOrigin::kAgent);
}

std::string_view word_of(Finish finish, std::span<const FinishName> names) {
  const auto it = std::find_if(names.begin(), names.end(),
                               [&](const FinishName& row) { return row.first == finish; });
  return it == names.end() ? names.front().second : it->second;
}

std::string finish_of(std::string word, std::span<const FinishName> names) {
  const auto it = std::find_if(names.begin(), names.end(),
                               [&](const FinishName& row) { return row.second == word; });
  return it == names.end() ? std::move(word) : std::string(to_string(it->first));
}

const ErrorShape& shape_of(int http, std::span<const ErrorShape> shapes) {
  for (const ErrorShape& shape : shapes) {
    if (shape.http == http) return shape;
  }
  const auto like = [&](const ErrorShape& shape) {
    return (shape.http >= 500) == (http >= 500);
  };
  return *std::find_if(shapes.begin(), shapes.end(), like);
}

void append_line(std::string& text, std::string_view piece) {
  if (piece.empty()) return;
  if (!text.empty()) text.push_back('\n');
  text.append(piece);
}

std::string with_elements(ByteView text, const Raw& array, std::string_view elements) {
  // Behind the last element, or the opening bracket.
  const size_t last = array.text.find_last_not_of(kSpace, array.text.size() - 2);
  const size_t at = static_cast<size_t>(array.text.data() - text.data()) + last + 1;
  std::string out(text.substr(0, at));
  if (last > 0) out.push_back(',');
  return out.append(elements).append(text.substr(at));
}

std::string missing_tools(std::span<const ToolDefinition> tools,
                          const std::vector<std::string>& names,
                          void (*append)(Bytes& out, const ToolDefinition& tool)) {
  std::string out;
  for (const ToolDefinition& tool : tools) {
    if (std::find(names.begin(), names.end(), tool.name) != names.end()) continue;
    if (!out.empty()) out.push_back(',');
    append(out, tool);
  }
  return out;
}

Result<std::optional<WithTools>> with_tools(json::Peeker& peeker, const Bytes& body,
                                            std::span<const ToolDefinition> tools,
                                            const ToolShape& shape) {
  static constexpr std::array<std::string_view, 1> kNames{"tools"};
  SLUICE_TRY(const auto found, peeker.fields(body, kNames));
  Raw list{"[]", Type::kArray};
  if (given(found[0])) list = found[0]->value;
  SLUICE_TRY(const auto rows, json::elements(list));
  std::vector<std::string> names;
  for (const Raw& row : rows) names.push_back(shape.name(row));
  const std::string missing = missing_tools(tools, names, shape.append);
  if (missing.empty()) return std::optional<WithTools>();
  const std::string value = with_elements(list.text, list, missing);
  const std::array edits{json::Edit{"tools", value}};
  SLUICE_TRY(Bytes changed, json::splice(peeker, body, edits));
  return std::optional(WithTools{std::move(changed), "[" + missing + "]"});
}

Elements Elements::behind_bytes(const Raw& array, const HistoryMark& mark) {
  Elements out;
  if (mark.bytes == 0 || mark.bytes >= array.text.size()) return out;
  const ByteView rest = trimmed(array.text.substr(mark.bytes));
  if (rest.starts_with(',')) out.rest_ = rest.substr(1);
  return out;
}

Elements Elements::behind_count(const Raw& array, size_t count) {
  Elements out;
  if (!array.is(Type::kArray)) return out;
  out.rest_ = trimmed(array.text.substr(1));
  if (out.rest_.starts_with(']')) out.rest_ = {};
  for (size_t i = 0; i < count; ++i) {
    if (!out.next()) break;
  }
  return out;
}

std::optional<Raw> Elements::next() {
  if (rest_.empty()) return std::nullopt;
  const auto element = json::first_value(rest_, &rest_);
  if (!element) {
    rest_ = {};
    return std::nullopt;
  }
  rest_ = trimmed(rest_);
  rest_ = rest_.starts_with(',') ? rest_.substr(1) : ByteView();
  return *element;
}

std::string leading_system_text(std::string before, const Raw& conversation, ReadMessage read) {
  constexpr size_t kMaxSystemMessages = 8;
  auto elements = Elements::of(conversation);
  for (size_t i = 0; i < kMaxSystemMessages; ++i) {
    const auto element = elements.next();
    if (!element) break;
    const auto message = read(*element);
    if (!message || message->role != Role::kSystem) break;
    append_line(before, message->text);
  }
  return before;
}

void join(Message& echo, Message next) {
  append_line(echo.text, next.text);
  append_line(echo.reasoning, next.reasoning);
  append_line(echo.refusal, next.refusal);
  if (!next.reasoning_seal.empty()) echo.reasoning_seal = std::move(next.reasoning_seal);
  std::move(next.tool_calls.begin(), next.tool_calls.end(), std::back_inserter(echo.tool_calls));
}

std::optional<Message> echo_at(const Raw& conversation, const HistoryMark& mark, ReadMessage read,
                               void (*join)(Message& echo, Message next)) {
  const auto gather = [&](Elements elements) {
    std::optional<Message> echo;
    while (const auto element = elements.next()) {
      auto message = read(*element);
      if (!message || message->role != Role::kAssistant) break;
      if (!echo) {
        echo = std::move(*message);
      } else {
        join(*echo, std::move(*message));
      }
      if (join == nullptr) break;
    }
    return echo;
  };
  if (auto echo = gather(Elements::behind_bytes(conversation, mark))) return echo;
  return gather(Elements::behind_count(conversation, mark.messages));
}

void Members::text(std::string_view name, std::string_view value) {
  json::append_string((*this)[name], value);
}

void Members::text_or_null(std::string_view name, std::string_view value) {
  if (value.empty()) {
    raw(name, "null");
  } else {
    text(name, value);
  }
}

void Members::text_if_any(std::string_view name, std::string_view value) {
  if (!value.empty()) text(name, value);
}

void Members::number(std::string_view name, int64_t value) {
  json::append_number((*this)[name], value);
}

std::string seal_of(const Message& message) {
  return message.reasoning_seal.empty() ? xxh3_128(message.reasoning).hex()
                                        : message.reasoning_seal;
}

std::string_view function_arguments(std::string_view arguments) {
  return trimmed(arguments).empty() ? "{}" : arguments;
}

void append_arguments(Bytes& out, std::string_view arguments) {
  arguments = function_arguments(arguments);
  const auto value = json::read_value(arguments);
  if (value && value->is(Type::kObject)) {
    // Line breaks, which JSON allows between its parts, would end a line of an event; and so would
    // others in its strings.
    Bytes object(value->text);
    std::replace_if(
        object.begin(), object.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
    escape_line_ends(object);
    out.append(object);
    return;
  }
  Members(out).text("INVALID_JSON", arguments);
}

}  // namespace sluice::llm::wire
