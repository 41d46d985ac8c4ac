// The chat dialect: OpenAI's Chat Completions, as CLI agents and inference servers speak it.
#pragma once

#include "sluice/llm/dialect.h"

namespace sluice::llm {

// Usage is reported when it is known and left out when it is not, in a stream also when the agent
// asked for it: clients cope with no usage chunk, and a false zero would be believed.
const Codec& chat_codec();

}  // namespace sluice::llm
