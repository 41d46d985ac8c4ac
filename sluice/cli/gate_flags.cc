#include "sluice/cli/gate_flags.h"

#include <fmt/format.h>

namespace sluice::cli {
namespace {

Result<double> checked(std::string_view flag, const std::optional<double>& value, double max) {
  // Not a number is no number in any range.
  if (!value || (*value >= 0 && *value <= max)) return value.value_or(0);
  return Error(ErrorCode::kInvalidArgument, fmt::format("{}: must be from 0 to {:.0f}", flag, max),
               ErrorOrigin::kCaller);
}

}  // namespace

Result<void> set_limits(const GateLimitFlags& flags, gate::GateOptions& options) {
  gate::TotalBudget& total = options.total;
  total.calls = flags.total_calls.value_or(0);
  total.open_calls = flags.total_open_calls.value_or(0);
  total.tokens = flags.total_tokens.value_or(0);
  total.bytes = flags.total_bytes.value_or(0);
  SLUICE_TRY(total.calls_per_second,
             checked("--total-calls-per-second", flags.total_calls_per_second, kMaxTotalRate));
  SLUICE_TRY(const double seconds, checked("--total-time-s", flags.total_time_s, kMaxTotalSeconds));
  total.time = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
  options.tool_names = {flags.tool_names.begin(), flags.tool_names.end()};
  return {};
}

void set_rules(const GateRuleFlags& flags, rollout::GateRules& rules) {
  if (flags.accept) rules.accept = rollout::accept_named(*flags.accept);
  if (flags.delivery) rules.delivery = rollout::delivery_named(*flags.delivery);
  if (flags.max_version_lag) rules.max_version_lag = flags.max_version_lag;
}

Result<void> check_trainer_policy(std::string_view policy) {
  if (policy == kTrainerPolicy) return {};
  return Error(ErrorCode::kInvalidArgument,
               fmt::format("--policy {}: must be trainer; `sluice run` has the others", policy),
               ErrorOrigin::kCaller);
}

}  // namespace sluice::cli
