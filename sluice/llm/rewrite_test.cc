#include "sluice/llm/rewrite.h"

#include <gtest/gtest.h>

namespace sluice::llm {
namespace {

std::string rewrite(Dialect dialect, const std::string& body, const Rewrite& rewrite) {
  json::Peeker peeker;
  auto out = rewritten(peeker, dialect, body, rewrite);
  return out ? std::move(*out) : "refused: " + out.error().message;
}

const Rewrite kNoThinking{Thinking::kOff, {}, {}};
const Rewrite kCap{Thinking::kAsAsked, 100, {}};
const Rewrite kLogprobs{Thinking::kAsAsked, {}, 5};

TEST(RewriteTest, WhatIsNotNamedStaysAsItCame) {
  const std::string body = "{ \"model\" : \"m\",\n\t\"odd\": 1.50 }";
  EXPECT_EQ(rewrite(Dialect::kChat, body, {}), body);
  EXPECT_EQ(rewrite(Dialect::kChat, body, kCap),
            "{ \"model\" : \"m\",\n\t\"odd\": 1.50 ,\"max_tokens\":100}");
}

// The original set these on a configuration that nobody read.
TEST(RewriteTest, finding_33_thinking_is_turned_off_in_every_dialect) {
  EXPECT_EQ(rewrite(Dialect::kChat, R"({"a":1})", kNoThinking),
            R"({"a":1,"chat_template_kwargs":{"enable_thinking":false}})");
  EXPECT_EQ(
      rewrite(Dialect::kChat, R"({"chat_template_kwargs":{"x":"y","enable_thinking":true},"a":1})",
              kNoThinking),
      R"({"chat_template_kwargs":{"x":"y","enable_thinking":false},"a":1})");
  EXPECT_EQ(rewrite(Dialect::kResponses, R"({"reasoning":{"effort":"high","summary":"auto"}})",
                    kNoThinking),
            R"({"reasoning":{"effort":"none","summary":"auto"}})");
  EXPECT_EQ(rewrite(Dialect::kMessages, R"({"thinking":{"type":"enabled","budget_tokens":9}})",
                    kNoThinking),
            R"({"thinking":{"type":"disabled"}})");
  EXPECT_EQ(rewrite(Dialect::kGemini, R"({"generationConfig":{"topK":3}})", kNoThinking),
            R"({"generationConfig":{"topK":3,"thinkingConfig":{"thinkingBudget":0}}})");
}

TEST(RewriteTest, finding_33_tokens_are_capped_in_every_dialect) {
  EXPECT_EQ(rewrite(Dialect::kChat, R"({"max_tokens":50})", kCap), R"({"max_tokens":50})");
  EXPECT_EQ(rewrite(Dialect::kChat, R"({"max_completion_tokens":5000})", kCap),
            R"({"max_completion_tokens":100})");
  EXPECT_EQ(rewrite(Dialect::kChat, R"({"max_tokens":null})", kCap), R"({"max_tokens":100})");
  EXPECT_EQ(rewrite(Dialect::kResponses, R"({"a":1})", kCap), R"({"a":1,"max_output_tokens":100})");
  EXPECT_EQ(rewrite(Dialect::kMessages, R"({"max_tokens":32000})", kCap), R"({"max_tokens":100})");
  EXPECT_EQ(rewrite(Dialect::kGemini, R"({"a":1})", kCap),
            R"({"a":1,"generationConfig":{"maxOutputTokens":100}})");
}

TEST(RewriteTest, finding_33_logprobs_are_asked_for_where_there_are_any) {
  EXPECT_EQ(rewrite(Dialect::kChat, R"({"top_logprobs":1})", kLogprobs),
            R"({"top_logprobs":5,"logprobs":true})");
  EXPECT_EQ(
      rewrite(Dialect::kResponses, R"({"include":["reasoning.encrypted_content"]})", kLogprobs),
      R"({"include":["reasoning.encrypted_content","message.output_text.logprobs"],)"
      R"("top_logprobs":5})");
  EXPECT_EQ(rewrite(Dialect::kMessages, R"({"a":1})", kLogprobs), R"({"a":1})");
  EXPECT_EQ(rewrite(Dialect::kGemini, R"({"a":1})", kLogprobs),
            R"({"a":1,"generationConfig":{"responseLogprobs":true,"logprobs":5}})");
}

TEST(RewriteTest, WhatCannotBeChangedIsRefused) {
  EXPECT_EQ(rewrite(Dialect::kChat, R"({"chat_template_kwargs":1})", kNoThinking),
            "refused: chat_template_kwargs: must be an object");
  EXPECT_NE(rewrite(Dialect::kChat, R"({"max_tokens":1,"max_tokens":2})", kCap).find("refused"),
            std::string::npos);
}

}  // namespace
}  // namespace sluice::llm
