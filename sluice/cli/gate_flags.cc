#include "sluice/cli/gate_flags.h"

#include <fmt/format.h>

#include <algorithm>

namespace sluice::cli {
void set_limits(const GateLimitFlags& flags, gate::GateOptions& options) {
  options.total = flags.total;
  options.total.time = from_seconds(flags.time_s);
  options.body_bytes = size_t{flags.max_body_mb} << 20;
  options.bodies_bytes = std::max(options.bodies_bytes, 4 * options.body_bytes);
  options.tool_names = {flags.tool_names.begin(), flags.tool_names.end()};
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
