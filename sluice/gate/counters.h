// Counters: the books of one rollout. Totals: those of all rollouts of a gate.
//
// Plain values; any thread.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "sluice/llm/call.h"

namespace sluice::gate {

// The books of one rollout. calls = open + the sum of outcomes.
struct Counters {
  uint64_t calls = 0;  // admitted, resends not counted
  uint64_t resends = 0;
  uint64_t turns = 0;     // delivered
  uint64_t refused = 0;   // before they were calls: by budget, admission or malformed body
  uint64_t rejected = 0;  // a trainer's replies to open calls, which did not fit
  uint64_t rewrites = 0;  // calls of the trajectory whose history was rewritten before them
  uint64_t open = 0;
  uint64_t tokens = 0;  // of answers that were received, prompts included, as far as usage told
  uint64_t bytes = 0;   // of requests and answers
  uint64_t tool_calls = 0;
  bool budget_exhausted = false;
  std::string budget_reason;            // which limit was the first to refuse a call, in words
  std::vector<std::string> rejections;  // why, of the first three
  bool cancelled = false;               // by the trainer: Trainer::cancel()
  std::string cancel_reason;            // as he gave it
  std::array<uint64_t, 6> outcomes{};   // of ended calls, by llm::Outcome

  uint64_t ended(llm::Outcome outcome) const { return outcomes[static_cast<size_t>(outcome)]; }
};

// Whether whoever answers could until the agent ended, in words for people.
struct Answering {
  std::string outage;  // why not, and what to do, if that is shown outside of the rollout; else ""
  std::string doubt;   // what looks like it, but counts as the agent's doing; else ""
};

// Of all rollouts of a gate, those that are closed included.
template <class Figure>
struct TotalsOf {
  Figure rollouts{};  // opened
  Figure open_rollouts{};
  Figure calls{};
  Figure open_calls{};
  Figure resends{};
  Figure refused{};   // before they were calls
  Figure rejected{};  // replies of trainers
  Figure confirmed{};
  Figure rewrites{};
  Figure tokens{};
  Figure request_bytes{};
  Figure put_away_bytes{};  // of calls' bodies, from memory
  Figure answer_bytes{};
  Figure tool_calls{};
  std::array<Figure, 6> outcomes{};  // by llm::Outcome
};
using Totals = TotalsOf<uint64_t>;

}  // namespace sluice::gate
