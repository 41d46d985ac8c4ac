#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "sluice/json/splice.h"
#include "sluice/json/text.h"
#include "sluice/llm/codecs.h"
#include "sluice/llm/gemini_url.h"
#include "sluice/llm/rewrite.h"
#include "sluice/llm/wire.h"

namespace sluice::llm {
namespace {

using json::Raw;
using json::Type;
using wire::append_line;
using wire::fields_of;
using wire::given;
using wire::Members;
using wire::string_in;

constexpr wire::RoleName kRoleNames[] = {{"", Role::kUser},
                                         {"user", Role::kUser},
                                         {"function", Role::kUser},
                                         {"tool", Role::kUser},  // as Google's SDK documents it
                                         {"model", Role::kAssistant}};
constexpr wire::FinishName kReasons[] = {{Finish::kStop, "STOP"},
                                         {Finish::kLength, "MAX_TOKENS"},
                                         {Finish::kContentFilter, "SAFETY"},
                                         {Finish::kContentFilter, "PROHIBITED_CONTENT"}};
constexpr wire::ErrorShape kErrors[] = {
    {400, 400, "INVALID_ARGUMENT"},  {500, 500, "INTERNAL"},    {401, 401, "UNAUTHENTICATED"},
    {403, 403, "PERMISSION_DENIED"}, {404, 404, "NOT_FOUND"},   {409, 409, "ABORTED"},
    {413, 413, "INVALID_ARGUMENT"},  {499, 503, "UNAVAILABLE"}, {429, 429, "RESOURCE_EXHAUSTED"},
    {501, 501, "UNIMPLEMENTED"},     {502, 503, "UNAVAILABLE"}, {503, 503, "UNAVAILABLE"},
    {504, 504, "DEADLINE_EXCEEDED"}};

BadRequest invalid(std::string_view param, std::string_view what) {
  return {fmt::format("Invalid value at '{}': {}", param, what), std::string(param), ""};
}

// --- Requests ------------------------------------------------------------------------------------

// A field under either of its two names.
const Raw* find(const json::RawObject& object, std::string_view camel, std::string_view snake) {
  const Raw* value = object.find(camel);
  return value != nullptr ? value : object.find(snake);
}

// A list's elements; a single one may stand for a list, as protobuf's JSON allows. None of what is
// neither.
Result<std::vector<Raw>> elements_of(const Raw& value) {
  if (value.is(Type::kObject)) return std::vector<Raw>{value};
  if (!value.is(Type::kArray)) return std::vector<Raw>();
  return json::elements(value);
}

Result<ToolCall> read_call(const Raw& value) {
  SLUICE_TRY(const auto fields, fields_of(value));
  ToolCall call;
  call.id = string_in(fields, "id");
  call.name = string_in(fields, "name");
  call.arguments = wire::text_in(fields, "args");
  if (call.arguments.empty()) call.arguments = "{}";
  return call;
}

// The result of a tool, and whose: the API lets both sides leave ids away.
struct ToolResult {
  Message message;
  std::string name;
};

// What a tool's response says: the text of its "output", "error", ..., else all of it.
Result<ToolResult> read_response(const Raw& value) {
  SLUICE_TRY(const auto fields, fields_of(value));
  ToolResult out;
  Message& message = out.message;
  message.role = Role::kTool;
  message.tool_call_id = string_in(fields, "id");
  out.name = string_in(fields, "name");
  const Raw* response = fields.find("response");
  if (!given(response)) return out;
  message.text = response->text;
  SLUICE_TRY(const auto members, fields_of(*response));
  for (const std::string_view name : {"output", "error", "result", "content"}) {
    const Raw* text = members.find(name);
    if (text == nullptr || !text->is(Type::kString)) continue;
    SLUICE_TRY(message.text, json::to_text(*text));
    break;
  }
  return out;
}

Result<void> read_part(const Raw& value, Message& message, std::vector<ToolResult>& results) {
  SLUICE_TRY(const auto part, fields_of(value));
  const std::string text = string_in(part, "text");
  const Raw* thought = part.find("thought");
  if (thought != nullptr && json::to_bool(*thought).value_or(false)) {
    append_line(message.reasoning, text);
  } else if (message.role == Role::kAssistant) {
    message.text.append(text);  // pieces of one text, as they were streamed
  } else {
    append_line(message.text, text);
  }
  if (const Raw* seal = find(part, "thoughtSignature", "thought_signature");
      seal != nullptr && seal->is(Type::kString) && message.reasoning_seal.empty()) {
    SLUICE_TRY(message.reasoning_seal, json::to_text(*seal));
  }
  if (const Raw* call = find(part, "functionCall", "function_call"); given(call)) {
    SLUICE_TRY(message.tool_calls.emplace_back(), read_call(*call));
  }
  if (const Raw* response = find(part, "functionResponse", "function_response"); given(response)) {
    SLUICE_TRY(ToolResult result, read_response(*response));
    result.message.raw = value.text;
    results.push_back(std::move(result));
  }
  return {};
}

// A content as a message in canonical form, and the results of tools in it. `bare` if it holds
// nothing else.
struct Parsed {
  Message message;
  std::vector<ToolResult> results;
  bool bare = false;
};
Result<Parsed> parse_content(const Raw& value, Role otherwise) {
  Parsed out;
  Message& message = out.message;
  message.raw = value.text;
  message.role = otherwise;
  if (value.is(Type::kString)) {  // of a system instruction: lenient servers take one
    SLUICE_TRY(message.text, json::to_text(value));
    return out;
  }
  if (otherwise == Role::kSystem && !value.is(Type::kObject)) return out;
  SLUICE_TRY(const auto fields, json::fields(value));
  const std::string role = string_in(fields, "role");
  if (otherwise != Role::kSystem) {
    SLUICE_TRY(message.role, wire::role_of(role, kRoleNames, "contents"));
  }
  const Raw* parts = fields.find("parts");
  if (!given(parts)) return out;
  SLUICE_TRY(const auto list, elements_of(*parts));
  for (const Raw& part : list) SLUICE_TRY_VOID(read_part(part, message, out.results));
  out.bare = !list.empty() && out.results.size() == list.size();
  return out;
}

Result<Message> parse_alone(const Raw& value) {
  SLUICE_TRY(Parsed parsed, parse_content(value, Role::kUser));
  return std::move(parsed.message);
}

// SDKs keep a content for each piece of a stream.
void join_pieces(Message& echo, Message next) {
  echo.text.append(std::exchange(next.text, {}));
  wire::join(echo, std::move(next));
}

// Gives ids to calls that came without, in their order, and to the results of them.
class Ids {
 public:
  void number(Message& message) {
    waiting_.clear();
    for (ToolCall& call : message.tool_calls) {
      ++calls_;
      if (call.id.empty()) call.id = fmt::format("call_{}", calls_);
      waiting_.emplace_back(call.name, call.id);
    }
  }
  void find(ToolResult& result) {
    if (!result.message.tool_call_id.empty()) return;
    const auto it = std::find_if(waiting_.begin(), waiting_.end(),
                                 [&](const auto& call) { return call.first == result.name; });
    if (it == waiting_.end()) return;
    result.message.tool_call_id = it->second;
    waiting_.erase(it);
  }

 private:
  size_t calls_ = 0;
  std::vector<std::pair<std::string, std::string>> waiting_;  // names and ids of the last message's
};

Result<void> read_tools(const Raw& tools, std::vector<ToolOffer>& out) {
  SLUICE_TRY(const auto list, elements_of(tools));
  for (const Raw& element : list) {
    SLUICE_TRY(const auto tool, fields_of(element));
    for (const auto& [name, value] : tool.fields) {
      if (name != "functionDeclarations" && name != "function_declarations") {
        ToolOffer& own = out.emplace_back();  // the vendor's: "googleSearch"
        own.name = own.kind = name;
        json::append_string(own.raw.append("{"), name);
        own.raw.append(":").append(value.text).append("}");
        continue;
      }
      SLUICE_TRY(const auto functions, elements_of(value));
      for (const Raw& function : functions) {
        SLUICE_TRY(const auto fields, fields_of(function));
        ToolOffer offer = wire::read_function(
            fields, function, {"parametersJsonSchema", "parameters_json_schema", "parameters"});
        if (!offer.name.empty()) out.push_back(std::move(offer));
      }
    }
  }
  return {};
}

// As a JSON schema, of which the older `parameters` take a part.
void append_function(Bytes& out, const ToolDefinition& tool) {
  Members members(out);
  members.text("name", tool.name);
  members.text_if_any("description", tool.description);
  members.raw("parametersJsonSchema", tool.parameters);
}

// The first list of functions in `tools`, where further ones belong: servers may refuse a second.
Result<std::optional<Raw>> find_functions(const Raw& tools) {
  SLUICE_TRY(const auto list, elements_of(tools));
  for (const Raw& element : list) {
    if (!element.is(Type::kObject)) continue;
    SLUICE_TRY(const auto tool, json::fields(element));
    const Raw* functions = find(tool, "functionDeclarations", "function_declarations");
    if (functions != nullptr && functions->is(Type::kArray)) return std::optional(*functions);
  }
  return std::optional<Raw>();
}

// `tools` ("" for none) with `functions` in it.
Result<std::string> with_functions(const Raw& tools, const std::string& functions) {
  const std::string tool = R"({"functionDeclarations":[)" + functions + "]}";
  if (tools.text.empty()) return "[" + tool + "]";
  SLUICE_TRY(const auto place, find_functions(tools));
  if (place) return wire::with_elements(tools.text, *place, functions);
  if (tools.is(Type::kObject)) return "[" + std::string(tools.text) + "," + tool + "]";
  return wire::with_elements(tools.text, tools, tool);
}

// --- Answers -------------------------------------------------------------------------------------

// Clients decode signatures and fail on one that is no base64.
bool is_base64(std::string_view text) {
  const size_t end = text.find_last_not_of('=') + 1;
  return !text.empty() && text.size() % 4 == 0 && text.size() - end <= 2 &&
         text.substr(0, end).find_first_not_of(
             "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") ==
             std::string_view::npos;
}

void append_parts(Bytes& out, const Message& message) {
  wire::List parts(out);
  if (!message.reasoning.empty()) {
    Members part(parts.next());
    part.text("text", message.reasoning);
    part.flag("thought", true);
  }
  // On the first call, else on the text.
  std::string_view seal = message.reasoning_seal;
  if (!is_base64(seal)) seal = {};
  const std::string_view text = message.text.empty() ? message.refusal : message.text;
  // An empty answer is an empty text: something must be there to be echoed.
  if (!text.empty() || message.tool_calls.empty()) {
    Members part(parts.next());
    part.text("text", text);
    if (message.tool_calls.empty()) part.text_if_any("thoughtSignature", seal);
  }
  for (const ToolCall& call : message.tool_calls) {
    Members part(parts.next());
    Members function(part["functionCall"]);
    function.text("id", call.id);
    function.text("name", call.name);
    wire::append_arguments(function["args"], call.arguments);
    function.close();
    part.text_if_any("thoughtSignature", std::exchange(seal, {}));
  }
}

// A response that ends a stream, or one that is all of the answer, says why it ended.
enum class More : uint8_t { kNo, kFollows };

Bytes response(const Envelope& envelope, const Answer& answer, More more) {
  int64_t index = 0;
  return wire::object([&](Members& members) {
    wire::append_list(members["candidates"], answer.choices, [&](Bytes& out, const Choice& choice) {
      Members candidate(out);
      Members content(candidate["content"]);
      append_parts(content["parts"], choice.message);
      content.text("role", "model");
      content.close();
      if (more == More::kNo) {
        candidate.text("finishReason", wire::word_of(choice.finish, kReasons));
      }
      candidate.number("index", index++);
    });
    if (answer.usage) {
      const auto [prompt, completion] = *answer.usage;
      Members usage(members["usageMetadata"]);
      usage.number("promptTokenCount", prompt);
      usage.number("candidatesTokenCount", completion);
      usage.number("totalTokenCount", prompt + completion);
    }
    members.text("modelVersion", envelope.model);
    members.text("responseId", envelope.id);
  });
}

Bytes event(const Envelope& envelope, const Answer& answer, More more) {
  return "data: " + response(envelope, answer, more) + "\n\n";
}

void leave_out(Message& message, const Sent& sent) {
  message.reasoning.erase(0, sent.reasoning);
  message.text.erase(0, sent.text);
}

// --- Errors --------------------------------------------------------------------------------------

const wire::ErrorShape& shape_of(const Problem& problem) {
  // Of all statuses, 400 makes agents of this dialect give up at once.
  return wire::shape_of(problem.end_agent ? 400 : http_status(problem.kind), kErrors);
}

Bytes error_body(const Problem& problem) {
  const wire::ErrorShape& shape = shape_of(problem);
  return wire::object([&](Members& members) {
    Members error(members["error"]);
    error.number("code", shape.status);
    error.text("message", problem.told());
    error.text("status", shape.type);
  });
}

// --- The codec -----------------------------------------------------------------------------------

constexpr Api kApi{.own_version = "/v1beta",
                   .client_headers = {"x-goog-api-client", "x-goog-api-key"},
                   .key_header = "x-goog-api-key",
                   .key_prefix = ""};

// In both spellings, and where a single part stands for a list.
constexpr std::string_view kToolIds[] = {
    "/contents/*/parts/*/functionCall/id",  "/contents/*/parts/*/functionResponse/id",
    "/contents/*/parts/*/function_call/id", "/contents/*/parts/*/function_response/id",
    "/contents/*/parts/functionCall/id",    "/contents/*/parts/functionResponse/id",
    "/contents/*/parts/function_call/id",   "/contents/*/parts/function_response/id"};

class GeminiCodec final : public Codec {
 public:
  std::string_view name() const override { return "gemini"; }
  const Api& api() const override { return kApi; }

  std::optional<Endpoint> endpoint(std::string_view path, std::string_view query) const override {
    constexpr std::string_view kModels = "/models/";
    if (!path.starts_with(kModels)) return std::nullopt;
    return gemini_endpoint(path.substr(kModels.size()), query);
  }

  std::string path_of(const Call& call) const override { return gemini_path(call); }

  Admitted<Peek> peek(json::Peeker& peeker, const json::Document& body,
                      const Target& target) const override {
    SLUICE_TRY(Prompt prompt, read_prompt(peeker, body, target));
    auto& [peek, field] = prompt;
    if (given(field[kCachedCamel]) || given(field[kCachedSnake])) {
      return invalid("cached_content", "Nothing is cached here: send the content itself.");
    }
    const auto& config = given(field[kConfigCamel]) ? field[kConfigCamel] : field[kConfigSnake];
    if (given(config)) {
      const auto fields = json::fields(config->value);
      if (!fields) return invalid("generation_config", "an object is expected");
      if (const Raw* count = find(*fields, "candidateCount", "candidate_count"); given(count)) {
        const auto n = json::to_integer(*count);
        if (!n || *n < 1 || *n > kMaxChoices) {
          return invalid("generation_config.candidate_count",
                         fmt::format("an integer from 1 to {} is expected", kMaxChoices));
        }
        peek.n = static_cast<uint32_t>(*n);
      }
    }
    const auto judge = [](size_t index,
                          const wire::ElementHead& head) -> std::optional<BadRequest> {
      const bool object = head.type == Type::kObject;
      if (object && wire::role_of(head.role, kRoleNames, "contents")) return std::nullopt;
      const std::string place = fmt::format("contents[{}]", index);
      if (!object) return invalid(place, "an object is expected");
      return BadRequest{"Please use a valid role: user, model.", place + ".role", ""};
    };
    if (auto bad = wire::judge_fresh(*field[kContents], judge)) return *bad;
    return std::move(peek);
  }

  Result<Request> parse(const Bytes& body) const override {
    SLUICE_TRY(const auto fields, wire::object_in(body));
    Request request;
    std::vector<Message>& messages = request.messages;
    if (const Raw* system = find(fields, "systemInstruction", "system_instruction");
        given(system)) {
      SLUICE_TRY(Parsed parsed, parse_content(*system, Role::kSystem));
      messages.push_back(std::move(parsed.message));
    }
    SLUICE_TRY(const auto list, wire::list_in(fields, "contents"));
    Ids ids;
    for (const Raw& element : list) {
      SLUICE_TRY(Parsed parsed, parse_content(element, Role::kUser));
      for (ToolResult& result : parsed.results) {
        ids.find(result);
        messages.push_back(std::move(result.message));
      }
      if (parsed.message.role == Role::kAssistant) ids.number(parsed.message);
      if (!parsed.bare) messages.push_back(std::move(parsed.message));
    }
    if (const Raw* tools = fields.find("tools"); given(tools)) {
      SLUICE_TRY_VOID(read_tools(*tools, request.tools));
    }
    if (const Raw* choice = find(fields, "toolConfig", "tool_config"); given(choice)) {
      request.tool_choice = choice->text;
    }
    if (const Raw* config = find(fields, "generationConfig", "generation_config"); given(config)) {
      SLUICE_TRY_VOID(read_config(*config, request));
    }
    return request;
  }

  Result<std::optional<WithTools>> with_tools(
      json::Peeker& peeker, const Bytes& body,
      std::span<const ToolDefinition> tools) const override {
    static constexpr std::array<std::string_view, 1> kNames{"tools"};
    SLUICE_TRY(const auto found, peeker.fields(body, kNames));
    const Raw own = given(found[0]) ? found[0]->value : Raw();
    std::vector<ToolOffer> offers;
    if (!own.text.empty()) SLUICE_TRY_VOID(read_tools(own, offers));
    std::vector<std::string> names;
    for (ToolOffer& offer : offers) names.push_back(std::move(offer.name));
    const std::string missing = wire::missing_tools(tools, names, append_function);
    if (missing.empty()) return std::optional<WithTools>();
    SLUICE_TRY(const std::string value, with_functions(own, missing));
    const std::array edits{json::Edit{"tools", value}};
    SLUICE_TRY(Bytes changed, json::splice(peeker, body, edits));
    return std::optional(WithTools{std::move(changed), "[" + missing + "]"});
  }

  Result<void> rewrite(Changes& changes, const Rewrite& rewrite) const override {
    SLUICE_TRY(json::Object config, changes.object("generationConfig"));
    if (rewrite.thinking == Thinking::kOff) {
      config["thinkingConfig"] = json::Object{{"thinkingBudget", 0}};
    }
    if (const auto most = rewrite.max_tokens_cap) {
      const auto asked = json::get_integer(config, "maxOutputTokens");
      config["maxOutputTokens"] = std::min(asked.value_or(*most), *most);
    }
    if (rewrite.top_logprobs) {
      config["responseLogprobs"] = true;
      config["logprobs"] = *rewrite.top_logprobs;
    }
    changes.set("generationConfig", config);
    return {};
  }

  std::string system_text(const Peek& peek) const override {
    if (peek.system.text.empty()) return {};
    const auto parsed = parse_content(peek.system, Role::kSystem);
    return parsed ? parsed->message.text : std::string();
  }

  std::optional<Message> echo_at(const Raw& conversation, const HistoryMark& mark) const override {
    return wire::echo_at(conversation, mark, parse_alone, join_pieces);
  }

  void join(Message& echo, Message next) const override { join_pieces(echo, std::move(next)); }

  Admitted<std::string> count_tokens(json::Peeker& peeker, const Bytes& body,
                                     const Target& target) const override {
    // Either the prompt itself, or a whole request inside.
    static constexpr std::array<std::string_view, 2> kWrappers{"generateContentRequest",
                                                               "generate_content_request"};
    const auto found = peeker.fields(body, kWrappers);
    if (!found) return unreadable(found.error());
    for (const auto& wrapper : *found) {
      if (given(wrapper)) return count_prompt(peeker, Bytes(wrapper->value.text), target);
    }
    return count_prompt(peeker, body, target);
  }

  std::span<const std::string_view> tool_id_paths() const override { return kToolIds; }

  std::string plain(const Envelope& envelope, const Answer& answer) const override {
    return response(envelope, answer, More::kNo);
  }

  std::string streamed(const Envelope& envelope, const Answer& answer) const override {
    // In one piece: Gemini CLI runs a tool call that it has got of a stream that then broke, and
    // again of the one that it gets instead.
    if (envelope.framing == Framing::kArray)
      return "[" + response(envelope, answer, More::kNo) + "]";
    if (!envelope.sent.any()) return event(envelope, answer, More::kNo);
    Answer rest = answer;
    leave_out(rest.choices.front().message, envelope.sent);
    return event(envelope, rest, More::kNo);
  }

  std::string piece(Envelope& envelope, const Message& so_far) const override {
    if (envelope.framing == Framing::kArray) return {};
    if (!wire::has_more(envelope.sent, so_far)) return {};
    Answer more;
    more.choices.emplace_back().message = so_far;
    leave_out(more.choices.front().message, envelope.sent);
    wire::note_sent(envelope.sent, so_far);
    return event(envelope, more, More::kFollows);
  }

  std::string_view stream_type(const Envelope& envelope) const override {
    return envelope.framing == Framing::kArray ? "application/json; charset=utf-8"
                                               : Codec::stream_type(envelope);
  }

  // An empty line, which both framings and every client skip. A comment makes Gemini CLI throw the
  // reply away; a response without candidates makes the SDKs' chats forget what was said.
  std::string keep_alive(const Envelope&) const override { return "\n"; }

  // A stream that is one array comes as a whole.
  void note(const Raw& event, Said& said) const override {
    auto parts = wire::Elements::of(event);
    while (const auto part = parts.next()) note(*part, said);
    const auto candidates = wire::at(event, {"candidates"});
    const auto candidate = candidates ? wire::Elements::of(*candidates).next() : std::nullopt;
    if (!candidate) return;
    if (const auto content = wire::at(*candidate, {"content", "parts"})) {
      auto pieces = wire::Elements::of(*content);
      while (const auto piece = pieces.next()) {
        said.calls_tools |= wire::at(*piece, {"functionCall"}).has_value();
      }
    }
    if (auto reason = wire::text_at(*candidate, {"finishReason"}); !reason.empty()) {
      said.finish = wire::finish_of(std::move(reason), kReasons);
      if (said.calls_tools && said.finish == "stop") said.finish = "tool_calls";
    }
    wire::note_tokens(wire::at(*candidate, {"logprobsResult", "chosenCandidates"}),
                      "logProbability", said);
  }

  ErrorReply error(const Problem& problem) const override {
    return {shape_of(problem).status, error_body(problem)};
  }

  // First as the vendor does it, the body without an event around it, which its SDKs look for only
  // where it comes alone. Others skip that; to them a stream that ends without a reason is one to
  // ask for again, at once and for ever, and of all reasons this one makes them give up.
  std::vector<std::string> streamed_error(const Envelope& envelope,
                                          const Problem& problem) const override {
    if (envelope.framing == Framing::kArray) return {"[" + error_body(problem) + "]"};
    return {error_body(problem) + "\n",
            "data: {\"candidates\":[{\"finishReason\":\"PROHIBITED_CONTENT\",\"index\":0}]}\n\n"};
  }

  std::string models(std::span<const std::string> names) const override {
    return wire::object([&](Members& members) { append_models(members["models"], names); });
  }

  void describe(wire::Members& members, std::string_view name) const override {
    members.text("name", fmt::format("models/{}", name));
    members.text("version", "1");
    members.text("displayName", name);
    members.raw("supportedGenerationMethods",
                R"(["generateContent","streamGenerateContent","countTokens"])");
  }

 private:
  enum Index {
    kContents,
    kTools,
    kSystemCamel,
    kSystemSnake,
    kConfigCamel,
    kConfigSnake,
    kCachedCamel,
    kCachedSnake,
    kCount
  };
  struct Prompt {
    Peek peek;
    std::vector<std::optional<json::Peeked>> field;
  };

  static BadRequest unreadable(const Error& error) {
    return {"Invalid JSON payload received. " + error.message, "", ""};
  }

  static Admitted<Prompt> read_prompt(json::Peeker& peeker, const json::Document& body,
                                      const Target& target) {
    static constexpr std::array<std::string_view, kCount> kNames{
        "contents",          "tools",
        "systemInstruction", "system_instruction",
        "generationConfig",  "generation_config",
        "cachedContent",     "cached_content"};
    auto found = peeker.fields(body, kNames, kContents);
    if (!found) return unreadable(found.error());
    Prompt out{{}, std::move(*found)};
    const auto& field = out.field;
    Peek& peek = out.peek;
    peek.model = target.model;
    peek.stream = target.stream.value_or(false);
    peek.framing = target.framing;
    if (peek.model.empty() || peek.model.size() > kMaxModelName) {
      return invalid("model", "1 to 512 characters are expected");
    }
    if (!given(field[kContents]) || !field[kContents]->value.is(Type::kArray) ||
        field[kContents]->count == 0) {
      return BadRequest{"* GenerateContentRequest.contents: contents is not specified", "contents",
                        ""};
    }
    peek.conversation = field[kContents]->value;
    peek.messages = field[kContents]->count;
    if (given(field[kTools])) {
      const Raw& tools = field[kTools]->value;
      if (!tools.is(Type::kArray) && !tools.is(Type::kObject)) {
        return invalid("tools", "a list is expected");
      }
      peek.has_tools = tools.is(Type::kObject) || field[kTools]->count > 0;
    }
    for (const Index index : {kSystemCamel, kSystemSnake}) {
      if (given(field[index]) && peek.system.text.empty()) peek.system = field[index]->value;
    }
    return out;
  }

  static Admitted<std::string> count_prompt(json::Peeker& peeker, const json::Document& body,
                                            const Target& target) {
    SLUICE_TRY(const Prompt prompt, read_prompt(peeker, body, target));
    const auto& [peek, field] = prompt;
    const Raw tools = given(field[kTools]) ? field[kTools]->value : Raw();
    return wire::object([&](Members& members) {
      members.number("totalTokens", estimate_tokens({peek.system, peek.conversation, tools}));
    });
  }

  static Result<void> read_config(const Raw& config, Request& request) {
    SLUICE_TRY(const auto fields, json::fields(config));
    if (const Raw* value = fields.find("temperature")) request.temperature = to_double(*value);
    if (const Raw* value = find(fields, "topP", "top_p")) request.top_p = to_double(*value);
    if (const Raw* value = find(fields, "topK", "top_k")) {
      // A float in the vendor's description.
      if (const auto top_k = to_double(*value); top_k && *top_k >= 0 && *top_k < 1e9) {
        request.top_k = static_cast<int64_t>(*top_k);
      }
    }
    if (const Raw* value = find(fields, "maxOutputTokens", "max_output_tokens")) {
      request.max_tokens = to_integer(*value);
    }
    if (const Raw* value = find(fields, "stopSequences", "stop_sequences")) {
      SLUICE_TRY(request.stop, wire::strings_of(*value));
    }
    return {};
  }
};

}  // namespace

const Codec& gemini_codec() {
  static const GeminiCodec codec;
  return codec;
}

}  // namespace sluice::llm
