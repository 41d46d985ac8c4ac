// Ports: a listening socket handed over, or connections carried.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "sluice/guest/program/guest.h"

namespace sluice::guest::program {

using namespace std::chrono_literals;
using wire::FrameType;

namespace {

constexpr size_t kMaxConnections = 4096;
// For a closed connection's last bytes to be taken by the program.
constexpr Duration kLinger = 10s;

}  // namespace

Guest::Connection::Connection(Guest& g, uint32_t i, Fd socket) : Stream(g, i) {
  ++guest.connections_;
  has_data = takes_input = true;
  Fd reading(::fcntl(socket.get(), F_DUPFD_CLOEXEC, 0));
  auto in = guest.inlet_from(id, [this] {
    ::shutdown(sink_->fd(), SHUT_WR);
    ended_.reset(::fcntl(sink_->fd(), F_DUPFD_CLOEXEC, 0));
  });
  in.broken = [this] {
    broke();
  };
  sink_ = std::make_unique<Sink>(guest.loop_, std::move(socket), std::move(in));
  auto out = guest.outlet_to(id, [this](bool failed) { source_ended(failed); });
  source_ = std::make_unique<Source>(guest.loop_, std::move(reading), UINT64_MAX, std::move(out));
}

Guest::Connection::~Connection() {
  guest.loop_.cancel(timer_);
  source_.reset();
  sink_.reset();
  --guest.connections_;
}

Result<void> Guest::Connection::on_drain() {
  if (draining_) return protocol_error("a drain while one is under way");
  draining_ = true;
  drain(1ms);
  return {};
}

void Guest::Connection::linger() {
  source_->drop();
  guest.loop_.cancel(timer_);
  timer_ = guest.loop_.at(Deadline::in(kLinger), [this] { gone_ = true; });
}

void Guest::Connection::source_ended(bool failed) {
  if (failed) {
    broke();
  } else if (!closed_here) {
    guest.send(FrameType::kEnd, id, wire::encode(wire::End{}));
  }
}

void Guest::Connection::broke() {
  gone_ = true;
  if (!closed_here) guest.close(*this, wire::Close::Reason::kReset);
}

void Guest::Connection::drain(Duration pause) {
  if (closed_here) return;
  int unacknowledged = 0;
  const int fd = sink_->open() ? sink_->fd() : ended_.get();
  if (::ioctl(fd, SIOCOUTQ, &unacknowledged) != 0) {
    broke();
    return;
  }
  tcp_info info{};
  socklen_t size = sizeof info;
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 && info.tcpi_state == TCP_CLOSE) {
    broke();
    return;
  }
  if (sink_->empty() && unacknowledged == 0) {
    draining_ = false;
    guest.send(FrameType::kDrained, id, {});
    return;
  }
  // The kernel has no event for this. On loopback it nearly always holds at once.
  const Duration next = std::min<Duration>(pause * 2, 50ms);
  timer_ = guest.loop_.at(Deadline::in(pause), [this, next] { drain(next); });
}

void Guest::start_listener(uint32_t id, const wire::Listen& request) {
  auto refuse = [&](Error error) {
    add_stream<Stream>(id);
    answer(id, std::move(error));
  };
  if (!options_.may_listen) {
    refuse(Error(ErrorCode::kUnsupported, "listen: not here"));
    return;
  }
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(request.port);
  const int on = 1;
  socklen_t size = sizeof address;
  auto* plain = reinterpret_cast<sockaddr*>(&address);
  if (!socket || ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      ::bind(socket.get(), plain, sizeof address) != 0 || ::listen(socket.get(), SOMAXCONN) != 0 ||
      ::getsockname(socket.get(), plain, &size) != 0) {
    Error error = errno_error("listen on 127.0.0.1:" + std::to_string(request.port), errno);
    if (errno == EADDRINUSE) error.code = ErrorCode::kAlreadyExists;
    refuse(error);
    return;
  }
  const wire::Listening reply{ntohs(address.sin_port), request.pass_socket};
  if (request.pass_socket) {
    auto& stream = add_stream<Stream>(id);
    send_with_socket(FrameType::kReply, id, wire::encode(reply), std::move(socket));
    close(stream);
    return;
  }
  send(FrameType::kReply, id, wire::encode(reply));
  add_stream<ListenerStream>(id, std::move(socket));
}

void Guest::on_connection(ListenerStream& listener) {
  for (int i = 0; i < 16; ++i) {
    if (connections_ >= kMaxConnections || streams_.size() >= wire::kMaxStreams / 2) {
      // The rest waits in the kernel's queue until some are gone.
      listener.pause();
      listeners_rest_ = true;
      return;
    }
    sockaddr_in peer{};
    socklen_t size = sizeof peer;
    Fd socket(::accept4(listener.socket.get(), reinterpret_cast<sockaddr*>(&peer), &size,
                        SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
        listener.pause();
        loop_.at(Deadline::in(50ms), [this] { resume_listeners(); });
      }
      return;
    }
    const int on = 1;
    ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    const wire::Accepted accepted{listener.id, ntohs(peer.sin_port)};
    const auto parts = wire::split(wire::Request(accepted));
    const uint32_t id = next_guest_stream_;
    next_guest_stream_ += 2;
    if (next_guest_stream_ == 0) stop(End::kProtocol, "out of stream numbers");
    send(FrameType::kOpen, id, parts->front());
    add_stream<Connection>(id, std::move(socket)).on_room();
  }
}

void Guest::resume_listeners() {
  if (connections_ >= kMaxConnections) return;
  listeners_rest_ = false;
  for (const auto& entry : streams_) {
    if (auto* listener = dynamic_cast<ListenerStream*>(entry.second.get())) listener->watch();
  }
}

}  // namespace sluice::guest::program
