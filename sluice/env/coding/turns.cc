#include "sluice/env/coding/turns.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace sluice::env::coding {
namespace {

// A result is one message that holds its text three times: this bounds it. The trace has all.
constexpr size_t kMaxTokens = 200'000;

using SystemClock = std::chrono::system_clock;

double seconds(SystemClock::duration duration) {
  return std::round(std::chrono::duration<double>(duration).count() * 1e3) / 1e3;
}

}  // namespace

void TurnLog::opened(const RolloutId& rollout, const trace::RolloutInfo& info) {
  next_.opened(rollout, info);
}

void TurnLog::arrived(const llm::Call& call) {
  turns_[call.ordinal].timestamp = seconds(call.arrived_at.time_since_epoch());
  ordinals_[call.id.value] = call.ordinal;
  next_.arrived(call);
}

void TurnLog::answered(const llm::Call& call, const llm::Answer& answer) {
  Turn& turn = turns_[call.ordinal];
  if (!answer.choices.empty()) {
    const llm::Choice& choice = answer.choices.front();
    turn.finish_reason = llm::to_string(choice.finish);
    if (tokens_ + choice.ids.size() > kMaxTokens) {
      tokens_left_out_ = true;
    } else {
      tokens_ += choice.ids.size();
      turn.ids = choice.ids;
      turn.logprobs = choice.logprobs;
    }
  }
  next_.answered(call, answer);
}

void TurnLog::ended(const llm::Call& call, llm::Outcome outcome, std::string_view detail) {
  Turn& turn = turns_[call.ordinal];
  turn.ended = true;
  turn.latency_s = std::max(0.0, seconds(SystemClock::now().time_since_epoch()) - turn.timestamp);
  turn.latency_s = std::round(turn.latency_s * 1e3) / 1e3;
  turn.outcome = llm::to_string(outcome);
  if (outcome != llm::Outcome::kDelivered) {
    turn.error = turn.outcome + (detail.empty() ? "" : ": " + std::string(detail));
  }
  next_.ended(call, outcome, detail);
}

void TurnLog::confirmed(const llm::Call& call) {
  next_.confirmed(call);
}

void TurnLog::event(const RolloutId& rollout, const trace::Event& event) {
  if (event.kind == "relay") {
    const auto detail = json::parse(event.detail, json::ParseLimits{event.detail.size()});
    if (detail && detail->is_object()) relayed(detail->get_object());
  }
  next_.event(rollout, event);
}

// A model endpoint's own answer: what it said of itself.
void TurnLog::relayed(const json::Object& detail) {
  const auto found = ordinals_.find(json::get_string(detail, "call").value_or(""));
  if (found == ordinals_.end()) return;
  Turn& turn = turns_[found->second];
  const auto status = json::get_integer(detail, "status");
  if (status && *status > 0) turn.status = status;
  if (const auto reason = json::get_string(detail, "finish_reason")) turn.finish_reason = *reason;
  const json::Array* tokens = json::get_array(detail, "tokens");
  const json::Array* logprobs = json::get_array(detail, "logprobs");
  if (tokens == nullptr || logprobs == nullptr) return;
  if (tokens_ + tokens->size() > kMaxTokens) {
    tokens_left_out_ = true;
    return;
  }
  tokens_ += tokens->size();
  for (const json::Value& token : *tokens) turn.tokens.emplace_back(token.as_string());
  for (const json::Value& logprob : *logprobs) {
    turn.logprobs.push_back(logprob.to_number<float>());
  }
}

void TurnLog::closed(const RolloutId& rollout, const trace::ResultSummary& summary) {
  next_.closed(rollout, summary);
}

void TurnLog::flush(const RolloutId& rollout, net::Shard& shard, Flushed told) {
  next_.flush(rollout, shard, std::move(told));
}

std::string TurnLog::location(const RolloutId& rollout) const {
  return next_.location(rollout);
}

json::Array TurnLog::turns() const {
  json::Array rows;
  for (const auto& [ordinal, turn] : turns_) {
    if (!turn.ended) continue;
    json::Object row;
    row["turn"] = ordinal;
    row["finish_reason"] =
        turn.finish_reason ? json::Value(*turn.finish_reason) : json::Value(nullptr);
    // Of a trainer's answers only the ids are known, of a model endpoint's own only the texts.
    row["completion_tokens"] = json::Array(turn.tokens.begin(), turn.tokens.end());
    row["completion_token_ids"] = json::Array(turn.ids.begin(), turn.ids.end());
    row["per_token_logps"] = json::Array(turn.logprobs.begin(), turn.logprobs.end());
    row["latency_s"] = turn.latency_s;
    row["timestamp"] = turn.timestamp;
    row["upstream_status"] = turn.status ? json::Value(*turn.status) : json::Value(nullptr);
    row["upstream_error"] = turn.error ? json::Value(*turn.error) : json::Value(nullptr);
    rows.push_back(std::move(row));
  }
  return rows;
}

bool TurnLog::lacks_logprobs() const {
  return std::any_of(turns_.begin(), turns_.end(), [](const auto& entry) {
    const Turn& turn = entry.second;
    return turn.ended && !turn.error && turn.logprobs.empty();
  });
}

std::string TurnLog::tail(size_t bytes) const {
  std::string text;
  for (const auto& [ordinal, turn] : turns_) {
    if (!turn.ended) continue;
    text += fmt::format("call {}: {}, {:.3f} s", ordinal, turn.outcome, turn.latency_s);
    if (turn.status) text += fmt::format(", upstream status {}", *turn.status);
    const size_t tokens = std::max(turn.ids.size(), turn.tokens.size());
    if (tokens > 0) text += fmt::format(", {} tokens", tokens);
    text += '\n';
  }
  if (text.size() > bytes) text.erase(0, text.size() - bytes);
  return text;
}

}  // namespace sluice::env::coding
