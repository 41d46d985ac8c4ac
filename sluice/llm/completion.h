// Completions: answers in the form in which inference servers give them, an OpenAI
// `chat.completion` object with what vLLM, SGLang and llama.cpp add to it (token ids, logprobs), so
// that a trainer may pass on what its server said. Plain functions; any thread.
#pragma once

#include "sluice/json/raw.h"
#include "sluice/llm/call.h"

namespace sluice::llm {

// Token ids from `choices[].token_ids`, else from logprobs whose tokens are "token_id:N" or have an
// id; the prompt's from `prompt_token_ids`, wherever it stands. What is missing stays empty:
// whether that will do is the registration's rule. kInvalidArgument for what is no completion, and
// for one whose server broke off (finish_reason "abort" or "error").
Result<Answer> answer_from_completion(const json::Raw& value, Origin origin);

}  // namespace sluice::llm
