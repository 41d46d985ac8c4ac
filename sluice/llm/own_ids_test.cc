#include "sluice/llm/own_ids.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/llm/testing.h"

namespace sluice::llm {
namespace {

// What of it is "nothing" if nothing is to be put back.
std::string put_back(Dialect dialect, std::string_view body) {
  OwnIds ids;
  ids.add("sent_1", "x");
  ids.add("sent_2", "functions.bash:0 \"é\"");
  return ids.put_back(*find_codec(dialect), body).value_or("nothing");
}

constexpr std::string_view kSecond = R"(functions.bash:0 \"é\")";  // as it is written

TEST(OwnIdsTest, StandWhereChatHasThem) {
  EXPECT_EQ(
      put_back(Dialect::kChat,
               R"({"model":"m", "messages":[ {"role":"user","content":"sent_1"},)"
               R"({"role":"assistant","tool_calls":[{"id":"sent_1","function":{"name":"sent_1",)"
               R"("arguments":"{\"id\":\"sent_1\"}"}},{"id": "sent_2"},{"id":"other"}]},)"
               R"({"role":"tool","tool_call_id":"sent_1","content":"sent_1"},)"
               R"({"role":"tool","tool_call_id":"sent_2"},{"id":"sent_1"}],"id":"sent_1"})"),
      R"({"model":"m", "messages":[ {"role":"user","content":"sent_1"},)"
      R"({"role":"assistant","tool_calls":[{"id":"x","function":{"name":"sent_1",)"
      R"("arguments":"{\"id\":\"sent_1\"}"}},{"id": ")" +
          std::string(kSecond) +
          R"("},{"id":"other"}]},)"
          R"({"role":"tool","tool_call_id":"x","content":"sent_1"},)"
          R"({"role":"tool","tool_call_id":")" +
          std::string(kSecond) + R"("},{"id":"sent_1"}],"id":"sent_1"})");
}

TEST(OwnIdsTest, StandWhereResponsesHasThem) {
  EXPECT_EQ(put_back(Dialect::kResponses,
                     R"({"input":[{"type":"function_call","id":"sent_1","call_id":"sent_1",)"
                     R"("arguments":"sent_1"},{"type":"custom_tool_call","call_id":"sent_1"},)"
                     R"({"type":"function_call_output","call_id":"sent_1","output":"sent_1"}]})"),
            R"({"input":[{"type":"function_call","id":"sent_1","call_id":"x",)"
            R"("arguments":"sent_1"},{"type":"custom_tool_call","call_id":"x"},)"
            R"({"type":"function_call_output","call_id":"x","output":"sent_1"}]})");
  EXPECT_EQ(put_back(Dialect::kResponses, R"({"input":"sent_1"})"), "nothing");
}

// What a tool was given, or gave, is not ours to look into.
TEST(OwnIdsTest, StandWhereMessagesHasThem) {
  EXPECT_EQ(put_back(Dialect::kMessages,
                     R"({"messages":[{"role":"assistant","content":[{"type":"tool_use",)"
                     R"("id":"sent_1","input":{"id":"sent_1","content":[{"id":"sent_1"}]}}]},)"
                     R"({"role":"user","content":[{"type":"tool_result","tool_use_id":"sent_1",)"
                     R"("content":[{"type":"text","text":"sent_1","id":"sent_1"}]}]}]})"),
            R"({"messages":[{"role":"assistant","content":[{"type":"tool_use",)"
            R"("id":"x","input":{"id":"sent_1","content":[{"id":"sent_1"}]}}]},)"
            R"({"role":"user","content":[{"type":"tool_result","tool_use_id":"x",)"
            R"("content":[{"type":"text","text":"sent_1","id":"sent_1"}]}]}]})");
}

TEST(OwnIdsTest, StandWhereGeminiHasThem) {
  EXPECT_EQ(put_back(Dialect::kGemini,
                     R"({"contents":[{"parts":[{"functionCall":{"id":"sent_1","args":{"id":)"
                     R"("sent_1"}}},{"function_response":{"id":"sent_1","response":{"id":)"
                     R"("sent_1"}}}]},{"parts":{"function_call":{"id":"sent_1"}}},)"
                     R"({"parts":{"functionResponse":{"id":"sent_1"}}}]})"),
            R"({"contents":[{"parts":[{"functionCall":{"id":"x","args":{"id":)"
            R"("sent_1"}}},{"function_response":{"id":"x","response":{"id":)"
            R"("sent_1"}}}]},{"parts":{"function_call":{"id":"x"}}},)"
            R"({"parts":{"functionResponse":{"id":"x"}}}]})");
}

TEST(OwnIdsTest, WhatHasNoneOfThemOrCannotBeReadIsLeftAlone) {
  EXPECT_EQ(put_back(Dialect::kChat, R"({"messages":[{"tool_call_id":"other"}]})"), "nothing");
  EXPECT_EQ(put_back(Dialect::kChat, R"({"messages":[{"tool_call_id":"sent_1"},{"a":tru}]})"),
            "nothing");
  EXPECT_EQ(put_back(Dialect::kChat, R"({"messages":[{"tool_call_id":"sent_1"}]} {})"), "nothing");
  EXPECT_EQ(put_back(Dialect::kChat, ""), "nothing");
}

TEST(OwnIdsTest, AreWhatWhoeverAnswersIsGiven) {
  const auto ids = std::make_shared<OwnIds>();
  ids->add("sent_1", "x");
  Call call;
  const auto sent = std::make_shared<const Bytes>(
      R"({"model":"m","messages":[{"role":"tool","tool_call_id":"sent_1"}]})");
  call.body = Body(sent);
  EXPECT_EQ(*call.asked(), sent);
  call.own_ids = ids;
  const auto asked = call.asked();
  ASSERT_TRUE(asked);
  EXPECT_EQ(**asked, R"({"model":"m","messages":[{"role":"tool","tool_call_id":"x"}]})");
  EXPECT_EQ((*call.request())->messages.at(0).tool_call_id, "x");
  EXPECT_EQ(*call.body.bytes(), sent);
  // Also with what the gate put into it.
  call.changed_body = std::make_shared<const Bytes>(
      R"({"messages":[{"role":"tool","tool_call_id":"sent_1"}],"tools":[]})");
  EXPECT_EQ(**call.asked(), R"({"messages":[{"role":"tool","tool_call_id":"x"}],"tools":[]})");
  // A request without any is the bytes that came.
  call.changed_body = nullptr;
  const auto other = std::make_shared<const Bytes>(R"({"messages":[{"role":"user"}]})");
  call.body = Body(other);
  EXPECT_EQ(*call.asked(), other);
}

}  // namespace
}  // namespace sluice::llm
