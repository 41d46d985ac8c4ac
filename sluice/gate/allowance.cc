#include "sluice/gate/allowance.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace sluice::gate {

using llm::Problem;

Allowance::Allowance(const Registration& registration, Core& core, Ledger& ledger)
    : registration_(registration),
      core_(core),
      ledger_(ledger),
      time_timer_(registration.shard->wheel()),
      tokens_(std::max(1.0, registration.budget.calls_per_second)) {}

void Allowance::admit(std::function<void(const Problem&)> time_is_up) {
  if (closed_ || agent_ != Agent::kNotYet) return;
  agent_ = Agent::kRuns;
  ledger_.watched("rollout_admitting");
  const Duration own = registration_.budget.time, total = core_.options.total.time;
  Deadline ends, of_gate;
  if (own > Duration::zero()) ends = Deadline::in(own);
  if (total > Duration::zero()) of_gate = core_.totals.time_ends(total);
  ends = ends.earlier(of_gate);
  if (ends.is_never()) return;
  const auto out_of_time = [this, gate = ends == of_gate, tell = std::move(time_is_up)] {
    out_of_time_ = gate ? "the gate's time is used up" : "the time of this rollout is used up";
    tell(exhausted(*out_of_time_));
  };
  if (ends.expired()) return out_of_time();
  time_timer_.arm(ends, out_of_time);
}

bool Allowance::stop_admitting() {
  if (closed_ || agent_ != Agent::kRuns) return false;
  agent_ = Agent::kEnded;
  time_timer_.disarm();
  return true;
}

bool Allowance::cancel() {
  if (closed_ || agent_ == Agent::kEnded) return false;
  return !std::exchange(cancelled_, true);
}

bool Allowance::close() {
  time_timer_.disarm();
  return !std::exchange(closed_, true);
}

Problem Allowance::come_again(std::string_view why) {
  return Problem::of(ErrorCode::kUnavailable, std::string(why));
}

Problem Allowance::was_cancelled() {
  return Problem::ending(ErrorCode::kCancelled, "this rollout was cancelled");
}

Allowance::Refused Allowance::refuse_all() const {
  if (cancelled_) return was_cancelled();
  if (!closed_ && agent_ == Agent::kRuns) return std::nullopt;
  return Problem::ending(ErrorCode::kFailedPrecondition,
                         "this rollout takes no calls now: its agent is not running");
}

Allowance::Refused Allowance::refuse_by_rate() {
  const double rate = registration_.budget.calls_per_second;
  if (rate > 0) {
    const auto now = Clock::now();
    const std::chrono::duration<double> since = now - filled_at_;
    filled_at_ = now;
    tokens_ = std::min(std::max(1.0, rate), tokens_ + since.count() * rate);
    if (tokens_ < 1) return exhausted(fmt::format("more than {} calls a second", rate));
    tokens_ -= 1;
  }
  const double total = core_.options.total.calls_per_second;
  if (total > 0 && !core_.totals.take(total)) return come_again();
  return std::nullopt;
}

Allowance::Refused Allowance::refuse_by_budget() {
  const Budget& budget = registration_.budget;
  const TotalBudget& total = core_.options.total;
  const Counters& used = ledger_.counters();
  if (out_of_time_) return exhausted(*out_of_time_);
  auto over = used_up("the", {{budget.calls, used.calls, "calls"},
                              {budget.tokens, used.tokens, "tokens"},
                              {budget.bytes, used.bytes, "bytes"}});
  if (over) return exhausted(std::move(*over));
  if (auto full = refuse_by_disk()) return full;
  if (budget.open_calls > 0 && used.open >= budget.open_calls) {
    return exhausted(
        fmt::format("{} calls are open at once, as many as are allowed", budget.open_calls));
  }
  over = core_.totals.over(total);
  if (over) return exhausted(std::move(*over));
  if (total.open_calls > 0 && core_.totals.open_calls.load() >= total.open_calls) {
    return come_again();
  }
  return std::nullopt;
}

Allowance::Refused Allowance::refuse_by_disk() {
  if (!registration_.disk) return std::nullopt;
  auto over = used_up("the", {{registration_.budget.host_disk, registration_.disk->bytes,
                               "bytes of this machine's disk"}});
  if (!over) return std::nullopt;
  return exhausted(std::move(*over));
}

Allowance::Refused Allowance::refuse_tool_call() {
  if (auto refused = refuse_all()) return refused;
  if (auto full = refuse_by_disk()) return full;
  if (out_of_time_) return exhausted(*out_of_time_);
  return refuse_by_rate();
}

Problem Allowance::exhausted(std::string reason) {
  ledger_.exhausted(reason);
  return Problem::ending(ErrorCode::kExhausted, std::move(reason));
}

}  // namespace sluice::gate
