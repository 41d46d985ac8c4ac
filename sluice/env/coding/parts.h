// What the coding environment is made with: options, which are values, and the parts of the process
// that it works with.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "sluice/agent/registry.h"
#include "sluice/env/coding/catalog.h"
#include "sluice/env/rollouts.h"
#include "sluice/gate/policy.h"
#include "sluice/json/value.h"
#include "sluice/net/shard.h"
#include "sluice/rollout/engine.h"

namespace sluice::env::coding {

// Where a black-box rollout's calls go, and what is asked of each, whatever its agent asks for.
struct Upstream {
  std::string base_url, key;
  bool disable_thinking = false;
  std::optional<int64_t> max_tokens_cap, top_logprobs;
};
// Makes the policy that forwards them, on the rollout's shard.
using MakeUpstream =
    std::function<Result<std::shared_ptr<gate::Policy>>(net::Shard* shard, const Upstream& where)>;

// How a trainer takes part in rollouts of the mode interception_gate.
struct TrainerAccess {
  // Whether one is there now. Any thread.
  std::function<bool()> attached;
  // How one attaches, as /metadata tells it.
  json::Object how;
  // A rollout that finds none after this long is refused.
  Duration patience = std::chrono::seconds(30);
};

struct CodingOptions {
  std::string agents_directory;
  std::string templates_directory;  // images that clients may name; "" for none
  Variables variables;              // the server's environment
  // What a rollout's task has besides what the client says: sandbox, time-outs, approvals.
  rollout::Task defaults;
  Duration step_timeout = std::chrono::seconds(900);
  MakeUpstream upstream;
  // Whether clients may name it; blocks. May be empty: they may name any.
  std::function<Result<void>(const std::string& base_url)> check_upstream;
  // The bundle of an agent on this host, installed if need be; blocks. May be empty for agents
  // without one.
  std::function<Result<std::string>(const agent::Spec& spec)> bundle;
  std::optional<TrainerAccess> trainer;
};

// All must outlive the factory.
struct CodingParts {
  net::Shard& server;
  net::BlockingPool& pool;
  rollout::Engine& engine;  // its shards are others than the server's
  RolloutBoard& board;
};

}  // namespace sluice::env::coding
