#include "sluice/base/core/bytes.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

using namespace std::string_view_literals;

TEST(Utf8Test, AcceptsTheFirstAndLastCodePointOfEachLength) {
  for (const std::string_view text :
       {"\x00"sv, "\x7F"sv, "\xC2\x80"sv, "\xDF\xBF"sv, "\xE0\xA0\x80"sv, "\xEF\xBF\xBF"sv,
        "\xED\x9F\xBF"sv, "\xEE\x80\x80"sv, "\xF0\x90\x80\x80"sv, "\xF4\x8F\xBF\xBF"sv}) {
    EXPECT_TRUE(is_valid_utf8(text)) << to_hex(text);
    EXPECT_EQ(to_valid_utf8(text), text);
  }
  EXPECT_TRUE(is_valid_utf8(""));
}

TEST(Utf8Test, RefusesOverlongSurrogateTooHighAndBroken) {
  for (const std::string_view text :
       {"\x80"sv, "\xC0\x80"sv, "\xC1\xBF"sv, "\xE0\x9F\xBF"sv, "\xED\xA0\x80"sv,
        "\xF0\x8F\xBF\xBF"sv, "\xF4\x90\x80\x80"sv, "\xF5\x80\x80\x80"sv, "\xFF"sv, "\xC2"sv,
        "\xE2\x82"sv, "\xF0\x9F\x98"sv, "\xC2\x41"sv, "\xE2\x82\x41"sv}) {
    EXPECT_FALSE(is_valid_utf8(text)) << to_hex(text);
    EXPECT_TRUE(is_valid_utf8(to_valid_utf8(text))) << to_hex(text);
  }
}

TEST(Utf8Test, ReplacesOnlyWhatIsIllFormed) {
  EXPECT_EQ(to_valid_utf8("a\xFF"
                          "b\xC3\xA9"
                          "c"),
            "a\xEF\xBF\xBD"
            "b\xC3\xA9"
            "c");
  // A sequence cut short does not swallow what follows it.
  EXPECT_EQ(to_valid_utf8("\xE2\x82"
                          "A"),
            "\xEF\xBF\xBD\xEF\xBF\xBD"
            "A");
}

TEST(LineEndsTest, WhatEndsALineForOthersThanJsonIsEscaped) {
  Bytes json = "{\"\u2028a\":\"\u2029\u0085\u0085\",\"b\":\"\u2027\u0084\u00c5\\n\"}\n";
  escape_line_ends(json);
  EXPECT_EQ(json, R"({"\u2028a":"\u2029\u0085\u0085","b":")"
                  "\u2027\u0084\u00c5"
                  R"(\n"})"
                  "\n");
}

TEST(HexTest, LowerCaseTwoDigitsAnOctet) {
  EXPECT_EQ(to_hex("\x00\x0F\xF0\xFF"sv), "000ff0ff");
  EXPECT_EQ(to_hex(""), "");
}

// The vectors of RFC 4648, section 10.
constexpr std::pair<std::string_view, std::string_view> kBase64Vectors[] = {
    {"", ""},
    {"f", "Zg=="},
    {"fo", "Zm8="},
    {"foo", "Zm9v"},
    {"foob", "Zm9vYg=="},
    {"fooba", "Zm9vYmE="},
    {"foobar", "Zm9vYmFy"},
};

TEST(Base64Test, MatchesTheRfcsVectors) {
  for (const auto& [plain, encoded] : kBase64Vectors) {
    EXPECT_EQ(to_base64(plain), encoded);
    EXPECT_EQ(from_base64(encoded), plain);
    EXPECT_EQ(from_base64(encoded.substr(0, encoded.find('='))), plain);
  }
}

TEST(Base64Test, EveryOctetSurvives) {
  Bytes all;
  for (int i = 0; i < 256; ++i) all.push_back(static_cast<char>(i));
  EXPECT_EQ(from_base64(to_base64(all)), all);
}

TEST(Base64Test, RefusesWhatIsNotItsOnlySpelling) {
  for (const std::string_view text : {"A", "AAAAA", "Zg=", "Zg===", "Zg====", "=", "====", "Zm=8",
                                      "Zm8-", "Zm 8", "Zm8=\n", "Zh==", "Zm9="}) {
    EXPECT_EQ(from_base64(text), std::nullopt) << text;
  }
}

TEST(ParseDecimalTest, OnlyDigitsAndTheWholeText) {
  EXPECT_EQ(parse_decimal("0"), 0u);
  EXPECT_EQ(parse_decimal("007"), 7u);
  EXPECT_EQ(parse_decimal("18446744073709551615"), UINT64_MAX);
  for (const std::string_view text : {""sv, "-1"sv, "+1"sv, " 1"sv, "1 "sv, "1.0"sv, "0x1"sv,
                                      "18446744073709551616"sv, "1\0"sv}) {
    EXPECT_EQ(parse_decimal(text), std::nullopt) << text;
  }
}

TEST(BytesTest, NumbersAndHexAreAppended) {
  Bytes out("=");
  append_decimal(out, 0);
  append_hex(out, "\xFF\x01");
  append_decimal(out, UINT64_MAX);
  EXPECT_EQ(out, "=0ff0118446744073709551615");
}

TEST(BytesTest, GrownUnfilledKeepsWhatItHad) {
  Bytes bytes = "what was there";
  resize_unfilled(bytes, 100'000);
  EXPECT_EQ(bytes.size(), 100'000u);
  EXPECT_EQ(bytes.substr(0, 14), "what was there");
  EXPECT_EQ(bytes.c_str()[100'000], '\0');
  resize_unfilled(bytes, 4);
  EXPECT_EQ(bytes, "what");
}

TEST(BytesTest, CommonBeginningsAndEndsAreExact) {
  EXPECT_EQ(common_prefix("", ""), 0u);
  EXPECT_EQ(common_suffix("", "x"), 0u);
  EXPECT_EQ(common_prefix("abc", "abd"), 2u);
  EXPECT_EQ(common_suffix("abc", "xbc"), 2u);
  // A difference at every place around the blocks in which they are compared.
  const Bytes a(1600, 'a');
  for (size_t at = 0; at < a.size(); at += at % 512 > 500 || at % 512 < 10 ? 1 : 97) {
    Bytes b = a;
    b[at] = 'b';
    EXPECT_EQ(common_prefix(a, b), at);
    EXPECT_EQ(common_suffix(a, b), a.size() - 1 - at);
    EXPECT_EQ(common_prefix(a, b + "more"), at);
    EXPECT_EQ(common_suffix(a, "more" + b), a.size() - 1 - at);
  }
  EXPECT_EQ(common_prefix(a, a + "x"), a.size());
  EXPECT_EQ(common_suffix(a, "x" + a), a.size());
}

TEST(BytesTest, BlanksAreTrimmedAtBothEndsOnly) {
  EXPECT_EQ(trimmed(" \t a b\r\n"), "a b");
  EXPECT_EQ(trimmed("a"), "a");
  EXPECT_EQ(trimmed("\v\f \n"), "");
  EXPECT_EQ(trimmed(""), "");
}

}  // namespace
}  // namespace sluice
