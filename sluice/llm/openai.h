// What OpenAI's two dialects share: the shapes of errors and of lists of models. Plain functions;
// any thread.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "sluice/json/raw.h"
#include "sluice/llm/dialect.h"

namespace sluice::llm::openai {

BadRequest missing(std::string_view param);
BadRequest invalid(std::string_view param, std::string_view wanted, const json::Raw& found);
// A body that is no JSON object.
BadRequest unreadable(const Error& error);

// The field `model`: present, a string, of a sensible length.
tl::expected<std::string, BadRequest> read_model(const std::optional<json::Peeked>& field);

int error_status(const Problem& problem);
// {"message":...,"type":...,"param":...,"code":...}
void append_error_object(Bytes& out, const Problem& problem);
ErrorReply error(const Problem& problem);
// What the agent gets to read: neutral where it is to end by it.
std::string told(const Problem& problem);

std::string models(std::span<const std::string> names);
std::string model(std::string_view name);

}  // namespace sluice::llm::openai
