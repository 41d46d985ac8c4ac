#include "sluice/json/reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sluice::json {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

enum class Colour : uint8_t { kRed, kBlue };
std::string_view to_string(Colour colour) {
  return colour == Colour::kRed ? "red" : "blue";
}

Reader reader(std::string_view text, Unknown unknown = Unknown::kPassedOver,
              size_t max_text = Reader::kAny) {
  return Reader(*read_value(text), "thing.", unknown, max_text);
}

// What finish() says after `read` has read.
template <class Read>
std::string mistake(std::string_view text, Read read, Unknown unknown = Unknown::kPassedOver) {
  Reader in = reader(text, unknown, 8);
  read(in);
  const auto result = in.finish();
  return result ? "" : result.error().message;
}

TEST(ReaderTest, ReadsMembersByNameAndType) {
  Reader in =
      reader(R"({"text":"a\nb","flag":true,"half":0.5,"whole":3.0,"ids":[1,-2],"names":["x"],
      "colour":"blue","null":null})");
  EXPECT_EQ(in.text("text"), "a\nb");
  EXPECT_EQ(in.flag("flag"), true);
  EXPECT_EQ(in.number("half", 1), 0.5);
  EXPECT_EQ(in.seconds("half", 1), Duration(500ms));
  EXPECT_EQ(in.count("whole"), 3u);
  EXPECT_EQ(in.figure("whole"), 0);
  EXPECT_THAT(in.figures<int32_t>("ids"), ElementsAre(1, -2));
  EXPECT_THAT(in.names("names", 1), ElementsAre("x"));
  EXPECT_EQ(in.one_of("colour", std::array{Colour::kRed, Colour::kBlue}, Colour::kRed),
            Colour::kBlue);
}

TEST(ReaderTest, WhatIsAbsentOrNullIsNoMistake) {
  Reader in = reader(R"({"a":null})", Unknown::kRefused);
  for (const char* name : {"a", "b"}) {
    EXPECT_EQ(in.find(name), nullptr);
    EXPECT_EQ(in.text(name), std::nullopt);
    EXPECT_EQ(in.text(name, "other"), "other");
    EXPECT_EQ(in.flag(name), std::nullopt);
    EXPECT_EQ(in.count(name), std::nullopt);
    EXPECT_EQ(in.figure(name), 0);
    EXPECT_THAT(in.list(name), IsEmpty());
    EXPECT_EQ(in.one_of(name, std::array{Colour::kRed}, Colour::kBlue), Colour::kBlue);
  }
  EXPECT_TRUE(in.finish());
}

TEST(ReaderTest, TheFirstMistakeIsToldWithItsPlace) {
  const auto text = [](Reader& in) {
    in.text("a");
  };
  EXPECT_EQ(mistake(R"({"a":1})", text), "thing.a: must be a string");
  EXPECT_EQ(mistake(R"({"a":"123456789"})", text), "thing.a: is longer than 8 bytes");
  EXPECT_EQ(mistake("7", text), "thing: must be an object");
  EXPECT_EQ(mistake(R"({"a":1})", [](Reader& in) { in.flag("a"); }),
            "thing.a: must be true or false");
  EXPECT_EQ(mistake(R"({"a":-1})", [](Reader& in) { in.count("a", 1e6); }),
            "thing.a: must be a number from 0 to 1000000");
  EXPECT_EQ(mistake(R"({"a":0.5})", [](Reader& in) { in.count("a"); }),
            "thing.a: must be a whole number");
  EXPECT_EQ(mistake(R"({"a":[1,2]})", [](Reader& in) { in.list("a", 1); }),
            "thing.a: must be a list of at most 1");
  EXPECT_EQ(mistake(R"({"a":1})", [](Reader& in) { in.list("a"); }), "thing.a: must be an array");
  EXPECT_EQ(mistake(R"({"a":[""]})", [](Reader& in) { in.names("a", 1); }),
            "thing.a: must hold names");
  EXPECT_EQ(mistake(R"({"a":[3e9]})", [](Reader& in) { in.figures<int32_t>("a"); }),
            "thing.a: must hold numbers that fit");
  EXPECT_EQ(mistake(R"({"a":"green"})",
                    [](Reader& in) { in.one_of("a", std::array{Colour::kRed}, Colour::kRed); }),
            "thing.a: must be one of: red");
  EXPECT_EQ(mistake(R"({"a":1,"b":1})",
                    [](Reader& in) {
                      in.text("b");
                      in.flag("a");
                    }),
            "thing.b: must be a string");
}

TEST(ReaderTest, WhatNobodyAskedForIsRefusedByNameWhereThatIsWanted) {
  const auto text = [](Reader& in) {
    in.text("a");
  };
  EXPECT_EQ(mistake(R"({"a":"x","b":1})", text), "");
  EXPECT_EQ(mistake(R"({"a":"x","b":1})", text, Unknown::kRefused), "thing.b: is not known here");
}

TEST(ReaderTest, ObjectsInsideHaveReadersOfTheirOwnWhoseMistakesAreItsOwn) {
  std::vector<std::string> read;
  const auto inner = [&](Reader& in) {
    in.object("one", [&](Reader& one) { read.push_back(one.text("a", "")); });
    in.objects("some", 2, [&](Reader& each) { read.push_back(each.text("a", "none")); });
    in.object("none", [&](Reader&) { read.emplace_back("of nothing"); });
  };
  EXPECT_EQ(mistake(R"({"one":{"a":"x"},"some":[{"a":"y"},{}]})", inner, Unknown::kRefused), "");
  EXPECT_THAT(read, ElementsAre("x", "y", "none"));
  EXPECT_EQ(mistake(R"({"one":{"a":1},"some":{}})", inner), "thing.one.a: must be a string");
  EXPECT_EQ(mistake(R"({"one":{"a":"123456789"}})", inner), "thing.one.a: is longer than 8 bytes");
  EXPECT_EQ(mistake(R"({"some":[{"b":1}]})", inner), "");
  EXPECT_EQ(mistake(R"({"some":[{"b":1}]})", inner, Unknown::kRefused),
            "thing.some.b: is not known here");
  EXPECT_EQ(mistake(R"({"some":[1,2,3]})", inner), "thing.some: must be a list of at most 2");
  EXPECT_EQ(mistake(R"({"one":7})", inner), "thing.one: must be an object");
}

}  // namespace
}  // namespace sluice::json
