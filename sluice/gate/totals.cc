#include "sluice/gate/totals.h"

#include <fmt/format.h>

#include <algorithm>

namespace sluice::gate {
namespace {

int64_t nanoseconds_now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
      .count();
}

}  // namespace

std::optional<std::string> GateTotals::over(const TotalBudget& budget) const {
  const auto used_up = [](const Figure& figure, uint64_t limit) {
    return limit > 0 && figure.load(std::memory_order_relaxed) >= limit;
  };
  if (used_up(calls, budget.calls)) {
    return fmt::format("the gate's budget of {} calls is used up", budget.calls);
  }
  if (used_up(tokens, budget.tokens)) {
    return fmt::format("the gate's budget of {} tokens is used up", budget.tokens);
  }
  if (budget.bytes > 0 && request_bytes.load(std::memory_order_relaxed) +
                                  answer_bytes.load(std::memory_order_relaxed) >=
                              budget.bytes) {
    return fmt::format("the gate's budget of {} bytes is used up", budget.bytes);
  }
  return std::nullopt;
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
  const auto value = [](const Figure& figure) {
    return figure.load(std::memory_order_relaxed);
  };
  Totals out;
  out.rollouts = value(rollouts);
  out.open_rollouts = value(open_rollouts);
  out.calls = value(calls);
  out.open_calls = value(open_calls);
  out.resends = value(resends);
  out.refused = value(refused);
  out.confirmed = value(confirmed);
  out.tokens = value(tokens);
  out.request_bytes = value(request_bytes);
  out.put_away_bytes = value(put_away_bytes);
  out.answer_bytes = value(answer_bytes);
  out.tool_calls = value(tool_calls);
  for (size_t i = 0; i < outcomes.size(); ++i) out.outcomes[i] = value(outcomes[i]);
  return out;
}

}  // namespace sluice::gate
