// The one history matcher: is a request a continuation of an earlier call's answer? By position and
// tool-call ids, never by argument text or tool names: agents re-serialise arguments, repair them,
// and rename calls that they could not read (OpenCode to "invalid"); ids they echo unchanged.
//
// Plain functions; any thread.
#pragma once

#include <optional>

#include "sluice/llm/dialect.h"

namespace sluice::llm {

// Whether `echoed`, found in a later request, is what was `sampled`: the same tool-call ids in the
// same order; without tool calls the same text, white space apart. Where the echo has no ids, which
// Gemini's dialect leaves optional, the names of the tools count instead.
bool is_echo(const Message& sampled, const Message& echoed);

// An answer found again.
struct Echo {
  size_t choice = 0;
  // Its text, and the names and arguments of its calls, are the bytes that were sent.
  bool verbatim = false;
};
std::optional<Echo> find_echo(const Answer& answer, const Message& echoed);
// In a later `conversation` at `mark`, where the call's own conversation ended.
std::optional<Echo> find_echo(const Codec& codec, const HistoryMark& mark, const Answer& answer,
                              const json::Raw& conversation);
// Which of the answer's choices that is.
std::optional<size_t> echoed_choice(const Codec& codec, const HistoryMark& mark,
                                    const Answer& answer, const json::Raw& conversation);

// Whether `later` begins with all of `earlier`'s messages, byte for byte. Both are JSON arrays.
bool extends(const json::Raw& earlier, const json::Raw& later);
// The same message by message, by what they mean (Codec::canonical()). A string is one message.
bool extends(const Codec& codec, const json::Raw& earlier, const json::Raw& later);

}  // namespace sluice::llm
