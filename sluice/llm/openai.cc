#include "sluice/llm/openai.h"

#include <fmt/format.h>

#include "sluice/json/text.h"
#include "sluice/llm/wire.h"

namespace sluice::llm::openai {
namespace {

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

void append_model(Bytes& out, std::string_view name) {
  wire::Members members(out);
  members.text("id", name);
  members.text("object", "model");
  members.number("created", 0);
  members.text("owned_by", "sluice");
  members.close();
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

tl::expected<std::string, BadRequest> read_model(const std::optional<json::Peeked>& field) {
  if (!wire::given(field)) return tl::unexpected(missing("model"));
  const auto model = json::to_text(field->value);
  if (!model) return tl::unexpected(invalid("model", "a string", field->value));
  if (model->empty() || model->size() > kMaxModelName) {
    return tl::unexpected(
        BadRequest{"Invalid 'model': 1 to 512 characters are expected.", "model", ""});
  }
  return *model;
}

int error_status(const Problem& problem) {
  // Of all statuses, 400 makes agents of these dialects give up at once.
  if (problem.end_agent) return 400;
  const int status = http_status(problem.kind);
  return status == 499 ? 503 : status;
}

std::string told(const Problem& problem) {
  return problem.end_agent ? neutral(problem.message) : problem.message;
}

void append_error_object(Bytes& out, const Problem& problem) {
  wire::Members members(out);
  members.text("message", told(problem));
  members.text("type", error_type(problem, error_status(problem)));
  members.text_or_null("param", problem.param);
  members.text_or_null("code", problem.code);
  members.close();
}

ErrorReply error(const Problem& problem) {
  ErrorReply reply;
  reply.status = error_status(problem);
  wire::Members members(reply.body);
  append_error_object(members["error"], problem);
  members.close();
  return reply;
}

std::string models(std::span<const std::string> names) {
  Bytes out;
  wire::Members members(out);
  members.text("object", "list");
  wire::append_list(members["data"], names,
                    [&](const std::string& name) { append_model(out, name); });
  members.close();
  return out;
}

std::string model(std::string_view name) {
  Bytes out;
  append_model(out, name);
  return out;
}

}  // namespace sluice::llm::openai
