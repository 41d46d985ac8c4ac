// Life and death of local sandboxes: nothing of them is left, whoever goes first.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <atomic>
#include <random>
#include <thread>

#include "sluice/sandbox/local/testing.h"

namespace sluice::sandbox::local {
namespace {

class LifeTest : public LocalTest {};

TEST_F(LifeTest, ClosingIsCompleteAndIdempotent) {
  renew_without_ready_ones();
  auto job = run(shard_, sandbox_->start(shell("exec sleep 4343.3")));
  ASSERT_TRUE(job);
  const auto inside = descendants_of(backend_->helper_pid());
  EXPECT_GE(inside.size(), 3u);
  ASSERT_TRUE(run(shard_, sandbox_->close()));
  EXPECT_EQ(descendants_of(backend_->helper_pid()).size(), 0u);
  EXPECT_TRUE(run(shard_, sandbox_->close()));
  EXPECT_EQ(run(shard_, sandbox_->exec(shell("true"))).error().code, ErrorCode::kClosed);
  EXPECT_EQ(run(shard_, sandbox_->kill_all()).error().code, ErrorCode::kClosed);
  EXPECT_EQ(run(shard_, sandbox_->end_setup()).error().code, ErrorCode::kClosed);
  EXPECT_EQ(run(shard_, (*job)->wait(Deadline::never()))->reason, Exit::Reason::kLost);
}

// What was begun ahead and not wanted goes by itself, and is used while it is there.
TEST_F(LifeTest, SandboxesBegunAheadAreUsedAndDoNotStay) {
  const auto count = [&] {
    return descendants_of(backend_->helper_pid()).size();
  };
  // They are begun a moment after one was made, for a few seconds: a slow machine may miss them.
  EXPECT_TRUE(eventually(
      [&] {
        const auto other = create();
        return other && run(shard_, other->close()) && count() >= 2;
      },
      60s));
  for (int i = 0; i < 12; ++i) {
    auto other = create();
    ASSERT_TRUE(other);
    EXPECT_EQ(exec_in(*other, shell("echo well")).out, "well\n");
    EXPECT_TRUE(run(shard_, other->close()));
  }
  ASSERT_TRUE(run(shard_, sandbox_->close()));
  EXPECT_TRUE(eventually([&] { return count() == 0; }, 60s)) << count();
  sandbox_ = create();
  ASSERT_TRUE(sandbox_);
  EXPECT_EQ(out_of("echo well"), "well\n");
}

// One that was begun ahead and then cannot become what is asked for.
TEST_F(LifeTest, WhatWasBegunAheadInVainDoesNotStay) {
  if (!sandbox_->capabilities().limits) GTEST_SKIP() << "no control groups here";
  const auto count = [&] {
    return descendants_of(backend_->helper_pid()).size();
  };
  Options options;
  options.limits.pids = Limit{UINT64_MAX, Strictness::kRequire};  // the kernel takes no such number
  EXPECT_TRUE(eventually(
      [&] {
        const auto other = create();
        return other && run(shard_, other->close()) && count() >= 2;
      },
      60s));
  EXPECT_THAT(create_error(options).message, HasSubstr("pids.max"));
  ASSERT_TRUE(run(shard_, sandbox_->close()));
  EXPECT_TRUE(eventually([&] { return count() == 0; }, 60s)) << count();
}

TEST_F(LifeTest, ADroppedSandboxIsRemovedToo) {
  renew_without_ready_ones();
  sandbox_.reset();
  EXPECT_TRUE(eventually([&] { return descendants_of(backend_->helper_pid()).empty(); }));
  sandbox_ = create();
}

TEST_F(LifeTest, finding_37_a_sandbox_ends_at_its_deadline) {
  renew_without_ready_ones();
  Options options;
  options.deadline = Deadline::in(400ms);
  renew(options);
  auto job = run(shard_, sandbox_->start(shell("exec sleep 4343.4")));
  ASSERT_TRUE(job);
  EXPECT_EQ(run(shard_, (*job)->wait(Deadline::in(20s)))->reason, Exit::Reason::kLost);
  EXPECT_TRUE(eventually([&] { return descendants_of(backend_->helper_pid()).empty(); }));
  EXPECT_TRUE(run(shard_, sandbox_->close()));
}

TEST_F(LifeTest, WithTheHelperGoesEverything) {
  auto job = run(shard_, sandbox_->start(shell("(setsid sleep 4343.5 &); exec sleep 4343.5")));
  ASSERT_TRUE(job);
  const auto inside = descendants_of(backend_->helper_pid());
  EXPECT_GE(inside.size(), 3u);
  const std::string owner = owner_name(backend_->helper_pid());
  ::kill(backend_->helper_pid(), SIGKILL);
  EXPECT_EQ(run(shard_, (*job)->wait(Deadline::in(20s)))->reason, Exit::Reason::kLost);
  EXPECT_TRUE(eventually([&] {
    for (const int pid : inside) {
      if (is_alive(pid)) return false;
    }
    return true;
  }));
  EXPECT_TRUE(eventually([&] { return cgroups_of(owner).empty(); }));
  EXPECT_TRUE(run(shard_, sandbox_->close()));
  EXPECT_EQ(create_error(Options()).code, ErrorCode::kClosed);
}

TEST_F(LifeTest, ManyAtOnceOnSeveralShards) {
  constexpr int kThreads = 3;
  constexpr int kEach = 8;
  std::atomic<int> good = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      net::Shard shard;
      std::vector<std::unique_ptr<Sandbox>> all;
      for (int i = 0; i < kEach; ++i) {
        auto made = run(shard, backend_->create(&shard, Options()));
        if (made) all.push_back(std::move(*made));
      }
      for (auto& sandbox : all) {
        auto output = run(shard, sandbox->exec(shell("echo hi")));
        if (output && output->out == "hi\n") ++good;
      }
      for (auto& sandbox : all) {
        if (!run(shard, sandbox->close())) --good;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(good, kThreads * kEach);
}

// An engine in a process of its own, that is killed in the middle of whatever it does.
[[noreturn]] void engine_until_killed(const std::string& sleep) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  net::Shard shard;
  auto backend = Backend::start();
  if (!backend) ::_exit(1);
  std::vector<std::unique_ptr<Sandbox>> all;
  for (int i = 0;; ++i) {
    auto sandbox = run(shard, (*backend)->create(&shard, Options()));
    if (!sandbox) ::_exit(1);
    (void)run(shard, (*sandbox)->write_file("/tmp/f", Bytes(100'000, 'x'), WriteOptions()));
    auto output = run(shard, (*sandbox)->exec(Command::shell("(setsid " + sleep + " &); true")));
    (void)run(shard, (*sandbox)->start(Command::shell(sleep)));
    if (i % 3 == 2) (void)run(shard, (*sandbox)->close());
    all.push_back(std::move(*sandbox));
    if (all.size() > 6) all.erase(all.begin());
  }
}

int count_processes(const std::string& sleeping) {
  const std::string marker = own(sleeping);
  int found = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    if (std::atoi(entry.path().filename().c_str()) <= 0) continue;
    if (read_text((entry.path() / "cmdline").string()).find(marker) != std::string::npos) ++found;
  }
  return found;
}

TEST_F(LifeTest, AnEngineKilledAtAnyMomentLeavesNothing) {
  const char* asked = std::getenv("SLUICE_KILL_POINTS");
  const int points = asked != nullptr ? std::atoi(asked) : 20;
  const std::string mounts_before = read_text("/proc/self/mountinfo");
  const std::string sleep = own("sleep 4343.6");
  std::mt19937 random(std::random_device{}());
  for (int i = 0; i < points; ++i) {
    const pid_t engine = ::fork();
    ASSERT_GE(engine, 0);
    if (engine == 0) engine_until_killed(sleep);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 150'000));
    ::kill(engine, SIGSTOP);  // it starts nothing while we look
    const auto made = descendants_of(engine);
    std::set<std::string> owners;
    for (const int pid : made) owners.insert(owner_name(pid));
    ::kill(engine, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(engine, &status, 0), engine);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the engine failed by itself";
    EXPECT_TRUE(eventually([&] { return count_processes("4343.6") == 0; })) << "round " << i;
    for (const int pid : made) {
      EXPECT_TRUE(eventually([&] { return !is_alive(pid); }))
          << read_text("/proc/" + std::to_string(pid) + "/status");
    }
    for (const std::string& owner : owners) {
      EXPECT_TRUE(eventually([&] { return cgroups_of(owner).empty(); })) << "round " << i;
    }
  }
  EXPECT_EQ(read_text("/proc/self/mountinfo"), mounts_before);
}

TEST_F(LifeTest, WhatAnEngineAndItsHelperLeftTogetherIsReaped) {
  if (!is_root()) GTEST_SKIP() << "without control groups nothing can be left";
  const std::string sleep = own("sleep 4343.6");
  const pid_t engine = ::fork();
  ASSERT_GE(engine, 0);
  if (engine == 0) engine_until_killed(sleep);
  ASSERT_TRUE(eventually([&] { return count_processes("4343.6") > 1; }));
  const auto made = descendants_of(engine);
  ::kill(engine, SIGSTOP);
  std::string owner;
  for (const int pid : made) {
    if (read_text("/proc/" + std::to_string(pid) + "/comm") != "sluice-sandboxe\n") continue;
    owner = owner_name(pid);
    ::kill(pid, SIGKILL);
  }
  // Their groups are left now, unless somebody else's engine started meanwhile and removed them.
  ::kill(engine, SIGKILL);
  int status = 0;
  ::waitpid(engine, &status, 0);
  EXPECT_TRUE(eventually([&] { return count_processes("4343.6") == 0; }));
  const auto reaped = run(shard_, backend_->reap());
  ASSERT_TRUE(reaped);
  EXPECT_TRUE(cgroups_of(owner).empty());
  // What a live backend owns stays.
  EXPECT_EQ(out_of("echo well"), "well\n");
}

}  // namespace
}  // namespace sluice::sandbox::local
