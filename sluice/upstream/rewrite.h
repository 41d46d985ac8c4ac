// Rewriting: what a rollout asks of every call, whatever its agent asks for, put into the call's
// body on its way to a model endpoint. What it does not name stays byte for byte as it was.
// Plain functions; any thread (the peeker is one thread's).
#pragma once

#include <cstdint>
#include <optional>

#include "sluice/json/peek.h"
#include "sluice/llm/call.h"

namespace sluice::upstream {

enum class Thinking : uint8_t { kAsAsked, kOff };

struct Rewrite {
  // In the words of each dialect: chat_template_kwargs.enable_thinking (chat: vLLM, SGLang and the
  // services on them), reasoning.effort "none" (responses), thinking "disabled" (messages),
  // thinkingBudget 0 (gemini).
  Thinking thinking = Thinking::kAsAsked;
  // An agent's larger figure, or none, becomes this one.
  std::optional<int64_t> max_tokens_cap;
  // Asked for where the dialect has them; the messages dialect has none.
  std::optional<int64_t> top_logprobs;

  bool changes_nothing() const {
    return thinking == Thinking::kAsAsked && !max_tokens_cap && !top_logprobs;
  }
};

// `body` as it is to be sent. kInvalidArgument if it is malformed where it has to be changed.
Result<Bytes> rewritten(json::Peeker& peeker, llm::Dialect dialect, const Bytes& body,
                        const Rewrite& rewrite);

}  // namespace sluice::upstream
