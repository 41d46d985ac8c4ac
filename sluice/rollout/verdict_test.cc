#include "sluice/rollout/verdict.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace sluice::rollout {
namespace {

using agent::RewardFrom;
using ::testing::HasSubstr;

agent::CommandRow row(int status) {
  agent::CommandRow out;
  out.cmd = "check";
  out.output.exit.status = status;
  return out;
}

class VerdictTest : public ::testing::Test {
 protected:
  VerdictTest() {
    report_.agent.emplace();
    report_.verified = true;
    rows({row(0)});
    // Worse than any share, so that it shows what was unusable.
    how_.reward_min = -1;
  }

  void rows(std::vector<agent::CommandRow> rows) {
    how_.commands.assign(rows.size(), "check");
    report_.verify = std::move(rows);
  }
  Verdict verdict() const { return verdict_of(report_, how_); }
  void expect_unusable(std::string_view why) {
    const Verdict given = verdict();
    EXPECT_EQ(given.reward, -1.0);
    EXPECT_THAT(given.error, HasSubstr(std::string(why)));
    EXPECT_EQ(given.clamped, "");
  }
  void expect_reward(double reward) {
    const Verdict given = verdict();
    EXPECT_EQ(given.reward, reward);
    EXPECT_EQ(given.error, "");
  }

  agent::Report report_;
  agent::Verify how_;
};

TEST(RewardFileTest, HoldsOneFiniteDecimalNumber) {
  const std::pair<const char*, double> good[] = {
      {"1", 1},       {"0", 0},          {"-0.5", -0.5},   {" 0.25\n", 0.25}, {"\n0\n", 0},
      {"\t7\r\n", 7}, {"1e3\n", 1000},   {"2.5E-1", 0.25}, {".5", 0.5},       {"\v\f 3 \f", 3},
      {"-1e0", -1},   {"00.50\n\n", .5}, {"1.", 1}};
  for (const auto& [text, number] : good) EXPECT_EQ(parse_reward(text), number) << text;
  for (const char* bad : {"",
                          " \n",
                          "nan",
                          "-nan",
                          "inf",
                          "-inf",
                          "Infinity",
                          "1e400",
                          "-1e400",
                          "+0.25",
                          "0x10",
                          "1,0",
                          "0.5 or so",
                          "1 2",
                          "1\n0",
                          "{\"reward\": 1}",
                          "[1]",
                          "\"1\"",
                          "1;",
                          "--1",
                          "1-",
                          "1e",
                          "e1",
                          "-",
                          ".",
                          "1_000",
                          "\xef\xbb\xbf"
                          "1",
                          "1\xc2\xa0",
                          "½",
                          "true"}) {
    EXPECT_EQ(parse_reward(bad), std::nullopt) << bad;
  }
  EXPECT_EQ(parse_reward("1e-400"), 0);
  EXPECT_EQ(parse_reward("-1e-400"), 0);
  EXPECT_EQ(parse_reward(std::string_view("1\0", 2)), std::nullopt);
  EXPECT_EQ(parse_reward(std::string(4000, '9')), std::nullopt);
}

TEST_F(VerdictTest, IsTheShareOfVerifyCommandsThatSucceeded) {
  rows({row(0), row(1), row(0), row(0)});
  expect_reward(0.75);
}

TEST_F(VerdictTest, IsNoneWhenNothingWasToBeVerified) {
  rows({});
  EXPECT_EQ(verdict().reward, std::nullopt);
  report_.verified = false;
  EXPECT_EQ(verdict().reward, std::nullopt);
  // Nor where there was no agent.
  rows({row(0)});
  report_.agent.reset();
  EXPECT_EQ(verdict().reward, std::nullopt);
  EXPECT_EQ(verdict().error, "");
}

// An agent that could void its grade would do so when it fails.
TEST_F(VerdictTest, IsTheLeastWhereAnAgentsWorkCouldNotBeJudged) {
  report_.verified = false;
  expect_unusable("did not come to its end");
  report_.verified = true;
  report_.unjudged = "the work cannot be handed over: no space";
  report_.reward_file = "1";
  expect_unusable("no space");
}

TEST_F(VerdictTest, AFileInTheVerifiersDirectoryWins) {
  rows({row(1)});
  report_.reward_file = " 0.25\n";
  expect_reward(0.25);
  report_.verifier_reward = 0.5;
  expect_reward(0.5);
  report_.verifier_reward = std::numeric_limits<double>::quiet_NaN();
  expect_unusable("no finite number");
}

TEST_F(VerdictTest, AFileThatCannotBeUsedIsNeverAWayToTheExitCodes) {
  for (const char* broken : {"nan", "1e400", "{}", "+1",
                             "\xef\xbb\xbf"
                             "1"}) {
    report_.reward_file = broken;
    expect_unusable("reward.txt holds no finite number");
  }
  report_.reward_file = "\n";
  expect_unusable("reward.txt is empty");
  report_.reward_file.reset();
  report_.reward_file_error = "it is a directory, not a file";
  expect_unusable("reward.txt cannot be read: it is a directory");
}

TEST_F(VerdictTest, FileMeansThatThereMustBeOne) {
  how_.reward = RewardFrom::kFile;
  expect_unusable("verify left no reward.txt");
  report_.reward_file = "0.5";
  expect_reward(0.5);
  // By then nobody asks how the commands ended.
  report_.verify[0].output.exit.reason = sandbox::Exit::Reason::kTimedOut;
  expect_reward(0.5);
}

TEST_F(VerdictTest, CommandsMeansThatTheFileIsIgnored) {
  how_.reward = RewardFrom::kCommands;
  rows({row(0), row(1)});
  report_.reward_file = "1";
  expect_reward(0.5);
  report_.reward_file_error = "it is a directory";
  expect_reward(0.5);
  report_.verify[0].output.exit.reason = sandbox::Exit::Reason::kTimedOut;
  expect_reward(0);
  report_.verify[0].error = "could not be started: no shell";
  expect_unusable("no shell");
}

// With "auto" a command that was ended leaves open which number there would have been.
TEST_F(VerdictTest, ACommandThatWasKilledLeavesNoVerdict) {
  for (const auto reason : {sandbox::Exit::Reason::kSignaled, sandbox::Exit::Reason::kTimedOut}) {
    rows({row(0), row(0)});
    report_.verify[1].output.exit.reason = reason;
    expect_unusable("verify command");
    report_.reward_file = "1";
    expect_unusable(reason == sandbox::Exit::Reason::kTimedOut ? "timed out" : "killed by signal");
    report_.reward_file.reset();
  }
  rows({row(0), row(0)});
  report_.verify[0].error = "could not be started: working directory: No such file";
  expect_unusable("could not be started");
}

TEST_F(VerdictTest, NumbersOutOfBoundsAreClampedAndTold) {
  how_.reward_min = 0;
  report_.reward_file = " -1.50\n";
  Verdict given = verdict();
  EXPECT_EQ(given.reward, 0.0);
  EXPECT_EQ(given.clamped, "-1.50");
  EXPECT_EQ(given.error, "");
  how_.reward_min = -1;
  how_.reward_max = 2;
  EXPECT_EQ(verdict().reward, -1.0);
  report_.reward_file = "2.01";
  given = verdict();
  EXPECT_EQ(given.reward, 2.0);
  EXPECT_EQ(given.clamped, "2.01");
  report_.reward_file = "2";
  EXPECT_EQ(verdict().clamped, "");
  // An embedding verifier is its program's own affair.
  report_.verifier_reward = 7;
  EXPECT_EQ(verdict().reward, 7.0);
}

}  // namespace
}  // namespace sluice::rollout
