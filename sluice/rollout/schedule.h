// Schedule: which order starts next, and whether one may start now. The engine's rules as a value:
// no threads, no clock of its own; the engine holds its lock around every call.
//
// Orders wait in lanes (one for each task), and lanes take turns, so that a task with a thousand
// attempts delays another by one. Orders of the same batch (a group) that stand behind each other
// are one turn: what they share is then needed for a short time only.
//
// Nothing overtakes: when the order whose turn it is does not fit into the memory that is left, the
// others wait with it. A large order would never start otherwise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>

#include "sluice/base/core/deadline.h"
#include "sluice/base/core/result.h"

namespace sluice::rollout {

struct ScheduleLimits {
  size_t concurrency = 8;  // at once
  // How many may be starting at once: making sandboxes and running set-up commands is the expensive
  // part, and a hundred that begin together would all be late. 0: no bound of its own.
  size_t starting = 0;
  Duration start_gap{};  // between two starts
  // What all that run may need together; 0: no bound.
  uint64_t memory_bytes = 0;
  size_t queued = 100'000;
};

class Schedule {
 public:
  struct Entry {
    uint64_t id = 0;
    std::string lane;
    std::string batch;  // "" if none
    uint64_t memory_bytes = 0;
  };

  explicit Schedule(const ScheduleLimits& limits) : limits_(limits) {}

  // kTooLarge if it could never start, kExhausted if the queue is full.
  Result<void> add(Entry entry);
  // One that ran and is to run again: it was first before and is so now. Never refused.
  void add_again(Entry entry);
  // Takes one out of the queue; false if it does not wait there.
  bool remove(uint64_t id);

  // The next one, if it may start at `now`: it counts as starting from here on.
  std::optional<Entry> take(Clock::time_point now);
  // When take() is worth asking again though nothing else changes; never if only an end or a
  // start-up's end will help.
  Deadline next_try() const;

  // It has started up, or has ended: what it held is free.
  void started(uint64_t id);
  void ended(uint64_t id);

  size_t queued() const { return queued_; }
  size_t running() const { return running_.size(); }  // those that start included
  size_t starting() const { return starting_.size(); }
  uint64_t memory_bytes() const { return memory_bytes_; }

 private:
  struct Lane {
    std::string name;
    std::deque<Entry> entries;
  };
  Lane& lane(const std::string& name);
  void drop_if_empty(std::list<Lane>::iterator lane);
  bool fits(const Entry& entry) const;

  const ScheduleLimits limits_;
  std::list<Lane> lanes_;  // in order of their turns; none is empty
  std::unordered_map<std::string, std::list<Lane>::iterator> by_name_;
  std::map<uint64_t, uint64_t> running_;  // id to memory
  std::set<uint64_t> starting_;
  size_t queued_ = 0;
  uint64_t memory_bytes_ = 0;
  std::optional<Clock::time_point> last_start_;
};

}  // namespace sluice::rollout
