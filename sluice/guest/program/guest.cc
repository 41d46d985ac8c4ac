#include "sluice/guest/program/guest.h"

#include <fcntl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "sluice/guest/program/archive.h"
#include "sluice/guest/program/streams.h"

namespace sluice::guest::program {

using namespace std::chrono_literals;
using wire::FrameType;
using wire::Verb;

namespace {

// Sources rest while more than this waits for the host; the host is not read while more than that.
constexpr size_t kCongestion = 256 * 1024;
constexpr size_t kOverload = 16 * 1024 * 1024;
// For what works through a whole tree in one go.
constexpr Duration kTreePatience = 10min;

Result<Fd> open_top() {
  Fd top(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!top) return errno_error("/", errno);
  return top;
}

}  // namespace

void set_nonblocking(int fd) {
  ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
}

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno_error("pipe", errno);
  return Pipe{Fd(ends[0]), Fd(ends[1])};
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
  wire::GuestHello hello;
  hello.owns_pid_namespace = owns_namespace_;
  hello.uid = uid_;
  send(FrameType::kHello, 0, hello.encode());
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
    if (const auto end = turn(Deadline::never())) {
      flush();
      kill_everything();
      return *end;
    }
  }
}

std::optional<End> Guest::turn(Deadline deadline) {
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
    size_t until = out_.size();
    ssize_t n = 0;
    if (!sockets_.empty() && sockets_.front().first > written_) {
      until = sockets_.front().first;
    }
    if (!sockets_.empty() && sockets_.front().first == written_) {
      iovec piece{out_.data() + written_, until - written_};
      alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
      msghdr message{};
      message.msg_iov = &piece;
      message.msg_iovlen = 1;
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      cmsghdr* head = CMSG_FIRSTHDR(&message);
      head->cmsg_level = SOL_SOCKET;
      head->cmsg_type = SCM_RIGHTS;
      head->cmsg_len = CMSG_LEN(sizeof(int));
      const int fd = sockets_.front().second.get();
      std::memcpy(CMSG_DATA(head), &fd, sizeof fd);
      n = ::sendmsg(options_.link_out, &message, MSG_NOSIGNAL);
      if (n > 0) sockets_.pop_front();
    } else {
      n = ::write(options_.link_out, out_.data() + written_, until - written_);
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
    const ssize_t n = ::read(options_.link_in, space.data(), space.size());
    if (n < 0 && errno == EINTR) continue;
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
  SLUICE_TRY(const auto hello, wire::HostHello::decode(frame.payload));
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
      return stream->on_data(frame.payload);
    case FrameType::kEnd:
      SLUICE_TRY_VOID(wire::End::decode(frame.payload));
      if (std::exchange(stream->ended_there, true)) return protocol_error("a second end");
      if (stream->closed_here) return {};
      return stream->on_end();
    case FrameType::kCredit: {
      SLUICE_TRY(const uint32_t grant, wire::decode_credit(frame.payload));
      SLUICE_TRY_VOID(stream->credit.grant(grant));
      if (!stream->closed_here) stream->on_room();
      return {};
    }
    case FrameType::kStop:
      if (!frame.payload.empty()) return protocol_error("a stop with a payload");
      if (stream->closed_here) return {};
      return stream->on_stop();
    case FrameType::kDrain:
      if (!frame.payload.empty()) return protocol_error("a drain with a payload");
      if (stream->closed_here) return {};
      return stream->on_drain();
    case FrameType::kClose: {
      SLUICE_TRY_VOID(wire::Close::decode(frame.payload));
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
  VerbPlan verb;
  switch (request.verb) {
    case Verb::kExec: {
      SLUICE_TRY(auto exec, wire::Exec::decode(body));
      return start_command(id, std::move(exec));
    }
    case Verb::kSignal: {
      SLUICE_TRY(const auto signal, wire::Signal::decode(body));
      auto& stream = add_stream<Plain>(id);
      const auto job = find_job(signal.job);
      if (!job) {
        fail(stream, job.error());
      } else if ((*job)->leader < 0 || (*job)->status) {
        fail(stream, Error(ErrorCode::kNotFound, "the command has ended"));
      } else {
        const int handle = (*job)->leader_handle.get();
        const auto sent = handle >= 0
                              ? ::syscall(SYS_pidfd_send_signal, handle, signal.number, nullptr, 0)
                              : ::kill((*job)->leader, signal.number);
        if (sent == 0) {
          send(FrameType::kReply, id, {});
        } else if (errno == ESRCH) {
          fail(stream, Error(ErrorCode::kNotFound, "the command has ended"));
        } else {
          fail(stream, errno_error("signal", errno));
        }
      }
      close(stream);
      return {};
    }
    case Verb::kKillTree: {
      SLUICE_TRY(const auto kill, wire::KillTree::decode(body));
      auto& stream = add_stream<Plain>(id);
      const auto job = find_job(kill.job);
      if (!job) {
        fail(stream, job.error());
        close(stream);
        return {};
      }
      (*job)->kill_waiters.push_back(id);
      kill_job(*job);
      on_job_changed(*job);
      return {};
    }
    case Verb::kKillAll:
      SLUICE_TRY_VOID(wire::KillAll::decode(body));
      add_stream<Plain>(id);
      start_kill_all(id);
      return {};
    case Verb::kRead: {
      SLUICE_TRY(auto read, wire::Read::decode(body));
      verb.user = read.user;
      verb.gives_output = true;
      verb.body = [read](const VerbPipes& pipes, const User&) {
        return read_verb(read, pipes);
      };
      break;
    }
    case Verb::kWrite: {
      SLUICE_TRY(auto write, wire::Write::decode(body));
      verb.user = write.user;
      verb.takes_input = true;
      verb.body = [write](const VerbPipes& pipes, const User&) -> Result<void> {
        SLUICE_TRY_VOID(write_verb(write, pipes));
        return send_record(pipes.control, FrameType::kReply, {});
      };
      break;
    }
    case Verb::kStat: {
      SLUICE_TRY(auto stat, wire::Stat::decode(body));
      verb.user = stat.user;
      verb.body = [stat](const VerbPipes& pipes, const User&) -> Result<void> {
        SLUICE_TRY(const auto info, stat_verb(stat));
        return send_record(pipes.control, FrameType::kReply, info.encode());
      };
      break;
    }
    case Verb::kList: {
      SLUICE_TRY(auto list, wire::List::decode(body));
      verb.user = list.user;
      verb.gives_output = true;
      verb.body = [list](const VerbPipes& pipes, const User&) -> Result<void> {
        SLUICE_TRY_VOID(list_verb(list, pipes));
        return send_record(pipes.control, FrameType::kReply, {});
      };
      break;
    }
    case Verb::kResetDirectory: {
      SLUICE_TRY(auto reset, wire::ResetDirectory::decode(body));
      verb.user = reset.user;
      verb.as_guest = true;
      verb.patience = kTreePatience;
      verb.body = [reset, users = users_](const VerbPipes& pipes,
                                          const User& owner) -> Result<void> {
        SLUICE_TRY_VOID(reset_directory_verb(reset, owner, users));
        return send_record(pipes.control, FrameType::kReply, {});
      };
      break;
    }
    case Verb::kGiveTree: {
      SLUICE_TRY(auto give, wire::GiveTree::decode(body));
      verb.user = give.user;
      verb.as_guest = true;
      verb.patience = kTreePatience;
      verb.body = [give, users = users_](const VerbPipes& pipes,
                                         const User& owner) -> Result<void> {
        SLUICE_TRY(const uint64_t left, give_tree_verb(give, owner, users));
        return send_record(pipes.control, FrameType::kReply, wire::Count{left}.encode());
      };
      break;
    }
    case Verb::kPack: {
      SLUICE_TRY(const auto pack, wire::Pack::decode(body));
      verb.user = std::to_string(uid_);
      verb.gives_output = true;
      verb.as_guest = true;
      verb.patience = kTreePatience;
      verb.body = [pack](const VerbPipes& pipes, const User&) -> Result<void> {
        SLUICE_TRY(const Fd top, open_top());
        SLUICE_TRY_VOID(pack_tree(top.get(), pipes.out, pack.max));
        return send_record(pipes.control, FrameType::kReply, {});
      };
      break;
    }
    case Verb::kUnpack: {
      SLUICE_TRY_VOID(wire::Unpack::decode(body));
      verb.user = std::to_string(uid_);
      verb.takes_input = true;
      verb.as_guest = true;
      verb.patience = kTreePatience;
      verb.body = [users = users_](const VerbPipes& pipes, const User&) -> Result<void> {
        SLUICE_TRY(const Fd top, open_top());
        SLUICE_TRY_VOID(unpack_tree(top.get(), pipes.in, users));
        return send_record(pipes.control, FrameType::kReply, {});
      };
      break;
    }
    case Verb::kListen: {
      SLUICE_TRY(const auto listen, wire::Listen::decode(body));
      start_listener(id, listen);
      return {};
    }
    case Verb::kAccepted:
      return protocol_error("a request that only a guest makes");
  }
  start_verb(id, verb);
  return {};
}

// --- streams -------------------------------------------------------------------------------------

Guest::Stream* Guest::find_stream(uint32_t id) {
  const auto found = streams_.find(id);
  return found == streams_.end() ? nullptr : found->second.get();
}

void Guest::send(FrameType type, uint32_t stream, ByteView payload) {
  outgoing_.append(out_, type, stream, payload);
}

void Guest::send_with_socket(FrameType type, uint32_t stream, ByteView payload, Fd socket) {
  sockets_.emplace_back(out_.size(), std::move(socket));
  send(type, stream, payload);
}

size_t Guest::room_for(const Stream& stream) const {
  return stream.closed_here || congested() ? 0 : stream.credit.available();
}

void Guest::send_data(Stream& stream, ByteView bytes) {
  stream.credit.spend(bytes.size());
  send(FrameType::kData, stream.id, bytes);
}

void Guest::give_credit(Stream& stream, size_t consumed) {
  const uint32_t grant = stream.window.consumed(consumed);
  if (grant != 0 && !stream.closed_here) {
    send(FrameType::kCredit, stream.id, wire::encode_credit(grant));
  }
}

void Guest::fail(Stream& stream, const Error& error) {
  if (!stream.closed_here) send(FrameType::kFail, stream.id, wire::Failure{error}.encode());
}

void Guest::close(Stream& stream, wire::Close::Reason reason) {
  if (std::exchange(stream.closed_here, true)) return;
  send(FrameType::kClose, stream.id, wire::Close{reason}.encode());
}

}  // namespace sluice::guest::program
