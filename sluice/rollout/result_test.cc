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

TEST(ResultTest, SaysWhereVerifyRanAndWhyItDidNot) {
  RolloutResult result;
  auto parsed = json::parse(to_json(result));
  EXPECT_FALSE(parsed->as_object().contains("reward_error"));
  EXPECT_FALSE(parsed->as_object().contains("verify_start_results"));

  result.reward_error = "too much";
  result.report.verified = true;
  result.report.verify_where = "fresh";
  result.report.start = {row(1)};
  result.report.verify = {row(0)};
  result.report.verify[0].error = "not run: too much";
  parsed = json::parse(to_json(result));
  EXPECT_EQ(parsed->at("reward_error").as_string(), "too much");
  EXPECT_EQ(parsed->at("verify_where").as_string(), "fresh");
  EXPECT_EQ(parsed->at("verify_start_results").as_array().at(0).at("exit_code").as_int64(), 1);
  const auto& ran = parsed->at("verify_results").as_array().at(0);
  EXPECT_TRUE(ran.at("exit_code").is_null());
  EXPECT_EQ(ran.at("ended").as_string(), "not run: too much");
}

TEST(ResultTest, AnUnusableVerdictSaysWhy) {
  RolloutResult result;
  auto parsed = json::parse(to_json(result));
  ASSERT_TRUE(parsed);
  for (const char* field : {"reward_error", "reward_clamped", "verify_where"}) {
    EXPECT_FALSE(parsed->as_object().contains(field)) << field;
  }
  result.reward = 0;
  result.reward_error = "reward.txt is empty\xff";
  result.reward_clamped = "-2";
  result.report.verified = true;
  agent::CommandRow never;
  never.cmd = "check";
  never.error = "could not be started: no shell";
  result.report.verify = {never};
  parsed = json::parse(to_json(result));
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->at("reward_error").as_string(), "reward.txt is empty\xEF\xBF\xBD");
  EXPECT_EQ(parsed->at("reward_clamped").as_string(), "-2");
  EXPECT_EQ(parsed->at("verify_where").as_string(), "same");
  const auto& row = parsed->at("verify_results").as_array()[0];
  EXPECT_TRUE(row.at("exit_code").is_null());
  EXPECT_EQ(row.at("ended").as_string(), "could not be started: no shell");
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
