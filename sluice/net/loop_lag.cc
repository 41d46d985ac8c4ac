#include "sluice/net/loop_lag.h"

#include <algorithm>
#include <utility>

namespace sluice::net {
namespace {

constexpr std::chrono::milliseconds kEvery{250};
constexpr std::chrono::seconds kWindow{10};

}  // namespace

LoopLag::LoopLag(Shard& shard, Metrics::Gauge gauge)
    : gauge_(gauge), timer_(shard.wheel()), window_began_(Clock::now()) {
  gauge_.set(0);
  probe();
}

void LoopLag::probe() {
  due_ = Deadline::in(kEvery);
  timer_.arm(due_, [this] {
    note(Clock::now() - due_.at());
    probe();
  });
}

void LoopLag::note(Duration lag) {
  const auto now = Clock::now();
  if (now - window_began_ >= kWindow) {
    window_began_ = now;
    worst_before_ = std::exchange(worst_now_, Duration());
  }
  // A timer fires on the first tick after its time.
  worst_now_ = std::max(worst_now_, lag - Wheel::kTick);
  const Duration worst = std::max(worst_now_, worst_before_);
  gauge_.set(std::chrono::duration<double>(worst).count());
}

}  // namespace sluice::net
