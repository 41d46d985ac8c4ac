#include "sluice/agent/events.h"

#include <gtest/gtest.h>

#include "sluice/agent/registry.h"

namespace sluice::agent {
namespace {

std::vector<EventRule> rules() {
  return {
      {{{"/type", "text"}}, EventKind::kText, "/part/text", "", "", ""},
      {{{"/type", "tool_use"}},
       EventKind::kTool,
       "",
       "/part/tool",
       "/part/callID",
       "/part/state/status"},
      {{{"/type", "error"}}, EventKind::kError, "/error/data/message", "", "", ""},
  };
}

TEST(EventReaderTest, ReadsLinesHoweverTheyAreCut) {
  const std::string output =
      R"({"type":"text","part":{"text":"hello"}})"
      "\n"
      R"({"type":"tool_use","part":{"tool":"bash","callID":"call_1","state":{"status":"completed"}}})"
      "\n";
  for (size_t cut = 0; cut <= output.size(); ++cut) {
    EventReader reader(rules());
    auto events = reader.feed(std::string_view(output).substr(0, cut));
    auto rest = reader.feed(std::string_view(output).substr(cut));
    events.insert(events.end(), rest.begin(), rest.end());
    ASSERT_EQ(events.size(), 2u) << "cut at " << cut;
    EXPECT_EQ(events[0].text, "hello");
    EXPECT_EQ(events[1].tool, "bash");
    EXPECT_EQ(events[1].id, "call_1");
    EXPECT_EQ(events[1].status, "completed");
  }
}

TEST(EventReaderTest, AStatusMayBeAWordOfTheRules) {
  EventReader reader({{{{"/failed", "true"}}, EventKind::kTool, "", "/tool", "", "error"},
                      {{{"/type", "tool"}}, EventKind::kTool, "", "/tool", "", "completed"}});
  const auto events = reader.feed(
      "{\"type\":\"tool\",\"tool\":\"a\",\"failed\":true}\n"
      "{\"type\":\"tool\",\"tool\":\"b\",\"failed\":false}\n");
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].status, "error");
  EXPECT_EQ(events[1].status, "completed");
}

// What people see of a tool's end must not read as the opposite: "tool write false".
TEST(EventReaderTest, ToolsOfOurAgentsEndInTheSameWords) {
  const auto pi = Registry("/nonexistent").find("pi");
  ASSERT_TRUE(pi);
  EventReader reader(pi->events);
  const auto events = reader.feed(
      "{\"type\":\"tool_execution_end\",\"toolName\":\"write\",\"isError\":false}\n"
      "{\"type\":\"tool_execution_end\",\"toolName\":\"bash\",\"isError\":true}\n");
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].tool + " " + events[0].status, "write completed");
  EXPECT_EQ(events[1].tool + " " + events[1].status, "bash error");
}

TEST(EventReaderTest, AnUnfinishedLastLineCounts) {
  EventReader reader(rules());
  EXPECT_TRUE(reader.feed(R"({"type":"error","error":{"data":{"message":"no model"}}})").empty());
  EXPECT_FALSE(reader.error());
  ASSERT_EQ(reader.finish().size(), 1u);
  EXPECT_EQ(reader.error(), "no model");
}

// An agent that tries again after an error got over it if it came to a good end.
TEST(EventReaderTest, SuccessIsWhatTheEventsSayLast) {
  constexpr std::string_view kError =
      "{\"type\":\"error\",\"error\":{\"data\":{\"message\":\"no\"}}}\n";
  constexpr std::string_view kDone = "{\"type\":\"end\"}\n";
  const auto success = [&](std::vector<EventRule> rules, std::vector<std::string_view> lines) {
    EventReader reader(rules);
    for (const std::string_view line : lines) reader.feed(line);
    return reader.success();
  };
  EXPECT_TRUE(success(rules(), {}));
  EXPECT_FALSE(success(rules(), {kError}));
  auto knowing = rules();
  knowing.push_back({{{"/type", "end"}}, EventKind::kDone, "", "", "", ""});
  EXPECT_FALSE(success(knowing, {}));
  EXPECT_TRUE(success(knowing, {kDone}));
  EXPECT_TRUE(success(knowing, {kError, kDone}));
  EXPECT_FALSE(success(knowing, {kDone, kError}));
}

TEST(EventReaderTest, WhatIsNoEventIsPassedOver) {
  EventReader reader(rules());
  EXPECT_TRUE(
      reader.feed("! permission requested\n{\"type\":\"other\"}\n{broken\n\n[1]\n").empty());
}

TEST(EventReaderTest, AnEndlessLineIsSkippedAndTheNextOneRead) {
  EventReader reader(rules());
  const Bytes piece(1024 * 1024, 'x');
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(reader.feed(piece).empty());
  EXPECT_EQ(reader.feed("\n{\"type\":\"text\",\"part\":{\"text\":\"after\"}}\n").size(), 1u);
}

TEST(EventReaderTest, AnEventThatIsTooLongIsSkippedAndTheNextOneRead) {
  EventReader reader(rules());
  const Bytes long_text = R"({"type":"text","part":{"text":")" + Bytes(600 * 1024, 'x') + "\"}}\n";
  const ByteView view = long_text;
  for (size_t at = 0; at < view.size(); at += 64 * 1024) {
    EXPECT_TRUE(reader.feed(view.substr(at, 64 * 1024)).empty());
  }
  // A line that is none is not taken for one because it goes on with a brace.
  EXPECT_TRUE(reader.feed("no event ").empty());
  EXPECT_TRUE(reader.feed("{\"type\":\"text\",\"part\":{\"text\":\"inner\"}}\n").empty());
  EXPECT_EQ(reader.feed("{\"type\":\"text\",\"part\":{\"text\":\"after\"}}\n").size(), 1u);
}

TEST(TailTest, KeepsTheEnd) {
  Tail tail(4);
  tail.add("ab");
  EXPECT_EQ(tail.bytes(), "ab");
  tail.add("cde");
  EXPECT_EQ(tail.bytes(), "bcde");
  tail.add("0123456789");
  EXPECT_EQ(tail.bytes(), "6789");
  for (int i = 0; i < 100; ++i) tail.add("z");
  EXPECT_EQ(tail.bytes(), "zzzz");
}

}  // namespace
}  // namespace sluice::agent
