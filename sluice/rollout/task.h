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
#include "sluice/base/toml.h"
#include "sluice/gate/gate.h"
#include "sluice/sandbox/sandbox.h"

namespace sluice::rollout {

// What the gate takes of a trainer and gives to the agent, as gate::Registration says it.
struct GateRules {
  gate::OriginRule::Accept accept = gate::OriginRule::Accept::kAny;
  gate::AnswerDelivery delivery = gate::AnswerDelivery::kWhole;
  std::optional<uint64_t> max_version_lag;
  gate::ToolsInRequests tools_in_requests = gate::ToolsInRequests::kAsSent;
};

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
  agent::Approvals approvals = agent::Approvals::kAgentDefault;
  std::map<std::string, std::string> options;  // the agent's, by name
  std::map<std::string, std::string> env;      // for the agent
  gate::Budget budget;
  GateRules gate;
  // Host tools, answered by the trainer and offered to the agent over MCP.
  std::vector<gate::Tool> tools;
  std::string metadata;  // JSON, "" if none; passed on, never read
};

// `directory` is where the file's relative paths (instruction_file, files.source) start. Errors
// name file, line and what to do.
Result<Task> parse_task(std::string_view toml, std::string source, const std::string& directory);

Result<Task> load_task(const std::string& path);

// The tables [budget] and [gate] of a file, into what is there already: for a server whose tasks
// come otherwise.
void read_budget(TomlReader& root, gate::Budget& budget);
void read_gate(TomlReader& root, GateRules& rules);
// The values of [gate]'s `accept` and `delivery`, and of the flags by those names.
inline constexpr std::string_view kAcceptAny = "any", kAcceptSampled = "sampled";
inline constexpr std::string_view kDeliveryWhole = "whole", kDeliveryIncremental = "incremental";

}  // namespace sluice::rollout
