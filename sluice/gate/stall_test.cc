// A recorder whose disk does not answer: agents are served, acknowledgements wait. One whose disk
// is full: they are served as well, and trainers are told what is not recorded.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "sluice/gate/testing.h"
#include "sluice/trace/jsonl.h"
#include "sluice/trace/reader.h"
#include "sluice/trace/testing.h"

namespace sluice::gate {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class StallTest : public testing::GateFixture {
 protected:
  StallTest() {
    directory_ = ::testing::TempDir() + "sluice-stall-XXXXXX";
    EXPECT_NE(::mkdtemp(directory_.data()), nullptr);
    make_recorder(256 << 20);
  }
  ~StallTest() override {
    disk_->resume();
    jsonl_.reset();
    std::filesystem::remove_all(directory_);
  }
  void TearDown() override {
    disk_->resume();
    GateFixture::TearDown();
  }

  void make_recorder(size_t queue_bytes) { make_recorder(queue_bytes, disk_); }
  void make_recorder(size_t queue_bytes, std::shared_ptr<trace::FileCalls> disk) {
    jsonl_ = std::make_unique<trace::JsonlRecorder>(
        directory_, Logger(),
        trace::JsonlRecorder::Options{.queue_bytes = queue_bytes, .files = std::move(disk)});
    registration_.recorder = jsonl_.get();
  }

  // Notes what is told of the reply.
  Trainer::Replied note(const std::string& name) {
    Trainer::Replied told;
    told.accepted = [this, name](Result<void> accepted) {
      told_.push_back(name + (accepted ? " accepted" : " not accepted"));
    };
    told.ended = [this, name](Result<llm::Outcome> outcome) {
      told_.push_back(name + " " + std::string(outcome ? to_string(*outcome) : "failed"));
    };
    return told;
  }
  static llm::Answer sampled(std::string text) {
    return llm::text_answer(std::move(text), llm::Origin::kSampled);
  }
  // Until the disk holds somebody up.
  void stall() {
    disk_->stall();
    jsonl_->event(id_, {"warning", "{}"});
    disk_->wait_for_a_writer();
  }

  const std::shared_ptr<trace::testing::StallingDisk> disk_ =
      std::make_shared<trace::testing::StallingDisk>();
  std::string directory_;
  std::unique_ptr<trace::JsonlRecorder> jsonl_;
  std::vector<std::string> told_;
};

TEST_F(StallTest, CallsAreAnsweredAndAcknowledgementsWait) {
  open();
  stall();
  auto agent = this->agent();
  for (int i = 0; i < 3; ++i) {
    agent.post(kPath, body(i));
    const auto call = next_call();
    gate_->for_trainer.reply(call->id, sampled("yes"), note(std::to_string(i)));
    EXPECT_EQ(agent.response().status, 200);
  }
  testing::run_until(shard_, [&] { return counters().turns == 3; });
  testing::settle(shard_);
  EXPECT_THAT(told_, IsEmpty());

  disk_->resume();
  testing::run_until(shard_, [&] { return told_.size() == 6; });
  EXPECT_THAT(told_, ElementsAre("0 accepted", "0 delivered", "1 accepted", "1 delivered",
                                 "2 accepted", "2 delivered"));
  const auto trace = trace::load(jsonl_->location(id_));
  ASSERT_TRUE(trace);
  ASSERT_EQ(trace->calls.size(), 3u);
  for (const auto& call : trace->calls) EXPECT_EQ(call.outcome, llm::Outcome::kDelivered);
}

TEST_F(StallTest, WhatIsAcknowledgedIsInTheTrace) {
  open();
  stall();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto call = next_call();
  bool answered = false, ended = false;
  Trainer::Replied told;
  told.accepted = [&](Result<void>) {
    const auto calls = trace::load(jsonl_->location(id_)).value_or(trace::Trace()).calls;
    answered = !calls.empty() && calls[0].answer && calls[0].outcome;
  };
  told.ended = [&](Result<llm::Outcome>) {
    ended = true;
  };
  gate_->for_trainer.reply(call->id, sampled("yes"), std::move(told));
  EXPECT_EQ(agent.response().status, 200);
  testing::run_until(shard_, [&] { return counters().turns == 1; });
  testing::settle(shard_);
  disk_->resume();
  testing::run_until(shard_, [&] { return ended; });
  EXPECT_TRUE(answered);
}

TEST_F(StallTest, AnAnswerThatIsNotRecordedIsDeliveredAndNotAccepted) {
  const auto disk = std::make_shared<trace::testing::FullDisk>();
  make_recorder(256 << 20, disk);
  open();
  auto agent = this->agent();
  const auto exchange = [&](std::string text) {
    agent.post(kPath, body(static_cast<int>(told_.size())));
    std::string accepted;
    Trainer::Replied told;
    told.accepted = [&](Result<void> done) {
      accepted = done ? "accepted" : done.error().message;
    };
    told.ended = [&](Result<llm::Outcome> outcome) {
      told_.push_back(outcome ? std::string(to_string(*outcome)) : outcome.error().message);
    };
    const size_t before = told_.size();
    gate_->for_trainer.reply(next_call()->id, sampled(std::move(text)), std::move(told));
    EXPECT_EQ(agent.response().status, 200);
    testing::run_until(shard_, [&] { return told_.size() > before; });
    return accepted;
  };
  EXPECT_EQ(exchange("recorded"), "accepted");
  // Room for all lines but the answer's.
  disk->set_limit(std::filesystem::file_size(jsonl_->location(id_)) + 2000);
  EXPECT_THAT(exchange(std::string(300'000, 'x')), HasSubstr("not recorded: "));
  EXPECT_THAT(told_.back(), HasSubstr("the call has ended: delivered"));
  EXPECT_THAT(told_.back(), HasSubstr("No space left on device"));
  disk->set_limit(UINT64_MAX);
  EXPECT_EQ(exchange("recorded again"), "accepted");
  EXPECT_EQ(told_.back(), "delivered");
  EXPECT_EQ(counters().turns, 3u);
  const auto trace = trace::load(jsonl_->location(id_));
  ASSERT_TRUE(trace);
  ASSERT_EQ(trace->calls.size(), 3u);
  EXPECT_FALSE(trace->calls[1].answer);
  EXPECT_TRUE(trace->calls[2].answer);
}

TEST_F(StallTest, WhenTooMuchWaitsNewCallsComeAgainAndParkedOnesAreAnswered) {
  make_recorder(100'000);
  open();
  stall();
  const std::string large = body(0, R"(,"user":")" + std::string(30'000, 'x') + "\"");
  auto first = this->agent(), second = this->agent(), third = this->agent();
  first.post(kPath, large);
  const auto one = next_call();
  second.post(kPath, body(1, R"(,"user":")" + std::string(30'000, 'y') + "\""));
  const auto two = next_call();
  third.post(kPath, body(2));
  const auto refused = third.response();
  EXPECT_EQ(refused.status, 503);
  EXPECT_THAT(refused.body, HasSubstr("disk"));
  // Another rollout has room: it has nothing waiting.
  Registration other = registration_;
  other.id = {"r1"};
  other.policy = testing::answering("there is room");
  ASSERT_TRUE(gate_->for_operator.open(other));
  auto listener = std::make_unique<net::MemoryListener>(shard_);
  testing::Agent victim(shard_, *listener);
  ASSERT_TRUE(gate_->for_operator.serve(other.id, std::move(listener)));
  gate_->for_operator.admit(other.id);
  victim.post("/rollout/r1/v1/chat/completions", body());
  EXPECT_THAT(victim.response().body, HasSubstr("there is room"));
  // Sent again it is the call that it was.
  third.post(kPath, large);
  EXPECT_FALSE(a_call_waits());

  gate_->for_trainer.reply(one->id, sampled("one"), {});
  gate_->for_trainer.reply(two->id, sampled("two"), {});
  EXPECT_THAT(first.response().body, HasSubstr("one"));
  EXPECT_THAT(second.response().body, HasSubstr("two"));
  EXPECT_THAT(third.response().body, HasSubstr("one"));

  disk_->resume();
  (void)trace::testing::flush(*jsonl_, id_);
  third.post(kPath, body(2));
  EXPECT_EQ(outcome(reply(next_call()->id, "three")), llm::Outcome::kDelivered);
  net::testing::run(shard_, gate_->for_operator.close(other.id));
}

TEST_F(StallTest, ARolloutIsClosedWhenWhatIsToldOfItWasTold) {
  open();
  stall();
  auto agent = this->agent();
  agent.post(kPath, body());
  gate_->for_trainer.reply(next_call()->id, sampled("yes"), note("it"));
  EXPECT_EQ(agent.response().status, 200);
  struct Close {
    static net::awaitable<void> run(Operator* gate, RolloutId id, bool* closed) {
      co_await gate->close(std::move(id));
      *closed = true;
    }
  };
  bool closed = false;
  opened_ = false;
  shard_.spawn(Close::run(&gate_->for_operator, id_, &closed));
  agent.wait_until_closed();
  testing::settle(shard_);
  EXPECT_FALSE(closed);
  EXPECT_THAT(told_, IsEmpty());
  disk_->resume();
  testing::run_until(shard_, [&] { return closed; });
  EXPECT_THAT(told_, ElementsAre("it accepted", "it delivered"));
}

}  // namespace
}  // namespace sluice::gate
