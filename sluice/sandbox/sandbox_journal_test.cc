#include "sluice/sandbox/sandbox_journal.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

namespace sluice::sandbox {
namespace {

class SandboxJournalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/sluice-test-journal-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    top_ = name;
    directory_ = top_ + "/state/sandboxes";
  }
  void TearDown() override { std::filesystem::remove_all(top_); }

  // Another engine, that makes two sandboxes, closes one and is killed.
  pid_t dead_engine() {
    const pid_t engine = ::fork();
    if (engine == 0) {
      auto journal = SandboxJournal::open(directory_);
      (void)(*journal)->creating("local", "left-behind", {{"run", "7"}});
      (void)(*journal)->creating("local", "closed", {});
      (*journal)->gone("closed");
      ::raise(SIGKILL);
    }
    int status = 0;
    ::waitpid(engine, &status, 0);
    return engine;
  }

  std::string top_, directory_;
};

TEST_F(SandboxJournalTest, WhatIsMadeIsListedUntilItIsGone) {
  auto journal = SandboxJournal::open(directory_);
  ASSERT_TRUE(journal) << journal.error().message;
  ASSERT_TRUE((*journal)->creating("local", "one", {{"task", "a\nb\"\xff"}}));
  ASSERT_TRUE((*journal)->creating("local", "two", {}));
  (*journal)->gone("two");
  const auto entries = SandboxJournal::list(directory_);
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].id, "one");
  EXPECT_EQ(entries[0].backend, "local");
  EXPECT_EQ(entries[0].labels.at("task"), "a\nb\"\xef\xbf\xbd");
  EXPECT_EQ(entries[0].owner, ::getpid());
  EXPECT_TRUE(entries[0].owner_lives);
  EXPECT_GT(entries[0].since, 1'600'000'000);
  EXPECT_EQ(SandboxJournal::forget_dead(directory_), 0);
  EXPECT_EQ(SandboxJournal::list(directory_).size(), 1u);
  // A second backend of the same engine.
  auto second = SandboxJournal::open(directory_);
  ASSERT_TRUE(second);
  ASSERT_TRUE((*second)->creating("local", "of the second", {}));
  (*journal)->gone("one");
  journal->reset();
  ASSERT_EQ(SandboxJournal::list(directory_).size(), 1u);
  (*second)->gone("of the second");
  second->reset();
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
}

TEST_F(SandboxJournalTest, WhatADeadEngineLeftIsNamedAndForgotten) {
  const pid_t engine = dead_engine();
  const auto entries = SandboxJournal::list(directory_);
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].id, "left-behind");
  EXPECT_EQ(entries[0].labels.at("run"), "7");
  EXPECT_EQ(entries[0].owner, engine);
  EXPECT_FALSE(entries[0].owner_lives);
  EXPECT_EQ(SandboxJournal::forget_dead(directory_), 1);
  EXPECT_TRUE(SandboxJournal::list(directory_).empty());
}

TEST_F(SandboxJournalTest, TornAndForeignLinesAreNoSandboxes) {
  dead_engine();
  for (const auto& file : std::filesystem::directory_iterator(directory_)) {
    std::ofstream(file.path(), std::ios::app)
        << "null\n[1]\n{\"id\":3}\n{\"event\":\"creating\",\"i";
  }
  std::ofstream(directory_ + "/notes.txt") << "mine";
  std::ofstream(directory_ + "/x.jsonl") << "{}\n";
  const auto entries = SandboxJournal::list(directory_);
  ASSERT_EQ(entries.size(), 2u);  // {"id":3} names nothing
  EXPECT_EQ(SandboxJournal::forget_dead(directory_), 2);
  EXPECT_TRUE(std::filesystem::exists(directory_ + "/notes.txt"));
  EXPECT_TRUE(SandboxJournal::list(top_ + "/nowhere").empty());
}

TEST_F(SandboxJournalTest, WithoutARecordNothingIsMade) {
  std::ofstream(top_ + "/state") << "a file in the way";
  EXPECT_FALSE(SandboxJournal::open(directory_));
}

}  // namespace
}  // namespace sluice::sandbox
