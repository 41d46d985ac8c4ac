// No request of an agent can stop a trainer: what is let in can be read, in the canonical form too,
// and what cannot be read is the vendor's 400 and no call.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/gate/testing.h"
#include "sluice/json/value.h"

namespace sluice::gate {
namespace {

using ::testing::HasSubstr;

// One dialect: where it is asked, and a request of these elements of its conversation, the last of
// which is wrong.
struct Way {
  llm::Dialect dialect;
  std::string_view path;
  std::string_view before, after;  // of the elements
  std::string_view good;           // an element
  std::string_view bad_role;       // the same with a role that nobody knows
  std::string_view told;           // of it
  std::string_view number_path;    // of a wrong element, "{}" for its number
};

constexpr std::array kWays{
    Way{llm::Dialect::kChat, "/v1/chat/completions", R"({"model":"m","messages":[)", "]}",
        R"({"role":"user","content":"x"})", R"({"role":"critic","content":"y"})",
        "Invalid value: 'critic'. Supported values are: 'system', 'developer', 'user', "
        "'assistant', 'tool', 'function'.",
        "messages[{}]"},
    Way{llm::Dialect::kResponses, "/v1/responses", R"({"model":"m","input":[)", "]}",
        R"({"role":"user","content":"x"})", R"({"type":"message","role":"critic","content":"y"})",
        "Invalid value: 'critic'. Supported values are: 'system', 'developer', 'user', "
        "'assistant'.",
        "input[{}]"},
    Way{llm::Dialect::kMessages, "/v1/messages", R"({"model":"m","max_tokens":9,"messages":[)",
        "]}", R"({"role":"user","content":"x"})", R"({"role":"critic","content":"y"})",
        "messages.1.role: Input should be 'user', 'assistant', 'system'", "messages.{}"},
    Way{llm::Dialect::kGemini, "/v1beta/models/m:generateContent", R"({"contents":[)", "]}",
        R"({"role":"user","parts":[{"text":"x"}]})", R"({"role":"critic","parts":[{"text":"y"}]})",
        "Please use a valid role: user, model.", "contents[{}]"},
};

class ReadableTest : public testing::GateFixture, public ::testing::WithParamInterface<Way> {
 protected:
  void SetUp() override {
    registration_.dialects = {way().dialect};
    registration_.budget.calls_per_second = 0;
    open();
  }
  static const Way& way() { return GetParam(); }
  static std::string request(std::string_view elements) {
    return fmt::format("{}{}{}", way().before, elements, way().after);
  }
  static std::string behind_good(std::string_view element) {
    return request(fmt::format("{},{}", way().good, element));
  }
  // Asks, and is refused without becoming a call.
  testing::Response refused(const std::string& body) {
    const uint64_t calls = counters().calls;
    auto agent = this->agent();
    agent.post("/rollout/r0" + std::string(way().path), body);
    auto response = agent.response();
    EXPECT_EQ(response.status, 400) << body;
    EXPECT_TRUE(json::parse(response.body)) << response.body;
    EXPECT_EQ(counters().calls, calls);
    return response;
  }
  // Asks, and becomes a call that can be read.
  llm::Request read(const std::string& body) {
    auto agent = this->agent();
    agent.post("/rollout/r0" + std::string(way().path), body);
    const auto call = next_call();
    auto request = call->parse();
    EXPECT_TRUE(request) << (request ? "" : request.error().message);
    EXPECT_EQ(outcome(reply(call->id, "ok")), llm::Outcome::kDelivered);
    return request ? std::move(*request) : llm::Request();
  }
};

INSTANTIATE_TEST_SUITE_P(All, ReadableTest, ::testing::ValuesIn(kWays), [](const auto& info) {
  return std::string(to_string(info.param.dialect));
});

TEST_P(ReadableTest, ARoleThatNobodyKnowsIsTheVendors400) {
  EXPECT_THAT(refused(behind_good(way().bad_role)).body, HasSubstr(way().told));
  // Also where most of the conversation was read before.
  read(behind_good(way().good));
  EXPECT_THAT(refused(request(fmt::format("{0},{0},{1}", way().good, way().bad_role))).body,
              HasSubstr(way().dialect == llm::Dialect::kMessages ? "messages.2.role"
                                                                 : std::string(way().told)));
}

TEST_P(ReadableTest, AnElementThatIsNoObjectIsToldByItsPlace) {
  for (const char* wrong : {"7", "\"x\"", "null", "[]"}) {
    EXPECT_THAT(refused(behind_good(wrong)).body,
                HasSubstr(fmt::format(fmt::runtime(way().number_path), 1)));
  }
}

TEST_P(ReadableTest, WhatIsNoJsonDeeperDownIsRefusedToo) {
  const auto with = [](std::string_view value) {
    std::string element(way().good);
    element.back() = ',';
    return element + "\"more\":" + std::string(value) + "}";
  };
  const auto nested = [](size_t levels) {
    return std::string(levels, '[') + std::string(levels, ']');
  };
  for (const std::string& wrong :
       {std::string("tru"), std::string("[1 2]"), std::string("{\"a\":}"), std::string("\"\\q\""),
        std::string("NaN"), std::string("-Infinity"), nested(json::kMaxDepth),
        std::string(json::kMaxNumber + 1, '9')}) {
    refused(request(with(wrong)));
    refused(behind_good(with(wrong)));
  }
  // One limit for who lets in and who reads: three brackets are around the value.
  read(behind_good(with(nested(json::kMaxDepth - 3))));
  read(request(way().good));
  refused(behind_good(with(nested(json::kMaxDepth - 2))));
}

TEST_P(ReadableTest, WhatHasAnotherShapeThanItShouldIsRead) {
  const auto with = [](std::string_view member) {
    std::string element(way().good);
    element.back() = ',';
    return element + std::string(member) + "}";
  };
  const std::string_view role =
      way().dialect == llm::Dialect::kGemini ? R"("role":"model")" : R"("role":"assistant")";
  size_t count = 0;
  for (const char* member :
       {R"("content":7)", R"("content":[1,"x",null,{"text":5}])", R"("tool_calls":[1,{}])",
        R"("tool_calls":[{"function":7}])", R"("tool_calls":7)", R"("parts":7)",
        R"("parts":[1,"x",null,{"functionCall":7},{"functionResponse":[]}])",
        R"("parts":[{"text":1,"thoughtSignature":{}},{"functionCall":{"args":[]}}])"}) {
    const std::string element = fmt::format("{{{},{},\"number\":{}}}", role, member, count++);
    const auto request = read(behind_good(element));
    EXPECT_THAT(request.messages.back().raw, HasSubstr(std::string(role))) << member;
  }
  for (const char* tools :
       {R"([1,"x",null,{}])", R"([{"functionDeclarations":7},{"function":[]}])",
        R"([{"functionDeclarations":[1,{}],"type":"namespace","tools":[1]}])"}) {
    std::string body = request(with(fmt::format(R"("number":{})", count++)));
    body.back() = ',';
    read(body + R"("tools":)" + tools + "}");
  }
}

class GeminiReadableTest : public testing::GateFixture {};

// As Google's own SDK documents it: gate/01a of the reports.
TEST_F(GeminiReadableTest, ResultsMayComeUnderTheRoleOfATool) {
  registration_.dialects = {llm::Dialect::kGemini};
  open();
  auto agent = this->agent();
  agent.post("/rollout/r0/v1beta/models/m:generateContent",
             R"({"contents":[{"role":"user","parts":[{"text":"weather?"}]},)"
             R"({"role":"model","parts":[{"functionCall":{"name":"w","args":{}}}]},)"
             R"({"role":"tool","parts":[{"functionResponse":{"name":"w","response":)"
             R"({"result":"sunny"}}}]}]})");
  const auto call = next_call();
  const auto request = call->parse();
  ASSERT_TRUE(request) << request.error().message;
  ASSERT_EQ(request->messages.size(), 3u);
  EXPECT_EQ(request->messages[2].role, llm::Role::kTool);
  EXPECT_EQ(request->messages[2].text, "sunny");
  EXPECT_EQ(request->messages[2].tool_call_id, request->messages[1].tool_calls[0].id);
}

}  // namespace
}  // namespace sluice::gate
