// Commands in the background.
#include <csignal>

#include "sluice/sandbox/conformance/case.h"

namespace sluice::sandbox::conformance {

Area jobs{"jobs", {}};

namespace {

using Reason = Exit::Reason;
constexpr auto kOut = Job::Channel::kOut;
constexpr auto kErr = Job::Channel::kErr;

Exit end_of(Try& t, Job& job) {
  auto exit = t.wait(job.wait(Deadline::in(kPatience)));
  SLUICE_EXPECT_OK(t, exit);
  return exit ? *exit : Exit();
}

SLUICE_CASE(jobs, the_end_is_known_long_after_it) {
  Sandbox& sandbox = t.shared();
  const auto job = t.start(sandbox, "exit 7");
  SLUICE_EXPECT_EQ(t, end_of(t, *job).status, 7);
  t.sh(sandbox, "sleep 0.3");
  SLUICE_EXPECT_EQ(t, end_of(t, *job).status, 7);
  // finding: a job that has ended answers at once, also without any patience.
  SLUICE_EXPECT_OK(t, t.wait(job->wait(Deadline::in(0s))));
}

SLUICE_CASE(jobs, a_wait_may_give_up) {
  const auto job = t.start(t.shared(), "sleep 600");
  SLUICE_EXPECT_ERROR(t, t.wait(job->wait(Deadline::in(50ms))), ErrorCode::kTimedOut);
  SLUICE_EXPECT_ERROR(t, t.wait(job->wait(Deadline::in(0s))), ErrorCode::kTimedOut);
  SLUICE_EXPECT_OK(t, t.wait(job->kill_tree()));
  SLUICE_EXPECT_EQ(t, end_of(t, *job).signal, SIGKILL);
}

SLUICE_CASE(jobs, a_jobs_deadline_kills_it) {
  Sandbox& sandbox = t.shared();
  Command command = Try::shell("trap '' TERM; sleep 600");
  command.deadline = Deadline::in(200ms);
  auto job = t.wait(sandbox.start(std::move(command)));
  SLUICE_EXPECT_OK(t, job);
  if (job) SLUICE_EXPECT_EQ(t, end_of(t, **job).reason, Reason::kTimedOut);
}

SLUICE_CASE(jobs, signals_reach_the_command) {
  const auto job = t.start(t.shared(),
                           "trap 'echo caught; exit 9' USR1; echo ready; "
                           "while :; do sleep 0.02; done");
  SLUICE_EXPECT_OK(t, t.wait(job->read_output(kOut, 6)));
  SLUICE_EXPECT_OK(t, t.wait(job->signal(SIGUSR1)));
  SLUICE_EXPECT_EQ(t, end_of(t, *job).status, 9);
  SLUICE_EXPECT_EQ(t, t.read(*job, kOut), "caught\n");
}

SLUICE_CASE(jobs, a_signal_behind_the_end_finds_nobody) {
  const auto job = t.start(t.shared(), "true");
  end_of(t, *job);
  SLUICE_EXPECT_ERROR(t, t.wait(job->signal(SIGTERM)), ErrorCode::kNotFound);
  SLUICE_EXPECT_OK(t, t.wait(job->kill_tree()));
}

SLUICE_CASE(jobs, no_such_signal_is_refused) {
  const auto job = t.start(t.shared(), "sleep 600");
  for (const int number : {0, -1, 65, 1000}) {
    SLUICE_EXPECT_ERROR(t, t.wait(job->signal(number)), ErrorCode::kInvalidArgument);
  }
  SLUICE_EXPECT_OK(t, t.wait(job->kill_tree()));
}

SLUICE_CASE(jobs, killing_reaches_the_whole_tree) {
  Sandbox& sandbox = t.shared();
  const auto job = t.start(sandbox,
                           "for i in 1 2 3; do (setsid sh -c 'trap \"\" TERM HUP INT; "
                           "while :; do echo x >> beat; sleep 0.02; done' > /dev/null 2>&1 &); "
                           "done; echo up; sleep 600");
  SLUICE_EXPECT_OK(t, t.wait(job->read_output(kOut, 3)));
  t.sh(sandbox, "while ! test -s beat; do sleep 0.01; done");
  SLUICE_EXPECT_OK(t, t.wait(job->kill_tree()));
  SLUICE_EXPECT_OK(t, t.wait(job->kill_tree()));
  t.expect_still(sandbox, "beat");
}

SLUICE_CASE(jobs, killing_one_tree_leaves_the_others) {
  Sandbox& sandbox = t.shared();
  const auto one = t.start(sandbox, "sleep 600");
  const auto two = t.start(sandbox, "read line; echo $line");
  SLUICE_EXPECT_OK(t, t.wait(one->kill_tree()));
  SLUICE_EXPECT_OK(t, t.wait(two->write_stdin("still here\n")));
  SLUICE_EXPECT_EQ(t, t.read(*two, kOut), "still here\n");
}

SLUICE_CASE(jobs, what_outlived_its_command_dies_with_its_tree) {
  Sandbox& sandbox = t.shared();
  const auto job = t.start(sandbox,
                           "(setsid sh -c 'while :; do echo x >> beat; sleep 0.02; done' "
                           "> /dev/null 2>&1 &)");
  end_of(t, *job);
  t.sh(sandbox, "while ! test -s beat; do sleep 0.01; done");
  SLUICE_EXPECT_OK(t, t.wait(job->kill_tree()));
  t.expect_still(sandbox, "beat");
}

SLUICE_CASE(jobs, kill_all_leaves_the_guest_alone) {
  Sandbox& sandbox = t.shared();
  const auto one = t.start(sandbox, "sleep 600");
  const auto two = t.start(sandbox, "(setsid sleep 600 > /dev/null 2>&1 &); sleep 600");
  SLUICE_EXPECT_OK(t, t.wait(sandbox.kill_all()));
  SLUICE_EXPECT_EQ(t, end_of(t, *one).signal, SIGKILL);
  SLUICE_EXPECT_EQ(t, end_of(t, *two).signal, SIGKILL);
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "grep -l sleep /proc/[0-9]*/comm 2>/dev/null | wc -l"), "0\n");
}

SLUICE_CASE(jobs, daemons_die_with_kill_all) {
  Sandbox& sandbox = t.fresh();
  const std::string attacks = t.carry_attacks(sandbox);
  SLUICE_EXPECT_EQ(t, t.out(sandbox, attacks + " daemons /tmp/beat"), "left\n");
  t.sh(sandbox, "while ! test -s /tmp/beat; do sleep 0.01; done");
  SLUICE_EXPECT_OK(t, t.wait(sandbox.kill_all()));
  t.expect_still(sandbox, "/tmp/beat");
}

SLUICE_CASE(jobs, input_is_written_piece_by_piece) {
  const auto job = t.start(t.shared(), "while read line; do echo got $line; done; echo end");
  for (const char* line : {"one\n", "two\n"}) {
    SLUICE_EXPECT_OK(t, t.wait(job->write_stdin(line)));
    auto answer = t.wait(job->read_output(kOut, 100));
    SLUICE_EXPECT_OK(t, answer);
    if (answer) SLUICE_EXPECT_EQ(t, *answer, std::string("got ") + line);
  }
  SLUICE_EXPECT_OK(t, t.wait(job->close_stdin()));
  SLUICE_EXPECT_OK(t, t.wait(job->close_stdin()));
  SLUICE_EXPECT_EQ(t, t.read(*job, kOut), "end\n");
  SLUICE_EXPECT_ERROR(t, t.wait(job->write_stdin("late")), ErrorCode::kClosed);
}

SLUICE_CASE(jobs, input_to_the_dead_is_refused) {
  const auto job = t.start(t.shared(), "true");
  end_of(t, *job);
  SLUICE_EXPECT_ERROR(t, t.wait(job->write_stdin(Bytes(1 << 20, 'x'))), ErrorCode::kClosed);
}

SLUICE_CASE(jobs, output_is_read_in_any_piece) {
  const auto job = t.start(t.shared(), "printf abcdef; printf ghi >&2");
  std::string all;
  for (;;) {
    auto piece = t.wait(job->read_output(kOut, 2));
    SLUICE_EXPECT_OK(t, piece);
    if (!piece || piece->empty()) break;
    SLUICE_EXPECT(t, piece->size() <= 2);
    all += *piece;
  }
  SLUICE_EXPECT_EQ(t, all, "abcdef");
  SLUICE_EXPECT_EQ(t, t.read(*job, kErr), "ghi");
}

SLUICE_CASE(jobs, unread_output_stops_the_command) {
  Sandbox& sandbox = t.shared();
  const auto job = t.start(sandbox, "yes | tee /dev/null | head -c 50000000 | tee progress");
  t.sh(sandbox, "sleep 0.3");
  const std::string early = t.out(sandbox, "wc -c < progress");
  SLUICE_EXPECT(t, early.size() < 8 /* below 10 MB */);
  // Others go on meanwhile, and the command does when it is read.
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "echo on"), "on\n");
  SLUICE_EXPECT_EQ(t, t.read(*job, kOut).size(), size_t{16} * kMiB);  // the cap
  const Exit exit = end_of(t, *job);
  SLUICE_EXPECT(t, exit.ok() && exit.truncated);
}

SLUICE_CASE(jobs, a_dropped_job_runs_on) {
  Sandbox& sandbox = t.shared();
  t.start(sandbox, "sleep 0.1; echo done > flag").reset();
  t.sh(sandbox, "for i in $(seq 200); do test -s flag && break; sleep 0.02; done");
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "cat flag"), "done\n");
}

SLUICE_CASE(jobs, a_hundred_jobs_at_once) {
  Sandbox& sandbox = t.shared();
  std::vector<std::unique_ptr<Job>> jobs;
  for (int i = 0; i < 100; ++i) {
    jobs.push_back(t.start(sandbox, "read x; exit " + std::to_string(i)));
  }
  for (int i = 0; i < 100; ++i) {
    SLUICE_EXPECT_OK(t, t.wait(jobs[static_cast<size_t>(i)]->close_stdin()));
  }
  for (int i = 0; i < 100; ++i) {
    SLUICE_EXPECT_EQ(t, end_of(t, *jobs[static_cast<size_t>(i)]).status, i);
  }
}

}  // namespace

}  // namespace sluice::sandbox::conformance
