#include "sluice/net/wheel.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <vector>

#include "sluice/net/shard.h"

namespace sluice::net {
namespace {

using namespace std::chrono_literals;

TEST(WheelTest, FiresInOrderAndNeverEarly) {
  Shard shard;
  std::vector<int> fired;
  std::vector<std::unique_ptr<Wheel::Timer>> timers;
  bool early = false;
  for (const int ms : {60, 10, 35}) {
    const Deadline deadline = Deadline::in(std::chrono::milliseconds(ms));
    timers.push_back(std::make_unique<Wheel::Timer>(shard.wheel()));
    timers.back()->arm(deadline, [&fired, &early, ms, deadline] {
      early |= !deadline.expired();
      fired.push_back(ms);
    });
  }
  EXPECT_EQ(shard.wheel().armed(), 3u);
  shard.run_until([&] { return fired.size() == 3; });
  EXPECT_EQ(fired, (std::vector<int>{10, 35, 60}));
  EXPECT_FALSE(early);
  EXPECT_EQ(shard.wheel().armed(), 0u);
}

TEST(WheelTest, DisarmedAndDestroyedTimersStaySilent) {
  Shard shard;
  bool wrong = false;
  bool done = false;
  Wheel::Timer disarmed(shard.wheel());
  disarmed.arm(Deadline::in(5ms), [&] { wrong = true; });
  disarmed.disarm();
  {
    Wheel::Timer destroyed(shard.wheel());
    destroyed.arm(Deadline::in(5ms), [&] { wrong = true; });
  }
  Wheel::Timer last(shard.wheel());
  last.arm(Deadline::in(30ms), [&] { done = true; });
  shard.run_until([&] { return done; });
  EXPECT_FALSE(wrong);
}

TEST(WheelTest, ACallbackMayDisarmATimerThatIsDueInTheSameTick) {
  Shard shard;
  Wheel::Timer first(shard.wheel());
  Wheel::Timer second(shard.wheel());
  Wheel::Timer last(shard.wheel());
  int fired = 0;
  bool done = false;
  const Deadline same = Deadline::in(10ms);
  first.arm(same, [&] {
    ++fired;
    second.disarm();
  });
  second.arm(same, [&] {
    ++fired;
    first.disarm();
  });
  last.arm(Deadline::in(40ms), [&] { done = true; });
  shard.run_until([&] { return done; });
  EXPECT_EQ(fired, 1);
}

TEST(WheelTest, ACallbackMayArmItsOwnTimerAgain) {
  Shard shard;
  Wheel::Timer timer(shard.wheel());
  int fired = 0;
  std::function<void()> again = [&] {
    if (++fired < 3) timer.arm(Deadline::in(1ms), again);
  };
  timer.arm(Deadline::in(1ms), again);
  shard.run_until([&] { return fired == 3; });
  EXPECT_FALSE(timer.armed());
}

TEST(WheelTest, NeverIsNotArmed) {
  Shard shard;
  Wheel::Timer timer(shard.wheel());
  timer.arm(Deadline::never(), [] {});
  EXPECT_FALSE(timer.armed());
}

}  // namespace
}  // namespace sluice::net
