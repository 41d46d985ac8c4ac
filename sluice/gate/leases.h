// Leases: who takes from the ready queue, and for how long each holds what it has taken. A trainer
// that is named and silent for longer than its lease, with no take of it waiting, is taken for
// dead.
//
// Under the ready queue's lock. Internal to the gate.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "sluice/gate/items.h"

namespace sluice::gate {

// One who takes.
struct Holder {
  std::string name;  // "": this process, which keeps what it takes
  Duration lease{};
  Clock::time_point seen;
  size_t waits = 0;  // takes of it that wait now: it lives
  size_t held = 0;   // items
  // Receipts of the ends and closings that it has been given since it took last.
  std::vector<std::weak_ptr<void>> ends;
  bool closings = false;  // its last take asked for such

  Clock::time_point expiry() const;
};

class Leases {
 public:
  // Names of trainers: those that are gone and hold nothing make room.
  static constexpr size_t kMost = 1000;

  // Of somebody who takes, and so lives. Nothing for more names than anybody has.
  std::shared_ptr<Holder> holder_of(const Taker& taker);
  // Nothing for a name that has never taken.
  Holder* find(const std::string& name) const;
  // Those that are dead and hold something.
  std::vector<Holder*> expired(Clock::time_point now) const;
  // When the next of those that hold something is, if nothing is heard of it.
  Clock::time_point next_expiry() const;
  // A trainer lives, whoever it is.
  void heard(Clock::time_point now) { heard_ = now; }
  // When that was last; `now` while a take waits.
  Clock::time_point heard_last(Clock::time_point now) const;
  // Whether a named trainer that lives asks for closings.
  bool closings_wanted(Clock::time_point now) const;
  size_t held() const;                           // by all
  size_t trainers(Clock::time_point now) const;  // named, alive, or holding something

 private:
  std::unordered_map<std::string, std::shared_ptr<Holder>> holders_;
  Clock::time_point heard_ = Clock::time_point::min();
};

}  // namespace sluice::gate
