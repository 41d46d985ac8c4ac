// One outcome a call and one generation for one request, whatever breaks when: connections that are
// cut, requests that come again, answers that nobody got.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <tuple>

#include "sluice/gate/testing.h"

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using llm::Outcome;

class ResendTest : public testing::GateFixture {};

enum class Cut { kFin, kReset };
enum class Ask { kPlain, kStreamed };

class CutTest : public ResendTest, public ::testing::WithParamInterface<std::tuple<Cut, Ask>> {
 protected:
  static bool streamed() { return std::get<Ask>(GetParam()) == Ask::kStreamed; }
  static std::string request() { return streamed() ? streaming() : body(); }
  static void cut(testing::Agent& agent) {
    std::get<Cut>(GetParam()) == Cut::kFin ? agent.hang_up() : agent.reset();
  }
  // The agent comes back with the same request and gets the answer.
  void expect_resend_gets(std::string_view answer) {
    auto again = agent();
    again.post(kPath, request());
    EXPECT_THAT(again.response().body, HasSubstr(std::string(answer)));
    expect_one_call();
    EXPECT_EQ(counters().resends, 1u);
  }
  // One generation, one outcome.
  void expect_one_call() {
    testing::run_until(shard_, [&] { return counters().open == 0; });
    EXPECT_FALSE(a_call_waits());
    EXPECT_EQ(counters().calls, 1u);
    EXPECT_EQ(counters().turns, 1u);
    EXPECT_EQ(recorder_.count("arrived"), 1u);
    EXPECT_EQ(recorder_.count("answered"), 1u);
    EXPECT_EQ(recorder_.count("ended"), 1u);
  }
};
INSTANTIATE_TEST_SUITE_P(Cuts, CutTest,
                         ::testing::Combine(::testing::Values(Cut::kFin, Cut::kReset),
                                            ::testing::Values(Ask::kPlain, Ask::kStreamed)),
                         [](const auto& info) {
                           return std::string(std::get<Cut>(info.param) == Cut::kFin ? "Fin"
                                                                                     : "Reset") +
                                  (std::get<Ask>(info.param) == Ask::kPlain ? "OfAPlainCall"
                                                                            : "OfAStreamedCall");
                         });

TEST_P(CutTest, InTheMiddleOfTheRequest) {
  open();
  auto agent = this->agent();
  const std::string text = request();
  agent.send("POST " + std::string(kPath) + " HTTP/1.1\r\nHost: gate\r\nContent-Length: " +
             std::to_string(text.size()) + "\r\n\r\n" + text.substr(0, text.size() / 2));
  testing::settle(shard_);
  cut(agent);
  testing::settle(shard_);
  // What was never whole is no call.
  EXPECT_FALSE(a_call_waits());
  auto again = this->agent();
  again.post(kPath, text);
  EXPECT_EQ(answer_next("once"), Outcome::kDelivered);
  EXPECT_THAT(again.response().body, HasSubstr("once"));
  expect_one_call();
  EXPECT_EQ(counters().resends, 0u);
}

// Of a plain call also before its headers, which come with its answer.
TEST_P(CutTest, BeforeTheTrainerHasTakenTheCall) {
  open();
  auto agent = this->agent();
  agent.post(kPath, request());
  testing::run_until(shard_, [&] { return counters().open == 1; });
  cut(agent);
  testing::settle(shard_);
  auto again = this->agent();
  again.post(kPath, request());
  EXPECT_EQ(answer_next("once"), Outcome::kDelivered);
  EXPECT_THAT(again.response().body, HasSubstr("once"));
  expect_one_call();
  EXPECT_EQ(counters().resends, 1u);
}

TEST_P(CutTest, WhileTheTrainerThinks) {
  open();
  auto agent = this->agent();
  agent.post(kPath, request());
  const auto call = next_call();
  // A streamed call has its headers by now, a plain one has nothing.
  EXPECT_EQ(agent.seen().empty(), !streamed());
  cut(agent);
  testing::settle(shard_);
  EXPECT_EQ(counters().open, 1u);
  // Answered while nobody is there: it waits for the agent.
  auto future = reply(call->id, "once");
  testing::run_until(shard_, [&] { return recorder_.count("answered") == 1; });
  testing::settle(shard_);
  EXPECT_EQ(future.wait_for(0s), std::future_status::timeout);
  expect_resend_gets("once");
  EXPECT_EQ(outcome(std::move(future)), Outcome::kDelivered);
}

TEST_P(CutTest, InKeepAlive) {
  options_.keep_alive = 5ms;
  options_.plain_keep_alive = PlainKeepAlive::kWhiteSpace;
  open();
  auto agent = this->agent();
  agent.post(kPath, request());
  const auto call = next_call();
  agent.wait_for(streamed() ? testing::kChatKeepAlive : "\r\n\r\n1\r\n\n");
  cut(agent);
  testing::settle(shard_);
  auto future = reply(call->id, "once");
  testing::run_until(shard_, [&] { return recorder_.count("answered") == 1; });
  expect_resend_gets("once");
  EXPECT_EQ(outcome(std::move(future)), Outcome::kDelivered);
}

TEST_P(CutTest, InTheMiddleOfTheAnswer) {
  constexpr size_t kCredit = 4096;
  open();
  testing::Agent agent(shard_, *listener_, kCredit);
  agent.post(kPath, request());
  const auto call = next_call();
  std::string large = "begun";
  large.append(16 * kCredit, 'x').append("ended");
  auto future = reply(call->id, large);
  // Of the answer so much has arrived as fits, and it is more than the headers.
  testing::run_until(shard_, [&] { return agent.stream().unread() == kCredit; });
  testing::settle(shard_);
  EXPECT_EQ(future.wait_for(0s), std::future_status::timeout);
  cut(agent);
  testing::settle(shard_);
  EXPECT_EQ(future.wait_for(0s), std::future_status::timeout);
  expect_resend_gets(large);
  EXPECT_EQ(outcome(std::move(future)), Outcome::kDelivered);
}

TEST_P(CutTest, AfterTheAnswerWasWrittenAndBeforeItWasAcknowledged) {
  open();
  auto agent = this->agent();
  agent.post(kPath, request());
  const auto call = next_call();
  agent.stream().set_acknowledge(net::MemoryStream::Acknowledge::kByHand);
  auto future = reply(call->id, "once");
  agent.wait_for("once");
  cut(agent);
  testing::settle(shard_);
  EXPECT_EQ(future.wait_for(0s), std::future_status::timeout);
  expect_resend_gets("once");
  EXPECT_EQ(outcome(std::move(future)), Outcome::kDelivered);
}

TEST_P(CutTest, AfterTheAnswerWasAcknowledged) {
  open();
  auto agent = this->agent();
  agent.post(kPath, request());
  EXPECT_EQ(answer_next("once"), Outcome::kDelivered);
  cut(agent);
  testing::settle(shard_);
  expect_resend_gets("once");
}

TEST_F(ResendTest, AResendJoinsTheOpenCallAndBothConnectionsAreAnswered) {
  open();
  auto first = agent(), second = agent();
  first.post(kPath, streaming());
  const auto call = next_call();
  second.post(kPath, streaming());
  testing::run_until(shard_, [&] { return counters().resends == 1; });
  EXPECT_EQ(outcome(reply(call->id, "once")), Outcome::kDelivered);
  const auto one = first.response(), two = second.response();
  EXPECT_THAT(one.body, HasSubstr("once"));
  EXPECT_EQ(one.body, two.body);
  EXPECT_EQ(recorder_.count("ended"), 1u);
}

TEST_F(ResendTest, AResendSoonAfterTheDeliveryGetsTheSameBytes) {
  open();
  auto agent = this->agent();
  agent.post(kPath, streaming());
  EXPECT_EQ(answer_next("once"), Outcome::kDelivered);
  const auto first = agent.response();
  agent.post(kPath, streaming());
  EXPECT_EQ(agent.response().body, first.body);
  EXPECT_FALSE(a_call_waits());
  EXPECT_EQ(counters().calls, 1u);
  EXPECT_EQ(counters().turns, 1u);
  EXPECT_EQ(recorder_.count("event:resend"), 1u);
}

// Three requests, each sent twice, in every order: three calls, whoever is first, and each
// connection gets what it asked for.
TEST_F(ResendTest, DuplicatesInAnyOrderAreOneCallEach) {
  constexpr int kRequests = 3;
  registration_.budget = {.calls = 0, .open_calls = 0, .calls_per_second = 0};
  open();
  std::array<int, 2 * kRequests> order{0, 0, 1, 1, 2, 2};
  uint64_t rounds = 0;
  do {
    const int first = static_cast<int>(++rounds) * kRequests;
    std::vector<std::unique_ptr<testing::Agent>> agents;
    for (const int number : order) {
      agents.push_back(std::make_unique<testing::Agent>(shard_, *listener_));
      agents.back()->post(kPath, streaming(first + number));
    }
    testing::run_until(shard_, [&] { return counters().resends == rounds * kRequests; });
    std::vector<std::shared_ptr<const llm::Call>> calls(kRequests);
    for (auto& call : calls) call = next_call();
    EXPECT_FALSE(a_call_waits());
    // The last is answered first.
    for (auto call = calls.rbegin(); call != calls.rend(); ++call) {
      EXPECT_EQ(outcome(reply((*call)->id, "to " + (*(*call)->request())->messages[0].text)),
                Outcome::kDelivered);
    }
    for (size_t i = 0; i < agents.size(); ++i) {
      EXPECT_THAT(agents[i]->response().body,
                  HasSubstr("\"to question " + std::to_string(first + order[i]) + "\""));
    }
  } while (std::next_permutation(order.begin(), order.end()));
  EXPECT_EQ(rounds, 90u);
  EXPECT_EQ(counters().calls, rounds * kRequests);
  EXPECT_EQ(recorder_.count("arrived"), rounds * kRequests);
  EXPECT_EQ(recorder_.count("answered"), rounds * kRequests);
  EXPECT_EQ(recorder_.count(Outcome::kDelivered), rounds * kRequests);
}

// Requests that overtook each other on their way: behind a later turn, an equal body is an earlier
// one sent again only if it says so.
TEST_F(ResendTest, ATurnThatArrivesAgainBehindALaterOneIsAResendIfItSaysSo) {
  const std::string first = streaming();
  const std::string second =
      R"({"model":"m","messages":[{"role":"user","content":"question 0"},)"
      R"({"role":"assistant","content":"one"},{"role":"user","content":"more"}],"stream":true})";
  open();
  auto agent = this->agent();
  agent.post(kPath, first, "x-client-request-id: req-1\r\n");
  EXPECT_EQ(answer_next("one"), Outcome::kDelivered);
  const std::string one = agent.response().body;
  agent.post(kPath, second, "x-client-request-id: req-2\r\n");
  EXPECT_EQ(answer_next("two"), Outcome::kDelivered);
  const std::string two = agent.response().body;
  ASSERT_NE(one, two);

  // In any order, and the later one without a word: it is the session's last delivery.
  const auto again = [&](const std::string& request, std::string_view headers) {
    agent.post(kPath, request, headers);
    return agent.response().body;
  };
  EXPECT_EQ(again(first, "x-stainless-retry-count: 1\r\n"), one);
  EXPECT_EQ(again(second, ""), two);
  EXPECT_EQ(again(first, "x-client-request-id: req-1\r\n"), one);
  EXPECT_EQ(again(first, "x-stainless-retry-count: 2\r\n"), one);
  EXPECT_EQ(again(second, "x-client-request-id: req-2\r\n"), two);
  EXPECT_FALSE(a_call_waits());
  EXPECT_EQ(counters().calls, 2u);
  EXPECT_EQ(counters().resends, 5u);
  EXPECT_EQ(recorder_.count("answered"), 2u);
  EXPECT_EQ(recorder_.count("confirmed"), 1u);

  // An agent that asks the same once more, later on, means it.
  agent.post(kPath, first);
  EXPECT_EQ(answer_next("anew"), Outcome::kDelivered);
  EXPECT_THAT(agent.response().body, HasSubstr("\"anew\""));
  EXPECT_EQ(counters().calls, 3u);
  EXPECT_EQ(recorder_.count("ended"), 3u);
}

TEST_F(ResendTest, WithoutAWindowOnlyARetryThatSaysSoIsAResend) {
  registration_.resend.window = 0s;
  open();
  auto agent = this->agent();
  agent.post(kPath, body(), "x-client-request-id: req-1\r\n");
  EXPECT_EQ(answer_next("first"), Outcome::kDelivered);
  const auto first = agent.response();
  agent.post(kPath, body(), "x-stainless-retry-count: 1\r\n");
  EXPECT_EQ(agent.response().body, first.body);
  agent.post(kPath, body(), "x-client-request-id: req-1\r\n");
  EXPECT_EQ(agent.response().body, first.body);
  agent.post(kPath, body(), "x-stainless-retry-count: 0\r\nx-client-request-id: req-2\r\n");
  EXPECT_EQ(answer_next("second"), Outcome::kDelivered);
  EXPECT_THAT(agent.response().body, HasSubstr("second"));
  EXPECT_EQ(counters().calls, 2u);
  EXPECT_EQ(counters().resends, 2u);
}

TEST_F(ResendTest, AnEqualBodyOfAnotherSessionOrADifferentBodyIsANewCall) {
  registration_.session_headers.session = "x-session-id";
  open();
  auto one = agent(), two = agent(), three = agent();
  one.post(kPath, body(1), "x-session-id: a\r\n");
  two.post(kPath, body(1), "x-session-id: b\r\n");
  three.post(kPath, body(2), "x-session-id: a\r\n");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(answer_next("x"), Outcome::kDelivered);
  EXPECT_EQ(counters().calls, 3u);
  EXPECT_EQ(counters().resends, 0u);
}

TEST_F(ResendTest, FieldsThatChangeBetweenResendsCanBeLeftOut) {
  registration_.resend.ignore_fields = {"client_metadata"};
  open();
  auto first = agent(), second = agent(), third = agent();
  first.post(kPath, body(1, R"(,"client_metadata":{"a":1,"b":2})"));
  const auto call = next_call();
  second.post(kPath, body(1, R"(,"client_metadata":{"b":2,"a":1})"));
  testing::run_until(shard_, [&] { return counters().resends == 1; });
  third.post(kPath, body(1, R"(,"metadata":{"b":2,"a":1})"));
  EXPECT_NE(next_call()->id, call->id);
  EXPECT_EQ(counters().calls, 2u);
}

TEST_F(ResendTest, AnAgentThatDoesNotComeBackLeavesItsCallUndelivered) {
  registration_.resend.grace = 500ms;  // the answer comes before that, even to a busy machine
  open();
  auto thinking = agent(), answered = agent(), queued = agent();
  thinking.post(kPath, body(1));
  const auto first = next_call();
  answered.post(kPath, body(2));
  const auto second = next_call();
  queued.post(kPath, body(3));
  testing::run_until(shard_, [&] { return counters().open == 3; });
  for (auto* agent : {&thinking, &answered, &queued}) agent->reset();
  testing::settle(shard_);
  EXPECT_EQ(outcome(reply(second->id, "x")), Outcome::kUndelivered);
  testing::run_until(shard_, [&] { return counters().open == 0; });
  EXPECT_EQ(counters().ended(Outcome::kUndelivered), 3u);
  EXPECT_EQ(outcome(reply(first->id, "x")).error().code, ErrorCode::kFailedPrecondition);
  EXPECT_FALSE(a_call_waits()) << "a call that nobody waits for is still offered";
  // Nobody answered this one, so it is asked anew.
  auto late = agent();
  late.post(kPath, body(1));
  EXPECT_EQ(answer_next("y"), Outcome::kDelivered);
}

// An end of the agent's side alone: of a stream the gate finds out what it means, of a plain call
// it waits as long as for an agent to come back.
TEST_F(ResendTest, AStreamWhoseAgentEndedItsSideIsOpenForAsLongAsItReads) {
  registration_.resend.grace = 20ms;
  options_.keep_alive = 1h;
  open();
  auto waits = agent(), gone = agent();
  waits.post(kPath, streaming(1));
  const auto first = next_call();
  gone.post(kPath, streaming(2));
  const auto second = next_call();
  waits.wait_for("\r\n\r\n");
  gone.wait_for("\r\n\r\n");
  waits.finish();
  gone.seen();
  gone.hang_up();
  testing::run_until(shard_, [&] { return counters().open == 1; });
  EXPECT_EQ(outcome(reply(second->id, "x")).error().code, ErrorCode::kFailedPrecondition);
  ASSERT_TRUE(net::testing::run(shard_, net::sleep_for(60ms)));
  EXPECT_EQ(counters().open, 1u);
  EXPECT_EQ(outcome(reply(first->id, "once")), Outcome::kDelivered);
  EXPECT_THAT(waits.response().body, HasSubstr("once"));
}

TEST_F(ResendTest, APlainCallWhoseAgentEndedItsSideIsAnsweredWithinTheGraceOrToldWhyNot) {
  registration_.resend.grace = 500ms;  // the answer comes before that, even to a busy machine
  open();
  auto answered = agent(), late = agent();
  answered.post(kPath, body(1));
  const auto first = next_call();
  late.post(kPath, body(2));
  const auto second = next_call();
  answered.finish();
  late.finish();
  testing::settle(shard_);
  EXPECT_EQ(counters().open, 2u);
  EXPECT_EQ(outcome(reply(first->id, "once")), Outcome::kDelivered);
  EXPECT_THAT(answered.response().body, HasSubstr("once"));
  const auto response = late.response();
  EXPECT_EQ(response.status, 504);
  EXPECT_THAT(response.body, HasSubstr("no answer came in time"));
  EXPECT_EQ(counters().ended(Outcome::kUndelivered), 1u);
  EXPECT_EQ(outcome(reply(second->id, "x")).error().code, ErrorCode::kFailedPrecondition);
}

// While it is written to who may be gone, nobody gives the call up.
TEST_F(ResendTest, AnAnswerOnItsWayIsNotGivenUp) {
  registration_.resend.grace = 200ms;  // it comes before that, even to a busy machine
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  agent.stream().set_acknowledge(net::MemoryStream::Acknowledge::kByHand);
  agent.finish();
  testing::settle(shard_);
  auto told = reply(call->id, "once");
  agent.wait_for("once");
  ASSERT_TRUE(net::testing::run(shard_, net::sleep_for(300ms)));
  EXPECT_EQ(counters().open, 1u);
  agent.stream().acknowledge();
  EXPECT_EQ(outcome(std::move(told)), Outcome::kDelivered);
}

TEST_F(ResendTest, AnotherConnectionThatWaitsKeepsACallWhoseFirstOnesSideHasEnded) {
  registration_.resend.grace = 50ms;
  open();
  auto first = agent(), second = agent();
  first.post(kPath, body());
  const auto call = next_call();
  second.post(kPath, body());
  testing::run_until(shard_, [&] { return counters().resends == 1; });
  first.finish();
  ASSERT_TRUE(net::testing::run(shard_, net::sleep_for(100ms)));
  EXPECT_EQ(counters().open, 1u);
  EXPECT_EQ(outcome(reply(call->id, "once")), Outcome::kDelivered);
  EXPECT_THAT(first.response().body, HasSubstr("once"));
  EXPECT_THAT(second.response().body, HasSubstr("once"));
}

TEST_F(ResendTest, AnAnswerThatNobodyGotIsForTheAgentThatComesForItLate) {
  registration_.resend.grace = 0s;
  registration_.resend.window = 0s;
  open();
  auto first = agent();
  first.post(kPath, streaming());
  const auto call = next_call();
  first.stream().set_acknowledge(net::MemoryStream::Acknowledge::kByHand);
  auto told = reply(call->id, "once");
  first.wait_for("[DONE]");
  first.reset();
  EXPECT_EQ(outcome(std::move(told)), Outcome::kUndelivered);
  EXPECT_EQ(counters().open, 0u);

  // It breaks again: the answer is still nobody's.
  auto second = agent();
  second.stream().set_acknowledge(net::MemoryStream::Acknowledge::kByHand);
  second.post(kPath, streaming());
  second.wait_for("[DONE]");
  second.reset();
  testing::settle(shard_);
  EXPECT_EQ(recorder_.count("event:received_late"), 0u);

  auto third = agent();
  third.post(kPath, streaming());
  EXPECT_THAT(third.response().body, HasSubstr("once"));
  testing::settle(shard_);
  EXPECT_EQ(recorder_.count("event:received_late"), 1u);
  EXPECT_FALSE(a_call_waits());
  // One call, one answer, one outcome, which stays what the trainer was told.
  EXPECT_EQ(counters().calls, 1u);
  EXPECT_EQ(counters().resends, 2u);
  EXPECT_EQ(counters().turns, 0u);
  EXPECT_EQ(counters().ended(Outcome::kUndelivered), 1u);
  EXPECT_THAT(recorded(), ElementsAre("arrived", "answered", "ended:undelivered", "event:resend",
                                      "event:resend", "event:received_late"));

  // That it has the answer now is seen in what it asks next.
  third.post(kPath, R"({"model":"m","messages":[{"role":"user","content":"question 0"},)"
                    R"({"role":"assistant","content":"once"},)"
                    R"({"role":"user","content":"more"}]})");
  EXPECT_EQ(answer_next("yes"), Outcome::kDelivered);
  EXPECT_EQ(recorder_.count("confirmed"), 1u);
  // And with that the same question is another.
  third.response();
  third.post(kPath, streaming());
  EXPECT_EQ(answer_next("twice"), Outcome::kDelivered);
}

TEST_F(ResendTest, TokensOfAnAnswerThatIsReceivedLateCountOnce) {
  registration_.resend.grace = 0s;
  open();
  auto first = agent();
  first.post(kPath, body());
  const auto call = next_call();
  first.stream().set_acknowledge(net::MemoryStream::Acknowledge::kByHand);
  llm::Answer answer = llm::text_answer("x", llm::Origin::kSampled);
  answer.usage = llm::Usage{10, 5};
  auto told = gate_->for_trainer.reply(call->id, answer);
  first.wait_for("\"x\"");
  first.reset();
  EXPECT_EQ(outcome(std::move(told)), Outcome::kUndelivered);
  EXPECT_EQ(counters().tokens, 0u);
  for (int i = 0; i < 2; ++i) {
    auto again = agent();
    again.post(kPath, body());
    EXPECT_THAT(again.response().body, HasSubstr("\"x\""));
    testing::settle(shard_);
    EXPECT_EQ(counters().tokens, 15u);
  }
}

TEST_F(ResendTest, ComingBackInTimeStopsTheClock) {
  registration_.resend.grace = 500ms;  // it comes back before that, even on a busy machine
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  agent.reset();
  testing::settle(shard_);
  auto again = this->agent();
  again.post(kPath, body());
  testing::run_until(shard_, [&] { return counters().resends == 1; });
  ASSERT_TRUE(net::testing::run(shard_, net::sleep_for(600ms)));
  EXPECT_EQ(counters().open, 1u);
  EXPECT_EQ(outcome(reply(call->id, "x")), Outcome::kDelivered);
}

// Equal requests on purpose: several samples of one question.
class OnPurposeTest : public ResendTest {
 protected:
  // Asks on a connection of its own.
  testing::Agent& ask(const std::string& headers = "") {
    agents_.push_back(std::make_unique<testing::Agent>(shard_, *listener_));
    agents_.back()->post(kPath, streaming(), headers);
    testing::settle(shard_);
    return *agents_.back();
  }
  static std::string id(int number) {
    return "x-client-request-id: r" + std::to_string(number) + "\r\n";
  }

 private:
  std::vector<std::unique_ptr<testing::Agent>> agents_;
};

TEST_F(OnPurposeTest, WithoutAWindowEqualRequestsAreCallsOfTheirOwn) {
  registration_.resend.window = 0s;
  open();
  for (const bool delivered : {false, true}) {
    auto& one = ask();
    const auto first = next_call();
    if (delivered) {
      EXPECT_EQ(outcome(reply(first->id, "one")), Outcome::kDelivered);
    }
    auto& two = ask();
    const auto second = next_call();
    EXPECT_EQ(outcome(reply(second->id, "two")), Outcome::kDelivered);
    if (!delivered) {
      EXPECT_EQ(outcome(reply(first->id, "one")), Outcome::kDelivered);
    }
    EXPECT_THAT(one.response().body, HasSubstr("\"one\""));
    EXPECT_THAT(two.response().body, HasSubstr("\"two\""));
  }
  EXPECT_EQ(counters().calls, 4u);
  EXPECT_EQ(counters().resends, 0u);
}

TEST_F(OnPurposeTest, ANewRequestIdIsACallOfItsOwnUnlessItIsARetry) {
  open();
  std::vector<testing::Agent*> agents;
  std::vector<std::shared_ptr<const llm::Call>> calls;
  for (int i = 0; i < 3; ++i) {
    agents.push_back(&ask(id(i) + (i == 2 ? "x-stainless-retry-count: 0\r\n" : "")));
    calls.push_back(next_call());
  }
  // Those that say so join: by its name the one that it names, else the last.
  auto &named = ask(id(0)), &retry = ask(id(7) + "x-stainless-retry-count: 1\r\n");
  EXPECT_FALSE(a_call_waits());
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string text = "answer " + std::to_string(i);
    EXPECT_EQ(outcome(reply(calls[i]->id, text)), Outcome::kDelivered);
    EXPECT_THAT(agents[i]->response().body, HasSubstr(text));
  }
  EXPECT_THAT(named.response().body, HasSubstr("answer 0"));
  EXPECT_THAT(retry.response().body, HasSubstr("answer 2"));
  // So it is behind the delivery.
  EXPECT_THAT(ask(id(1)).response().body, HasSubstr("answer 1"));
  EXPECT_THAT(ask("x-stainless-retry-count: 1\r\n").response().body, HasSubstr("answer 2"));
  ask(id(8));
  EXPECT_EQ(answer_next("answer 8"), Outcome::kDelivered);
  EXPECT_EQ(counters().calls, 4u);
  EXPECT_EQ(counters().resends, 4u);
}

// An agent whose connection broke asks anew under a new id, and means the same.
TEST_F(OnPurposeTest, ACallWhoseConnectionHungUpIsResumedAllTheSame) {
  registration_.resend.window = 0s;
  open();
  auto& one = ask(id(1));
  const auto first = next_call();
  auto& two = ask(id(2));
  const auto second = next_call();
  one.reset();
  testing::settle(shard_);
  two.hang_up();
  testing::settle(shard_);
  auto& again = ask(id(3));
  auto& and_again = ask();
  EXPECT_FALSE(a_call_waits());
  EXPECT_EQ(outcome(reply(second->id, "two")), Outcome::kDelivered);
  EXPECT_EQ(outcome(reply(first->id, "one")), Outcome::kDelivered);
  EXPECT_THAT(again.response().body, HasSubstr("\"one\"")) << "who was left first";
  EXPECT_THAT(and_again.response().body, HasSubstr("\"two\""));
  EXPECT_EQ(counters().calls, 2u);
  EXPECT_EQ(counters().resends, 2u);
}

TEST_F(OnPurposeTest, ParallelSubAgentsOfOneSessionHaveASampleEach) {
  registration_.session_headers = {"x-session-id", "x-agent-id"};
  open();
  std::vector<testing::Agent*> agents;
  std::vector<std::shared_ptr<const llm::Call>> calls;
  const auto headers = [](int number) {
    return "x-session-id: s\r\nx-agent-id: agent-" + std::to_string(number) + "\r\n";
  };
  for (int i = 0; i < 3; ++i) {
    agents.push_back(&ask(headers(i)));
    calls.push_back(next_call());
  }
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string text = "answer " + std::to_string(i);
    EXPECT_EQ(outcome(reply(calls[i]->id, text)), Outcome::kDelivered);
    EXPECT_THAT(agents[i]->response().body, HasSubstr(text));
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(ask(headers(i)).response().body, HasSubstr("answer " + std::to_string(i)));
  }
  // Each one's answers are looked for in what it says itself.
  auto agent = this->agent();
  agent.post(kPath,
             R"({"model":"m","messages":[{"role":"user","content":"question 0"},)"
             R"({"role":"assistant","content":"answer 1"},{"role":"user","content":"more"}]})",
             headers(1));
  EXPECT_EQ(answer_next("x"), Outcome::kDelivered);
  EXPECT_EQ(recorder_.count("confirmed"), 1u);
  EXPECT_EQ(counters().calls, 4u);
}

TEST_F(ResendTest, AskedForByManyConnectionsTheOldestAreLetGo) {
  open();
  std::vector<std::unique_ptr<testing::Agent>> agents;
  for (int i = 0; i < 6; ++i) {
    agents.push_back(std::make_unique<testing::Agent>(shard_, *listener_));
    agents.back()->post(kPath, streaming());
    agents.back()->wait_for("\r\n\r\n");
  }
  for (size_t i = 0; i < 2; ++i) {
    const auto told = agents[i]->response();
    EXPECT_THAT(told.body, HasSubstr("this was asked for again"));
    EXPECT_TRUE(told.body.ends_with("data: [DONE]\n\n"));
  }
  EXPECT_EQ(answer_next("x"), Outcome::kDelivered);
  for (int i = 2; i < 6; ++i)
    EXPECT_THAT(agents[static_cast<size_t>(i)]->response().body, HasSubstr("\"x\""));
  EXPECT_EQ(recorder_.count("ended"), 1u);
}

TEST_F(ResendTest, ACallIsAnsweredOnce) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  agent.stream().set_acknowledge(net::MemoryStream::Acknowledge::kByHand);
  auto first = reply(call->id, "first");
  EXPECT_EQ(outcome(reply(call->id, "second")).error().code, ErrorCode::kFailedPrecondition);
  EXPECT_EQ(outcome(gate_->for_trainer.reply(call->id, llm::Refusal())).error().code,
            ErrorCode::kFailedPrecondition);
  agent.wait_for("first");
  agent.stream().acknowledge();
  EXPECT_EQ(outcome(std::move(first)), Outcome::kDelivered);
}

TEST_F(ResendTest, AnAnswerThatDoesNotFitLeavesTheCallOpen) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  EXPECT_EQ(outcome(gate_->for_trainer.reply(call->id, llm::Answer())).error().code,
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(outcome(reply(call->id, "x")), Outcome::kDelivered);
}

}  // namespace
}  // namespace sluice::gate
