// RolloutKeys: the keys by which agents of rollouts without a listener of their own are known. A
// key names one registration of a rollout and the second at which it expires, and is signed with a
// secret that never leaves the gate and is made afresh for each: one rollout's key opens no other,
// nor a later rollout of the same id, and none outlives the process. Any thread.
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

  // What a key is for. An id may be registered again when its rollout is closed; what is made at
  // random for each registration tells them apart.
  struct Holder {
    RolloutId rollout;
    std::string registration;
    bool is(const Holder& other) const;  // takes the same time wherever they differ
  };
  static Holder fresh_holder(RolloutId rollout);

  RolloutKeys();

  // "sluice.ROLLOUT.REGISTRATION.EXPIRY.SIGNATURE"; nothing in it needs escaping in a header or a
  // URL.
  std::string make(const Holder& holder, Time expires) const;
  // Whose key this is. kUnauthenticated, in the same words for a forged, foreign or expired one.
  Result<Holder> check(std::string_view key, Time now) const;
  static Error unauthenticated();

 private:
  Bytes signature(std::string_view signed_part) const;

  const Bytes secret_;
};

}  // namespace sluice::gate
