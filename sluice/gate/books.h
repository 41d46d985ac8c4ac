// Books: what is known of one rollout, for its trainers and for whoever asks: what it is for, how
// far it is, what it did, and, when whoever ran it has said so, what came of it. The gate itself
// knows of no reward.
//
// Plain values; any thread.
#pragma once

#include <memory>
#include <string>

#include "sluice/gate/counters.h"
#include "sluice/trace/recorder.h"

namespace sluice::gate {

// What a rollout is for, as whoever opens it says.
struct About {
  std::shared_ptr<const std::string> task;  // a JSON object; may be none
  std::string name;                         // of its order; "" if none
  std::string group;                        // which attempts at one task it is of; "" if none
};

struct Books {
  enum class State : uint8_t {
    kOpen,    // its agent runs, or is going to
    kEnded,   // its agent has ended, or is being made to
    kClosed,  // what came of it is known
  };
  RolloutId rollout;
  State state = State::kOpen;
  About about;
  Counters counters;
  trace::ResultSummary result;  // if it is closed
};
inline std::string_view to_string(Books::State state) {
  switch (state) {
    case Books::State::kOpen:
      return "open";
    case Books::State::kEnded:
      return "ended";
    default:
      return "closed";
  }
}

}  // namespace sluice::gate
