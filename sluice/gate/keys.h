// RolloutKeys: the keys by which agents of rollouts without a listener of their own are known. A
// key names one rollout and the second at which it expires, and is signed with a secret that never
// leaves the gate and is made afresh for each: one rollout's key opens no other, and none outlives
// the process. Any thread.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/result.h"
#include "sluice/base/id.h"

namespace sluice::gate {

class RolloutKeys {
 public:
  using Time = std::chrono::sys_seconds;

  RolloutKeys();

  // "sluice.ROLLOUT.EXPIRY.SIGNATURE"; nothing in it needs escaping in a header or a URL.
  std::string make(const RolloutId& rollout, Time expires) const;
  // Whose key this is. kUnauthenticated, in the same words for a forged, foreign or expired one.
  Result<RolloutId> check(std::string_view key, Time now) const;

 private:
  Bytes signature(std::string_view signed_part) const;

  const Bytes secret_;
};

}  // namespace sluice::gate
