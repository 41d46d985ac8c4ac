// Hostile chat bodies through everything that reads them: peek, system text, parse, history.
#include <cstdint>
#include <string>

#include "sluice/base/core/check.h"
#include "sluice/llm/answer.h"
#include "sluice/llm/chat.h"
#include "sluice/llm/history.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  const llm::Codec& codec = llm::chat_codec();
  const Bytes body(reinterpret_cast<const char*>(data), size);
  json::Peeker peeker;
  const auto peek = codec.peek(peeker, body, {});
  const auto request = codec.parse(body);
  if (!peek) {
    CHECK(!peek.error().message.empty());
    const auto reply = codec.error(llm::Problem::of(peek.error()));
    CHECK(reply.status == 400 && json::read_value(reply.body).has_value());
    return 0;
  }
  CHECK(peek->messages > 0 && peek->n > 0);
  codec.system_text(*peek);
  if (!request) return 0;
  CHECK(request->model == peek->model);
  CHECK(request->messages.size() == peek->messages);
  CHECK(llm::extends(peek->conversation, peek->conversation));

  // Whatever assistant turn stands in the conversation is found again by its position.
  for (size_t i = 0; i < request->messages.size(); ++i) {
    const llm::Message& message = request->messages[i];
    if (message.role != llm::Role::kAssistant) continue;
    llm::Answer answer;
    answer.choices.emplace_back().message = message;
    llm::HistoryMark mark;
    mark.messages = i;
    CHECK(llm::echoed_choice(codec, mark, answer, peek->conversation) == 0u);
    // And what we would answer with it is well-formed.
    CHECK(llm::complete(answer, 1).has_value());
    CHECK(json::read_value(codec.plain({"id", peek->model, 0, true}, answer)).has_value());
    Bytes text;
    llm::append_json(text, answer);
    CHECK(llm::answer_from_json(*json::read_value(text)).has_value());
  }
  return 0;
}
