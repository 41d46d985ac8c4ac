// Codec::note(): what passing answers say of themselves, in every dialect.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/llm/testing.h"

namespace sluice::llm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr Dialect kDialects[] = {Dialect::kChat, Dialect::kResponses, Dialect::kMessages,
                                 Dialect::kGemini};

Said said(Dialect dialect, std::initializer_list<std::string_view> events) {
  Said out;
  for (const std::string_view event : events) {
    const auto value = json::read_value(event);
    if (value) find_codec(dialect)->note(*value, out);
  }
  return out;
}

Answer answer_of(Finish finish) {
  Answer answer = text_answer("hello", Origin::kSampled);
  answer.choices[0].finish = finish;
  if (finish == Finish::kToolCalls) {
    answer.choices[0].message.tool_calls = {{"call_1", "write", "{\"path\":\"a\"}"}};
  }
  return answer;
}

TEST(NoteTest, hears_its_own_answers_as_they_were_meant) {
  for (const Dialect dialect : kDialects) {
    const Codec& codec = *find_codec(dialect);
    for (const Finish finish :
         {Finish::kStop, Finish::kLength, Finish::kToolCalls, Finish::kContentFilter}) {
      SCOPED_TRACE(std::string(to_string(dialect)) + " " + std::string(to_string(finish)));
      const Answer answer = answer_of(finish);
      Envelope envelope = testing::test_envelope();
      EXPECT_EQ(said(dialect, {codec.plain(envelope, answer)}).finish, to_string(finish));
      Said streamed;
      for (const auto& event : testing::events(codec.streamed(envelope, answer))) {
        const auto value = json::read_value(event.data);
        if (value) codec.note(*value, streamed);
      }
      EXPECT_EQ(streamed.finish, to_string(finish));
      EXPECT_THAT(streamed.tokens, IsEmpty());
      EXPECT_EQ(said(dialect, {codec.keep_alive(envelope)}).finish, "");
    }
  }
}

TEST(NoteTest, chats_tokens_come_event_by_event) {
  const Said heard = said(
      Dialect::kChat,
      {R"({"choices":[{"index":0,"delta":{"content":"he"},"finish_reason":null,"logprobs":{"content":
           [{"token":"he","logprob":-0.5,"bytes":[1],"top_logprobs":[{"token":"x","logprob":-3}]}]}}]})",
       R"({"choices":[{"index":1,"delta":{},"finish_reason":"length","logprobs":{"content":
           [{"token":"of another","logprob":-9}]}}]})",
       R"({"choices":[{"delta":{},"finish_reason":"stop","logprobs":{"content":
           [{"token":"\u00fc","logprob":0},{"token":"without"},{"logprob":-1}]}}]})",
       R"({"choices":[],"usage":{"completion_tokens":2}})"});
  EXPECT_EQ(heard.finish, "stop");
  EXPECT_THAT(heard.tokens, ElementsAre("he", "ü"));
  EXPECT_THAT(heard.logprobs, ElementsAre(-0.5f, 0.0f));
}

TEST(NoteTest, the_other_dialects_tokens) {
  const Said responses = said(Dialect::kResponses, {R"({"type":"response.completed","response":
      {"status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":"he",
       "logprobs":[{"token":"he","logprob":-0.5}]}]},{"type":"function_call","name":"x"}]}})"});
  EXPECT_EQ(responses.finish, "tool_calls");
  EXPECT_THAT(responses.tokens, ElementsAre("he"));
  const Said gemini = said(Dialect::kGemini, {R"([{"candidates":[{"content":{"parts":
      [{"text":"he"}]},"finishReason":"STOP","logprobsResult":{"chosenCandidates":
      [{"token":"he","tokenId":3,"logProbability":-0.5}]}}]}])"});
  EXPECT_EQ(gemini.finish, "stop");
  EXPECT_THAT(gemini.tokens, ElementsAre("he"));
  EXPECT_THAT(gemini.logprobs, ElementsAre(-0.5f));
}

TEST(NoteTest, what_cannot_be_read_says_nothing) {
  for (const Dialect dialect : kDialects) {
    const Said heard =
        said(dialect,
             {"null", "[]", "{}", "7", R"({"choices":7})", R"({"choices":[{"finish_reason":7}]})",
              R"({"candidates":[[]]})", R"({"response":[],"status":{}})", R"({"delta":"x"})",
              R"({"choices":[{"logprobs":{"content":[7,{"token":7,"logprob":"x"}]}}]})"});
    EXPECT_EQ(heard.finish, "") << to_string(dialect);
    EXPECT_THAT(heard.tokens, IsEmpty());
  }
}

}  // namespace
}  // namespace sluice::llm
