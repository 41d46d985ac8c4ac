// The gemini dialect: Google's Generative Language API, as Gemini CLI and others speak it.
// docs/dialects.md says what is read, what is sent, and what is not supported.
#pragma once

#include "sluice/llm/dialect.h"
#include "sluice/llm/gemini_url.h"

namespace sluice::llm {

// Field names are read in both of protobuf's spellings, systemInstruction and system_instruction.
// The model, and whether to stream, are in the URL.
//
// Ids of function calls are sent, but agents need not echo them: in canonical form, calls that came
// without one are "call_1", "call_2", ... by their place in the conversation.
const Codec& gemini_codec();

}  // namespace sluice::llm
