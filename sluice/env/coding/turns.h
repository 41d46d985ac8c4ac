// TurnLog: a recorder that passes everything on and keeps what a rollout's result tells of its LLM
// calls (proxy_turns and proxy_log_tail).
//
// For one rollout, on its shard.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "sluice/json/value.h"
#include "sluice/trace/recorder.h"

namespace sluice::env::coding {

class TurnLog final : public trace::Recorder {
 public:
  explicit TurnLog(trace::Recorder& next) : next_(next) {}

  void opened(const RolloutId& rollout, const trace::RolloutInfo& info) override;
  void arrived(const llm::Call& call) override;
  void answered(const llm::Call& call, const llm::Answer& answer) override;
  void ended(const llm::Call& call, llm::Outcome outcome, std::string_view detail) override;
  void confirmed(const llm::Call& call) override;
  void event(const RolloutId& rollout, const trace::Event& event) override;
  void closed(const RolloutId& rollout, const trace::ResultSummary& summary) override;
  void flush(const RolloutId& rollout, net::Shard& shard, Flushed told) override;
  bool has_room(const RolloutId& rollout, size_t bytes) const override {
    return next_.has_room(rollout, bytes);
  }
  std::string location(const RolloutId& rollout) const override;

  // A row for each call that has ended, in the order of their arrival.
  json::Array turns() const;
  // The end of a text of one line for each.
  std::string tail(size_t bytes) const;
  // Whether the tokens of some turns were left out, because there were too many in all.
  bool tokens_left_out() const { return tokens_left_out_; }
  // Whether there is an answered call without logprobs.
  bool lacks_logprobs() const;

 private:
  void relayed(const json::Object& detail);

  struct Turn {
    double timestamp = 0;
    double latency_s = 0;
    std::optional<std::string> finish_reason;
    std::vector<std::string> tokens;  // where the model endpoint gave their texts
    std::vector<int32_t> ids;
    std::vector<float> logprobs;
    std::optional<int64_t> status;
    std::optional<std::string> error;
    std::string outcome;
    bool ended = false;
  };

  trace::Recorder& next_;
  std::map<uint64_t, Turn> turns_;  // by ordinal
  std::map<std::string, uint64_t, std::less<>> ordinals_;
  size_t tokens_ = 0;
  bool tokens_left_out_ = false;
};

}  // namespace sluice::env::coding
