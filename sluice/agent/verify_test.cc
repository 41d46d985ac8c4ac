#include "sluice/agent/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "sluice/net/testing.h"
#include "sluice/sandbox/fake/fake.h"

namespace sluice::agent {
namespace {

using namespace std::chrono_literals;
using sandbox::fake::Answer;
using sandbox::fake::FakeBackend;
using sandbox::fake::FakeMachine;
using sandbox::fake::FakeProcess;
using ::testing::HasSubstr;

constexpr char kReward[] = "/home/user/logs/verifier/reward.txt";

class VerifyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = net::testing::run(shard_, backend_.create(&shard_, sandbox::Options()));
    ASSERT_TRUE(made);
    sandbox_ = std::move(*made);
    parts_.sandbox = sandbox_.get();
    parts_.work = &work_;
    parts_.report = &report_;
    parts_.go_on = [] {
      return Result<void>();
    };
  }

  Result<void> run() { return net::testing::run(shard_, verify(parts_)); }
  // A command that leaves a reward file like this.
  void leaves(const std::string& text, uint32_t uid = 1001, uint32_t mode = 0644) {
    work_.verify.commands = {"judge"};
    backend_.on("judge", [=](FakeProcess* self) { return leave(self, text, uid, mode); });
  }
  static net::awaitable<sandbox::Exit> leave(FakeProcess* self, std::string text, uint32_t uid,
                                             uint32_t mode) {
    self->machine().put(kReward, std::move(text), uid, mode);
    co_return sandbox::Exit();
  }

  static net::awaitable<sandbox::Exit> leave_directory(FakeProcess* self) {
    self->machine().put_directory(kReward, 1001);
    co_return sandbox::Exit();
  }
  static net::awaitable<sandbox::Exit> lose(FakeProcess* self) {
    self->machine().lose();
    co_return sandbox::Exit();
  }

  net::Shard shard_;
  FakeBackend backend_;
  std::unique_ptr<sandbox::Sandbox> sandbox_;
  Work work_;
  Report report_;
  VerifyParts parts_;
};

TEST_F(VerifyTest, CommandsRunInTheVerifiersPlace) {
  work_.verify.commands = {"one", "two"};
  work_.verify.timeout = 7s;
  Answer failed;
  failed.status = 3;
  backend_.on("one", failed);
  ASSERT_TRUE(run());
  ASSERT_EQ(report_.verify.size(), 2u);
  EXPECT_FALSE(report_.verify[0].ok());
  EXPECT_EQ(report_.verify[0].ended(), "exit code 3");
  EXPECT_TRUE(report_.verify[1].ok());
  EXPECT_FALSE(report_.reward_file);
  EXPECT_EQ(report_.reward_file_error, "");
  for (const sandbox::Command& command : backend_.last().history()) {
    EXPECT_EQ(command.argv[0], "/bin/bash");
    EXPECT_EQ(command.user, sandbox::kVerifyUser);
    EXPECT_EQ(command.image_path, sandbox::Command::ImagePath::kLeftOut);
    std::map<std::string, std::string> env(command.env.begin(), command.env.end());
    EXPECT_EQ(env.size(), command.env.size()) << "each once";
    EXPECT_EQ(env["HOME"], sandbox::kVerifierDir);
    EXPECT_EQ(env["TMPDIR"], "/.verifier/tmp");
    // git runs nothing that a repository names.
    const int count = std::stoi(env["GIT_CONFIG_COUNT"]);
    std::map<std::string, std::string> git;
    for (int i = 0; i < count; ++i) {
      git[env["GIT_CONFIG_KEY_" + std::to_string(i)]] =
          env["GIT_CONFIG_VALUE_" + std::to_string(i)];
    }
    EXPECT_EQ(git.size(), static_cast<size_t>(count));
    EXPECT_EQ(git["core.fsmonitor"], "false");
    EXPECT_EQ(git["core.hooksPath"], "/dev/null");
    EXPECT_EQ(git["safe.directory"], "*");
  }
}

TEST_F(VerifyTest, ARewardFileIsRead) {
  leaves("0.25\n");
  ASSERT_TRUE(run());
  EXPECT_EQ(report_.reward_file, "0.25\n");
}

TEST_F(VerifyTest, ARewardFileThatCannotBeReadIsNoError) {
  leaves(std::string(5000, '1'));
  ASSERT_TRUE(run());
  EXPECT_THAT(report_.reward_file_error, HasSubstr("more than 4096 bytes"));
  leaves("1", 0, 0600);
  ASSERT_TRUE(run());
  EXPECT_THAT(report_.reward_file_error, HasSubstr("Permission denied"));
  backend_.on("judge", leave_directory);
  ASSERT_TRUE(run());
  EXPECT_THAT(report_.reward_file_error, HasSubstr("is a directory"));
  EXPECT_FALSE(report_.reward_file);
}

TEST_F(VerifyTest, WhatCannotBeStartedStandsInItsRow) {
  work_.verify.commands = {"one", "two"};
  work_.workdir = "/home/user/workdir/file/below";
  backend_.last().put("/home/user/workdir/file", "x");
  ASSERT_TRUE(run());
  ASSERT_EQ(report_.verify.size(), 2u);
  for (const CommandRow& row : report_.verify) {
    EXPECT_FALSE(row.ok());
    EXPECT_THAT(row.ended(), HasSubstr("not run: the work cannot be handed over"));
  }
}

TEST_F(VerifyTest, OnlyTheEndOfTheSandboxIsAnError) {
  work_.verify.commands = {"last"};
  backend_.on("last", lose);
  const auto lost = run();
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().code, ErrorCode::kClosed);
  EXPECT_TRUE(is_end(lost.error()));
  EXPECT_FALSE(is_end(Error(ErrorCode::kNotFound, "")));
  EXPECT_FALSE(is_end(Error(ErrorCode::kPermissionDenied, "")));
  EXPECT_FALSE(is_end(Error(ErrorCode::kExhausted, "")));
}

TEST_F(VerifyTest, WhoEndsTheRolloutEndsItBetweenCommands) {
  work_.verify.commands = {"one", "two"};
  parts_.go_on = [] {
    return Result<void>(Error(ErrorCode::kCancelled, "enough"));
  };
  const auto ended = run();
  ASSERT_FALSE(ended);
  EXPECT_EQ(ended.error().message, "enough");
  EXPECT_EQ(report_.verify.size(), 1u);
}

TEST_F(VerifyTest, MuchOutputIsKeptWholeAndThenItsEnd) {
  work_.verify.commands = {"much", "more"};
  Answer much;
  much.out = Bytes(kWholeOutput / 2, 'm') + "end";
  backend_.on("much", much);
  much.out = Bytes(kWholeOutput, 'm') + "end";
  backend_.on("more", much);
  OutputPlace place;
  place.files = std::make_shared<net::BlockingPool>(1);
  parts_.outputs = &place;
  ASSERT_TRUE(run());
  const CommandRow& first = report_.verify[0];
  const CommandRow& second = report_.verify[1];
  EXPECT_EQ(first.whole.out->size(), kWholeOutput / 2 + 3);
  EXPECT_EQ(first.whole.err, nullptr);
  EXPECT_FALSE(first.output.exit.truncated);
  EXPECT_EQ(second.whole.out->size(), kWholeOutput / 2 - 3);
  EXPECT_TRUE(second.output.exit.truncated);
  for (const CommandRow* row : {&first, &second}) {
    EXPECT_TRUE(row->output.out.ends_with("mend"));
    EXPECT_EQ(row->output.out.size(), Printed::kTail) << "no more than that is held";
  }
}

TEST_F(VerifyTest, WithoutAPlaceForItOnlyTheEndOfOutputIsKept) {
  work_.verify.commands = {"much"};
  Answer much;
  much.err = Bytes(1 << 20, 'm') + "end";
  backend_.on("much", much);
  ASSERT_TRUE(run());
  EXPECT_EQ(report_.verify[0].output.err, Bytes(Printed::kTail - 3, 'm') + "end");
  EXPECT_EQ(report_.verify[0].whole.err, nullptr);
}

TEST_F(VerifyTest, KillingTheAgentFailsOnlyWithTheSandbox) {
  ASSERT_TRUE(net::testing::run(shard_, kill_agent(sandbox_.get(), &report_)));
  EXPECT_EQ(report_.unjudged, "");
  backend_.last().lose();
  EXPECT_FALSE(net::testing::run(shard_, kill_agent(sandbox_.get(), &report_)));
  EXPECT_EQ(report_.unjudged, "");
}

}  // namespace
}  // namespace sluice::agent
