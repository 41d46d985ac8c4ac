// Shard: one event loop on one thread, and what lives on it for life (rollouts, their sandbox links
// and parked calls). Nothing on a shard needs a lock; across shards only values travel, by post().
//
// TaskGroup: the coroutines of one owner, to be cancelled and joined together. Sleeping and waiting
// helpers for coroutines. BlockingPool: threads for work that would block a loop.
#pragma once

#include <atomic>
#include <exception>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/this_coro.hpp>

#include "sluice/base/core/deadline.h"
#include "sluice/base/core/result.h"
#include "sluice/net/executor.h"
#include "sluice/net/wheel.h"

namespace sluice::net {

class Shard {
 public:
  explicit Shard(int index = 0);
  ~Shard();
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;

  int index() const { return index_; }
  Executor executor() { return context_.get_executor(); }
  IoContext& context() { return context_; }
  Wheel& wheel() { return wheel_; }

  // Runs `work` on the shard's thread, later. From any thread.
  void post(std::function<void()> work);

  // The same for a coroutine; nobody waits for it. What must be waited for belongs to a TaskGroup.
  void spawn(awaitable<void> task);

  bool on_thread() const { return std::this_thread::get_id() == thread_id_.load(); }

  // Starts the shard's own thread. Without it, whoever calls run_until() is the thread.
  // REQUIRES: it was not started before.
  void start();
  // Ends the loop and joins the thread.
  // REQUIRES: nothing of value runs on it any more; not called on that thread.
  void stop();

  // Runs the loop on the calling thread until `done()`; for tests and for a main without start().
  // REQUIRES: start() was not called.
  void run_until(const std::function<bool()>& done);

 private:
  const int index_;
  // Only this thread touches what does I/O, so the reactor takes no lock for each descriptor;
  // posting is from any thread.
  IoContext context_{BOOST_ASIO_CONCURRENCY_HINT_UNSAFE_IO};
  boost::asio::executor_work_guard<Executor> work_;
  Wheel wheel_;
  std::thread thread_;
  std::atomic<std::thread::id> thread_id_;
};

// Wakes one coroutine. notify() before wait() is remembered, several are one.
// On one shard; not from another thread.
class Signal {
 public:
  Signal();
  ~Signal();
  // REQUIRES: nobody else waits.
  awaitable<void> wait();
  void notify();

 private:
  struct Waiter;
  template <class Handler>
  struct WaiterOf;
  std::unique_ptr<Waiter> waiter_;
  bool notified_ = false;
};

// The coroutines of one owner.
class TaskGroup {
 public:
  explicit TaskGroup(Executor executor) : executor_(executor) {}
  // REQUIRES: it is empty, as after join().
  ~TaskGroup();
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;

  // Cancelled operations return kCancelled inside `task`; later ones run as usual, so that it can
  // clean up. An exception that leaves `task` is a bug: it ends that task and is rethrown by
  // join().
  void spawn(awaitable<void> task);
  // The same, but `task` itself awaits kNoThrowWhenCancelled first: one frame less for as long
  // as it lives.
  void spawn_bare(awaitable<void> task);
  // Cancels what every task is suspended in now.
  void cancel();
  // Returns when all tasks have ended.
  // REQUIRES: nobody else joins.
  awaitable<void> join();

  size_t size() const { return tasks_.size(); }

 private:
  struct Task {
    boost::asio::cancellation_signal signal;
  };
  Executor executor_;
  std::list<Task> tasks_;
  Signal empty_;
  bool joining_ = false;
  std::exception_ptr failure_;
};

// Awaited: from there on a cancelled operation of the task returns an error instead of throwing.
inline const auto kNoThrowWhenCancelled = boost::asio::this_coro::throw_if_cancelled(false);

// kCancelled if the group was cancelled meanwhile.
awaitable<Result<void>> sleep_until(Deadline deadline);
inline awaitable<Result<void>> sleep_for(Duration duration) {
  return sleep_until(Deadline::in(duration));
}

// Threads for work that blocks (file trees, archives, name look-ups). Any thread may submit.
class BlockingPool {
 public:
  explicit BlockingPool(int threads);
  ~BlockingPool();

  // Runs `work` on a pool thread and returns to the caller's shard when it is done.
  awaitable<void> run(std::function<void()> work);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sluice::net
