#include "sluice/gate/totals.h"

#include <fmt/format.h>

#include <algorithm>

namespace sluice::gate {
namespace {

uint64_t value(const GateTotals::Figure& figure) {
  return figure.load(std::memory_order_relaxed);
}

int64_t nanoseconds_now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
      .count();
}

}  // namespace

std::optional<std::string> used_up(std::string_view whose, std::initializer_list<Limit> limits) {
  for (const Limit& limit : limits) {
    if (limit.most == 0 || limit.used < limit.most) continue;
    return fmt::format("{} budget of {} {} is used up", whose, limit.most, limit.what);
  }
  return std::nullopt;
}

std::optional<std::string> GateTotals::over(const TotalBudget& budget) const {
  return used_up("the gate's",
                 {{budget.calls, value(calls), "calls"},
                  {budget.tokens, value(tokens), "tokens"},
                  {budget.bytes, value(request_bytes) + value(answer_bytes), "bytes"}});
}

bool GateTotals::take(double rate) {
  constexpr double kSecond = 1e9;
  const auto step = static_cast<int64_t>(kSecond / rate);
  const auto burst = static_cast<int64_t>(kSecond);
  const int64_t now = nanoseconds_now();
  int64_t due = due_.load(std::memory_order_relaxed);
  for (;;) {
    const int64_t next = std::max(due, now) + step;
    if (next - now > std::max(burst, step)) return false;
    if (due_.compare_exchange_weak(due, next, std::memory_order_relaxed)) return true;
  }
}

Deadline GateTotals::time_ends(Duration time) {
  int64_t began = 0;
  const int64_t now = nanoseconds_now();
  if (began_.compare_exchange_strong(began, now, std::memory_order_relaxed)) began = now;
  return Deadline(Clock::time_point(std::chrono::nanoseconds(began)) + time);
}

Totals GateTotals::read() const {
  Totals out;
  out.rollouts = value(rollouts);
  out.open_rollouts = value(open_rollouts);
  out.calls = value(calls);
  out.open_calls = value(open_calls);
  out.resends = value(resends);
  out.refused = value(refused);
  out.rejected = value(rejected);
  out.confirmed = value(confirmed);
  out.rewrites = value(rewrites);
  out.tokens = value(tokens);
  out.request_bytes = value(request_bytes);
  out.put_away_bytes = value(put_away_bytes);
  out.answer_bytes = value(answer_bytes);
  out.tool_calls = value(tool_calls);
  for (size_t i = 0; i < outcomes.size(); ++i) out.outcomes[i] = value(outcomes[i]);
  return out;
}

}  // namespace sluice::gate
