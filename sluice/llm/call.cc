#include "sluice/llm/call.h"

#include "sluice/llm/dialect.h"

namespace sluice::llm {

std::string_view to_string(Dialect dialect) {
  const Codec* const codec = find_codec(dialect);
  return codec == nullptr ? "unknown" : codec->name();
}

std::optional<Dialect> dialect_from(std::string_view name) {
  return from_string(kDialects, name);
}

std::string dialect_names() {
  std::string out;
  for (const Dialect dialect : kDialects) {
    if (!out.empty()) out.append(", ");
    out.append(to_string(dialect));
  }
  return out;
}

std::string_view to_string(Purpose purpose) {
  constexpr std::string_view names[] = {"main", "title", "summary", "subagent", "probe"};
  return names[static_cast<size_t>(purpose) % 5];
}

std::string_view to_string(Role role) {
  constexpr std::string_view names[] = {"system", "user", "assistant", "tool"};
  return names[static_cast<size_t>(role) % 4];
}

std::string_view to_string(ToolCall::Kind kind) {
  return kind == ToolCall::Kind::kCustom ? "custom" : "function";
}

std::string_view to_string(Finish finish) {
  constexpr std::string_view names[] = {"stop", "length", "tool_calls", "content_filter"};
  return names[static_cast<size_t>(finish) % 4];
}

std::string_view to_string(Origin origin) {
  constexpr std::string_view names[] = {"sampled", "edited", "canned", "injected"};
  return names[static_cast<size_t>(origin) % 4];
}

std::string_view to_string(Outcome outcome) {
  constexpr std::string_view names[] = {"delivered", "undelivered", "superseded",
                                        "refused",   "failed",      "cancelled"};
  return names[static_cast<size_t>(outcome) % 6];
}

Result<const Request*> Call::request() const {
  std::call_once(parsed_, [this] { request_ = std::make_unique<Result<Request>>(parse()); });
  if (!*request_) return request_->error();
  return &request_->value();
}

Result<Request> Call::parse() const {
  const Codec* const codec = find_codec(dialect);
  if (codec == nullptr) {
    return Error(ErrorCode::kUnsupported,
                 "the call's body cannot be read as " + std::string(to_string(dialect)));
  }
  SLUICE_TRY(const auto bytes, asked());
  SLUICE_TRY(Request request, codec->parse(*bytes));
  // Where the URL names the model, the body does not.
  if (request.model.empty()) request.model = model;
  return request;
}

}  // namespace sluice::llm
