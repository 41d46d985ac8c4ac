// URLs of the gemini dialect, which name the model, what is asked of it, and how to stream. Plain
// functions; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "sluice/llm/dialect.h"

namespace sluice::llm {

// What a URL is for; nothing if the model itself is asked for. `rest` is the path behind
// "/models/", percent-decoded: "gemini-3:streamGenerateContent"; `query` what follows '?'. A stream
// is of events if the query says alt=sse, else one array.
std::optional<Endpoint> gemini_endpoint(std::string_view rest, std::string_view query);

// The path and query of a call, behind the version.
std::string gemini_path(const Call& call);

}  // namespace sluice::llm
