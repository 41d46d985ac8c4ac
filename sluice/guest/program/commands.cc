// Commands: started under a keeper, watched, killed, reaped.
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "sluice/guest/program/streams.h"

namespace sluice::guest::program {

using namespace std::chrono_literals;
using wire::FrameType;

namespace {

wire::Exit to_exit(int wait_status, bool timed_out) {
  wire::Exit exit;
  if (WIFSIGNALED(wait_status)) {
    exit.reason = timed_out ? wire::Exit::Reason::kTimedOut : wire::Exit::Reason::kSignaled;
    exit.signal = static_cast<uint8_t>(WTERMSIG(wait_status));
  } else {
    exit.status = static_cast<uint8_t>(WEXITSTATUS(wait_status));
  }
  return exit;
}

}  // namespace

Result<Guest::JobPtr> Guest::find_job(uint32_t id) {
  auto* stream = dynamic_cast<JobOut*>(find_stream(id));
  if (stream == nullptr) return Error(ErrorCode::kNotFound, "no such command");
  return stream->job;
}

Result<void> Guest::start_command(uint32_t id, wire::Exec request) {
  if (request.err_stream != id + 2 || request.err_stream < id) {
    return protocol_error("a command whose second stream does not follow its first");
  }
  last_host_stream_ = request.err_stream;
  auto job = std::make_shared<Job>();
  job->out_stream = id;
  job->err_stream = request.err_stream;
  job->plan.request = std::move(request);
  job->plan.users = users_;
  job->plan.open_files = open_files_;
  auto& out = add_stream<JobOut>(id, job);
  auto& err = add_stream<JobErr>(job->err_stream, job);
  jobs_.insert(job);
  const auto launched = launch(job);
  if (launched) {
    keepers_[job->keeper] = job;
    return {};
  }
  job->keeper_gone = true;
  fail(out, launched.error());
  close(out);
  close(err);
  return {};
}

Result<void> Guest::launch(const JobPtr& job) {
  const bool takes_input = job->plan.request.takes_input;
  if (!kill_all_waiters_.empty()) {
    return Error(ErrorCode::kFailedPrecondition, "everything is being killed");
  }
  auto user = look_up_user(job->plan.request.user);
  if (!user) return std::move(user).error();
  job->plan.user = std::move(*user);
  auto out = make_pipe();
  auto err = make_pipe();
  auto report = make_pipe();
  auto in = takes_input ? make_pipe() : Result<Pipe>(Pipe());
  for (const auto* pipe : {&out, &err, &report, &in}) {
    if (!*pipe) return pipe->error();
  }
  const pid_t keeper = options_.fork();
  if (keeper < 0) {
    return Error(ErrorCode::kExhausted,
                 std::string("no process left for the command: ") + ::strerror(errno));
  }
  if (keeper == 0) {
    keep_command(job->plan, in->read.get(), out->write.get(), err->write.get(),
                 report->write.get());
  }
  job->keeper = keeper;
  job->tree.emplace(keeper);
  job->report = std::move(report->read);
  for (const Fd* ours : {&out->read, &err->read, &job->report, &in->write}) {
    if (*ours) set_nonblocking(ours->get());
  }
  // The sources are the job's own: a plain pointer to it is good as long as they are.
  auto outlet = [this, job = job.get()](uint32_t id) {
    Source::Outlet to;
    to.room = [this, id] {
      const Stream* stream = find_stream(id);
      return stream == nullptr ? size_t{0} : room_for(*stream);
    };
    to.send = [this, id](ByteView bytes) {
      send_data(*find_stream(id), bytes);
    };
    to.ended = [this, id, job](bool) {
      Stream* stream = find_stream(id);
      if (stream == nullptr || stream->closed_here) return;
      const bool is_err = id == job->err_stream;
      wire::End end;
      end.truncated = (is_err ? job->err : job->out)->truncated();
      send(FrameType::kEnd, id, end.encode());
      if (is_err) close(*stream);
    };
    return to;
  };
  const uint64_t cap = job->plan.request.output_cap;
  job->out = std::make_unique<Source>(loop_, std::move(out->read), cap, outlet(job->out_stream));
  job->err = std::make_unique<Source>(loop_, std::move(err->read), cap, outlet(job->err_stream));
  if (takes_input) {
    job->in = std::make_unique<Sink>(loop_, std::move(in->write),
                                     Sink::Inlet{[this, id = job->out_stream](size_t n) {
                                                   if (Stream* stream = find_stream(id))
                                                     give_credit(*stream, n);
                                                 },
                                                 [this, id = job->out_stream] {
                                                   Stream* stream = find_stream(id);
                                                   if (stream != nullptr && !stream->closed_here) {
                                                     send(FrameType::kStop, id, {});
                                                   }
                                                 },
                                                 [] {
                                                 }});
  }
  loop_.watch(job->report.get(), EPOLLIN, [this, weak = std::weak_ptr(job)](uint32_t) {
    if (const auto alive = weak.lock()) on_report(alive);
  });
  if (const uint64_t ms = job->plan.request.timeout_ms) {
    // What does not fit a clock is no deadline.
    const auto most = static_cast<uint64_t>(std::chrono::milliseconds(365 * 24h).count());
    job->deadline_timer = loop_.at(Deadline::in(std::chrono::milliseconds(std::min(ms, most))),
                                   [this, weak = std::weak_ptr(job)] {
                                     const auto alive = weak.lock();
                                     if (!alive || alive->status) return;
                                     alive->timed_out = true;
                                     kill_job(alive);
                                   });
  }
  return {};
}

void Guest::on_report(const JobPtr& job) {
  while (job->report) {
    KeeperReport report;
    const ssize_t n = ::read(job->report.get(), &report, sizeof report);
    if (n < 0) return;
    if (n != sizeof report) {
      loop_.forget(job->report.get());
      job->report.reset();
      return;
    }
    Stream* stream = find_stream(job->out_stream);
    const bool open = stream != nullptr && !stream->closed_here;
    switch (report.kind) {
      case KeeperReport::Kind::kStarted:
        job->leader = report.value;
        job->leader_handle = Fd(static_cast<int>(::syscall(SYS_pidfd_open, report.value, 0)));
        leaders_[job->leader] = job;
        if (open) {
          wire::Started started;
          started.pid = static_cast<uint32_t>(job->leader);
          send(FrameType::kReply, job->out_stream, started.encode());
        }
        break;
      case KeeperReport::Kind::kFailed:
        job->status = 127 << 8;
        job->exit_sent = true;
        if (open) {
          fail(*stream, start_error(job->plan, report));
          close(*stream);
        }
        if (Stream* err = find_stream(job->err_stream)) close(*err);
        break;
      case KeeperReport::Kind::kExited:
        ended(job, report.value);
        break;
    }
  }
}

void Guest::ended(const JobPtr& job, int wait_status) {
  if (job->status) return;
  job->status = wait_status;
  leaders_.erase(job->leader);
  loop_.cancel(job->deadline_timer);
  on_job_changed(job);
}

void Guest::on_job_changed(const JobPtr& job) {
  // A command that is being killed has ended when all of it has.
  const bool gone = tree_is_gone(job);
  const bool settled = !job->killing || gone || job->kill_failed;
  if (job->status && settled && !std::exchange(job->exit_sent, true)) {
    Stream* stream = find_stream(job->out_stream);
    if (stream != nullptr && !stream->closed_here) {
      send(FrameType::kExit, job->out_stream, to_exit(*job->status, job->timed_out).encode());
      if (job->in && job->in->open()) send(FrameType::kStop, job->out_stream, {});
    }
    if (job->in) job->in->close();
    job->out->finish();
    job->err->finish();
  }
  if (gone || job->kill_failed) {
    loop_.cancel(job->kill_timer);
    for (const uint32_t id : std::exchange(job->kill_waiters, {})) {
      Stream* stream = find_stream(id);
      if (stream == nullptr || stream->closed_here) continue;
      if (gone) {
        send(FrameType::kReply, id, {});
      } else {
        fail(*stream, Error(ErrorCode::kTimedOut, "some processes of the command do not die"));
      }
      close(*stream);
    }
  }
  if (job->keeper_gone && find_stream(job->out_stream) == nullptr &&
      find_stream(job->err_stream) == nullptr) {
    if (job->report) loop_.forget(job->report.get());
    loop_.cancel(job->deadline_timer);
    trash_.push_back(job);
    jobs_.erase(job);
  }
}

bool Guest::tree_is_gone(const JobPtr& job) const {
  if (!job->keeper_gone) return false;
  // After a sweep the rest may be dying yet. Commands that were started since are none of it.
  return !job->swept || !keepers_.empty() || (::kill(-1, 0) != 0 && errno == ESRCH);
}

void Guest::kill_job(const JobPtr& job) {
  if (tree_is_gone(job)) return;
  job->killing = true;
  job->kill_failed = false;
  job->kill_deadline = Deadline::in(kKillTime);
  loop_.cancel(job->kill_timer);
  kill_job_again(job, 1ms);
}

void Guest::kill_job_again(const JobPtr& job, Duration pause) {
  if (tree_is_gone(job)) {
    on_job_changed(job);
    return;
  }
  // If nothing else runs here, everything is the job's: one call ends it all in one step, which
  // even the fastest fork bomb does not outrun. The command itself becomes the guest's child then.
  const bool alone = owns_namespace_ && verbs_.empty() &&
                     (keepers_.empty() || (keepers_.size() == 1 && !job->keeper_gone));
  if (alone) {
    job->swept = true;
    ::kill(-1, SIGKILL);
  } else {
    job->tree->kill();
  }
  if (job->kill_deadline.expired()) {
    job->kill_failed = true;
    on_job_changed(job);
    // Nobody waits any more; it goes on all the same.
    pause = 1s;
  }
  const Duration next = std::min<Duration>(pause * 2, 100ms);
  job->kill_timer = loop_.at(Deadline::in(pause), [this, weak = std::weak_ptr(job), next] {
    if (const auto alive = weak.lock()) kill_job_again(alive, next);
  });
}

void Guest::reap() {
  std::vector<std::pair<pid_t, int>> reaped;
  for (;;) {
    int status = 0;
    const pid_t pid = ::waitpid(-1, &status, WNOHANG);
    if (pid <= 0) break;
    reaped.emplace_back(pid, status);
  }
  // Keepers first: what they still reported is better than what can be concluded.
  std::vector<JobPtr> changed;
  for (const auto& [pid, status] : reaped) {
    const auto found = keepers_.find(pid);
    if (found == keepers_.end()) continue;
    const JobPtr job = found->second;
    keepers_.erase(found);
    on_report(job);
    job->keeper_gone = true;
    if (!job->status && job->leader < 0) {
      // Killed (at its deadline, with everything, by somebody inside) before it said that the
      // command runs: whether it did or not, this is how it ended.
      job->leader = pid;
      Stream* stream = find_stream(job->out_stream);
      if (stream != nullptr && !stream->closed_here) {
        wire::Started started;
        started.pid = static_cast<uint32_t>(pid);
        send(FrameType::kReply, job->out_stream, started.encode());
      }
      ended(job, SIGKILL);
    }
    changed.push_back(job);
  }
  // A command whose keeper was killed is the guest's own child now.
  for (const auto& [pid, status] : reaped) {
    const auto found = leaders_.find(pid);
    if (found == leaders_.end()) continue;
    const JobPtr job = found->second;
    ended(job, status);
  }
  for (const JobPtr& job : changed) {
    // Killed together with its keeper, and gone before anybody could be told.
    if (!job->status && ::kill(job->leader, 0) != 0) ended(job, SIGKILL);
    on_job_changed(job);
  }
  for (const auto& [pid, status] : reaped) {
    for (const VerbPtr& verb : verbs_) {
      if (verb->pid == pid) verb->pid = -1;
    }
  }
  if (!kill_all_waiters_.empty()) continue_kill_all();
}

void Guest::start_kill_all(uint32_t id) {
  const bool first = kill_all_waiters_.empty();
  kill_all_waiters_.push_back(id);
  if (!first) return;
  kill_all_deadline_ = Deadline::in(kKillTime);
  // In a process namespace of its own this hits everything but the guest, in one step: no fork
  // escapes it (kill(2) and fork(2) take the same lock).
  if (owns_namespace_) ::kill(-1, SIGKILL);
  reap();
}

void Guest::continue_kill_all() {
  const bool gone =
      owns_namespace_ ? ::kill(-1, 0) != 0 && errno == ESRCH : Tree(::getpid()).kill() == 0;
  const bool late = kill_all_deadline_.expired();
  if (!gone && !late) {
    if (owns_namespace_) ::kill(-1, SIGKILL);
    loop_.at(Deadline::in(2ms), [this] {
      if (!kill_all_waiters_.empty()) reap();
    });
    return;
  }
  for (const uint32_t id : std::exchange(kill_all_waiters_, {})) {
    Stream* stream = find_stream(id);
    if (stream == nullptr || stream->closed_here) continue;
    if (gone) {
      send(FrameType::kReply, id, {});
    } else {
      fail(*stream, Error(ErrorCode::kTimedOut, "some processes do not die"));
    }
    close(*stream);
  }
}

void Guest::kill_everything() {
  const Deadline deadline = Deadline::in(kKillTime);
  Tree tree(::getpid());
  do {
    if (owns_namespace_) ::kill(-1, SIGKILL);
    const size_t left = owns_namespace_ ? 0 : tree.kill();
    int status = 0;
    while (::waitpid(-1, &status, WNOHANG) > 0) {
    }
    // Of a namespace's first process the kernel makes an end of all the others.
    if (left == 0) return;
    ::usleep(2000);
  } while (!deadline.expired());
}

}  // namespace sluice::guest::program
