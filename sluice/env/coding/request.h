// RolloutRequest: the arguments of the tool run_rollout, checked in the order and with the words of
// OpenEnv's coding environment.
//
// Plain values; any thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sluice/agent/registry.h"
#include "sluice/base/core/result.h"
#include "sluice/env/coding/catalog.h"
#include "sluice/env/environment.h"
#include "sluice/json/value.h"

namespace sluice::env::coding {

struct RolloutRequest {
  agent::Spec spec;
  Endpoint endpoint;
  std::string instruction;
  std::vector<std::string> setup, verify;
  std::string task_id;
  std::string mode;  // as given: an unknown one is told in the rollout's result
  bool disable_thinking = false;
  std::optional<int64_t> max_tokens_cap;
  std::optional<int64_t> top_logprobs;  // as given; a negative number is none
  double agent_timeout_s = 600;
  std::string template_name;
  std::string image;  // what the template is, when it has been found
};

// The tool as it stands in lists.
Tool rollout_tool(const std::vector<std::string>& agents);

// The names of the agents that can be run.
std::vector<std::string> agent_names(const agent::Registry& registry);

// What the tool's schema gives for top_logprobs. Whoever asks for this asks for nothing that a
// client which sends every default does not, so it is not asked of a model endpoint, which may
// refuse it.
int64_t default_top_logprobs();
// The same of max_tokens_cap. A server may have another, which then stands in its place.
int64_t default_max_tokens_cap();

// `arguments` fit the tool's input schema; what is left out has its default. An error's message is
// told to the client.
Result<RolloutRequest> parse_request(const json::Object& arguments, const agent::Registry& registry,
                                     const Variables& variables);

}  // namespace sluice::env::coding
