#include <fmt/format.h>

#include <array>

#include "sluice/json/text.h"
#include "sluice/llm/codecs.h"
#include "sluice/llm/rewrite.h"
#include "sluice/llm/wire.h"

namespace sluice::llm {
namespace {

using json::Raw;
using json::Type;
using wire::append_line;
using wire::given;
using wire::Members;
using wire::string_in;

// Claude Code puts some of its instructions into messages of the system's.
constexpr wire::RoleName kRoleNames[] = {
    {"user", Role::kUser}, {"assistant", Role::kAssistant}, {"system", Role::kSystem}};
constexpr wire::FinishName kReasons[] = {{Finish::kStop, "end_turn"},
                                         {Finish::kLength, "max_tokens"},
                                         {Finish::kToolCalls, "tool_use"},
                                         {Finish::kContentFilter, "refusal"},
                                         {Finish::kStop, "stop_sequence"}};
constexpr wire::ErrorShape kErrors[] = {
    {400, 400, "invalid_request_error"}, {500, 500, "api_error"},
    {401, 401, "authentication_error"},  {403, 403, "permission_error"},
    {404, 404, "not_found_error"},       {409, 409, "invalid_request_error"},
    {413, 413, "request_too_large"},     {429, 429, "rate_limit_error"},
    {499, 529, "overloaded_error"},      {502, 529, "overloaded_error"},
    {503, 529, "overloaded_error"},      {504, 504, "timeout_error"}};

BadRequest missing(std::string_view param) {
  return {fmt::format("{}: Field required", param), std::string(param), ""};
}
BadRequest invalid(std::string_view param, std::string_view wanted) {
  return {fmt::format("{}: Input should be {}", param, wanted), std::string(param), ""};
}

// --- Requests ------------------------------------------------------------------------------------

// The text blocks of a string or of an array of blocks.
Result<std::string> text_of(const Raw& content) {
  if (content.is(Type::kString)) return json::to_text(content);
  std::string out;
  if (!content.is(Type::kArray)) return out;
  SLUICE_TRY(const auto blocks, json::elements(content));
  for (const Raw& block : blocks) {
    const std::string type = string_in(block, "type");
    if (type != "text") continue;
    append_line(out, string_in(block, "text"));
  }
  return out;
}

ToolCall read_call(const json::RawObject& block) {
  ToolCall call;
  call.id = string_in(block, "id");
  call.name = string_in(block, "name");
  call.arguments = wire::text_in(block, "input");
  return call;
}

// One block of a message, into the message or, if it is a tool's result, behind `results`.
Result<void> read_block(const Raw& value, Message& message, std::vector<Message>& results) {
  if (!value.is(Type::kObject)) return {};
  SLUICE_TRY(const auto block, json::fields(value));
  const std::string type = string_in(block, "type");
  if (type == "text") {
    append_line(message.text, string_in(block, "text"));
  } else if (type == "thinking") {
    append_line(message.reasoning, string_in(block, "thinking"));
    message.reasoning_seal = string_in(block, "signature");
  } else if (type == "redacted_thinking") {
    if (message.reasoning_seal.empty()) {
      message.reasoning_seal = string_in(block, "data");
    }
  } else if (type == "tool_use") {
    message.tool_calls.push_back(read_call(block));
  } else if (type == "tool_result") {
    Message& result = results.emplace_back();
    result.role = Role::kTool;
    result.raw = value.text;
    result.tool_call_id = string_in(block, "tool_use_id");
    if (const Raw* content = block.find("content"); content != nullptr) {
      SLUICE_TRY(result.text, text_of(*content));
    }
  }
  return {};
}

// A message as one in canonical form; its tool results go to `results`. `bare` if it holds nothing
// else.
struct Parsed {
  Message message;
  bool bare = false;
};
Result<Parsed> parse_message(const Raw& value, std::vector<Message>& results) {
  SLUICE_TRY(const auto fields, json::fields(value));
  Parsed out;
  Message& message = out.message;
  message.raw = value.text;
  const std::string role = string_in(fields, "role");
  SLUICE_TRY(message.role, wire::role_of(role, kRoleNames, "messages"));
  const Raw* content = fields.find("content");
  if (content == nullptr) return out;
  if (content->is(Type::kString)) {
    SLUICE_TRY(message.text, json::to_text(*content));
  } else if (content->is(Type::kArray)) {
    SLUICE_TRY(const auto blocks, json::elements(*content));
    const size_t before = results.size();
    for (const Raw& block : blocks) SLUICE_TRY_VOID(read_block(block, message, results));
    out.bare = !blocks.empty() && results.size() - before == blocks.size();
  }
  return out;
}

// The message alone, where no tools' results are looked for.
Result<Message> parse_alone(const Raw& value) {
  std::vector<Message> results;
  SLUICE_TRY(Parsed parsed, parse_message(value, results));
  return std::move(parsed.message);
}

// Appends a message or a block without the marks of the prompt cache, which move from call to call,
// and with every content as a list of blocks. There is content in messages, in blocks, and in what
// those hold; deeper it is nothing that an agent was ever seen to rewrite.
void append_canonical(std::string& out, const Raw& value, int levels) {
  const auto object = json::fields(value);
  if (!object || levels == 0) {
    out.append(value.text);
    return;
  }
  out.push_back('{');
  for (const auto& [name, inner] : object->fields) {
    if (name == "cache_control") continue;
    if (out.back() != '{') out.push_back(',');
    json::append_string(out, name);
    out.push_back(':');
    if (name == "content" && inner.is(Type::kString)) {
      out.append(R"([{"type":"text","text":)").append(inner.text).append("}]");
    } else if (const auto blocks = json::elements(inner); name == "content" && blocks) {
      wire::append_list(out, *blocks, [&](Bytes& to, const Raw& block) {
        append_canonical(to, block, levels - 1);
      });
    } else {
      out.append(inner.text);  // a tool's input, for example, is not ours to look into
    }
  }
  out.push_back('}');
}

// A tool; without a name if it is none. The vendor's own ("bash_20250124") have a type.
Result<ToolOffer> read_tool(const Raw& row) {
  SLUICE_TRY(const auto fields, wire::fields_of(row));
  ToolOffer tool = wire::read_function(fields, row, {"input_schema"});
  const std::string type = string_in(fields, "type");
  if (!type.empty() && type != "custom") tool.kind = type;
  if (tool.name.empty()) tool.name = type;
  return tool;
}

void append_tool(Bytes& out, const ToolDefinition& tool) {
  Members members(out);
  members.text("name", tool.name);
  members.text_if_any("description", tool.description);
  members.raw("input_schema", tool.parameters);
}

// --- Answers -------------------------------------------------------------------------------------

// What the dialect has no place for is said as text.
std::string_view text_of(const Message& message) {
  return message.text.empty() ? message.refusal : message.text;
}

void append_stop(Members& members, const Choice& choice) {
  members.text("stop_reason", wire::word_of(choice.finish, kReasons));
  members.raw("stop_sequence", "null");
  if (choice.finish != Finish::kContentFilter) return;
  Members details(members["stop_details"]);
  details.text("type", "refusal");
  details.raw("category", "null");
  details.text_or_null("explanation", choice.message.refusal);
}

// Clients cannot do without usage: what is not known is 0.
void append_usage(Bytes& out, const Usage& usage) {
  Members members(out);
  members.number("input_tokens", usage.prompt_tokens);
  members.raw("cache_creation_input_tokens", "0");
  members.raw("cache_read_input_tokens", "0");
  members.number("output_tokens", usage.completion_tokens);
}

// A content block, with its content (kWhole) or as a stream announces it (kEmpty).
enum class Fill : uint8_t { kWhole, kEmpty };

void append_thinking(Bytes& out, const Message& message, Fill fill) {
  Members block(out);
  if (message.reasoning.empty()) {
    block.text("type", "redacted_thinking");
    block.text("data", message.reasoning_seal);
  } else {
    block.text("type", "thinking");
    block.text("thinking", fill == Fill::kWhole ? message.reasoning : "");
    block.text("signature", fill == Fill::kWhole ? wire::seal_of(message) : "");
  }
}

void append_text(Bytes& out, const Message& message, Fill fill) {
  Members block(out);
  block.text("type", "text");
  block.text("text", fill == Fill::kWhole ? text_of(message) : "");
}

void append_tool_use(Bytes& out, const ToolCall& call, Fill fill) {
  Members block(out);
  block.text("type", "tool_use");
  block.text("id", call.id);
  block.text("name", call.name);
  if (fill == Fill::kWhole) {
    wire::append_arguments(block["input"], call.arguments);
  } else {
    block.raw("input", "{}");
  }
}

bool thinks(const Message& message) {
  return !message.reasoning.empty() || !message.reasoning_seal.empty();
}

void append_content(Bytes& out, const Message& message) {
  wire::List blocks(out);
  if (thinks(message)) append_thinking(blocks.next(), message, Fill::kWhole);
  if (!text_of(message).empty()) append_text(blocks.next(), message, Fill::kWhole);
  for (const ToolCall& call : message.tool_calls) {
    append_tool_use(blocks.next(), call, Fill::kWhole);
  }
}

// The message object up to its content.
void append_head(Members& members, const Envelope& envelope) {
  members.text("id", "msg_" + envelope.id);
  members.text("type", "message");
  members.text("role", "assistant");
  members.text("model", envelope.model);
}

class EventWriter {
 public:
  // An event with `more` members behind its type.
  template <class More>
  void event(std::string_view type, More more) {
    wire::append_event(out_, type, [&](Members& members) {
      members.text("type", type);
      more(members);
    });
  }

  void start(const Envelope& envelope, const Usage& usage) {
    event("message_start", [&](Members& members) {
      Members message(members["message"]);
      append_head(message, envelope);
      message.raw("content", "[]");
      message.raw("stop_reason", "null");
      message.raw("stop_sequence", "null");
      append_usage(message["usage"], {usage.prompt_tokens, 0});
    });
  }

  // A content block: announced by `start(out)`, filled by deltas, closed.
  template <class Start>
  void open(Start start) {
    event("content_block_start", [&](Members& members) {
      members.number("index", index_);
      start(members["content_block"]);
    });
  }
  void close() {
    event("content_block_stop", [&](Members& members) { members.number("index", index_); });
    ++index_;
  }

  void delta(std::string_view type, std::string_view name, std::string_view text) {
    event("content_block_delta", [&](Members& members) {
      members.number("index", index_);
      Members delta(members["delta"]);
      delta.text("type", type);
      delta.text(name, text);
    });
  }

  // What is thought and said, behind what was sent of it. The last block is left open.
  void said(const Message& message, const Sent& sent) {
    if (thinks(message)) {
      if (sent.text > 0) {
        ++index_;  // closed before the text began
      } else {
        thought(message, sent);
      }
    }
    if (sent.text > 0) open_ = Block::kText;
    const std::string_view text = text_of(message);
    if (text.size() == sent.text) return;
    if (open_ != Block::kText) {
      close_open(message);
      open([&](Bytes& out) { append_text(out, message, Fill::kEmpty); });
      open_ = Block::kText;
    }
    delta("text_delta", "text", text.substr(sent.text));
  }

  void content(const Message& message, const Sent& sent) {
    said(message, sent);
    close_open(message);
    for (const ToolCall& call : message.tool_calls) {
      // The model's own text, whatever it is: so the vendor streams it, and clients judge it.
      open([&](Bytes& out) { append_tool_use(out, call, Fill::kEmpty); });
      delta("input_json_delta", "partial_json", wire::function_arguments(call.arguments));
      close();
    }
  }

  Bytes take() && { return std::move(out_); }

 private:
  enum class Block : uint8_t { kNone, kThought, kText };

  void thought(const Message& message, const Sent& sent) {
    if (sent.reasoning == 0) {
      open([&](Bytes& out) { append_thinking(out, message, Fill::kEmpty); });
    }
    open_ = Block::kThought;
    if (message.reasoning.size() == sent.reasoning) return;
    delta("thinking_delta", "thinking", std::string_view(message.reasoning).substr(sent.reasoning));
  }
  void close_open(const Message& message) {
    if (open_ == Block::kNone) return;
    if (open_ == Block::kThought && !message.reasoning.empty()) {
      delta("signature_delta", "signature", wire::seal_of(message));
    }
    close();
    open_ = Block::kNone;
  }

  Bytes out_;
  int64_t index_ = 0;
  Block open_ = Block::kNone;
};

// --- Errors --------------------------------------------------------------------------------------

const wire::ErrorShape& shape_of(const Problem& problem) {
  // Claude Code asks six times more after a 400, with other tools; a 403 it takes for an answer, as
  // other agents of this dialect do.
  return wire::shape_of(problem.end_agent ? 403 : http_status(problem.kind), kErrors);
}

// All but its type, "error".
void append_error(Members& members, const Problem& problem) {
  Members error(members["error"]);
  error.text("type", shape_of(problem).type);
  error.text("message", problem.told());
  if (problem.code.empty()) return;
  Members details(error["details"]);
  details.text("error_code", problem.code);
}

// --- The codec -----------------------------------------------------------------------------------

constexpr Api kApi{.call = "/messages",
                   .count = "/messages/count_tokens",
                   .client_headers = {"anthropic-version"},
                   .key_header = "x-api-key",
                   .key_prefix = ""};

constexpr std::string_view kToolIds[] = {"/messages/*/content/*/id",
                                         "/messages/*/content/*/tool_use_id"};

class MessagesCodec final : public Codec {
 public:
  std::string_view name() const override { return "messages"; }
  const Api& api() const override { return kApi; }

  Admitted<Peek> peek(json::Peeker& peeker, const json::Document& body,
                      const Target&) const override {
    SLUICE_TRY(Prompt prompt, read_prompt(peeker, body));
    auto& [peek, field] = prompt;
    // By this code the vendor's tool runners know that they have to send all of it themselves.
    if (given(field[kThread])) {
      return BadRequest{
          "thread: Nothing is stored here: send the whole conversation as 'messages', without "
          "'thread'.",
          "thread", "thread_unsupported_request"};
    }
    if (!given(field[kMaxTokens])) return missing("max_tokens");
    const auto max_tokens = json::to_integer(field[kMaxTokens]->value);
    if (!max_tokens || *max_tokens < 0) return invalid("max_tokens", "a valid integer");
    if (given(field[kStream])) {
      const auto stream = json::to_bool(field[kStream]->value);
      if (!stream) return invalid("stream", "a valid boolean");
      peek.stream = *stream;
    }
    const auto judge = [](size_t index,
                          const wire::ElementHead& head) -> std::optional<BadRequest> {
      const bool object = head.type == Type::kObject;
      if (object && wire::role_of(head.role, kRoleNames, "messages")) return std::nullopt;
      const std::string place = fmt::format("messages.{}", index);
      if (!object) return invalid(place, "a valid dictionary");
      return invalid(place + ".role", wire::names_of(kRoleNames));
    };
    if (auto bad = wire::judge_fresh(*field[kMessages], judge)) return *bad;
    return std::move(peek);
  }

  Result<Request> parse(const Bytes& body) const override {
    SLUICE_TRY(const auto fields, wire::object_in(body));
    Request request;
    request.model = string_in(fields, "model");
    if (const Raw* system = fields.find("system"); given(system)) {
      Message& message = request.messages.emplace_back();
      message.role = Role::kSystem;
      message.raw = system->text;
      SLUICE_TRY(message.text, text_of(*system));
    }
    SLUICE_TRY(const auto list, wire::list_in(fields, "messages"));
    for (const Raw& element : list) {
      SLUICE_TRY(Parsed parsed, parse_message(element, request.messages));
      if (!parsed.bare) request.messages.push_back(std::move(parsed.message));
    }
    if (const Raw* tools = fields.find("tools"); given(tools)) {
      SLUICE_TRY(const auto rows, json::elements(*tools));
      for (const Raw& row : rows) {
        SLUICE_TRY(ToolOffer tool, read_tool(row));
        if (!tool.name.empty()) request.tools.push_back(std::move(tool));
      }
    }
    request.tool_choice = wire::text_in(fields, "tool_choice");
    SLUICE_TRY_VOID(
        wire::read_sampling(fields, {"top_k", "max_tokens", "stop_sequences"}, request));
    return request;
  }

  Result<std::optional<WithTools>> with_tools(
      json::Peeker& peeker, const Bytes& body,
      std::span<const ToolDefinition> tools) const override {
    return wire::with_tools(peeker, body, tools, {wire::name_of, append_tool});
  }

  Result<void> rewrite(Changes& changes, const Rewrite& rewrite) const override {
    if (rewrite.thinking == Thinking::kOff) changes.set("thinking", R"({"type":"disabled"})");
    return changes.cap({"max_tokens"}, rewrite.max_tokens_cap);
  }

  std::string system_text(const Peek& peek) const override {
    const bool beside = !peek.system.text.empty();
    return wire::leading_system_text(beside ? text_of(peek.system).value_or("") : "",
                                     peek.conversation, parse_alone);
  }

  // Messages of the assistant in a row are one.
  std::optional<Message> echo_at(const Raw& conversation, const HistoryMark& mark) const override {
    return wire::echo_at(conversation, mark, parse_alone, wire::join);
  }

  std::string canonical(const Raw& message) const override {
    // A system prompt is content by itself.
    const bool bare = !message.is(Type::kObject) && json::read_value(message.text);
    const std::string holder = bare ? "{\"content\":" + std::string(message.text) + "}" : "";
    std::string out;
    append_canonical(out, bare ? Raw{holder, Type::kObject} : message, 3);
    return out;
  }

  Admitted<std::string> count_tokens(json::Peeker& peeker, const Bytes& body,
                                     const Target&) const override {
    SLUICE_TRY(const Prompt prompt, read_prompt(peeker, body));
    const auto& [peek, field] = prompt;
    const Raw tools = given(field[kTools]) ? field[kTools]->value : Raw();
    return wire::object([&](Members& members) {
      members.number("input_tokens", estimate_tokens({peek.system, peek.conversation, tools}));
    });
  }

  std::string_view tool_id_prefix() const override { return "toolu_"; }
  std::span<const std::string_view> tool_id_paths() const override { return kToolIds; }

  std::string plain(const Envelope& envelope, const Answer& answer) const override {
    const Choice& choice = answer.choices.front();
    return wire::object([&](Members& members) {
      append_head(members, envelope);
      append_content(members["content"], choice.message);
      append_stop(members, choice);
      append_usage(members["usage"], answer.usage.value_or(Usage()));
    });
  }

  std::string streamed(const Envelope& envelope, const Answer& answer) const override {
    const Choice& choice = answer.choices.front();
    const Usage usage = answer.usage.value_or(Usage());
    EventWriter writer;
    if (!envelope.sent.any()) writer.start(envelope, usage);
    writer.content(choice.message, envelope.sent);
    writer.event("message_delta", [&](Members& members) {
      Members delta(members["delta"]);
      append_stop(delta, choice);
      delta.close();
      append_usage(members["usage"], usage);
    });
    writer.event("message_stop", [](Members&) {});
    return std::move(writer).take();
  }

  std::string piece(Envelope& envelope, const Message& so_far) const override {
    if (!wire::has_more(envelope.sent, so_far)) return {};
    EventWriter writer;
    if (!envelope.sent.any()) writer.start(envelope, Usage());
    writer.said(so_far, envelope.sent);
    wire::note_sent(envelope.sent, so_far);
    return std::move(writer).take();
  }

  std::string keep_alive(const Envelope&) const override {
    Bytes out;
    wire::append_event(out, "ping", [](Members& members) { members.text("type", "ping"); });
    return out;
  }

  // The whole of a message has it at its top, a stream in its last event but one.
  void note(const Raw& event, Said& said) const override {
    std::string reason = wire::text_at(event, {"stop_reason"});
    if (reason.empty()) reason = wire::text_at(event, {"delta", "stop_reason"});
    if (!reason.empty()) said.finish = wire::finish_of(std::move(reason), kReasons);
  }

  ErrorReply error(const Problem& problem) const override {
    return {shape_of(problem).status, wire::object([&](Members& members) {
              members.text("type", "error");
              append_error(members, problem);
            })};
  }

  // Behind a beginning: OpenCode asks again, for minutes, when an error is what a stream begins
  // with.
  std::vector<std::string> streamed_error(const Envelope& envelope,
                                          const Problem& problem) const override {
    EventWriter writer;
    if (!envelope.sent.any()) writer.start(envelope, Usage());
    writer.event("error", [&](Members& members) { append_error(members, problem); });
    return {std::move(writer).take()};
  }

  std::string models(std::span<const std::string> names) const override {
    return wire::object([&](Members& members) {
      append_models(members["data"], names);
      members.raw("has_more", "false");
      members.text_or_null("first_id", names.empty() ? std::string_view() : names.front());
      members.text_or_null("last_id", names.empty() ? std::string_view() : names.back());
    });
  }

  void describe(wire::Members& members, std::string_view name) const override {
    members.text("type", "model");
    members.text("id", name);
    members.text("display_name", name);
    members.text("created_at", "1970-01-01T00:00:00Z");  // "if the release date is unknown"
  }

 private:
  enum Index { kModel, kMessages, kSystem, kTools, kMaxTokens, kStream, kThread, kCount };
  struct Prompt {
    Peek peek;
    std::vector<std::optional<json::Peeked>> field;
  };

  // What a call and a request to count have in common.
  static Admitted<Prompt> read_prompt(json::Peeker& peeker, const json::Document& body) {
    static constexpr std::array<std::string_view, kCount> kNames{
        "model", "messages", "system", "tools", "max_tokens", "stream", "thread"};
    auto found = peeker.fields(body, kNames, kMessages);
    if (!found) {
      return BadRequest{"The request body is not valid JSON: " + found.error().message, "", ""};
    }
    Prompt out{{}, std::move(*found)};
    const auto& field = out.field;
    Peek& peek = out.peek;
    if (!given(field[kModel])) return missing("model");
    const auto model = json::to_text(field[kModel]->value);
    if (!model) return invalid("model", "a valid string");
    if (model->empty() || model->size() > kMaxModelName) {
      return invalid("model", "a string of 1 to 512 characters");
    }
    peek.model = *model;

    if (!given(field[kMessages])) return missing("messages");
    const Raw& messages = field[kMessages]->value;
    if (!messages.is(Type::kArray)) return invalid("messages", "a valid list");
    if (field[kMessages]->count == 0) {
      return BadRequest{"messages: at least one message is required", "messages", ""};
    }
    peek.conversation = messages;
    peek.messages = field[kMessages]->count;

    if (given(field[kSystem])) {
      const Raw& system = field[kSystem]->value;
      if (!system.is(Type::kString) && !system.is(Type::kArray)) {
        return invalid("system", "a valid string or a valid list");
      }
      peek.system = system;
    }
    if (given(field[kTools])) {
      if (!field[kTools]->value.is(Type::kArray)) return invalid("tools", "a valid list");
      peek.has_tools = field[kTools]->count > 0;
    }
    return out;
  }
};

}  // namespace

const Codec& messages_codec() {
  static const MessagesCodec codec;
  return codec;
}

}  // namespace sluice::llm
