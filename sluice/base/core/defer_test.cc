#include "sluice/base/core/defer.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

namespace sluice {
namespace {

TEST(DeferTest, RunsAtTheEndOfTheScopeLastFirst) {
  std::string order;
  {
    Defer first([&] { order += 'a'; });
    Defer second([&] { order += 'b'; });
    order += '.';
  }
  EXPECT_EQ(order, ".ba");
}

TEST(DeferTest, RunsWhenAnExceptionLeavesTheScope) {
  bool ran = false;
  const auto leave = [&] {
    Defer guard([&] { ran = true; });
    throw std::runtime_error("out");
  };
  EXPECT_THROW(leave(), std::runtime_error);
  EXPECT_TRUE(ran);
}

TEST(DeferTest, CancelledDoesNothing) {
  bool ran = false;
  {
    Defer guard([&] { ran = true; });
    guard.cancel();
  }
  EXPECT_FALSE(ran);
}

}  // namespace
}  // namespace sluice
