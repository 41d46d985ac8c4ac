#include "sluice/json/value.h"

#include <gtest/gtest.h>

namespace sluice::json {
namespace {

TEST(ValueTest, ParsesWithinItsLimits) {
  const auto value = parse(R"({"a":"x","n":3,"r":1.5,"b":true,"o":{},"l":[1]})");
  ASSERT_TRUE(value);
  const Object& object = value->get_object();
  EXPECT_EQ(get_string(object, "a"), "x");
  EXPECT_EQ(get_integer(object, "n"), 3);
  EXPECT_EQ(get_number(object, "r"), 1.5);
  EXPECT_EQ(get_number(object, "n"), 3.0);
  EXPECT_EQ(get_bool(object, "b"), true);
  EXPECT_NE(get_object(object, "o"), nullptr);
  EXPECT_EQ(get_array(object, "l")->size(), 1u);
  EXPECT_EQ(get_string(object, "n"), std::nullopt);
  EXPECT_EQ(get_integer(object, "absent"), std::nullopt);
}

TEST(ValueTest, RefusesWhatIsBrokenTooLargeOrTooDeep) {
  EXPECT_EQ(parse("{\"a\":}").error().message, "JSON: syntax error at byte 5");
  EXPECT_EQ(parse("").error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(parse("[1,2,3]", {.bytes = 6}).error().code, ErrorCode::kTooLarge);
  EXPECT_TRUE(parse("[[[1]]]", {.depth = 3}));
  EXPECT_EQ(parse("[[[[1]]]]", {.depth = 3}).error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace sluice::json
