// The coding environment: OpenEnv's coding_agent_env, whose one tool, run_rollout, runs a coding
// agent in a sandbox and returns what came of it. docs/openenv.md says what is the same and what is
// better than there.
//
// The factory and its environments live on the server's shard. Rollouts are the engine's and live
// on its shards; only values travel between the two.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "sluice/env/coding/parts.h"
#include "sluice/env/environment.h"

namespace sluice::env::coding {

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
