// ParkedCalls: the calls of a rollout that have not ended: by their ids, and by the digests by
// which a request is recognised as one of them sent again. Waits for agents that hung up to come
// back, and puts bodies away that wait long.
//
// On the rollout's shard. Internal to the gate.
#pragma once

#include <deque>
#include <functional>
#include <unordered_map>

#include "sluice/gate/core.h"
#include "sluice/gate/parked_call.h"
#include "sluice/gate/recent_bodies.h"
#include "sluice/net/wheel.h"

namespace sluice::gate {

class ParkedCalls {
 public:
  using Parked = std::shared_ptr<ParkedCall>;
  // Is called with each call whose agent has not come back in time. It ends the call.
  using GiveUp = std::function<void(const Parked&)>;

  ParkedCalls(const Registration& registration, Core& core, GiveUp give_up);

  // REQUIRES: no call of that id is here.
  void add(const Parked& parked);
  // REQUIRES: it is here.
  void remove(const Parked& parked);
  // Nothing if the call has ended.
  Parked find(const CallId& id) const;
  // The call that a request with these marks asks for again: the one that it names; else one that
  // nobody waits for; else the last, unless the request is meant to be another.
  Parked find_same(const ResendMarks& marks, const std::string& session) const;
  // A copy: what is done with them may end some.
  std::vector<Parked> all() const;

  // Nobody is known to wait for the call's answer. False if it is not to wait for its agent to come
  // back.
  bool abandon(const Parked& parked);
  // Of the calls that nobody waits for, the one that was left first waits no longer.
  void give_up_one();

  // The bodies that the rollout sent last.
  RecentBodies& recent() { return recent_; }

  // No timer is armed from here on.
  void stop();

 private:
  struct Abandoned {
    Clock::time_point until;
    std::weak_ptr<ParkedCall> parked;
  };

  // Nothing if its agent came back.
  static Parked still(const Abandoned& abandoned);
  void end_abandoned();
  void await_putting_away();
  void put_away();

  const Registration& registration_;
  Core& core_;
  const GiveUp give_up_;
  std::unordered_map<std::string_view, Parked> calls_;  // the ids are the calls' own
  std::unordered_multimap<Digest, std::weak_ptr<ParkedCall>> by_digest_;  // see digest_of()
  RecentBodies recent_{&core_.recent_bytes};
  // Calls whose agent hung up, in order of the time until which they wait for it. An entry counts
  // if its call still names the same time: the agent may have come back meanwhile.
  std::deque<Abandoned> abandoned_;
  bool stopped_ = false;
  net::Wheel::Timer grace_timer_;
  // While there are large bodies in memory: every GateOptions::put_away_after, those that were
  // there the last time are put away.
  net::Wheel::Timer put_away_timer_;
  uint64_t last_ = 0;            // call's ordinal
  uint64_t put_away_up_to_ = 0;  // the same; counts from the next time on
};

}  // namespace sluice::gate
