#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "sluice/json/text.h"
#include "sluice/llm/codecs.h"
#include "sluice/llm/openai.h"
#include "sluice/llm/responses_answer.h"
#include "sluice/llm/rewrite.h"
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

using responses::kBetween;
constexpr wire::RoleName kRoleNames[] = {{"system", Role::kSystem},
                                         {"developer", Role::kSystem},
                                         {"user", Role::kUser},
                                         {"assistant", Role::kAssistant}};

// --- Items of a conversation ---------------------------------------------------------------------

ToolCall read_call(const json::RawObject& item, ToolCall::Kind kind) {
  ToolCall call;
  call.kind = kind;
  call.id = string_in(item, "call_id");
  call.name = string_in(item, "name");
  call.arguments = string_in(item, kind == ToolCall::Kind::kCustom ? "input" : "arguments");
  call.space = string_in(item, "namespace");
  if (!call.space.empty()) call.name = fmt::format("{}{}{}", call.space, kBetween, call.name);
  return call;
}

Result<void> read_reasoning(const json::RawObject& item, Message& message) {
  // The text itself where a server gives it, else the summary.
  for (const std::string_view name : {"content", "summary"}) {
    const Raw* parts = item.find(name);
    if (parts == nullptr || !parts->is(Type::kArray) || !message.reasoning.empty()) continue;
    SLUICE_TRY(const auto list, json::elements(*parts));
    for (const Raw& part : list) {
      append_line(message.reasoning, string_in(part, "text"));
    }
  }
  message.reasoning_seal = string_in(item, "encrypted_content");
  return {};
}

Result<Message> parse_message_item(const json::RawObject& item) {
  Message message;
  const std::string role = string_in(item, "role");
  SLUICE_TRY(message.role, wire::role_of(role, kRoleNames, "input"));
  if (const Raw* content = item.find("content"); content != nullptr) {
    SLUICE_TRY_VOID(wire::read_content(*content, message));
  }
  return message;
}

bool is_message(std::string_view type) {
  return type.empty() || type == "message";
}

// One item as a message of its own. What this does not know is the model's if it is a call, a
// tool's if it is an output, else the user's; its content is in `raw` alone.
Result<Message> parse_item(const Raw& value) {
  SLUICE_TRY(const auto item, json::fields(value));
  const std::string type = string_in(item, "type");
  Message message;
  if (is_message(type)) {
    SLUICE_TRY(message, parse_message_item(item));
  } else if (type == "function_call" || type == "custom_tool_call") {
    message.role = Role::kAssistant;
    const auto kind = type == "function_call" ? ToolCall::Kind::kFunction : ToolCall::Kind::kCustom;
    message.tool_calls.push_back(read_call(item, kind));
  } else if (type == "reasoning") {
    message.role = Role::kAssistant;
    SLUICE_TRY_VOID(read_reasoning(item, message));
  } else if (type.ends_with("_output")) {
    message.role = Role::kTool;
    message.tool_call_id = string_in(item, "call_id");
    if (const Raw* output = item.find("output"); output != nullptr) {
      SLUICE_TRY_VOID(wire::read_content(*output, message));
    }
  } else {
    message.role = type.ends_with("_call") ? Role::kAssistant : Role::kUser;
  }
  message.raw = value.text;
  return message;
}

// Adds an item to those that are one message of the assistant's.
void add_item(Message& message, Message item) {
  message.raw.append(message.raw.empty() ? "[" : ",").append(item.raw);
  wire::join(message, std::move(item));
}

// --- Tools ---------------------------------------------------------------------------------------

Result<void> read_tools(const Raw& tools, std::string_view space, std::vector<ToolOffer>& out) {
  SLUICE_TRY(const auto list, json::elements(tools));
  for (const Raw& element : list) {
    SLUICE_TRY(const auto tool, wire::fields_of(element));
    ToolOffer offer = wire::read_function(tool, element, {"parameters"});
    offer.kind = string_in(tool, "type");
    const Raw* inner = tool.find("tools");
    if (offer.kind == "namespace" && space.empty() && inner != nullptr && inner->is(Type::kArray)) {
      SLUICE_TRY_VOID(read_tools(*inner, offer.name, out));
      continue;
    }
    // The vendor's own tools (web_search, ...) have a type and no name.
    if (offer.name.empty()) offer.name = offer.kind;
    if (offer.name.empty()) continue;
    if (!space.empty()) {
      offer.space = space;
      offer.name = fmt::format("{}{}{}", space, kBetween, offer.name);
    }
    out.push_back(std::move(offer));
  }
  return {};
}

void append_tool(Bytes& out, const ToolDefinition& tool) {
  Members members(out);
  members.text("type", "function");
  members.text("name", tool.name);
  members.text_if_any("description", tool.description);
  members.raw("parameters", tool.parameters);
  // Left out it would mean true here, which asks more of a schema than being one.
  members.raw("strict", "false");
}

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
    if (string_in(*element, "type") != "item_reference") continue;
    return not_kept(fmt::format("input[{}]", i),
                    fmt::format("Item with id '{}' not found.", string_in(*element, "id")), "");
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

constexpr Api kApi{.call = "/responses", .count = "/responses/input_tokens"};
constexpr std::string_view kToolIds[] = {"/input/*/call_id"};

class ResponsesCodec final : public openai::OpenAiCodec {
 public:
  std::string_view name() const override { return "responses"; }
  const Api& api() const override { return kApi; }

  Admitted<Peek> peek(json::Peeker& peeker, const json::Document& body,
                      const Target&) const override {
    enum Index : size_t {
      kInput = openai::kFirstOwn,
      kInstructions,
      kPrevious,
      kConversation,
      kPrompt,
      kBackground
    };
    static constexpr std::array<std::string_view, 9> kNames{
        "model",        "stream", "tools",     "input", "instructions", "previous_response_id",
        "conversation", "prompt", "background"};
    const auto found = peeker.fields(body, kNames, kInput);
    if (!found) return openai::unreadable(found.error());
    const auto& field = *found;
    Peek peek;
    SLUICE_TRY(peek.model, openai::read_model(field[openai::kModel]));

    if (given(field[kPrevious])) {
      const auto id = json::to_text(field[kPrevious]->value);
      return not_kept("previous_response_id",
                      fmt::format("Previous response with id '{}' not found.", id.value_or("")),
                      "previous_response_not_found");
    }
    for (const Index index : {kConversation, kPrompt}) {
      if (!given(field[index])) continue;
      return not_kept(kNames[index], fmt::format("'{}' is not supported.", kNames[index]),
                      "unsupported_value");
    }
    if (given(field[kBackground]) && json::to_bool(field[kBackground]->value).value_or(true)) {
      return not_kept("background", "Background responses are not supported.", "unsupported_value");
    }

    if (!given(field[kInput])) return missing("input");
    const Raw& input = field[kInput]->value;
    if (input.is(Type::kString)) {
      peek.conversation = input;
      peek.messages = 1;
    } else if (!input.is(Type::kArray)) {
      return invalid("input", "a string or an array of items", input);
    } else if (auto bad = openai::read_conversation("input", *field[kInput], peek)) {
      return *bad;
    }
    if (auto reference = find_reference(input)) return *reference;
    if (auto bad = openai::read_stream_and_tools(field, peek)) return *bad;
    if (given(field[kInstructions])) {
      if (!field[kInstructions]->value.is(Type::kString)) {
        return invalid("instructions", "a string", field[kInstructions]->value);
      }
      peek.system = field[kInstructions]->value;
    }
    if (auto bad = openai::judge_elements("input", *field[kInput], is_message, kRoleNames)) {
      return *bad;
    }
    return peek;
  }

  Result<Request> parse(const Bytes& body) const override {
    SLUICE_TRY(const auto fields, wire::object_in(body));
    Request request;
    request.model = string_in(fields, "model");
    if (const Raw* instructions = fields.find("instructions"); given(instructions)) {
      Message& message = request.messages.emplace_back();
      message.role = Role::kSystem;
      message.raw = instructions->text;
      SLUICE_TRY_VOID(wire::read_content(*instructions, message));
    }
    const Raw* input = fields.find("input");
    if (input == nullptr) {
      return Error(ErrorCode::kInvalidArgument, "input: missing", ErrorOrigin::kAgent);
    }
    SLUICE_TRY_VOID(parse_input(*input, request.messages));
    if (const Raw* tools = fields.find("tools"); given(tools)) {
      SLUICE_TRY_VOID(read_tools(*tools, "", request.tools));
    }
    request.tool_choice = wire::text_in(fields, "tool_choice");
    SLUICE_TRY_VOID(wire::read_sampling(fields, {"", "max_output_tokens", ""}, request));
    return request;
  }

  Result<std::optional<WithTools>> with_tools(
      json::Peeker& peeker, const Bytes& body,
      std::span<const ToolDefinition> tools) const override {
    return wire::with_tools(peeker, body, tools, {wire::name_of, append_tool});
  }

  Result<void> rewrite(Changes& changes, const Rewrite& rewrite) const override {
    if (rewrite.thinking == Thinking::kOff) {
      SLUICE_TRY(json::Object reasoning, changes.object("reasoning"));
      reasoning["effort"] = "none";
      changes.set("reasoning", reasoning);
    }
    SLUICE_TRY_VOID(changes.cap({"max_output_tokens"}, rewrite.max_tokens_cap));
    if (!rewrite.top_logprobs) return {};
    constexpr std::string_view kLogprobs = "message.output_text.logprobs";
    json::Array include;
    SLUICE_TRY(const auto given, changes.find("include"));
    if (given) {
      SLUICE_TRY(json::Value value, json::parse(given->text));
      if (value.is_array()) include = std::move(value.as_array());
    }
    if (std::find(include.begin(), include.end(), json::Value(kLogprobs)) == include.end()) {
      include.emplace_back(kLogprobs);
    }
    changes.set("include", json::serialize(json::Value(std::move(include))));
    changes.set("top_logprobs", std::to_string(*rewrite.top_logprobs));
    return {};
  }

  std::string system_text(const Peek& peek) const override {
    const bool beside = !peek.system.text.empty();
    return wire::leading_system_text(beside ? json::to_text(peek.system).value_or("") : "",
                                     peek.conversation, parse_item);
  }

  std::optional<Message> echo_at(const Raw& conversation, const HistoryMark& mark) const override {
    return wire::echo_at(conversation, mark, parse_item, wire::join);
  }

  // A string is a user's message of that text.
  std::string canonical(const Raw& message) const override {
    if (message.is(Type::kString)) return "user " + json::to_text(message).value_or("");
    const auto item = json::fields(message);
    if (!item) return std::string(message.text);
    const std::string type = string_in(*item, "type");
    const Raw* content = item->find("content");
    if (!is_message(type) || string_in(*item, "role") != "user" || content == nullptr) {
      return std::string(message.text);
    }
    if (content->is(Type::kArray)) {
      // Only what a string could say as well.
      const auto parts = json::elements(*content);
      if (!parts || parts->size() != 1 || string_in(parts->front(), "type") != "input_text") {
        return std::string(message.text);
      }
    }
    Message read;
    if (!wire::read_content(*content, read)) return std::string(message.text);
    return "user " + read.text;
  }

  Admitted<std::string> count_tokens(json::Peeker& peeker, const Bytes& body,
                                     const Target&) const override {
    static constexpr std::array<std::string_view, 3> kNames{"input", "instructions", "tools"};
    const auto found = peeker.fields(body, kNames);
    if (!found) return openai::unreadable(found.error());
    const auto part = [&](size_t i) {
      return given((*found)[i]) ? (*found)[i]->value : Raw();
    };
    return wire::object([&](Members& members) {
      members.text("object", "response.input_tokens");
      members.number("input_tokens", estimate_tokens({part(0), part(1), part(2)}));
    });
  }

  std::span<const std::string_view> tool_id_paths() const override { return kToolIds; }

  void fit(const Call& call, Answer& answer) const override {
    if (!openai::calls_tools(answer)) return;
    if (const auto request = call.request()) openai::fit(answer, (*request)->tools);
  }

  std::string plain(const Envelope& envelope, const Answer& answer) const override {
    return responses::whole(envelope, answer);
  }

  std::string streamed(const Envelope& envelope, const Answer& answer) const override {
    return responses::EventWriter(envelope).rest(answer);
  }

  std::string piece(Envelope& envelope, const Message& so_far) const override {
    if (!wire::has_more(envelope.sent, so_far)) return {};
    return responses::EventWriter(envelope).piece(envelope, so_far);
  }

  // Codex counts events, not bytes, when it waits.
  std::string keep_alive(const Envelope& envelope) const override {
    return responses::EventWriter(envelope).keep_alive();
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

  // Both events that the vendor sends: SDKs raise at the first, Codex ends by the second.
  std::vector<std::string> streamed_error(const Envelope& envelope,
                                          const Problem& problem) const override {
    return {responses::EventWriter(envelope).failure(problem)};
  }

 private:
  static Result<void> parse_input(const Raw& input, std::vector<Message>& out) {
    if (input.is(Type::kString)) {
      Message& message = out.emplace_back();
      message.role = Role::kUser;
      message.raw = input.text;
      return wire::read_content(input, message);
    }
    SLUICE_TRY(const auto list, json::elements(input));
    std::optional<Message> said;  // by the assistant, in items up to now
    const auto end_said = [&] {
      if (!said) return;
      said->raw.push_back(']');
      out.push_back(*std::exchange(said, std::nullopt));
    };
    for (const Raw& element : list) {
      SLUICE_TRY(Message item, parse_item(element));
      if (item.role == Role::kAssistant) {
        if (!said) said.emplace();
        add_item(*said, std::move(item));
        continue;
      }
      end_said();
      out.push_back(std::move(item));
    }
    end_said();
    return {};
  }
};

}  // namespace

const Codec& responses_codec() {
  static const ResponsesCodec codec;
  return codec;
}

}  // namespace sluice::llm
