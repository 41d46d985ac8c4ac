// What the tests of the dialects share. Included by tests only.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/json/value.h"
#include "sluice/llm/answer.h"
#include "sluice/llm/dialect.h"
#include "sluice/llm/history.h"

namespace sluice::llm::testing {

inline tl::expected<Peek, BadRequest> peek(const Codec& codec, const Bytes& body,
                                           const Target& target = {}) {
  json::Peeker peeker;
  return codec.peek(peeker, body, target);
}

// "param: message" of the refusal, "" if it is let in.
inline std::string refused(const Codec& codec, const Bytes& body, const Target& target = {}) {
  const auto result = peek(codec, body, target);
  return result ? "" : result.error().param + ": " + result.error().message;
}

// The body with the tools "lookup" and "write" put in; "nothing" if it has both, else what is
// wrong.
inline std::string with_tools(const Codec& codec, const Bytes& body) {
  const std::array tools{
      ToolDefinition{"lookup", "Looks \"it\" up.", R"({"type": "object", "x": 1.0})"},
      ToolDefinition{"write", "", R"({"type":"object"})"}};
  json::Peeker peeker;
  const auto with = codec.with_tools(peeker, body, tools);
  if (!with) return std::string(to_string(with.error().code));
  if (!*with) return "nothing";
  EXPECT_TRUE(json::parse((*with)->body)) << (*with)->body;
  // What is told of it is what stands there.
  EXPECT_NE((*with)->body.find((*with)->added.substr(1, (*with)->added.size() - 2)), Bytes::npos);
  return (*with)->body;
}

inline json::Value parsed(std::string_view text) {
  auto value = json::parse(text);
  EXPECT_TRUE(value) << text;
  return value.value_or(json::Value());
}

struct Event {
  std::string name;
  std::string data;
};

// The events of a stream that consists of nothing else.
inline std::vector<Event> events(std::string_view stream) {
  std::vector<Event> out;
  while (!stream.empty()) {
    Event& event = out.emplace_back();
    if (stream.starts_with("event: ")) {
      const size_t end = stream.find('\n');
      event.name = stream.substr(7, end - 7);
      stream.remove_prefix(end + 1);
    }
    EXPECT_TRUE(stream.starts_with("data: ")) << stream;
    const size_t end = stream.find("\n\n");
    EXPECT_NE(end, std::string_view::npos);
    if (end == std::string_view::npos) break;
    event.data = stream.substr(6, end - 6);
    EXPECT_EQ(event.data.find('\n'), std::string::npos);
    stream.remove_prefix(end + 2);
  }
  return out;
}

inline std::vector<std::string> names(const std::vector<Event>& events) {
  std::vector<std::string> out;
  for (const Event& event : events) out.push_back(event.name);
  return out;
}

inline Envelope test_envelope() {
  Envelope out;
  out.id = "0123";
  out.model = "m\"x";
  out.created = 1700000000;
  return out;
}

inline std::string_view text_at(const json::Value& value, std::string_view pointer) {
  boost::system::error_code error;
  const json::Value* found = value.find_pointer(pointer, error);
  if (found == nullptr || !found->is_string()) {
    ADD_FAILURE() << "no string at " << pointer;
    return {};
  }
  return found->get_string();
}

// Two calls in one answer, the second one's arguments malformed, with text and sealed reasoning.
inline Answer busy_answer() {
  Answer answer = text_answer("I will write.\n", Origin::kSampled);
  Choice& choice = answer.choices[0];
  choice.message.reasoning = "First a file.";
  choice.message.reasoning_seal = "c2VhbA==";
  choice.message.tool_calls = {{"call_1", "write", "{\"path\": \"a\\u00e9\",\n\"n\": 1.0}"},
                               {"call_2", "bash", "{broken"}};
  choice.finish = Finish::kToolCalls;
  answer.usage = Usage{1000, 50};
  return answer;
}

inline std::vector<std::string> tool_names(const Request& request) {
  std::vector<std::string> out;
  for (const ToolOffer& tool : request.tools) out.push_back(tool.name);
  return out;
}
// "name|description|parameters|kind|namespace|raw" of each.
inline std::vector<std::string> tools_of(const Codec& codec, const Bytes& body) {
  const auto request = codec.parse(body);
  EXPECT_TRUE(request) << (request ? "" : request.error().message);
  std::vector<std::string> out;
  if (!request) return out;
  for (const ToolOffer& tool : request->tools) {
    out.push_back(tool.name + "|" + tool.description + "|" + tool.parameters + "|" + tool.kind +
                  "|" + tool.space + "|" + tool.raw);
  }
  return out;
}

// The conversation in `body`, and where the answer to it will be echoed.
struct Conversation {
  Conversation(const Codec& codec, std::string_view text, const Target& target = {}) : body(text) {
    const auto result = llm::testing::peek(codec, body, target);
    EXPECT_TRUE(result) << (result ? "" : result.error().message);
    if (result) peek = *result;
  }
  Bytes body;
  Peek peek;
};

// Which choice of the answer to `earlier` the request `later` holds.
inline std::optional<size_t> echoed(const Codec& codec, const Answer& answer,
                                    std::string_view earlier, std::string_view later,
                                    const Target& target = {}) {
  const Conversation a(codec, earlier, target), b(codec, later, target);
  return echoed_choice(codec, mark_of(a.peek), answer, b.peek.conversation);
}

inline bool continues(const Codec& codec, std::string_view earlier, std::string_view later,
                      const Target& target = {}) {
  const Conversation a(codec, earlier, target), b(codec, later, target);
  return extends(codec, a.peek.conversation, b.peek.conversation);
}

inline int status_of(const Codec& codec, ErrorCode kind) {
  Problem problem;
  problem.kind = kind;
  return codec.error(problem).status;
}

inline Problem ending(std::string message) {
  Problem problem;
  problem.kind = ErrorCode::kExhausted;
  problem.message = std::move(message);
  problem.end_agent = true;
  return problem;
}

}  // namespace sluice::llm::testing
