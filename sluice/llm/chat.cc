#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "sluice/json/text.h"
#include "sluice/llm/codecs.h"
#include "sluice/llm/openai.h"
#include "sluice/llm/rewrite.h"
#include "sluice/llm/wire.h"

namespace sluice::llm {
namespace {

using json::Raw;
using json::Type;
using openai::invalid;
using openai::missing;
using wire::given;
using wire::Members;
using wire::string_in;

constexpr wire::RoleName kRoleNames[] = {{"system", Role::kSystem}, {"developer", Role::kSystem},
                                         {"user", Role::kUser},     {"assistant", Role::kAssistant},
                                         {"tool", Role::kTool},     {"function", Role::kTool}};
constexpr size_t kFrame = 512;  // what a plain answer mostly has besides its text, and more

ToolCall read_tool_call(const Raw& value) {
  ToolCall call;
  call.id = string_in(value, "id");
  if (const auto function = wire::at(value, {"function"})) {
    call.name = string_in(*function, "name");
    call.arguments = string_in(*function, "arguments");
  } else if (const auto custom = wire::at(value, {"custom"})) {
    call.name = string_in(*custom, "name");
    call.arguments = string_in(*custom, "input");
    call.kind = ToolCall::Kind::kCustom;
  }
  return call;
}

Result<Message> parse_message(const Raw& value) {
  SLUICE_TRY(const auto fields, json::fields(value));
  Message message;
  message.raw = value.text;
  const std::string role = string_in(fields, "role");
  SLUICE_TRY(message.role, wire::role_of(role, kRoleNames, "messages"));
  if (const Raw* content = fields.find("content"); content != nullptr) {
    SLUICE_TRY_VOID(wire::read_content(*content, message));
  }
  // vLLM and others call it "reasoning".
  message.reasoning = string_in(fields, "reasoning_content");
  if (message.reasoning.empty()) message.reasoning = string_in(fields, "reasoning");
  if (auto refusal = string_in(fields, "refusal"); !refusal.empty()) {
    message.refusal = std::move(refusal);
  }
  if (const Raw* calls = fields.find("tool_calls"); calls != nullptr && calls->is(Type::kArray)) {
    SLUICE_TRY(const auto list, json::elements(*calls));
    for (const Raw& element : list) message.tool_calls.push_back(read_tool_call(element));
  }
  message.tool_call_id = string_in(fields, "tool_call_id");
  return message;
}

std::string tool_name(const Raw& tool) {
  std::string function = wire::text_at(tool, {"function", "name"});
  return function.empty() ? wire::text_at(tool, {"custom", "name"}) : function;
}

// A tool; without a name if it is none. Custom ones take free text.
Result<ToolOffer> read_tool(const Raw& row) {
  SLUICE_TRY(const auto tool, wire::fields_of(row));
  for (const std::string_view kind : {"function", "custom"}) {
    const Raw* inner = tool.find(kind);
    if (inner == nullptr) continue;
    SLUICE_TRY(const auto function, wire::fields_of(*inner));
    ToolOffer out = wire::read_function(function, row, {"parameters"});
    out.kind = kind;
    return out;
  }
  ToolOffer out = wire::read_function(tool, row, {});
  out.kind = string_in(tool, "type");
  if (out.name.empty()) out.name = out.kind;
  return out;
}

void append_tool(Bytes& out, const ToolDefinition& tool) {
  Members members(out);
  members.text("type", "function");
  Members function(members["function"]);
  function.text("name", tool.name);
  function.text_if_any("description", tool.description);
  function.raw("parameters", tool.parameters);
}

void append_tool_call(Bytes& out, const ToolCall& call, std::optional<size_t> index = {}) {
  const bool custom = call.kind == ToolCall::Kind::kCustom;
  Members members(out);
  if (index) members.number("index", static_cast<int64_t>(*index));
  members.text("id", call.id);
  members.text("type", to_string(call.kind));
  Members tool(members[to_string(call.kind)]);
  tool.text("name", call.name);
  tool.text(custom ? "input" : "arguments", wire::sent_text(call));
}

void append_usage(Bytes& out, const Usage& usage) {
  Members members(out);
  members.number("prompt_tokens", usage.prompt_tokens);
  members.number("completion_tokens", usage.completion_tokens);
  members.number("total_tokens", usage.prompt_tokens + usage.completion_tokens);
}

void append_message(Bytes& out, const Message& message) {
  Members members(out);
  members.text("role", "assistant");
  if (message.text.empty() && (!message.tool_calls.empty() || !message.refusal.empty())) {
    members.raw("content", "null");
  } else {
    members.text("content", message.text);
  }
  members.text_or_null("refusal", message.refusal);
  members.text_if_any("reasoning_content", message.reasoning);
  members.list_if_any("tool_calls", message.tool_calls,
                      [](Bytes& to, const ToolCall& call) { append_tool_call(to, call); });
}

// What an answer begins with, and each of its chunks.
void append_head(Members& members, const Envelope& envelope, std::string_view object) {
  members["id"].append("\"chatcmpl-").append(envelope.id).push_back('"');
  members.text("object", object);
  members.number("created", envelope.created);
  members.text("model", envelope.model);
}

// The frames of one streamed answer; every chunk opens with the same fields.
class ChunkWriter {
 public:
  explicit ChunkWriter(const Envelope& envelope)
      : head_(wire::object(
            [&](Members& members) { append_head(members, envelope, "chat.completion.chunk"); })) {
    head_.back() = ',';  // more members follow
  }

  // The delta's members are written by `write(delta)`.
  template <class Write>
  void delta(size_t index, Write write, std::string_view finish = {}) {
    begin();
    Members choice(out_);
    choice.number("index", static_cast<int64_t>(index));
    Members delta(choice["delta"]);
    write(delta);
    delta.close();
    choice.raw("logprobs", "null");
    choice.text_or_null("finish_reason", finish);
    choice.close();
    out_.append("]}\n\n");
  }

  void text(size_t index, std::string_view field, std::string_view text) {
    if (!text.empty()) delta(index, [&](Members& delta) { delta.text(field, text); });
  }

  // Behind what was sent of it.
  void said(size_t index, const Message& message, const Sent& sent) {
    if (!sent.any()) {
      delta(index, [](Members& delta) {
        delta.text("role", "assistant");
        delta.text("content", "");
      });
    }
    text(index, "reasoning_content", std::string_view(message.reasoning).substr(sent.reasoning));
    text(index, "content", std::string_view(message.text).substr(sent.text));
  }

  void choice(size_t index, const Choice& choice, const Sent& sent) {
    const Message& message = choice.message;
    said(index, message, sent);
    text(index, "refusal", message.refusal);
    for (size_t i = 0; i < message.tool_calls.size(); ++i) {
      delta(index, [&](Members& delta) {
        append_tool_call(delta["tool_calls"].append("["), message.tool_calls[i], i);
        out_.push_back(']');
      });
    }
    delta(index, [](Members&) {}, to_string(choice.finish));
  }

  // A chunk that carries no choice.
  void usage(const Usage& usage) {
    begin();
    append_usage(out_.append("],\"usage\":"), usage);
    out_.append("}\n\n");
  }

  Bytes take() && { return std::move(out_); }

 private:
  void begin() { out_.append("data: ").append(head_).append("\"choices\":["); }

  Bytes head_;
  Bytes out_;
};

constexpr Api kApi{.call = "/chat/completions"};
constexpr std::string_view kToolIds[] = {"/messages/*/tool_calls/*/id", "/messages/*/tool_call_id"};

class ChatCodec final : public openai::OpenAiCodec {
 public:
  std::string_view name() const override { return "chat"; }
  const Api& api() const override { return kApi; }

  Admitted<Peek> peek(json::Peeker& peeker, const json::Document& body,
                      const Target&) const override {
    enum Index : size_t { kMessages = openai::kFirstOwn, kN, kStreamOptions };
    static constexpr std::array<std::string_view, 6> kNames{"model",    "stream", "tools",
                                                            "messages", "n",      "stream_options"};
    const auto found = peeker.fields(body, kNames, kMessages);
    if (!found) return openai::unreadable(found.error());
    const auto& field = *found;
    Peek peek;
    SLUICE_TRY(peek.model, openai::read_model(field[openai::kModel]));

    if (!given(field[kMessages])) return missing("messages");
    if (const Raw& messages = field[kMessages]->value; !messages.is(Type::kArray)) {
      return invalid("messages", "an array of objects", messages);
    }
    if (auto bad = openai::read_conversation("messages", *field[kMessages], peek)) return *bad;
    if (given(field[kN])) {
      const auto n = json::to_integer(field[kN]->value);
      if (!n || *n < 1 || *n > kMaxChoices) {
        return BadRequest{
            fmt::format("Invalid 'n': an integer from 1 to {} is expected.", kMaxChoices), "n",
            "invalid_value"};
      }
      peek.n = static_cast<uint32_t>(*n);
    }
    if (given(field[kStreamOptions])) {
      const auto options = json::fields(field[kStreamOptions]->value);
      if (!options) return invalid("stream_options", "an object", field[kStreamOptions]->value);
      const Raw* usage = options->find("include_usage");
      peek.stream_usage = usage != nullptr && json::to_bool(*usage).value_or(false);
    }
    if (auto bad = openai::read_stream_and_tools(field, peek)) return *bad;
    constexpr auto any = [](std::string_view) {
      return true;
    };
    if (auto bad = openai::judge_elements("messages", *field[kMessages], any, kRoleNames)) {
      return *bad;
    }
    return peek;
  }

  Result<Request> parse(const Bytes& body) const override {
    SLUICE_TRY(const auto fields, wire::object_in(body));
    Request request;
    request.model = string_in(fields, "model");
    SLUICE_TRY(const auto list, wire::list_in(fields, "messages"));
    request.messages.reserve(list.size());
    for (const Raw& element : list) {
      SLUICE_TRY(request.messages.emplace_back(), parse_message(element));
    }
    if (const Raw* tools = fields.find("tools"); tools != nullptr && tools->is(Type::kArray)) {
      SLUICE_TRY(const auto rows, json::elements(*tools));
      for (const Raw& row : rows) {
        SLUICE_TRY(ToolOffer tool, read_tool(row));
        if (!tool.name.empty()) request.tools.push_back(std::move(tool));
      }
    }
    request.tool_choice = wire::text_in(fields, "tool_choice");
    SLUICE_TRY_VOID(wire::read_sampling(fields, {"top_k", "max_tokens", "stop"}, request));
    if (const Raw* value = fields.find("max_completion_tokens"); value && !request.max_tokens) {
      request.max_tokens = to_integer(*value);
    }
    return request;
  }

  Result<std::optional<WithTools>> with_tools(
      json::Peeker& peeker, const Bytes& body,
      std::span<const ToolDefinition> tools) const override {
    return wire::with_tools(peeker, body, tools, {tool_name, append_tool});
  }

  Result<void> rewrite(Changes& changes, const Rewrite& rewrite) const override {
    if (rewrite.thinking == Thinking::kOff) {
      SLUICE_TRY(json::Object kwargs, changes.object("chat_template_kwargs"));
      kwargs["enable_thinking"] = false;
      changes.set("chat_template_kwargs", kwargs);
    }
    SLUICE_TRY_VOID(changes.cap({"max_tokens", "max_completion_tokens"}, rewrite.max_tokens_cap));
    if (rewrite.top_logprobs) {
      changes.set("logprobs", "true");
      changes.set("top_logprobs", std::to_string(*rewrite.top_logprobs));
    }
    return {};
  }

  std::string system_text(const Peek& peek) const override {
    return wire::leading_system_text("", peek.conversation, parse_message);
  }

  std::optional<Message> echo_at(const Raw& conversation, const HistoryMark& mark) const override {
    return wire::echo_at(conversation, mark, parse_message, nullptr);
  }

  std::span<const std::string_view> tool_id_paths() const override { return kToolIds; }

  void fit(const Call& call, Answer& answer) const override {
    if (!openai::calls_tools(answer)) return;
    // Rare: mostly the name alone tells that there is none.
    const auto asked = call.asked();
    if (!asked || (*asked)->find("\"custom\"") == Bytes::npos) return;
    if (const auto request = call.request()) openai::fit(answer, (*request)->tools);
  }

  std::string plain(const Envelope& envelope, const Answer& answer) const override {
    Bytes out;
    out.reserve(kFrame + answer.choices.front().message.text.size());
    Members members(out);
    append_head(members, envelope, "chat.completion");
    int64_t index = 0;
    wire::append_list(members["choices"], answer.choices, [&](Bytes& to, const Choice& choice) {
      Members one(to);
      one.number("index", index++);
      append_message(one["message"], choice.message);
      one.raw("logprobs", "null");
      one.text("finish_reason", to_string(choice.finish));
    });
    if (answer.usage) append_usage(members["usage"], *answer.usage);
    members.close();
    return out;
  }

  std::string streamed(const Envelope& envelope, const Answer& answer) const override {
    ChunkWriter writer(envelope);
    for (size_t i = 0; i < answer.choices.size(); ++i) {
      writer.choice(i, answer.choices[i], i == 0 ? envelope.sent : Sent());
    }
    if (envelope.stream_usage && answer.usage) writer.usage(*answer.usage);
    return std::move(writer).take() + "data: [DONE]\n\n";
  }

  std::string piece(Envelope& envelope, const Message& so_far) const override {
    if (!wire::has_more(envelope.sent, so_far)) return {};
    ChunkWriter writer(envelope);
    writer.said(0, so_far, envelope.sent);
    wire::note_sent(envelope.sent, so_far);
    return std::move(writer).take();
  }

  std::string keep_alive(const Envelope& envelope) const override {
    ChunkWriter writer(envelope);
    writer.delta(0, [](Members&) {});
    return std::move(writer).take();
  }

  void note(const Raw& event, Said& said) const override {
    const auto choices = wire::at(event, {"choices"});
    if (!choices) return;
    auto elements = wire::Elements::of(*choices);
    while (const auto choice = elements.next()) {
      const auto fields = json::fields(*choice);
      if (!fields) continue;
      const Raw* index = fields->find("index");
      if (index != nullptr && json::to_integer(*index).value_or(0) != 0) continue;
      auto finish = string_in(*fields, "finish_reason");
      // What is no part of a stream has ended, whether the server says why or not.
      if (finish.empty() && fields->find("message") != nullptr) finish = "stop";
      if (!finish.empty()) said.finish = std::move(finish);
      const Raw* logprobs = fields->find("logprobs");
      if (logprobs != nullptr) wire::note_tokens(wire::at(*logprobs, {"content"}), "logprob", said);
    }
  }

  std::vector<std::string> streamed_error(const Envelope&, const Problem& problem) const override {
    return {"data: " + error(problem).body + "\n\ndata: [DONE]\n\n"};
  }
};

}  // namespace

const Codec& chat_codec() {
  static const ChatCodec codec;
  return codec;
}

}  // namespace sluice::llm
