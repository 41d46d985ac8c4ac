#include "sluice/gate/tool_ids.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/json/value.h"
#include "sluice/llm/answer.h"

namespace sluice::gate {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

std::unique_ptr<llm::Call> call(uint64_t ordinal, llm::Dialect dialect = llm::Dialect::kChat) {
  auto out = std::make_unique<llm::Call>();
  out->rollout = {"r1"};
  out->ordinal = ordinal;
  out->dialect = dialect;
  return out;
}

llm::Answer calling(const std::vector<std::string>& ids) {
  llm::Answer answer = llm::text_answer("", llm::Origin::kSampled);
  for (const std::string& id : ids) {
    answer.choices[0].message.tool_calls.push_back({id, "bash", "{}"});
  }
  return answer;
}

std::vector<std::string> ids(const llm::Answer& answer) {
  std::vector<std::string> out;
  for (const llm::Choice& choice : answer.choices) {
    for (const llm::ToolCall& each : choice.message.tool_calls) out.push_back(each.id);
  }
  return out;
}

auto is_made() {
  return MatchesRegex("call_[0-9a-f]{24}");
}

TEST(ToolIdsTest, NewOnesThatEveryClientTakesStay) {
  ToolIds tool_ids;
  const std::string longest(40, 'Z');
  llm::Answer answer = calling({"a", "toolu_-9", longest});
  EXPECT_EQ(tool_ids.name(answer, *call(1)), "");
  EXPECT_THAT(ids(answer), ElementsAre("a", "toolu_-9", longest));
  EXPECT_EQ(tool_ids.own(), nullptr);
}

TEST(ToolIdsTest, ARepeatIsRenamedInOneAnswerAndInLaterOnes) {
  ToolIds tool_ids;
  llm::Answer first = calling({"x", "x"});
  const auto told = json::parse(tool_ids.name(first, *call(1)));
  EXPECT_THAT(ids(first), ElementsAre("x", is_made()));
  ASSERT_TRUE(told);
  EXPECT_EQ(json::serialize(*told), R"({")" + ids(first)[1] + R"(":"x"})");
  llm::Answer second = calling({"x"});
  EXPECT_NE(tool_ids.name(second, *call(2)), "");
  EXPECT_THAT(ids(second), ElementsAre(AllOf(is_made(), Not(ids(first)[1]))));
  // Of several choices an agent may take any.
  llm::Answer choices = calling({"y"});
  choices.choices.push_back(choices.choices[0]);
  tool_ids.name(choices, *call(3));
  EXPECT_THAT(ids(choices), ElementsAre("y", is_made()));
}

TEST(ToolIdsTest, WhatClientsRefuseIsRenamed) {
  ToolIds tool_ids;
  llm::Answer answer =
      calling({"functions.bash:0", std::string(41, 'a'), "é", "a b", "a\"", std::string("\0", 1)});
  tool_ids.name(answer, *call(1));
  EXPECT_THAT(ids(answer), Each(is_made()));
}

TEST(ToolIdsTest, ABlankOneIsMadeAndNotNamedBack) {
  ToolIds tool_ids;
  for (const auto dialect : llm::kDialects) {
    llm::Answer answer = calling({"", ""});
    EXPECT_EQ(tool_ids.name(answer, *call(static_cast<uint64_t>(dialect) + 1, dialect)), "");
    EXPECT_THAT(ids(answer),
                Each(StartsWith(dialect == llm::Dialect::kMessages ? "toolu_" : "call_")));
    EXPECT_NE(ids(answer)[0], ids(answer)[1]);
  }
  EXPECT_EQ(tool_ids.own(), nullptr);
}

// So an answer that is made again has them again.
TEST(ToolIdsTest, WhatIsMadeComesFromRolloutOrdinalAndPlace) {
  const auto made = [](const llm::Call& call) {
    ToolIds tool_ids;
    llm::Answer answer = calling({"", ""});
    tool_ids.name(answer, call);
    return ids(answer);
  };
  EXPECT_EQ(made(*call(1)), made(*call(1)));
  EXPECT_NE(made(*call(1))[0], made(*call(2))[0]);
  const auto other = call(1);
  other->rollout = {"r2"};
  EXPECT_NE(made(*call(1))[0], made(*other)[0]);
}

TEST(ToolIdsTest, AGuessOfOneToComeIsNoWayToARepeat) {
  llm::Answer later = calling({""});
  ToolIds().name(later, *call(2));
  ToolIds tool_ids;
  llm::Answer guess = calling(ids(later));
  tool_ids.name(guess, *call(1));
  EXPECT_EQ(ids(guess), ids(later));
  llm::Answer now = calling({""});
  tool_ids.name(now, *call(2));
  EXPECT_THAT(ids(now), ElementsAre(AllOf(is_made(), Not(ids(later)[0]))));
}

// Beyond its bound there is no telling what is new: nothing is kept as it came, nothing named back.
TEST(ToolIdsTest, WhatIsRememberedIsBounded) {
  ToolIds tool_ids;
  std::vector<std::string> many;
  for (size_t i = 0; i < ToolIds::kMost; ++i) many.push_back("id" + std::to_string(i));
  llm::Answer full = calling(many);
  EXPECT_EQ(tool_ids.name(full, *call(1)), "");
  EXPECT_EQ(ids(full), many);
  llm::Answer more = calling({"new", "new"});
  EXPECT_NE(tool_ids.name(more, *call(2)), "");
  EXPECT_THAT(ids(more), Each(is_made()));
  EXPECT_NE(ids(more)[0], ids(more)[1]);
  ToolIds renaming;
  std::vector<std::string> same(ToolIds::kMost + 1, "a b");
  llm::Answer renamed = calling(same);
  const auto told = json::parse(renaming.name(renamed, *call(1)));
  ASSERT_TRUE(told);
  EXPECT_EQ(told->as_object().size(), ToolIds::kMost);
  llm::Answer long_one = calling({std::string(ToolIds::kMaxOwn + 1, 'a')});
  EXPECT_EQ(ToolIds().name(long_one, *call(1)), "");
  EXPECT_THAT(ids(long_one), Each(is_made()));
}

}  // namespace
}  // namespace sluice::gate
