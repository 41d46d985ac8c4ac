// The messages dialect: Anthropic's Messages, as Claude Code and others speak it. docs/dialects.md
// says what is read, what is sent, and what is not supported.
#pragma once

#include "sluice/llm/dialect.h"

namespace sluice::llm {

// A user's message that holds results of tools is, in canonical form, one tool message for each of
// them and a user message for the rest.
//
// Agents move `cache_control` about between turns, and write one text block as a string:
// canonical() sees through both.
const Codec& messages_codec();

}  // namespace sluice::llm
