#include "sluice/net/loop_lag.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "sluice/net/testing.h"

namespace sluice::net {
namespace {

using namespace std::chrono_literals;

double value_of(const Metrics& metrics) {
  const std::string text = metrics.text();
  const std::string line = "\nlag ";
  return std::stod(text.substr(text.find(line) + line.size()));
}

TEST(LoopLagTest, ShowsHowLongTheLoopWasBlocked) {
  Shard shard;
  Metrics metrics;
  LoopLag lag(shard, metrics.gauge("lag", "Loop lag, seconds"));
  EXPECT_EQ(value_of(metrics), 0);
  // Blocked from before the probe is due until 150 ms after.
  std::this_thread::sleep_for(400ms);
  shard.run_until([&] { return value_of(metrics) > 0; });
  EXPECT_GE(value_of(metrics), 0.1);
  EXPECT_LE(value_of(metrics), 100);
}

TEST(LoopLagTest, StopsWhenItIsDestroyed) {
  Shard shard;
  Metrics metrics;
  {
    LoopLag lag(shard, metrics.gauge("lag", "Loop lag, seconds"));
  }
  EXPECT_EQ(shard.wheel().armed(), 0u);
}

}  // namespace
}  // namespace sluice::net
