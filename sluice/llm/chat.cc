#include "sluice/llm/chat.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "sluice/json/text.h"

namespace sluice::llm {
namespace {

using json::Raw;
using json::Type;

constexpr uint32_t kMaxChoices = 128;  // as OpenAI limits n
constexpr size_t kMaxSystemMessages = 8;

// Raw bytes in a JSON text that is built by hand.
Bytes& operator<<(Bytes& out, std::string_view text) {
  return out.append(text);
}

BadRequest missing(std::string_view param) {
  return {fmt::format("Missing required parameter: '{}'.", param), std::string(param),
          "missing_required_parameter"};
}
BadRequest invalid(std::string_view param, std::string_view wanted, const Raw& found) {
  return {fmt::format("Invalid type for '{}': expected {}, but got {}.", param, wanted,
                      json::to_string(found.type)),
          std::string(param), "invalid_type"};
}

bool given(const std::optional<json::Peeked>& field) {
  return field && !field->value.is(Type::kNull);
}

// Text out of a string, or out of an array of parts of which some are text.
Result<std::string> text_of(const Raw& content, std::string* refusal) {
  if (content.is(Type::kString)) return json::to_text(content);
  if (!content.is(Type::kArray)) return std::string();
  SLUICE_TRY(const auto parts, json::elements(content));
  std::string out;
  for (const Raw& part : parts) {
    if (!part.is(Type::kObject)) continue;
    SLUICE_TRY(const auto fields, json::fields(part));
    const Raw* text = fields.find("text");
    if (text != nullptr && text->is(Type::kString)) {
      SLUICE_TRY(const std::string piece, json::to_text(*text));
      if (!out.empty()) out.push_back('\n');
      out.append(piece);
    }
    const Raw* no = fields.find("refusal");
    if (refusal != nullptr && no != nullptr && no->is(Type::kString)) {
      SLUICE_TRY(*refusal, json::to_text(*no));
    }
  }
  return out;
}

Result<std::string> string_in(const json::RawObject& fields, std::string_view name) {
  const Raw* value = fields.find(name);
  if (value == nullptr || !value->is(Type::kString)) return std::string();
  return json::to_text(*value);
}

Result<ToolCall> parse_tool_call(const Raw& value) {
  SLUICE_TRY(const auto fields, json::fields(value));
  ToolCall call;
  SLUICE_TRY(call.id, string_in(fields, "id"));
  if (const Raw* function = fields.find("function"); function != nullptr) {
    SLUICE_TRY(const auto inner, json::fields(*function));
    SLUICE_TRY(call.name, string_in(inner, "name"));
    SLUICE_TRY(call.arguments, string_in(inner, "arguments"));
  } else if (const Raw* custom = fields.find("custom"); custom != nullptr) {
    SLUICE_TRY(const auto inner, json::fields(*custom));
    SLUICE_TRY(call.name, string_in(inner, "name"));
    SLUICE_TRY(call.arguments, string_in(inner, "input"));
  }
  return call;
}

Result<Message> parse_message(const Raw& value) {
  SLUICE_TRY(const auto fields, json::fields(value));
  Message message;
  message.raw = value.text;
  SLUICE_TRY(const std::string role, string_in(fields, "role"));
  if (role == "system" || role == "developer") {
    message.role = Role::kSystem;
  } else if (role == "user") {
    message.role = Role::kUser;
  } else if (role == "assistant") {
    message.role = Role::kAssistant;
  } else if (role == "tool" || role == "function") {
    message.role = Role::kTool;
  } else {
    return Error(ErrorCode::kInvalidArgument, fmt::format("messages: no such role: '{}'", role),
                 ErrorOrigin::kAgent);
  }
  if (const Raw* content = fields.find("content"); content != nullptr) {
    SLUICE_TRY(message.text, text_of(*content, &message.refusal));
  }
  // vLLM and others call it "reasoning".
  SLUICE_TRY(message.reasoning, string_in(fields, "reasoning_content"));
  if (message.reasoning.empty()) {
    SLUICE_TRY(message.reasoning, string_in(fields, "reasoning"));
  }
  if (const Raw* refusal = fields.find("refusal");
      refusal != nullptr && refusal->is(Type::kString)) {
    SLUICE_TRY(message.refusal, json::to_text(*refusal));
  }
  if (const Raw* calls = fields.find("tool_calls"); calls != nullptr && calls->is(Type::kArray)) {
    SLUICE_TRY(const auto list, json::elements(*calls));
    for (const Raw& element : list) {
      SLUICE_TRY(ToolCall call, parse_tool_call(element));
      message.tool_calls.push_back(std::move(call));
    }
  }
  SLUICE_TRY(message.tool_call_id, string_in(fields, "tool_call_id"));
  return message;
}

void append_tool_call(Bytes& out, const ToolCall& call, std::optional<size_t> index) {
  out << "{";
  if (index) out << "\"index\":" << std::to_string(*index) << ",";
  out << "\"id\":";
  json::append_string(out, call.id);
  out << ",\"type\":\"function\",\"function\":{\"name\":";
  json::append_string(out, call.name);
  out << ",\"arguments\":";
  json::append_string(out, call.arguments);
  out << "}}";
}

void append_usage(Bytes& out, const Usage& usage) {
  out << "\"usage\":{\"prompt_tokens\":" << std::to_string(usage.prompt_tokens)
      << ",\"completion_tokens\":" << std::to_string(usage.completion_tokens)
      << ",\"total_tokens\":" << std::to_string(usage.prompt_tokens + usage.completion_tokens)
      << "}";
}

void append_message(Bytes& out, const Message& message) {
  out << "{\"role\":\"assistant\",\"content\":";
  if (message.text.empty() && (!message.tool_calls.empty() || !message.refusal.empty())) {
    out << "null";
  } else {
    json::append_string(out, message.text);
  }
  out << ",\"refusal\":";
  if (message.refusal.empty()) {
    out << "null";
  } else {
    json::append_string(out, message.refusal);
  }
  if (!message.reasoning.empty()) {
    out << ",\"reasoning_content\":";
    json::append_string(out, message.reasoning);
  }
  if (!message.tool_calls.empty()) {
    out << ",\"tool_calls\":[";
    for (size_t i = 0; i < message.tool_calls.size(); ++i) {
      if (i > 0) out << ",";
      append_tool_call(out, message.tool_calls[i], std::nullopt);
    }
    out << "]";
  }
  out << "}";
}

// The frames of one streamed answer; every chunk opens with the same fields.
class ChunkWriter {
 public:
  explicit ChunkWriter(const Envelope& envelope) {
    head_ << "data: {\"id\":\"chatcmpl-" << envelope.id
          << "\",\"object\":\"chat.completion.chunk\",\"created\":"
          << std::to_string(envelope.created) << ",\"model\":";
    json::append_string(head_, envelope.model);
    head_ << ",\"choices\":[";
  }

  // `delta` is the inside of an object.
  void delta(size_t choice, std::string_view delta, std::string_view finish = {}) {
    out_ << head_ << "{\"index\":" << std::to_string(choice) << ",\"delta\":{" << delta
         << "},\"logprobs\":null,\"finish_reason\":";
    if (finish.empty()) {
      out_ << "null";
    } else {
      json::append_string(out_, finish);
    }
    out_ << "}]}\n\n";
  }

  void text(size_t choice, std::string_view field, std::string_view text) {
    if (text.empty()) return;
    Bytes inside;
    inside << "\"" << field << "\":";
    json::append_string(inside, text);
    delta(choice, inside);
  }

  void choice(size_t index, const Choice& choice) {
    const Message& message = choice.message;
    delta(index, "\"role\":\"assistant\",\"content\":\"\"");
    text(index, "reasoning_content", message.reasoning);
    text(index, "content", message.text);
    text(index, "refusal", message.refusal);
    for (size_t i = 0; i < message.tool_calls.size(); ++i) {
      Bytes inside("\"tool_calls\":[");
      append_tool_call(inside, message.tool_calls[i], i);
      inside << "]";
      delta(index, inside);
    }
    delta(index, "", to_string(choice.finish));
  }

  // A chunk that carries no choice.
  void bare(const std::optional<Usage>& usage) {
    out_ << head_ << "]";
    if (usage) append_usage(out_ << ",", *usage);
    out_ << "}\n\n";
  }

  Bytes take() && { return std::move(out_); }
  Bytes& out() { return out_; }

 private:
  Bytes head_;
  Bytes out_;
};

std::string_view error_type(const Problem& problem, int status) {
  if (problem.end_agent) return "invalid_request_error";
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 429:
      return "rate_limit_error";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

int error_status(const Problem& problem) {
  // Of all statuses, 400 makes agents of this dialect give up at once.
  if (problem.end_agent) return 400;
  const int status = http_status(problem.kind);
  return status == 499 ? 503 : status;
}

void append_error(Bytes& out, const Problem& problem) {
  out << "{\"error\":{\"message\":";
  json::append_string(out, problem.end_agent ? neutral(problem.message) : problem.message);
  out << ",\"type\":";
  json::append_string(out, error_type(problem, error_status(problem)));
  for (const auto& [name, value] :
       {std::pair<std::string_view, std::string_view>("param", problem.param),
        std::pair<std::string_view, std::string_view>("code", problem.code)}) {
    out << ",\"" << name << "\":";
    if (value.empty()) {
      out << "null";
    } else {
      json::append_string(out, value);
    }
  }
  out << "}}";
}

void append_model(Bytes& out, std::string_view name) {
  out << "{\"id\":";
  json::append_string(out, name);
  out << ",\"object\":\"model\",\"created\":0,\"owned_by\":\"sluice\"}";
}

class ChatCodec final : public Codec {
 public:
  tl::expected<Peek, BadRequest> peek(json::Peeker& peeker, const Bytes& body,
                                      const Target&) const override {
    enum Index { kModel, kMessages, kStream, kN, kStreamOptions, kTools, kCount };
    static constexpr std::array<std::string_view, kCount> kNames{
        "model", "messages", "stream", "n", "stream_options", "tools"};
    const auto found = peeker.fields(body, kNames);
    if (!found) {
      return tl::unexpected(BadRequest{
          "We could not parse the JSON body of your request: " + found.error().message, "", ""});
    }
    const auto& field = *found;
    Peek peek;
    if (!given(field[kModel])) return tl::unexpected(missing("model"));
    const auto model = json::to_text(field[kModel]->value);
    if (!model) return tl::unexpected(invalid("model", "a string", field[kModel]->value));
    if (model->empty() || model->size() > 512) {
      return tl::unexpected(
          BadRequest{"Invalid 'model': 1 to 512 characters are expected.", "model", ""});
    }
    peek.model = *model;

    if (!given(field[kMessages])) return tl::unexpected(missing("messages"));
    const Raw& messages = field[kMessages]->value;
    if (!messages.is(Type::kArray)) {
      return tl::unexpected(invalid("messages", "an array of objects", messages));
    }
    if (field[kMessages]->count == 0) {
      return tl::unexpected(
          BadRequest{"Invalid 'messages': empty array. Expected an array with minimum length 1.",
                     "messages", "empty_array"});
    }
    const auto first = json::element_at(messages, 0);
    if (!first || !*first || !(*first)->is(Type::kObject)) {
      return tl::unexpected(BadRequest{"Invalid type for 'messages[0]': expected an object.",
                                       "messages[0]", "invalid_type"});
    }
    peek.conversation = messages;
    peek.messages = field[kMessages]->count;

    if (given(field[kStream])) {
      const auto stream = json::to_bool(field[kStream]->value);
      if (!stream) return tl::unexpected(invalid("stream", "a boolean", field[kStream]->value));
      peek.stream = *stream;
    }
    if (given(field[kN])) {
      const auto n = json::to_integer(field[kN]->value);
      if (!n || *n < 1 || *n > kMaxChoices) {
        return tl::unexpected(BadRequest{
            fmt::format("Invalid 'n': an integer from 1 to {} is expected.", kMaxChoices), "n",
            "invalid_value"});
      }
      peek.n = static_cast<uint32_t>(*n);
    }
    if (given(field[kStreamOptions])) {
      const auto options = json::fields(field[kStreamOptions]->value);
      if (!options) {
        return tl::unexpected(invalid("stream_options", "an object", field[kStreamOptions]->value));
      }
      const Raw* usage = options->find("include_usage");
      peek.stream_usage = usage != nullptr && json::to_bool(*usage).value_or(false);
    }
    if (given(field[kTools])) {
      if (!field[kTools]->value.is(Type::kArray)) {
        return tl::unexpected(invalid("tools", "an array", field[kTools]->value));
      }
      peek.has_tools = field[kTools]->count > 0;
    }
    return peek;
  }

  Result<Request> parse(const Bytes& body) const override {
    SLUICE_TRY(const Raw root, json::read_value(body));
    SLUICE_TRY(const auto fields, json::fields(root));
    Request request;
    SLUICE_TRY(request.model, string_in(fields, "model"));
    const Raw* messages = fields.find("messages");
    if (messages == nullptr) {
      return Error(ErrorCode::kInvalidArgument, "messages: missing", ErrorOrigin::kAgent);
    }
    SLUICE_TRY(const auto list, json::elements(*messages));
    request.messages.reserve(list.size());
    for (const Raw& element : list) {
      SLUICE_TRY(Message message, parse_message(element));
      request.messages.push_back(std::move(message));
    }
    if (const Raw* tools = fields.find("tools"); tools != nullptr && tools->is(Type::kArray)) {
      request.tools = tools->text;
      SLUICE_TRY(const auto rows, json::elements(*tools));
      for (const Raw& row : rows) {
        SLUICE_TRY(const auto tool, json::fields(row));
        const Raw* inner = tool.find("function");
        if (inner == nullptr) inner = tool.find("custom");
        if (inner == nullptr) continue;
        SLUICE_TRY(const auto function, json::fields(*inner));
        SLUICE_TRY(std::string name, string_in(function, "name"));
        request.tool_names.push_back(std::move(name));
      }
    }
    if (const Raw* value = fields.find("temperature")) request.temperature = to_double(*value);
    if (const Raw* value = fields.find("top_p")) request.top_p = to_double(*value);
    for (const char* name : {"max_tokens", "max_completion_tokens"}) {
      if (const Raw* value = fields.find(name); value != nullptr && !request.max_tokens) {
        request.max_tokens = to_integer(*value);
      }
    }
    return request;
  }

  std::string system_text(const Peek& peek) const override {
    std::string out;
    ByteView rest = peek.conversation.text;
    for (size_t i = 0; i < std::min(peek.messages, kMaxSystemMessages); ++i) {
      rest.remove_prefix(1);  // '[', later ','
      const auto element = json::first_value(rest, &rest);
      if (!element) break;
      const auto message = parse_message(*element);
      if (!message || message->role != Role::kSystem) break;
      if (!out.empty()) out.push_back('\n');
      out.append(message->text);
      rest.remove_prefix(std::min(rest.find_first_not_of(" \n\r\t"), rest.size()));
      if (!rest.starts_with(',')) break;
    }
    return out;
  }

  std::optional<Message> turn_at(const Raw& conversation, const HistoryMark& mark) const override {
    if (const auto message = next_message(conversation, mark.bytes)) return message;
    // The messages before were written differently this time: count them.
    const auto element = json::element_at(conversation, mark.messages);
    if (!element || !*element) return std::nullopt;
    auto message = parse_message(**element);
    if (!message || message->role != Role::kAssistant) return std::nullopt;
    return std::move(*message);
  }

  std::string plain(const Envelope& envelope, const Answer& answer) const override {
    Bytes out;
    out << "{\"id\":\"chatcmpl-" << envelope.id
        << "\",\"object\":\"chat.completion\",\"created\":" << std::to_string(envelope.created)
        << ",\"model\":";
    json::append_string(out, envelope.model);
    out << ",\"choices\":[";
    for (size_t i = 0; i < answer.choices.size(); ++i) {
      if (i > 0) out << ",";
      out << "{\"index\":" << std::to_string(i) << ",\"message\":";
      append_message(out, answer.choices[i].message);
      out << ",\"logprobs\":null,\"finish_reason\":";
      json::append_string(out, to_string(answer.choices[i].finish));
      out << "}";
    }
    out << "]";
    if (answer.usage) append_usage(out << ",", *answer.usage);
    out << "}";
    return out;
  }

  std::string streamed(const Envelope& envelope, const Answer& answer) const override {
    ChunkWriter writer(envelope);
    for (size_t i = 0; i < answer.choices.size(); ++i) writer.choice(i, answer.choices[i]);
    if (envelope.stream_usage && answer.usage) writer.bare(answer.usage);
    writer.out() << "data: [DONE]\n\n";
    return std::move(writer).take();
  }

  std::string keep_alive(const Envelope& envelope) const override {
    ChunkWriter writer(envelope);
    writer.bare(std::nullopt);
    return std::move(writer).take();
  }

  ErrorReply error(const Problem& problem) const override {
    ErrorReply reply;
    reply.status = error_status(problem);
    append_error(reply.body, problem);
    return reply;
  }

  std::string streamed_error(const Problem& problem) const override {
    Bytes out("data: ");
    append_error(out, problem);
    out << "\n\ndata: [DONE]\n\n";
    return out;
  }

  std::string models(std::span<const std::string> names) const override {
    Bytes out("{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < names.size(); ++i) {
      if (i > 0) out << ",";
      append_model(out, names[i]);
    }
    out << "]}";
    return out;
  }

  std::string model(std::string_view name) const override {
    Bytes out;
    append_model(out, name);
    return out;
  }

 private:
  // The assistant message that begins behind the conversation's first `bytes` bytes.
  static std::optional<Message> next_message(const Raw& conversation, size_t bytes) {
    if (bytes == 0 || bytes >= conversation.text.size()) return std::nullopt;
    ByteView rest = conversation.text.substr(bytes);
    const size_t next = rest.find_first_not_of(" \n\r\t");
    if (next == ByteView::npos || rest[next] != ',') return std::nullopt;
    rest.remove_prefix(next + 1);
    const auto element = json::first_value(rest, &rest);
    if (!element || !element->is(Type::kObject)) return std::nullopt;
    auto message = parse_message(*element);
    if (!message || message->role != Role::kAssistant) return std::nullopt;
    return std::move(*message);
  }
};

}  // namespace

const Codec& chat_codec() {
  static const ChatCodec codec;
  return codec;
}

}  // namespace sluice::llm
