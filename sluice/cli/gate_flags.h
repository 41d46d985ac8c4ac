// What flags say of the gate: its limits over all rollouts and of requests, and the tools it allows
// (run, serve and `gate serve`), and the rules of rollouts of ours (run and serve). shared_flags.h
// adds them to a command.
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

// 0 is no limit, but of a request.
struct GateLimitFlags {
  gate::TotalBudget total;  // but for its time
  double time_s = 0;
  std::vector<std::string> tool_names;
  uint32_t max_body_mb = 32;  // of one request
};
inline constexpr uint32_t kMostBodyMb = 1024;

// Calls visit(key, most, value, help) for each limit of all rollouts together. The key is what
// files call it; its flag is --key with hyphens.
template <class Visit>
void each_limit(GateLimitFlags& flags, Visit visit) {
  constexpr double kMost = int64_t{1} << 50;
  gate::TotalBudget& total = flags.total;
  visit("total_calls", kMost, total.calls, "LLM calls");
  visit("total_open_calls", UINT32_MAX, total.open_calls, "calls open at once; more are put off");
  visit("total_calls_per_second", 1e6, total.calls_per_second, "calls a second; more are put off");
  visit("total_tokens", kMost, total.tokens, "tokens of delivered answers, prompts included");
  visit("total_bytes", kMost, total.bytes, "bytes of requests and answers");
  visit("total_time_s", 30.0 * 24 * 3600, flags.time_s, "seconds from the first agent's start on");
}

void set_limits(const GateLimitFlags& flags, gate::GateOptions& options);

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
