#include "sluice/llm/responses.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "sluice/json/text.h"
#include "sluice/llm/openai.h"
#include "sluice/llm/wire.h"

namespace sluice::llm {
namespace {

using json::Raw;
using json::Type;
using openai::invalid;
using openai::missing;
using wire::append_line;
using wire::given;
using wire::Members;
using wire::string_in;

constexpr size_t kMaxSystemItems = 8;
constexpr std::string_view kBetween = "__";  // a namespace and a tool's name

// --- Items of a conversation ---------------------------------------------------------------------

// Text out of a string, or out of parts of which some are text or a refusal.
Result<void> read_content(const Raw& content, Message& message) {
  if (content.is(Type::kString)) {
    SLUICE_TRY(message.text, json::to_text(content));
    return {};
  }
  if (!content.is(Type::kArray)) return {};
  SLUICE_TRY(const auto parts, json::elements(content));
  for (const Raw& part : parts) {
    SLUICE_TRY(const std::string text, string_in(part, "text"));
    append_line(message.text, text);
    SLUICE_TRY(const std::string refusal, string_in(part, "refusal"));
    append_line(message.refusal, refusal);
  }
  return {};
}

Result<ToolCall> read_call(const json::RawObject& item, ToolCall::Kind kind) {
  ToolCall call;
  call.kind = kind;
  SLUICE_TRY(call.id, string_in(item, "call_id"));
  SLUICE_TRY(call.name, string_in(item, "name"));
  SLUICE_TRY(call.arguments,
             string_in(item, kind == ToolCall::Kind::kCustom ? "input" : "arguments"));
  SLUICE_TRY(call.space, string_in(item, "namespace"));
  if (!call.space.empty()) call.name = fmt::format("{}{}{}", call.space, kBetween, call.name);
  return call;
}

Result<void> read_reasoning(const json::RawObject& item, Message& message) {
  // The text itself where a server gives it, else the summary.
  for (const std::string_view name : {"content", "summary"}) {
    const Raw* parts = item.find(name);
    if (!given(parts) || !message.reasoning.empty()) continue;
    SLUICE_TRY(const auto list, json::elements(*parts));
    for (const Raw& part : list) {
      SLUICE_TRY(const std::string text, string_in(part, "text"));
      append_line(message.reasoning, text);
    }
  }
  SLUICE_TRY(message.reasoning_seal, string_in(item, "encrypted_content"));
  return {};
}

Error no_such_role(std::string_view role) {
  return Error(ErrorCode::kInvalidArgument, fmt::format("input: no such role: '{}'", role),
               ErrorOrigin::kAgent);
}

Result<Message> parse_message_item(const json::RawObject& item) {
  Message message;
  SLUICE_TRY(const std::string role, string_in(item, "role"));
  if (role == "system" || role == "developer") {
    message.role = Role::kSystem;
  } else if (role == "user") {
    message.role = Role::kUser;
  } else if (role == "assistant") {
    message.role = Role::kAssistant;
  } else {
    return no_such_role(role);
  }
  if (const Raw* content = item.find("content"); content != nullptr) {
    SLUICE_TRY_VOID(read_content(*content, message));
  }
  return message;
}

// One item as a message of its own. What this does not know is the model's if it is a call, a
// tool's if it is an output, else the user's; its content is in `raw` alone.
Result<Message> parse_item(const Raw& value) {
  SLUICE_TRY(const auto item, json::fields(value));
  SLUICE_TRY(const std::string type, string_in(item, "type"));
  Message message;
  if (type == "message" || type.empty()) {
    SLUICE_TRY(message, parse_message_item(item));
  } else if (type == "function_call" || type == "custom_tool_call") {
    message.role = Role::kAssistant;
    SLUICE_TRY(ToolCall call, read_call(item, type == "function_call" ? ToolCall::Kind::kFunction
                                                                      : ToolCall::Kind::kCustom));
    message.tool_calls.push_back(std::move(call));
  } else if (type == "reasoning") {
    message.role = Role::kAssistant;
    SLUICE_TRY_VOID(read_reasoning(item, message));
  } else if (type.ends_with("_output")) {
    message.role = Role::kTool;
    SLUICE_TRY(message.tool_call_id, string_in(item, "call_id"));
    if (const Raw* output = item.find("output"); output != nullptr) {
      SLUICE_TRY_VOID(read_content(*output, message));
    }
  } else {
    message.role = type.ends_with("_call") ? Role::kAssistant : Role::kUser;
  }
  message.raw = value.text;
  return message;
}

// Makes one message of an assistant's turn out of its items.
void merge(Message& turn, Message item) {
  append_line(turn.text, item.text);
  append_line(turn.reasoning, item.reasoning);
  append_line(turn.refusal, item.refusal);
  if (!item.reasoning_seal.empty()) turn.reasoning_seal = std::move(item.reasoning_seal);
  std::move(item.tool_calls.begin(), item.tool_calls.end(), std::back_inserter(turn.tool_calls));
  turn.raw.append(turn.raw.empty() ? "[" : ",").append(item.raw);
}

// --- Tools ---------------------------------------------------------------------------------------

struct Declared {
  std::string name;
  ToolCall::Kind kind = ToolCall::Kind::kFunction;
  std::string space;
};

Result<void> read_tools(const Raw& tools, std::string_view space, std::vector<Declared>& out) {
  SLUICE_TRY(const auto list, json::elements(tools));
  for (const Raw& element : list) {
    SLUICE_TRY(const auto tool, json::fields(element));
    SLUICE_TRY(const std::string type, string_in(tool, "type"));
    SLUICE_TRY(const std::string name, string_in(tool, "name"));
    const Raw* inner = tool.find("tools");
    if (type == "namespace" && space.empty() && inner != nullptr && inner->is(Type::kArray)) {
      SLUICE_TRY_VOID(read_tools(*inner, name, out));
      continue;
    }
    Declared declared;
    // The vendor's own tools (web_search, ...) have a type and no name.
    declared.name = name.empty() ? type : name;
    if (type == "custom") declared.kind = ToolCall::Kind::kCustom;
    if (!space.empty()) {
      declared.space = space;
      declared.name = fmt::format("{}{}{}", space, kBetween, declared.name);
    }
    out.push_back(std::move(declared));
  }
  return {};
}

Result<std::string> tool_name(const Raw& tool) {
  return string_in(tool, "name");
}

void append_tool(Bytes& out, const ToolDefinition& tool) {
  Members members(out);
  members.text("type", "function");
  members.text("name", tool.name);
  if (!tool.description.empty()) members.text("description", tool.description);
  members.raw("parameters", tool.parameters);
  // Left out it would mean true here, which asks more of a schema than being one.
  members.raw("strict", "false");
  members.close();
}

// --- Answers -------------------------------------------------------------------------------------

// One item of an answer's output. `choice` outlives it.
struct Item {
  enum class Kind : uint8_t { kReasoning, kMessage, kCall };
  Kind kind = Kind::kMessage;
  std::string id;
  const ToolCall* call = nullptr;
};

std::vector<Item> items_of(const Envelope& envelope, const Choice& choice) {
  const Message& message = choice.message;
  std::vector<Item> items;
  const auto add = [&](Item::Kind kind, std::string_view prefix, const ToolCall* call) {
    items.push_back({kind, fmt::format("{}_{}{:02x}", prefix, envelope.id, items.size()), call});
  };
  if (!message.reasoning.empty() || !message.reasoning_seal.empty()) {
    add(Item::Kind::kReasoning, "rs", nullptr);
  }
  // An empty answer is an empty message: something must be there to be echoed.
  if (!message.text.empty() || !message.refusal.empty() || message.tool_calls.empty()) {
    add(Item::Kind::kMessage, "msg", nullptr);
  }
  for (const ToolCall& call : message.tool_calls) {
    add(Item::Kind::kCall, call.kind == ToolCall::Kind::kCustom ? "ctc" : "fc", &call);
  }
  return items;
}

enum class Stage : uint8_t { kAdded, kDone };

std::string_view item_status(const Choice& choice, Stage stage) {
  if (stage == Stage::kAdded) return "in_progress";
  return choice.finish == Finish::kLength || choice.finish == Finish::kContentFilter ? "incomplete"
                                                                                     : "completed";
}

void append_text_part(Bytes& out, std::string_view text) {
  Members part(out);
  part.text("type", "output_text");
  part.raw("annotations", "[]");
  part.raw("logprobs", "[]");
  part.text("text", text);
  part.close();
}

void append_refusal_part(Bytes& out, std::string_view refusal) {
  Members part(out);
  part.text("type", "refusal");
  part.text("refusal", refusal);
  part.close();
}

void append_summary_part(Bytes& out, std::string_view text) {
  Members part(out);
  part.text("type", "summary_text");
  part.text("text", text);
  part.close();
}

void append_content(Bytes& out, const Message& message) {
  out.push_back('[');
  if (!message.text.empty() || message.refusal.empty()) append_text_part(out, message.text);
  if (!message.refusal.empty()) {
    if (!message.text.empty()) out.push_back(',');
    append_refusal_part(out, message.refusal);
  }
  out.push_back(']');
}

// Agents drop reasoning that nothing seals when the vendor keeps no state. Ours needs none, so a
// digest stands in where the answer brings no seal.
std::string seal_of(const Message& message) {
  return message.reasoning_seal.empty() ? xxh3_128(message.reasoning).hex()
                                        : message.reasoning_seal;
}

void append_item(Bytes& out, const Item& item, const Choice& choice, Stage stage) {
  const Message& message = choice.message;
  const bool done = stage == Stage::kDone;
  Members members(out);
  members.text("id", item.id);
  switch (item.kind) {
    case Item::Kind::kReasoning:
      members.text("type", "reasoning");
      members.text("encrypted_content", seal_of(message));
      members["summary"].push_back('[');
      if (done && !message.reasoning.empty()) append_summary_part(out, message.reasoning);
      out.push_back(']');
      break;
    case Item::Kind::kMessage:
      members.text("type", "message");
      members.text("status", item_status(choice, stage));
      members.text("role", "assistant");
      if (done) {
        append_content(members["content"], message);
      } else {
        members.raw("content", "[]");
      }
      break;
    case Item::Kind::kCall: {
      const ToolCall& call = *item.call;
      const bool custom = call.kind == ToolCall::Kind::kCustom;
      std::string_view name = call.name;
      members.text("type", custom ? "custom_tool_call" : "function_call");
      members.text("status", item_status(choice, stage));
      members.text("call_id", call.id);
      if (!call.space.empty() && name.size() > call.space.size() + kBetween.size()) {
        name.remove_prefix(call.space.size() + kBetween.size());
        members.text("namespace", call.space);
      }
      members.text("name", name);
      members.text(custom ? "input" : "arguments", done ? call.arguments : "");
      break;
    }
  }
  members.close();
}

void append_usage(Bytes& out, const Usage& usage) {
  Members members(out);
  members.number("input_tokens", usage.prompt_tokens);
  members.raw("input_tokens_details", R"({"cached_tokens":0,"cache_write_tokens":0})");
  members.number("output_tokens", usage.completion_tokens);
  members.raw("output_tokens_details", R"({"reasoning_tokens":0})");
  members.number("total_tokens", usage.prompt_tokens + usage.completion_tokens);
  members.close();
}

std::string_view status_of(const Answer& answer) {
  switch (answer.choices.front().finish) {
    case Finish::kLength:
    case Finish::kContentFilter:
      return "incomplete";
    case Finish::kStop:
    case Finish::kToolCalls:
      break;
  }
  return "completed";
}

std::string_view error_code(const Problem& problem) {
  // By this one Codex gives up at once.
  if (problem.end_agent) return "invalid_prompt";
  const int status = openai::error_status(problem);
  if (status == 429) return "rate_limit_exceeded";
  return status >= 500 ? "server_error" : "invalid_prompt";
}

// The response object. Of the request it repeats the model only; clients have the rest.
void append_response(Bytes& out, const Envelope& envelope, std::string_view status,
                     const Answer* answer, const Problem* problem) {
  Members members(out);
  members.text("id", "resp_" + envelope.id);
  members.text("object", "response");
  members.number("created_at", envelope.created);
  members.text("status", status);
  members.raw("background", "false");
  if (problem != nullptr) {
    Members error(members["error"]);
    error.text("code", error_code(*problem));
    error.text("message", openai::told(*problem));
    error.close();
  } else {
    members.raw("error", "null");
  }
  if (status == "incomplete") {
    const bool length = answer->choices.front().finish == Finish::kLength;
    members.raw("incomplete_details",
                length ? R"({"reason":"max_output_tokens"})" : R"({"reason":"content_filter"})");
  } else {
    members.raw("incomplete_details", "null");
  }
  members.raw("instructions", "null");
  members.raw("metadata", "{}");
  members.text("model", envelope.model);
  Bytes& output = members["output"];
  output.push_back('[');
  if (answer != nullptr) {
    const Choice& choice = answer->choices.front();
    const auto items = items_of(envelope, choice);
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) output.push_back(',');
      append_item(output, items[i], choice, Stage::kDone);
    }
  }
  output.push_back(']');
  members.raw("parallel_tool_calls", "true");
  members.raw("previous_response_id", "null");
  members.raw("reasoning", R"({"effort":null,"summary":null})");
  members.raw("store", "false");
  members.raw("temperature", "null");
  members.raw("text", R"({"format":{"type":"text"}})");
  members.raw("tool_choice", R"("auto")");
  members.raw("tools", "[]");
  members.raw("top_p", "null");
  members.raw("truncation", R"("disabled")");
  if (answer != nullptr) {
    // Zeros where it is unknown: to OpenCode an answer without usage is not complete, and it asks
    // again, at once and for ever.
    append_usage(members["usage"], answer->usage.value_or(Usage()));
  } else {
    members.raw("usage", "null");
  }
  members.close();
}

// The events of one stream, numbered.
class EventWriter {
 public:
  // Goes on behind the keep-alive frames and the pieces that were sent.
  explicit EventWriter(const Envelope& envelope) : envelope_(envelope) {
    number_ = envelope.keep_alives + envelope.sent.events;
    // A first keep-alive frame is two events. Of pieces, sent.events has counted that in.
    if (!envelope.sent.any() && number_ > 0) ++number_;
  }
  // How many events there were beside keep-alive frames.
  uint32_t events() const { return static_cast<uint32_t>(number_) - envelope_.keep_alives; }

  // An event with `more` members.
  template <class More>
  void event(std::string_view type, More more) {
    Bytes json;
    Members members(json);
    members.text("type", type);
    members.number("sequence_number", number_++);
    more(members);
    members.close();
    wire::append_event(out_, type, json);
  }

  void response(std::string_view type, std::string_view status, const Answer* answer = nullptr,
                const Problem* problem = nullptr) {
    event(type, [&](Members& members) {
      append_response(members["response"], envelope_, status, answer, problem);
    });
  }

  // What every stream begins with: clients refuse one that begins otherwise.
  void open() {
    response("response.created", "in_progress");
    response("response.in_progress", "in_progress");
  }
  bool opened() const { return number_ > 0; }

  // An item, behind what was sent of it; unless it is done, up to what may still be added to.
  void item(const Item& item, size_t index, const Choice& choice, Stage upto = Stage::kDone) {
    const Sent& sent = envelope_.sent;
    size_t from = 0;
    if (item.kind == Item::Kind::kReasoning) from = sent.reasoning;
    if (item.kind == Item::Kind::kMessage) from = sent.text;
    // The reasoning was done when the text began.
    if (item.kind == Item::Kind::kReasoning && sent.text > 0) return;
    if (from == 0) whole_item("response.output_item.added", item, index, choice, Stage::kAdded);
    switch (item.kind) {
      case Item::Kind::kReasoning:
        reasoning(item, index, choice.message.reasoning, from, upto);
        break;
      case Item::Kind::kMessage:
        content(item, index, choice.message, from, upto);
        break;
      case Item::Kind::kCall:
        arguments(item, index);
        break;
    }
    if (upto == Stage::kDone) {
      whole_item("response.output_item.done", item, index, choice, Stage::kDone);
    }
  }

  Bytes take() && { return std::move(out_); }

 private:
  void whole_item(std::string_view type, const Item& item, size_t index, const Choice& choice,
                  Stage stage) {
    event(type, [&](Members& members) {
      members.number("output_index", static_cast<int64_t>(index));
      append_item(members["item"], item, choice, stage);
    });
  }

  // An event about a part of an item.
  template <class More>
  void part_event(std::string_view type, const Item& item, size_t index, More more) {
    event(type, [&](Members& members) {
      members.text("item_id", item.id);
      members.number("output_index", static_cast<int64_t>(index));
      more(members);
    });
  }

  void reasoning(const Item& item, size_t index, std::string_view text, size_t from, Stage upto) {
    if (text.empty()) return;
    const auto piece = [&](std::string_view type, auto more) {
      part_event(type, item, index, [&](Members& members) {
        members.number("summary_index", 0);
        more(members);
      });
    };
    if (from == 0) {
      piece("response.reasoning_summary_part.added",
            [](Members& members) { append_summary_part(members["part"], ""); });
    }
    if (text.size() > from) {
      piece("response.reasoning_summary_text.delta",
            [&](Members& members) { members.text("delta", text.substr(from)); });
    }
    if (upto != Stage::kDone) return;
    piece("response.reasoning_summary_text.done",
          [&](Members& members) { members.text("text", text); });
    piece("response.reasoning_summary_part.done",
          [&](Members& members) { append_summary_part(members["part"], text); });
  }

  void content(const Item& item, size_t index, const Message& message, size_t from, Stage upto) {
    int64_t at = 0;
    const auto piece = [&](std::string_view type, auto more) {
      part_event(type, item, index, [&](Members& members) {
        members.number("content_index", at);
        more(members);
      });
    };
    if (!message.text.empty() || message.refusal.empty()) {
      if (from == 0) {
        piece("response.content_part.added",
              [](Members& members) { append_text_part(members["part"], ""); });
      }
      if (message.text.size() > from) {
        piece("response.output_text.delta", [&](Members& members) {
          members.text("delta", std::string_view(message.text).substr(from));
          members.raw("logprobs", "[]");
        });
      }
      if (upto != Stage::kDone) return;
      piece("response.output_text.done", [&](Members& members) {
        members.text("text", message.text);
        members.raw("logprobs", "[]");
      });
      piece("response.content_part.done",
            [&](Members& members) { append_text_part(members["part"], message.text); });
      ++at;
    }
    if (message.refusal.empty()) return;
    piece("response.content_part.added",
          [](Members& members) { append_refusal_part(members["part"], ""); });
    piece("response.refusal.delta",
          [&](Members& members) { members.text("delta", message.refusal); });
    piece("response.refusal.done",
          [&](Members& members) { members.text("refusal", message.refusal); });
    piece("response.content_part.done",
          [&](Members& members) { append_refusal_part(members["part"], message.refusal); });
  }

  void arguments(const Item& item, size_t index) {
    const bool custom = item.call->kind == ToolCall::Kind::kCustom;
    const std::string_view text = item.call->arguments;
    if (!text.empty()) {
      part_event(custom ? "response.custom_tool_call_input.delta"
                        : "response.function_call_arguments.delta",
                 item, index, [&](Members& members) { members.text("delta", text); });
    }
    part_event(
        custom ? "response.custom_tool_call_input.done" : "response.function_call_arguments.done",
        item, index, [&](Members& members) { members.text(custom ? "input" : "arguments", text); });
  }

  const Envelope& envelope_;
  Bytes out_;
  int64_t number_ = 0;
};

// --- The codec -----------------------------------------------------------------------------------

BadRequest not_kept(std::string_view param, std::string_view what, std::string_view code) {
  return {fmt::format("{} Nothing is stored here: send the whole conversation as 'input'.", what),
          std::string(param), std::string(code)};
}

// An item that only points at one the vendor would have stored.
std::optional<BadRequest> find_reference(const Raw& input) {
  // Rare: mostly the name alone tells that there is none.
  if (!input.is(Type::kArray) || input.text.find("item_reference") == ByteView::npos) {
    return std::nullopt;
  }
  auto elements = wire::Elements::of(input);
  for (size_t i = 0; const auto element = elements.next(); ++i) {
    const auto type = string_in(*element, "type");
    if (!type || *type != "item_reference") continue;
    const auto id = string_in(*element, "id");
    return not_kept(fmt::format("input[{}]", i),
                    fmt::format("Item with id '{}' not found.", id.value_or("")), "");
  }
  return std::nullopt;
}

void note_item(const Raw& item, Said& said) {
  said.calls_tools |= wire::text_at(item, {"type"}).ends_with("_call");
  const auto content = wire::at(item, {"content"});
  if (!content) return;
  auto parts = wire::Elements::of(*content);
  while (const auto part = parts.next()) {
    wire::note_tokens(wire::at(*part, {"logprobs"}), "logprob", said);
  }
}

class ResponsesCodec final : public Codec {
 public:
  tl::expected<Peek, BadRequest> peek(json::Peeker& peeker, const json::Document& body,
                                      const Target&) const override {
    enum Index {
      kModel,
      kInput,
      kStream,
      kTools,
      kInstructions,
      kPrevious,
      kConversation,
      kPrompt,
      kBackground,
      kCount
    };
    static constexpr std::array<std::string_view, kCount> kNames{
        "model",        "input",  "stream",    "tools", "instructions", "previous_response_id",
        "conversation", "prompt", "background"};
    const auto found = peeker.fields(body, kNames);
    if (!found) return tl::unexpected(openai::unreadable(found.error()));
    const auto& field = *found;
    Peek peek;
    auto model = openai::read_model(field[kModel]);
    if (!model) return tl::unexpected(std::move(model).error());
    peek.model = std::move(*model);

    if (given(field[kPrevious])) {
      const auto id = json::to_text(field[kPrevious]->value);
      return tl::unexpected(
          not_kept("previous_response_id",
                   fmt::format("Previous response with id '{}' not found.", id.value_or("")),
                   "previous_response_not_found"));
    }
    for (const Index index : {kConversation, kPrompt}) {
      if (!given(field[index])) continue;
      return tl::unexpected(not_kept(kNames[index],
                                     fmt::format("'{}' is not supported.", kNames[index]),
                                     "unsupported_value"));
    }
    if (given(field[kBackground]) && json::to_bool(field[kBackground]->value).value_or(true)) {
      return tl::unexpected(
          not_kept("background", "Background responses are not supported.", "unsupported_value"));
    }

    if (!given(field[kInput])) return tl::unexpected(missing("input"));
    const Raw& input = field[kInput]->value;
    if (!input.is(Type::kString) && !input.is(Type::kArray)) {
      return tl::unexpected(invalid("input", "a string or an array of items", input));
    }
    peek.conversation = input;
    peek.messages = 1;
    if (input.is(Type::kArray)) {
      peek.messages = field[kInput]->count;
      const auto first = json::element_at(input, 0);
      if (!first || !*first || !(*first)->is(Type::kObject)) {
        return tl::unexpected(BadRequest{
            peek.messages == 0
                ? "Invalid 'input': empty array. Expected an array with minimum length 1."
                : "Invalid type for 'input[0]': expected an object.",
            peek.messages == 0 ? "input" : "input[0]",
            peek.messages == 0 ? "empty_array" : "invalid_type"});
      }
    }
    if (auto reference = find_reference(input)) return tl::unexpected(std::move(*reference));

    if (given(field[kStream])) {
      const auto stream = json::to_bool(field[kStream]->value);
      if (!stream) return tl::unexpected(invalid("stream", "a boolean", field[kStream]->value));
      peek.stream = *stream;
    }
    if (given(field[kTools])) {
      if (!field[kTools]->value.is(Type::kArray)) {
        return tl::unexpected(invalid("tools", "an array", field[kTools]->value));
      }
      peek.has_tools = field[kTools]->count > 0;
    }
    if (given(field[kInstructions])) {
      if (!field[kInstructions]->value.is(Type::kString)) {
        return tl::unexpected(invalid("instructions", "a string", field[kInstructions]->value));
      }
      peek.system = field[kInstructions]->value;
    }
    return peek;
  }

  Result<Request> parse(const Bytes& body) const override {
    SLUICE_TRY(const Raw root, json::read_value(body));
    SLUICE_TRY(const auto fields, json::fields(root));
    Request request;
    SLUICE_TRY(request.model, string_in(fields, "model"));
    if (const Raw* instructions = fields.find("instructions"); given(instructions)) {
      Message& message = request.messages.emplace_back();
      message.role = Role::kSystem;
      message.raw = instructions->text;
      SLUICE_TRY_VOID(read_content(*instructions, message));
    }
    const Raw* input = fields.find("input");
    if (input == nullptr) {
      return Error(ErrorCode::kInvalidArgument, "input: missing", ErrorOrigin::kAgent);
    }
    SLUICE_TRY_VOID(parse_input(*input, request.messages));
    if (const Raw* tools = fields.find("tools"); given(tools)) {
      request.tools = tools->text;
      std::vector<Declared> declared;
      SLUICE_TRY_VOID(read_tools(*tools, "", declared));
      for (Declared& tool : declared) request.tool_names.push_back(std::move(tool.name));
    }
    request.tool_choice = wire::text_in(fields, "tool_choice");
    if (const Raw* value = fields.find("temperature")) request.temperature = to_double(*value);
    if (const Raw* value = fields.find("top_p")) request.top_p = to_double(*value);
    if (const Raw* value = fields.find("max_output_tokens")) {
      request.max_tokens = to_integer(*value);
    }
    return request;
  }

  Result<std::optional<WithTools>> with_tools(
      json::Peeker& peeker, const Bytes& body,
      std::span<const ToolDefinition> tools) const override {
    return wire::with_tools(peeker, body, tools, {tool_name, append_tool});
  }

  std::string system_text(const Peek& peek) const override {
    std::string out;
    if (!peek.system.text.empty()) append_line(out, json::to_text(peek.system).value_or(""));
    auto elements = wire::Elements::of(peek.conversation);
    for (size_t i = 0; i < kMaxSystemItems; ++i) {
      const auto element = elements.next();
      if (!element) break;
      const auto message = parse_item(*element);
      if (!message || message->role != Role::kSystem) break;
      append_line(out, message->text);
    }
    return out;
  }

  std::optional<Message> turn_at(const Raw& conversation, const HistoryMark& mark) const override {
    if (auto turn = gather(wire::Elements::behind_bytes(conversation, mark))) return turn;
    return gather(wire::Elements::behind_count(conversation, mark.messages));
  }

  // A string is a user's message of that text.
  std::string canonical(const Raw& message) const override {
    if (message.is(Type::kString)) return "user " + json::to_text(message).value_or("");
    const auto item = json::fields(message);
    if (!item) return std::string(message.text);
    const auto type = string_in(*item, "type");
    const auto role = string_in(*item, "role");
    const Raw* content = item->find("content");
    if (!type || (*type != "message" && !type->empty()) || !role || *role != "user" ||
        content == nullptr) {
      return std::string(message.text);
    }
    if (content->is(Type::kArray)) {
      // Only what a string could say as well.
      const auto parts = json::elements(*content);
      if (!parts || parts->size() != 1) return std::string(message.text);
      const auto part_type = string_in(parts->front(), "type");
      if (!part_type || *part_type != "input_text") return std::string(message.text);
    }
    Message read;
    if (!read_content(*content, read)) return std::string(message.text);
    return "user " + read.text;
  }

  tl::expected<std::string, BadRequest> count_tokens(json::Peeker& peeker, const Bytes& body,
                                                     const Target&) const override {
    static constexpr std::array<std::string_view, 3> kNames{"input", "instructions", "tools"};
    const auto found = peeker.fields(body, kNames);
    if (!found) return tl::unexpected(openai::unreadable(found.error()));
    const auto part = [&](size_t i) {
      return given((*found)[i]) ? (*found)[i]->value : Raw();
    };
    Bytes out;
    Members members(out);
    members.text("object", "response.input_tokens");
    members.number("input_tokens", estimate_tokens({part(0), part(1), part(2)}));
    members.close();
    return out;
  }

  void fit(const Call& call, Answer& answer) const override {
    const bool calls_tools =
        std::any_of(answer.choices.begin(), answer.choices.end(),
                    [](const Choice& choice) { return !choice.message.tool_calls.empty(); });
    if (!calls_tools) return;
    const auto request = call.request();
    if (!request || (*request)->tools.empty()) return;
    std::vector<Declared> declared;
    // What parse() could read is readable.
    if (!read_tools(Raw{(*request)->tools, Type::kArray}, "", declared)) return;
    std::map<std::string_view, const Declared*> by_name;
    for (const Declared& tool : declared) by_name.emplace(tool.name, &tool);
    for (Choice& choice : answer.choices) {
      for (ToolCall& tool_call : choice.message.tool_calls) {
        const auto it = by_name.find(tool_call.name);
        if (it == by_name.end()) continue;  // the agent says that it has no such tool
        tool_call.kind = it->second->kind;
        tool_call.space = it->second->space;
      }
    }
  }

  std::string plain(const Envelope& envelope, const Answer& answer) const override {
    Bytes out;
    append_response(out, envelope, status_of(answer), &answer, nullptr);
    return out;
  }

  std::string streamed(const Envelope& envelope, const Answer& answer) const override {
    EventWriter writer(envelope);
    if (!writer.opened()) writer.open();
    const Choice& choice = answer.choices.front();
    const auto items = items_of(envelope, choice);
    for (size_t i = 0; i < items.size(); ++i) writer.item(items[i], i, choice);
    const std::string_view status = status_of(answer);
    writer.response("response." + std::string(status), status, &answer);
    return std::move(writer).take();
  }

  std::string piece(Envelope& envelope, const Message& so_far) const override {
    if (!wire::has_more(envelope.sent, so_far)) return {};
    EventWriter writer(envelope);
    if (!writer.opened()) writer.open();
    Choice choice;
    choice.message = so_far;
    const auto items = items_of(envelope, choice);
    for (size_t i = 0; i < items.size(); ++i) {
      // Without text there is no message yet, and the last item goes on.
      if (items[i].kind == Item::Kind::kMessage && so_far.text.empty()) break;
      const bool last = items[i].kind == Item::Kind::kMessage || so_far.text.empty();
      writer.item(items[i], i, choice, last ? Stage::kAdded : Stage::kDone);
    }
    envelope.sent.events = writer.events();
    wire::note_sent(envelope.sent, so_far);
    return std::move(writer).take();
  }

  // Codex counts events, not bytes, when it waits.
  std::string keep_alive(const Envelope& envelope) const override {
    EventWriter writer(envelope);
    if (!writer.opened()) {
      writer.open();
    } else {
      writer.response("response.in_progress", "in_progress");
    }
    return std::move(writer).take();
  }

  // A stream's last event has the whole response in it.
  void note(const Raw& event, Said& said) const override {
    const Raw response = wire::at(event, {"response"}).value_or(event);
    const std::string status = wire::text_at(response, {"status"});
    if (status != "completed" && status != "incomplete") return;
    if (const auto output = wire::at(response, {"output"})) {
      auto items = wire::Elements::of(*output);
      while (const auto item = items.next()) note_item(*item, said);
    }
    said.finish = said.calls_tools ? "tool_calls" : "stop";
    if (status == "completed") return;
    const std::string why = wire::text_at(response, {"incomplete_details", "reason"});
    said.finish = why == "content_filter" ? "content_filter" : "length";
  }

  ErrorReply error(const Problem& problem) const override { return openai::error(problem); }

  // Both events that the vendor sends: SDKs raise at the first, Codex ends by the second.
  using Codec::streamed_error;
  std::vector<std::string> streamed_error(const Envelope& envelope,
                                          const Problem& problem) const override {
    EventWriter writer(envelope);
    if (!writer.opened()) writer.open();
    writer.event("error", [&](Members& members) {
      openai::append_error_object(members["error"], problem);
      members.text("code", error_code(problem));
      members.text("message", openai::told(problem));
      members.text_or_null("param", problem.param);
    });
    writer.response("response.failed", "failed", nullptr, &problem);
    return {std::move(writer).take()};
  }

  std::string models(std::span<const std::string> names) const override {
    return openai::models(names);
  }
  std::string model(std::string_view name) const override { return openai::model(name); }

 private:
  static Result<void> parse_input(const Raw& input, std::vector<Message>& out) {
    if (input.is(Type::kString)) {
      Message& message = out.emplace_back();
      message.role = Role::kUser;
      message.raw = input.text;
      return read_content(input, message);
    }
    SLUICE_TRY(const auto list, json::elements(input));
    std::optional<Message> turn;
    const auto end_turn = [&] {
      if (!turn) return;
      turn->raw.push_back(']');
      out.push_back(*std::exchange(turn, std::nullopt));
    };
    for (const Raw& element : list) {
      SLUICE_TRY(Message item, parse_item(element));
      if (item.role == Role::kAssistant) {
        if (!turn) turn.emplace();
        merge(*turn, std::move(item));
        continue;
      }
      end_turn();
      out.push_back(std::move(item));
    }
    end_turn();
    return {};
  }

  // The turn that begins with the next element.
  static std::optional<Message> gather(wire::Elements elements) {
    std::optional<Message> turn;
    while (const auto element = elements.next()) {
      auto item = parse_item(*element);
      if (!item || item->role != Role::kAssistant) break;
      if (!turn) turn.emplace();
      merge(*turn, std::move(*item));
    }
    if (turn) turn->raw.push_back(']');
    return turn;
  }
};

}  // namespace

const Codec& responses_codec() {
  static const ResponsesCodec codec;
  return codec;
}

}  // namespace sluice::llm
