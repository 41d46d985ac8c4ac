// Blame: whose doing a rollout's end was. The one place that decides it; docs/results.md has it as
// a table. Plain functions; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "sluice/agent/driver.h"
#include "sluice/gate/gate.h"

namespace sluice::rollout {

// Why a rollout has no clean end, told apart so that a trainer never takes one for another.
enum class ErrorKind : uint8_t {
  kNone,
  kInfrastructure,   // ours: no sandbox, lost link, a bug. Says nothing about the policy
  kTask,             // the task is broken: its setup failed, a program is missing
  kAgent,            // the agent's program failed, or what it left could not be judged
  kGateNeverCalled,  // the agent ended without one LLM call: wrongly configured, or broken
  kBudget,           // the agent used up a limit of calls, tokens, bytes or time
  kTimedOut,         // the agent did not end in time
  kCancelled,        // somebody asked for the end
  kPolicy,           // whoever answers could not
};
std::string_view to_string(ErrorKind kind);

// Whether it is an attempt of the policy's, which has a reward if it was judged.
bool counts(ErrorKind kind);
// Whether it says nothing about agent and task, so that the attempt is made again.
bool is_failed_attempt(ErrorKind kind);

struct Blame {
  ErrorKind kind = ErrorKind::kNone;
  std::string error;  // in words; "" if there is none
};

// `outage` says why whoever answers could not, where that is shown outside of the rollout; `agent`
// is its title.
Blame blame(const agent::Report& report, const gate::Counters& calls, const std::string& outage,
            std::string_view agent);
// The same of a report's error alone.
ErrorKind kind_of(const agent::Report& report);

}  // namespace sluice::rollout
