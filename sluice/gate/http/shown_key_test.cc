// A rollout whose listener others reach, too: requests have to show its key.
#include "sluice/gate/http/shown_key.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/gate/testing.h"

namespace sluice::gate::http {
namespace {

using ::testing::HasSubstr;

constexpr std::string_view kKey = "rollout.0123456789abcdef";

class OwnKeyTest : public testing::GateFixture {
 protected:
  void open_with_key() {
    registration_.key = kKey;
    registration_.policy = testing::answering("hello");
    registration_.dialects = {llm::Dialect::kChat, llm::Dialect::kResponses,
                              llm::Dialect::kMessages, llm::Dialect::kGemini};
    open();
  }

  int status(std::string_view path, std::string_view body, std::string_view headers) {
    auto agent = this->agent();
    agent.post(path, body, headers);
    return agent.response().status;
  }
};

TEST_F(OwnKeyTest, EveryRouteWantsItInEveryDialectsWay) {
  open_with_key();
  const std::string key(kKey);
  const std::string chat = body();
  struct Case {
    std::string path, body, header;
  };
  const std::string messages =
      R"({"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]})";
  const std::string gemini = R"({"contents":[{"role":"user","parts":[{"text":"hi"}]}]})";
  const Case cases[] = {
      {"/v1/chat/completions", chat, "Authorization: Bearer " + key + "\r\n"},
      {"/rollout/r0/v1/responses", R"({"model":"m","input":"hi"})",
       "Authorization: Bearer " + key + "\r\n"},
      {"/rollout/r0/v1/messages", messages, "x-api-key: " + key + "\r\n"},
      {"/rollout/r0/v1beta/models/m:generateContent", gemini, "x-goog-api-key: " + key + "\r\n"},
      {"/rollout/r0/v1beta/models/m:generateContent?key=" + key, gemini, ""},
      // Whatever else is shown beside it.
      {"/rollout/r0/v1/messages", messages,
       "Authorization: Bearer another\r\nx-api-key: " + key + "\r\n"},
      {"/rollout/r0/v1/messages", messages,
       "x-api-key: another\r\nAuthorization: Bearer " + key + "\r\n"}};
  for (const Case& one : cases) {
    EXPECT_EQ(status(one.path, one.body, one.header), 200) << one.path << one.header;
    const std::string bare = one.path.substr(0, one.path.find('?'));
    for (const std::string& wrong :
         {std::string(), "Authorization: Bearer " + key + "0\r\n",
          "x-api-key: \r\n" + std::string(), "Authorization: Basic " + key + "\r\n"}) {
      EXPECT_EQ(status(bare, one.body, wrong), 401) << bare << wrong;
    }
  }
  const uint64_t calls = counters().calls;
  for (const char* path : {"/rollout/r0/mcp", "/v1/tools/search", "/v1/exit", "/v1/models",
                           "/nothing", "/rollout/other/v1/chat/completions"}) {
    EXPECT_EQ(status(path, "{}", ""), 401) << path;
  }
  EXPECT_EQ(counters().calls, calls);
  EXPECT_EQ(counters().refused, 0u) << "strangers leave nothing in its books";
}

TEST_F(OwnKeyTest, ItIsCheckedBeforeAnyOfTheBodyIsThereAndToldInTheVendorsShape) {
  open_with_key();
  auto agent = this->agent();
  agent.send(
      "POST /v1/messages HTTP/1.1\r\nHost: gate\r\nanthropic-version: 1\r\n"
      "Content-Length: 1000000\r\n\r\n");
  const auto refused = agent.response();
  EXPECT_EQ(refused.status, 401);
  EXPECT_THAT(refused.body, HasSubstr("authentication_error"));
  EXPECT_THAT(refused.head, HasSubstr("WWW-Authenticate: Bearer"));
}

TEST_F(OwnKeyTest, WithoutOneNothingIsAskedFor) {
  registration_.policy = testing::answering("hello");
  open();
  EXPECT_EQ(status(kPath, body(), ""), 200);
  EXPECT_EQ(status(kPath, body(1), "Authorization: Bearer whatever\r\n"), 200);
}

}  // namespace
}  // namespace sluice::gate::http
