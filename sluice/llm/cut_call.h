// Cut calls: what an answer has at its end when sampling ended in the middle of a tool call. Agents
// run what they get: Pi closes the JSON of half a call, and runs that.
//
// Plain functions; any thread.
#pragma once

#include "sluice/llm/call.h"

namespace sluice::llm {

// Moves the last tool call of a choice that was cut inside it to what is withheld; the choice then
// ends for its length. It was, if the call's arguments are no JSON and the choice says so, or has
// as many tokens as the request allows: vLLM says kToolCalls even then.
// REQUIRES: complete() was called.
void withhold_cut_calls(Answer& answer, const Call& call);

}  // namespace sluice::llm
