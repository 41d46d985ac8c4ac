#include "sluice/net/signals.h"

#include <gtest/gtest.h>

#include <csignal>

namespace sluice::net {
namespace {

TEST(SignalsTest, EachSignalIsDeliveredOnTheShard) {
  Shard shard;
  std::vector<int> seen;
  const Signals signals(shard, {SIGUSR1, SIGUSR2}, [&](int number) { seen.push_back(number); });
  ASSERT_EQ(::raise(SIGUSR1), 0);
  shard.run_until([&] { return seen.size() == 1; });
  ASSERT_EQ(::raise(SIGUSR2), 0);
  ASSERT_EQ(::raise(SIGUSR1), 0);
  shard.run_until([&] { return seen.size() == 3; });
  EXPECT_EQ(seen[0], SIGUSR1);
}

}  // namespace
}  // namespace sluice::net
