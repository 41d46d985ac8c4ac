// The coding environment: OpenEnv's coding_agent_env, whose one tool, run_rollout, runs a coding
// agent in a sandbox and returns what came of it. docs/openenv.md says what is the same and what is
// better than there.
//
// The factory and its environments live on the server's shard. Rollouts are the engine's and live
// on its shards; only values travel between the two.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sluice/agent/registry.h"
#include "sluice/env/coding/catalog.h"
#include "sluice/env/environment.h"
#include "sluice/env/rollouts.h"
#include "sluice/gate/gate.h"
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

class CodingFactory final : public EnvironmentFactory {
 public:
  CodingFactory(CodingParts parts, CodingOptions options);
  ~CodingFactory() override;
  CodingFactory(const CodingFactory&) = delete;
  CodingFactory& operator=(const CodingFactory&) = delete;

  const EnvironmentInfo& info() const override;
  // Agents come and go with the files of the user's folder, and the tool's text names them.
  std::shared_ptr<const Tools> tools() override;
  awaitable<Result<std::unique_ptr<Environment>>> create(std::string session) override;
  std::vector<Listing> listings() override;
  json::Object extra_metadata() override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sluice::env::coding
