// Waiting for a Signal in a coroutine that may be cancelled or has a deadline, and Broadcast, which
// wakes any number of coroutines.
#pragma once

#include <list>

#include <boost/asio/cancellation_state.hpp>
#include <boost/asio/this_coro.hpp>

#include "sluice/base/core/deadline.h"
#include "sluice/base/core/result.h"
#include "sluice/net/shard.h"
#include "sluice/net/wheel.h"

namespace sluice::net {

// kCancelled if the caller's group was cancelled during the wait; a wait that begins after that is
// like any other, so that clean-up can wait.
inline awaitable<Result<void>> wait_for(Signal* signal) {
  namespace asio = boost::asio;
  const auto before = co_await asio::this_coro::cancellation_state;
  const bool cancelled_before = before.cancelled() != asio::cancellation_type::none;
  co_await signal->wait();
  const auto after = co_await asio::this_coro::cancellation_state;
  if (!cancelled_before && after.cancelled() != asio::cancellation_type::none) {
    co_return Error(ErrorCode::kCancelled, "cancelled while waiting");
  }
  co_return Result<void>();
}

// The same, or kTimedOut when the deadline passes first.
inline awaitable<Result<void>> wait_for(Shard* shard, Signal* signal, Deadline deadline) {
  if (deadline.expired()) co_return Error(ErrorCode::kTimedOut, "the deadline has passed");
  bool late = false;
  Wheel::Timer timer(shard->wheel());
  timer.arm(deadline, [&late, signal] {
    late = true;
    signal->notify();
  });
  auto waited = co_await wait_for(signal);
  if (waited && late) co_return Error(ErrorCode::kTimedOut, "the deadline has passed");
  co_return waited;
}

// Wakes every coroutine that waits. Nothing is remembered: check what you wait for first.
// On one shard; must outlive its waiters.
class Broadcast {
 public:
  explicit Broadcast(Shard* shard) : shard_(shard) {}
  Broadcast(const Broadcast&) = delete;
  Broadcast& operator=(const Broadcast&) = delete;

  // As wait_for().
  awaitable<Result<void>> wait(Deadline deadline) {
    const auto mine = waiters_.emplace(waiters_.end());
    auto waited = co_await wait_for(shard_, &*mine, deadline);
    waiters_.erase(mine);
    co_return waited;
  }
  void notify_all() {
    for (Signal& waiter : waiters_) waiter.notify();
  }

 private:
  Shard* shard_;
  std::list<Signal> waiters_;
};

}  // namespace sluice::net
