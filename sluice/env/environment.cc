#include "sluice/env/environment.h"

#include <algorithm>

namespace sluice::env {

std::string_view to_string(CancelReason reason) {
  constexpr std::string_view names[] = {"none", "client_gone", "timed_out", "requested",
                                        "stopping"};
  return names[static_cast<size_t>(reason)];
}

bool is_reserved_tool_name(std::string_view name) {
  constexpr std::string_view reserved[] = {"reset", "step", "state", "close"};
  return std::find(std::begin(reserved), std::end(reserved), name) != std::end(reserved);
}

json::Object text_output_schema() {
  json::Object properties{{"result", json::Object{{"type", "string"}}}};
  json::Array required;
  required.push_back(json::Value("result"));
  return {{"type", "object"},
          {"properties", std::move(properties)},
          {"required", std::move(required)},
          // FastMCP's mark: the result is the text and not the object around it.
          {"x-fastmcp-wrap-result", true}};
}

awaitable<Result<Observation>> Environment::step(json::Object /*action*/,
                                                 CallContext* /*context*/) {
  co_return Error(ErrorCode::kUnsupported, "this environment takes no actions of its own");
}

awaitable<Result<ToolResult>> Environment::call_tool(std::string name, json::Object /*arguments*/,
                                                     CallContext* /*context*/) {
  co_return Error(ErrorCode::kNotFound, "Unknown tool: '" + name + "'");
}

awaitable<void> Environment::close() {
  co_return;
}

std::shared_ptr<const Tools> EnvironmentFactory::tools() {
  return nullptr;
}

std::vector<Listing> EnvironmentFactory::listings() {
  return {};
}

json::Object EnvironmentFactory::extra_metadata() {
  return {};
}

}  // namespace sluice::env
