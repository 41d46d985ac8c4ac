#include "sluice/net/wait.h"

#include <gtest/gtest.h>

#include "sluice/net/testing.h"

namespace sluice::net {
namespace {

using namespace std::chrono_literals;

struct Seen {
  std::vector<std::string> steps;
  void add(const Result<void>& result) {
    steps.push_back(result ? "ok" : std::string(to_string(result.error().code)));
  }
};

awaitable<void> wait_twice(Signal* signal, Seen* seen) {
  seen->add(co_await wait_for(signal));
  seen->add(co_await wait_for(signal));
}

TEST(WaitTest, ReturnsWhenNotified) {
  Shard shard;
  Signal signal;
  signal.notify();  // remembered
  EXPECT_TRUE(testing::run(shard, wait_for(&signal)));
}

TEST(WaitTest, TellsACancellationOnceAndThenWaitsAsUsual) {
  Shard shard;
  Signal signal;
  Seen seen;
  TaskGroup group(shard.executor());
  group.spawn(wait_twice(&signal, &seen));
  bool posted = false;
  shard.post([&] {
    group.cancel();
    posted = true;
  });
  shard.run_until([&] { return posted && !seen.steps.empty(); });
  signal.notify();
  testing::run(shard, group.join());
  EXPECT_EQ(seen.steps, (std::vector<std::string>{"cancelled", "ok"}));
}

TEST(WaitTest, GivesUpAtItsDeadline) {
  Shard shard;
  Signal signal;
  const auto late = testing::run(shard, wait_for(&shard, &signal, Deadline::in(10ms)));
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, ErrorCode::kTimedOut);
  signal.notify();
  EXPECT_TRUE(testing::run(shard, wait_for(&shard, &signal, Deadline::in(10s))));
}

awaitable<void> wait_and_count(Broadcast* broadcast, Deadline deadline, int* woken, int* late) {
  const auto waited = co_await broadcast->wait(deadline);
  ++(waited ? *woken : *late);
}

TEST(WaitTest, ABroadcastWakesAllWhoWaitThen) {
  Shard shard;
  Broadcast broadcast(&shard);
  int woken = 0;
  int late = 0;
  TaskGroup group(shard.executor());
  for (int i = 0; i < 3; ++i) {
    group.spawn(wait_and_count(&broadcast, Deadline::never(), &woken, &late));
  }
  group.spawn(wait_and_count(&broadcast, Deadline::in(10ms), &woken, &late));
  shard.run_until([&] { return late == 1; });
  EXPECT_EQ(woken, 0);
  broadcast.notify_all();
  testing::run(shard, group.join());
  EXPECT_EQ(woken, 3);
  broadcast.notify_all();  // nobody is left
}

}  // namespace
}  // namespace sluice::net
