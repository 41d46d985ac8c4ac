// EventLog: what happens at a gate, for whoever watches it, and for a trainer that was away to
// catch up. Keeps the last events only, and none until somebody wants them: the trace is what is
// complete.
//
// Any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/base/core/bytes.h"

namespace sluice::gate {

class EventLog {
 public:
  struct Record {
    uint64_t number = 0;  // 1, 2, ... without gaps
    std::string type;
    Bytes data;  // a JSON object
  };

  explicit EventLog(size_t keep = 10'000) : keep_(keep) {}
  EventLog(const EventLog&) = delete;
  EventLog& operator=(const EventLog&) = delete;

  // From now on events are kept.
  void want() { wanted_.store(true, std::memory_order_relaxed); }
  bool wanted() const { return wanted_.load(std::memory_order_relaxed); }

  void add(std::string_view type, Bytes data);

  // Those behind `number`, at most `max`; `lost` is how many of them are kept no more.
  std::vector<Record> behind(uint64_t number, size_t max, uint64_t* lost) const;
  uint64_t last() const;

  // Calls `wake` once, when there is an event behind `number`: possibly at once, on any thread.
  // What it returns ends the wait, if it is not over.
  uint64_t wake_behind(uint64_t number, std::function<void()> wake);
  void forget(uint64_t waiter);

 private:
  struct Waiter {
    uint64_t id;
    std::function<void()> wake;
  };

  const size_t keep_;
  std::atomic<bool> wanted_{false};
  mutable std::mutex mutex_;
  std::deque<Record> records_;
  uint64_t last_ = 0;
  std::vector<Waiter> waiters_;
  uint64_t next_waiter_ = 1;
};

}  // namespace sluice::gate
