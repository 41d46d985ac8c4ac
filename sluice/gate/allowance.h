// Allowance: what a rollout's agent may ask at the moment: only while it runs, and within the
// limits of its rollout and of the gate. What it does not allow it says why, for the agent; whoever
// tells the agent notes the refusal.
//
// On the rollout's shard. Internal to the gate.
#pragma once

#include "sluice/gate/ledger.h"
#include "sluice/net/wheel.h"

namespace sluice::gate {

class Allowance {
 public:
  Allowance(const Registration& registration, Core& core, Ledger& ledger);

  // The agent runs. `time_is_up` is called when its time is, possibly at once, with what it is to
  // be told. Nothing happens if it ran before.
  void admit(std::function<void(const llm::Problem&)> time_is_up);
  // False if it does not run.
  bool stop_admitting();
  // False if it was cancelled before, is closed, or its agent has ended.
  bool cancel();
  // No timer is armed from here on. False if it was closed before.
  bool close();
  bool closed() const { return closed_; }
  // Or is being made to.
  bool agent_ended() const { return cancelled_ || closed_ || agent_ == Agent::kEnded; }

  using Refused = std::optional<llm::Problem>;
  // Each says nothing if it allows what is asked.
  Refused refuse_all() const;
  // Counts one request, calls of tools included.
  Refused refuse_by_rate();
  // Of one more call.
  Refused refuse_by_budget();
  Refused refuse_tool_call();
  // The same as an overloaded gate says it.
  static llm::Problem come_again(std::string_view why = "too many calls wait for an answer");
  static llm::Problem was_cancelled();

 private:
  Refused refuse_by_disk();
  llm::Problem exhausted(std::string reason);

  const Registration& registration_;
  Core& core_;
  Ledger& ledger_;
  enum class Agent : uint8_t { kNotYet, kRuns, kEnded } agent_ = Agent::kNotYet;
  bool cancelled_ = false, closed_ = false;
  std::optional<std::string> out_of_time_;  // whose time it was
  net::Wheel::Timer time_timer_;            // Budget::time
  // The token bucket of calls per second.
  double tokens_;
  Clock::time_point filled_at_ = Clock::now();
};

}  // namespace sluice::gate
