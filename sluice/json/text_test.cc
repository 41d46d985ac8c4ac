#include "sluice/json/text.h"

#include <gtest/gtest.h>

#include <limits>

#include "sluice/json/raw.h"

namespace sluice::json {
namespace {

std::string written(std::string_view text) {
  Bytes out;
  append_string(out, text);
  return out;
}

TEST(TextTest, EscapesWhatJsonMustEscape) {
  EXPECT_EQ(written("plain"), "\"plain\"");
  EXPECT_EQ(written("a\"b\\c\n\r\t\x01\x1f"), R"("a\"b\\c\n\r\t\u0001\u001f")");
  EXPECT_EQ(written(std::string_view("\0", 1)), R"("\u0000")");
  EXPECT_EQ(written("é😀"), "\"é😀\"");
  EXPECT_EQ(written("a\xFFz"), "\"a\uFFFDz\"");
}

// Python's splitlines() cuts an event in two there.
TEST(TextTest, EscapesWhatEndsALineForUnicodeAlone) {
  EXPECT_EQ(written("\u0085a\u2028\u2029\n"), R"("\u0085a\u2028\u2029\n")");
  // Neighbours of theirs, and what only looks like their ends; and behind what is ill-formed.
  EXPECT_EQ(written("\u2027\u202a\u0084\u00c5"), "\"\u2027\u202a\u0084\u00c5\"");
  EXPECT_EQ(written("\xE2\u2028"), "\"\uFFFD\\u2028\"");
  Bytes out = "\u2028";  // what stands there already is not its affair
  append_string(out, "\u2029");
  EXPECT_EQ(out, "\u2028\"\\u2029\"");
}

TEST(TextTest, WhatIsWrittenReadsBack) {
  std::string all;
  for (int c = 0; c < 128; ++c) all.push_back(static_cast<char>(c));
  const std::string text = written(all);
  const auto value = read_value(text);
  ASSERT_TRUE(value);
  EXPECT_EQ(*to_text(*value), all);
}

// Bytes are looked at eight at a time, and what precedes one may change how it is seen.
TEST(TextTest, EscapesAtEveryPlaceBehindEveryByte) {
  for (const char special : {'"', '\\', '\x1f', '\0'}) {
    for (const char before : {'a', '!', ' ', '#', '\x7f', '"', '\n'}) {
      for (size_t at = 1; at < 20; ++at) {
        std::string text(20, 'x');
        text[at - 1] = before;
        text[at] = special;
        const std::string json = written(text);
        const auto value = read_value(json);
        ASSERT_TRUE(value) << json;
        ASSERT_EQ(*to_text(*value), text) << json;
      }
    }
  }
}

TEST(TextTest, NumbersReadBackAsTheSame) {
  Bytes out;
  append_number(out, -0.1f);
  EXPECT_EQ(out, "-0.1");
  out.clear();
  append_number(out, 1e300);
  EXPECT_EQ(out, "1e+300");
  out.clear();
  append_number(out, std::numeric_limits<double>::infinity());
  EXPECT_EQ(out, "null");
  out.clear();
  append_number(out, std::numeric_limits<int64_t>::min());
  EXPECT_EQ(out, "-9223372036854775808");
}

}  // namespace
}  // namespace sluice::json
