#include "sluice/rollout/result.h"

#include <gtest/gtest.h>

#include "sluice/json/value.h"

namespace sluice::rollout {
namespace {

agent::CommandRow row(int status) {
  agent::CommandRow out;
  out.cmd = "check";
  out.output.exit.status = status;
  return out;
}

std::optional<double> reward(const agent::Report& report) {
  std::vector<std::string> warnings;
  return reward_of(report, warnings);
}

TEST(RewardTest, IsTheShareOfVerifyCommandsThatSucceeded) {
  agent::Report report;
  report.verified = true;
  report.verify = {row(0), row(1), row(0), row(0)};
  EXPECT_EQ(reward(report), 0.75);
}

TEST(RewardTest, IsNullWhenNothingWasVerified) {
  agent::Report report;
  EXPECT_EQ(reward(report), std::nullopt);
  report.verified = true;
  EXPECT_EQ(reward(report), std::nullopt);
  // Commands that ran, but not all of them: no verdict.
  report.verified = false;
  report.verify = {row(0)};
  EXPECT_EQ(reward(report), std::nullopt);
}

TEST(RewardTest, AFileInTheVerifiersDirectoryWins) {
  agent::Report report;
  report.verified = true;
  report.verify = {row(1)};
  report.reward_file = " 0.25\n";
  EXPECT_EQ(reward(report), 0.25);
  report.verifier_reward = 0.5;
  EXPECT_EQ(reward(report), 0.5);
}

TEST(RewardTest, ABrokenRewardFileIsSaidAndNotUsed) {
  for (const char* broken : {"nan", "inf", "-inf", "1,0", "0.5 or so", ""}) {
    agent::Report report;
    report.verified = true;
    report.verify = {row(0)};
    report.reward_file = broken;
    std::vector<std::string> warnings;
    EXPECT_EQ(reward_of(report, warnings), 1.0) << broken;
    ASSERT_EQ(warnings.size(), 1u) << broken;
    EXPECT_NE(warnings[0].find("reward.txt"), std::string::npos);
  }
}

TEST(ResultTest, RewardAndExitCodeAreNullUnlessTheyHappened) {
  RolloutResult result;
  auto parsed = json::parse(to_json(result));
  ASSERT_TRUE(parsed);
  EXPECT_TRUE(parsed->at("reward").is_null());
  EXPECT_TRUE(parsed->at("agent_exit_code").is_null());
  EXPECT_TRUE(parsed->at("error").is_null());
  EXPECT_TRUE(parsed->at("error_kind").is_null());

  result.report.agent.emplace();
  result.report.agent->exit = {sandbox::Exit::Reason::kSignaled, -1, 9, false, false};
  parsed = json::parse(to_json(result));
  EXPECT_TRUE(parsed->at("agent_exit_code").is_null());
  EXPECT_EQ(parsed->at("agent_ended").as_string(), "killed by signal 9");
}

// Real codes, output and times of each command, also of one that failed.
TEST(ResultTest, finding_27_finding_67_setup_results_are_real) {
  RolloutResult result;
  agent::CommandRow failed;
  failed.cmd = "exit 3";
  failed.output.exit.status = 3;
  failed.output.out = "out \xff";
  failed.output.err = "err";
  failed.output.wall = std::chrono::milliseconds(1500);
  result.report.setup = {row(0), failed};
  const auto parsed = json::parse(to_json(result));
  ASSERT_TRUE(parsed);
  const auto& rows = parsed->at("setup_results").as_array();
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1].at("exit_code").as_int64(), 3);
  EXPECT_EQ(rows[1].at("stdout").as_string(), "out \xEF\xBF\xBD");
  EXPECT_EQ(rows[1].at("stderr").as_string(), "err");
  EXPECT_EQ(rows[1].at("duration_s").as_double(), 1.5);
}

// What a command's row leaves out is the beginning of a long output, and the row says so.
TEST(ResultTest, finding_64_output_that_is_left_out_is_told) {
  for (const bool to_stdout : {true, false}) {
    RolloutResult result;
    agent::CommandRow talkative;
    (to_stdout ? talkative.output.out : talkative.output.err) = "first" + Bytes(16 * 1024, 'x');
    result.report.setup = {row(0), talkative};
    const auto parsed = json::parse(to_json(result));
    ASSERT_TRUE(parsed);
    const auto& rows = parsed->at("setup_results").as_array();
    EXPECT_FALSE(rows[0].as_object().contains("truncated"));
    EXPECT_TRUE(rows[1].at("truncated").as_bool());
    EXPECT_EQ(rows[1].at(to_stdout ? "stdout" : "stderr").as_string(), Bytes(16 * 1024, 'x'));
  }
}

}  // namespace
}  // namespace sluice::rollout
