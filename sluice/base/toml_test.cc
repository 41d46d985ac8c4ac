#include "sluice/base/toml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace sluice {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TomlReader parse(std::string_view text) {
  auto reader = TomlReader::parse(text, "t.toml");
  EXPECT_TRUE(reader) << reader.error().message;
  return std::move(*reader);
}

// What finish() says after `read` has asked for what it wants.
std::string mistake_in(std::string_view text, const std::function<void(TomlReader&)>& read) {
  TomlReader reader = parse(text);
  read(reader);
  const auto finished = reader.finish();
  if (finished) return "none";
  EXPECT_EQ(finished.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(finished.error().origin, ErrorOrigin::kCaller);
  return finished.error().message;
}

TEST(TomlTest, ReadsEveryKindOfValue) {
  TomlReader in = parse(R"(
name = "n"
kind = "b"
on = true
count = -3
ratio = 1.5
whole = 2
pause = 0.25
words = ["a", "b"]
[env]
B = "2"
A = "1"
)");
  EXPECT_EQ(in.required_string("name"), "n");
  EXPECT_EQ(in.one_of("kind", {"a", "b"}), "b");
  EXPECT_EQ(in.boolean("on"), true);
  EXPECT_EQ(in.integer("count", -5, 5), -3);
  EXPECT_EQ(in.number("ratio", 0, 2), 1.5);
  EXPECT_EQ(in.number("whole", 0, 2), 2.0);
  EXPECT_EQ(in.seconds("pause", 0s, 1s), 250ms);
  EXPECT_THAT(in.strings("words"), ElementsAre("a", "b"));
  EXPECT_EQ(in.string_map("env"), (std::map<std::string, std::string>{{"A", "1"}, {"B", "2"}}));
  EXPECT_TRUE(in.has("name"));
  EXPECT_TRUE(in.finish()) << in.finish().error().message;
}

TEST(TomlTest, AbsentIsNoMistake) {
  TomlReader in = parse("");
  EXPECT_EQ(in.string("a"), std::nullopt);
  EXPECT_EQ(in.one_of("a", {"x"}), std::nullopt);
  EXPECT_EQ(in.boolean("a"), std::nullopt);
  EXPECT_EQ(in.integer("a", 0, 1), std::nullopt);
  EXPECT_EQ(in.number("a", 0, 1), std::nullopt);
  EXPECT_EQ(in.seconds("a", 0s, 1s), std::nullopt);
  EXPECT_TRUE(in.strings("a").empty());
  EXPECT_TRUE(in.string_map("a").empty());
  EXPECT_EQ(in.json("a"), std::nullopt);
  EXPECT_FALSE(in.table("a"));
  EXPECT_TRUE(in.tables("a").empty());
  EXPECT_TRUE(in.named_tables("a").empty());
  EXPECT_FALSE(in.has("a"));
  EXPECT_TRUE(in.finish());
}

TEST(TomlTest, TablesKnowTheirPath) {
  TomlReader in = parse(R"(
[limits]
cpu = 1
[[files]]
path = "a"
[[files]]
path = "b"
mode = 7
[agent.x]
n = 1
[agent.y]
n = "two"
)");
  auto limits = in.table("limits");
  ASSERT_TRUE(limits);
  EXPECT_EQ(limits->integer("cpu", 0, 9), 1);
  auto files = in.tables("files");
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(files[0].required_string("path"), "a");
  EXPECT_EQ(files[1].required_string("path"), "b");
  EXPECT_EQ(files[1].integer("mode", 0, 7), 7);
  auto agents = in.named_tables("agent");
  ASSERT_EQ(agents.size(), 2u);
  EXPECT_EQ(agents[0].first, "x");
  EXPECT_EQ(agents[0].second.integer("n", 0, 9), 1);
  EXPECT_EQ(agents[1].second.integer("n", 0, 9), std::nullopt);
  EXPECT_EQ(in.finish().error().message, "t.toml:12: agent.y.n: must be an integer, is a string");
}

TEST(TomlTest, WrongTypesNameFileLineKeyAndWhatToDo) {
  const auto one = [](auto ask) {
    return [ask](TomlReader& in) {
      ask(in);
    };
  };
  EXPECT_EQ(mistake_in("\na = 1", one([](TomlReader& in) { in.string("a"); })),
            "t.toml:2: a: must be a string, is an integer");
  EXPECT_EQ(mistake_in("a = 'x'", one([](TomlReader& in) { in.boolean("a"); })),
            "t.toml:1: a: must be true or false, is a string");
  EXPECT_EQ(mistake_in("a = 1.0", one([](TomlReader& in) { in.integer("a", 0, 9); })),
            "t.toml:1: a: must be an integer, is a float");
  EXPECT_EQ(mistake_in("a = 10", one([](TomlReader& in) { in.integer("a", 0, 9); })),
            "t.toml:1: a: is 10; must be from 0 to 9");
  EXPECT_EQ(mistake_in("a = true", one([](TomlReader& in) { in.number("a", 0, 9); })),
            "t.toml:1: a: must be a number, is a boolean");
  EXPECT_EQ(mistake_in("a = nan", one([](TomlReader& in) { in.number("a", 0, 9); })),
            "t.toml:1: a: is nan; must be from 0 to 9");
  EXPECT_EQ(mistake_in("a = inf", one([](TomlReader& in) { in.seconds("a", 1s, 1h); })),
            "t.toml:1: a: is inf; must be from 1 to 3600");
  EXPECT_EQ(mistake_in("a = 'x'", one([](TomlReader& in) { in.one_of("a", {"y", "z"}); })),
            "t.toml:1: a: is \"x\"; must be one of: y, z");
  EXPECT_EQ(mistake_in("a = 'x'", one([](TomlReader& in) { in.strings("a"); })),
            "t.toml:1: a: must be an array of strings, is a string");
  EXPECT_EQ(mistake_in("a = ['x',\n 1]", one([](TomlReader& in) { in.strings("a"); })),
            "t.toml:2: a: must hold only strings, holds an integer");
  EXPECT_EQ(mistake_in("a = 1979-05-27", one([](TomlReader& in) { in.string_map("a"); })),
            "t.toml:1: a: must be a table of strings, is a date or time");
  EXPECT_EQ(mistake_in("[a]\nb = 1", one([](TomlReader& in) { in.string_map("a"); })),
            "t.toml:2: a.b: must be a string, is an integer");
  EXPECT_EQ(mistake_in("a = []", one([](TomlReader& in) { in.table("a"); })),
            "t.toml:1: a: must be a table, is an array");
  EXPECT_EQ(mistake_in("a = {}", one([](TomlReader& in) { in.tables("a"); })),
            "t.toml:1: a: must be an array of tables ([[a]]), is a table");
  EXPECT_EQ(mistake_in("a = [1]", one([](TomlReader& in) { in.tables("a"); })),
            "t.toml:1: a: must hold only tables, holds an integer");
  EXPECT_EQ(mistake_in("[a]\nb = 1", one([](TomlReader& in) { in.named_tables("a"); })),
            "t.toml:2: a.b: must be a table, is an integer");
}

TEST(TomlTest, RequiredStringsMustBeThereAndNotEmpty) {
  const auto ask = [](TomlReader& in) {
    EXPECT_EQ(in.required_string("a"), "");
  };
  EXPECT_EQ(mistake_in("", ask), "t.toml:1: a: is required (a string)");
  EXPECT_EQ(mistake_in("a = ''", ask), "t.toml:1: a: must not be empty");
  EXPECT_EQ(mistake_in("a = 1", ask), "t.toml:1: a: must be a string, is an integer");
}

TEST(TomlTest, ARequiredKeyOfATableIsMissedAtThatTable) {
  EXPECT_EQ(mistake_in("x = 1\n\n[agent]\ny = 1\n",
                       [](TomlReader& in) {
                         in.integer("x", 0, 9);
                         auto agent = in.table("agent");
                         agent->integer("y", 0, 9);
                         agent->required_string("name");
                       }),
            "t.toml:3: agent.name: is required (a string)");
  // A table that only a deeper header implies still has a line.
  EXPECT_EQ(mistake_in("\n[agent.files]\ny = 1\n",
                       [](TomlReader& in) {
                         auto agent = in.table("agent");
                         agent->table("files")->integer("y", 0, 9);
                         agent->required_string("name");
                       }),
            "t.toml:2: agent.name: is required (a string)");
}

TEST(TomlTest, KeysNobodyAskedForAreMistakes) {
  EXPECT_EQ(mistake_in("a = 1\nintruction = 'x'",
                       [](TomlReader& in) {
                         in.integer("a", 0, 9);
                         in.string("instruction");
                       }),
            "t.toml:2: intruction: unknown key; known here: a, instruction");
  EXPECT_EQ(mistake_in("[[f]]\np = 'x'\n[[f]]\nq = 1",
                       [](TomlReader& in) {
                         for (TomlReader row : in.tables("f")) row.string("p");
                       }),
            "t.toml:4: f[1].q: unknown key; known here: p");
}

TEST(TomlTest, TheFirstMistakeIsKept) {
  EXPECT_EQ(mistake_in("a = 1\nb = 2\nc = 3",
                       [](TomlReader& in) {
                         in.string("b");
                         in.string("a");
                         in.mistake("c", "own rule");
                       }),
            "t.toml:2: b: must be a string, is an integer");
  EXPECT_EQ(mistake_in("c = 3", [](TomlReader& in) { in.mistake("c", "own rule"); }),
            "t.toml:1: c: own rule");
}

TEST(TomlTest, BrokenTextIsAnErrorWithItsLine) {
  const auto broken = TomlReader::parse("a = 1\nb = \n", "t.toml");
  ASSERT_FALSE(broken);
  EXPECT_THAT(broken.error().message, HasSubstr("t.toml:2: "));
  for (const std::string_view text :
       {"a = 1\na = 2", "[t", "[,", "[[,", "\uFEEF", "a = 'x", "\xFF = 1", "a = \"\\q\""}) {
    EXPECT_FALSE(TomlReader::parse(text, "t.toml")) << text;
  }
  EXPECT_FALSE(TomlReader::parse("a = " + std::string(5000, '['), "t.toml"));
}

TEST(TomlTest, TheSizeIsLimited) {
  EXPECT_TRUE(TomlReader::parse(std::string(1 << 20, '#'), "t.toml"));
  const auto big = TomlReader::parse(std::string((1 << 20) + 1, '#'), "t.toml");
  ASSERT_FALSE(big);
  EXPECT_EQ(big.error().code, ErrorCode::kTooLarge);
}

TEST(TomlTest, JsonIsValidWhateverTheValue) {
  TomlReader in = parse(R"(
[v]
text = "quote \" slash \\ line \n control \u0001 \u007f e\u00e9 \U0001F600"
inf = inf
nan = nan
real = 1.0
big = 9223372036854775807
date = 1979-05-27T07:32:00Z
list = [1, [true, {}], []]
"odd \" key" = 1
)");
  const auto json = in.json("v");
  ASSERT_TRUE(json);
  boost::json::error_code error;
  const auto value = boost::json::parse(*json, error);
  ASSERT_FALSE(error) << *json;
  EXPECT_EQ(value.at("text"),
            "quote \" slash \\ line \n control \x01 \x7f e\xC3\xA9 \xF0\x9F\x98\x80");
  EXPECT_EQ(value.at("big").as_int64(), INT64_MAX);
  EXPECT_EQ(value.at("list"), boost::json::parse("[1,[true,{}],[]]"));
  EXPECT_TRUE(value.as_object().contains("odd \" key"));
  EXPECT_TRUE(in.finish());
}

TEST(TomlTest, KeysAreListedAndTextTakesAnyValue) {
  TomlReader in = parse("b = 'plain'\na = [1, 'x']\n[c]\n");
  EXPECT_THAT(in.keys(), ElementsAre("a", "b", "c"));
  EXPECT_EQ(in.text("b"), "plain");
  EXPECT_EQ(boost::json::parse(in.text("a").value()), boost::json::parse("[1,\"x\"]"));
  EXPECT_EQ(in.text("none"), std::nullopt);
  EXPECT_THAT(in.finish().error().message, HasSubstr("t.toml:3: c: unknown key"));
}

TEST(TomlTest, ReadersOutliveTheOneTheyCameFrom) {
  std::optional<TomlReader> inner;
  {
    TomlReader in = parse("[a]\nb = 'x'");
    inner = in.table("a");
  }
  EXPECT_EQ(inner->string("b"), "x");
}

}  // namespace
}  // namespace sluice
