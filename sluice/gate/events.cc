#include "sluice/gate/events.h"

#include <algorithm>
#include <utility>

namespace sluice::gate {

std::shared_ptr<void> EventLog::watch() {
  const std::lock_guard lock(mutex_);
  ++watches_;
  wanted_.store(true, std::memory_order_relaxed);
  return std::shared_ptr<EventLog>(this, [](EventLog* log) {
    const std::lock_guard lock(log->mutex_);
    --log->watches_;
    log->left_ = Clock::now();
  });
}

void EventLog::add(std::string_view type, Bytes data) {
  if (!wanted()) return;
  std::vector<Waiter> waiters;
  {
    const std::lock_guard lock(mutex_);
    ++last_;
    if (watches_ == 0 && Clock::now() - left_ >= patience_) {
      // This number stands for all that is not kept from here on.
      wanted_.store(false, std::memory_order_relaxed);
      records_.clear();
      return;
    }
    records_.push_back({last_, std::string(type), std::move(data)});
    if (records_.size() > keep_) records_.pop_front();
    waiters.swap(waiters_);
  }
  for (const Waiter& waiter : waiters) waiter.wake();
}

std::vector<EventLog::Record> EventLog::behind(uint64_t number, size_t max, uint64_t* lost) const {
  const std::lock_guard lock(mutex_);
  const uint64_t first = last_ - records_.size() + 1;  // that is kept
  const uint64_t from = std::max(number + 1, first);
  *lost = from - number - 1;
  if (number >= last_) {
    *lost = 0;
    return {};
  }
  const auto begin = records_.begin() + static_cast<ptrdiff_t>(from - first);
  const auto count = std::min<size_t>(max, static_cast<size_t>(records_.end() - begin));
  return {begin, begin + static_cast<ptrdiff_t>(count)};
}

uint64_t EventLog::last() const {
  const std::lock_guard lock(mutex_);
  return last_;
}

uint64_t EventLog::wake_behind(uint64_t number, std::function<void()> wake) {
  uint64_t id = 0;
  {
    const std::lock_guard lock(mutex_);
    id = next_waiter_++;
    if (last_ <= number) {
      waiters_.push_back({id, std::move(wake)});
      return id;
    }
  }
  wake();
  return id;
}

void EventLog::forget(uint64_t waiter) {
  const std::lock_guard lock(mutex_);
  std::erase_if(waiters_, [&](const Waiter& w) { return w.id == waiter; });
}

}  // namespace sluice::gate
