#include "sluice/base/core/deadline.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

using namespace std::chrono_literals;

TEST(DeadlineTest, NeverIsTheDefaultAndLaterThanAll) {
  EXPECT_TRUE(Deadline().is_never());
  EXPECT_EQ(Deadline(), Deadline::never());
  EXPECT_FALSE(Deadline::never().expired());
  EXPECT_EQ(Deadline::never().remaining(), Duration::max());
  EXPECT_GT(Deadline::never(), Deadline::in(24h));
}

TEST(DeadlineTest, AnAmountThatDoesNotFitIsNever) {
  EXPECT_TRUE(Deadline::in(Duration::max()).is_never());
  EXPECT_TRUE(Deadline::in(Duration::max() - 1ns).is_never());
}

TEST(DeadlineTest, ThePastIsExpiredAndHasNothingLeft) {
  for (const Deadline past : {Deadline::in(0s), Deadline::in(-1h), Deadline::in(Duration::min()),
                              Deadline(Clock::time_point::min())}) {
    EXPECT_TRUE(past.expired());
    EXPECT_EQ(past.remaining(), Duration::zero());
  }
}

TEST(DeadlineTest, TheFutureIsNotExpired) {
  const Deadline later = Deadline::in(1h);
  EXPECT_FALSE(later.expired());
  EXPECT_GT(later.remaining(), 59min);
  EXPECT_LE(later.remaining(), 1h);
}

TEST(DeadlineTest, EarlierIsTheSmallerOfTwo) {
  const Deadline soon = Deadline::in(1s);
  const Deadline late = Deadline::in(1h);
  EXPECT_EQ(soon.earlier(late), soon);
  EXPECT_EQ(late.earlier(soon), soon);
  EXPECT_EQ(Deadline::never().earlier(soon), soon);
  EXPECT_EQ(soon.earlier(Deadline::never()), soon);
}

TEST(DurationTest, GoesToSecondsAndBack) {
  EXPECT_EQ(to_seconds(1500ms), 1.5);
  EXPECT_EQ(from_seconds(0.25), 250ms);
  EXPECT_EQ(from_seconds(to_seconds(-3s)), -3s);
}

}  // namespace
}  // namespace sluice
