#include "sluice/base/printable.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TEST(Printable, what_a_terminal_would_obey_is_shown) {
  EXPECT_EQ(printable("plain, \xC3\xA4 and \xF0\x9F\x98\x80"),
            "plain, \xC3\xA4 and \xF0\x9F\x98\x80");
  EXPECT_EQ(printable("\x1b[31mred\a\x7f"), "\\x1b[31mred\\x07\\x7f");
  EXPECT_EQ(printable("one\ntwo\rthree\tfour"), "one\\ntwo\\x0dthree four");
  // One byte that begins an escape, as Latin-1 and as UTF-8.
  EXPECT_EQ(printable("\x9b"
                      "31m"),
            "\xEF\xBF\xBD"
            "31m");
  EXPECT_EQ(printable("\xC2\x9b"
                      "31m \xC2\x85 \xC2\xA0"),
            "\\x9b"
            "31m \\x85 \xC2\xA0");
}

TEST(Printable, what_turns_text_around_is_shown) {
  EXPECT_EQ(printable("a\xE2\x80\xAE"
                      "b\xE2\x80\xAC"),
            "a\\u202eb\\u202c");
  EXPECT_EQ(printable("\xE2\x81\xA6\xE2\x81\xA9\xE2\x80\x8E\xE2\x80\x8F\xD8\x9C"),
            "\\u2066\\u2069\\u200e\\u200f\\u061c");
  EXPECT_EQ(printable("\xE2\x80\xA8\xE2\x80\xA9"), "\\u2028\\u2029");
  // Quotes and dashes are their neighbours.
  EXPECT_EQ(printable("\xE2\x80\x9C\xE2\x80\x93\xE2\x80\xB0\xD8\xA7"),
            "\xE2\x80\x9C\xE2\x80\x93\xE2\x80\xB0\xD8\xA7");
}

TEST(Printable, json_stays_the_same_json) {
  Bytes json = "{\"a\":\"\xE2\x80\xAE\xC2\x9b\x7f \xE2\x80\x9C\xC3\xA4\"}\n{\"b\":\"\\u001b\"}\n";
  escape_unprintable(json);
  EXPECT_EQ(json, "{\"a\":\"\\u202e\\u009b\\u007f \xE2\x80\x9C\xC3\xA4\"}\n{\"b\":\"\\u001b\"}\n");
  Bytes plain = "{\"a\":1}";
  escape_unprintable(plain);
  EXPECT_EQ(plain, "{\"a\":1}");
  for (Bytes cut : {Bytes("\xE2"), Bytes("x\xE2\x80"), Bytes("\xC2"), Bytes("\x7f")}) {
    escape_unprintable(cut);  // nothing behind it is read
  }
}

}  // namespace
}  // namespace sluice
