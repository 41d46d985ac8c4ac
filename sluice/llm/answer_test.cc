#include "sluice/llm/answer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace sluice::llm {
namespace {

std::string refused(Answer answer, uint32_t n = 1) {
  const auto done = complete(answer, n);
  return done ? "" : done.error().message;
}

Result<Answer> read(const std::string& text) {
  SLUICE_TRY(const json::Raw raw, json::read_value(text));
  return answer_from_json(raw);
}

TEST(AnswerTest, CompleteSaysThatThereAreToolCalls) {
  Answer answer = text_answer("", Origin::kSampled);
  answer.choices[0].message.tool_calls = {{"", "write", "{}"}, {"mine", "bash", "{}"}};
  ASSERT_TRUE(complete(answer, 1));
  const auto& calls = answer.choices[0].message.tool_calls;
  EXPECT_EQ(calls[0].id, "");
  EXPECT_EQ(calls[1].id, "mine");
  EXPECT_EQ(answer.choices[0].finish, Finish::kToolCalls);
  EXPECT_FALSE(answer.usage);
}

TEST(AnswerTest, ACutAnswerWithToolCallsStaysCut) {
  Answer answer = text_answer("", Origin::kSampled);
  answer.choices[0].message.tool_calls = {{"a", "write", "{"}};
  answer.choices[0].finish = Finish::kLength;
  ASSERT_TRUE(complete(answer, 1));
  EXPECT_EQ(answer.choices[0].finish, Finish::kLength);
}

// OpenCode asks again, at once and for ever, for tool calls that are promised and do not come.
TEST(AnswerTest, ToolCallsThatAreNotThereAreNotPromised) {
  Answer answer = text_answer("I will look.", Origin::kSampled);
  answer.choices[0].finish = Finish::kToolCalls;
  ASSERT_TRUE(complete(answer, 1));
  EXPECT_EQ(answer.choices[0].finish, Finish::kStop);
  for (const Finish finish : {Finish::kLength, Finish::kContentFilter}) {
    answer.choices[0].finish = finish;
    ASSERT_TRUE(complete(answer, 1));
    EXPECT_EQ(answer.choices[0].finish, finish);
  }
}

TEST(AnswerTest, UsageComesFromTokenIdsWhenAllAreKnown) {
  Answer answer = text_answer("x", Origin::kSampled);
  answer.prompt_ids = {1, 2, 3};
  ASSERT_TRUE(complete(answer, 1));
  EXPECT_FALSE(answer.usage);
  answer.choices[0].ids = {4, 5};
  ASSERT_TRUE(complete(answer, 1));
  EXPECT_EQ(answer.usage, (Usage{3, 2}));
}

TEST(AnswerTest, RefusesAnAnswerThatDoesNotFit) {
  EXPECT_EQ(refused(Answer()), "answer: it has no choice");
  Answer two = text_answer("x", Origin::kSampled);
  two.choices.resize(2);
  EXPECT_EQ(refused(two), "answer: it has 2 choices, the call asks for 1");
  EXPECT_EQ(refused(two, 2), "");
  Answer logprobs = text_answer("x", Origin::kSampled);
  logprobs.choices[0].ids = {1, 2};
  logprobs.choices[0].logprobs = {-0.5f};
  EXPECT_EQ(refused(logprobs),
            "answer: 2 token ids and 1 logprobs; there must be one for each id, or none");
  for (const float wrong : {0.5f, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    logprobs.choices[0].logprobs = {-0.5f, wrong};
    EXPECT_THAT(refused(logprobs), ::testing::HasSubstr("answer: the logprob of token 1 is "));
  }
  logprobs.choices[0].logprobs = {-0.5f, 1e-7f};
  EXPECT_TRUE(complete(logprobs, 1)) << "rounded";
  logprobs.choices[0].ids = {1, -2};
  EXPECT_EQ(refused(logprobs), "answer: a token id is negative");
  Answer figures = text_answer("x", Origin::kSampled);
  figures.prompt_ids = {1, -1};
  EXPECT_EQ(refused(figures), "answer: a token id of the prompt is negative");
  figures.prompt_ids.clear();
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  for (const Usage& wrong : {Usage{-1, 2}, Usage{2, -1}, Usage{kMost, kMost}}) {
    figures.usage = wrong;
    EXPECT_THAT(refused(figures), ::testing::HasSubstr("cannot be"));
  }
  Answer versions = text_answer("x", Origin::kSampled);
  versions.choices[0].versions = {{5, "b"}, {0, "a"}};
  EXPECT_NE(refused(versions), "");
}

TEST(AnswerTest, JsonReadsBackAsTheSameAnswer) {
  Answer answer = text_answer("line\n\"two\"", Origin::kEdited);
  answer.choices.resize(2);
  Choice& first = answer.choices[0];
  first.message.reasoning = "why";
  first.message.reasoning_seal = "c2VhbA==";
  first.message.tool_calls = {{"call_1", "write", "{broken"}};
  first.finish = Finish::kToolCalls;
  first.ids = {1, -1, 2147483647};
  first.logprobs = {-0.1f, -1e-20f, -3.4028235e38f};
  first.versions = {{0, "v1"}, {2, "v2"}};
  Choice& second = answer.choices[1];
  second.message.refusal = "no";
  second.finish = Finish::kContentFilter;
  answer.usage = Usage{7, 3};
  answer.prompt_ids = {9, 8};

  Bytes text;
  append_json(text, answer);
  const auto again = read(text);
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->origin, Origin::kEdited);
  ASSERT_EQ(again->choices.size(), 2u);
  EXPECT_EQ(again->choices[0].message.text, "line\n\"two\"");
  EXPECT_EQ(again->choices[0].message.tool_calls[0].arguments, "{broken");
  EXPECT_EQ(again->choices[0].ids, first.ids);
  EXPECT_EQ(again->choices[0].logprobs, first.logprobs);
  EXPECT_EQ(again->choices[0].versions[1].first_token, 2u);
  EXPECT_EQ(again->choices[0].versions[1].version, "v2");
  EXPECT_EQ(again->choices[1].message.refusal, "no");
  EXPECT_EQ(again->usage, answer.usage);
  EXPECT_EQ(again->prompt_ids, answer.prompt_ids);
  Bytes twice;
  append_json(twice, *again);
  EXPECT_EQ(twice, text);
}

TEST(AnswerTest, JsonKeepsTheKindAndNamespaceOfATool) {
  Answer answer = text_answer("", Origin::kSampled);
  answer.choices[0].message.tool_calls = {
      {"c1", "apply_patch", "*** Begin Patch", ToolCall::Kind::kCustom},
      {"c2", "mcp__env__answer", "{}", ToolCall::Kind::kFunction, "mcp__env"}};
  Bytes text;
  append_json(text, answer);
  const auto again = read(text);
  ASSERT_TRUE(again) << again.error().message;
  const auto& calls = again->choices[0].message.tool_calls;
  EXPECT_EQ(calls[0].kind, ToolCall::Kind::kCustom);
  EXPECT_EQ(calls[1].kind, ToolCall::Kind::kFunction);
  EXPECT_EQ(calls[1].space, "mcp__env");
  EXPECT_EQ(read(R"({"choices":[{"tool_calls":[{"name":"answer","namespace":"mcp__env"}]}]})")
                .error()
                .message,
            "answer: choices[0].tool_calls.namespace: the name must begin with it and \"__\"");
  EXPECT_FALSE(read(R"({"choices":[{"tool_calls":[{"name":"f","kind":"other"}]}]})"));
}

TEST(AnswerTest, CompleteKnowsHowManyChoicesTheCallAsksFor) {
  Call call;
  call.dialect = Dialect::kMessages;
  Answer answer = text_answer("", Origin::kSampled);
  ASSERT_TRUE(complete(answer, call));
  answer.choices.resize(2);
  EXPECT_EQ(complete(answer, call).error().message,
            "answer: it has 2 choices, the call asks for 1");
}

TEST(AnswerTest, JsonMistakesNameTheirPlace) {
  EXPECT_EQ(read(R"({"choices":[{"finish":"stop"},{"finish":"maybe"}]})").error().message,
            "answer: choices[1].finish: must be one of: stop, length, tool_calls, content_filter");
  EXPECT_EQ(read(R"({"choices":[{"ids":[1,2.5]}]})").error().message,
            "answer: choices[0].ids: must hold numbers that fit");
  EXPECT_EQ(read(R"({"choices":[{"text":1}]})").error().message,
            "answer: choices[0].text: must be a string");
  EXPECT_FALSE(read(R"({"choices":[{"ids":[99999999999]}]})"));
  EXPECT_FALSE(read(R"({"choices":{}})"));
  EXPECT_FALSE(read("[]"));
}

}  // namespace
}  // namespace sluice::llm
