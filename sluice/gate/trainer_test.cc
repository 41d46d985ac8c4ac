// What a trainer in this process does with a gate: takes, answers, pauses, cancels, watches.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "sluice/gate/events.h"
#include "sluice/gate/testing.h"
#include "sluice/gate/totals.h"
#include "sluice/json/value.h"
#include "sluice/trace/testing.h"

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using llm::Origin;
using llm::Outcome;

class TrainerTest : public testing::GateFixture {
 protected:
  Trainer& trainer() { return gate_->for_trainer; }

  // What whoever asks without waiting gets.
  std::vector<Item> take(const std::string& name = "", Duration lease = 1h) {
    testing::settle(shard_);
    TakeRequest request;
    request.max = 100;
    request.taker.name = name;
    request.taker.lease = lease;
    return *trainer().take(request, Duration::zero());
  }

  static llm::Answer sampled(std::string text) {
    llm::Answer answer = llm::text_answer(std::move(text), Origin::kSampled);
    answer.choices[0].ids = {1, 2};
    answer.choices[0].logprobs = {-0.5f, -0.25f};
    return answer;
  }
  Result<Outcome> reply_with(const CallId& call, llm::Answer answer) {
    return outcome(trainer().reply(call, std::move(answer)));
  }
};

TEST_F(TrainerTest, ManyAnswersAtOnceAreTakenOrRefusedEachByItself) {
  registration_.origins.tokens = OriginRule::Tokens::kWaived;
  open();
  auto one = this->agent();
  auto two = this->agent();
  one.post(kPath, body(1));
  two.post(kPath, body(2));
  const auto first = next_call();
  const auto second = next_call();
  std::map<std::string, Result<Outcome>> told;
  const auto into = [&told](const std::string& name) {
    Trainer::Replied out;
    out.ended = [&told, name](Result<Outcome> outcome) {
      told.emplace(name, std::move(outcome));
    };
    return out;
  };
  std::vector<Trainer::Given> replies;
  replies.push_back({first->id, llm::text_answer("x", Origin::kSampled), into("first")});
  replies.push_back({CallId{"forged"}, llm::text_answer("x", Origin::kSampled), into("forged")});
  replies.push_back({first->id, llm::text_answer("y", Origin::kSampled), into("again")});
  replies.push_back({second->id, llm::Refusal(), into("second")});
  trainer().reply(std::move(replies));
  one.response();
  two.response();
  shard_.run_until([&] { return told.size() == 4; });
  EXPECT_EQ(told.at("first"), Outcome::kDelivered);
  EXPECT_EQ(told.at("second"), Outcome::kRefused);
  EXPECT_EQ(told.at("forged").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(told.at("again").error().code, ErrorCode::kFailedPrecondition);
}

// ---- origins

TEST_F(TrainerTest, WhatIsCalledSampledComesWithItsTokens) {
  registration_.origins = {};
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  const auto bare = reply_with(call->id, llm::text_answer("x", Origin::kSampled));
  ASSERT_FALSE(bare);
  EXPECT_EQ(bare.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(bare.error().message, HasSubstr("it has 0 token ids and 0 logprobs; what"));
  llm::Answer lacking = sampled("x");
  lacking.choices[0].ids = {1, 2, 3};
  lacking.choices[0].logprobs = {-0.1F, -0.2F};
  EXPECT_THAT(reply_with(call->id, lacking).error().message,
              HasSubstr("3 token ids and 2 logprobs"));
  lacking.choices[0].logprobs.clear();
  EXPECT_THAT(reply_with(call->id, lacking).error().message,
              HasSubstr("3 token ids and 0 logprobs"));
  // The call is still open for a better one.
  EXPECT_EQ(reply_with(call->id, sampled("x")), Outcome::kDelivered);
  agent.response();

  // What does not claim to be sampled needs nothing.
  agent.post(kPath, body(1));
  EXPECT_EQ(reply_with(next_call()->id, llm::text_answer("y", Origin::kEdited)),
            Outcome::kDelivered);
}

TEST_F(TrainerTest, AGateMayWaiveTheTokensOfAllItsRollouts) {
  registration_.origins = {};
  options_.tokens = OriginRule::Tokens::kWaived;
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_EQ(reply_with(next_call()->id, llm::text_answer("x", Origin::kSampled)),
            Outcome::kDelivered);
}

TEST_F(TrainerTest, finding_62_a_rollout_may_take_nothing_but_what_was_sampled) {
  registration_.origins.accept = OriginRule::Accept::kSampledOnly;
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  for (const Origin origin : {Origin::kEdited, Origin::kCanned, Origin::kInjected}) {
    const auto refused = reply_with(call->id, llm::text_answer("reward: 1.0", origin));
    ASSERT_FALSE(refused) << to_string(origin);
    EXPECT_THAT(refused.error().message, HasSubstr("takes only what was sampled"));
  }
  EXPECT_EQ(recorder_.count("answered"), 0u);
  EXPECT_EQ(reply_with(call->id, sampled("x")), Outcome::kDelivered);
}

// ---- taking

TEST_F(TrainerTest, ADeadTrainersCallsGoToAnotherAndAreAnsweredOnce) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  testing::settle(shard_);
  const auto first = take("one", 1ns);
  ASSERT_EQ(first.size(), 1u);
  const auto again = take("two");
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].call()->id, first[0].call()->id);
  EXPECT_EQ(again[0].deliveries, 2u);
  EXPECT_EQ(reply_with(again[0].call()->id, sampled("second")), Outcome::kDelivered);
  EXPECT_THAT(agent.response().body, HasSubstr("second"));
  // It was not dead after all.
  const auto late = reply_with(first[0].call()->id, sampled("first"));
  EXPECT_EQ(late.error().code, ErrorCode::kFailedPrecondition);
  EXPECT_EQ(counters().turns, 1u);
  EXPECT_EQ(trainer().state().held, 0u);
}

TEST_F(TrainerTest, ARestartedTrainerLosesNoCall) {
  open();
  std::vector<testing::Agent> agents;
  for (int i = 0; i < 3; ++i) {
    agents.push_back(agent());
    agents.back().post(kPath, body(i));
  }
  testing::settle(shard_);
  EXPECT_EQ(take("t").size(), 3u);
  TakeRequest request;
  request.max = 100;
  request.taker.name = "t";
  request.taker.start = Taker::Start::kAfresh;
  const auto again = *trainer().take(request, Duration::zero());
  ASSERT_EQ(again.size(), 3u);
  for (const Item& item : again) {
    EXPECT_EQ(reply_with(item.call()->id, sampled("x")), Outcome::kDelivered);
  }
  for (testing::Agent& each : agents) EXPECT_EQ(each.response().status, 200);
}

TEST_F(TrainerTest, TheEndOfTheAgentWakesWhoWaitsForItsNextCall) {
  open();
  std::vector<Item> got;
  TakeRequest request;
  request.rollout = id_;
  request.taker.name = "t";
  const auto waiting =
      trainer().take(request, [&](Result<std::vector<Item>> items) { got = std::move(*items); });
  EXPECT_TRUE(got.empty());
  gate_->for_operator.stop_admitting(id_);
  testing::settle(shard_);
  ASSERT_EQ(got.size(), 1u);
  ASSERT_NE(got[0].ended(), nullptr);
  EXPECT_EQ(got[0].ended()->reason, "the agent has ended");
}

TEST_F(TrainerTest, ARolloutIsEndedWhenWhatWasBeforeIsRecorded) {
  trace::testing::StallingRecorder recorder;
  registration_.recorder = &recorder;
  open();
  const auto end = [&] {
    return *trainer().next(id_, 0s);
  };
  recorder.stall();
  gate_->for_operator.stop_admitting(id_);
  testing::settle(shard_);
  EXPECT_FALSE(end());
  recorder.resume();
  testing::settle(shard_);
  EXPECT_TRUE(end());
  close();  // the recorder goes
}

TEST_F(TrainerTest, ARolloutThatNeverRanIsEndedByItsClose) {
  open(Agents::kNotYet);
  close();
  EXPECT_EQ((*trainer().next(id_, 0s))->ended()->reason, "the rollout was closed");
}

TEST_F(TrainerTest, WhatCameOfARolloutIsToldByWhoKnowsBehindItsEnd) {
  registration_.about = {std::make_shared<const std::string>(R"({"id":"t"})"), "t@2", "b/t"};
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_EQ(answer_next("x"), Outcome::kDelivered);
  gate_->for_operator.stop_admitting(id_);
  const auto ended = take("t");
  ASSERT_EQ(ended.size(), 1u);
  ASSERT_NE(ended[0].ended(), nullptr);
  EXPECT_EQ(*ended[0].ended()->about.task, R"({"id":"t"})");
  EXPECT_EQ(ended[0].ended()->about.name, "t@2");
  EXPECT_EQ(ended[0].ended()->about.group, "b/t");
  close();
  TakeRequest request;
  request.taker.name = "t";
  request.closings = true;
  EXPECT_TRUE(trainer().take(request, 0s)->empty()) << "nobody has said so";
  gate_->for_operator.closed(id_, {0.5, "agent", "exit 1"});
  EXPECT_EQ(trainer().closings(), 1u);
  const auto closed = *trainer().take(request, 0s);
  ASSERT_EQ(closed.size(), 1u);
  const Books* const books = closed[0].closed();
  ASSERT_NE(books, nullptr);
  EXPECT_EQ(books->about.name, "t@2");
  EXPECT_EQ(books->counters.turns, 1u);
  EXPECT_EQ(books->result.reward, 0.5);
  EXPECT_EQ(books->result.error_kind, "agent");
  EXPECT_EQ(closed[0].ended(), nullptr);
  EXPECT_EQ(closed[0].call(), nullptr);
  gate_->for_operator.closed({"unknown"}, {});
}

TEST_F(TrainerTest, ARolloutsBooksAreToldWhileItIsOpenAndAfter) {
  open(Agents::kNotYet);
  const auto books = [this](const RolloutId& id) {
    std::optional<std::shared_ptr<const Books>> told;
    trainer().inspect(id, [&](auto books) { told = std::move(books); });
    testing::run_until(shard_, [&] { return told.has_value(); });
    return *told;
  };
  EXPECT_EQ(books({"unknown"}), nullptr);
  EXPECT_EQ(books(id_)->state, Books::State::kOpen);
  gate_->for_operator.admit(id_);
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  EXPECT_EQ(books(id_)->counters.open, 1u);
  trainer().cancel(id_, "enough");
  testing::settle(shard_);
  EXPECT_EQ(books(id_)->state, Books::State::kEnded) << "its agent is being made to end";
  gate_->for_operator.stop_admitting(id_);
  close();
  EXPECT_EQ(books(id_)->state, Books::State::kEnded);
  EXPECT_TRUE(books(id_)->counters.cancelled);
  gate_->for_operator.closed(id_, {1.0, "", ""});
  EXPECT_EQ(books(id_)->state, Books::State::kClosed);
  EXPECT_EQ(books(id_)->result.reward, 1.0);
  // One that is opened anew is another.
  ASSERT_TRUE(gate_->for_operator.open(registration_));
  EXPECT_EQ(books(id_)->state, Books::State::kOpen);
  close();
}

TEST_F(TrainerTest, ACallWhoseAgentIsGoneForGoodIsNotHandedOut) {
  registration_.resend.grace = Duration::zero();
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  testing::settle(shard_);
  EXPECT_EQ(trainer().state().waiting, 1u);
  agent.reset();
  testing::settle(shard_);
  EXPECT_EQ(trainer().state().waiting, 0u);
  EXPECT_TRUE(take().empty());
}

// ---- versions

TEST_F(TrainerTest, CallsOfAPauseParkAndAreAnsweredUnderTheNewVersion) {
  open();
  trainer().pause();
  auto agent = this->agent();
  agent.post(kPath, streaming());
  testing::settle(shard_);
  EXPECT_TRUE(take().empty());
  EXPECT_EQ(counters().open, 1u);
  EXPECT_TRUE(trainer().state().paused);
  trainer().resume("v2");
  const auto items = take();
  ASSERT_EQ(items.size(), 1u);
  EXPECT_EQ(items[0].version, "v2");
  EXPECT_EQ(trainer().state().version, "v2");
  EXPECT_EQ(reply_with(items[0].call()->id, sampled("x")), Outcome::kDelivered);
}

TEST_F(TrainerTest, WhatWasTakenBeforeAPauseMayBeAnsweredInIt) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  trainer().pause();
  EXPECT_EQ(reply_with(call->id, sampled("x")), Outcome::kDelivered);
}

class VersionRecorder final : public trace::Recorder {
 public:
  std::vector<std::vector<std::string>> versions;
  void opened(const RolloutId&, const trace::RolloutInfo&) override {}
  void arrived(const llm::Call&) override {}
  void answered(const llm::Call&, const llm::Answer& answer) override {
    auto& spans = versions.emplace_back();
    for (const auto& span : answer.choices[0].versions) {
      spans.push_back(std::to_string(span.first_token) + ":" + span.version);
    }
  }
  void ended(const llm::Call&, Outcome, std::string_view) override {}
  void confirmed(const llm::Call&) override {}
  void event(const RolloutId&, const trace::Event&) override {}
  void closed(const RolloutId&, const trace::ResultSummary&) override {}
  void flush(const RolloutId&, net::Shard& shard, Flushed told) override {
    shard.post([told = std::move(told)] { told({}); });
  }
  std::string location(const RolloutId&) const override { return ""; }
};

TEST_F(TrainerTest, AnAnswerIsOfTheVersionItsCallWasHandedOutUnderUnlessItSaysMore) {
  VersionRecorder recorder;
  registration_.recorder = &recorder;
  open();
  trainer().resume("v1");

  auto agent = this->agent();
  agent.post(kPath, body(0));
  EXPECT_EQ(reply_with(next_call()->id, sampled("x")), Outcome::kDelivered);
  agent.response();

  agent.post(kPath, body(1));
  llm::Answer mixed = sampled("x");
  mixed.choices[0].versions = {{0, "v1"}, {1, "v2"}};
  EXPECT_EQ(reply_with(next_call()->id, mixed), Outcome::kDelivered);
  agent.response();

  // The version changed between: it may be of either, so nothing is claimed.
  agent.post(kPath, body(2));
  const auto call = next_call();
  trainer().resume("v2");
  EXPECT_EQ(reply_with(call->id, sampled("x")), Outcome::kDelivered);
  EXPECT_THAT(recorder.versions,
              ElementsAre(ElementsAre("0:v1"), ElementsAre("0:v1", "1:v2"), ElementsAre()));
  close();  // the recorder goes
}

TEST_F(TrainerTest, AStaleRolloutIsCancelledWhenVersionsHavePassedIt) {
  registration_.max_version_lag = 1;
  open();
  trainer().resume("v1");
  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_EQ(answer_next("x"), Outcome::kDelivered);
  agent.response();
  agent.post(kPath, streaming(1));
  const auto open_call = next_call();
  trainer().resume("v2");
  testing::settle(shard_);
  EXPECT_FALSE(counters().cancelled) << "one version behind is allowed";
  trainer().resume("v3");
  agent.wait_for("cancelled");
  EXPECT_TRUE(counters().cancelled);
  EXPECT_EQ(counters().ended(Outcome::kCancelled), 1u);
  const auto late = reply_with(open_call->id, sampled("x"));
  EXPECT_EQ(late.error().code, ErrorCode::kFailedPrecondition);
}

TEST_F(TrainerTest, CancellingByAgeSparesWhatIsYoungOrHasNoAnswerYet) {
  open();
  trainer().resume("v1");
  trainer().resume("v2");
  trainer().cancel_stale(0);
  testing::settle(shard_);
  EXPECT_FALSE(counters().cancelled);
  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_EQ(answer_next("x"), Outcome::kDelivered);
  trainer().cancel_stale(0);
  testing::settle(shard_);
  EXPECT_FALSE(counters().cancelled);
  trainer().resume("v3");
  trainer().cancel_stale(0);
  testing::settle(shard_);
  EXPECT_TRUE(counters().cancelled);
}

// Its reward is about to be known: what it came to stands, also if it has become old meanwhile.
TEST_F(TrainerTest, ARolloutWhoseAgentHasEndedIsCancelledNoMore) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  gate_->for_operator.stop_admitting(id_);
  EXPECT_TRUE(trainer().cancel(id_, "stale"));
  testing::run_until(shard_, [&] { return counters().open == 0; });
  EXPECT_EQ(counters().ended(Outcome::kCancelled), 1u) << "what it left open ends";
  EXPECT_FALSE(counters().cancelled);
  EXPECT_EQ(recorder_.count("event:cancelled"), 0u);
}

TEST_F(TrainerTest, ACancelledRolloutsAgentIsMadeToEnd) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  EXPECT_TRUE(trainer().cancel(id_, "not worth going on"));
  const auto told = agent.response();
  EXPECT_EQ(told.status, 400);
  EXPECT_THAT(told.body, HasSubstr("cancelled"));
  EXPECT_THAT(told.body, ::testing::Not(HasSubstr("worth"))) << "the reason is for the trace";
  agent.post(kPath, body(1));
  EXPECT_EQ(agent.response().status, 400);
  EXPECT_EQ(counters().refused, 1u);
  EXPECT_EQ(recorder_.count("event:cancelled"), 1u);
  std::optional<Item> last;
  testing::run_until(shard_, [&] {
    auto taken = trainer().next(id_, 0s);
    if (taken) last = std::move(*taken);
    return last.has_value();
  });
  EXPECT_EQ(last->ended()->reason, "cancelled: not worth going on");
  EXPECT_FALSE(trainer().cancel({"nobody"}, ""));
}

// ---- limits

TEST_F(TrainerTest, TheBudgetOfTimeEndsWhatIsOpenAndRefusesTheRest) {
  registration_.budget.time = 300ms;  // the call comes before that, even on a busy machine
  open();
  auto agent = this->agent();
  agent.post(kPath, streaming());
  agent.wait_for("is used up");
  EXPECT_TRUE(counters().budget_exhausted);
  EXPECT_EQ(counters().ended(Outcome::kRefused), 1u);
  auto second = this->agent();
  second.post(kPath, body(1));
  EXPECT_EQ(second.response().status, 400);
}

TEST_F(TrainerTest, TheBudgetsOfTokensAndBytesCountWhatWasAnswered) {
  registration_.budget.tokens = 10;
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  llm::Answer answer = sampled("x");
  answer.usage = llm::Usage{8, 2};
  EXPECT_EQ(reply_with(next_call()->id, answer), Outcome::kDelivered);
  agent.response();
  EXPECT_EQ(counters().tokens, 10u);
  agent.post(kPath, body(1));
  EXPECT_EQ(agent.response().status, 400);  // in words that no agent takes for a context too long
  EXPECT_THAT(recorder_.entries().back().detail, HasSubstr("the budget of 10 tokens"));
  EXPECT_TRUE(counters().budget_exhausted);
}

TEST_F(TrainerTest, TheBudgetOfBytesHolds) {
  registration_.budget.bytes = 50;
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_EQ(answer_next("x"), Outcome::kDelivered);
  agent.response();
  agent.post(kPath, body(1));
  EXPECT_THAT(agent.response().body, HasSubstr("50 bytes"));
}

TEST_F(TrainerTest, TheGatesOwnBudgetsHoldOverAllRollouts) {
  options_.total.calls = 1;
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_EQ(answer_next("x"), Outcome::kDelivered);
  agent.response();
  agent.post(kPath, body(1));
  EXPECT_THAT(agent.response().body, HasSubstr("the gate's budget of 1 calls"));
}

TEST_F(TrainerTest, TheGatesTimeBeginsWithItsFirstRolloutAndIsOverForAll) {
  options_.total.time = 20ms;
  open();
  testing::run_until(shard_, [&] { return counters().budget_exhausted; });
  Registration other = registration_;
  other.id = {"r1"};
  ASSERT_TRUE(gate_->for_operator.open(other));
  gate_->for_operator.admit(other.id);
  EXPECT_EQ(gate_->for_operator.counters(other.id)->budget_reason, "the gate's time is used up");
  net::testing::run(shard_, gate_->for_operator.close(other.id));
}

TEST_F(TrainerTest, TheFirstLimitThatRefusedIsNamed) {
  registration_.budget.open_calls = 1;
  registration_.budget.calls = 2;
  open();
  auto first = agent(), second = agent();
  const auto refused = [&](int number) {
    second.post(kPath, body(number));
    EXPECT_EQ(second.response().status, 400);
    return counters().budget_reason;
  };
  first.post(kPath, body(1));
  const auto call = next_call();
  EXPECT_EQ(counters().budget_reason, "");
  EXPECT_EQ(refused(2), "1 calls are open at once, as many as are allowed");
  EXPECT_EQ(outcome(reply(call->id, "x")), Outcome::kDelivered);
  first.response();
  first.post(kPath, body(3));
  EXPECT_EQ(answer_next("x"), Outcome::kDelivered);
  EXPECT_EQ(refused(4), "1 calls are open at once, as many as are allowed");
}

TEST_F(TrainerTest, TooManyOpenCallsInAllIsNotTheAgentsFault) {
  options_.total.open_calls = 1;
  open();
  auto first = agent(), second = agent();
  first.post(kPath, body());
  testing::settle(shard_);
  second.post(kPath, body(1));
  EXPECT_EQ(second.response().status, 503);
  EXPECT_FALSE(counters().budget_exhausted);
}

TEST(GateTotalsTest, ARateIsEvenWithABurstOfOneSecond) {
  GateTotals totals;
  int taken = 0;
  while (taken < 1000 && totals.take(0.001)) ++taken;
  EXPECT_EQ(taken, 1) << "one is always allowed";
  GateTotals others;
  taken = 0;
  while (taken < 1000 && others.take(50)) ++taken;
  EXPECT_GE(taken, 50);
  EXPECT_LT(taken, 1000);
}

// ---- what is told

TEST_F(TrainerTest, TotalsTellWhatTheGateHasDone) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  llm::Answer answer = sampled("x");
  answer.usage = llm::Usage{8, 2};
  EXPECT_EQ(reply_with(next_call()->id, answer), Outcome::kDelivered);
  agent.response();
  agent.post(kPath, "{}");
  agent.response();
  const Totals open = trainer().totals();
  EXPECT_EQ(open.open_rollouts, 1u);
  close();
  const Totals totals = trainer().totals();
  EXPECT_EQ(totals.rollouts, 1u);
  EXPECT_EQ(totals.open_rollouts, 0u);
  EXPECT_EQ(totals.calls, 1u);
  EXPECT_EQ(totals.open_calls, 0u);
  EXPECT_EQ(totals.refused, 1u);
  EXPECT_EQ(totals.tokens, 10u);
  EXPECT_EQ(totals.request_bytes, body().size());
  EXPECT_GT(totals.answer_bytes, 50u);
  EXPECT_EQ(totals.outcomes[static_cast<size_t>(Outcome::kDelivered)], 1u);
}

TEST_F(TrainerTest, EventsTellWhatHappensAsItHappens) {
  open();
  const auto watch = trainer().events().watch();
  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_EQ(answer_next("secret answer"), Outcome::kDelivered);
  trainer().pause();
  trainer().resume("v1");
  close();
  uint64_t lost = 1;
  std::vector<std::string> types;
  for (const auto& record : trainer().events().behind(0, 100, &lost)) {
    types.push_back(record.type);
    EXPECT_TRUE(json::parse(record.data)) << record.data;
    EXPECT_THAT(record.data, ::testing::Not(HasSubstr("secret")));
  }
  EXPECT_EQ(lost, 0u);
  EXPECT_THAT(types, ElementsAre("call_arrived", "call_answered", "call_ended", "paused", "resumed",
                                 "rollout_closed"));
}

TEST(EventLogTest, KeepsTheLastAndTellsHowManyAreLost) {
  EventLog log(3);
  log.add("unwanted", "{}");
  EXPECT_EQ(log.last(), 0u);
  const auto watch = log.watch();
  for (int i = 0; i < 5; ++i) log.add("e", std::to_string(i));
  uint64_t lost = 0;
  const auto records = log.behind(1, 2, &lost);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].number, 3u);
  EXPECT_EQ(lost, 1u);
  EXPECT_TRUE(log.behind(5, 2, &lost).empty());
  EXPECT_TRUE(log.behind(99, 2, &lost).empty());
  EXPECT_EQ(lost, 0u);
}

TEST(EventLogTest, WhoWasAwayCatchesUp) {
  EventLog log(3, std::chrono::hours(1));
  auto watch = log.watch();
  log.add("e", "1");
  watch.reset();
  log.add("e", "2");
  uint64_t lost = 1;
  EXPECT_EQ(log.behind(1, 9, &lost).size(), 1u);
  EXPECT_EQ(lost, 0u);
}

TEST(EventLogTest, KeepsNothingWhenNobodyHasWatchedForLong) {
  EventLog log(3, Duration::zero());
  auto one = log.watch(), two = log.watch();
  one.reset();
  log.add("e", "1");
  EXPECT_TRUE(log.wanted());
  two.reset();
  log.add("e", "2");
  EXPECT_FALSE(log.wanted());
  log.add("e", "3");
  uint64_t lost = 0;
  EXPECT_TRUE(log.behind(0, 9, &lost).empty());
  EXPECT_EQ(lost, 2u);
  // Who comes back hears what happens from then on, and that something is missing before it.
  const auto again = log.watch();
  log.add("e", "4");
  const auto records = log.behind(1, 9, &lost);
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].data, "4");
  EXPECT_EQ(lost, 1u);
}

TEST(EventLogTest, WakesWhoWaitsOnce) {
  EventLog log;
  const auto watch = log.watch();
  int woken = 0;
  log.wake_behind(0, [&] { ++woken; });
  const auto gone = log.wake_behind(0, [&] { woken += 100; });
  log.forget(gone);
  log.add("e", "{}");
  log.add("e", "{}");
  EXPECT_EQ(woken, 1);
  log.wake_behind(1, [&] { ++woken; });
  EXPECT_EQ(woken, 2) << "there is one already";
}

}  // namespace
}  // namespace sluice::gate
