// The responses dialect: OpenAI's Responses, as Codex and others speak it. docs/dialects.md says
// what is read, what is sent, and what is not supported.
#pragma once

#include "sluice/llm/dialect.h"

namespace sluice::llm {

// Nothing is stored: a request that leans on an earlier response, on a conversation or on items
// kept by the vendor is refused.
//
// What the assistant says is a run of items (reasoning, a message, calls of tools); in canonical
// form it is one message. A tool inside a namespace is called "<namespace>__<name>" there; fit()
// finds out which of an answer's calls are of such tools, and which are of custom tools.
const Codec& responses_codec();

}  // namespace sluice::llm
