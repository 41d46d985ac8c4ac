// Task: what an agent is asked to do, what it finds, and how its work is judged. Read from a TOML
// file (docs/tasks.md). Plain values; any thread.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "sluice/agent/driver.h"
#include "sluice/base/core/deadline.h"
#include "sluice/base/core/result.h"
#include "sluice/gate/gate.h"
#include "sluice/sandbox/sandbox.h"

namespace sluice::rollout {

struct Task {
  std::string id;
  std::string source;  // the file it came from, for people
  std::string instruction;

  sandbox::Options sandbox;  // image, limits, network; the rest is the rollout's
  std::string workdir = sandbox::kWorkdir;
  std::vector<agent::Upload> uploads;
  std::vector<std::string> setup;
  std::string setup_user = sandbox::kSetupUser;
  std::vector<std::string> verify;

  Duration setup_timeout = std::chrono::minutes(5);   // per command
  Duration verify_timeout = std::chrono::minutes(2);  // per command
  Duration agent_timeout{};                           // 0: the agent's own
  std::optional<uint64_t> calls;                      // budget of LLM calls
  agent::Approvals approvals = agent::Approvals::kAgentDefault;
  std::map<std::string, std::string> options;  // the agent's, by name
  std::map<std::string, std::string> env;      // for the agent
  // Host tools, answered by the trainer and offered to the agent over MCP.
  std::vector<gate::Tool> tools;
  std::string metadata;  // JSON, "" if none; passed on, never read
};

// `directory` is where the file's relative paths (instruction_file, files.source) start. Errors
// name file, line and what to do.
Result<Task> parse_task(std::string_view toml, std::string source, const std::string& directory);

Result<Task> load_task(const std::string& path);

}  // namespace sluice::rollout
