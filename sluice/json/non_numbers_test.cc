#include "sluice/json/non_numbers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/json/raw.h"

namespace sluice::json {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(NonNumbersTest, EachOutsideOfStringsBecomesNull) {
  const auto out =
      without_non_numbers(R"([NaN, {"a":-Infinity,"b":Infinity},"NaN \" Infinity", 1])");
  EXPECT_EQ(out.text, R"([null, {"a":null,"b":null},"NaN \" Infinity", 1])");
  EXPECT_THAT(out.places, ElementsAre(1, 12, 21));
  EXPECT_TRUE(read_value(out.text));
}

TEST(NonNumbersTest, WhatHasNoneStaysAsItIsWhateverItIs) {
  for (const char* text :
       {"", "{}", R"({"a":"\\"})", "\"", "\"\\", "\"NaN", "nan", "-", "\x01\"\n"}) {
    const auto out = without_non_numbers(text);
    EXPECT_EQ(out.text, text);
    EXPECT_THAT(out.places, IsEmpty()) << text;
  }
}

}  // namespace
}  // namespace sluice::json
