// What `sluice run` needs whether it runs one rollout or many: input by its flags, results to files
// and to people.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "sluice/base/core/result.h"
#include "sluice/base/log.h"
#include "sluice/cli/commands.h"
#include "sluice/cli/trainer_side.h"
#include "sluice/gate/gate.h"
#include "sluice/net/shard.h"
#include "sluice/rollout/rollout.h"

namespace sluice::cli {

// The task of a file, as the flags change it.
Result<rollout::Task> read_task(const RunFlags& flags, const std::string& path);

struct AgentChoice {
  std::shared_ptr<const agent::Spec> spec;
  std::string bundle_path;
  llm::Dialect dialect = llm::Dialect::kChat;
};
// For all of `tasks`. Installs its bundle if need be.
Result<AgentChoice> choose_agent(const RunFlags& flags,
                                 const std::vector<const rollout::Task*>& tasks);

Result<gate::GateOptions> gate_options(const RunFlags& flags, const Logger& log);

// Who answers the rollouts of one shard. `names` looks up host names and must outlive the policy.
Result<rollout::PolicyChoice> choose_policy(const RunFlags& flags, net::Shard& shard,
                                            net::BlockingPool& names, const Logger& log);

// The trainer API, if that is who answers; else nothing.
Result<std::unique_ptr<TrainerSide>> start_trainer_side(const RunFlags& flags,
                                                        const gate::Handles& gate,
                                                        const std::string& directory,
                                                        const Logger& log);

// A new directory, or one that is there and empty; mode 0700. Its whole path.
Result<std::string> make_output_directory(const std::string& wanted);

// result.json, what the agent printed, and its artifacts.
Result<void> store_result(const std::string& directory, const rollout::RolloutResult& result);

// Lines for people on stdout.
void print_result(const std::string& directory, const rollout::RolloutResult& result);

int exit_code_of(rollout::ErrorKind kind);

}  // namespace sluice::cli
