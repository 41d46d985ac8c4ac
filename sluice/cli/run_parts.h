// What `sluice run` needs whether it runs one rollout or many: input by its flags, results to files
// and to people.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "sluice/base/core/result.h"
#include "sluice/base/log.h"
#include "sluice/cli/commands.h"
#include "sluice/cli/display.h"
#include "sluice/json/value.h"
#include "sluice/net/shard.h"
#include "sluice/rollout/rollout.h"

namespace sluice::cli {

inline constexpr size_t kMaxRollouts = 1'000'000;

struct AgentChoice {
  std::shared_ptr<const agent::Spec> spec;
  std::string bundle_path;
  llm::Dialect dialect = llm::Dialect::kChat;
};

struct RunInput {
  std::vector<std::shared_ptr<const rollout::Task>>
      tasks;          // as the flags change them; at least one
  AgentChoice agent;  // for all of them
  // The files that attempts are made from, each by what it is, and what tells its content from
  // another.
  json::Object contents;
};
// Reads the tasks and installs the agent's bundle if need be.
Result<RunInput> read_input(const RunFlags& flags);

// Who answers the rollouts of one shard. `names` looks up host names and must outlive the policy.
Result<rollout::PolicyChoice> choose_policy(const RunFlags& flags, net::Shard& shard,
                                            net::BlockingPool& names, const Logger& log);

// How rollouts are shown on stderr.
StatusLine::Style status_style(const RunFlags& flags);

// A new directory, or one that is there and empty; mode 0700. Its whole path.
Result<std::string> make_output_directory(const std::string& wanted);

// result.json, what the agent printed, and its artifacts.
Result<void> store_result(const std::string& directory, const rollout::RolloutResult& result);

// Lines for people on stdout.
void print_result(const std::string& directory, const rollout::RolloutResult& result);

int exit_code_of(rollout::ErrorKind kind);

}  // namespace sluice::cli
