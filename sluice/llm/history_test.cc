#include "sluice/llm/history.h"

#include <gtest/gtest.h>

#include "sluice/llm/answer.h"
#include "sluice/llm/codecs.h"

namespace sluice::llm {
namespace {

constexpr std::string_view kFirst =
    R"([{"role":"system","content":"s"}, {"role":"user","content":"u"} ])";

// A conversation as the gate sees it, and where the answer to it would be echoed.
struct Conversation {
  explicit Conversation(std::string_view messages)
      : body("{\"model\":\"m\",\"messages\":" + std::string(messages) + "}") {
    json::Peeker peeker;
    peek = *chat_codec().peek(peeker, body, {});
  }
  Bytes body;
  Peek peek;
};

Answer tool_answer() {
  Answer answer = text_answer("I will write.", Origin::kSampled);
  answer.choices[0].message.tool_calls = {{"call_1", "write", "{ \"path\" : \"a\\u00e9\" }"},
                                          {"call_2", "bash", "{broken"}};
  return answer;
}

std::optional<size_t> echoed(const Answer& answer, std::string_view later,
                             std::string_view earlier = kFirst) {
  const Conversation a(earlier), b(later);
  return echoed_choice(chat_codec(), mark_of(a.peek), answer, b.peek.conversation);
}

// kFirst with messages behind it, byte for byte.
std::string continued(std::string_view more) {
  std::string out(kFirst);
  out.resize(out.rfind('}') + 1);
  return out + "," + std::string(more) + "]";
}

TEST(HistoryTest, ToolCallsAreMatchedByIdAlone) {
  const Answer answer = tool_answer();
  // Arguments re-serialised, text dropped.
  EXPECT_EQ(
      echoed(answer,
             continued(
                 R"({"role":"assistant","content":null,"tool_calls":[)"
                 R"({"id":"call_1","function":{"name":"write","arguments":"{\"path\":\"aé\"}"}},)"
                 R"({"id":"call_2","function":{"name":"bash","arguments":"{}"}}]},)"
                 R"({"role":"tool","tool_call_id":"call_1","content":"ok"})")),
      0u);
}

TEST(HistoryTest, SurvivesOpenCodesInvalidTool) {
  EXPECT_EQ(echoed(tool_answer(),
                   continued(R"({"role":"assistant","content":"I will write.","tool_calls":[)"
                             R"({"id":"call_1","function":{"name":"write","arguments":"{}"}},)"
                             R"({"id":"call_2","function":{"name":"invalid","arguments":)"
                             R"("{\"tool\":\"bash\",\"error\":\"JSON parsing failed\"}"}}]})")),
            0u);
}

TEST(HistoryTest, OtherIdsOtherOrderOrFewerCallsAreNoEcho) {
  const Answer answer = tool_answer();
  const auto with_ids = [&](std::string_view first, std::string_view second) {
    return echoed(answer, continued(R"({"role":"assistant","tool_calls":[{"id":")" +
                                    std::string(first) + R"(","function":{}},{"id":")" +
                                    std::string(second) + R"(","function":{}}]})"));
  };
  EXPECT_EQ(with_ids("call_1", "call_2"), 0u);
  EXPECT_EQ(with_ids("call_2", "call_1"), std::nullopt);
  EXPECT_EQ(with_ids("call_1", "call_3"), std::nullopt);
  EXPECT_EQ(echoed(answer, continued(R"({"role":"assistant","tool_calls":[{"id":"call_1"}]})")),
            std::nullopt);
  EXPECT_EQ(echoed(answer, continued(R"({"role":"assistant","content":"I will write."})")),
            std::nullopt);
}

TEST(HistoryTest, TextIsMatchedWithoutCallsAndWhiteSpaceApart) {
  const Answer answer = text_answer("  All done.\n\nBye ", Origin::kSampled);
  const auto with_text = [&](std::string_view text) {
    return echoed(answer,
                  continued(R"({"role":"assistant","content":")" + std::string(text) + R"("})"));
  };
  EXPECT_EQ(with_text("  All done.\\n\\nBye "), 0u);
  EXPECT_EQ(with_text("All done. Bye"), 0u);
  EXPECT_EQ(with_text("Alldone. Bye"), std::nullopt);
  EXPECT_EQ(with_text("All done."), std::nullopt);
  EXPECT_EQ(with_text(""), std::nullopt);
  // As an array of parts.
  EXPECT_EQ(echoed(answer, continued(R"({"role":"assistant","content":)"
                                     R"([{"type":"text","text":"All done.\n\nBye"}]})")),
            0u);
}

TEST(HistoryTest, AnEmptyAnswerIsEchoedByAnEmptyTurn) {
  const Answer answer = text_answer("", Origin::kSampled);
  EXPECT_EQ(echoed(answer, continued(R"({"role":"assistant","content":null})")), 0u);
  EXPECT_EQ(echoed(answer, continued(R"({"role":"user","content":""})")), std::nullopt);
}

TEST(HistoryTest, PositionCountsEvenIfTheHistoryWasWrittenDifferently) {
  const Answer answer = text_answer("yes", Origin::kSampled);
  // The same messages with other white space: found by counting.
  EXPECT_EQ(echoed(answer, R"([ {"content":"s","role":"system"},{"role":"user","content":"u"},)"
                           R"({"role":"assistant","content":"yes"}])"),
            0u);
  // The right turn in the wrong place.
  EXPECT_EQ(
      echoed(answer, R"([{"role":"user","content":"u"},{"role":"assistant","content":"yes"}])"),
      std::nullopt);
  EXPECT_EQ(echoed(answer, R"([{"role":"user","content":"u"}])"), std::nullopt);
  EXPECT_EQ(echoed(answer, kFirst), std::nullopt);
}

TEST(HistoryTest, TellsWhichChoiceWasTaken) {
  Answer answer = text_answer("a", Origin::kSampled);
  answer.choices.emplace_back().message.text = "b";
  EXPECT_EQ(echoed(answer, continued(R"({"role":"assistant","content":"b"})")), 1u);
}

TEST(HistoryTest, AMalformedContinuationIsNone) {
  const Answer answer = text_answer("yes", Origin::kSampled);
  const Conversation a(kFirst);
  const std::string later = continued(R"({"role":"assistant","content":oops})");
  EXPECT_EQ(
      echoed_choice(chat_codec(), mark_of(a.peek), answer, json::Raw{later, json::Type::kArray}),
      std::nullopt);
}

TEST(HistoryTest, ARefusalIsEchoedAsTextOrAsARefusal) {
  Answer answer = text_answer("", Origin::kSampled);
  answer.choices[0].message.refusal = "I will not.";
  EXPECT_EQ(echoed(answer, continued(R"({"role":"assistant","content":"I will not."})")), 0u);
  EXPECT_EQ(echoed(answer, continued(R"({"role":"assistant","refusal":"I will not."})")), 0u);
  EXPECT_EQ(echoed(answer, continued(R"({"role":"assistant","content":"I will."})")), std::nullopt);
}

TEST(HistoryTest, ReasoningDoesNotCount) {
  // Gemini CLI drops it, Qwen Code trims it.
  Answer answer = text_answer("yes", Origin::kSampled);
  answer.choices[0].message.reasoning = " hm \n";
  EXPECT_EQ(echoed(answer, continued(R"({"role":"assistant","content":"yes"})")), 0u);
  EXPECT_EQ(
      echoed(answer, continued(R"({"role":"assistant","content":"yes","reasoning_content":"hm"})")),
      0u);
}

TEST(HistoryTest, ExtendsByMessagesSeesThroughOtherWhiteSpace) {
  const auto array = [](std::string_view text) {
    return json::Raw{text, json::Type::kArray};
  };
  const auto extended = [&](std::string_view earlier, std::string_view later) {
    return extends(chat_codec(), array(earlier), array(later));
  };
  EXPECT_TRUE(extended("[{\"a\":1} ,{\"b\":2}]", "[ {\"a\":1},{\"b\":2},{\"c\":3}]"));
  EXPECT_TRUE(extended("[]", "[1]"));
  EXPECT_FALSE(extended("[1, 2]", "[1]"));
  EXPECT_FALSE(extended("[1, 2]", "[1,3,2]"));
  EXPECT_FALSE(extended("[1]", "[12]"));
}

TEST(HistoryTest, ExtendsComparesBytes) {
  const auto array = [](std::string_view text) {
    return json::Raw{text, json::Type::kArray};
  };
  EXPECT_TRUE(extends(array("[{\"a\":1} ]"), array("[{\"a\":1},{\"b\":2}]")));
  EXPECT_TRUE(extends(array("[{\"a\":1}]"), array("[{\"a\":1}]")));
  EXPECT_TRUE(extends(array("[]"), array("[{\"a\":1}]")));
  EXPECT_FALSE(extends(array("[{\"a\":1}]"), array("[{\"a\": 1},{\"b\":2}]")));
  EXPECT_FALSE(extends(array("[{\"a\":1},{\"b\":2}]"), array("[{\"a\":1}]")));
  EXPECT_FALSE(extends(array("[1]"), array("[12]")));
}

}  // namespace
}  // namespace sluice::llm
