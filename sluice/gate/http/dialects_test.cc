// What agents of each dialect see of the gate: framing, keep-alive, errors, refusals, side
// requests.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/gate/testing.h"
#include "sluice/json/value.h"

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::Not;

// How one dialect asks, and what marks its answers.
struct Way {
  llm::Dialect dialect;
  std::string_view plain, streamed;      // paths
  std::string_view body, streamed_body;  // of the same question
  std::string_view count;                // path
  std::string_view end;                  // of a streamed answer
  std::string_view alive;                // a keep-alive frame
  int ending;                            // the status that makes its agents stop
};

constexpr Way kChat{llm::Dialect::kChat,
                    "/v1/chat/completions",
                    "/v1/chat/completions",
                    R"({"model":"m","messages":[{"role":"user","content":"hi"}]})",
                    R"({"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true})",
                    "",
                    "data: [DONE]",
                    testing::kChatKeepAlive,
                    400};

constexpr std::array kWays{
    Way{llm::Dialect::kResponses, "/v1/responses", "/v1/responses", R"({"model":"m","input":"hi"})",
        R"({"model":"m","input":"hi","stream":true})", "/v1/responses/input_tokens",
        "event: response.completed", "event: response.in_progress", 400},
    Way{llm::Dialect::kMessages, "/v1/messages", "/v1/messages?beta=true",
        R"({"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]})",
        R"({"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}],"stream":true})",
        "/v1/messages/count_tokens", "event: message_stop", "event: ping", 403},
    Way{llm::Dialect::kGemini, "/v1beta/models/m:generateContent",
        "/v1beta/models/m:streamGenerateContent?alt=sse",
        R"({"contents":[{"role":"user","parts":[{"text":"hi"}]}]})",
        R"({"contents":[{"role":"user","parts":[{"text":"hi"}]}]})", "/v1beta/models/m:countTokens",
        "\"finishReason\":\"STOP\"", "\r\n1\r\n\n\r\n", 400},
};

class DialectTest : public testing::GateFixture, public ::testing::WithParamInterface<Way> {
 protected:
  void SetUp() override { registration_.dialects = {way().dialect}; }
  static const Way& way() { return GetParam(); }
};

INSTANTIATE_TEST_SUITE_P(All, DialectTest, ::testing::ValuesIn(kWays), [](const auto& info) {
  return std::string(to_string(info.param.dialect));
});

std::string at(const std::string& body, const char* pointer) {
  const auto value = json::parse(body);
  if (!value) return "not JSON: " + body;
  boost::json::error_code error;
  const json::Value* found = value->find_pointer(pointer, error);
  return found == nullptr ? "absent" : json::serialize(*found);
}

TEST_P(DialectTest, PlainAndStreamedCallsAreAnsweredAndRecorded) {
  open();
  auto agent = this->agent();
  agent.post("/rollout/r0" + std::string(way().plain), way().body);
  const auto call = next_call();
  EXPECT_EQ(call->dialect, way().dialect);
  EXPECT_EQ(call->model, "m");
  EXPECT_FALSE(call->stream);
  EXPECT_EQ(**call->body.bytes(), way().body);
  EXPECT_EQ(outcome(reply(call->id, "hello")), llm::Outcome::kDelivered);
  auto response = agent.response();
  EXPECT_EQ(response.status, 200);
  EXPECT_THAT(response.head, HasSubstr("Content-Type: application/json"));
  EXPECT_THAT(response.body, HasSubstr("\"hello\""));

  agent.post(way().streamed, way().streamed_body);
  EXPECT_TRUE(next_call()->stream);
  agent.wait_for("\r\n\r\n");
  EXPECT_THAT(agent.seen(), HasSubstr("HTTP/1.1 200"));
  EXPECT_THAT(agent.seen(), HasSubstr("Content-Type: text/event-stream"));
  EXPECT_FALSE(a_call_waits());
}

TEST_P(DialectTest, AStreamedAnswerComesBehindCountedKeepAlives) {
  options_.keep_alive = 10ms;
  open();
  auto agent = this->agent();
  agent.post(way().streamed, way().streamed_body);
  const auto call = next_call();
  agent.wait_for(way().alive);
  const size_t first = agent.seen().size();
  testing::run_until(shard_, [&] { return agent.seen().size() > first; });
  if (way().dialect == llm::Dialect::kGemini) EXPECT_THAT(agent.seen(), Not(HasSubstr("\n:")));
  EXPECT_EQ(outcome(reply(call->id, "late")), llm::Outcome::kDelivered);
  const std::string body = agent.response().body;
  EXPECT_THAT(body, HasSubstr("late"));
  EXPECT_THAT(body, HasSubstr(way().end));
  if (way().dialect != llm::Dialect::kResponses) return;
  // Events are numbered from the first keep-alive to the last of the answer.
  int next = 0;
  for (size_t from = 0; (from = body.find("\"sequence_number\":", from)) != std::string::npos;) {
    from += 18;
    EXPECT_EQ(std::stoi(body.substr(from)), next++);
  }
  EXPECT_GT(next, 8);
  EXPECT_EQ(body.find("event: response.created"), 0u);
  EXPECT_EQ(body.rfind("event: response.created"), 0u);
}

TEST_P(DialectTest, ALostAnswerIsSentAgainAsItWas) {
  open();
  auto agent = this->agent();
  agent.post(way().streamed, way().streamed_body);
  EXPECT_EQ(answer_next("hello"), llm::Outcome::kDelivered);
  const auto first = agent.response();
  agent.post(way().streamed, way().streamed_body);
  const auto again = agent.response();
  EXPECT_EQ(again.body, first.body);
  EXPECT_EQ(counters().calls, 1u);
  EXPECT_EQ(counters().resends, 1u);
}

// Contract of every agent: this status, without these words, and it asks no more.
TEST_P(DialectTest, ARefusalHasTheStatusThatEndsTheAgent) {
  registration_.budget.calls = 1;
  open();
  auto agent = this->agent();
  agent.post(way().plain, way().body);
  gate_->for_trainer.reply(next_call()->id,
                           llm::Refusal{ErrorCode::kExhausted, "rate limit reached (429)", true});
  auto response = agent.response();
  EXPECT_EQ(response.status, way().ending);
  EXPECT_THAT(response.body, Not(HasSubstr("429")));
  EXPECT_THAT(response.body, HasSubstr("\"error\""));
  // Over the budget.
  agent.post(way().plain, std::string(way().body) + " ");
  response = agent.response();
  EXPECT_EQ(response.status, way().ending) << response.body;
  EXPECT_EQ(counters().refused, 1u);
}

TEST_P(DialectTest, ARefusalInAStreamIsTheDialectsError) {
  options_.keep_alive = 10ms;
  open();
  auto agent = this->agent();
  agent.post(way().streamed, way().streamed_body);
  const auto call = next_call();
  agent.wait_for(way().alive);
  auto refused =
      gate_->for_trainer.reply(call->id, llm::Refusal{ErrorCode::kCancelled, "no more", true});
  EXPECT_EQ(outcome(std::move(refused)), llm::Outcome::kRefused);
  const auto response = agent.response();
  EXPECT_EQ(response.status, 200);
  EXPECT_THAT(response.body, HasSubstr("no more"));
  EXPECT_THAT(response.body, HasSubstr("\"error\""));
  EXPECT_THAT(response.body, Not(HasSubstr(way().end)));
}

TEST_P(DialectTest, BadRequestsAndBigOnesAreToldInTheVendorsShape) {
  open();
  auto agent = this->agent();
  for (const std::string_view body : {"hello", "", "[]", "{}"}) {
    agent.post(way().plain, body);
    const auto response = agent.response();
    EXPECT_EQ(response.status, 400) << body;
    EXPECT_NE(at(response.body, "/error/message"), "absent") << response.body;
  }
  for (const auto& [coding, status] : {std::pair{"deflate", 415}, std::pair{"gzip", 400}}) {
    agent.post(way().plain, way().body, "Content-Encoding: " + std::string(coding) + "\r\n");
    const auto response = agent.response();
    EXPECT_EQ(response.status, status) << coding;
    EXPECT_NE(at(response.body, "/error/message"), "absent") << response.body;
  }
  agent.get(way().plain);
  const auto method = agent.response();
  EXPECT_EQ(method.status, 405);
  EXPECT_THAT(method.head, HasSubstr("Allow: POST"));
  auto large = this->agent();
  large.send("POST " + std::string(way().plain) + " HTTP/1.1\r\nHost: g\r\nContent-Length: " +
             std::to_string((32 << 20) + 1) + "\r\n\r\n");
  const auto refused = large.response();
  EXPECT_EQ(refused.status, 413);
  EXPECT_NE(at(refused.body, "/error/message"), "absent");
  EXPECT_EQ(counters().calls, 0u);
  EXPECT_FALSE(a_call_waits());
}

TEST_P(DialectTest, TokensAreCountedWithoutACall) {
  open();
  auto agent = this->agent();
  agent.post(way().count, way().body);
  const auto counted = agent.response();
  EXPECT_EQ(counted.status, 200);
  EXPECT_THAT(counted.body, HasSubstr("okens\":"));
  agent.post(way().count, "{");
  EXPECT_EQ(agent.response().status, 400);
  EXPECT_FALSE(a_call_waits());
  EXPECT_EQ(counters().calls, 0u);
  EXPECT_EQ(recorder_.count("arrived"), 0u);
}

TEST_P(DialectTest, ADialectThatTheRolloutDoesNotSpeakIs404InItsOwnShape) {
  registration_.dialects = {llm::Dialect::kChat};
  open();
  auto agent = this->agent();
  for (const std::string_view path : {way().plain, way().streamed, way().count}) {
    agent.post(path, way().body);
    const auto response = agent.response();
    EXPECT_EQ(response.status, 404);
    EXPECT_THAT(response.body, HasSubstr("does not speak the dialect"));
  }
}

// --- What is the same in the dialect `chat` ------------------------------------------------------

class EveryDialectTest : public DialectTest {
 protected:
  // Over a limit, of which the agent learns only that it has to end.
  void expect_ended(std::string_view reason) {
    auto agent = this->agent();
    agent.post(way().plain, std::string(way().body) + " ");
    const auto response = agent.response();
    EXPECT_EQ(response.status, way().ending) << response.body;
    EXPECT_NE(at(response.body, "/error/message"), "absent") << response.body;
    EXPECT_TRUE(counters().budget_exhausted);
    EXPECT_EQ(counters().budget_reason, reason);
    EXPECT_FALSE(a_call_waits());
  }
};

INSTANTIATE_TEST_SUITE_P(All, EveryDialectTest,
                         ::testing::Values(kChat, kWays[0], kWays[1], kWays[2]),
                         [](const auto& info) {
                           return std::string(to_string(info.param.dialect));
                         });

TEST_P(EveryDialectTest, TheGatesTokensUsedUpEndTheAgent) {
  options_.total.tokens = 10;
  open();
  auto agent = this->agent();
  agent.post(way().plain, way().body);
  llm::Answer answer = llm::text_answer("hello", llm::Origin::kSampled);
  answer.usage = llm::Usage{8, 2};
  EXPECT_EQ(outcome(gate_->for_trainer.reply(next_call()->id, std::move(answer))),
            llm::Outcome::kDelivered);
  EXPECT_EQ(agent.response().status, 200);
  expect_ended("the gate's budget of 10 tokens is used up");
}

TEST_P(EveryDialectTest, TheGatesBytesUsedUpEndTheAgent) {
  options_.total.bytes = way().body.size() + 1;
  open();
  auto agent = this->agent();
  agent.post(way().plain, way().body);
  EXPECT_EQ(answer_next("hello"), llm::Outcome::kDelivered);
  EXPECT_EQ(agent.response().status, 200);
  expect_ended("the gate's budget of " + std::to_string(options_.total.bytes) +
               " bytes is used up");
}

TEST_P(EveryDialectTest, TheGatesTimeUsedUpEndsWhatIsOpenAndWhatComes) {
  options_.total.time = 30ms;
  registration_.budget.time = 1h;
  open();
  auto agent = this->agent();
  agent.post(way().plain, way().body);  // which nobody answers
  EXPECT_EQ(agent.response().status, way().ending);
  EXPECT_EQ(counters().ended(llm::Outcome::kDelivered), 0u);
  expect_ended("the gate's time is used up");
}

// The gate is busy, which is not the agent's doing: it may come again.
TEST_P(EveryDialectTest, TooManyCallsASecondInAllAreOnlyPutOff) {
  options_.total.calls_per_second = 0.001;
  open();
  auto agent = this->agent();
  agent.post(way().plain, way().body);
  EXPECT_EQ(answer_next("hello"), llm::Outcome::kDelivered);
  EXPECT_EQ(agent.response().status, 200);
  agent.post(way().plain, std::string(way().body) + " ");
  const auto response = agent.response();
  EXPECT_EQ(response.status, way().dialect == llm::Dialect::kMessages ? 529 : 503) << response.body;
  EXPECT_NE(at(response.body, "/error/message"), "absent") << response.body;
  EXPECT_FALSE(counters().budget_exhausted);
  EXPECT_EQ(counters().budget_reason, "");
}

// A client may end its side as soon as its request is whole; no client of a vendor's does.
TEST_P(EveryDialectTest, AnAgentThatEndsItsSideBehindItsRequestIsAnswered) {
  options_.keep_alive = 1h;
  registration_.resend.window = 0s;
  open();
  for (const bool streamed : {false, true}) {
    for (const bool late : {false, true}) {
      auto agent = this->agent();
      agent.post(streamed ? way().streamed : way().plain,
                 streamed ? way().streamed_body : way().body);
      if (!late) agent.finish();
      const auto call = next_call();
      if (late) agent.finish();
      // By a frame the gate finds out that somebody reads on.
      if (streamed) {
        testing::run_until(shard_, [&] {
          const std::string& seen = agent.seen();
          return seen.find("\r\n\r\n") < seen.size() - 4;
        });
      }
      EXPECT_EQ(outcome(reply(call->id, "hello")), llm::Outcome::kDelivered) << streamed << late;
      const auto response = agent.response();
      EXPECT_EQ(response.status, 200);
      EXPECT_THAT(response.body, HasSubstr("hello"));
      agent.wait_until_closed();
    }
  }
  EXPECT_EQ(counters().turns, 4u);
}

// The oldest of five connections that ask for one answer is told where it is.
TEST_P(EveryDialectTest, OneConnectionTooManyIsToldOfAConflict) {
  open();
  for (const bool streamed : {false, true}) {
    std::vector<testing::Agent> agents;
    for (uint64_t i = 0; i < 5; ++i) {
      agents.push_back(this->agent());
      agents.back().post(streamed ? way().streamed : way().plain,
                         streamed ? way().streamed_body : way().body);
      const uint64_t resends = i + (streamed ? 4 : 0);
      testing::run_until(shard_, [&] { return counters().resends == resends; });
      if (streamed) agents.back().wait_for("\r\n\r\n");
    }
    const auto told = agents[0].response();
    EXPECT_EQ(told.status, streamed ? 200 : 409);
    EXPECT_THAT(told.body, HasSubstr("this was asked for again"));
    if (!streamed) EXPECT_NE(at(told.body, "/error/message"), "absent") << told.body;
    EXPECT_EQ(answer_next("hello"), llm::Outcome::kDelivered);
    for (size_t i = 1; i < agents.size(); ++i) {
      EXPECT_THAT(agents[i].response().body, HasSubstr("hello")) << i;
    }
  }
  EXPECT_EQ(counters().calls, 2u);
  EXPECT_EQ(counters().turns, 2u);
}

// The trace and the digest are of what the agent sent.
TEST_P(EveryDialectTest, ToolsAreAddedToWhatItsTrainerSeesWhereThatIsAsked) {
  registration_.tools.resize(1);
  registration_.tools[0].name = "lookup";
  registration_.tools[0].parameters = R"({"type":"object","properties":{}})";
  registration_.tools_in_requests = ToolsInRequests::kAdded;
  PurposeRule title;
  title.purpose = llm::Purpose::kTitle;
  title.has_parent_session = true;
  registration_.purposes = {title};
  registration_.session_headers = {"x-session", "x-parent"};
  open();
  auto agent = this->agent();
  agent.post(way().plain, way().body);
  auto call = next_call();
  EXPECT_EQ(**call->body.bytes(), way().body);
  EXPECT_THAT(**call->asked(), HasSubstr(R"("name":"lookup")"));
  EXPECT_EQ((*call->request())->tools.at(0).name, "lookup");
  EXPECT_EQ(recorder_.count("event:tools_added"), 1u);
  const auto event = recorder_.entries().back();
  EXPECT_EQ(at(event.detail, "/call"), "\"" + call->id.value + "\"");
  EXPECT_THAT(at(event.detail, "/tools/0"), HasSubstr(R"("name":"lookup")"));
  // A resend is one of what was sent.
  auto again = this->agent();
  again.post(way().plain, way().body);
  testing::run_until(shard_, [&] { return counters().resends == 1; });
  EXPECT_EQ(outcome(reply(call->id, "hello")), llm::Outcome::kDelivered);
  agent.response();
  // What is no part of the trajectory is left alone.
  agent.post(way().plain, way().body, "x-parent: p\r\nx-session: s\r\n");
  call = next_call();
  EXPECT_EQ(*call->asked(), call->body.in_memory());
  EXPECT_EQ(recorder_.count("event:tools_added"), 1u);
  agent.reset();
  // Nobody is to guess which of two lists counts; nor what a broken one would hold.
  auto broken = this->agent();
  std::string body(way().body);
  body.insert(body.rfind('}'), R"(,"tools":[{"name":}])");
  broken.post(way().plain, body);
  EXPECT_EQ(broken.response().status, 400);
}

TEST_P(EveryDialectTest, NoToolIsAddedUnasked) {
  registration_.tools.resize(1);
  registration_.tools[0].name = "lookup";
  open();
  auto agent = this->agent();
  agent.post(way().plain, way().body);
  const auto call = next_call();
  EXPECT_EQ(*call->asked(), call->body.in_memory());
  EXPECT_EQ(recorder_.count("event:tools_added"), 0u);
}

// --- Answers that are delivered while they are made ----------------------------------------------

// The bytes behind the heads that have arrived so far.
std::string body_so_far(testing::Agent& agent) {
  const std::string& seen = agent.seen();
  return seen.substr(std::min(seen.size(), seen.find("\r\n\r\n") + 4));
}

class IncrementalTest : public DialectTest {
 protected:
  void SetUp() override {
    DialectTest::SetUp();
    registration_.delivery = AnswerDelivery::kIncremental;
  }

  Result<void> piece(const CallId& call, std::string text, std::string reasoning = "") {
    std::optional<Result<void>> out;
    gate_->for_trainer.piece(call, {std::move(reasoning), std::move(text)},
                             [&](Result<void> told) { out = std::move(told); });
    testing::run_until(shard_, [&] { return out.has_value(); });
    return std::move(*out);
  }
};

INSTANTIATE_TEST_SUITE_P(All, IncrementalTest, ::testing::ValuesIn(kWays), [](const auto& info) {
  return std::string(to_string(info.param.dialect));
});

TEST_P(IncrementalTest, WhatIsSaidComesBeforeTheAnswerIsComplete) {
  open();
  auto agent = this->agent();
  agent.post(way().streamed, way().streamed_body);
  const auto call = next_call();
  ASSERT_TRUE(piece(call->id, "First "));
  agent.wait_for("First ");
  EXPECT_THAT(body_so_far(agent), Not(HasSubstr(way().end)));
  // Half a character stays behind.
  ASSERT_TRUE(piece(call->id, "a sn\xE2\x98"));
  agent.wait_for("a sn");
  ASSERT_TRUE(piece(call->id, "\x83wman"));
  agent.wait_for("\xE2\x98\x83wman");
  EXPECT_EQ(recorder_.count("answered"), 0u);
  EXPECT_EQ(outcome(reply(call->id, "First a sn\xE2\x98\x83wman, then more.")),
            llm::Outcome::kDelivered);
  const auto response = agent.response();
  EXPECT_THAT(response.body, HasSubstr(", then more."));
  EXPECT_THAT(response.body, HasSubstr(way().end));
  EXPECT_EQ(recorder_.count("answered"), 1u);
  EXPECT_EQ(recorder_.count("event:unfinished"), 0u);

  // Who lost it gets it again from its beginning.
  agent.post(way().streamed, way().streamed_body);
  EXPECT_THAT(agent.response().body, HasSubstr("First a sn\xE2\x98\x83wman, then more."));
  EXPECT_EQ(counters().calls, 1u);
  EXPECT_EQ(counters().turns, 1u);
}

TEST_P(IncrementalTest, WhoComesBackInBetweenGetsItFromTheBeginning) {
  open();
  auto agent = this->agent();
  agent.post(way().streamed, way().streamed_body);
  const auto call = next_call();
  ASSERT_TRUE(piece(call->id, "One, "));
  agent.wait_for("One, ");
  agent.reset();
  auto again = this->agent();
  again.post(way().streamed, way().streamed_body);
  again.wait_for("One, ");
  ASSERT_TRUE(piece(call->id, "two"));
  again.wait_for("two");
  EXPECT_EQ(outcome(reply(call->id, "One, two, three")), llm::Outcome::kDelivered);
  EXPECT_THAT(again.response().body, HasSubstr(", three"));
  EXPECT_EQ(counters().resends, 1u);
}

TEST_P(IncrementalTest, ARefusalInBetweenIsAnErrorAndTheTraceSaysWhatWasSent) {
  open();
  auto agent = this->agent();
  agent.post(way().streamed, way().streamed_body);
  const auto call = next_call();
  ASSERT_TRUE(piece(call->id, "One, "));
  agent.wait_for("One, ");
  auto refused =
      gate_->for_trainer.reply(call->id, llm::Refusal{ErrorCode::kCancelled, "no more", true});
  EXPECT_EQ(outcome(std::move(refused)), llm::Outcome::kRefused);
  const auto response = agent.response();
  EXPECT_THAT(response.body, HasSubstr("no more"));
  EXPECT_THAT(response.body, Not(HasSubstr(way().end)));
  EXPECT_EQ(recorder_.count("event:unfinished"), 1u);
  EXPECT_EQ(piece(call->id, "two").error().code, ErrorCode::kFailedPrecondition);
}

TEST_P(IncrementalTest, AnAnswerMustGoOnFromItsPieces) {
  open();
  auto agent = this->agent();
  agent.post(way().streamed, way().streamed_body);
  const auto call = next_call();
  ASSERT_TRUE(piece(call->id, "", "Hm."));
  ASSERT_TRUE(piece(call->id, "One"));
  EXPECT_EQ(piece(call->id, "", "late").error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(outcome(reply(call->id, "Two")).error().code, ErrorCode::kInvalidArgument);
  // It stays open for one that does.
  llm::Answer answer = llm::text_answer("One", llm::Origin::kCanned);
  answer.choices[0].message.reasoning = "Hm.";
  answer.choices[0].message.tool_calls.push_back({"call_1", "bash", "{}"});
  EXPECT_EQ(outcome(gate_->for_trainer.reply(call->id, std::move(answer))),
            llm::Outcome::kDelivered);
  const auto response = agent.response();
  EXPECT_THAT(response.body, HasSubstr("call_1"));
}

TEST_P(IncrementalTest, APlainCallAndAWholeDeliveryWaitForTheEnd) {
  registration_.delivery = AnswerDelivery::kWhole;
  open();
  auto agent = this->agent();
  agent.post(way().streamed, way().streamed_body);
  const auto call = next_call();
  agent.wait_for("\r\n\r\n");
  ASSERT_TRUE(piece(call->id, "One"));
  testing::settle(shard_);
  EXPECT_EQ(body_so_far(agent), "");
  EXPECT_EQ(outcome(reply(call->id, "One, two")), llm::Outcome::kDelivered);
  EXPECT_THAT(agent.response().body, HasSubstr("One, two"));
}

using DialectsTest = testing::GateFixture;

TEST_F(DialectsTest, AGeminiStreamWithoutEventsIsOneArray) {
  registration_.dialects = {llm::Dialect::kGemini};
  options_.keep_alive = 10ms;
  open();
  auto agent = this->agent();
  agent.post("/v1beta/models/m:streamGenerateContent", kWays[2].body);
  const auto call = next_call();
  agent.wait_for(kWays[2].alive);
  EXPECT_EQ(outcome(reply(call->id, "hello")), llm::Outcome::kDelivered);
  const auto response = agent.response();
  EXPECT_THAT(response.head, HasSubstr("Content-Type: application/json"));
  EXPECT_EQ(at(response.body, "/0/candidates/0/content/parts/0/text"), "\"hello\"");
}

// What only the request says of a tool reaches the answer.
TEST_F(DialectsTest, ACustomToolIsCalledAsOne) {
  registration_.dialects = {llm::Dialect::kResponses};
  open();
  auto agent = this->agent();
  agent.post("/v1/responses",
             R"({"model":"m","input":"hi","tools":[{"type":"custom","name":"apply_patch"}]})");
  llm::Answer answer = llm::text_answer("", llm::Origin::kSampled);
  answer.choices[0].message.tool_calls.push_back({"call_1", "apply_patch", "*** Begin Patch"});
  EXPECT_EQ(outcome(gate_->for_trainer.reply(next_call()->id, std::move(answer))),
            llm::Outcome::kDelivered);
  EXPECT_EQ(at(agent.response().body, "/output/0/type"), "\"custom_tool_call\"");
}

TEST_F(DialectsTest, ModelsAreListedInTheShapeOfWhoAsks) {
  registration_.models = {"policy", "small"};
  open();
  auto agent = this->agent();
  const auto get = [&](std::string_view path, std::string_view header = "") {
    agent.send("GET " + std::string(path) + " HTTP/1.1\r\nHost: g\r\n" + std::string(header) +
               "\r\n");
    return agent.response().body;
  };
  EXPECT_EQ(at(get("/v1/models"), "/object"), "\"list\"");
  EXPECT_EQ(at(get("/v1beta/models"), "/models/1/name"), "\"models/small\"");
  EXPECT_EQ(at(get("/v1beta/models/small"), "/name"), "\"models/small\"");
  EXPECT_EQ(at(get("/v1/models", "anthropic-version: 2023-06-01\r\n"), "/data/0/type"),
            "\"model\"");
  EXPECT_EQ(at(get("/v1/unknown", "anthropic-version: 2023-06-01\r\n"), "/type"), "\"error\"");
  EXPECT_EQ(at(get("/v1beta/unknown"), "/error/status"), "\"NOT_FOUND\"");
}

}  // namespace
}  // namespace sluice::gate
