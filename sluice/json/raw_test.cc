#include "sluice/json/raw.h"

#include <gtest/gtest.h>

namespace sluice::json {
namespace {

Raw raw(ByteView text) {
  const auto value = read_value(text);
  EXPECT_TRUE(value) << text;
  return value.value_or(Raw());
}

std::string message(ByteView text) {
  const auto value = read_value(text);
  return value ? "accepted" : value.error().message;
}

TEST(RawTest, ReadsEachTypeWithoutTheSpaceAroundIt) {
  EXPECT_EQ(raw(" null ").type, Type::kNull);
  EXPECT_EQ(raw("true").type, Type::kBool);
  EXPECT_EQ(raw("-1.5e+3").type, Type::kNumber);
  EXPECT_EQ(raw("\"a\"").type, Type::kString);
  EXPECT_EQ(raw("[ ]").type, Type::kArray);
  EXPECT_EQ(raw("\n{\t}\r").type, Type::kObject);
  EXPECT_EQ(raw("\n{\t}\r").text, "{\t}");
}

// Where each string stands and what it is; "broken" at the end if the rest could not be read.
std::vector<std::string> strings(ByteView text) {
  std::vector<std::string> out;
  const bool read = visit_strings(text, [&](std::string_view path, const Raw& string) {
    out.push_back(std::string(path) + " " + std::string(string.text));
  });
  if (!read) out.emplace_back("broken");
  return out;
}

TEST(RawTest, VisitsStringsWhereverTheyStand) {
  using Strings = std::vector<std::string>;
  EXPECT_EQ(strings(R"( { "a" : [ "x", {"b":"\"y\"", "c":1}, ["z"] ], "d":{"":"v"}, "e":null } )"),
            (Strings{R"(/a/* "x")", R"(/a/*/b "\"y\"")", R"(/a/*/* "z")", R"(/d/ "v")"}));
  EXPECT_EQ(strings("\"s\""), Strings{" \"s\""});
  EXPECT_EQ(strings("[]"), Strings{});
  EXPECT_EQ(strings(""), Strings{"broken"});
  EXPECT_EQ(strings(R"(["a",])"), (Strings{"/* \"a\"", "broken"}));
  EXPECT_EQ(strings(R"({"a" "b"})"), Strings{"broken"});
  EXPECT_EQ(strings(R"(["a"] 1)"), (Strings{"/* \"a\"", "broken"}));
  const auto deep = [](int levels) {
    return std::string(static_cast<size_t>(levels), '[') +
           std::string(static_cast<size_t>(levels), ']');
  };
  EXPECT_EQ(strings(deep(kMaxDepth)), Strings{});
  EXPECT_EQ(strings(deep(kMaxDepth + 1)), Strings{"broken"});
}

TEST(RawTest, RefusesWhatIsNoJsonAndSaysWhere) {
  EXPECT_EQ(message(""), "JSON: a value is missing at byte 0");
  EXPECT_EQ(message("[1,]"), "JSON: expected a value at byte 3");
  EXPECT_EQ(message("[1 2]"), "JSON: expected ',' or ']' at byte 3");
  EXPECT_EQ(message("{\"a\" 1}"), "JSON: expected ':' at byte 5");
  EXPECT_EQ(message("{a:1}"), "JSON: expected a string at byte 1");
  EXPECT_EQ(message("01"), "JSON: a number with a leading zero at byte 1");
  EXPECT_EQ(message("1."), "JSON: expected a digit at byte 2");
  EXPECT_EQ(message("tru"), "JSON: an unknown word at byte 0");
  EXPECT_EQ(message("\"a\nb\""), "JSON: a control character in a string at byte 2");
  EXPECT_EQ(message("\"\\x\""), "JSON: an unknown escape at byte 1");
  EXPECT_EQ(message("\"\\u12g4\""), "JSON: a broken \\u escape at byte 1");
  EXPECT_EQ(message("\"abc"), "JSON: a string without its end at byte 4");
  EXPECT_EQ(message("1 2"), "JSON: more than one value at byte 2");
  EXPECT_EQ(message("\"\xFF\""), "JSON: the text is not UTF-8");
  EXPECT_EQ(message(ByteView("\"a\0\"", 4)), "JSON: a control character in a string at byte 2");
}

TEST(RawTest, RefusesDeepNesting) {
  const std::string deep = std::string(kMaxDepth, '[') + std::string(kMaxDepth, ']');
  EXPECT_EQ(message(deep), "accepted");
  EXPECT_EQ(message("[" + deep + "]"),
            "JSON: nested too deeply at byte " + std::to_string(kMaxDepth));
  EXPECT_FALSE(read_value(std::string(1'000'000, '[')));
}

TEST(RawTest, UnescapesStrings) {
  EXPECT_EQ(*to_text(raw(R"("a\"\\\/\b\f\n\r\tz")")), "a\"\\/\b\f\n\r\tz");
  EXPECT_EQ(*to_text(raw(R"("\u0041\u00e9\u20ac")")), "Aé€");
  EXPECT_EQ(*to_text(raw(R"("\uD83D\uDE00")")), "😀");
  EXPECT_EQ(*to_text(raw(R"("x\u0000y")")), std::string("x\0y", 3));
}

TEST(RawTest, UnpairedSurrogatesBecomeTheReplacementCharacter) {
  EXPECT_EQ(*to_text(raw(R"("\uD83D")")), "\uFFFD");
  EXPECT_EQ(*to_text(raw(R"("\uD83Dx")")), "\uFFFDx");
  EXPECT_EQ(*to_text(raw(R"("\uDE00\uD83D")")), "\uFFFD\uFFFD");
  EXPECT_EQ(*to_text(raw(R"("\uD83D\uD83D\uDE00")")), "\uFFFD😀");
}

TEST(RawTest, ListsElementsAndFields) {
  const auto list = elements(raw(R"([1, "b,]", {"c": [2]} , []])"));
  ASSERT_TRUE(list);
  ASSERT_EQ(list->size(), 4u);
  EXPECT_EQ((*list)[1].text, "\"b,]\"");
  EXPECT_EQ((*list)[2].text, R"({"c": [2]})");
  EXPECT_TRUE(elements(raw("[]"))->empty());
  EXPECT_FALSE(elements(raw("{}")));

  const auto object = fields(raw(R"({"a": 1, "\u0062": "x", "a": 2})"));
  ASSERT_TRUE(object);
  EXPECT_EQ(object->fields.size(), 3u);
  EXPECT_EQ(object->find("a")->text, "2");
  EXPECT_EQ(object->find("b")->text, "\"x\"");
  EXPECT_EQ(object->find("c"), nullptr);
}

TEST(RawTest, FindsOneElementWithoutReadingWhatFollows) {
  const Raw broken{"[1, {\"a\":2}, 3, oops", Type::kArray};
  EXPECT_EQ((*element_at(broken, 1))->text, "{\"a\":2}");
  EXPECT_FALSE(element_at(broken, 3));
  EXPECT_EQ(*element_at(raw("[1, 2]"), 2), std::nullopt);
}

TEST(RawTest, ReadsTheFirstValueOfAText) {
  ByteView rest;
  const auto value = first_value("  {\"a\":1}, {\"b\":2}]", &rest);
  ASSERT_TRUE(value);
  EXPECT_EQ(value->text, "{\"a\":1}");
  EXPECT_EQ(rest, ", {\"b\":2}]");
}

TEST(RawTest, ReadsNumbersThatFit) {
  EXPECT_EQ(to_integer(raw("-9223372036854775808")), INT64_MIN);
  EXPECT_EQ(to_integer(raw("9223372036854775808")), std::nullopt);
  EXPECT_EQ(to_integer(raw("1.0")), std::nullopt);
  EXPECT_EQ(to_integer(raw("\"1\"")), std::nullopt);
  EXPECT_EQ(to_double(raw("-2.5e2")), -250.0);
  EXPECT_EQ(to_double(raw("1e999")), std::nullopt);
  EXPECT_EQ(to_float(raw("-0.1")), -0.1f);
  EXPECT_EQ(to_bool(raw("true")), true);
  EXPECT_EQ(to_bool(raw("0")), std::nullopt);
}

}  // namespace
}  // namespace sluice::json
