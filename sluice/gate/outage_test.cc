// Outages as a gate tells them: of trainers, and of upstreams behind a policy. What counts as one
// is in outage_watch_test.cc; a lease of no time makes every silence long enough here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <climits>

#include "sluice/gate/testing.h"

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;
using llm::Outcome;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class OutageTest : public testing::GateFixture {
 protected:
  OutageTest() { options_.trainer_lease = Duration::zero(); }

  Trainer& trainer() { return gate_->for_trainer; }

  // The agent ends now. "" if nothing shows an outage.
  std::string outage() {
    testing::settle(shard_);
    gate_->for_operator.stop_admitting(id_);
    answering_ = net::testing::run(shard_, gate_->for_operator.answering(id_));
    return answering_.outage;
  }
  Answering answering_;
};

TEST_F(OutageTest, a_trainer_of_whom_nothing_is_heard) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_THAT(outage(),
              AllOf(HasSubstr("nothing was heard of a trainer"), HasSubstr("start the trainer")));
}

TEST_F(OutageTest, one_who_was_heard_of_within_the_lease_is_none) {
  options_.trainer_lease = 1h;
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_EQ(outage(), "");
}

TEST_F(OutageTest, one_who_waits_for_the_next_call_lives) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  next_call();
  TakeRequest request;
  request.taker.name = "node-1";
  const auto waiting = trainer().take(request, [](Result<std::vector<Item>>) {});
  EXPECT_EQ(outage(), "");
  trainer().cancel(waiting);
}

TEST_F(OutageTest, an_answered_agent_has_none) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_EQ(answer_next("hello"), Outcome::kDelivered);
  EXPECT_EQ(outage(), "");
}

// A refusal is the trainer's word.
TEST_F(OutageTest, a_refused_agent_has_none) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_EQ(outcome(trainer().reply(next_call()->id, llm::Refusal())), Outcome::kRefused);
  EXPECT_EQ(outage(), "");
}

TEST_F(OutageTest, a_rollout_that_the_trainer_cancels_has_none) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  next_call();
  EXPECT_TRUE(trainer().cancel(id_, "stale"));
  EXPECT_EQ(outage(), "");
}

TEST_F(OutageTest, replies_that_never_fit_are_counted_and_told) {
  registration_.origins = {};
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const CallId call = next_call()->id;
  for (int i = 0; i < 4; ++i) {
    EXPECT_FALSE(outcome(reply(call, "without tokens")));
  }
  trainer().reject(call, "no choices");
  EXPECT_THAT(outage(), AllOf(HasSubstr("every reply of the trainer to a call was rejected"),
                              HasSubstr("0 token ids")));
  EXPECT_EQ(counters().rejected, 5u);
  EXPECT_THAT(counters().rejections, SizeIs(3));
  EXPECT_EQ(trainer().totals().rejected, 5u);
}

TEST_F(OutageTest, a_reply_to_a_call_that_is_not_open_is_no_rejected_one) {
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  const CallId call = next_call()->id;
  trainer().reject(CallId{"forged"}, "no choices");
  EXPECT_EQ(outcome(reply(call, "hello")), Outcome::kDelivered);
  trainer().reject(call, "no choices");
  EXPECT_FALSE(outcome(reply(call, "again")));
  testing::settle(shard_);
  EXPECT_EQ(counters().rejected, 0u);
}

// --- Upstreams -----------------------------------------------------------------------------------

constexpr char kFinish[] = "{\"choices\":[{\"message\":{},\"finish_reason\":\"stop\"}]}";
constexpr char kUrl[] = "http://model.example/v1";

// Whoever answers is elsewhere, and does as the test says.
class Elsewhere final : public Policy {
 public:
  Result<void> opens;
  int status = 200;
  Bytes said = kFinish;
  net::Signal* silent = nullptr;  // what follows is never said
  Result<void> answers_probes;
  int probes = 0;
  int failing_probes = INT_MAX;

  void submit(std::shared_ptr<const llm::Call>, Reply reply) override {
    auto relay = std::make_unique<testing::FakeRelay>(status, std::vector<Result<Bytes>>{said});
    relay->opens = opens;
    relay->wait_before_end = silent;
    reply.relay(std::move(relay));
  }
  std::string base_url() const override { return kUrl; }
  net::awaitable<Result<void>> probe(llm::Dialect, Deadline deadline) override {
    EXPECT_FALSE(deadline.is_never());
    if (++probes > failing_probes) co_return Result<void>();
    co_return answers_probes;
  }
};

class UpstreamOutageTest : public OutageTest {
 protected:
  UpstreamOutageTest() { registration_.policy = elsewhere_; }

  void is_down() {
    elsewhere_->opens = Error(ErrorCode::kUnavailable, "connect: refused");
    elsewhere_->answers_probes = Error(ErrorCode::kUnavailable, "connect: refused, too");
  }
  int call(int number = 0) {
    auto agent = this->agent();
    agent.post(kPath, body(number));
    const int status = agent.response().status;
    testing::run_until(shard_, [&] { return counters().open == 0; });
    return status;
  }
  // A call of another rollout's agent.
  void serve_another() {
    Registration other = registration_;
    other.id = {"other"};
    ASSERT_TRUE(gate_->for_operator.open(other));
    auto listener = std::make_unique<net::MemoryListener>(shard_);
    net::MemoryListener* const door = listener.get();
    ASSERT_TRUE(gate_->for_operator.serve(other.id, std::move(listener)));
    gate_->for_operator.admit(other.id);
    {
      testing::Agent agent(shard_, *door);
      agent.post("/rollout/other/v1/chat/completions", body());
      EXPECT_EQ(agent.response().status, 200);
      testing::run_until(shard_,
                         [&] { return gate_->for_operator.counters(other.id)->turns == 1; });
    }
    net::testing::run(shard_, gate_->for_operator.close(other.id));
  }

  net::Signal never_;
  const std::shared_ptr<Elsewhere> elsewhere_ = std::make_shared<Elsewhere>();
};

TEST_F(UpstreamOutageTest, one_that_refuses_the_gate_as_well_is_out) {
  open();
  is_down();
  EXPECT_EQ(call(), 503);
  EXPECT_THAT(outage(), AllOf(HasSubstr(kUrl), HasSubstr("(connect: refused)"),
                              HasSubstr("(connect: refused, too)"), HasSubstr("start it")));
}

TEST_F(UpstreamOutageTest, one_that_answers_the_gate_is_not) {
  open();
  is_down();
  elsewhere_->answers_probes = {};
  call();
  EXPECT_EQ(outage(), "");
  EXPECT_THAT(answering_.doubt,
              AllOf(HasSubstr("(connect: refused)"), HasSubstr("but answers the gate itself")));
  EXPECT_EQ(elsewhere_->probes, 1);
}

// An agent may have used up what there was for a while.
TEST_F(UpstreamOutageTest, one_that_answers_the_gate_a_little_later_is_not) {
  options_.upstream_patience = 20ms;
  open();
  is_down();
  elsewhere_->answers_probes = Error(ErrorCode::kExhausted, "status 429");
  elsewhere_->failing_probes = 1;
  call();
  EXPECT_EQ(outage(), "");
  EXPECT_EQ(elsewhere_->probes, 2);
}

TEST_F(UpstreamOutageTest, one_that_fails_the_gate_all_the_time_is_out) {
  options_.upstream_patience = 20ms;
  open();
  is_down();
  elsewhere_->answers_probes = Error(ErrorCode::kExhausted, "status 429");
  call();
  EXPECT_THAT(outage(), HasSubstr("(status 429)"));
  EXPECT_EQ(elsewhere_->probes, 2);
}

TEST_F(UpstreamOutageTest, who_waits_for_that_may_wait_no_longer) {
  open();
  is_down();
  elsewhere_->answers_probes = Error(ErrorCode::kExhausted, "status 429");
  call();
  gate_->for_operator.stop_admitting(id_);
  testing::run_until(shard_, [&] { return elsewhere_->probes == 1; });
  gate_->for_operator.stop_asking(id_);
  EXPECT_EQ(outage(), "");
}

// No agent changes the key; but one that is refused may be good for everything else.
TEST_F(UpstreamOutageTest, a_key_that_is_not_taken_is_an_outage_if_the_calls_say_so_too) {
  open();
  elsewhere_->answers_probes = Error(ErrorCode::kPermissionDenied, "status 401");
  elsewhere_->status = 401;
  call();
  EXPECT_THAT(outage(), HasSubstr("(status 401)"));
}
TEST_F(UpstreamOutageTest, a_key_that_is_not_taken_for_the_gates_question_alone_is_none) {
  open();
  elsewhere_->answers_probes = Error(ErrorCode::kPermissionDenied, "status 401");
  elsewhere_->status = 500;
  call();
  EXPECT_EQ(outage(), "");
  EXPECT_EQ(elsewhere_->probes, 1);
}

TEST_F(UpstreamOutageTest, a_success_without_an_answer_is_a_failure) {
  open();
  elsewhere_->answers_probes = Error(ErrorCode::kUnavailable, "gone");
  int number = 0;
  for (const char* said : {R"({"error":{"message":"overloaded"}})", "{}", R"({"choices":[]})",
                           "<html>", "{not json"}) {
    elsewhere_->said = said;
    call(number++);
  }
  EXPECT_EQ(counters().turns, 0u);
  EXPECT_THAT(outage(), HasSubstr("no answer of the dialect"));
}

// One that has no answer for the gate in good times either.
TEST_F(UpstreamOutageTest, silence_towards_the_gate_tells_nothing_of_one_that_never_answers_it) {
  options_.upstream_patience = 20ms;
  elsewhere_->answers_probes = Error(ErrorCode::kExhausted, "status 500");
  open();
  EXPECT_EQ(call(0), 200);
  testing::run_until(shard_, [&] { return elsewhere_->probes == 1; });
  elsewhere_->status = 500;
  call(1);
  EXPECT_EQ(outage(), "");
  EXPECT_THAT(answering_.doubt, HasSubstr("never answered the gate itself, also while it served"));
}

TEST_F(UpstreamOutageTest, one_is_asked_once_in_good_times) {
  options_.upstream_patience = 20ms;
  open();
  EXPECT_EQ(call(0), 200);
  EXPECT_EQ(call(1), 200);
  EXPECT_EQ(elsewhere_->probes, 1);
  elsewhere_->answers_probes = Error(ErrorCode::kExhausted, "status 500");
  elsewhere_->status = 500;
  call(2);
  EXPECT_THAT(outage(), HasSubstr("(status 500)"));
}

TEST_F(UpstreamOutageTest, one_that_objects_to_what_it_is_asked_is_not_out) {
  open();
  is_down();
  elsewhere_->opens = {};
  elsewhere_->status = 400;
  call();
  EXPECT_EQ(outage(), "");
  EXPECT_EQ(elsewhere_->probes, 0);
}

TEST_F(UpstreamOutageTest, errors_by_status_count_as_well) {
  open();
  is_down();
  elsewhere_->opens = {};
  elsewhere_->status = 429;
  EXPECT_EQ(call(), 429);
  EXPECT_THAT(outage(), HasSubstr("status 429"));
}

TEST_F(UpstreamOutageTest, one_that_does_not_end_until_the_agent_has_gone_is_out) {
  elsewhere_->said = "{";
  elsewhere_->silent = &never_;
  open();
  is_down();
  elsewhere_->opens = {};
  auto agent = this->agent();
  agent.post(kPath, body());
  agent.wait_for("HTTP/1.1 200");
  agent.reset();
  EXPECT_THAT(outage(), HasSubstr("did not answer"));
}

// Such an agent is often gone before the gate knows that all has arrived.
TEST_F(UpstreamOutageTest, one_that_has_said_all_is_none_though_the_agent_leaves_at_once) {
  elsewhere_->silent = &never_;
  open();
  is_down();
  elsewhere_->opens = {};
  elsewhere_->said = kFinish;
  auto agent = this->agent();
  agent.post(kPath, body());
  agent.wait_for("finish_reason");
  EXPECT_EQ(counters().open, 1u);
  EXPECT_EQ(outage(), "");
  agent.reset();
}

TEST_F(UpstreamOutageTest, while_others_are_served_an_agents_errors_are_its_own) {
  open();
  elsewhere_->opens = Error(ErrorCode::kUnavailable, "connect: refused");
  call();
  elsewhere_->opens = {};
  serve_another();
  is_down();
  EXPECT_EQ(outage(), "");
  EXPECT_EQ(elsewhere_->probes, 1) << "in good times";
}

TEST_F(UpstreamOutageTest, others_that_were_served_before_say_nothing) {
  open();
  serve_another();
  is_down();
  call();
  EXPECT_THAT(outage(), HasSubstr("refused"));
}

TEST_F(UpstreamOutageTest, a_later_turn_is_a_recovery) {
  open();
  is_down();
  call(0);
  elsewhere_->opens = {};
  EXPECT_EQ(call(1), 200);
  EXPECT_EQ(outage(), "");
  EXPECT_EQ(elsewhere_->probes, 1) << "in good times";
}

// What titles a conversation is no part of it.
TEST_F(UpstreamOutageTest, calls_beside_the_trajectory_do_not_count) {
  PurposeRule& title = registration_.purposes.emplace_back();
  title.purpose = llm::Purpose::kTitle;
  open();
  is_down();
  call();
  EXPECT_EQ(outage(), "");
}

TEST_F(UpstreamOutageTest, a_policy_that_answers_by_itself_has_none) {
  registration_.policy =
      std::make_shared<testing::FunctionPolicy>([](std::shared_ptr<const llm::Call>, Reply) {});
  open();
  auto agent = this->agent();
  agent.post(kPath, body());
  agent.response();
  EXPECT_EQ(outage(), "");
}

TEST_F(UpstreamOutageTest, without_an_end_nothing_is_asked) {
  open();
  is_down();
  call();
  EXPECT_EQ(net::testing::run(shard_, gate_->for_operator.answering(id_)).outage, "");
  EXPECT_EQ(net::testing::run(shard_, gate_->for_operator.answering({"another"})).outage, "");
  EXPECT_EQ(elsewhere_->probes, 0);
}

}  // namespace
}  // namespace sluice::gate
