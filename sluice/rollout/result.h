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
#include "sluice/rollout/blame.h"

namespace sluice::rollout {

// Of what a setup or verify command printed, a result shows so much, its last.
inline constexpr size_t kShownOutput = 16 * 1024;
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
  std::optional<double> reward_if_counted;  // of kPolicy: what verify gave all the same
  std::string reward_error;                 // why the verdict was unusable
  std::string reward_clamped;               // the number as it was written, if it was out of bounds
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
