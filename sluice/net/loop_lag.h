// LoopLag: how late a shard's loop runs what is due, as a gauge. Whatever blocks the loop for
// longer than it should (style: 1 ms) shows here.
//
// The gauge holds the worst lag of the last 10 to 20 seconds, so that a spike between two scrapes
// is seen. The wheel's own tick (5 ms) is not counted; a healthy loop shows 0. On the shard's
// thread.
#pragma once

#include "sluice/base/metrics.h"
#include "sluice/net/shard.h"
#include "sluice/net/wheel.h"

namespace sluice::net {

class LoopLag {
 public:
  LoopLag(Shard& shard, Metrics::Gauge gauge);
  LoopLag(const LoopLag&) = delete;
  LoopLag& operator=(const LoopLag&) = delete;

 private:
  void probe();
  void note(Duration lag);

  Metrics::Gauge gauge_;
  Wheel::Timer timer_;
  Deadline due_;
  Clock::time_point window_began_;
  Duration worst_now_{};     // of the window that runs
  Duration worst_before_{};  // of the one before
};

}  // namespace sluice::net
