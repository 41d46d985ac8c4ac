#include "sluice/gate/outage_watch.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>

namespace sluice::gate {
namespace {

constexpr auto kAskAgain = std::chrono::seconds(30);

std::string done_by(const Outage& upstreams) {
  return upstreams.why.empty() ? "did not answer"
                               : "failed this rollout's calls (" + upstreams.why + ")";
}

}  // namespace

void ServedLog::served(const std::string& url, const RolloutId& rollout, Time now) {
  const std::lock_guard lock(mutex_);
  if (!rows_.contains(url) && rows_.size() >= kMost) {
    rows_.erase(std::min_element(rows_.begin(), rows_.end(), [](const auto& a, const auto& b) {
      return a.second.last.at < b.second.last.at;
    }));
  }
  const auto [it, fresh] =
      rows_.try_emplace(url, Row{{rollout, now}, std::nullopt, std::nullopt, false});
  Row& row = it->second;
  if (!fresh && row.last.rollout != rollout) row.other = row.last;
  row.last = {rollout, now};
}

bool ServedLog::others_served(const std::string& url, const RolloutId& rollout, Time since) const {
  const std::lock_guard lock(mutex_);
  const auto it = rows_.find(url);
  if (it == rows_.end()) return false;
  const Row& row = it->second;
  if (row.last.rollout != rollout) return row.last.at >= since;
  return row.other && row.other->at >= since;
}

bool ServedLog::should_ask(const std::string& url, Time now) {
  const std::lock_guard lock(mutex_);
  const auto it = rows_.find(url);
  if (it == rows_.end() || it->second.answered) return false;
  if (it->second.asked && now - *it->second.asked < kAskAgain) return false;
  it->second.asked = now;
  return true;
}

void ServedLog::gate_answered(const std::string& url) {
  const std::lock_guard lock(mutex_);
  if (const auto it = rows_.find(url); it != rows_.end()) it->second.answered = true;
}

bool ServedLog::silence_tells(const std::string& url) const {
  const std::lock_guard lock(mutex_);
  const auto it = rows_.find(url);
  return it == rows_.end() || it->second.answered;
}

void OutageWatch::asked(uint64_t call, Time now) {
  if (!ended_) waiting_[call].since = now;
}

void OutageWatch::answered(uint64_t call) {
  if (ended_ || waiting_.erase(call) == 0) return;
  unanswered_.reset();
  failing_.reset();
}

void OutageWatch::failed(uint64_t call, Time now, std::string_view why) {
  if (ended_ || waiting_.erase(call) == 0) return;
  if (!failing_) failing_ = Outage{Outage::Kind::kUpstream, now, ""};
  failing_->why = why;
}

void OutageWatch::rejected(uint64_t call, Time now, std::string_view why) {
  const auto at = waiting_.find(call);
  if (ended_ || at == waiting_.end() || at->second.rejected) return;
  at->second.rejected = std::make_unique<Rejected>(Rejected{now, std::string(why)});
}

void OutageWatch::left(uint64_t call) {
  const auto at = waiting_.find(call);
  if (!ended_ && at != waiting_.end()) leave(at);
}

void OutageWatch::leave(const std::map<uint64_t, Waiting>::iterator& at) {
  Waiting left = std::move(at->second);
  waiting_.erase(at);
  if (!unanswered_) {
    unanswered_ = std::move(left);
    return;
  }
  unanswered_->since = std::min(unanswered_->since, left.since);
  auto& rejected = unanswered_->rejected;
  const bool earlier = left.rejected && (!rejected || left.rejected->since < rejected->since);
  if (earlier) rejected = std::move(left.rejected);
}

void OutageWatch::ended(Time now) {
  if (ended_) return;
  while (!waiting_.empty()) leave(waiting_.begin());
  ended_ = now;
}

std::optional<Outage> OutageWatch::upstream() const {
  std::optional<Outage> out = failing_;
  if (unanswered_) {
    if (!out) out = Outage{Outage::Kind::kUpstream, unanswered_->since, ""};
    out->since = std::min(out->since, unanswered_->since);
  }
  return out;
}

std::optional<Outage> OutageWatch::trainer(Time heard, Duration lease) const {
  if (!unanswered_ || !ended_) return std::nullopt;
  const auto& rejected = unanswered_->rejected;
  if (rejected && *ended_ - rejected->since >= lease) {
    return Outage{Outage::Kind::kRejected, rejected->since, rejected->why};
  }
  const Time silent = std::max(heard, unanswered_->since);
  if (silent >= *ended_ || *ended_ - silent < lease) return std::nullopt;
  return Outage{Outage::Kind::kNoTrainer, silent, ""};
}

Duration OutageWatch::waited() const {
  return unanswered_ && ended_ ? *ended_ - unanswered_->since : Duration();
}

std::string describe_doubt(const Outage& outage, const std::string& url, std::string_view shown) {
  return fmt::format("the upstream at {} {}, but {}: that counts as the agent's doing", url,
                     done_by(outage), shown);
}

std::string describe(const Outage& outage, const std::string& url, const std::string& probe,
                     Clock::time_point now, std::chrono::system_clock::time_point wall) {
  const auto at = std::chrono::system_clock::to_time_t(wall - (now - outage.since));
  const std::string since = fmt::format("from {:%T} UTC until the agent ended", fmt::gmtime(at));
  switch (outage.kind) {
    case Outage::Kind::kUpstream:
      return fmt::format(
          "the upstream at {} {} {}, and failed the gate's own request to {}/models too ({}): "
          "start it, give it more room, or name one that answers",
          url, done_by(outage), since, url, probe);
    case Outage::Kind::kNoTrainer:
      return fmt::format(
          "a call waited, and nothing was heard of a trainer {}: start the trainer, or let it "
          "renew while it is busy (POST /v1/renew), or raise --trainer-lease-s",
          since);
    case Outage::Kind::kRejected:
      break;
  }
  return fmt::format(
      "every reply of the trainer to a call was rejected {}, the first because of {}: mend what "
      "the trainer replies",
      since, outage.why);
}

}  // namespace sluice::gate
