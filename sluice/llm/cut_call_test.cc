#include "sluice/llm/cut_call.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/llm/answer.h"

namespace sluice::llm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::string_view kCut = R"({"command":"rm -rf /tmp/x)";

// An answer with a whole call and one of these arguments behind it, which has used `tokens`.
Answer cut_answer(std::string arguments, Finish finish, int64_t tokens = 7) {
  Answer answer = text_answer("I will.", Origin::kSampled);
  answer.choices[0].message.tool_calls = {{"a", "bash", R"({"command":"ls"})"},
                                          {"b", "bash", std::move(arguments)}};
  answer.choices[0].finish = finish;
  answer.usage = Usage{5, tokens};
  return answer;
}

void give_limit(Call& call, std::string_view body) {
  call.body = Body(std::make_shared<const Bytes>(body));
}

// The names of what is sent and of what is not.
std::vector<std::string> ids(const std::vector<ToolCall>& calls) {
  std::vector<std::string> out;
  for (const ToolCall& call : calls) out.push_back(call.id);
  return out;
}

TEST(CutCallTest, WhatEndsForItsLengthInsideACallGoesOutWithoutThatCall) {
  const Call call;
  // Also where not even the arguments had begun, and where free text was to come.
  for (const std::string_view arguments : {kCut, std::string_view(" "), std::string_view()}) {
    Answer answer = cut_answer(std::string(arguments), Finish::kLength);
    answer.choices[0].ids = {1, 2};
    withhold_cut_calls(answer, call);
    const Choice& choice = answer.choices[0];
    EXPECT_THAT(ids(choice.message.tool_calls), ElementsAre("a"));
    ASSERT_THAT(ids(choice.withheld), ElementsAre("b"));
    EXPECT_EQ(choice.withheld[0].arguments, arguments);
    EXPECT_EQ(choice.finish, Finish::kLength);
    // It was sampled, and so it stays.
    EXPECT_EQ(answer.origin, Origin::kSampled);
    EXPECT_THAT(choice.ids, ElementsAre(1, 2));
    EXPECT_EQ(choice.message.text, "I will.");
  }
  Answer patch = cut_answer("*** Begin Patch\n*** Add Fi", Finish::kLength);
  patch.choices[0].message.tool_calls[1].kind = ToolCall::Kind::kCustom;
  withhold_cut_calls(patch, call);
  EXPECT_THAT(ids(patch.choices[0].withheld), ElementsAre("b"));
}

// vLLM says that there are tool calls, whatever became of them.
TEST(CutCallTest, WhatUsedAllThatItsRequestAllowsWasCutWhateverItSays) {
  for (const auto& [dialect, body] : std::initializer_list<std::pair<Dialect, std::string_view>>{
           {Dialect::kChat, R"({"model":"m","messages":[{"role":"user"}],"max_tokens":7})"},
           {Dialect::kChat, R"({"messages":[{"role":"user"}],"max_completion_tokens":7})"},
           {Dialect::kResponses, R"({"model":"m","input":"x","max_output_tokens":7})"},
           {Dialect::kMessages, R"({"messages":[{"role":"user"}],"max_tokens":7})"},
           {Dialect::kGemini, R"({"contents":[{}],"generationConfig":{"maxOutputTokens":7}})"}}) {
    Call call;
    call.dialect = dialect;
    give_limit(call, body);
    Answer at = cut_answer(std::string(kCut), Finish::kToolCalls);
    withhold_cut_calls(at, call);
    EXPECT_THAT(ids(at.choices[0].withheld), ElementsAre("b")) << body;
    EXPECT_EQ(at.choices[0].finish, Finish::kLength);
    // By its tokens, where it has no usage.
    Answer counted = cut_answer(std::string(kCut), Finish::kToolCalls);
    counted.usage.reset();
    counted.choices[0].ids = {1, 2, 3, 4, 5, 6, 7};
    withhold_cut_calls(counted, call);
    EXPECT_THAT(ids(counted.choices[0].withheld), ElementsAre("b")) << body;
    // A model that writes such a thing with room left meant it: its agent tells it so.
    Answer below = cut_answer(std::string(kCut), Finish::kToolCalls, 6);
    withhold_cut_calls(below, call);
    EXPECT_THAT(below.choices[0].withheld, IsEmpty()) << body;
    EXPECT_EQ(below.choices[0].finish, Finish::kToolCalls);
  }
}

TEST(CutCallTest, WhatIsWholeIsSent) {
  Call call;
  give_limit(call, R"({"messages":[{"role":"user"}],"max_tokens":7})");
  for (const Finish finish : {Finish::kLength, Finish::kToolCalls}) {
    Answer whole = cut_answer(R"({"command":"pwd"} )", finish);
    withhold_cut_calls(whole, call);
    EXPECT_THAT(ids(whole.choices[0].message.tool_calls), ElementsAre("a", "b"));
    EXPECT_EQ(whole.choices[0].finish, finish);
    // One in the middle was not cut but written so.
    Answer odd = cut_answer(R"({"command":"pwd"})", finish);
    odd.choices[0].message.tool_calls[0].arguments = kCut;
    withhold_cut_calls(odd, call);
    EXPECT_THAT(odd.choices[0].withheld, IsEmpty());
  }
  Answer words = text_answer("half a sent", Origin::kSampled);
  words.choices[0].finish = Finish::kLength;
  withhold_cut_calls(words, call);
  EXPECT_EQ(words.choices[0].message.text, "half a sent");
}

TEST(CutCallTest, NothingIsKnownOfALimitWhereTheRequestHasNoneOrCannotBeRead) {
  for (const std::string_view body :
       {R"({"messages":[{"role":"user"}]})", R"({"messages":[{"role":"robot"}],"max_tokens":7})",
        R"({"messages":[{"role":"user"}],"max_tokens":"7"})", "{"}) {
    Call call;
    give_limit(call, body);
    Answer answer = cut_answer(std::string(kCut), Finish::kToolCalls);
    withhold_cut_calls(answer, call);
    EXPECT_THAT(answer.choices[0].withheld, IsEmpty()) << body;
  }
}

// Usage is of all choices together and says nothing of one.
TEST(CutCallTest, OfSeveralChoicesEachIsJudgedByItsOwn) {
  Call call;
  give_limit(call, R"({"messages":[{"role":"user"}],"max_tokens":7,"n":3})");
  Answer answer = cut_answer(std::string(kCut), Finish::kToolCalls, 100);
  answer.choices.push_back(answer.choices[0]);
  answer.choices.push_back(answer.choices[0]);
  answer.choices[1].ids = {1, 2, 3, 4, 5, 6, 7};
  answer.choices[2].finish = Finish::kLength;
  withhold_cut_calls(answer, call);
  EXPECT_THAT(answer.choices[0].withheld, IsEmpty());
  EXPECT_THAT(ids(answer.choices[1].withheld), ElementsAre("b"));
  EXPECT_THAT(ids(answer.choices[2].withheld), ElementsAre("b"));
}

TEST(CutCallTest, WhatIsWithheldReadsBack) {
  Answer answer = cut_answer(std::string(kCut), Finish::kLength);
  withhold_cut_calls(answer, Call());
  Bytes text;
  append_json(text, answer);
  const auto again = answer_from_json(*json::read_value(text), json::Unknown::kRefused);
  ASSERT_TRUE(again) << again.error().message;
  ASSERT_THAT(ids(again->choices[0].withheld), ElementsAre("b"));
  EXPECT_EQ(again->choices[0].withheld[0].arguments, kCut);
  EXPECT_THAT(ids(again->choices[0].message.tool_calls), ElementsAre("a"));
}

}  // namespace
}  // namespace sluice::llm
