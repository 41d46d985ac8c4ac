// GateOptions: what holds for all rollouts of a gate.
//
// Plain values; any thread.
#pragma once

#include "sluice/base/log.h"
#include "sluice/gate/registration.h"

namespace sluice::gate {

// Limits of all rollouts of a gate together; 0 is no limit.
struct TotalBudget {
  uint64_t calls = 0;
  uint32_t open_calls = 0;      // over it an agent is told to come again: 503
  double calls_per_second = 0;  // as well
  uint64_t tokens = 0;
  uint64_t bytes = 0;
  Duration time{};  // from the first admit() of any rollout on; what is open then is refused too
};

// What an agent that asked for no stream gets while its call is parked.
enum class PlainKeepAlive : uint8_t {
  kNone,  // nothing: errors keep their status; whatever stands between must bear the silence
  // White space, which JSON allows in front of the answer. It spends the status: a later error is
  // an error body under 200.
  kWhiteSpace,
};

struct GateOptions {
  Duration keep_alive = std::chrono::seconds(10);  // between frames while a call is parked
  PlainKeepAlive plain_keep_alive = PlainKeepAlive::kNone;
  Duration delivery_timeout = std::chrono::seconds(30);  // for the peer to acknowledge an answer
  size_t ready_limit = 100'000;          // calls waiting for the trainer, over all rollouts
  size_t body_bytes = 32 * 1024 * 1024;  // of a request, inflated: 413 above
  // Of one rollout's requests while they arrive at its own endpoint: 503 above. Such connections
  // may be 1024.
  size_t bodies_bytes = 256 * 1024 * 1024;
  // The bodies of calls that have waited for longer (up to twice as long) are read from the
  // recorder's file when somebody looks at them, and are not in memory; zero: they stay there.
  Duration put_away_after = std::chrono::seconds(5);
  // A trainer of whom nothing is heard for so long, while a call waits for him, is taken for dead
  // when the agent ends (outage_watch.h).
  Duration trainer_lease = std::chrono::seconds(60);
  // So long behind the agent's end the gate's own requests to an upstream must all fail: an agent
  // may have used up the quota of a minute. Where nothing listens, one is enough.
  Duration upstream_patience = std::chrono::seconds(65);
  TotalBudget total;
  // kWaived: of every rollout, whatever its registration says.
  OriginRule::Tokens tokens = OriginRule::Tokens::kRequired;
  // Names that tools may have; empty: any that check_tool() lets through.
  std::set<std::string> tool_names;
  Logger log;
};

}  // namespace sluice::gate
