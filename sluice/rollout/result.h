// RolloutResult: what is reported of one attempt. Everything in it happened; what did not happen is
// absent (a reward that nobody computed is null, never 0). Plain values; any thread.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "sluice/agent/driver.h"
#include "sluice/gate/gate.h"
#include "sluice/json/value.h"

namespace sluice::rollout {

// Why a rollout has no clean end, told apart so that a trainer never takes one for another.
enum class ErrorKind : uint8_t {
  kNone,
  kInfrastructure,   // ours: no sandbox, lost link, a bug. Says nothing about the policy
  kTask,             // the task is broken: its setup failed, a program is missing
  kAgent,            // the agent's program failed
  kGateNeverCalled,  // the agent ended without one LLM call: wrongly configured, or broken
  kBudget,           // the agent used up a limit of calls, tokens, bytes or time
  kTimedOut,         // the agent did not end in time
  kCancelled,        // somebody asked for the end
};
std::string_view to_string(ErrorKind kind);
// Whose failure an error is that ended a rollout.
ErrorKind kind_of(const Error& error);

struct RolloutResult {
  RolloutId rollout;
  std::string task;
  std::string group;  // "" if none
  std::string agent;  // "opencode 1.18.33"
  std::string backend;
  std::string mode;
  std::string policy;
  agent::Approvals approvals = agent::Approvals::kAgentDefault;
  std::string metadata;  // the task's, JSON

  std::optional<double> reward;
  ErrorKind error_kind = ErrorKind::kNone;
  std::string error;

  gate::Counters calls;
  Duration wall{};
  // Of a group: how long its preparation took, whoever made it.
  std::optional<Duration> preparation;
  agent::Report report;

  std::string trace;       // where it is
  std::string kept_files;  // the sandbox's, if they were to be kept
};

// The reward that a report earns: the verifier's own, else the reward file's number, else the share
// of verify commands that succeeded; none if nothing was verified. What is wrong with a reward file
// goes to `warnings`.
std::optional<double> reward_of(const agent::Report& report, std::vector<std::string>& warnings);

// Parts of a result as JSON, for whoever gives it another shape (env/coding). `output`: how many
// bytes of what a command printed are shown, its last; `ticks`: a second's, to which times are
// rounded.
json::Array rows_json(const std::vector<agent::CommandRow>& rows, size_t output, double ticks);
json::Object calls_json(const gate::Counters& calls);
json::Array texts_json(const std::vector<std::string>& texts);
json::Value code_of(const sandbox::Exit& exit);  // null where there was no exit code
json::Value or_null(std::string_view text);      // null for ""
double rounded(Duration duration, double ticks);
std::string tail_of(ByteView text, size_t max);

// The result as JSON, with the fields of OpenEnv's RolloutResult under their names and ours beside
// them (docs/results.md).
std::string to_json(const RolloutResult& result);

}  // namespace sluice::rollout
