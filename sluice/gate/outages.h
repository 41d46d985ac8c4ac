// Outages: whether whoever answers one rollout's calls could, as far as that shows: what its calls
// tell (outage_watch.h), and what an upstream says to the gate itself.
//
// On the rollout's shard. Internal to the gate.
#pragma once

#include <memory>
#include <string>

#include "sluice/gate/core.h"
#include "sluice/gate/outage_watch.h"
#include "sluice/gate/parked_call.h"
#include "sluice/gate/registration.h"
#include "sluice/net/shard.h"

namespace sluice::gate {

class Outages {
 public:
  // Both outlive it.
  Outages(const Registration& registration, Core& core);

  // Calls are told of by who answers them; but not where the policy does so by itself.
  OutageWatch& watch() { return watch_; }
  bool watches() const { return !registration_.policy || !base_url_.empty(); }
  // What an upstream did up to now.
  void note_upstream(const ParkedCall& parked);

  // The agent has ended. `cancelled`: by who answers, which was his answer.
  void agent_ended(bool cancelled);
  // Waits for the upstream's word.
  net::awaitable<Answering> answering();
  // Whoever waits for that waits no longer.
  void stop_asking();
  // REQUIRES: nobody is in answering() any more, or stop_asking() was called.
  net::awaitable<void> close();

 private:
  static net::awaitable<void> ask(Outages* self, Outage outage);
  static net::awaitable<void> learn(Outages* self);
  net::awaitable<Result<void>> probe() const;
  void look_for_trainer();
  void found(const Outage& outage, const std::string& probed);

  const Registration& registration_;
  Core& core_;
  const std::string base_url_;  // of the policy; "" if it answers by itself
  OutageWatch watch_;
  net::TaskGroup asking_;
  bool stopped_ = false;
  Answering answering_;
};

}  // namespace sluice::gate
