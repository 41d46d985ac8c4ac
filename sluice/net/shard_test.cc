#include "sluice/net/shard.h"

#include <gtest/gtest.h>

#include <chrono>

#include <boost/asio/post.hpp>

#include "sluice/net/testing.h"

namespace sluice::net {
namespace {

using namespace std::chrono_literals;

awaitable<int> add(int a, int b) {
  co_return a + b;
}

awaitable<void> wait_then_set(Signal* signal, bool* woken) {
  co_await signal->wait();
  *woken = true;
}

awaitable<void> sleep_and_report(Duration duration, std::optional<ErrorCode>* code) {
  const auto slept = co_await sleep_for(duration);
  *code = slept ? std::optional<ErrorCode>() : slept.error().code;
}

awaitable<void> fail() {
  throw std::runtime_error("a bug");
  co_return;
}

TEST(ShardTest, RunsACoroutineToItsResult) {
  Shard shard;
  EXPECT_EQ(testing::run(shard, add(2, 3)), 5);
}

TEST(ShardTest, PostFromAnotherThreadRunsOnTheShardsThread) {
  Shard shard;
  shard.start();
  std::atomic<bool> on_thread = false;
  std::atomic<bool> done = false;
  shard.post([&] {
    on_thread = shard.on_thread();
    done = true;
  });
  while (!done) std::this_thread::yield();
  EXPECT_TRUE(on_thread);
  EXPECT_FALSE(shard.on_thread());
}

TEST(SignalTest, NotifyBeforeWaitIsRemembered) {
  Shard shard;
  Signal signal;
  signal.notify();
  bool woken = false;
  testing::run(shard, wait_then_set(&signal, &woken));
  EXPECT_TRUE(woken);
}

TEST(SignalTest, WakesTheWaiter) {
  Shard shard;
  Signal signal;
  bool woken = false;
  shard.spawn(wait_then_set(&signal, &woken));
  shard.context().poll();
  EXPECT_FALSE(woken);
  signal.notify();
  shard.context().poll();
  EXPECT_TRUE(woken);
}

TEST(TaskGroupTest, CancelReachesASleeperAndJoinReturns) {
  Shard shard;
  TaskGroup group(shard.executor());
  std::optional<ErrorCode> code;
  group.spawn(sleep_and_report(1h, &code));
  shard.context().poll();
  EXPECT_EQ(group.size(), 1u);
  group.cancel();
  testing::run(shard, group.join());
  EXPECT_EQ(code, ErrorCode::kCancelled);
}

TEST(TaskGroupTest, CancelWakesASignalWaiter) {
  Shard shard;
  TaskGroup group(shard.executor());
  Signal signal;
  bool woken = false;
  group.spawn(wait_then_set(&signal, &woken));
  shard.context().poll();
  group.cancel();
  testing::run(shard, group.join());
  EXPECT_TRUE(woken);
}

TEST(TaskGroupTest, JoinRethrowsATasksException) {
  Shard shard;
  TaskGroup group(shard.executor());
  group.spawn(fail());
  EXPECT_THROW(testing::run(shard, group.join()), std::runtime_error);
}

awaitable<std::thread::id> thread_of_blocking_work(BlockingPool* pool) {
  std::thread::id id;
  std::function<void()> work = [&] {
    id = std::this_thread::get_id();
  };
  co_await pool->run(std::move(work));
  co_return id;
}

TEST(BlockingPoolTest, RunsElsewhereAndComesBack) {
  Shard shard;
  BlockingPool pool(1);
  EXPECT_NE(testing::run(shard, thread_of_blocking_work(&pool)), std::this_thread::get_id());
  EXPECT_TRUE(shard.on_thread());
}

}  // namespace
}  // namespace sluice::net
