#include "sluice/trace/prompts.h"

#include <gtest/gtest.h>

#include <string>

namespace sluice::trace {
namespace {

TurnIds turn(std::string call, std::vector<int32_t> prompt, std::vector<int32_t> completion) {
  return {{std::move(call)}, std::move(prompt), std::move(completion)};
}

// "CALL+IDS" of what the turn begins with, and the turn is kept.
std::string keep(Prompts& prompts, const TurnIds& turn) {
  const auto beginning = prompts.beginning_of(turn);
  prompts.kept(turn, beginning);
  return beginning ? beginning->call.value + "+" + std::to_string(beginning->ids) : "";
}

TEST(PromptsTest, ATurnBeginsWithTheLastOnesPromptAndCompletion) {
  Prompts prompts;
  EXPECT_EQ(keep(prompts, turn("a", {1, 2, 3}, {4, 5})), "");
  EXPECT_EQ(keep(prompts, turn("b", {1, 2, 3, 4, 5, 6}, {7})), "a+5");
  EXPECT_EQ(keep(prompts, turn("c", {1, 2, 3, 4, 5, 6, 7}, {})), "b+7");
  // A prompt that has nothing new, behind a turn without a completion.
  EXPECT_EQ(keep(prompts, turn("d", {1, 2, 3, 4, 5, 6, 7}, {8})), "c+7");
}

TEST(PromptsTest, WhatIsNotTheSameThroughoutIsNoBeginning) {
  const std::vector<int32_t> prompt{1, 2, 3, 4, 5, 6};
  for (size_t i = 0; i < prompt.size(); ++i) {
    Prompts prompts;
    keep(prompts, turn("a", {1, 2, 3, 4}, {5, 6}));
    auto other = prompt;
    other[i] += 10;
    EXPECT_EQ(keep(prompts, turn("b", other, {7})), "") << i;
  }
  // Shorter, and with the border elsewhere.
  Prompts prompts;
  keep(prompts, turn("a", {1, 2, 3, 4}, {5, 6}));
  EXPECT_EQ(keep(prompts, turn("b", {1, 2, 3, 4, 5}, {})), "");
  EXPECT_EQ(keep(prompts, turn("c", prompt, {})), "b+5") << "the newest that fits";
}

TEST(PromptsTest, OfSeveralChoicesNoneIsGoneOnFrom) {
  Prompts prompts;
  EXPECT_EQ(keep(prompts, turn("a", {1, 2}, {3})), "");
  TurnIds several{{"b"}, {1, 2, 3, 4}, std::nullopt};
  EXPECT_EQ(keep(prompts, several), "a+3");
  EXPECT_EQ(keep(prompts, turn("c", {1, 2, 3, 4, 5}, {6})), "a+3");
}

TEST(PromptsTest, ConversationsSideBySideEachHaveTheirOwn) {
  Prompts prompts;
  keep(prompts, turn("main", {1, 2}, {3}));
  const int others = static_cast<int>(Prompts::kMost) - 1;
  for (int i = 0; i < others; ++i) {
    EXPECT_EQ(keep(prompts, turn("sub" + std::to_string(i), {100 + i}, {9})), "");
  }
  // As many turns of one of them as there are: each takes the place of the one before.
  std::vector<int32_t> ids{100, 9};
  for (int i = 0; i < others; ++i) {
    EXPECT_NE(keep(prompts, turn("more" + std::to_string(i), ids, {8})), "");
    ids.push_back(8);
  }
  EXPECT_EQ(keep(prompts, turn("again", {1, 2, 3, 4}, {})), "main+3");
  // Another conversation more, and the oldest is forgotten: what goes on from it is kept whole.
  keep(prompts, turn("new", {200}, {}));
  EXPECT_EQ(keep(prompts, turn("late", {101, 9, 1}, {})), "");
}

}  // namespace
}  // namespace sluice::trace
