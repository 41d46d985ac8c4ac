#include "sluice/env/coding/request.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "sluice/env/coding/modes.h"
#include "sluice/env/embedded.h"
#include "sluice/env/python_text.h"

namespace sluice::env::coding {
namespace {

// The tool's arguments and their defaults, as the wire has them.
const json::Object& input_schema() {
  static const json::Object schema = std::move(json::parse(embedded::kRunRollout)->get_object());
  return schema;
}

const json::Value& default_of(std::string_view argument) {
  return input_schema().at("properties").at(argument).at("default");
}

Error refuse(std::string message) {
  return {ErrorCode::kInvalidArgument, std::move(message), ErrorOrigin::kCaller};
}

std::string text(const json::Object& arguments, std::string_view name) {
  const json::Value* given = arguments.if_contains(name);
  return std::string((given != nullptr ? *given : default_of(name)).as_string());
}

std::vector<std::string> commands(const json::Object& arguments, std::string_view name) {
  std::vector<std::string> out;
  const json::Array* list = json::get_array(arguments, name);
  if (list == nullptr) return out;
  for (const json::Value& row : *list) out.emplace_back(row.as_string());
  return out;
}

}  // namespace

Tool rollout_tool(const std::vector<std::string>& agents) {
  Tool tool;
  tool.name = "run_rollout";
  tool.description = fmt::format(
      "Run one coding-agent rollout end-to-end.\n\n"
      "``agent`` selects the command-line agent to run inside the sandbox: ``\"{}\"``.\n\n"
      "``endpoint`` is the shorthand for a model endpoint (one of ``\"vllm\"`` / ``\"openai\"`` / "
      "``\"hf_router\"``): the server resolves base_url, api_key and model from its environment "
      "variables and defaults. Pass any of those explicitly to override.\n\n"
      "``setup`` commands run before the agent, ``verify`` commands after it has ended; the reward "
      "is the number in /home/user/logs/verifier/reward.txt if they write one, else the share of "
      "verify commands that succeeded.\n\n"
      "``mode`` is ``\"black_box\"`` or ``\"interception_gate\"``. Returns a JSON-serialized "
      "``RolloutResult``.",
      fmt::join(agents, "\"``, ``\""));
  tool.input_schema = input_schema();
  tool.output_schema = text_output_schema();
  json::Object fastmcp;
  fastmcp["tags"] = json::Array();
  tool.meta["fastmcp"] = std::move(fastmcp);
  tool.defaults = Tool::Defaults::kLeftOut;
  return tool;
}

int64_t default_top_logprobs() {
  return default_of("top_logprobs").as_int64();
}

int64_t default_max_tokens_cap() {
  return default_of("max_tokens_cap").as_int64();
}

std::vector<std::string> agent_names(const agent::Registry& registry) {
  std::vector<std::string> names;
  for (const agent::Registry::Entry& entry : registry.list()) {
    if (entry.spec) names.push_back(entry.name);
  }
  return names;
}

Result<RolloutRequest> parse_request(const json::Object& arguments, const agent::Registry& registry,
                                     const Variables& variables) {
  RolloutRequest request;
  request.mode = text(arguments, "mode");
  request.endpoint.base_url = text(arguments, "base_url");
  request.endpoint.key = text(arguments, "api_key");
  request.endpoint.model = text(arguments, "model");
  if (const std::string kind = text(arguments, "endpoint"); !kind.empty()) {
    SLUICE_TRY(request.endpoint, resolve_endpoint(kind, std::move(request.endpoint), variables));
  }

  std::string name = text(arguments, "agent");
  if (name.empty()) name = default_of("agent").as_string();
  name = std::string(trimmed(name));
  // By name only: a client must not make the server read a path.
  const std::vector<std::string> names = agent_names(registry);
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    return refuse(fmt::format("unsupported agent {}; supported agents: {}",
                              python::repr(json::Value(name)), python_tuple(names)));
  }
  SLUICE_TRY(request.spec, registry.find(name));

  const Endpoint& endpoint = request.endpoint;
  const bool complete =
      !endpoint.base_url.empty() && !endpoint.key.empty() && !endpoint.model.empty();
  // Where a trainer answers, no endpoint is asked.
  if (!complete && request.mode != kGateMode) {
    return refuse(fmt::format(
        "must provide either ``endpoint`` (one of {}) or all of base_url + api_key + model",
        endpoint_names()));
  }
  request.instruction = text(arguments, "instruction");
  if (request.instruction.empty()) return refuse("instruction is required");

  std::string& url = request.endpoint.base_url;
  while (url.ends_with('/')) url.pop_back();
  request.setup = commands(arguments, "setup");
  request.verify = commands(arguments, "verify");
  request.task_id = text(arguments, "task_id");
  request.disable_thinking =
      json::get_bool(arguments, "disable_thinking").value_or(endpoint.thinking_off);
  const int64_t cap =
      json::get_integer(arguments, "max_tokens_cap").value_or(default_max_tokens_cap());
  if (cap > 0) request.max_tokens_cap = cap;
  const auto top = json::get_integer(arguments, "top_logprobs");
  if (top && *top >= 0) request.top_logprobs = top;
  request.agent_timeout_s = json::get_number(arguments, "agent_timeout_s").value_or(600);
  request.template_name = text(arguments, "template");
  return request;
}

}  // namespace sluice::env::coding
