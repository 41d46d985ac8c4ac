// Verdict: the reward that an agent's work earned, from what verify left behind.
//
// Plain values; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "sluice/agent/report.h"
#include "sluice/agent/work.h"

namespace sluice::rollout {

struct Verdict {
  std::optional<double> reward;  // none: there was nothing to be verified, or nobody to do it
  std::string error;    // why it was unusable: the reward is the least then; "" if it was not
  std::string clamped;  // the number as it was written, if it was out of bounds
};

// The one finite decimal number that a reward file holds, with white space around it.
std::optional<double> parse_reward(std::string_view text);

// In this order: an embedding Verifier's number; nothing, if nothing was to be verified; by what
// the task says, the reward file's number or the share of verify commands that succeeded. What
// cannot be used of that is the least reward, never another way to one. REQUIRES: the rollout's end
// lets it have a reward at all.
Verdict verdict_of(const agent::Report& report, const agent::Verify& how);

}  // namespace sluice::rollout
