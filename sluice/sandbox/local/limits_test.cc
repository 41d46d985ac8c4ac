// Limits of local sandboxes: that they hold, and that nobody else notices.
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "sluice/sandbox/local/testing.h"

namespace sluice::sandbox::local {
namespace {

class LimitsTest : public LocalTest {
 protected:
  // A file of the sandboxes' control groups: the first that is there and not empty. REQUIRES: one
  // sandbox, and none begun ahead.
  std::string group_text(const std::string& name) const {
    for (const std::string& owner : cgroups_of(owner_name(backend_->helper_pid()))) {
      for (const auto& entry : std::filesystem::directory_iterator(owner)) {
        const std::string text = entry.is_directory() ? read_text(entry.path() / name) : "";
        if (!text.empty()) return text;
      }
    }
    return "";
  }
  // The number behind `key` in it; 0 where there is none.
  long group_count(const std::string& name, const std::string& key) const {
    const std::string text = group_text(name);
    const size_t at = text.find(key);
    return at == std::string::npos ? 0 : std::atol(text.c_str() + at + key.size());
  }
};

TEST_F(LimitsTest, DiskIsBoundedInBytesAndFiles) {
  Options options = with_programs();
  options.limits.disk_bytes = Limit{64 * kMiB, Strictness::kRequire};
  options.limits.disk_inodes = Limit{5000, Strictness::kRequire};
  renew(options);
  for (const char* place : {"/tmp", "/home/user", "/dev/shm", "/var/tmp"}) {
    const int got = std::stoi(out_of(std::string("/opt/inside/eat disk 1000 ") + place));
    EXPECT_GT(got, 30) << place;
    EXPECT_LT(got, 65) << place;
  }
  const int files = std::stoi(out_of("/opt/inside/eat inodes 20000"));
  EXPECT_GT(files, 1000);
  EXPECT_LT(files, 5000);
}

TEST_F(LimitsTest, OpenFilesAreBounded) {
  Options options = with_programs();
  options.limits.open_files = Limit{100, Strictness::kRequire};
  renew(options);
  EXPECT_EQ(out_of("/opt/inside/eat files"), "97\n");
  EXPECT_EQ(out_of("ulimit -Hn"), "100\n");
}

TEST_F(LimitsTest, ProcessesAndMemoryAreBoundedWhereTheKernelCan) {
  Options options = with_programs();
  options.limits.pids = Limit{64, Strictness::kRequire};
  options.limits.memory_bytes = Limit{64 * kMiB, Strictness::kRequire};
  if (!sandbox_->capabilities().limits) {
    // Required: refused. Preferred: said.
    const Error refused = create_error(options);
    EXPECT_EQ(refused.code, ErrorCode::kUnsupported);
    EXPECT_THAT(sandbox_->warnings(), ::testing::Contains(HasSubstr("memory is not enforced")));
    GTEST_SKIP() << "the rest needs control groups: " << refused.message;
  }
  renew(options);
  const int processes = std::stoi(out_of("/opt/inside/eat processes 1000"));
  EXPECT_GT(processes, 20);
  EXPECT_LT(processes, 64);
  ASSERT_TRUE(run(shard_, sandbox_->kill_all()));  // the dying count, too
  const Output hungry = exec(shell("exec /opt/inside/eat memory 1000"));
  EXPECT_EQ(hungry.exit.reason, Exit::Reason::kSignaled);
  EXPECT_EQ(hungry.exit.signal, SIGKILL);
  EXPECT_TRUE(hungry.exit.oom);
  const Output child = exec(shell("/opt/inside/eat memory 1000; exit $?"));
  EXPECT_EQ(child.exit.status, 128 + SIGKILL);
  EXPECT_TRUE(child.exit.oom);
  // A failure of its own is none of memory.
  EXPECT_FALSE(exec(shell("exit 3")).exit.oom);
  // A disk full of bytes is memory too: the guest stays.
  exec(shell("/opt/inside/eat disk 1000 /tmp"));
  EXPECT_EQ(out_of("echo well"), "well\n");
}

// What the loss of a sandbox is taken for: ours, but for one whose memory was used up.
TEST_F(LimitsTest, AGuestThatDiesWhereTheKernelKilledForMemoryIsTheDoingOfWhoUsedItUp) {
  renew_without_ready_ones();
  if (!sandbox_->capabilities().limits) GTEST_SKIP() << "no control groups here";
  Options options = with_programs();
  options.limits.memory_bytes = Limit{64 * kMiB, Strictness::kRequire};
  const auto lose = [&] {
    for (const int pid : descendants_of(backend_->helper_pid())) ::kill(pid, SIGKILL);
    const auto lost = run(shard_, sandbox_->exec(shell("true")));
    EXPECT_FALSE(lost);
    const auto later = run(shard_, sandbox_->kill_all());
    EXPECT_FALSE(later);
    if (lost || later) return ErrorOrigin::kCaller;
    EXPECT_EQ(later.error().origin, lost.error().origin);
    return later.error().origin;
  };
  const auto use_up = [&] {
    EXPECT_TRUE(exec(shell("exec /opt/inside/eat memory 1000")).exit.oom);
  };
  renew(options);
  EXPECT_EQ(lose(), ErrorOrigin::kEngine);
  renew(options);
  use_up();
  EXPECT_EQ(lose(), ErrorOrigin::kTask) << "no agent ran yet";
  renew(options);
  auto agent = run(shard_, sandbox_->start(shell("exec sleep 4343.6")));
  ASSERT_TRUE(agent);
  use_up();
  EXPECT_EQ(lose(), ErrorOrigin::kAgent);
}

TEST_F(LimitsTest, CpuAndSwapAreSetWhereTheKernelCan) {
  renew_without_ready_ones();
  Options options;
  options.limits.cpu_millis = Limit{500, Strictness::kRequire};
  if (!sandbox_->capabilities().limits) {
    EXPECT_EQ(create_error(options).code, ErrorCode::kUnsupported);
    GTEST_SKIP() << "no control groups here";
  }
  renew(options);
  // Half of each tenth of a second, however many of those the kernel counted.
  EXPECT_EQ(group_text("cpu.cfs_quota_us") + group_text("cpu.max"),
            group_text("cpu.max").empty() ? "50000\n" : "50000 100000\n");
  const Output busy = exec(shell("timeout 1 sh -c 'while :; do :; done'; times | tail -n 1"));
  double minutes = 0, seconds = 0;
  ASSERT_EQ(std::sscanf(busy.out.c_str(), "%lfm%lfs", &minutes, &seconds), 2) << busy.out;
  const long periods = group_count("cpu.stat", "nr_periods ");
  EXPECT_GT(periods, 0);
  EXPECT_LE(seconds, 0.05 * static_cast<double>(periods + 2));
  // What a sandbox sees of its groups begins with its own.
  EXPECT_THAT(out_of("cat /proc/self/cgroup"), Not(HasSubstr("sluice")));
  const auto groups = cgroups_of(owner_name(backend_->helper_pid()));
  ASSERT_FALSE(groups.empty());
  for (const std::string& group : groups) {
    for (const auto& entry : std::filesystem::directory_iterator(group)) {
      if (!entry.is_directory()) continue;
      const std::string both = read_text(entry.path() / "memory.memsw.limit_in_bytes");
      const std::string memory = read_text(entry.path() / "memory.limit_in_bytes");
      if (!both.empty()) EXPECT_EQ(both, memory);
      const std::string swap = read_text(entry.path() / "memory.swap.max");
      if (!swap.empty()) EXPECT_EQ(swap, "0\n");
    }
  }
}

// A command that goes on and on, and what it was heard to say.
class Bomb {
 public:
  Bomb(net::Shard* shard, Sandbox* sandbox, Command command, std::string hit)
      : shard_(shard), sandbox_(sandbox), command_(std::move(command)), hit_(std::move(hit)) {}

  void start() { shard_->spawn(run(this)); }
  // How often it said that it met its limit. Never, while it runs, is its end.
  size_t hits() const { return hits_; }
  bool ended() const { return ended_; }
  bool silent() const { return readers_ == 0 && ended_; }

 private:
  static awaitable<void> run(Bomb* self) {
    auto job = co_await self->sandbox_->start(std::move(self->command_));
    EXPECT_TRUE(job) << job.error().message;
    if (job) {
      self->job_ = std::move(*job);
      self->readers_ = 2;
      self->shard_->spawn(listen(self, Job::Channel::kOut));
      self->shard_->spawn(listen(self, Job::Channel::kErr));
      auto waited = co_await self->job_->wait(Deadline::never());
      static_cast<void>(waited);
    }
    self->ended_ = true;
  }
  static awaitable<void> listen(Bomb* self, Job::Channel channel) {
    std::string tail;
    for (;;) {
      auto piece = co_await self->job_->read_output(channel, 64 * 1024);
      if (!piece || piece->empty()) break;
      tail += *piece;
      for (size_t at = tail.find(self->hit_); at != std::string::npos; at = tail.find(self->hit_)) {
        ++self->hits_;
        tail.erase(0, at + self->hit_.size());
      }
      if (tail.size() > self->hit_.size()) tail.erase(0, tail.size() - self->hit_.size());
    }
    --self->readers_;
  }

  net::Shard* const shard_;
  Sandbox* const sandbox_;
  Command command_;
  const std::string hit_;
  std::unique_ptr<Job> job_;
  size_t hits_ = 0;
  int readers_ = 0;
  bool ended_ = false;
};

// Four sandboxes run into their limits again and again. A fifth's commands end well all the while,
// and the four get no more than they may.
TEST_F(LimitsTest, FourBombsLeaveAFifthSandboxAtItsEase) {
  if (!sandbox_->capabilities().limits) GTEST_SKIP() << "no control groups here";
  renew_without_ready_ones();
  Options options = with_programs();
  options.limits.pids = Limit{200, Strictness::kRequire};
  options.limits.memory_bytes = Limit{256 * kMiB, Strictness::kRequire};
  options.limits.disk_bytes = Limit{128 * kMiB, Strictness::kRequire};
  options.limits.disk_inodes = Limit{20'000, Strictness::kRequire};
  std::vector<std::unique_ptr<Sandbox>> sandboxes;
  std::vector<std::unique_ptr<Bomb>> bombs;
  // What each says when it has met its limit: bash has no process left, a child was killed, the
  // disk is full. The last one's is that its output was taken.
  for (const auto& [script, hit] :
       {std::pair("f() { f | f & }; f; while :; do sleep 600; done", "fork"),
        {"while :; do /opt/inside/eat memory; echo $?.; done", "137."},
        {"while :; do /opt/inside/eat disk; /opt/inside/eat inodes; echo full; done", "full"},
        {"while :; do head -c 8000000 /dev/zero; echo read; done", "read"}}) {
    sandboxes.push_back(create(options));
    ASSERT_TRUE(sandboxes.back());
    Command command = shell(script);
    command.output_cap = UINT64_MAX;
    command.deadline = Deadline::never();
    bombs.push_back(
        std::make_unique<Bomb>(&shard_, sandboxes.back().get(), std::move(command), hit));
    bombs.back()->start();
  }
  const auto all_hit = [&](size_t times) {
    return std::all_of(bombs.begin(), bombs.end(),
                       [&](const auto& bomb) { return bomb->hits() >= times; });
  };
  // Between any two of the fifth's commands the four go on.
  int commands = 0;
  const Deadline patience = Deadline::in(240s);
  while (!(all_hit(3) && commands >= 40) && !patience.expired()) {
    Command command = shell("echo well; cat /proc/self/status > /tmp/status; wc -l < /tmp/status");
    const Output output = exec(std::move(command));
    ASSERT_TRUE(output.exit.ok()) << describe(output.exit) << output.err;
    ASSERT_THAT(output.out, ::testing::StartsWith("well\n"));
    ASSERT_FALSE(output.exit.oom);
    // Each has its limit, a helper process, and what this one runs.
    ASSERT_LE(descendants_of(backend_->helper_pid()).size(), 4 * 200u + 10);
    ++commands;
  }
  EXPECT_TRUE(all_hit(3)) << bombs[0]->hits() << " " << bombs[1]->hits() << " " << bombs[2]->hits()
                          << " " << bombs[3]->hits();
  for (const auto& bomb : bombs) EXPECT_FALSE(bomb->ended()) << "one has ended by itself";
  for (auto& sandbox : sandboxes) EXPECT_TRUE(run(shard_, sandbox->close()));
  shard_.run_until([&] {
    return std::all_of(bombs.begin(), bombs.end(), [](const auto& bomb) { return bomb->silent(); });
  });
}

TEST_F(LimitsTest, AForkBombIsEndedByItsDeadline) {
  if (!sandbox_->capabilities().limits) GTEST_SKIP() << "no limit of processes here";
  Command command = shell("bomb() { bomb | bomb & }; bomb; sleep 4343.1");
  command.deadline = Deadline::in(1s);
  const Output output = exec(std::move(command));
  EXPECT_EQ(output.exit.reason, Exit::Reason::kTimedOut);
  ASSERT_TRUE(run(shard_, sandbox_->kill_all()));
  // The guest, a keeper, the shell and what it runs: nothing of the bomb.
  EXPECT_LT(std::stoi(out_of("ls -d /proc/[0-9]* | wc -l")), 10);
  EXPECT_EQ(out_of("echo well"), "well\n");
}

}  // namespace
}  // namespace sluice::sandbox::local
