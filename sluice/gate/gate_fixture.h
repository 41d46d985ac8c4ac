// For tests: one gate with one rollout, served in memory, and a trainer beside it on one thread.
#pragma once

#include <gtest/gtest.h>

#include "sluice/gate/testing.h"
#include "sluice/trace/memory.h"

namespace sluice::gate::testing {

class GateFixture : public ::testing::Test {
 protected:
  static constexpr std::string_view kPath = "/rollout/r0/v1/chat/completions";

  // A chat request's body; `number` makes it differ from others.
  static std::string body(int number = 0, std::string_view more = "") {
    return R"({"model":"m","messages":[{"role":"user","content":"question )" +
           std::to_string(number) + "\"}]" + std::string(more) + "}";
  }
  static std::string streaming(int number = 0) {
    return body(number, R"(,"stream":true,"stream_options":{"include_usage":true})");
  }

  void TearDown() override {
    if (opened_) close();
  }

  // With defaults that tests change first.
  void open() {
    gate_.emplace(make_gate(options_));
    registration_.id = id_;
    registration_.shard = &shard_;
    registration_.recorder = &recorder_;
    ASSERT_TRUE(gate_->for_operator.open(registration_));
    opened_ = true;
    auto listener = std::make_unique<net::MemoryListener>(shard_);
    listener_ = listener.get();
    ASSERT_TRUE(gate_->for_operator.serve(id_, std::move(listener)));
    gate_->for_operator.admit(id_);
  }

  void close() {
    net::testing::run(shard_, gate_->for_operator.close(id_));
    opened_ = false;
  }

  Agent agent() { return Agent(shard_, *listener_); }

  // The next call that waits for the trainer.
  std::shared_ptr<const llm::Call> next_call() {
    std::optional<Item> item;
    run_until(shard_, [&] {
      auto taken = gate_->for_trainer.next(id_, Duration::zero());
      if (taken) item = std::move(*taken);
      return item.has_value();
    });
    return std::get<std::shared_ptr<const llm::Call>>(*item);
  }
  bool a_call_waits() {
    settle(shard_);
    const auto taken = gate_->for_trainer.next(id_, Duration::zero());
    return taken && taken->has_value();
  }

  std::future<Result<llm::Outcome>> reply(const CallId& call, std::string text) {
    return gate_->for_trainer.reply(call, llm::text_answer(std::move(text), llm::Origin::kSampled));
  }
  Result<llm::Outcome> outcome(std::future<Result<llm::Outcome>> future) {
    return get(shard_, std::move(future));
  }
  // Answers whatever call comes next.
  Result<llm::Outcome> answer_next(std::string text) {
    const auto call = next_call();
    return outcome(reply(call->id, std::move(text)));
  }

  Counters counters() { return *gate_->for_operator.counters(id_); }

  net::Shard shard_;
  trace::MemoryRecorder recorder_;
  const RolloutId id_{"r0"};
  GateOptions options_;
  Registration registration_;
  std::optional<Handles> gate_;
  bool opened_ = false;
  net::MemoryListener* listener_ = nullptr;
};

}  // namespace sluice::gate::testing
