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
  gate::CutCalls cut_calls = gate::CutCalls::kWithheld;
  std::optional<uint64_t> max_version_lag;
  gate::ToolsInRequests tools_in_requests = gate::ToolsInRequests::kAsSent;
};

// Of the sandbox's options it has image, limits and network; the rest is the rollout's.
struct Task : agent::Work {
  std::string id;
  std::string source;  // the file it came from, for people
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

// What is wrong with setup or verify commands that no shell could be given, in words; nothing if
// nothing is.
std::optional<std::string> problem_of(const std::vector<std::string>& commands);

// The tables [budget] and [gate] of a file and the limits of a table [limits], into what is there
// already: for a server whose tasks come otherwise.
void read_budget(TomlReader& root, gate::Budget& budget);
void read_gate(TomlReader& root, GateRules& rules);
void read_limits(TomlReader& table, sandbox::Limits& limits);

// Values by the names that files and flags have for them; a name that is none is the first.
gate::OriginRule::Accept accept_named(std::string_view name);  // any, sampled
gate::AnswerDelivery delivery_named(std::string_view name);    // whole, incremental
sandbox::Network network_named(std::string_view name);         // none, setup, open
agent::Approvals approvals_named(std::string_view name);       // default, bypass

}  // namespace sluice::rollout
