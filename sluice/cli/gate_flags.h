// What flags say of the gate: its limits over all rollouts and the tools it allows (run, serve and
// `gate serve`), and the rules of rollouts of ours (run and serve). shared_flags.h adds them to a
// command.
//
// Plain values and functions; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/base/core/result.h"
#include "sluice/gate/gate.h"
#include "sluice/rollout/task.h"

namespace sluice::cli {

// Nothing for what was not said; 0 is no limit.
struct GateLimitFlags {
  std::optional<uint64_t> total_calls, total_tokens, total_bytes;
  std::optional<uint32_t> total_open_calls;
  std::optional<double> total_calls_per_second, total_time_s;
  std::vector<std::string> tool_names;
};
inline constexpr double kMaxTotalRate = 1e6;
inline constexpr double kMaxTotalSeconds = 30.0 * 24 * 3600;

// Errors name the flag.
Result<void> set_limits(const GateLimitFlags& flags, gate::GateOptions& options);

struct GateRuleFlags {
  std::optional<std::string> accept, delivery;
  std::optional<uint64_t> max_version_lag;
};
// What a flag says comes before what a task says.
void set_rules(const GateRuleFlags& flags, rollout::GateRules& rules);

inline constexpr std::string_view kTrainerPolicy = "trainer";
inline constexpr std::string_view kTrainerListen = "127.0.0.1:8790";  // unless told otherwise
// For the commands that have no other policy.
Result<void> check_trainer_policy(std::string_view policy);

}  // namespace sluice::cli
