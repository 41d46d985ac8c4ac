// What the fuzzers of the dialects do with a hostile body: everything that reads it, and answers
// made of what was read. Included by fuzzers only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "sluice/base/core/check.h"
#include "sluice/llm/answer.h"
#include "sluice/llm/continuation.h"
#include "sluice/llm/dialect.h"
#include "sluice/llm/history.h"
#include "sluice/llm/own_ids.h"
#include "sluice/llm/wire.h"

namespace sluice::llm::fuzz {

// That every event, and every line of JSON outside of one, is well-formed.
inline void check_stream(const std::string& stream) {
  ByteView rest = stream;
  while (!rest.empty()) {
    const size_t end = rest.find('\n');
    CHECK(end != ByteView::npos);
    ByteView line = rest.substr(0, end);
    rest.remove_prefix(end + 1);
    if (line.empty() || line.starts_with("event: ") || line == "data: [DONE]") continue;
    if (line.starts_with("data: ")) line.remove_prefix(6);
    CHECK(json::read_value(line).has_value());
  }
}

// That a reply, found in a conversation, is its own echo and can be said again.
inline void check_echo(const Codec& codec, const Message& echo, const json::Raw& conversation,
                       const HistoryMark& mark, const Peek& peek) {
  CHECK(echo.role == Role::kAssistant);
  Answer answer;
  answer.choices.emplace_back().message = echo;
  CHECK(echoed_choice(codec, mark, answer, conversation) == 0u);
  CHECK(complete(answer, 1).has_value());
  Envelope envelope;
  envelope.id = "id";
  envelope.model = peek.model;
  CHECK(json::read_value(codec.plain(envelope, answer)).has_value());
  check_stream(codec.streamed(envelope, answer));
  Bytes text;
  append_json(text, answer);
  CHECK(answer_from_json(*json::read_value(text)).has_value());
}

// That a tool which is put in is there then, in a request that is let in as before.
inline void check_tools(const Codec& codec, const Target& target, json::Peeker& peeker,
                        const Bytes& body) {
  const std::array tools{ToolDefinition{"lookup", "\"", R"({"type":"object"})"}};
  const auto with = codec.with_tools(peeker, body, tools);
  if (!with || !*with) return;
  CHECK(json::read_value((*with)->added).has_value());
  CHECK(codec.peek(peeker, (*with)->body, target).has_value());
  const auto again = codec.with_tools(peeker, (*with)->body, tools);
  CHECK(again.has_value() && !*again);
}

// That a request in which tool calls have their own names again reads as before.
inline void check_own_ids(const Codec& codec, const Bytes& body) {
  OwnIds ids;
  for (const char* sent : {"call_1", "toolu_1", "c1", "x"}) ids.add(sent, "own \"id\"");
  const auto own = ids.put_back(codec, body);
  if (!own) return;
  CHECK(json::read_value(*own).has_value() == json::read_value(body).has_value());
  CHECK(codec.parse(*own).has_value() == codec.parse(body).has_value());
  CHECK(!ids.put_back(codec, *own));
}

inline void run(const Codec& codec, const Target& target, const uint8_t* data, size_t size) {
  const Bytes body(reinterpret_cast<const char*>(data), size);
  if (const auto value = json::read_value(body)) {
    Said said;
    codec.note(*value, said);
    CHECK(said.tokens.size() == said.logprobs.size());
  }
  check_own_ids(codec, body);
  json::Peeker peeker;
  json::Document document(body);
  document.check = json::Document::Check::kAll;
  const auto peek = codec.peek(peeker, document, target);
  const auto request = codec.parse(body);
  if (const auto counted = codec.count_tokens(peeker, body, target)) {
    CHECK(json::read_value(*counted).has_value());
  }
  if (!peek) {
    const Problem problem = Problem::of(peek.error());
    CHECK(!problem.message.empty());
    const auto reply = codec.error(problem);
    CHECK(reply.status == 400 && json::read_value(reply.body).has_value());
    for (const std::string& piece : codec.streamed_error({}, problem)) check_stream(piece);
    return;
  }
  CHECK(peek->messages > 0 && peek->n > 0);
  codec.system_text(*peek);
  check_tools(codec, target, peeker, body);
  const HistoryMark end = mark_of(*peek);
  CHECK(end.bytes <= peek->conversation.text.size());
  CHECK(extends(codec, peek->conversation, peek->conversation));
  auto elements = wire::Elements::of(peek->conversation);
  // Each is looked for from the beginning: not too many of them.
  for (size_t i = 0; i < 64; ++i) {
    HistoryMark mark;
    mark.messages = i;
    if (const auto echo = codec.echo_at(peek->conversation, mark)) {
      check_echo(codec, *echo, peek->conversation, mark, *peek);
    }
    const auto element = elements.next();
    if (!element) break;
    codec.canonical(*element);
  }
  // What is let in can be read: no trainer takes a call without its canonical form.
  CHECK(request.has_value());
  CHECK(continuation(codec, *request, nullptr, *request) == Continuation());
  CHECK(request->model.empty() || request->model == peek->model);
  for (const Message& message : request->messages) CHECK(!message.raw.empty());
}

}  // namespace sluice::llm::fuzz
