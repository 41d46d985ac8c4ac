// Commands: started under a keeper, watched, killed, reaped.
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "sluice/base/core/syscalls.h"
#include "sluice/guest/program/guest.h"

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

Result<Guest::CommandPtr> Guest::find_command(uint32_t id) {
  auto* stream = dynamic_cast<CommandStream*>(find_stream(id));
  if (stream == nullptr || stream->is_err()) return Error(ErrorCode::kNotFound, "no such command");
  return stream->command;
}

Result<void> Guest::send_signal(const wire::Signal& signal) {
  SLUICE_TRY(const CommandPtr command, find_command(signal.command));
  const Error over(ErrorCode::kNotFound, "the command has ended");
  if (command->leader < 0 || command->status) return over;
  const int handle = command->leader_handle.get();
  const auto sent = handle >= 0
                        ? ::syscall(SYS_pidfd_send_signal, handle, signal.number, nullptr, 0)
                        : ::kill(command->leader, signal.number);
  if (sent == 0) return {};
  return errno == ESRCH ? over : errno_error("signal", errno);
}

Result<void> Guest::start_command(uint32_t id, wire::Exec request) {
  if (request.err_stream != id + 2 || request.err_stream < id) {
    return protocol_error("a command whose second stream does not follow its first");
  }
  last_host_stream_ = request.err_stream;
  auto command = std::make_shared<Command>();
  command->out_stream = id;
  command->err_stream = request.err_stream;
  command->plan.request = std::move(request);
  command->plan.users = users_;
  command->plan.open_files = open_files_;
  auto& out = add_stream<CommandStream>(id, command);
  auto& err = add_stream<CommandStream>(command->err_stream, command);
  commands_.insert(command);
  const auto launched = launch(command);
  if (launched) {
    keepers_[command->keeper] = command;
    return {};
  }
  command->keeper_gone = true;
  fail(out, launched.error());
  close(out);
  close(err);
  return {};
}

Result<void> Guest::launch(const CommandPtr& command) {
  const bool takes_input = command->plan.request.takes_input;
  if (!kill_all_waiters_.empty()) {
    return Error(ErrorCode::kFailedPrecondition, "everything is being killed");
  }
  auto user = look_up_user(command->plan.request.user);
  if (!user) return std::move(user).error();
  command->plan.user = std::move(*user);
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
    keep_command(command->plan, in->read.get(), out->write.get(), err->write.get(),
                 report->write.get());
  }
  command->keeper = keeper;
  command->tree.emplace(keeper);
  command->report = std::move(report->read);
  for (const Fd* ours : {&out->read, &err->read, &command->report, &in->write}) {
    if (*ours) set_nonblocking(ours->get());
  }
  // The sources are the command's own: a plain pointer to it is good as long as they are.
  const auto source = [&](Fd& from, uint32_t id) {
    auto ended = [this, id, command = command.get()](bool) {
      Stream* stream = find_open(id);
      if (stream == nullptr) return;
      const bool is_err = id == command->err_stream;
      const wire::End end{(is_err ? command->err : command->out)->truncated()};
      send(FrameType::kEnd, id, wire::encode(end));
      if (is_err) close(*stream);
    };
    const uint64_t cap = command->plan.request.output_cap;
    return std::make_unique<Source>(loop_, std::move(from), cap, outlet_to(id, std::move(ended)));
  };
  command->out = source(out->read, command->out_stream);
  command->err = source(err->read, command->err_stream);
  if (takes_input) {
    command->in =
        std::make_unique<Sink>(loop_, std::move(in->write), inlet_from(command->out_stream, [] {}));
  }
  loop_.watch(command->report.get(), EPOLLIN, [this, weak = std::weak_ptr(command)](uint32_t) {
    if (const auto alive = weak.lock()) on_report(alive);
  });
  if (const uint64_t ms = command->plan.request.timeout_ms) {
    // What does not fit a clock is no deadline.
    const auto most = static_cast<uint64_t>(std::chrono::milliseconds(365 * 24h).count());
    command->deadline_timer = loop_.at(Deadline::in(std::chrono::milliseconds(std::min(ms, most))),
                                       [this, weak = std::weak_ptr(command)] {
                                         const auto alive = weak.lock();
                                         if (!alive || alive->status) return;
                                         alive->timed_out = true;
                                         kill_command(alive);
                                       });
  }
  return {};
}

void Guest::on_report(const CommandPtr& command) {
  while (command->report) {
    KeeperReport report;
    const ssize_t n = ::read(command->report.get(), &report, sizeof report);
    if (n < 0) return;
    if (n != sizeof report) {
      loop_.forget(command->report.get());
      command->report.reset();
      return;
    }
    Stream* stream = find_open(command->out_stream);
    switch (report.kind) {
      case KeeperReport::Kind::kStarted:
        command->leader = report.value;
        command->leader_handle = Fd(static_cast<int>(::syscall(SYS_pidfd_open, report.value, 0)));
        leaders_[command->leader] = command;
        tell_started(command);
        break;
      case KeeperReport::Kind::kFailed:
        command->status = 127 << 8;
        command->exit_sent = true;
        if (stream != nullptr) {
          fail(*stream, start_error(command->plan, report));
          close(*stream);
        }
        if (Stream* err = find_stream(command->err_stream)) close(*err);
        break;
      case KeeperReport::Kind::kExited:
        ended(command, report.value);
        break;
    }
  }
}

void Guest::tell_started(const CommandPtr& command) {
  if (find_open(command->out_stream) == nullptr) return;
  const wire::Started started{static_cast<uint32_t>(command->leader)};
  send(FrameType::kReply, command->out_stream, wire::encode(started));
}

void Guest::ended(const CommandPtr& command, int wait_status) {
  if (command->status) return;
  command->status = wait_status;
  leaders_.erase(command->leader);
  loop_.cancel(command->deadline_timer);
  on_command_changed(command);
}

void Guest::on_command_changed(const CommandPtr& command) {
  // A command that is being killed has ended when all of it has.
  const bool gone = tree_is_gone(command);
  const bool settled = !command->killing || gone || command->kill_failed;
  if (command->status && settled && !std::exchange(command->exit_sent, true)) {
    if (find_open(command->out_stream) != nullptr) {
      send(FrameType::kExit, command->out_stream,
           wire::encode(to_exit(*command->status, command->timed_out)));
      if (command->in && command->in->open()) send(FrameType::kStop, command->out_stream, {});
    }
    if (command->in) command->in->close();
    command->out->finish();
    command->err->finish();
  }
  if (gone || command->kill_failed) {
    loop_.cancel(command->kill_timer);
    const Error survived(ErrorCode::kTimedOut, "some processes of the command do not die");
    for (const uint32_t id : std::exchange(command->kill_waiters, {})) {
      answer(id, gone ? Result<Bytes>(Bytes()) : Result<Bytes>(survived));
    }
  }
  if (command->keeper_gone && find_stream(command->out_stream) == nullptr &&
      find_stream(command->err_stream) == nullptr) {
    if (command->report) loop_.forget(command->report.get());
    loop_.cancel(command->deadline_timer);
    trash_.push_back(command);
    commands_.erase(command);
  }
}

bool Guest::tree_is_gone(const CommandPtr& command) const {
  if (!command->keeper_gone) return false;
  // After a sweep the rest may be dying yet. Commands that were started since are none of it.
  return !command->swept || !keepers_.empty() || (::kill(-1, 0) != 0 && errno == ESRCH);
}

void Guest::kill_command(const CommandPtr& command) {
  if (tree_is_gone(command)) return;
  command->killing = true;
  command->kill_failed = false;
  command->kill_deadline = Deadline::in(kKillTime);
  loop_.cancel(command->kill_timer);
  kill_command_again(command, 1ms);
}

void Guest::kill_command_again(const CommandPtr& command, Duration pause) {
  if (tree_is_gone(command)) {
    on_command_changed(command);
    return;
  }
  // If nothing else runs here, everything is the command's: one call ends it all in one step, which
  // even the fastest fork bomb does not outrun. The command itself becomes the guest's child then.
  const bool alone = owns_namespace_ && verbs_.empty() &&
                     (keepers_.empty() || (keepers_.size() == 1 && !command->keeper_gone));
  if (alone) {
    command->swept = true;
    ::kill(-1, SIGKILL);
  } else {
    command->tree->kill();
  }
  if (command->kill_deadline.expired()) {
    command->kill_failed = true;
    on_command_changed(command);
    // Nobody waits any more; it goes on all the same.
    pause = 1s;
  }
  const Duration next = std::min<Duration>(pause * 2, 100ms);
  command->kill_timer = loop_.at(Deadline::in(pause), [this, weak = std::weak_ptr(command), next] {
    if (const auto alive = weak.lock()) kill_command_again(alive, next);
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
  std::vector<CommandPtr> changed;
  for (const auto& [pid, status] : reaped) {
    const auto found = keepers_.find(pid);
    if (found == keepers_.end()) continue;
    const CommandPtr command = found->second;
    keepers_.erase(found);
    on_report(command);
    command->keeper_gone = true;
    if (!command->status && command->leader < 0) {
      // Killed (at its deadline, with everything, by somebody inside) before it said that the
      // command runs: whether it did or not, this is how it ended.
      command->leader = pid;
      tell_started(command);
      ended(command, SIGKILL);
    }
    changed.push_back(command);
  }
  // A command whose keeper was killed is the guest's own child now.
  for (const auto& [pid, status] : reaped) {
    const auto found = leaders_.find(pid);
    if (found == leaders_.end()) continue;
    const CommandPtr command = found->second;
    ended(command, status);
  }
  for (const CommandPtr& command : changed) {
    // Killed together with its keeper, and gone before anybody could be told.
    if (!command->status && ::kill(command->leader, 0) != 0) ended(command, SIGKILL);
    on_command_changed(command);
  }
  for (const auto& [pid, status] : reaped) {
    for (const VerbPtr& verb : verbs_) {
      if (verb->pid == pid) verb->pid = -1;
    }
  }
  if (!kill_all_waiters_.empty()) continue_kill_all();
}

// Without a process of its own, for which there may be no room.
void Guest::kill_user(uint32_t id, uid_t uid, Deadline deadline) {
  if (owns_namespace_ && uid != uid_) signal_user(uid, SIGKILL);
  const size_t found = Tree(::getpid()).kill(uid);
  if (found == 0) {
    answer(id, Bytes());
  } else if (deadline.expired()) {
    answer(id, Error(ErrorCode::kTimedOut, "some processes of the user do not die"));
  } else {
    loop_.at(Deadline::in(2ms), [this, id, uid, deadline] { kill_user(id, uid, deadline); });
  }
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
  const Error survived(ErrorCode::kTimedOut, "some processes do not die");
  for (const uint32_t id : std::exchange(kill_all_waiters_, {})) {
    answer(id, gone ? Result<Bytes>(Bytes()) : Result<Bytes>(survived));
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
