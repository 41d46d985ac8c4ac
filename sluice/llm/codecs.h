// The codecs of the dialects, for who wants a certain one (find_codec() gives that of a call).
// docs/dialects.md says what each reads, what it sends, and what is not supported.
#pragma once

#include "sluice/llm/dialect.h"

namespace sluice::llm {

// OpenAI's Chat Completions, as command-line agents and inference servers speak it.
//
// Usage is reported when it is known and left out when it is not, in a stream also when the agent
// asked for it: clients cope with no usage chunk, and a false zero would be believed.
const Codec& chat_codec();

// OpenAI's Responses, as Codex and others speak it.
//
// Nothing is stored: a request that leans on an earlier response, on a conversation or on items
// kept by the vendor is refused.
//
// What the assistant says is a run of items (reasoning, a message, calls of tools); in canonical
// form it is one message. A tool inside a namespace is called "<namespace>__<name>" there; fit()
// finds out which of an answer's calls are of such tools, and which are of custom tools.
const Codec& responses_codec();

// Anthropic's Messages, as Claude Code and others speak it.
//
// A user's message that holds results of tools is, in canonical form, one tool message for each of
// them and a user message for the rest.
//
// Agents move `cache_control` about between turns, and write one text block as a string:
// canonical() sees through both.
const Codec& messages_codec();

// Google's Generative Language API, as Gemini CLI and others speak it.
//
// Field names are read in both of protobuf's spellings, systemInstruction and system_instruction.
// The model, and whether to stream, are in the URL.
//
// Ids of function calls are sent, but agents need not echo them: in canonical form, calls that came
// without one are "call_1", "call_2", ... by their place in the conversation.
const Codec& gemini_codec();

}  // namespace sluice::llm
