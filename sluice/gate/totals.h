// GateTotals: what all rollouts of a gate have done and used together, for its limits and metrics.
// Any thread; the figures are exact, but of slightly different moments. Internal to the gate.
#pragma once

#include <atomic>

#include "sluice/gate/counters.h"
#include "sluice/gate/options.h"

namespace sluice::gate {

// A limit of a budget; 0 is none.
struct Limit {
  uint64_t most, used;
  std::string_view what;  // "calls"
};
// Which of them is used up, in words.
std::optional<std::string> used_up(std::string_view whose, std::initializer_list<Limit> limits);

class GateTotals : public TotalsOf<std::atomic<uint64_t>> {
 public:
  using Figure = std::atomic<uint64_t>;

  static void add(Figure& figure, uint64_t n = 1) {
    figure.fetch_add(n, std::memory_order_relaxed);
  }
  static void subtract(Figure& figure, uint64_t n = 1) {
    figure.fetch_sub(n, std::memory_order_relaxed);
  }

  // Which limit one more call would be over, in words.
  std::optional<std::string> over(const TotalBudget& budget) const;
  // One request at `rate` a second, with a burst of one second's worth; false if that is too many.
  bool take(double rate);
  // A rollout is admitted: when `time` from the first such moment on is over.
  Deadline time_ends(Duration time);

  Totals read() const;

 private:
  // When the next request would be due if all came evenly (nanoseconds of the monotonic clock).
  std::atomic<int64_t> due_{0};
  // When the first rollout was admitted, on the same clock; 0: none was.
  std::atomic<int64_t> began_{0};
};

}  // namespace sluice::gate
