// Answers that are delivered while they are made: in every dialect, pieces come to the same as the
// whole.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/llm/testing.h"

namespace sluice::llm {
namespace {

using testing::ending;
using testing::events;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::parsed;
using testing::test_envelope;

Answer answer_of(std::string reasoning, std::string text, bool tools) {
  Answer answer = text_answer(std::move(text), Origin::kSampled);
  answer.choices[0].message.reasoning = std::move(reasoning);
  if (tools) {
    answer.choices[0].message.tool_calls = {{"call_1", "write", "{\"path\":\"a\"}"},
                                            {"call_2", "bash", "{}"}};
    answer.choices[0].finish = Finish::kToolCalls;
  }
  return answer;
}

// What is said by one event: without its number, and without the seal that stands in an item before
// all that it seals is known.
json::Value without_number(json::Value event) {
  json::Object* object = event.if_object();
  if (object == nullptr) return event;
  object->erase("sequence_number");
  if (json::get_string(*object, "type") == "response.output_item.added") {
    object->at("item").as_object().erase("encrypted_content");
  }
  return event;
}

// The text that an event adds, as a place in it; nullptr if it adds none. (Chat: a delta of one
// member. Responses: "delta". Messages: delta.text, delta.thinking. Gemini: a part.)
json::Value* added(json::Value& event) {
  boost::system::error_code error;
  json::Value* finish = event.find_pointer("/choices/0/finish_reason", error);
  for (const char* pointer :
       {"/choices/0/delta/content", "/choices/0/delta/reasoning_content", "/delta/text",
        "/delta/thinking", "/delta", "/candidates/0/content/parts/0/text"}) {
    json::Value* found = event.find_pointer(pointer, error);
    if (found == nullptr || !found->is_string()) continue;
    const bool role = event.find_pointer("/choices/0/delta/role", error) != nullptr;
    if (!role && (finish == nullptr || finish->is_null())) return found;
  }
  return nullptr;
}

// The stream's events, with additions to the same thing joined, and keep-alive frames left out.
std::vector<std::string> told(std::string_view stream) {
  std::vector<std::string> out;
  json::Value last;
  std::string last_text;
  for (const auto& event : events(stream)) {
    if (event.data == "[DONE]") {
      out.push_back(event.data);
      last = json::Value();
      continue;
    }
    json::Value value = without_number(parsed(event.data));
    json::Value* text = added(value);
    if (text == nullptr) {
      out.push_back(json::serialize(value));
      last = json::Value();
      continue;
    }
    const std::string more(text->get_string());
    *text = "";
    if (value == last) {
      last_text += more;
      out.pop_back();
    } else {
      last = value;
      last_text = more;
    }
    out.push_back(json::serialize(value) + last_text);
  }
  return out;
}

// What Gemini's client has in the end: the parts, with neighbours of a kind joined.
std::vector<std::string> parts(std::string_view stream) {
  std::vector<std::string> out;
  std::string kind;
  for (const auto& event : events(stream)) {
    const json::Value value = parsed(event.data);
    for (const json::Value& part :
         value.at("candidates").at(0).at("content").at("parts").get_array()) {
      const json::Object& object = part.get_object();
      const auto* text = object.if_contains("text");
      const std::string now = text == nullptr              ? "call"
                              : object.contains("thought") ? "thought"
                                                           : "text";
      if (text != nullptr && text->get_string().empty()) continue;
      if (text == nullptr || now != kind) out.push_back(now + ":");
      out.back() += text == nullptr ? json::serialize(part) : std::string(text->get_string());
      kind = now;
    }
  }
  return out;
}

class PiecesTest : public ::testing::TestWithParam<Dialect> {
 protected:
  static const Codec& codec() { return *find_codec(GetParam()); }

  // The answer in pieces that end at these many bytes of reasoning, then of text.
  static std::string in_pieces(const Answer& answer, const std::vector<size_t>& reasoning,
                               const std::vector<size_t>& text, bool alive) {
    Envelope envelope = test_envelope();
    const Message& whole = answer.choices[0].message;
    Message so_far;
    std::string out;
    const auto send = [&] {
      if (alive && GetParam() == Dialect::kResponses) {
        out += codec().keep_alive(envelope);
        ++envelope.keep_alives;
      }
      out += codec().piece(envelope, whole_characters(so_far));
    };
    for (const size_t end : reasoning) {
      so_far.reasoning = whole.reasoning.substr(0, end);
      send();
    }
    if (!text.empty()) so_far.reasoning = whole.reasoning;
    for (const size_t end : text) {
      so_far.text = whole.text.substr(0, end);
      send();
    }
    EXPECT_TRUE(continues(so_far, answer));
    return out + codec().streamed(envelope, answer);
  }
};

INSTANTIATE_TEST_SUITE_P(All, PiecesTest,
                         ::testing::Values(Dialect::kChat, Dialect::kResponses, Dialect::kMessages,
                                           Dialect::kGemini),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST_P(PiecesTest, ComeToTheSameAsTheWholeWhereverTheyAreCut) {
  for (const bool tools : {false, true}) {
    for (const auto& [reasoning, text] : std::vector<std::pair<std::string, std::string>>{
             {"", "Grüße ☃ \U0001F600!"}, {"Hmm ☃", "Done."}, {"Hmm ☃", ""}, {"", ""}}) {
      const Answer answer = answer_of(reasoning, text, tools);
      const std::string whole = codec().streamed(test_envelope(), answer);
      const auto check = [&](const std::vector<size_t>& r, const std::vector<size_t>& t) {
        const std::string stream = in_pieces(answer, r, t, false);
        if (GetParam() == Dialect::kGemini) {
          EXPECT_EQ(parts(stream), parts(whole)) << stream;
        } else {
          EXPECT_EQ(told(stream), told(whole)) << stream;
        }
      };
      std::vector<size_t> all_reasoning, all_text;
      for (size_t i = 1; i <= reasoning.size(); ++i) {
        check({i}, {});
        all_reasoning.push_back(i);
      }
      for (size_t i = 1; i <= text.size(); ++i) {
        check({}, {i});
        check(all_reasoning, {i});
        all_text.push_back(i);
      }
      check(all_reasoning, all_text);
    }
  }
}

TEST_P(PiecesTest, NothingNewIsNothing) {
  Envelope envelope = test_envelope();
  EXPECT_EQ(codec().piece(envelope, Message()), "");
  Message so_far;
  so_far.text = "a";
  EXPECT_NE(codec().piece(envelope, so_far), "");
  EXPECT_EQ(codec().piece(envelope, so_far), "");
}

TEST_P(PiecesTest, AnErrorBehindPiecesBeginsNothingAnew) {
  Envelope envelope = test_envelope();
  Message so_far;
  so_far.text = "I will";
  std::string stream = codec().piece(envelope, so_far);
  for (const std::string& piece : codec().streamed_error(envelope, ending("enough")))
    stream += piece;
  EXPECT_THAT(stream, HasSubstr("enough"));
  for (const char* beginning : {"event: message_start", "event: response.created"}) {
    EXPECT_EQ(stream.find(beginning), stream.rfind(beginning));
  }
  EXPECT_THAT(stream, Not(HasSubstr("event: message_stop")));
}

TEST(PieceTest, ResponsesNumbersGoOnBehindPiecesAndKeepAlives) {
  const Codec& codec = *find_codec(Dialect::kResponses);
  const Answer answer = answer_of("Hm.", "Hello", true);
  for (const bool first : {false, true}) {
    Envelope envelope = test_envelope();
    Message so_far;
    std::string stream;
    const auto alive = [&] {
      stream += codec.keep_alive(envelope);
      ++envelope.keep_alives;
    };
    if (first) alive();
    so_far.reasoning = "Hm.";
    stream += codec.piece(envelope, so_far);
    alive();
    alive();
    so_far.text = "He";
    stream += codec.piece(envelope, so_far);
    alive();
    stream += codec.streamed(envelope, answer);
    int64_t number = 0;
    for (const auto& event : events(stream)) {
      EXPECT_EQ(parsed(event.data).at("sequence_number").as_int64(), number++) << event.name;
    }
  }
}

TEST(PieceTest, WhatCannotGoOnIsRefused) {
  Message so_far;
  ASSERT_TRUE(append(so_far, {"Hm", ""}));
  ASSERT_TRUE(append(so_far, {".", "He"}));
  EXPECT_EQ(append(so_far, {"more", ""}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_TRUE(continues(so_far, answer_of("Hm.", "Hello", true)));
  EXPECT_FALSE(continues(so_far, answer_of("Hm.", "hello", true)));
  EXPECT_FALSE(continues(so_far, answer_of("Hm. More.", "Hello", true)));
  EXPECT_FALSE(continues(so_far, answer_of("", "Hello", true)));
  Answer sealed = answer_of("Hm.", "Hello", false);
  sealed.choices[0].message.reasoning_seal = "seal";
  EXPECT_FALSE(continues(so_far, sealed));
  Answer two = answer_of("Hm.", "Hello", false);
  two.choices.push_back(two.choices[0]);
  EXPECT_FALSE(continues(so_far, two));
}

}  // namespace
}  // namespace sluice::llm
