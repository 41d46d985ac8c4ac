// File verbs: each in a process of its own that has become the user.
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "sluice/base/core/check.h"
#include "sluice/base/core/syscalls.h"
#include "sluice/guest/program/guest.h"

namespace sluice::guest::program {

using namespace std::chrono_literals;
using wire::FrameType;

namespace {

// How long a verb may do nothing; the second is for what works through a whole tree in one go.
constexpr Duration kFilePatience = 60s;
constexpr Duration kTreePatience = 10min;

}  // namespace

void Guest::launch_verb(uint32_t id, const VerbPlan& plan) {
  auto verb = std::make_shared<FileVerb>();
  verb->stream = id;
  verb->patience = plan.kind.as_guest ? kTreePatience : kFilePatience;
  auto& stream = add_stream<VerbStream>(id, verb);
  stream.takes_input = plan.kind.takes_input;
  auto refuse = [&](const Error& error) {
    verb->finished = true;
    fail(stream, error);
    close(stream);
  };
  if (!kill_all_waiters_.empty()) {
    refuse(Error(ErrorCode::kFailedPrecondition, "everything is being killed"));
    return;
  }
  const auto user = look_up_user(plan.user);
  if (!user) {
    refuse(user.error());
    return;
  }
  auto in = plan.kind.takes_input ? make_pipe() : Result<Pipe>(Pipe());
  auto out = plan.kind.gives_output ? make_pipe() : Result<Pipe>(Pipe());
  int control[2];
  if (!in || !out || ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, control) != 0) {
    refuse(Error(ErrorCode::kExhausted, "no descriptor left for a file operation"));
    return;
  }
  Fd theirs(control[1]);
  verb->control = Fd(control[0]);
  const pid_t pid = options_.fork();
  if (pid < 0) {
    refuse(Error(ErrorCode::kExhausted,
                 std::string("no process left for a file operation: ") + ::strerror(errno)));
    return;
  }
  if (pid == 0) {
    int kept[] = {theirs.get(), in->read.get(), out->write.get()};
    keep_only(kept);
    const VerbProcess process{kept[1], kept[2], kept[0], *user, users_};
    ::umask(022);
    const int failure = plan.kind.as_guest ? 0 : become(*user, users_);
    auto done = failure == 0 ? plan.body(process)
                             : Result<VerbReply>(errno_error("become user " + plan.user, failure));
    // If the guest is not there any more, nobody wants to know.
    if (!done) {
      const wire::Failure told{std::move(done).error()};
      (void)send_record(process.control, FrameType::kFail, wire::encode(told));
    } else if (*done) {
      (void)send_record(process.control, FrameType::kReply, **done);
    }
    ::_exit(0);
  }
  verb->pid = pid;
  verbs_.insert(verb);
  set_nonblocking(verb->control.get());
  std::weak_ptr<FileVerb> weak = verb;
  loop_.watch(verb->control.get(), EPOLLIN, [this, weak](uint32_t) {
    if (const auto alive = weak.lock()) on_control(alive);
  });
  if (plan.kind.gives_output) {
    set_nonblocking(out->read.get());
    auto ended = [this, weak](bool) {
      if (const auto alive = weak.lock()) finish_verb(alive);
    };
    verb->out = std::make_unique<Source>(loop_, std::move(out->read), UINT64_MAX,
                                         outlet_to(id, std::move(ended)));
  }
  if (plan.kind.takes_input) {
    set_nonblocking(in->write.get());
    // Should its reader be gone, then it failed, and its reason is on its way.
    auto ended = [weak] {
      const auto alive = weak.lock();
      if (!alive) return;
      [[maybe_unused]] const auto ignored = ::write(alive->control.get(), &kInputComplete, 1);
    };
    verb->in =
        std::make_unique<Sink>(loop_, std::move(in->write), inlet_from(id, std::move(ended)));
  }
  watch_verb(verb);
}

// Ends a verb whose process does nothing though nobody keeps it from it (it was stopped by somebody
// of the same user, or a filesystem hangs).
void Guest::watch_verb(const VerbPtr& verb) {
  verb->timer = loop_.at(Deadline::in(verb->patience), [this, weak = std::weak_ptr(verb)] {
    const auto alive = weak.lock();
    if (!alive || alive->finished) return;
    const uint64_t moved =
        (alive->in ? alive->in->moved() : 0) + (alive->out ? alive->out->moved() : 0);
    const bool host_is_slow =
        (alive->out && alive->out->waits_for_room()) ||
        (alive->in && alive->in->open() && alive->in->empty() && !alive->in->ending());
    if (moved == std::exchange(alive->moved, moved) && !host_is_slow) {
      if (alive->pid > 0) ::kill(alive->pid, SIGKILL);
      if (Stream* stream = find_stream(alive->stream)) {
        fail(*stream, Error(ErrorCode::kTimedOut, "the file operation does not get on"));
      }
      alive->failed = true;
      finish_verb(alive);
      return;
    }
    watch_verb(alive);
  });
}

void Guest::on_control(const VerbPtr& verb) {
  char buffer[4096];
  bool at_end = false;
  for (;;) {
    const ssize_t n = TEMP_FAILURE_RETRY(::read(verb->control.get(), buffer, sizeof buffer));
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (n <= 0) {
      at_end = true;
      break;
    }
    verb->records.append(buffer, static_cast<size_t>(n));
  }
  VerbRecord head;
  while (verb->records.size() >= sizeof head) {
    std::memcpy(&head, verb->records.data(), sizeof head);
    CHECK(head.size <= wire::kMaxPayload);
    if (verb->records.size() < sizeof head + head.size) break;
    const Bytes payload = verb->records.substr(sizeof head, head.size);
    verb->records.erase(0, sizeof head + head.size);
    const bool failed = static_cast<FrameType>(head.type) == FrameType::kFail;
    if (find_open(verb->stream) != nullptr && !verb->failed) {
      send(failed ? FrameType::kFail : FrameType::kReply, verb->stream, payload);
    }
    verb->answered = true;
    verb->failed = verb->failed || failed;
  }
  if (at_end) {
    loop_.forget(verb->control.get());
    verb->control.reset();
    finish_verb(verb);
  }
}

void Guest::finish_verb(const VerbPtr& verb) {
  if (verb->finished) return;
  const bool over = !verb->control && (!verb->out || verb->out->done());
  if (!over && !verb->failed) return;
  verb->finished = true;
  if (Stream* stream = find_open(verb->stream)) {
    if (!verb->answered && !verb->failed) {
      fail(*stream, Error(ErrorCode::kIo, "the file operation was killed from inside"));
    } else if (!verb->failed && verb->out) {
      send(FrameType::kEnd, verb->stream, wire::encode(wire::End{}));
    }
    close(*stream);
  }
  loop_.cancel(verb->timer);
  if (verb->control) loop_.forget(verb->control.get());
  verb->control.reset();
  if (verb->in) verb->in->close();
  if (verb->out) verb->out->drop();
  verbs_.erase(verb);
  trash_.push_back(verb);
}

}  // namespace sluice::guest::program
