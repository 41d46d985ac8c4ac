// Answers: what a policy's answer needs before it is kept and delivered, and its canonical JSON (in
// traces and on the trainer's wire). Plain functions; any thread.
#pragma once

#include <string>
#include <string_view>

#include "sluice/json/reader.h"
#include "sluice/llm/call.h"

namespace sluice::llm {

// One choice with this text, finished.
Answer text_answer(std::string text, Origin origin);

// Fills in usage where the token ids tell it. The finish reason kStop with tool calls becomes
// kToolCalls, and that without any kStop. Ids of tool calls stay as they are. kInvalidArgument if
// the answer does not fit a call that asks for `n` choices: none, too many, logprobs that are not
// one per id or are of no probability, versions out of order or beyond the ids.
Result<void> complete(Answer& answer, uint32_t n);
// The same for the call that it answers, in the terms of its dialect (Codec::fit()).
Result<void> complete(Answer& answer, const Call& call);

// A piece of an answer that is still being made: what comes next of its only choice. Its texts may
// begin and end in the middle of a UTF-16 pair (json::Halves::kKept).
struct Piece {
  std::string reasoning;
  std::string text;
};

// Adds a piece to the beginning of an answer. kInvalidArgument, and nothing is added, if there is
// reasoning behind text: no dialect can say that.
Result<void> append(Message& so_far, const Piece& piece);
// Whether the answer goes on from its beginning: one choice, whose reasoning and text begin so, and
// which adds nothing in front of what may have been sent (more reasoning once there was text, a
// refusal, a seal that reasoning was to carry). Else kInvalidArgument.
Result<void> continues(const Message& so_far, const Answer& answer);
// The beginning without a last character that is cut in two (UTF-8, or a half of a UTF-16 pair).
Message whole_characters(Message so_far);

// {"origin":"sampled","choices":[{"finish":"stop","text":"..."}],...}; what is empty is left out.
enum class PromptIds : uint8_t { kWritten, kLeftOut };
void append_json(Bytes& out, const Answer& answer, PromptIds prompt_ids = PromptIds::kWritten);
// As it stands there, and in the canonical form of a request.
void append_json(Bytes& out, const ToolCall& call);
Result<Answer> answer_from_json(const json::Raw& value,
                                json::Unknown unknown = json::Unknown::kPassedOver);
// What stands under "usage".
std::optional<Usage> usage_in(json::Reader& in);

}  // namespace sluice::llm
