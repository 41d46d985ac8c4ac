// Commands in the background, and what they leave behind.
#include <fcntl.h>

#include <optional>

#include "sluice/guest/testing.h"

namespace sluice::guest {
namespace {

class JobTest : public GuestTest {};
INSTANTIATE_TEST_SUITE_P(Forms, JobTest, ::testing::Values(Form::kLibrary, Form::kProgram),
                         form_name);

TEST_P(JobTest, finding_11_a_jobs_status_stays_after_its_end) {
  const auto job = start(shell("echo hi; exit 5"));
  for (int i = 0; i < 3; ++i) {
    const auto exit = run(shard_, job->wait(Deadline::in(10s)));
    ASSERT_TRUE(exit);
    EXPECT_EQ(exit->exit.status, 5);
  }
  EXPECT_EQ(*run(shard_, job->read_output(kOut, 100)), "hi\n");
  EXPECT_EQ(*run(shard_, job->read_output(kOut, 100)), "");
  EXPECT_EQ(*run(shard_, job->read_output(kErr, 100)), "");
  EXPECT_EQ(run(shard_, job->signal(SIGTERM)).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(run(shard_, job->write_stdin("x")).error().code, ErrorCode::kClosed);
  EXPECT_TRUE(run(shard_, job->kill_tree()));
}

TEST_P(JobTest, finding_34_a_jobs_text_is_its_own) {
  // What breaks where a command is wrapped in another: an end in '&' or '#', quotes, a
  // here-document.
  for (const char* text :
       {"echo a; echo a; true &", "echo a; echo a # and $HOME 'so on", "cat <<'EOF'\na\na\nEOF",
        "cat <<EOF\na\na\nEOF\n", "echo a\necho 'a'"}) {
    const auto job = start(shell(text));
    ASSERT_EQ(run(shard_, job->wait(Deadline::in(10s)))->exit.status, 0) << text;
    std::string out;
    for (std::string more = "-"; !more.empty(); out += more) {
      more = *run(shard_, job->read_output(kOut, 100));
    }
    EXPECT_EQ(out, "a\na\n") << text;
  }
}

TEST_P(JobTest, AJobIsSpokenTo) {
  const auto job = start(shell("while read line; do echo got $line; done; echo end >&2"));
  ASSERT_TRUE(run(shard_, job->write_stdin("one\n")));
  EXPECT_EQ(*run(shard_, job->read_output(kOut, 100)), "got one\n");
  EXPECT_EQ(run(shard_, job->wait(Deadline::in(10ms))).error().code, ErrorCode::kTimedOut);
  ASSERT_TRUE(run(shard_, job->close_stdin()));
  EXPECT_EQ(*run(shard_, job->read_output(kErr, 100)), "end\n");
  EXPECT_EQ(run(shard_, job->wait(Deadline::in(10s)))->exit.status, 0);
}

TEST_P(JobTest, ASignalReachesTheCommand) {
  const auto job =
      start(shell("trap 'echo usr1; exit 9' USR1; echo ready; while :; do sleep 0.01; done"));
  EXPECT_EQ(*run(shard_, job->read_output(kOut, 100)), "ready\n");
  ASSERT_TRUE(run(shard_, job->signal(SIGUSR1)));
  EXPECT_EQ(run(shard_, job->wait(Deadline::in(10s)))->exit.status, 9);
}

TEST_P(JobTest, AJobThatClosedItsStdinSaysSo) {
  const auto job = start(shell("exec 0<&-; echo closed; sleep 30"));
  EXPECT_EQ(*run(shard_, job->read_output(kOut, 100)), "closed\n");
  Result<void> wrote;
  for (int i = 0; i < 100 && wrote; ++i) wrote = run(shard_, job->write_stdin(Bytes(10'000, 'x')));
  EXPECT_EQ(wrote.error().code, ErrorCode::kClosed);
  ASSERT_TRUE(run(shard_, job->kill_tree()));
}

TEST_P(JobTest, UnreadOutputStopsTheCommandAndNobodyElse) {
  const auto slow = start(shell("head -c 2000000 /dev/zero; echo x > " + path("finished")));
  exec(shell("sleep 0.3"));  // others go on meanwhile
  EXPECT_EQ(read(path("finished")).error().code, ErrorCode::kNotFound);
  size_t total = 0;
  for (;;) {
    const auto piece = run(shard_, slow->read_output(kOut, 100'000));
    ASSERT_TRUE(piece);
    if (piece->empty()) break;
    EXPECT_LE(piece->size(), 100'000u);
    total += piece->size();
  }
  EXPECT_EQ(total, 2'000'000u);
  EXPECT_EQ(run(shard_, slow->wait(Deadline::in(10s)))->exit.status, 0);
}

// finding_15 and the rest of its kind: what forked twice, made its own session and ignores TERM.
constexpr char kDaemons[] =
    "trap '' TERM\n"
    "for i in 1 2 3; do\n"
    "  setsid sh -c 'trap \"\" TERM; (setsid sleep 4242.3 &) ; sleep 4242.3 & exit' &\n"
    "done\n"
    "wait; echo up; ";

TEST_P(JobTest, KillTreeFindsDaemonsOfItsCommandAndOnlyThose) {
  const auto other = start(shell("(setsid sleep 4242.4 &) ; echo up; exec sleep 4242.4"));
  EXPECT_EQ(*run(shard_, other->read_output(kOut, 100)), "up\n");
  const auto job = start(shell(std::string(kDaemons) + "exec sleep 4242.3"));
  EXPECT_EQ(*run(shard_, job->read_output(kOut, 100)), "up\n");
  for (int i = 0; i < 2000 && count_processes("4242.3") != 7; ++i) {
    (void)run(shard_, net::sleep_for(10ms));
  }
  EXPECT_EQ(count_processes("4242.3"), 7);
  ASSERT_TRUE(run(shard_, job->kill_tree()));
  EXPECT_EQ(count_processes("4242.3"), 0);
  EXPECT_EQ(run(shard_, job->wait(Deadline::in(10s)))->exit.signal, SIGKILL);
  EXPECT_EQ(count_processes("4242.4"), 2);
  EXPECT_TRUE(run(shard_, job->kill_tree()));  // again
  ASSERT_TRUE(run(shard_, other->kill_tree()));
}

TEST_P(JobTest, KillTreeFindsWhatACommandLeftBehind) {
  const auto job = start(shell(std::string(kDaemons) + "exit 0"));
  EXPECT_EQ(run(shard_, job->wait(Deadline::in(10s)))->exit.status, 0);
  for (int i = 0; i < 2000 && count_processes("4242.3") != 6; ++i) {
    (void)run(shard_, net::sleep_for(10ms));
  }
  EXPECT_EQ(count_processes("4242.3"), 6);
  ASSERT_TRUE(run(shard_, job->kill_tree()));
  EXPECT_EQ(count_processes("4242.3"), 0);
}

TEST_P(JobTest, KillAllEndsEveryCommandAndItsDaemons) {
  const auto job = start(shell(std::string(kDaemons) + "exec sleep 4242.3"));
  EXPECT_EQ(*run(shard_, job->read_output(kOut, 100)), "up\n");
  exec(shell("(setsid sleep 4242.3 &)"));
  ASSERT_TRUE(run(shard_, client_->kill_all()));
  EXPECT_EQ(count_processes("4242.3"), 0);
  const auto exit = run(shard_, job->wait(Deadline::in(10s)));
  EXPECT_EQ(exit->exit.reason, Reason::kSignaled);
  EXPECT_EQ(exit->exit.signal, SIGKILL);
  EXPECT_EQ(exec(shell("echo on")).out, "on\n");
}

// A control group of at most 400 processes with `pid` in it, whatever `ulimit` may be worth here: a
// bomb in a test must never be the machine's affair. Goes with the object: `pid` is let out, the
// others are killed.
class PidsGroup {
 public:
  explicit PidsGroup(pid_t pid) : pid_(std::to_string(pid)) {
    for (const char* top : {"/sys/fs/cgroup/pids", "/sys/fs/cgroup"}) {
      const std::string place =
          std::string(top) + "/sluice-guest-test-" + std::to_string(::getpid());
      std::error_code ignored;
      std::filesystem::remove(place, ignored);  // a crashed run's
      if (::mkdir(place.c_str(), 0755) != 0) continue;
      if (put(place + "/pids.max", "400") && put(place + "/cgroup.procs", pid_)) {
        top_ = top;
        place_ = place;
        return;
      }
      ::rmdir(place.c_str());
    }
  }
  ~PidsGroup() {
    put(top_ + "/cgroup.procs", pid_);
    for (int i = 0; !place_.empty() && ::rmdir(place_.c_str()) != 0 && i < 500; ++i) {
      std::ifstream members(place_ + "/cgroup.procs");
      for (pid_t pid = 0; members >> pid;) ::kill(pid, SIGKILL);
      ::usleep(10'000);
    }
  }
  PidsGroup(const PidsGroup&) = delete;
  PidsGroup& operator=(const PidsGroup&) = delete;

  bool bounded() const { return !place_.empty(); }

 private:
  static bool put(const std::string& path, const std::string& text) {
    const Fd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    return file && write_all(file.get(), text);
  }
  const std::string pid_;
  std::string top_, place_;
};

// At its limit of processes, as every sandbox has one: what is killed must not make room for more.
TEST_P(JobTest, AForkBombIsKilled) {
  std::optional<PidsGroup> bound;
  if (::getuid() == 0) {
    bound.emplace(guest_);
    if (!bound->bounded()) GTEST_SKIP() << "no control group to keep a fork bomb in";
  }
  auto request = command(
      {"bash", "-c", own("ulimit -u 300 || exit; echo up; f() { f | f & }; f; exec sleep 4242.5")});
  if (::getuid() == 0) request.user = "61234";  // its own count of processes
  const auto job = start(request);
  EXPECT_EQ(*run(shard_, job->read_output(kOut, 3)), "up\n");
  exec(shell("sleep 0.2"));
  EXPECT_TRUE(run(shard_, job->kill_tree()));
}

TEST_P(JobTest, DroppingAJobLetsItRun) {
  start(shell("sleep 0.2; echo done > " + path("flag"))).reset();
  for (int i = 0; i < 100 && !read(path("flag")); ++i) exec(shell("sleep 0.05"));
  EXPECT_EQ(*read(path("flag")), "done\n");
}

}  // namespace
}  // namespace sluice::guest
