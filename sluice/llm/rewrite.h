// Rewriting: what a rollout asks of every call, whatever its agent asks for, put into the call's
// body on its way to a model endpoint. What it does not name stays byte for byte as it was.
// Each dialect's words for it are in its codec (Codec::rewrite()).
//
// Plain functions; any thread (the peeker is one thread's).
#pragma once

#include <cstdint>
#include <deque>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/json/peek.h"
#include "sluice/json/splice.h"
#include "sluice/json/value.h"
#include "sluice/llm/call.h"

namespace sluice::llm {

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
Result<Bytes> rewritten(json::Peeker& peeker, Dialect dialect, const Bytes& body,
                        const Rewrite& rewrite);

// New values of fields at a body's top. What they are made from is looked up in the body first.
class Changes {
 public:
  // Both outlive it.
  Changes(json::Peeker& peeker, const Bytes& body) : peeker_(peeker), body_(body) {}

  Result<std::optional<json::Raw>> find(std::string_view name);
  // The object under `name`, or an empty one.
  Result<json::Object> object(std::string_view name);

  void set(std::string_view name, std::string json);
  void set(std::string_view name, const json::Object& object);
  // The cap under whichever of the names the agent uses, else under the first.
  Result<void> cap(std::initializer_list<std::string_view> names, std::optional<int64_t> most);

  Result<Bytes> apply();

 private:
  json::Peeker& peeker_;
  const Bytes& body_;
  std::deque<std::string> values_;  // does not move what edits point at
  std::vector<json::Edit> edits_;
};

}  // namespace sluice::llm
