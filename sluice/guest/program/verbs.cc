// File verbs: each in a process of its own that has become the user.
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "sluice/base/core/check.h"
#include "sluice/guest/program/streams.h"

namespace sluice::guest::program {

using wire::FrameType;

void Guest::start_verb(uint32_t id, const VerbPlan& plan) {
  auto verb = std::make_shared<FileVerb>();
  verb->stream = id;
  verb->patience = plan.patience;
  auto& stream = add_stream<VerbStream>(id, verb);
  stream.takes_input = plan.takes_input;
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
  auto in = plan.takes_input ? make_pipe() : Result<Pipe>(Pipe());
  auto out = plan.gives_output ? make_pipe() : Result<Pipe>(Pipe());
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
    verb->control.reset();
    in->write.reset();
    out->read.reset();
    const VerbPipes pipes{in->read.get(), out->write.get(), theirs.get()};
    ::umask(022);
    Result<void> done;
    const int failure = plan.as_guest ? 0 : become(*user, users_);
    if (failure != 0) {
      done = errno_error("become user " + plan.user, failure);
    } else {
      done = plan.body(pipes, *user);
    }
    if (!done) {
      // If the guest is not there any more, nobody wants to know.
      (void)send_record(pipes.control, FrameType::kFail, wire::Failure{done.error()}.encode());
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
  if (plan.gives_output) {
    set_nonblocking(out->read.get());
    verb->out = std::make_unique<Source>(
        loop_, std::move(out->read), UINT64_MAX,
        Source::Outlet{[this, id] {
                         const Stream* to = find_stream(id);
                         return to == nullptr ? 0 : room_for(*to);
                       },
                       [this, id](ByteView bytes) { send_data(*find_stream(id), bytes); },
                       [this, weak](bool) {
                         if (const auto alive = weak.lock()) finish_verb(alive);
                       }});
  }
  if (plan.takes_input) {
    set_nonblocking(in->write.get());
    verb->in = std::make_unique<Sink>(loop_, std::move(in->write),
                                      Sink::Inlet{[this, id](size_t n) {
                                                    if (Stream* from = find_stream(id))
                                                      give_credit(*from, n);
                                                  },
                                                  [this, id] {
                                                    // It failed; its reason is on its way.
                                                    Stream* from = find_stream(id);
                                                    if (from != nullptr && !from->closed_here)
                                                      send(FrameType::kStop, id, {});
                                                  },
                                                  [weak] {
                                                    const auto alive = weak.lock();
                                                    if (!alive) return;
                                                    [[maybe_unused]] const auto ignored = ::write(
                                                        alive->control.get(), &kInputComplete, 1);
                                                  }});
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
    const ssize_t n = ::read(verb->control.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
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
    Stream* stream = find_stream(verb->stream);
    const bool failed = static_cast<FrameType>(head.type) == FrameType::kFail;
    if (stream != nullptr && !stream->closed_here && !verb->failed) {
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
  Stream* stream = find_stream(verb->stream);
  if (stream != nullptr && !stream->closed_here) {
    if (!verb->answered && !verb->failed) {
      fail(*stream, Error(ErrorCode::kIo, "the file operation was killed from inside"));
    } else if (!verb->failed && verb->out) {
      send(FrameType::kEnd, verb->stream, wire::End{}.encode());
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
