#include "sluice/llm/completion.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/llm/answer.h"

namespace sluice::llm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Result<Answer> read(std::string_view text) {
  SLUICE_TRY(const json::Raw value, json::read_value(text));
  return answer_from_completion(value, Origin::kSampled);
}

TEST(CompletionTest, AsVllmGivesIt) {
  const auto answer = read(R"({"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m",
    "choices":[{"index":0,"message":{"role":"assistant","content":null,"refusal":null,
      "reasoning":"let me see",
      "tool_calls":[{"id":"call_1","type":"function",
                     "function":{"name":"bash","arguments":"{\"cmd\": \"ls\"}"}}]},
     "logprobs":{"content":[{"token":"<think>","logprob":-0.5,"bytes":[60],"top_logprobs":[]},
                            {"token":"x","logprob":-0.25,"bytes":null,"top_logprobs":[]}]},
     "finish_reason":"tool_calls","stop_reason":null,"token_ids":[151667,5],"routed_experts":null}],
    "usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2,"prompt_tokens_details":null},
    "prompt_logprobs":null,"prompt_token_ids":[1,2,3],"kv_transfer_params":null})");
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_EQ(answer->origin, Origin::kSampled);
  EXPECT_THAT(answer->prompt_ids, ElementsAre(1, 2, 3));
  EXPECT_EQ(answer->usage, (Usage{3, 2}));
  const Choice& choice = answer->choices.at(0);
  EXPECT_EQ(choice.finish, Finish::kToolCalls);
  EXPECT_EQ(choice.message.reasoning, "let me see");
  EXPECT_EQ(choice.message.tool_calls.at(0).arguments, R"({"cmd": "ls"})");
  EXPECT_THAT(choice.ids, ElementsAre(151667, 5));
  EXPECT_THAT(choice.logprobs, ElementsAre(-0.5f, -0.25f));
}

TEST(CompletionTest, IdsAreFoundWhereverServersPutThem) {
  // vLLM's return_tokens_as_token_ids, llama.cpp's ids, SGLang's triples and per-choice prompt.
  for (const char* choice :
       {R"("logprobs":{"content":[{"token":"token_id:7","logprob":-1},
                                  {"token":"token_id:8","logprob":-2}]})",
        R"("logprobs":{"content":[{"id":7,"token":"a","logprob":-1},
                                  {"id":8,"token":"b","logprob":-2}]})",
        R"("logprobs":{"content":[{"token_id":7,"logprob":-1},{"token_id":8,"logprob":-2}]})",
        R"("meta_info":{"output_token_logprobs":[[-1,7,null],[-2,8,"b"]]})",
        R"("logprobs":{"content":[{"token":"a","logprob":-1},{"token":"b","logprob":-2}]},
           "meta_info":{"output_token_logprobs":[[-1,7,null],[-2,8,null]]})"}) {
    const auto answer = read(R"({"choices":[{"message":{"content":"x"},"finish_reason":"stop",
                                "prompt_token_ids":[1],)" +
                             std::string(choice) + "}]}");
    ASSERT_TRUE(answer) << answer.error().message;
    EXPECT_THAT(answer->choices.at(0).ids, ElementsAre(7, 8)) << choice;
    EXPECT_THAT(answer->choices.at(0).logprobs, ElementsAre(-1, -2)) << choice;
    EXPECT_THAT(answer->prompt_ids, ElementsAre(1));
  }
  // Half of them known is none.
  const auto answer = read(R"({"choices":[{"message":{"content":"x"},
      "logprobs":{"content":[{"token":"token_id:7","logprob":-1},{"token":"b","logprob":-2}]}}]})");
  EXPECT_TRUE(answer->choices.at(0).ids.empty());
  // -9999 stands for a logprob that the server does not have: half of them is none, too.
  const auto missing = read(R"({"choices":[{"message":{"content":"x"},"token_ids":[7,8],
      "logprobs":{"content":[{"logprob":-1},{"logprob":-9999.0}]}}],
      "usage":{"prompt_tokens":null,"completion_tokens":2}})");
  ASSERT_TRUE(missing) << missing.error().message;
  EXPECT_THAT(missing->choices.at(0).ids, ElementsAre(7, 8));
  EXPECT_TRUE(missing->choices.at(0).logprobs.empty());
}

TEST(CompletionTest, ChoicesComeInTheOrderOfTheirIndex) {
  const auto answer = read(R"({"choices":[{"index":1,"message":{"content":"b"}},
      {"index":0,"message":{"content":[{"type":"text","text":"a"}]}}]})");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->choices.at(0).message.text, "a");
  EXPECT_EQ(answer->choices.at(1).message.text, "b");
  EXPECT_FALSE(answer->usage);
}

TEST(CompletionTest, ArgumentsMayBeAnObjectAndToolsCustom) {
  const auto answer = read(R"({"choices":[{"message":{"tool_calls":[
      {"id":"1","function":{"name":"f","arguments":{"a":[1, 2]}}},
      {"id":"2","type":"custom","custom":{"name":"apply_patch","input":"*** Begin"}}]}}]})");
  ASSERT_TRUE(answer) << answer.error().message;
  const auto& calls = answer->choices.at(0).message.tool_calls;
  EXPECT_EQ(calls.at(0).arguments, R"({"a":[1, 2]})");
  EXPECT_EQ(calls.at(1).kind, ToolCall::Kind::kCustom);
  EXPECT_EQ(calls.at(1).arguments, "*** Begin");
}

TEST(CompletionTest, TheOneCallOfOlderServersIsACall) {
  const auto answer = read(R"({"choices":[{"message":{"content":null,
      "function_call":{"name":"f","arguments":"{\"a\":1}"}},"finish_reason":"function_call"}]})");
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_EQ(answer->choices.at(0).finish, Finish::kToolCalls);
  const auto& calls = answer->choices.at(0).message.tool_calls;
  ASSERT_EQ(calls.size(), 1u);
  EXPECT_EQ(calls[0].id, "");
  EXPECT_EQ(calls[0].name, "f");
  EXPECT_EQ(calls[0].arguments, R"({"a":1})");
  // Newer servers name both, and say null to the older one.
  const auto none = read(R"({"choices":[{"message":{"content":"x","function_call":null}}]})");
  ASSERT_TRUE(none) << none.error().message;
  EXPECT_TRUE(none->choices.at(0).message.tool_calls.empty());
  const auto both = read(R"({"choices":[{"message":{
      "tool_calls":[{"id":"1","function":{"name":"f","arguments":"{}"}}],
      "function_call":{"name":"f","arguments":"{}"}}}]})");
  ASSERT_TRUE(both) << both.error().message;
  EXPECT_EQ(both->choices.at(0).message.tool_calls.size(), 1u);
  EXPECT_FALSE(read(R"({"choices":[{"message":{"function_call":"f"}}]})"));
}

TEST(CompletionTest, WhatIsNoCompletionIsRefusedWithTheReason) {
  const auto why = [](std::string_view text) {
    const auto answer = read(text);
    return answer ? std::string() : answer.error().message;
  };
  EXPECT_THAT(why("[]"), HasSubstr("object"));
  EXPECT_THAT(why("{}"), HasSubstr("completion.choices: is missing"));
  EXPECT_THAT(why(R"({"choices":[{"delta":{}}]})"), HasSubstr("not a stream's chunk"));
  EXPECT_THAT(why(R"({"choices":[{"message":{},"finish_reason":"abort"}]})"),
              HasSubstr("broke off"));
  EXPECT_THAT(why(R"({"choices":[{"message":{},"token_ids":["a"]}]})"),
              HasSubstr("token_ids: must hold numbers"));
  EXPECT_THAT(why(R"({"choices":[{"message":{},"logprobs":{"content":[{}]}}]})"),
              HasSubstr("logprob: is missing"));
  EXPECT_THAT(why(R"({"choices":[{"message":{"tool_calls":[{}]}}]})"),
              HasSubstr("function: is missing"));
  EXPECT_THAT(why(R"({"choices":[{"message":{},"meta_info":{"output_token_logprobs":[[1]]}}]})"),
              HasSubstr("[logprob, id, ...]"));
}

}  // namespace
}  // namespace sluice::llm
