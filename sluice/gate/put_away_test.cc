// The bodies of calls that wait long are in the trace alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "sluice/gate/testing.h"
#include "sluice/trace/jsonl.h"
#include "sluice/trace/reader.h"
#include "sluice/trace/testing.h"

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;

class PutAwayTest : public testing::GateFixture {
 protected:
  PutAwayTest() {
    directory_ = ::testing::TempDir() + "sluice-test-put-away-XXXXXX";
    EXPECT_NE(::mkdtemp(directory_.data()), nullptr);
    jsonl_ = std::make_unique<trace::JsonlRecorder>(directory_, Logger(),
                                                    trace::JsonlRecorder::Options{.files = disk_});
    registration_.recorder = jsonl_.get();
    options_.put_away_after = 20ms;
  }
  ~PutAwayTest() override { std::filesystem::remove_all(directory_); }

  // A conversation of `turns` long messages.
  static std::string conversation(int turns, std::string_view more = "") {
    std::string out = R"({"model":"m","messages":[)";
    for (int i = 0; i < turns; ++i) {
      out += (i == 0 ? R"({"role":"user","content":")" : R"(,{"role":"user","content":")") +
             std::to_string(i) + std::string(20'000, 'x') + "\"}";
    }
    return out + "]" + std::string(more) + "}";
  }
  uint64_t put_away_bytes() { return gate_->for_trainer.totals().put_away_bytes; }
  void wait_until_put_away(const llm::Call& call) {
    testing::run_until(shard_, [&] { return call.body.in_memory() == nullptr; });
  }

  const std::shared_ptr<trace::testing::WatchedDisk> disk_ =
      std::make_shared<trace::testing::WatchedDisk>();
  std::string directory_;
  std::unique_ptr<trace::JsonlRecorder> jsonl_;
};

TEST_F(PutAwayTest, ACallThatWaitsLongKeepsNoBodyInMemory) {
  open();
  auto agent = this->agent();
  const std::string body = conversation(3);
  agent.post(kPath, body);
  const auto call = next_call();
  const std::weak_ptr<const Bytes> memory = call->body.in_memory();
  wait_until_put_away(*call);
  EXPECT_TRUE(memory.expired());
  EXPECT_EQ(put_away_bytes(), body.size());
  EXPECT_EQ(**call->body.bytes(), body);
  EXPECT_EQ((*call->request())->messages.size(), 3u);

  // Resent, it is the same call; and the answer goes to its agent.
  auto again = this->agent();
  again.post(kPath, body);
  EXPECT_FALSE(a_call_waits());
  EXPECT_EQ(outcome(reply(call->id, "yes")), llm::Outcome::kDelivered);
  EXPECT_THAT(again.response().body, ::testing::HasSubstr("yes"));
  EXPECT_EQ(put_away_bytes(), body.size()) << "counted once";
}

TEST_F(PutAwayTest, TheNextOfItsSessionIsStillRecordedAsWhatItAdds) {
  open();
  auto agent = this->agent();
  agent.post(kPath, conversation(3));
  const auto first = next_call();
  wait_until_put_away(*first);
  ASSERT_EQ(outcome(reply(first->id, "yes")), llm::Outcome::kDelivered);
  (void)agent.response();
  agent.post(kPath, conversation(4));
  const auto second = next_call();
  ASSERT_TRUE(second->like);
  EXPECT_EQ(second->like->ordinal, first->ordinal);
  ASSERT_EQ(outcome(reply(second->id, "yes")), llm::Outcome::kDelivered);
  EXPECT_EQ(disk_->on_loop, 0);
  EXPECT_GE(disk_->elsewhere, 1) << "and once more, where the histories were compared";
  close();
  const auto trace = trace::load(jsonl_->location(id_));
  ASSERT_TRUE(trace);
  ASSERT_EQ(trace->calls.size(), 2u);
  EXPECT_EQ(*trace->body(trace->calls[0]), conversation(3));
  EXPECT_EQ(*trace->body(trace->calls[1]), conversation(4));
  EXPECT_LT(std::filesystem::file_size(directory_ + "/r0.bodies"), conversation(4).size() + 1000);
}

// Whether a tool is a custom one, only the request says.
TEST_F(PutAwayTest, WhatAnAnswerIsFittedToIsReadOffTheLoop) {
  open();
  auto agent = this->agent();
  agent.post(kPath, conversation(3, R"(,"tools":[{"type":"custom","custom":{"name":"run"}}])"));
  const auto call = next_call();
  wait_until_put_away(*call);
  llm::Answer answer = llm::text_answer("", llm::Origin::kSampled);
  answer.choices[0].message.tool_calls.push_back({"call_1", "run", "ls"});
  const auto told = outcome(gate_->for_trainer.reply(call->id, std::move(answer)));
  EXPECT_EQ(told, llm::Outcome::kDelivered);
  EXPECT_THAT(agent.response().body, ::testing::HasSubstr(R"("type":"custom")"));
  EXPECT_EQ(disk_->on_loop, 0);
  EXPECT_EQ(disk_->elsewhere, 1);
}

TEST_F(PutAwayTest, CallsThatComeLaterArePutAwayToo) {
  open();
  std::vector<testing::Agent> agents;
  std::vector<std::shared_ptr<const llm::Call>> calls;
  for (int i = 1; i <= 4; ++i) {
    agents.push_back(this->agent());
    agents.back().post(kPath, conversation(i));
    calls.push_back(next_call());
    ASSERT_TRUE(net::testing::run(shard_, net::sleep_for(15ms)));
  }
  uint64_t bytes = 0;
  for (const auto& call : calls) {
    wait_until_put_away(*call);
    bytes += call->body.size();
  }
  EXPECT_EQ(put_away_bytes(), bytes);
}

TEST_F(PutAwayTest, WhatTheDiskTakesLateIsPutAwayThen) {
  const auto disk = std::make_shared<trace::testing::StallingDisk>();
  jsonl_ = std::make_unique<trace::JsonlRecorder>(directory_, Logger(),
                                                  trace::JsonlRecorder::Options{.files = disk});
  registration_.recorder = jsonl_.get();
  open();
  disk->stall();
  auto agent = this->agent();
  agent.post(kPath, conversation(3));
  const auto call = next_call();
  disk->wait_for_a_writer();
  ASSERT_TRUE(net::testing::run(shard_, net::sleep_for(100ms)));
  EXPECT_NE(call->body.in_memory(), nullptr);
  EXPECT_EQ(put_away_bytes(), 0u);
  disk->resume();
  wait_until_put_away(*call);
  EXPECT_EQ(put_away_bytes(), call->body.size());
}

TEST_F(PutAwayTest, SmallBodiesAndThoseThatNobodyKeepsStay) {
  registration_.recorder = &recorder_;  // no file
  open();
  auto agent = this->agent(), other = this->agent();
  agent.post(kPath, conversation(3));
  const auto large = next_call();
  other.post(kPath, body());
  const auto small = next_call();
  ASSERT_TRUE(net::testing::run(shard_, net::sleep_for(100ms)));
  EXPECT_NE(large->body.in_memory(), nullptr);
  EXPECT_NE(small->body.in_memory(), nullptr);
  EXPECT_EQ(put_away_bytes(), 0u);
}

TEST_F(PutAwayTest, NothingIsPutAwayWhereThatIsSwitchedOff) {
  options_.put_away_after = Duration::zero();
  open();
  auto agent = this->agent();
  agent.post(kPath, conversation(3));
  const auto call = next_call();
  ASSERT_TRUE(net::testing::run(shard_, net::sleep_for(100ms)));
  EXPECT_NE(call->body.in_memory(), nullptr);
}

}  // namespace
}  // namespace sluice::gate
