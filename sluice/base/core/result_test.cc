#include "sluice/base/core/result.h"

#include <gtest/gtest.h>

#include <memory>

namespace sluice {
namespace {

Result<int> positive(int n) {
  if (n <= 0) return Error(ErrorCode::kInvalidArgument, "not positive");
  return n;
}

Result<void> check(int n) {
  SLUICE_TRY_VOID(positive(n));
  return {};
}

Result<std::string> twice(int n) {
  SLUICE_TRY(const int value, positive(n));
  int again = 0;
  SLUICE_TRY(again, positive(value * 2));
  return std::to_string(again);
}

Result<std::unique_ptr<int>> boxed(int n) {
  SLUICE_TRY(const int value, positive(n));
  return std::make_unique<int>(value);
}

TEST(ResultTest, HoldsAValueOrAnError) {
  EXPECT_EQ(positive(3), 3);
  const auto failed = positive(0);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::kInvalidArgument);
}

TEST(ResultTest, TryHandsOnTheError) {
  EXPECT_EQ(twice(4), "8");
  ASSERT_FALSE(twice(-4));
  EXPECT_EQ(twice(-4).error().message, "not positive");
  EXPECT_TRUE(check(1));
  EXPECT_FALSE(check(0));
}

TEST(ResultTest, CarriesMoveOnlyValuesAndConverts) {
  auto box = boxed(7);
  ASSERT_TRUE(box);
  EXPECT_EQ(**box, 7);
  SLUICE_TRY_([[maybe_unused]] auto taken, std::move(box), result, return (void));
  const Result<std::string> text = "from a literal";
  EXPECT_EQ(*text, "from a literal");
}

TEST(ResultTest, TheDefaultIsADefaultValue) {
  EXPECT_TRUE(Result<void>());
  EXPECT_EQ(Result<int>(), 0);
}

// A Result of a type that an Error could convert to still tells the two apart.
TEST(ResultTest, AnErrorIsNeverTakenForAValue) {
  struct FromError {
    FromError() = default;
    FromError(const Error&) {}  // NOLINT: implicit is the point
  };
  const Result<FromError> failed = Error(ErrorCode::kIo, "x");
  EXPECT_FALSE(failed);
}

}  // namespace
}  // namespace sluice
