// The gemini dialect: Google's Generative Language API, as Gemini CLI and others speak it.
// docs/dialects.md says what is read, what is sent, and what is not supported.
#pragma once

#include <string_view>

#include "sluice/llm/dialect.h"

namespace sluice::llm {

// Field names are read in both of protobuf's spellings, systemInstruction and system_instruction.
// The model, and whether to stream, are in the URL.
//
// Ids of function calls are sent, but agents need not echo them: in canonical form, calls that came
// without one are "call_1", "call_2", ... by their place in the conversation.
const Codec& gemini_codec();

// What stands behind "/models/" in a URL.
struct GeminiUrl {
  enum class Verb : uint8_t { kNone, kGenerate, kCountTokens, kUnknown };
  Verb verb = Verb::kNone;  // kNone: the model itself is asked for
  Target target;
};
// `rest` is the path behind "/models/", percent-decoded: "gemini-3:streamGenerateContent"; `query`
// what follows '?'. A stream is of events if the query says alt=sse, else one array.
GeminiUrl read_gemini_url(std::string_view rest, std::string_view query);

}  // namespace sluice::llm
