#include "sluice/llm/call.h"

#include <gtest/gtest.h>

#include <thread>

#include "sluice/llm/dialect.h"

namespace sluice::llm {
namespace {

TEST(CallTest, ParsesItsRequestOnceForAllThreads) {
  Call call;
  call.body = Body(std::make_shared<const Bytes>(
      R"({"model":"m","messages":[{"role":"user","content":"hi"}]})"));
  std::vector<const Request*> seen(4);
  std::vector<std::thread> threads;
  for (auto& slot : seen) {
    threads.emplace_back([&call, &slot] { slot = *call.request(); });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(seen[0]->messages[0].text, "hi");
  for (const Request* request : seen) EXPECT_EQ(request, seen[0]);
}

TEST(CallTest, AMalformedBodyIsAnErrorEachTime) {
  Call call;
  call.body = Body(std::make_shared<const Bytes>(R"({"model":"m","messages":[{"role":"user",}]})"));
  EXPECT_EQ(call.request().error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(call.request().error().code, ErrorCode::kInvalidArgument);
}

TEST(CallTest, AModelThatOnlyTheUrlNamesIsTheRequests) {
  Call call;
  call.dialect = Dialect::kGemini;
  call.model = "gemini-3";
  call.body = Body(std::make_shared<const Bytes>(R"({"contents":[{"parts":[{"text":"hi"}]}]})"));
  EXPECT_EQ((*call.request())->model, "gemini-3");
}

TEST(CallTest, WhoeverAnswersSeesTheBodyThatTheGateChanged) {
  Call call;
  call.body = Body(std::make_shared<const Bytes>(
      R"({"model":"m","messages":[{"role":"user","content":"hi"}]})"));
  EXPECT_EQ(*call.asked(), call.body.in_memory());
  call.changed_body = std::make_shared<const Bytes>(
      R"({"model":"m","messages":[{"role":"user","content":"hi"}],"tools":[{"function":{"name":"x"}}]})");
  EXPECT_EQ((*call.request())->tools.at(0).name, "x");
}

TEST(CallTest, NamesOfValues) {
  EXPECT_EQ(to_string(Dialect::kChat), "chat");
  EXPECT_EQ(to_string(Purpose::kSubagent), "subagent");
  EXPECT_EQ(to_string(Role::kTool), "tool");
  EXPECT_EQ(to_string(Finish::kToolCalls), "tool_calls");
  EXPECT_EQ(to_string(Origin::kInjected), "injected");
  EXPECT_EQ(to_string(Outcome::kCancelled), "cancelled");
  EXPECT_EQ(to_string(ToolCall::Kind::kCustom), "custom");
  EXPECT_EQ(dialect_names(), "chat, responses, messages, gemini");
  for (const Dialect dialect : kDialects) {
    EXPECT_NE(find_codec(dialect), nullptr);
    EXPECT_EQ(dialect_from(to_string(dialect)), dialect);
  }
  EXPECT_EQ(dialect_from("smoke"), std::nullopt);
  EXPECT_EQ(find_codec(static_cast<Dialect>(4)), nullptr);
}

}  // namespace
}  // namespace sluice::llm
