// What OpenAI's two dialects share: fields of requests, the shapes of errors and of lists of
// models. Plain functions and a base without state; any thread.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/json/raw.h"
#include "sluice/llm/dialect.h"

namespace sluice::llm::openai {

BadRequest missing(std::string_view param);
BadRequest invalid(std::string_view param, std::string_view wanted, const json::Raw& found);
// A body that is no JSON object.
BadRequest unreadable(const Error& error);

// A peek into a request of either dialect asks for "model", "stream" and "tools" first.
enum CommonIndex : size_t { kModel, kStream, kTools, kFirstOwn };

using Field = std::optional<json::Peeked>;
// The field `model`: present, a string, of a sensible length.
Admitted<std::string> read_model(const Field& field);
// `stream` and `tools`, into `peek`; what is wrong with them, if something is.
std::optional<BadRequest> read_stream_and_tools(std::span<const Field> fields, Peek& peek);
// A list that is not empty, as the conversation; what is wrong with it, if something is.
std::optional<BadRequest> read_conversation(std::string_view name, const json::Peeked& field,
                                            Peek& peek);
// What is wrong with its elements: all are objects, and those whose `type` is one of a message have
// one of `roles`.
std::optional<BadRequest> judge_elements(std::string_view name, const json::Peeked& field,
                                         bool (*is_message)(std::string_view type),
                                         std::span<const std::pair<std::string_view, Role>> roles);

int error_status(const Problem& problem);
// {"message":...,"type":...,"param":...,"code":...}
void append_error_object(Bytes& out, const Problem& problem);

bool calls_tools(const Answer& answer);
// Writes into an answer's tool calls what their tools were declared to be.
void fit(Answer& answer, std::span<const ToolOffer> tools);

// What the two codecs do alike.
class OpenAiCodec : public Codec {
 public:
  ErrorReply error(const Problem& problem) const final;
  std::string models(std::span<const std::string> names) const final;

 protected:
  void describe(wire::Members& members, std::string_view name) const final;
};

}  // namespace sluice::llm::openai
