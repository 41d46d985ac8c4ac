#include "sluice/env/coding/catalog.h"

#include <fmt/format.h>

#include "sluice/env/python_text.h"

namespace sluice::env::coding {
namespace {

std::string first_of(std::string given, std::string variable, std::string_view fallback) {
  if (!given.empty()) return given;
  return variable.empty() ? std::string(fallback) : variable;
}

std::string with_version(std::string url) {
  while (url.ends_with('/')) url.pop_back();
  if (!url.empty() && !url.ends_with("/v1")) url += "/v1";
  return url;
}

// Where the server's key of that kind may go.
std::string configured_url(const EndpointKind& kind, const Variables& variables) {
  return with_version(
      first_of("", variables(std::string(kind.base_url_variable)), kind.default_base_url));
}

Error missing(std::string_view kind, std::string_view what, std::string_view variable) {
  return {ErrorCode::kInvalidArgument,
          fmt::format("{}: no {} (set {} env var or pass {}=...)", kind, what, variable, what),
          ErrorOrigin::kCaller};
}

}  // namespace

const std::vector<EndpointKind>& endpoint_kinds() {
  static const std::vector<EndpointKind> kinds = {
      {"vllm", "VLLM_URL", "", "VLLM_API_KEY", "intercepted", "VLLM_MODEL", "Qwen/Qwen3.5-4B",
       true},
      {"openai", "OPENAI_BASE_URL", "https://api.openai.com/v1", "OPENAI_API_KEY", "",
       "OPENAI_MODEL", "gpt-4o-mini", false},
      {"hf_router", "HF_ROUTER_BASE_URL", "https://router.huggingface.co/v1", "HF_ROUTER_API_KEY",
       "", "HF_ROUTER_MODEL", "Qwen/Qwen3-4B-Instruct-2507:nscale", false},
  };
  return kinds;
}

Result<Endpoint> resolve_endpoint(std::string_view kind, Endpoint given,
                                  const Variables& variables) {
  for (const EndpointKind& row : endpoint_kinds()) {
    if (row.kind != kind) continue;
    const auto variable = [&](std::string_view name) {
      return variables(std::string(name));
    };
    Endpoint endpoint;
    const std::string ours = configured_url(row, variables);
    const std::string key = variable(row.key_variable);
    endpoint.base_url = given.base_url.empty() ? ours : with_version(std::move(given.base_url));
    if (given.key.empty() && !key.empty() && endpoint.base_url != ours) {
      return Error(ErrorCode::kInvalidArgument,
                   fmt::format("{}: this server's own key goes to its own base_url alone; pass "
                               "api_key=... with a base_url of yours",
                               kind),
                   ErrorOrigin::kCaller);
    }
    endpoint.key = first_of(std::move(given.key), key, row.default_key);
    endpoint.model =
        first_of(std::move(given.model), variable(row.model_variable), row.default_model);
    endpoint.thinking_off = row.thinking_off;
    if (endpoint.base_url.empty()) return missing(kind, "base_url", row.base_url_variable);
    if (endpoint.key.empty()) return missing(kind, "api_key", row.key_variable);
    if (endpoint.model.empty()) return missing(kind, "model", row.model_variable);
    return endpoint;
  }
  return Error(ErrorCode::kInvalidArgument,
               fmt::format("unknown endpoint kind: {}; expected one of {}",
                           python::repr(json::Value(kind)), endpoint_names()),
               ErrorOrigin::kCaller);
}

std::vector<std::string> configured_urls(const Variables& variables) {
  std::vector<std::string> urls;
  for (const EndpointKind& kind : endpoint_kinds()) {
    std::string url = configured_url(kind, variables);
    if (!url.empty()) urls.push_back(std::move(url));
  }
  return urls;
}

json::Array catalog_summary(const Variables& variables) {
  json::Array rows;
  for (const EndpointKind& kind : endpoint_kinds()) {
    json::Object row;
    row["kind"] = kind.kind;
    row["base_url_env"] = kind.base_url_variable;
    row["api_key_env"] = kind.key_variable;
    row["model_env"] = kind.model_variable;
    row["default_base_url"] =
        kind.default_base_url.empty() ? json::Value(nullptr) : json::Value(kind.default_base_url);
    row["default_model"] = kind.default_model;
    row["disable_thinking_default"] = kind.thinking_off;
    row["configured"] = resolve_endpoint(kind.kind, {}, variables).has_value();
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string endpoint_names() {
  std::vector<std::string> names;
  for (const EndpointKind& row : endpoint_kinds()) names.emplace_back(row.kind);
  return python_tuple(names);
}

std::string python_tuple(const std::vector<std::string>& names) {
  std::string text = "(";
  for (const std::string& name : names) {
    if (text.size() > 1) text += ", ";
    text += python::repr(json::Value(name));
  }
  return text + (names.size() == 1 ? ",)" : ")");
}

}  // namespace sluice::env::coding
