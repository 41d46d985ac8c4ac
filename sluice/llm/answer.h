// Answers: what a policy's answer needs before it is kept and delivered, and its canonical JSON (in
// traces and on the trainer's wire). Plain functions; any thread.
#pragma once

#include <string>
#include <string_view>

#include "sluice/json/raw.h"
#include "sluice/llm/call.h"

namespace sluice::llm {

// One choice with this text, finished.
Answer text_answer(std::string text, Origin origin);

// Fills in what may be left out: ids of tool calls, the finish reason kToolCalls where there are
// tool calls and it says kStop, and usage where the token ids tell it. kInvalidArgument if the
// answer does not fit a call that asks for `n` choices: none, too many, logprobs that are not one
// per id, versions out of order.
Result<void> complete(Answer& answer, uint32_t n);
// The same for the call that it answers, in the terms of its dialect (Codec::fit()).
Result<void> complete(Answer& answer, const Call& call);

// {"origin":"sampled","choices":[{"finish":"stop","text":"..."}],...}; what is empty is left out.
void append_json(Bytes& out, const Answer& answer);
Result<Answer> answer_from_json(const json::Raw& value);

}  // namespace sluice::llm
