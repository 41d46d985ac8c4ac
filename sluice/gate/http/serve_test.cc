// What an agent sees of the gate, over HTTP.
#include "sluice/gate/http/serve.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/gate/testing.h"
#include "sluice/json/value.h"
#include "sluice/net/coded_testing.h"

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::Not;

class ServeTest : public testing::GateFixture {};

std::string at(const std::string& body, const char* pointer) {
  const auto value = json::parse(body);
  if (!value) return "not JSON: " + body;
  boost::json::error_code error;
  const json::Value* found = value->find_pointer(pointer, error);
  return found == nullptr ? "absent" : json::serialize(*found);
}

TEST_F(ServeTest, APlainCallIsAnsweredByTheTrainer) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  EXPECT_EQ(**call->body.bytes(), body());
  EXPECT_EQ(call->model, "m");
  EXPECT_FALSE(call->stream);
  EXPECT_EQ(call->ordinal, 1u);
  EXPECT_EQ(outcome(reply(call->id, "hello")), llm::Outcome::kDelivered);
  const auto response = agent.response();
  EXPECT_EQ(response.status, 200);
  EXPECT_THAT(response.head, HasSubstr("Content-Type: application/json"));
  EXPECT_THAT(response.head, HasSubstr("Content-Length: "));
  EXPECT_EQ(at(response.body, "/choices/0/message/content"), "\"hello\"");
  EXPECT_THAT(response.body, Not(HasSubstr(call->id.value)));
  EXPECT_EQ(counters().turns, 1u);
  EXPECT_EQ(counters().open, 0u);
}

TEST_F(ServeTest, AStreamedCallHasItsHeadersBeforeItsAnswer) {
  open();
  auto agent = this->agent();
  agent.post(kPath, streaming());
  agent.wait_for("\r\n\r\n");
  EXPECT_THAT(agent.seen(), HasSubstr("HTTP/1.1 200"));
  EXPECT_THAT(agent.seen(), HasSubstr("Content-Type: text/event-stream"));
  EXPECT_THAT(agent.seen(), Not(HasSubstr("data:")));
  EXPECT_EQ(answer_next("hello"), llm::Outcome::kDelivered);
  const auto response = agent.response();
  EXPECT_THAT(response.body, HasSubstr(R"("content":"hello")"));
  EXPECT_THAT(response.body, HasSubstr(R"("finish_reason":"stop")"));
  EXPECT_TRUE(response.body.ends_with("data: [DONE]\n\n"));
}

TEST_F(ServeTest, ALargeAnswerArrivesWhole) {
  open();
  auto agent = this->agent();
  const std::string text(3 << 20, 'x');
  for (const auto& request : {body(), streaming()}) {
    agent.post(kPath, request);
    auto future = reply(next_call()->id, text);
    EXPECT_THAT(agent.response().body, HasSubstr(text));
    EXPECT_EQ(outcome(std::move(future)), llm::Outcome::kDelivered);
  }
}

TEST_F(ServeTest, KeepAliveFramesComeWhileACallIsParked) {
  options_.keep_alive = 10ms;
  open();
  auto agent = this->agent();
  agent.post(kPath, streaming());
  const auto call = next_call();
  agent.wait_for(std::string(testing::kChatKeepAlive) + "\n\n");
  const size_t first = agent.seen().size();
  testing::run_until(shard_, [&] { return agent.seen().size() > first; });
  EXPECT_EQ(outcome(reply(call->id, "late")), llm::Outcome::kDelivered);
  const std::string body = agent.response().body;
  EXPECT_GT(body.find("late"), body.find(testing::kChatKeepAlive));
}

TEST_F(ServeTest, APlainCallIsLeftInSilenceUnlessAskedOtherwise) {
  options_.keep_alive = 5ms;
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  ASSERT_TRUE(net::testing::run(shard_, net::sleep_for(50ms)));
  EXPECT_EQ(agent.seen(), "");
  EXPECT_EQ(outcome(reply(call->id, "x")), llm::Outcome::kDelivered);
}

TEST_F(ServeTest, WhiteSpaceKeepsAPlainCallAliveIfAskedFor) {
  options_.keep_alive = 5ms;
  options_.plain_keep_alive = PlainKeepAlive::kWhiteSpace;
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  agent.wait_for("\r\n\n\r\n");
  EXPECT_EQ(outcome(reply(call->id, "x")), llm::Outcome::kDelivered);
  const auto response = agent.response();
  EXPECT_TRUE(response.body.starts_with("\n"));
  EXPECT_EQ(at(response.body, "/choices/0/message/content"), "\"x\"");

  // The price: an error comes under 200.
  agent.post(kPath, body(2));
  const auto second = next_call();
  agent.wait_for("\r\n\n\r\n");
  gate_->for_trainer.reply(second->id, llm::Refusal{ErrorCode::kCancelled, "no", true});
  const auto error = agent.response();
  EXPECT_EQ(error.status, 200);
  EXPECT_EQ(at(error.body, "/error/message"), "\"no\"");
}

TEST_F(ServeTest, OneConnectionServesCallsInTurn) {
  open();
  auto agent = this->agent();
  for (int i = 0; i < 3; ++i) {
    agent.post("/v1/chat/completions", i % 2 == 0 ? body(i) : streaming(i));
    EXPECT_EQ(answer_next("answer " + std::to_string(i)), llm::Outcome::kDelivered);
    EXPECT_THAT(agent.response().body, HasSubstr("answer " + std::to_string(i)));
  }
  EXPECT_EQ(counters().turns, 3u);
}

TEST_F(ServeTest, SeveralCallsAreParkedSideBySide) {
  open();
  auto one = agent(), two = agent();
  one.post(kPath, body(1));
  const auto first = next_call();
  two.post(kPath, streaming(2));
  const auto second = next_call();
  EXPECT_EQ(counters().open, 2u);
  EXPECT_EQ(outcome(reply(second->id, "two")), llm::Outcome::kDelivered);
  EXPECT_EQ(outcome(reply(first->id, "one")), llm::Outcome::kDelivered);
  EXPECT_THAT(one.response().body, HasSubstr("\"one\""));
  EXPECT_THAT(two.response().body, HasSubstr("\"two\""));
}

TEST_F(ServeTest, SessionsAndVendorHeadersAreReadAndKeysAreNot) {
  registration_.session_headers = {"x-session-id", "x-parent-session-id"};
  open();
  auto agent = this->agent();
  agent.post(kPath, body(),
             "X-Session-Id: ses_1\r\nx-parent-session-id: ses_0\r\nOpenAI-Beta: v2\r\n"
             "Authorization: Bearer sk-secret\r\nx-api-key: sk-secret\r\nCookie: a=b\r\n");
  const auto call = next_call();
  EXPECT_EQ(call->session.value, "ses_1");
  EXPECT_EQ(call->session.parent, "ses_0");
  ASSERT_EQ(call->headers.size(), 1u);
  EXPECT_EQ(call->headers[0].first, "OpenAI-Beta");
  reply(call->id, "x");
  agent.response();
}

// Rows of the table: what is wrong, and what the agent is told.
TEST_F(ServeTest, BadRequestsGetTheVendorsErrorAndNeverReachATrainer) {
  open();
  auto agent = this->agent();
  const auto refused = [&](std::string_view body, std::string_view headers = "") {
    agent.post(kPath, body, headers);
    const auto response = agent.response();
    EXPECT_EQ(at(response.body, "/error/type"), "\"invalid_request_error\"") << response.body;
    return std::to_string(response.status) + " " + at(response.body, "/error/param");
  };
  EXPECT_EQ(refused("hello"), "400 null");
  EXPECT_EQ(refused(""), "400 null");
  EXPECT_EQ(refused("[]"), "400 null");
  EXPECT_EQ(refused("{\"model\":\"m\",\"messages\":[{}]"), "400 null");
  EXPECT_EQ(refused("a=b&c=d", "Content-Type: application/x-www-form-urlencoded\r\n"), "400 null");
  EXPECT_EQ(refused("{}"), "400 \"model\"");
  EXPECT_EQ(refused(R"({"model":"m"})"), "400 \"messages\"");
  EXPECT_EQ(refused(R"({"model":"m","messages":[]})"), "400 \"messages\"");
  EXPECT_EQ(refused(R"({"model":"m","messages":[{}],"n":-1})"), "400 \"n\"");
  EXPECT_EQ(refused("\x1f\x8b\x08", "Content-Encoding: gzip\r\n"), "400 null");
  EXPECT_EQ(refused(body(), "Content-Encoding: br\r\n"), "400 null");
  EXPECT_EQ(refused("", "Content-Encoding: zstd\r\n"), "400 null");
  EXPECT_FALSE(a_call_waits());
  EXPECT_EQ(counters().calls, 0u);
  EXPECT_EQ(counters().refused, 12u);
  EXPECT_EQ(recorder_.count("arrived"), 0u);
  EXPECT_EQ(recorder_.count("event:refused"), 12u);
}

// Whatever a body came in, what it is are the bytes inside: a resend in another coding is one.
TEST_F(ServeTest, CompressedBodiesAreReadAsWhatTheyWere) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto plain = next_call();
  EXPECT_EQ(outcome(reply(plain->id, "once")), llm::Outcome::kDelivered);
  const std::string answer = agent.response().body;
  for (const auto& [coding, bytes] : net::testing::coded_question()) {
    agent.post(kPath, bytes, "Content-Encoding: " + std::string(coding) + "\r\n");
    EXPECT_EQ(agent.response().body, answer) << coding;
  }
  EXPECT_EQ(counters().calls, 1u);
  EXPECT_EQ(counters().resends, 3u);

  registration_.resend.window = 0s;
  close();
  open();
  for (const auto& [coding, bytes] : net::testing::coded_question()) {
    auto fresh = this->agent();
    fresh.post(kPath, bytes, "content-encoding: " + std::string(coding) + "\r\n");
    const auto call = next_call();
    EXPECT_EQ(**call->body.bytes(), body()) << coding;
    EXPECT_EQ(call->digest, plain->digest) << coding;
    EXPECT_EQ(outcome(reply(call->id, "x")), llm::Outcome::kDelivered);
    EXPECT_THAT(fresh.response().body, HasSubstr("\"x\""));
  }
}

TEST_F(ServeTest, ACodingThatIsNotKnownIs415AndSaysWhichAre) {
  open();
  auto agent = this->agent();
  for (const char* coding : {"deflate", "gzip, br", "aes128gcm"}) {
    agent.post(kPath, body(), "Content-Encoding: " + std::string(coding) + "\r\n");
    const auto response = agent.response();
    EXPECT_EQ(response.status, 415) << coding;
    EXPECT_THAT(response.head, HasSubstr("Accept-Encoding: zstd, gzip, br\r\n"));
  }
  EXPECT_EQ(counters().calls, 0u);
}

TEST_F(ServeTest, ADialForWebSocketIs426) {
  registration_.dialects = {llm::Dialect::kResponses};
  open();
  auto agent = this->agent();
  agent.send(
      "GET /rollout/r0/v1/responses HTTP/1.1\r\nHost: gate\r\nConnection: Upgrade\r\nUpgrade: "
      "websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
      "dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
  const auto response = agent.response();
  EXPECT_EQ(response.status, 426);
  EXPECT_THAT(response.head, HasSubstr("Upgrade: HTTP/1.1\r\n"));
  EXPECT_EQ(at(response.body, "/error/type"), "\"invalid_request_error\"");
  // The same connection goes on by HTTP.
  agent.post("/rollout/r0/v1/responses", R"({"model":"m","input":"hi"})");
  EXPECT_EQ(answer_next("x"), llm::Outcome::kDelivered);
}

TEST_F(ServeTest, ABodyOverTheLimitIs413InTheVendorsShape) {
  open();
  const size_t limit = 32 << 20;
  auto small = agent();
  std::string largest = body();
  largest.insert(1, limit - largest.size(), ' ');
  small.post(kPath, largest);
  EXPECT_EQ(answer_next("fits"), llm::Outcome::kDelivered);

  auto large = agent();
  large.send("POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: " +
             std::to_string(limit + 1) + "\r\n\r\n");
  const auto response = large.response();
  EXPECT_EQ(response.status, 413);
  EXPECT_EQ(at(response.body, "/error/type"), "\"invalid_request_error\"");
  EXPECT_EQ(counters().refused, 1u);
}

TEST_F(ServeTest, TheLimitIsASettingAndHoldsForWhatIsInflated) {
  options_.body_bytes = 1000;
  open();
  const auto status = [&](std::string_view body, std::string_view headers = "") {
    auto agent = this->agent();
    agent.post(kPath, body, headers);
    const auto response = agent.response();
    EXPECT_THAT(response.body, HasSubstr("the body is over 1000 bytes"));
    EXPECT_EQ(at(response.body, "/error/type"), "\"invalid_request_error\"");
    return response.status;
  };
  EXPECT_EQ(status(std::string(1001, ' ')), 413);
  for (const auto& [coding, bytes] : net::testing::coded_filler()) {
    EXPECT_EQ(status(bytes, "Content-Encoding: " + std::string(coding) + "\r\n"), 413) << coding;
  }
  EXPECT_EQ(counters().refused, 4u);
  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_EQ(answer_next("x"), llm::Outcome::kDelivered);
}

// Of compressed bodies only so many are inflated at once: a place is free again when one was.
TEST_F(ServeTest, CompressedBodiesComeOneAfterTheOtherWithoutEnd) {
  registration_.budget = {.calls = 0, .open_calls = 0, .calls_per_second = 0};
  registration_.policy = testing::answering("x");
  open();
  auto agent = this->agent();
  for (int i = 0; i < 20; ++i) {
    agent.post(kPath, net::testing::coded_question()[0].bytes, "Content-Encoding: gzip\r\n");
    EXPECT_EQ(agent.response().status, 200) << i;
    agent.post(kPath, "nonsense", "Content-Encoding: gzip\r\n");
    EXPECT_EQ(agent.response().status, 400) << i;
  }
}

TEST_F(ServeTest, ModelsProbesAndUnknownPaths) {
  registration_.models = {"policy", "small"};
  open();
  auto agent = this->agent();
  const auto get = [&](std::string_view path, std::string_view method = "GET") {
    agent.get(path, method);
    return agent.response();
  };
  EXPECT_EQ(at(get("/rollout/r0/v1/models").body, "/data/1/id"), "\"small\"");
  EXPECT_EQ(at(get("/v1/models/small").body, "/id"), "\"small\"");
  EXPECT_EQ(get("/v1/models/other").status, 404);
  EXPECT_EQ(at(get("/v1/models/other").body, "/error/code"), "\"model_not_found\"");
  const auto unknown = get("/v1/embeddings?x=1");
  EXPECT_EQ(unknown.status, 404);
  EXPECT_EQ(at(unknown.body, "/error/message"), "\"no such path\"");
  const auto method = get("/v1/chat/completions");
  EXPECT_EQ(method.status, 405);
  EXPECT_THAT(method.head, HasSubstr("Allow: POST"));
  // A HEAD is answered by its head alone.
  agent.get("/", "HEAD");
  agent.wait_for("\r\n\r\n");
  EXPECT_THAT(agent.seen(), HasSubstr("HTTP/1.1 200"));
}

TEST_F(ServeTest, finding_44_another_rollouts_path_is_404_and_reaches_nobody) {
  open();
  auto agent = this->agent();
  agent.post("/rollout/r1/v1/chat/completions", body());
  const auto response = agent.response();
  EXPECT_EQ(response.status, 404);
  EXPECT_EQ(at(response.body, "/error/message"), "\"rollout not found\"");
  EXPECT_FALSE(a_call_waits());
}

TEST_F(ServeTest, ADialectThatTheRolloutDoesNotSpeakIs404) {
  registration_.dialects = {};
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_EQ(agent.response().status, 404);
}

TEST_F(ServeTest, ARefusalEndsTheAgentOrLetsItRetry) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body(1));
  auto refused = gate_->for_trainer.reply(
      next_call()->id, llm::Refusal{ErrorCode::kExhausted, "rate limit reached (429)", true});
  EXPECT_EQ(outcome(std::move(refused)), llm::Outcome::kRefused);
  auto response = agent.response();
  EXPECT_EQ(response.status, 400);
  EXPECT_THAT(response.body, Not(HasSubstr("429")));
  EXPECT_THAT(response.body, Not(HasSubstr("rate limit")));

  agent.post(kPath, body(2));
  gate_->for_trainer.reply(next_call()->id,
                           llm::Refusal{ErrorCode::kUnavailable, "come back", false});
  response = agent.response();
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(at(response.body, "/error/message"), "\"come back\"");
}

TEST_F(ServeTest, ARefusalInsideAStreamIsAnErrorEvent) {
  open();
  auto agent = this->agent();
  agent.post(kPath, streaming());
  const auto call = next_call();
  agent.wait_for("\r\n\r\n");
  gate_->for_trainer.reply(call->id, llm::Refusal{ErrorCode::kCancelled, "no more", true});
  const auto response = agent.response();
  EXPECT_EQ(response.status, 200);
  EXPECT_THAT(response.body, HasSubstr(R"(data: {"error":{"message":"no more")"));
  EXPECT_TRUE(response.body.ends_with("data: [DONE]\n\n"));
}

TEST_F(ServeTest, WhatAPolicySaysAtOnceNeedsNoSpentStatus) {
  registration_.policy = std::make_shared<testing::FunctionPolicy>(
      [](std::shared_ptr<const llm::Call> call, Reply reply) {
        if (call->request().value()->messages[0].text == "question 1") {
          reply.answer(llm::text_answer("at once", llm::Origin::kSampled));
        } else {
          reply.refuse({ErrorCode::kFailedPrecondition, "no rule", true});
        }
      });
  open();
  auto agent = this->agent();
  agent.post(kPath, streaming(1));
  EXPECT_THAT(agent.response().body, HasSubstr("at once"));
  agent.post(kPath, streaming(2));
  EXPECT_EQ(agent.response().status, 400);
  EXPECT_EQ(recorder_.count(llm::Outcome::kDelivered), 1u);
  EXPECT_EQ(recorder_.count(llm::Outcome::kRefused), 1u);
}

TEST_F(ServeTest, finding_07_what_broke_inside_is_not_told_to_the_agent) {
  registration_.policy = std::make_shared<testing::FunctionPolicy>(
      [](std::shared_ptr<const llm::Call> call, Reply reply) {
        llm::Answer answer;  // without a choice: fits no call
        if (call->ordinal == 1) reply.answer(std::move(answer));
        // else dropped
      });
  open();
  auto agent = this->agent();
  for (int i = 1; i <= 2; ++i) {
    agent.post(kPath, body(i));
    const auto response = agent.response();
    EXPECT_EQ(response.status, 500);
    EXPECT_EQ(response.body, R"({"error":{"message":"internal error","type":"server_error",)"
                             R"("param":null,"code":null}})");
  }
  EXPECT_EQ(recorder_.count(llm::Outcome::kFailed), 2u);
  EXPECT_EQ(recorder_.entries()[1].detail, "answer: it has no choice");
}

TEST_F(ServeTest, finding_10_a_call_that_is_gone_is_an_error_not_a_crash) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  EXPECT_EQ(outcome(reply(call->id, "x")), llm::Outcome::kDelivered);
  EXPECT_EQ(outcome(reply(call->id, "y")).error().code, ErrorCode::kFailedPrecondition);
  EXPECT_EQ(outcome(reply({"never-seen"}, "y")).error().code, ErrorCode::kNotFound);
  close();
  EXPECT_EQ(outcome(reply(call->id, "y")).error().code, ErrorCode::kFailedPrecondition);
}

// Relays: answers that come through from elsewhere.

constexpr char kFinish[] = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";

class RelayTest : public ServeTest {
 protected:
  void open_with(std::function<std::unique_ptr<testing::FakeRelay>()> make) {
    registration_.policy = std::make_shared<testing::FunctionPolicy>(
        [make = std::move(make)](std::shared_ptr<const llm::Call>, Reply reply) {
          reply.relay(make());
        });
    open();
  }
  std::string ended_detail() {
    for (const auto& entry : recorder_.entries()) {
      if (entry.kind == "ended") return entry.detail;
    }
    return "no call ended";
  }
  net::Signal never_;
};

TEST_F(RelayTest, PassesStatusHeadersAndPiecesThrough) {
  open_with([] {
    return std::make_unique<testing::FakeRelay>(
        200, std::vector<Result<Bytes>>{Bytes("data: 1\n\n"), Bytes(kFinish)});
  });
  auto agent = this->agent();
  agent.post(kPath, streaming());
  const auto response = agent.response();
  EXPECT_EQ(response.status, 200);
  EXPECT_THAT(response.head, HasSubstr("Content-Type: text/event-stream"));
  EXPECT_EQ(response.body, "data: 1\n\n" + std::string(kFinish));
  testing::run_until(shard_, [&] { return counters().open == 0; });
  EXPECT_EQ(recorder_.count(llm::Outcome::kDelivered), 1u);
  EXPECT_EQ(recorder_.count("answered"), 0u);
  EXPECT_EQ(recorder_.count("event:relay"), 1u);
  EXPECT_EQ(ended_detail(), "status 200, 66 bytes");
}

// The agent has what came, and the end of the body; but nobody finished the answer.
TEST_F(RelayTest, AStreamThatEndsBeforeItsFinishIsNoTurn) {
  open_with([] {
    return std::make_unique<testing::FakeRelay>(
        200, std::vector<Result<Bytes>>{Bytes("data: 1\n\n"), Bytes("data: [DONE]\n\n")});
  });
  auto agent = this->agent();
  agent.post(kPath, streaming());
  EXPECT_EQ(agent.response().body, "data: 1\n\ndata: [DONE]\n\n");
  testing::run_until(shard_, [&] { return counters().open == 0; });
  EXPECT_EQ(counters().ended(llm::Outcome::kUndelivered), 1u);
  EXPECT_EQ(counters().turns, 0u);
  EXPECT_EQ(ended_detail(), "the stream ended before its finish: status 200, 23 bytes");
}

TEST_F(RelayTest, WhatAnAnswerSaidOfItselfIsToldWhenItHasGoneBy) {
  const Bytes answer =
      "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\",\"logprobs\":{\"content\":"
      "[{\"token\":\"hi\",\"logprob\":-0.5}]}}]}\n\ndata: [DONE]\n\n";
  open_with([&] {
    return std::make_unique<testing::FakeRelay>(200, std::vector<Result<Bytes>>{answer});
  });
  auto agent = this->agent();
  agent.post(kPath, streaming());
  EXPECT_EQ(agent.response().body, answer);
  testing::run_until(shard_, [&] { return counters().open == 0; });
  std::string told;
  for (const auto& entry : recorder_.entries()) {
    if (entry.kind == "event:relay") told = entry.detail;
  }
  EXPECT_THAT(told, HasSubstr(R"("finish_reason":"stop","tokens":["hi"],"logprobs":[-0.5]})"));
}

TEST_F(RelayTest, AnUpstreamsErrorIsPassedThroughAndIsNoTurn) {
  open_with([] {
    return std::make_unique<testing::FakeRelay>(429,
                                                std::vector<Result<Bytes>>{Bytes("slow down")});
  });
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto response = agent.response();
  EXPECT_EQ(response.status, 429);
  EXPECT_EQ(response.body, "slow down");
  testing::run_until(shard_, [&] { return counters().open == 0; });
  EXPECT_EQ(counters().turns, 0u);
  EXPECT_EQ(counters().ended(llm::Outcome::kFailed), 1u);
}

TEST_F(RelayTest, AnUpstreamThatDoesNotAnswerIsAnErrorWithoutDetails) {
  open_with([] {
    auto relay = std::make_unique<testing::FakeRelay>(0, std::vector<Result<Bytes>>());
    relay->opens = Error(ErrorCode::kUnavailable, "connect 10.1.2.3:443: refused");
    return relay;
  });
  auto agent = this->agent();
  agent.post(kPath, streaming());
  const auto response = agent.response();
  EXPECT_EQ(response.status, 503);
  EXPECT_THAT(response.body, Not(HasSubstr("10.1.2.3")));
  testing::run_until(shard_, [&] { return counters().open == 0; });
  EXPECT_EQ(ended_detail(), "connect 10.1.2.3:443: refused");
}

// Agents try again what has such a status; for one that says that the place is gone they do not.
TEST_F(RelayTest, AConnectionThatIsCutBeforeAnythingCameIsForTryingAgain) {
  open_with([] {
    auto relay = std::make_unique<testing::FakeRelay>(200, std::vector<Result<Bytes>>());
    relay->opens = Error(ErrorCode::kClosed, "connection reset");
    return relay;
  });
  auto agent = this->agent();
  agent.post(kPath, streaming());
  EXPECT_EQ(agent.response().status, 503);
}

TEST_F(RelayTest, AnAnswerThatBreaksOffIsSeenAsBroken) {
  open_with([] {
    return std::make_unique<testing::FakeRelay>(
        200, std::vector<Result<Bytes>>{Bytes("data: 1\n\n"),
                                        Error(ErrorCode::kClosed, "the upstream closed")});
  });
  auto agent = this->agent();
  agent.post(kPath, streaming());
  agent.wait_until_closed();
  EXPECT_THAT(agent.seen(), HasSubstr("data: 1"));
  EXPECT_THAT(agent.seen(), Not(HasSubstr("\r\n0\r\n\r\n")));
  testing::run_until(shard_, [&] { return counters().open == 0; });
  EXPECT_EQ(counters().ended(llm::Outcome::kUndelivered), 1u);
}

TEST_F(RelayTest, TheAgentsLeavingCancelsItAndAnEqualRequestIsANewCall) {
  open_with([&] {
    auto relay =
        std::make_unique<testing::FakeRelay>(200, std::vector<Result<Bytes>>{Bytes("data: 1\n\n")});
    relay->wait_before_end = &never_;
    return relay;
  });
  auto agent = this->agent();
  agent.post(kPath, streaming());
  agent.wait_for("data: 1");
  agent.reset();
  testing::run_until(shard_, [&] { return counters().open == 0; });
  EXPECT_EQ(counters().ended(llm::Outcome::kUndelivered), 1u);

  auto again = this->agent();
  again.post(kPath, streaming());
  again.wait_for("data: 1");
  EXPECT_EQ(counters().calls, 2u);
  never_.notify();
  EXPECT_EQ(again.response().status, 200);
}

TEST_F(RelayTest, AskedAgainWhileOpenItIsSuperseded) {
  int relays = 0;
  open_with([&] {
    auto relay = std::make_unique<testing::FakeRelay>(
        200, std::vector<Result<Bytes>>{Bytes("data: 1\n\n"), Bytes(kFinish)});
    if (++relays == 1) relay->wait_before_end = &never_;
    return relay;
  });
  auto first = agent();
  first.post(kPath, streaming());
  first.wait_for("data: 1");
  auto second = agent();
  second.post(kPath, streaming());
  EXPECT_EQ(second.response().body, "data: 1\n\n" + std::string(kFinish));
  first.wait_until_closed();
  testing::run_until(shard_, [&] { return counters().open == 0; });
  EXPECT_EQ(counters().ended(llm::Outcome::kSuperseded), 1u);
  EXPECT_EQ(counters().ended(llm::Outcome::kDelivered), 1u);
}

TEST_F(RelayTest, AskedForOnPurposeTwiceItIsTwoCalls) {
  registration_.resend.window = 0s;
  int relays = 0;
  open_with([&] {
    auto relay = std::make_unique<testing::FakeRelay>(
        200, std::vector<Result<Bytes>>{Bytes("data: " + std::to_string(++relays) + "\n\n")});
    if (relays == 1) relay->wait_before_end = &never_;
    return relay;
  });
  auto first = agent(), second = agent();
  first.post(kPath, streaming());
  first.wait_for("data: 1");
  second.post(kPath, streaming());
  EXPECT_EQ(second.response().body, "data: 2\n\n");
  never_.notify();
  EXPECT_EQ(first.response().body, "data: 1\n\n");
  EXPECT_EQ(counters().calls, 2u);
  EXPECT_EQ(counters().resends, 0u);
  EXPECT_EQ(counters().ended(llm::Outcome::kSuperseded), 0u);
}

TEST_F(RelayTest, TheRolloutsEndCancelsIt) {
  open_with([&] {
    auto relay =
        std::make_unique<testing::FakeRelay>(200, std::vector<Result<Bytes>>{Bytes("data: 1\n\n")});
    relay->wait_before_end = &never_;
    return relay;
  });
  auto agent = this->agent();
  agent.post(kPath, streaming());
  agent.wait_for("data: 1");
  close();
  EXPECT_EQ(recorder_.count(llm::Outcome::kCancelled), 1u);
  EXPECT_TRUE(agent.closed());
}

TEST_F(RelayTest, ARelayThatComesTooLateFailsItsCall) {
  std::optional<Reply> kept;
  registration_.policy = std::make_shared<testing::FunctionPolicy>(
      [&](std::shared_ptr<const llm::Call>, Reply reply) { kept.emplace(std::move(reply)); });
  open();
  auto agent = this->agent();
  agent.post(kPath, streaming());
  agent.wait_for("\r\n\r\n");
  kept->relay(std::make_unique<testing::FakeRelay>(200, std::vector<Result<Bytes>>()));
  EXPECT_THAT(agent.response().body, HasSubstr("internal error"));
  EXPECT_EQ(counters().ended(llm::Outcome::kFailed), 1u);
}

}  // namespace
}  // namespace sluice::gate
