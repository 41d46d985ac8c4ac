// The gate's books: delivery, admission, budgets, ends. What comes of faults is in resend_test.cc.
#include "sluice/gate/gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "sluice/gate/testing.h"

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using llm::Outcome;

class GateTest : public testing::GateFixture {};

// ---- recording and delivery

TEST_F(GateTest, ACallIsRecordedBeforeItsTrainerSeesItAndItsEndBeforeTheTrainerHears) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  EXPECT_THAT(recorded(), ElementsAre("arrived"));
  auto future = reply(call->id, "x");
  EXPECT_EQ(outcome(std::move(future)), Outcome::kDelivered);
  EXPECT_THAT(recorded(), ElementsAre("arrived", "answered", "ended:delivered"));
}

TEST_F(GateTest, DeliveredMeansThatTheAgentsSideHasAcknowledgedTheLastByte) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  agent.stream().set_acknowledge(net::MemoryStream::Acknowledge::kByHand);
  auto future = reply(call->id, "x");
  agent.wait_for("\"x\"");
  testing::settle(shard_);
  EXPECT_EQ(future.wait_for(0s), std::future_status::timeout);
  EXPECT_EQ(counters().turns, 0u);
  agent.stream().acknowledge();
  EXPECT_EQ(outcome(std::move(future)), Outcome::kDelivered);
}

TEST_F(GateTest, AnAgentThatEndsItsSideAfterTheAnswerHasItAllTheSame) {
  open();
  auto agent = this->agent();
  agent.post(kPath, streaming());
  const auto call = next_call();
  agent.stream().set_acknowledge(net::MemoryStream::Acknowledge::kByHand);
  auto future = reply(call->id, "x");
  agent.wait_for("[DONE]");
  agent.finish();
  testing::settle(shard_);
  agent.stream().acknowledge();
  EXPECT_EQ(outcome(std::move(future)), Outcome::kDelivered);
}

TEST_F(GateTest, finding_03_nothing_is_left_of_an_answered_call) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  EXPECT_EQ(outcome(reply(call->id, "x")), Outcome::kDelivered);
  agent.response();
  EXPECT_EQ(counters().open, 0u);
  EXPECT_EQ(call.use_count(), 1) << "the gate holds on to a call that has ended";
}

TEST_F(GateTest, finding_04_nothing_is_left_of_a_call_whose_agent_went_away) {
  registration_.resend.grace = 0s;
  open();
  for (const bool streamed : {true, false}) {
    auto agent = this->agent();
    agent.post(kPath, streamed ? streaming() : body());
    const auto call = next_call();
    agent.reset();
    testing::run_until(shard_, [&] { return counters().open == 0; });
    testing::settle(shard_);
    EXPECT_EQ(call.use_count(), 1);
    EXPECT_EQ(outcome(reply(call->id, "x")).error().code, ErrorCode::kFailedPrecondition);
  }
  EXPECT_EQ(counters().ended(Outcome::kUndelivered), 2u);
}

// ---- confirmation

TEST_F(GateTest, AnAnswerIsConfirmedWhenTheNextRequestHoldsIt) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_EQ(answer_next("I am sure"), Outcome::kDelivered);
  agent.response();
  EXPECT_EQ(recorder_.count("confirmed"), 0u);
  agent.post(kPath, R"({"model":"m","messages":[{"role":"user","content":"question 0"},)"
                    R"({"role":"assistant","content":"I am sure"},)"
                    R"({"role":"user","content":"more"}]})");
  EXPECT_EQ(answer_next("yes"), Outcome::kDelivered);
  EXPECT_EQ(recorder_.count("confirmed"), 1u);
  EXPECT_EQ(recorder_.entries()[3].call, recorder_.entries()[0].call);
}

// ---- admission and budgets

TEST_F(GateTest, CallsAreAdmittedOnlyWhileTheAgentRuns) {
  open(Agents::kNotYet);
  auto agent = this->agent();
  const auto refused = [&](const std::string& request) {
    agent.post(kPath, request);
    const auto response = agent.response();
    EXPECT_EQ(response.status, 400);
    EXPECT_THAT(response.body, HasSubstr("takes no calls now"));
  };
  refused(body());
  refused(streaming());
  gate_->for_operator.admit(id_);
  agent.post(kPath, body());
  EXPECT_EQ(answer_next("x"), Outcome::kDelivered);
  agent.response();
  gate_->for_operator.stop_admitting(id_);
  refused(body(1));
  gate_->for_operator.admit(id_);
  refused(body(1));  // an agent ends once
  EXPECT_EQ(counters().refused, 4u);
  EXPECT_FALSE(counters().budget_exhausted);
}

TEST_F(GateTest, TheBudgetOfCallsEndsTheAgentAtOnce) {
  registration_.budget.calls = 2;
  open();
  auto agent = this->agent();
  for (int i = 0; i < 2; ++i) {
    agent.post(kPath, body(i));
    EXPECT_EQ(answer_next("x"), Outcome::kDelivered);
    agent.response();
  }
  // A resend costs nothing.
  agent.post(kPath, body(1));
  EXPECT_EQ(agent.response().status, 200);
  EXPECT_FALSE(counters().budget_exhausted);
  agent.post(kPath, streaming(3));
  EXPECT_EQ(agent.response().status, 400);
  EXPECT_TRUE(counters().budget_exhausted);
  EXPECT_EQ(counters().calls, 2u);
}

TEST_F(GateTest, TheBudgetOfOpenCallsHolds) {
  registration_.budget.open_calls = 2;
  open();
  auto one = agent(), two = agent(), three = agent();
  one.post(kPath, body(1));
  two.post(kPath, body(2));
  testing::run_until(shard_, [&] { return counters().open == 2; });
  three.post(kPath, body(3));
  EXPECT_EQ(three.response().status, 400);
  EXPECT_EQ(answer_next("x"), Outcome::kDelivered);
  three.post(kPath, body(4));
  testing::run_until(shard_, [&] { return counters().open == 2; });
}

TEST_F(GateTest, CallsWhoseAgentIsGoneAreInNobodysWay) {
  registration_.budget.open_calls = 2;
  open();
  auto one = agent(), two = agent(), three = agent(), four = agent(), five = agent();
  one.post(kPath, body(1));
  const auto first = next_call();
  two.post(kPath, body(2));
  const auto second = next_call();
  auto told = reply(second->id, "kept");
  testing::run_until(shard_, [&] { return recorder_.count("answered") == 1; });
  two.response();
  EXPECT_EQ(outcome(std::move(told)), Outcome::kDelivered);
  two.post(kPath, body(3));
  const auto third = next_call();
  one.reset();
  two.reset();
  testing::settle(shard_);
  EXPECT_EQ(counters().open, 2u) << "they may come back";
  // Who was gone first makes room first.
  three.post(kPath, body(4));
  testing::run_until(shard_, [&] { return counters().calls == 4; });
  EXPECT_EQ(counters().ended(Outcome::kUndelivered), 1u);
  EXPECT_EQ(outcome(reply(first->id, "x")).error().code, ErrorCode::kFailedPrecondition);
  four.post(kPath, body(5));
  testing::run_until(shard_, [&] { return counters().calls == 5; });
  EXPECT_EQ(counters().ended(Outcome::kUndelivered), 2u);
  EXPECT_EQ(counters().open, 2u);
  // Those who are there do not.
  five.post(kPath, body(6));
  EXPECT_EQ(five.response().status, 400);
  EXPECT_EQ(counters().open, 2u);
  EXPECT_EQ(outcome(reply(third->id, "x")).error().code, ErrorCode::kFailedPrecondition);
}

TEST_F(GateTest, ARequestIsChargedBeforeItsBodyIsLookedAt) {
  registration_.dialects = {llm::Dialect::kChat, llm::Dialect::kMessages};
  registration_.budget.calls_per_second = 0.001;  // one, and then none for long
  open();
  auto agent = this->agent();
  agent.post(kPath, "no JSON");
  EXPECT_THAT(agent.response().body, HasSubstr("could not parse the JSON"));
  for (const std::string_view path : {kPath, std::string_view("/v1/messages/count_tokens")}) {
    agent.post(path, "no JSON");
    EXPECT_THAT(agent.response().body, HasSubstr("more than 0.001 calls a second")) << path;
  }
  agent.post(kPath, "nor this", "Content-Encoding: gzip\r\n");
  EXPECT_THAT(agent.response().body, HasSubstr("more than 0.001 calls a second"));
  EXPECT_EQ(counters().calls, 0u);
}

TEST_F(GateTest, TheBudgetOfTheHostsDiskHolds) {
  const auto disk = std::make_shared<trace::DiskUse>();
  registration_.budget.host_disk = 1000;
  registration_.disk = disk;
  open();
  auto agent = this->agent();
  disk->bytes = 999;
  agent.post(kPath, body(1));
  EXPECT_EQ(answer_next("x"), Outcome::kDelivered);
  agent.response();
  disk->bytes = 1000;
  agent.post(kPath, body(2));
  EXPECT_EQ(agent.response().status, 400);
  EXPECT_EQ(counters().budget_reason, "the budget of 1000 bytes of this machine's disk is used up");
}

TEST_F(GateTest, ALoopingAgentIsStoppedByItsRateResendsIncluded) {
  registration_.budget.calls_per_second = 5;
  registration_.policy = testing::answering("x");
  open();
  auto agent = this->agent();
  int refused = 0;
  for (int i = 0; i < 300; ++i) {
    agent.post(kPath, body(i % 2));
    refused += agent.response().status == 400 ? 1 : 0;
  }
  EXPECT_GT(refused, 200);
  EXPECT_TRUE(counters().budget_exhausted);
  // The trace says so, but not for ever.
  EXPECT_EQ(recorder_.count("event:refused"), 100u);
  EXPECT_EQ(counters().refused, static_cast<uint64_t>(refused));
}

TEST_F(GateTest, finding_39_a_full_queue_is_a_refusal_not_silence) {
  options_.ready_limit = 1;
  open();
  auto one = agent(), two = agent();
  one.post(kPath, body(1));
  testing::run_until(shard_, [&] { return counters().open == 1; });
  two.post(kPath, body(2));
  // The agent is told, and so are the books and the trace.
  const auto refused = two.response();
  EXPECT_EQ(refused.status, 503);
  EXPECT_THAT(refused.body, HasSubstr("too many calls wait for an answer"));
  EXPECT_EQ(counters().refused, 1u);
  EXPECT_FALSE(counters().budget_exhausted);
  EXPECT_EQ(recorder_.count("event:refused"), 1u);
  EXPECT_THAT(recorder_.entries().back().detail, HasSubstr("too many calls wait"));
  // It is no call: the one that waits is the only one, and there is room behind it.
  EXPECT_EQ(answer_next("x"), Outcome::kDelivered);
  EXPECT_FALSE(a_call_waits());
  two.post(kPath, body(2));
  EXPECT_EQ(answer_next("y"), Outcome::kDelivered);
  EXPECT_EQ(counters().calls, 2u);
}

TEST_F(GateTest, PurposesAreToldApartAndMayHaveCannedAnswers) {
  registration_.session_headers = {"x-session-id", "x-parent-session-id"};
  PurposeRule title;
  title.purpose = llm::Purpose::kTitle;
  title.has_tools = false;
  title.system_contains = "title generator";
  title.canned = "A title";
  PurposeRule sub;
  sub.purpose = llm::Purpose::kSubagent;
  sub.has_parent_session = true;
  registration_.purposes = {title, sub};
  open();
  auto agent = this->agent();
  agent.post(kPath, R"({"model":"m","messages":[{"role":"system","content":"You are a title )"
                    R"(generator"},{"role":"user","content":"u"}],"stream":true})");
  EXPECT_THAT(agent.response().body, HasSubstr("A title"));
  EXPECT_FALSE(a_call_waits());
  agent.post(kPath, body(1), "x-parent-session-id: ses_0\r\n");
  auto call = next_call();
  EXPECT_EQ(call->purpose, llm::Purpose::kSubagent);
  reply(call->id, "x");
  agent.response();
  agent.post(kPath, body(2, R"(,"tools":[{"type":"function","function":{"name":"x"}}])"));
  call = next_call();
  EXPECT_EQ(call->purpose, llm::Purpose::kMain);
  reply(call->id, "x");
  agent.response();
}

// ---- opening and closing

TEST_F(GateTest, OpenRefusesWhatCannotBe) {
  open();
  const auto refused = [&](Registration registration) {
    const auto opened = gate_->for_operator.open(std::move(registration));
    return opened ? "" : std::string(to_string(opened.error().code));
  };
  Registration good = registration_;
  EXPECT_EQ(refused(good), "already_exists");
  good.id = {"other"};
  Registration bad = good;
  bad.id = {"../x"};
  EXPECT_EQ(refused(bad), "invalid_argument");
  bad = good;
  bad.shard = nullptr;
  EXPECT_EQ(refused(bad), "invalid_argument");
  bad = good;
  bad.tools.resize(1);
  bad.tools[0].name = "Reset";
  EXPECT_EQ(refused(bad), "invalid_argument");
}

TEST_F(GateTest, finding_14_serving_what_is_not_open_is_an_error) {
  open();
  auto listener = std::make_unique<net::MemoryListener>(shard_);
  const auto served = gate_->for_operator.serve({"never-opened"}, std::move(listener));
  ASSERT_FALSE(served);
  EXPECT_EQ(served.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(served.error().message, HasSubstr("open it before"));
  // Nothing happens to what is not there.
  gate_->for_operator.admit({"never-opened"});
  EXPECT_FALSE(gate_->for_operator.counters({"never-opened"}));
  net::testing::run(shard_, gate_->for_operator.close({"never-opened"}));
}

TEST_F(GateTest, ARolloutAdmitsNothingBeforeItIsTold) {
  gate_.emplace(make_gate(options_));
  registration_.id = id_;
  registration_.shard = &shard_;
  ASSERT_TRUE(gate_->for_operator.open(registration_));
  opened_ = true;
  auto listener = std::make_unique<net::MemoryListener>(shard_);
  listener_ = listener.get();
  ASSERT_TRUE(gate_->for_operator.serve(id_, std::move(listener)));
  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_EQ(agent.response().status, 400);
  EXPECT_EQ(counters().refused, 1u);
}

TEST_F(GateTest, finding_44_closing_ends_every_call_and_answers_every_agent) {
  open();
  auto parked = agent(), streamed = agent(), queued = agent();
  parked.post(kPath, body(1));
  const auto first = next_call();
  streamed.post(kPath, streaming(2));
  streamed.wait_for("\r\n\r\n");
  queued.post(kPath, body(3));
  testing::run_until(shard_, [&] { return counters().open == 3; });
  close();
  EXPECT_EQ(parked.response().status, 400);
  EXPECT_THAT(streamed.response().body, HasSubstr("\"error\""));
  EXPECT_EQ(queued.response().status, 400);
  EXPECT_EQ(recorder_.count(Outcome::kCancelled), 3u);
  EXPECT_EQ(outcome(reply(first->id, "x")).error().code, ErrorCode::kFailedPrecondition);
  const auto last = gate_->for_trainer.next(id_, 0s);
  EXPECT_EQ((*last)->ended()->rollout, id_);
  EXPECT_EQ(gate_->for_trainer.next(id_, 0s).error().code, ErrorCode::kNotFound);
  EXPECT_FALSE(gate_->for_operator.counters(id_));
  // The id is free again.
  open();
  EXPECT_EQ(counters().calls, 0u);
}

TEST_F(GateTest, ClosingTwiceIsClosingOnce) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  next_call();
  shard_.spawn(gate_->for_operator.close(id_));
  shard_.spawn(gate_->for_operator.close(id_));
  close();
  testing::run_until(shard_, [&] { return !gate_->for_operator.counters(id_); });
  EXPECT_EQ(recorder_.count("ended"), 1u);
}

TEST_F(GateTest, APolicyThatThrowsFailsItsCallAndNothingElse) {
  registration_.policy = std::make_shared<testing::FunctionPolicy>(
      [](std::shared_ptr<const llm::Call> call, Reply reply) {
        if (call->ordinal == 1) throw std::runtime_error("a bug with a secret path /root/x");
        reply.answer(llm::text_answer("fine", llm::Origin::kSampled));
      });
  open();
  auto agent = this->agent();
  agent.post(kPath, body(1));
  const auto response = agent.response();
  EXPECT_EQ(response.status, 500);
  EXPECT_THAT(response.body, ::testing::Not(HasSubstr("secret")));
  auto again = this->agent();
  again.post(kPath, body(2));
  EXPECT_THAT(again.response().body, HasSubstr("fine"));
  EXPECT_EQ(counters().ended(Outcome::kFailed), 1u);
  EXPECT_EQ(counters().open, 0u);
}

TEST_F(GateTest, ClosingDoesNotWaitForAnAgentThatNeverReads) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  agent.stream().set_acknowledge(net::MemoryStream::Acknowledge::kByHand);
  auto future = reply(call->id, "x");
  agent.wait_for("\"x\"");
  close();
  EXPECT_EQ(outcome(std::move(future)), Outcome::kUndelivered);
  EXPECT_EQ(recorder_.count("ended"), 1u);
}

TEST_F(GateTest, ALateAnswerOfAPolicyToAClosedRolloutDoesNothing) {
  std::optional<Reply> kept;
  registration_.policy = std::make_shared<testing::FunctionPolicy>(
      [&](std::shared_ptr<const llm::Call>, Reply reply) { kept.emplace(std::move(reply)); });
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  testing::run_until(shard_, [&] { return kept.has_value(); });
  close();
  kept->answer(llm::text_answer("late", llm::Origin::kSampled));
  testing::settle(shard_);
  EXPECT_EQ(recorder_.count(Outcome::kCancelled), 1u);
  EXPECT_EQ(recorder_.count("answered"), 0u);
}

TEST_F(GateTest, APolicyMayAnswerFromAnotherThread) {
  std::thread other;
  registration_.policy =
      std::make_shared<testing::FunctionPolicy>([&](std::shared_ptr<const llm::Call>, Reply reply) {
        auto holder = std::make_shared<Reply>(std::move(reply));
        other = std::thread(
            [holder] { holder->answer(llm::text_answer("from afar", llm::Origin::kSampled)); });
      });
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_THAT(agent.response().body, HasSubstr("from afar"));
  other.join();
}

// ---- ids

TEST_F(GateTest, finding_52_a_forged_or_foreign_id_wakes_nothing) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  std::string forged = call->id.value;
  forged.back() = forged.back() == '0' ? '1' : '0';
  EXPECT_EQ(outcome(reply({forged}, "x")).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(outcome(reply({call->id.value.substr(0, 36)}, "x")).error().code, ErrorCode::kNotFound);
  Handles other = make_gate({});
  EXPECT_EQ(outcome(other.for_trainer.reply(call->id, llm::Answer())).error().code,
            ErrorCode::kNotFound);
  EXPECT_EQ(counters().open, 1u);
  EXPECT_EQ(outcome(reply(call->id, "x")), Outcome::kDelivered);
}

TEST_F(GateTest, finding_43_what_agents_see_holds_nothing_that_answers_calls) {
  open();
  auto agent = this->agent();
  agent.post(kPath, streaming());
  const auto call = next_call();
  EXPECT_EQ(outcome(reply(call->id, "x")), Outcome::kDelivered);
  const auto response = agent.response();
  const std::string uuid = call->id.value.substr(0, 36);
  EXPECT_THAT(response.head + response.body, ::testing::Not(HasSubstr(uuid)));
}

// The gate binds nothing by itself: where a rollout can be reached is decided by who listens.
TEST_F(GateTest, finding_78_any_listener_will_do) {
  open();
  auto second = std::make_unique<net::MemoryListener>(shard_);
  auto* const other = second.get();
  ASSERT_TRUE(gate_->for_operator.serve(id_, std::move(second)));
  testing::Agent agent(shard_, *other);
  agent.post("/v1/chat/completions", body());
  EXPECT_EQ(answer_next("x"), Outcome::kDelivered);
}

}  // namespace
}  // namespace sluice::gate
