#include "sluice/llm/openai.h"

#include <fmt/format.h>

#include <algorithm>

#include "sluice/json/text.h"
#include "sluice/llm/wire.h"

namespace sluice::llm::openai {
namespace {

std::string_view error_type(const Problem& problem, int status) {
  if (problem.end_agent) return "invalid_request_error";
  constexpr wire::ErrorShape kShapes[] = {{400, 400, "invalid_request_error"},
                                          {500, 500, "server_error"},
                                          {401, 401, "authentication_error"},
                                          {403, 403, "permission_error"},
                                          {429, 429, "rate_limit_error"}};
  return wire::shape_of(status, kShapes).type;
}

}  // namespace

BadRequest missing(std::string_view param) {
  return {fmt::format("Missing required parameter: '{}'.", param), std::string(param),
          "missing_required_parameter"};
}

BadRequest invalid(std::string_view param, std::string_view wanted, const json::Raw& found) {
  return {fmt::format("Invalid type for '{}': expected {}, but got {}.", param, wanted,
                      json::to_string(found.type)),
          std::string(param), "invalid_type"};
}

BadRequest unreadable(const Error& error) {
  return {"We could not parse the JSON body of your request: " + error.message, "", ""};
}

Admitted<std::string> read_model(const Field& field) {
  if (!wire::given(field)) return missing("model");
  auto model = json::to_text(field->value);
  if (!model) return invalid("model", "a string", field->value);
  if (model->empty() || model->size() > kMaxModelName) {
    return BadRequest{"Invalid 'model': 1 to 512 characters are expected.", "model", ""};
  }
  return std::move(*model);
}

std::optional<BadRequest> read_stream_and_tools(std::span<const Field> fields, Peek& peek) {
  if (const Field& field = fields[kStream]; wire::given(field)) {
    const auto stream = json::to_bool(field->value);
    if (!stream) return invalid("stream", "a boolean", field->value);
    peek.stream = *stream;
  }
  if (const Field& field = fields[kTools]; wire::given(field)) {
    if (!field->value.is(json::Type::kArray)) return invalid("tools", "an array", field->value);
    peek.has_tools = field->count > 0;
  }
  return std::nullopt;
}

std::optional<BadRequest> read_conversation(std::string_view name, const json::Peeked& field,
                                            Peek& peek) {
  if (field.count == 0) {
    return BadRequest{
        fmt::format("Invalid '{}': empty array. Expected an array with minimum length 1.", name),
        std::string(name), "empty_array"};
  }
  peek.conversation = field.value;
  peek.messages = field.count;
  return std::nullopt;
}

std::optional<BadRequest> judge_elements(std::string_view name, const json::Peeked& field,
                                         bool (*is_message)(std::string_view type),
                                         std::span<const wire::RoleName> roles) {
  return wire::judge_fresh(
      field, [&](size_t index, const wire::ElementHead& head) -> std::optional<BadRequest> {
        const bool object = head.type == json::Type::kObject;
        if (object && (!is_message(head.kind) || wire::role_of(head.role, roles, name))) {
          return std::nullopt;
        }
        const std::string place = fmt::format("{}[{}]", name, index);
        if (!object) {
          return BadRequest{fmt::format("Invalid type for '{}': expected an object.", place), place,
                            "invalid_type"};
        }
        return BadRequest{fmt::format("Invalid value: '{}'. Supported values are: {}.", head.role,
                                      wire::names_of(roles)),
                          place + ".role", "invalid_value"};
      });
}

bool calls_tools(const Answer& answer) {
  return std::any_of(answer.choices.begin(), answer.choices.end(),
                     [](const Choice& choice) { return !choice.message.tool_calls.empty(); });
}

void fit(Answer& answer, std::span<const ToolOffer> tools) {
  for (Choice& choice : answer.choices) {
    for (ToolCall& call : choice.message.tool_calls) {
      const auto tool = std::find_if(tools.begin(), tools.end(),
                                     [&](const ToolOffer& each) { return each.name == call.name; });
      if (tool == tools.end()) continue;  // the agent says that it has no such tool
      const bool custom = tool->kind == "custom";
      call.kind = custom ? ToolCall::Kind::kCustom : ToolCall::Kind::kFunction;
      call.space = tool->space;
    }
  }
}

int error_status(const Problem& problem) {
  // Of all statuses, 400 makes agents of these dialects give up at once.
  if (problem.end_agent) return 400;
  const int status = http_status(problem.kind);
  return status == 499 ? 503 : status;
}

void append_error_object(Bytes& out, const Problem& problem) {
  wire::Members members(out);
  members.text("message", problem.told());
  members.text("type", error_type(problem, error_status(problem)));
  members.text_or_null("param", problem.param);
  members.text_or_null("code", problem.code);
}

ErrorReply OpenAiCodec::error(const Problem& problem) const {
  return {error_status(problem), wire::object([&](wire::Members& members) {
            append_error_object(members["error"], problem);
          })};
}

std::string OpenAiCodec::models(std::span<const std::string> names) const {
  return wire::object([&](wire::Members& members) {
    members.text("object", "list");
    append_models(members["data"], names);
  });
}

void OpenAiCodec::describe(wire::Members& members, std::string_view name) const {
  members.text("id", name);
  members.text("object", "model");
  members.number("created", 0);
  members.text("owned_by", "sluice");
}

}  // namespace sluice::llm::openai
