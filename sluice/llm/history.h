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

// Which of the answer's choices the later `conversation` holds at `mark`, where the call's own
// conversation ended; nothing if it does not continue with any of them.
std::optional<size_t> echoed_choice(const Codec& codec, const HistoryMark& mark,
                                    const Answer& answer, const json::Raw& conversation);

// Whether `later` begins with all of `earlier`'s messages, byte for byte. Both are JSON arrays.
bool extends(const json::Raw& earlier, const json::Raw& later);
// The same message by message, by what they mean (Codec::canonical()). A string is one message.
bool extends(const Codec& codec, const json::Raw& earlier, const json::Raw& later);

}  // namespace sluice::llm
