#include "sluice/guest/program/guest.h"

#include <fcntl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "sluice/base/core/syscalls.h"

namespace sluice::guest::program {

using namespace std::chrono_literals;
using wire::FrameType;
using wire::Verb;

namespace {

// Sources rest while more than this waits for the host; the host is not read while more than that.
constexpr size_t kCongestion = 256 * 1024;
constexpr size_t kOverload = 16 * 1024 * 1024;

}  // namespace

void set_nonblocking(int fd) {
  ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
}

Guest::Guest(GuestOptions options)
    : options_(options), owns_namespace_(::getpid() == 1), uid_(::getuid()) {
  sigset_t mask;
  ::sigemptyset(&mask);
  ::sigaddset(&mask, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &mask, nullptr);
  signals_ = Fd(::signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
  loop_.watch(signals_.get(), EPOLLIN, [this](uint32_t) {
    signalfd_siginfo info{};
    while (::read(signals_.get(), &info, sizeof info) > 0) {
    }
    reap();
  });
  set_nonblocking(options_.link_in);
  set_nonblocking(options_.link_out);
  heard_ = Clock::now();
  lease_ = 30s;  // until the host says
  const wire::GuestHello hello{wire::kVersion, owns_namespace_, uid_};
  send(FrameType::kHello, 0, wire::encode(hello));
  watch_link();
}

Guest::~Guest() {
  streams_.clear();
  lingering_.clear();
  trash_.clear();
}

bool Guest::congested() const {
  return out_.size() - written_ > kCongestion;
}

End Guest::run() {
  for (;;) {
    if (const auto end = pass(Deadline::never())) {
      flush();
      kill_everything();
      return *end;
    }
  }
}

std::optional<End> Guest::pass(Deadline deadline) {
  flush();
  watch_link();
  loop_.run_once(deadline.earlier(Deadline(heard_ + lease_)));
  if (!end_ && Clock::now() - heard_ >= lease_) stop(End::kLease, "the host is silent");
  std::erase_if(lingering_, [](const auto& connection) { return !connection->lingers(); });
  trash_.clear();
  if (listeners_rest_) resume_listeners();
  return end_;
}

void Guest::stop(End why, std::string_view message) {
  if (end_) return;
  end_ = why;
  if (message.empty() || options_.log < 0) return;
  const std::string line = "sluice-guest: " + std::string(message) + "\n";
  [[maybe_unused]] const auto ignored = ::write(options_.log, line.data(), line.size());
}

void Guest::watch_link() {
  const bool reads = out_.size() - written_ < kOverload;
  const uint32_t in = reads ? EPOLLIN : 0;
  const uint32_t out = out_.size() > written_ ? EPOLLOUT : 0;
  auto readable = [this](uint32_t events) {
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) on_link_readable();
  };
  if (options_.link_in == options_.link_out) {
    loop_.watch(options_.link_in, in | out, readable);
    return;
  }
  loop_.watch(options_.link_in, in, readable);
  loop_.watch(options_.link_out, out, [this](uint32_t events) {
    if ((events & EPOLLERR) != 0) stop(End::kHostGone);
  });
}

void Guest::flush() {
  // Looked at before anything is written: it may all go out at once, and whoever rests for it would
  // never be told.
  was_congested_ = was_congested_ || congested();
  while (written_ < out_.size()) {
    // A socket goes with the first byte of its frame, and one at a time: a write ends before the
    // next one's.
    const bool passes = !sockets_.empty() && sockets_.front().first == written_;
    const size_t next = passes ? 1 : 0;
    const size_t until = sockets_.size() > next ? sockets_[next].first : out_.size();
    const ByteView piece = ByteView(out_).substr(written_, until - written_);
    ssize_t n = 0;
    if (passes) {
      const int fds[] = {sockets_.front().second.get()};
      n = send_with_fds(options_.link_out, piece, fds, 0);
      if (n > 0) sockets_.pop_front();
    } else {
      n = ::write(options_.link_out, piece.data(), piece.size());
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (n < 0) {
      stop(End::kHostGone);
      return;
    }
    written_ += static_cast<size_t>(n);
  }
  if (written_ == out_.size()) {
    out_.clear();
    written_ = 0;
  } else if (written_ > kCongestion) {
    out_.erase(0, written_);
    for (auto& entry : sockets_) entry.first -= written_;
    written_ = 0;
  }
  if (!congested() && std::exchange(was_congested_, false)) {
    // on_room() may change the table: walk a copy of its keys.
    std::vector<uint32_t> ids;
    for (const auto& entry : streams_) ids.push_back(entry.first);
    for (const uint32_t id : ids) {
      if (Stream* stream = find_stream(id)) stream->on_room();
    }
  }
}

void Guest::on_link_readable() {
  // A few reads at most, so that the host cannot keep the guest from everything else.
  for (int i = 0; i < 4 && !end_; ++i) {
    const auto space = decoder_.space();
    const ssize_t n = TEMP_FAILURE_RETRY(::read(options_.link_in, space.data(), space.size()));
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (n <= 0) {
      stop(End::kHostGone);
      return;
    }
    heard_ = Clock::now();
    decoder_.commit(static_cast<size_t>(n));
    for (;;) {
      auto frame = decoder_.next();
      if (frame && !*frame) break;
      auto handled = frame ? handle(**frame) : Result<void>(std::move(frame).error());
      if (!handled) {
        stop(End::kProtocol, handled.error().message);
        return;
      }
      if (end_) return;
    }
  }
}

Result<void> Guest::handle(const wire::Frame& frame) {
  if (!greeted_ && frame.type != FrameType::kHello) return protocol_error("no hello came first");
  if (wire::on_link(frame.type)) return handle_link(frame);
  SLUICE_TRY(const auto verdict, incoming_.accept(frame));
  if (verdict == wire::Incoming::Verdict::kDuplicate) {
    return protocol_error("a frame came twice over a link that does not resume");
  }
  return handle_stream(frame);
}

Result<void> Guest::handle_link(const wire::Frame& frame) {
  if (frame.type == FrameType::kKeepAlive) {
    if (!frame.payload.empty()) return protocol_error("a keep-alive with a payload");
    send(FrameType::kKeepAlive, 0, {});
    return {};
  }
  if (frame.type != FrameType::kHello || greeted_) {
    return protocol_error("a link frame that does not belong here");
  }
  SLUICE_TRY(const auto hello, wire::decode<wire::HostHello>(frame.payload));
  greeted_ = true;
  users_ = hello.single_user ? Users::kSingle : Users::kMany;
  open_files_ = hello.open_files;
  lease_ = std::chrono::milliseconds(std::max<uint32_t>(hello.lease_ms, 1000));
  if (hello.deadline_ms != 0) {
    // A sum that would overflow is no deadline.
    const auto most = std::chrono::milliseconds(365 * 24h).count();
    const auto ms = std::min<uint64_t>(hello.deadline_ms, static_cast<uint64_t>(most));
    loop_.at(Deadline::in(std::chrono::milliseconds(ms)),
             [this] { stop(End::kDeadline, "the sandbox's deadline has passed"); });
  }
  return {};
}

Result<void> Guest::handle_stream(const wire::Frame& frame) {
  if (assembler_.busy() && (frame.type != FrameType::kMore || frame.stream != assembling_)) {
    return protocol_error("a frame within another request");
  }
  if (frame.type == FrameType::kOpen || frame.type == FrameType::kMore) {
    if (frame.type == FrameType::kOpen) {
      if (!wire::opened_by_host(frame.stream) || frame.stream <= last_host_stream_) {
        return protocol_error("a stream number that is not the host's, or not new");
      }
      if (streams_.size() >= wire::kMaxStreams) return protocol_error("too many streams");
      last_host_stream_ = assembling_ = frame.stream;
    } else if (!assembler_.busy()) {
      return protocol_error("a part of a request without its beginning");
    }
    SLUICE_TRY(const auto request, frame.type == FrameType::kOpen ? assembler_.open(frame.payload)
                                                                  : assembler_.more(frame.payload));
    if (!request) return {};
    return open_stream(frame.stream, *request);
  }
  Stream* stream = find_stream(frame.stream);
  if (stream == nullptr) return protocol_error("a frame on an unknown stream");
  switch (frame.type) {
    case FrameType::kData:
      if (frame.payload.empty()) return protocol_error("data without data");
      if (stream->ended_there) return protocol_error("data behind the end");
      SLUICE_TRY_VOID(stream->window.received(frame.payload.size()));
      if (stream->closed_here) return {};
      if (!stream->takes_input) return protocol_error("data on a stream that takes none");
      if (Sink* sink = stream->sink()) sink->write(frame.payload);
      return {};
    case FrameType::kEnd:
      SLUICE_TRY_VOID(wire::decode<wire::End>(frame.payload));
      if (std::exchange(stream->ended_there, true)) return protocol_error("a second end");
      if (stream->closed_here) return {};
      if (!stream->takes_input) return protocol_error("an end on a stream that takes no data");
      if (Sink* sink = stream->sink()) sink->end();
      return {};
    case FrameType::kCredit: {
      SLUICE_TRY(const auto grant, wire::decode<wire::Credit>(frame.payload));
      SLUICE_TRY_VOID(stream->credit.grant(grant.bytes));
      if (!stream->closed_here) stream->on_room();
      return {};
    }
    case FrameType::kStop:
      if (!frame.payload.empty()) return protocol_error("a stop with a payload");
      if (stream->closed_here) return {};
      if (!stream->has_data) return protocol_error("a stop on a stream without data");
      if (Source* source = stream->source()) source->drop();
      return {};
    case FrameType::kDrain:
      if (!frame.payload.empty()) return protocol_error("a drain with a payload");
      if (stream->closed_here) return {};
      return stream->on_drain();
    case FrameType::kClose: {
      SLUICE_TRY_VOID(wire::decode<wire::Close>(frame.payload));
      stream->on_close();
      close(*stream);
      const auto entry = streams_.find(frame.stream);
      const std::shared_ptr<Stream> gone = std::move(entry->second);
      streams_.erase(entry);
      gone->on_gone();
      const auto connection = std::dynamic_pointer_cast<Connection>(gone);
      if (connection && connection->lingers()) {
        connection->linger();
        lingering_.push_back(connection);
      }
      trash_.push_back(gone);
      return {};
    }
    default:
      return protocol_error("a frame of the guest's own");
  }
}

Result<void> Guest::open_stream(uint32_t id, const wire::Request& request) {
  const ByteView body = request.body;
  switch (request.verb) {
    case Verb::kExec: {
      SLUICE_TRY(auto exec, wire::decode<wire::Exec>(body));
      return start_command(id, std::move(exec));
    }
    case Verb::kSignal: {
      SLUICE_TRY(const auto signal, wire::decode<wire::Signal>(body));
      add_stream<Stream>(id);
      const auto sent = send_signal(signal);
      answer(id, sent ? Result<Bytes>(Bytes()) : Result<Bytes>(sent.error()));
      return {};
    }
    case Verb::kKillTree: {
      SLUICE_TRY(const auto kill, wire::decode<wire::KillTree>(body));
      add_stream<Stream>(id);
      const auto command = find_command(kill.command);
      if (!command) {
        answer(id, command.error());
        return {};
      }
      (*command)->kill_waiters.push_back(id);
      kill_command(*command);
      on_command_changed(*command);
      return {};
    }
    case Verb::kKillAll:
      SLUICE_TRY_VOID(wire::decode<wire::KillAll>(body));
      add_stream<Stream>(id);
      start_kill_all(id);
      return {};
    case Verb::kRead:
      return start_verb<wire::Read>(id, body, {.gives_output = true});
    case Verb::kWrite:
      return start_verb<wire::Write>(id, body, {.takes_input = true});
    case Verb::kStat:
      return start_verb<wire::Stat>(id, body, {});
    case Verb::kList:
      return start_verb<wire::List>(id, body, {.gives_output = true});
    case Verb::kResetDirectory:
      return start_verb<wire::ResetDirectory>(id, body, {.as_guest = true});
    case Verb::kGiveTree:
      return start_verb<wire::GiveTree>(id, body, {.as_guest = true});
    case Verb::kPack:
      return start_verb<wire::Pack>(id, body, {.gives_output = true, .as_guest = true});
    case Verb::kUnpack:
      return start_verb<wire::Unpack>(id, body, {.takes_input = true, .as_guest = true});
    case Verb::kTakeWork:
      return start_verb<wire::TakeWork>(id, body, {.gives_output = true, .as_guest = true});
    case Verb::kPutWork:
      return start_verb<wire::PutWork>(id, body, {.takes_input = true, .as_guest = true});
    case Verb::kMakeWay:
      return start_verb<wire::MakeWay>(id, body, {.as_guest = true});
    case Verb::kListen: {
      SLUICE_TRY(const auto listen, wire::decode<wire::Listen>(body));
      start_listener(id, listen);
      return {};
    }
    case Verb::kKillUser: {
      SLUICE_TRY(const auto kill, wire::decode<wire::KillUser>(body));
      add_stream<Stream>(id);
      const auto user = look_up_user(kill.user);
      if (!user) {
        answer(id, user.error());
      } else if (users_ == Users::kSingle) {
        start_kill_all(id);
      } else {
        kill_user(id, user->uid, Deadline::in(kKillTime));
      }
      return {};
    }
    case Verb::kHandOver:
      return start_verb<wire::HandOver>(id, body, {.as_guest = true});
    case Verb::kAccepted:
      break;
  }
  return protocol_error("a request that only a guest makes");
}

template <class M>
Result<void> Guest::start_verb(uint32_t id, ByteView body, VerbKind kind) {
  SLUICE_TRY(const M request, wire::decode<M>(body));
  VerbPlan plan;
  plan.kind = kind;
  plan.user = std::to_string(uid_);
  if constexpr (requires { request.user; }) plan.user = request.user;
  plan.body = [request](const VerbProcess& process) {
    return carry_out(request, process);
  };
  launch_verb(id, plan);
  return {};
}

// --- streams -------------------------------------------------------------------------------------

Guest::Stream* Guest::find_stream(uint32_t id) {
  const auto found = streams_.find(id);
  return found == streams_.end() ? nullptr : found->second.get();
}

Guest::Stream* Guest::find_open(uint32_t id) {
  Stream* stream = find_stream(id);
  return stream == nullptr || stream->closed_here ? nullptr : stream;
}

Source::Outlet Guest::outlet_to(uint32_t id, std::function<void(bool failed)> ended) {
  Source::Outlet outlet;
  outlet.room = [this, id] {
    const Stream* stream = find_open(id);
    return stream == nullptr || congested() ? size_t{0} : stream->credit.available();
  };
  outlet.send = [this, id](ByteView bytes) {
    find_stream(id)->credit.spend(bytes.size());
    send(FrameType::kData, id, bytes);
  };
  outlet.ended = std::move(ended);
  return outlet;
}

Sink::Inlet Guest::inlet_from(uint32_t id, std::function<void()> ended) {
  Sink::Inlet inlet;
  inlet.consumed = [this, id](size_t n) {
    Stream* stream = find_open(id);
    const uint32_t grant = stream == nullptr ? 0 : stream->window.consumed(n);
    if (grant != 0) send(FrameType::kCredit, id, wire::encode(wire::Credit{grant}));
  };
  inlet.broken = [this, id] {
    if (find_open(id) != nullptr) send(FrameType::kStop, id, {});
  };
  inlet.ended = std::move(ended);
  return inlet;
}

void Guest::send(FrameType type, uint32_t stream, ByteView payload) {
  outgoing_.append(out_, type, stream, payload);
}

void Guest::send_with_socket(FrameType type, uint32_t stream, ByteView payload, Fd socket) {
  sockets_.emplace_back(out_.size(), std::move(socket));
  send(type, stream, payload);
}

void Guest::fail(Stream& stream, const Error& error) {
  if (!stream.closed_here) send(FrameType::kFail, stream.id, wire::encode(wire::Failure{error}));
}

void Guest::answer(uint32_t id, const Result<Bytes>& reply) {
  Stream* stream = find_open(id);
  if (stream == nullptr) return;
  if (reply) {
    send(FrameType::kReply, id, *reply);
  } else {
    fail(*stream, reply.error());
  }
  close(*stream);
}

void Guest::close(Stream& stream, wire::Close::Reason reason) {
  if (std::exchange(stream.closed_here, true)) return;
  send(FrameType::kClose, stream.id, wire::encode(wire::Close{reason}));
}

}  // namespace sluice::guest::program
