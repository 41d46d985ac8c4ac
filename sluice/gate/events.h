// EventLog: what happens at a gate, for whoever watches it, and for a trainer that was away to
// catch up. Keeps the last events only, and none when nobody has watched for long: the trace is
// what is complete.
//
// Any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/deadline.h"

namespace sluice::gate {

class EventLog {
 public:
  struct Record {
    uint64_t number = 0;  // 1, 2, ...; a gap is what was not kept
    std::string type;
    Bytes data;  // a JSON object
  };

  // Events are kept while somebody watches, and for `patience` longer: it may be away.
  explicit EventLog(size_t keep = 10'000, Duration patience = std::chrono::minutes(10))
      : keep_(keep), patience_(patience) {}
  EventLog(const EventLog&) = delete;
  EventLog& operator=(const EventLog&) = delete;

  // Somebody watches until it lets go of what this returns.
  // REQUIRES: that is before the log goes.
  [[nodiscard]] std::shared_ptr<void> watch();
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
  const Duration patience_;
  std::atomic<bool> wanted_{false};
  mutable std::mutex mutex_;
  std::deque<Record> records_;
  uint64_t last_ = 0;
  size_t watches_ = 0;
  Clock::time_point left_;  // when the last of them went
  std::vector<Waiter> waiters_;
  uint64_t next_waiter_ = 1;
};

}  // namespace sluice::gate
