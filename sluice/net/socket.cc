#include "sluice/net/socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <vector>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include "sluice/base/core/defer.h"
#include "sluice/net/tcp_state.h"

namespace sluice::net {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

const auto kUse = asio::as_tuple(asio::use_awaitable_t<Executor>());

Error to_error(std::string_view what, const error_code& error) {
  if (error == asio::error::operation_aborted) {
    return Error(ErrorCode::kClosed, fmt::format("{}: closed here", what));
  }
  return errno_error(what, error.value());
}

using Protocol = asio::generic::stream_protocol;
using Socket = asio::basic_stream_socket<Protocol, Executor>;
using Acceptor = asio::basic_socket_acceptor<Protocol, Executor>;
using Timer = asio::basic_waitable_timer<Clock, asio::wait_traits<Clock>, Executor>;

// Of one end of a socket: ::getsockname's or ::getpeername's. All zero if there is none.
template <class GetName>
sockaddr_storage address_of(int fd, GetName get_name) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (get_name(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return {};
  return address;
}

std::string to_text(const sockaddr_storage& address) {
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if (address.ss_family == AF_UNIX) return "unix";
  if (::getnameinfo(reinterpret_cast<const sockaddr*>(&address), sizeof address, host, sizeof host,
                    port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "?";
  }
  return address.ss_family == AF_INET6 ? fmt::format("[{}]:{}", host, port)
                                       : fmt::format("{}:{}", host, port);
}

bool is_loopback(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET6) {
    return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr) != 0;
  }
  return address.ss_family == AF_INET &&
         ntohl(reinterpret_cast<const sockaddr_in&>(address).sin_addr.s_addr) >> 24 == 127;
}

// What the kernel's watch for a closed peer shares with the stream, which may go first.
struct SocketState {
  explicit SocketState(Socket s) : socket(std::move(s)) {}
  Socket socket;
  std::function<void(PeerClose)> on_closed;
  Timer* draining = nullptr;  // to be woken by whatever the peer sends
  bool watching = false;
};

enum class Carrier : uint8_t { kTcp, kUnix };

class SocketStream final : public Stream {
 public:
  SocketStream(Socket socket, Carrier carrier, std::string peer)
      : state_(std::make_shared<SocketState>(std::move(socket))),
        carrier_(carrier),
        peer_(std::move(peer)) {}

  ~SocketStream() override { SocketStream::close(); }

  awaitable<Result<size_t>> read_some(std::span<std::byte> into) override {
    const auto buffer = asio::buffer(into.data(), into.size());
    const auto result = co_await state_->socket.async_read_some(buffer, kUse);
    const auto& [error, n] = result;
    if (error == asio::error::eof) co_return size_t{0};
    if (error) co_return to_error("read from " + peer_, error);
    co_return n;
  }

  awaitable<Result<void>> write_all(std::span<const std::byte> bytes) override {
    const auto buffer = asio::buffer(bytes.data(), bytes.size());
    const auto result = co_await asio::async_write(state_->socket, buffer, kUse);
    const auto& [error, n] = result;
    if (error) co_return to_error("write to " + peer_, error);
    co_return Result<void>();
  }

  awaitable<Result<void>> drained(Deadline deadline) override {
    // The kernel has no event for "all acknowledged". On loopback it nearly always holds at once.
    // Else the acknowledgement most likely comes with what the peer sends next (RFC 1122, 4.2.3.2
    // lets it wait for that), so that is watched for; and it is asked again, ever less often.
    Duration pause = std::chrono::milliseconds(1);
    for (bool first = true;; first = false) {
      SLUICE_CO_TRY(const bool done, acknowledged());
      if (done) co_return Result<void>();
      if (deadline.expired()) {
        co_return Error(ErrorCode::kTimedOut, "not all was acknowledged by " + peer_);
      }
      if (first) {
        const auto state = state_;
        Timer timer(state->socket.get_executor(), Deadline::in(pause).earlier(deadline).at());
        state->draining = &timer;
        const Defer forget([&state] { state->draining = nullptr; });
        if (!state->watching) watch(state);
        const auto result = co_await timer.async_wait(kUse);
        const bool woken = state->draining == nullptr;
        if (std::get<0>(result) && !woken) {
          co_return Error(ErrorCode::kCancelled, "cancelled while waiting");
        }
      } else {
        SLUICE_CO_TRY_VOID(co_await sleep_until(Deadline::in(pause).earlier(deadline)));
        pause = std::min<Duration>(pause * 2, std::chrono::milliseconds(50));
      }
    }
  }

  void on_peer_closed(std::function<void(PeerClose)> callback) override {
    state_->on_closed = std::move(callback);
    if (state_->on_closed && !state_->watching) watch(state_);
  }

  void finish() override {
    error_code ignored;
    state_->socket.shutdown(Socket::shutdown_send, ignored);
  }

  void close() override {
    state_->on_closed = nullptr;
    error_code ignored;
    state_->socket.close(ignored);
  }

  std::string peer() const override { return peer_; }

 private:
  // Whether the peer's kernel has all that was written.
  Result<bool> acknowledged() const {
    if (!state_->socket.is_open()) return Error(ErrorCode::kClosed, "drain: closed here");
    const int fd = state_->socket.native_handle();
    if (carrier_ == Carrier::kTcp) {
      SLUICE_TRY(const Unacknowledged left, unacknowledged(fd));
      if (left == Unacknowledged::kReset) {
        return Error(ErrorCode::kClosed, "drain to " + peer_ + ": connection reset");
      }
      return left == Unacknowledged::kNothing;
    }
    // A unix socket's bytes are in the peer's queue as soon as they are written.
    int failure = 0;
    socklen_t size = sizeof failure;
    if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &size) == 0 && failure != 0) {
      return errno_error("drain to " + peer_, failure);
    }
    return true;
  }

  // Until the peer's next bytes, or its end. One system call to arm; the news of an end is asked
  // for only when somebody wants it.
  static void watch(std::shared_ptr<SocketState> state) {
    state->watching = true;
    auto& socket = state->socket;
    socket.async_wait(Socket::wait_read, [state = std::move(state)](error_code error) {
      state->watching = false;
      if (error != asio::error::operation_aborted) seen(state);
    });
  }

  static void seen(const std::shared_ptr<SocketState>& state) {
    if (Timer* const draining = std::exchange(state->draining, nullptr)) draining->cancel();
    if (!state->on_closed || !state->socket.is_open()) return;
    char next = 0;
    const ssize_t n =
        ::recv(state->socket.native_handle(), &next, 1, MSG_PEEK | MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) return;  // these wait for the next read, and so does the news of an end behind them
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return watch(state);
    const auto callback = std::exchange(state->on_closed, nullptr);
    callback(n == 0 ? PeerClose::kFin : PeerClose::kReset);
  }

  const std::shared_ptr<SocketState> state_;
  const Carrier carrier_;
  const std::string peer_;
};

std::unique_ptr<Stream> make_stream(Socket socket, int family) {
  const int fd = socket.native_handle();
  const sockaddr_storage peer = address_of(fd, ::getpeername);
  if (family == AF_UNIX) {
    return std::make_unique<SocketStream>(std::move(socket), Carrier::kUnix, to_text(peer));
  }
  error_code ignored;
  socket.set_option(asio::ip::tcp::no_delay(true), ignored);
  if (is_loopback(peer)) {
    // Within a machine there is no congestion to control; where BBR is the default, it would pace
    // every answer with a timer. A kernel that does not let us choose does without.
    constexpr std::string_view kReno = "reno";
    [[maybe_unused]] const int unchosen =
        ::setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kReno.data(), kReno.size());
  }
  return std::make_unique<SocketStream>(std::move(socket), Carrier::kTcp, to_text(peer));
}

// Lets the kernel find out that a peer is gone without a word (its machine, or the network
// between): after 60 s of silence it asks every 15 s, and after 120 s without an answer, or with
// bytes that nobody acknowledges, the connection is over. What a listener accepts inherits this.
void notice_silence(int listening) {
  const auto set = [listening](int level, int option, int value) {
    [[maybe_unused]] const int kept = ::setsockopt(listening, level, option, &value, sizeof value);
  };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 60);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 15);
  set(IPPROTO_TCP, TCP_KEEPCNT, 4);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 120'000);
}

class SocketListener final : public Listener {
 public:
  SocketListener(Acceptor acceptor, int family, std::string address, std::string path_to_unlink)
      : acceptor_(std::move(acceptor)),
        family_(family),
        address_(std::move(address)),
        unlink_(std::move(path_to_unlink)) {
    if (family_ != AF_UNIX) notice_silence(acceptor_.native_handle());
  }

  ~SocketListener() override { SocketListener::close(); }

  awaitable<Result<std::unique_ptr<Stream>>> accept() override {
    for (;;) {
      auto result = co_await acceptor_.async_accept(kUse);
      auto& [error, socket] = result;
      if (!error) co_return make_stream(std::move(socket), family_);
      // These concern one connection, or pass: the listener itself is well (accept(2)).
      if (error == asio::error::connection_aborted || error == asio::error::interrupted) continue;
      if (error == asio::error::no_descriptors || error == asio::error::no_memory ||
          error.value() == ENFILE || error.value() == ENOBUFS) {
        SLUICE_CO_TRY_VOID(co_await sleep_for(std::chrono::milliseconds(50)));
        continue;
      }
      co_return to_error("accept on " + address_, error);
    }
  }

  void close() override {
    error_code ignored;
    acceptor_.close(ignored);
    if (!unlink_.empty()) ::unlink(std::exchange(unlink_, {}).c_str());
  }

  std::string address() const override { return address_; }

 private:
  Acceptor acceptor_;
  const int family_;
  const std::string address_;
  std::string unlink_;
};

// Listens at `endpoint`, whose name for messages is `name`.
Result<Acceptor> listen_at(Shard& shard, const Protocol::endpoint& endpoint,
                           const std::string& name) {
  Acceptor acceptor(shard.executor());
  error_code error;
  acceptor.open(endpoint.protocol(), error);
  // Of no effect on a unix socket.
  if (!error) acceptor.set_option(Acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(SOMAXCONN, error);
  if (error) return errno_error("listen on " + name, error.value());
  return acceptor;
}

// SO_DOMAIN, SO_ACCEPTCONN; -1 if it cannot be told.
int socket_option(const Fd& socket, int option) {
  int value = -1;
  socklen_t size = sizeof value;
  ::getsockopt(socket.get(), SOL_SOCKET, option, &value, &size);
  return value;
}

awaitable<Result<std::unique_ptr<Stream>>> connect_to(Shard* shard, Protocol::endpoint endpoint,
                                                      std::string name, Deadline deadline) {
  Socket socket(shard->executor());
  bool late = false;
  Wheel::Timer timer(shard->wheel());
  timer.arm(deadline, [&] {
    late = true;
    error_code ignored;
    socket.close(ignored);
  });
  const auto result = co_await socket.async_connect(endpoint, kUse);
  timer.disarm();
  if (late) co_return Error(ErrorCode::kTimedOut, "connect to " + name + ": no answer in time");
  if (const auto& error = std::get<0>(result)) co_return to_error("connect to " + name, error);
  co_return make_stream(std::move(socket), endpoint.protocol().family());
}

}  // namespace

Result<std::unique_ptr<Listener>> listen_tcp(Shard& shard, const std::string& host, uint16_t port) {
  error_code error;
  const auto address = asio::ip::make_address(host, error);
  if (error) {
    return Error(ErrorCode::kInvalidArgument, "listen: \"" + host + "\" is not a numeric address");
  }
  const asio::ip::tcp::endpoint endpoint(address, port);
  SLUICE_TRY(Acceptor acceptor, listen_at(shard, endpoint, fmt::format("{}:{}", host, port)));
  std::string bound = to_text(address_of(acceptor.native_handle(), ::getsockname));
  return std::make_unique<SocketListener>(std::move(acceptor), endpoint.protocol().family(),
                                          std::move(bound), "");
}

Result<std::unique_ptr<Listener>> listen_unix(Shard& shard, const std::string& path) {
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    return Error(ErrorCode::kInvalidArgument, "listen: the path is too long for a socket: " + path);
  }
  const asio::local::stream_protocol::endpoint endpoint(path);
  struct stat st{};
  if (::lstat(path.c_str(), &st) == 0 && S_ISSOCK(st.st_mode)) {
    error_code error;
    Socket probe(shard.executor());
    probe.connect(endpoint, error);
    if (!error) {
      return Error(ErrorCode::kAlreadyExists, "listen: somebody already listens on " + path);
    }
    ::unlink(path.c_str());
  }
  SLUICE_TRY(Acceptor acceptor, listen_at(shard, endpoint, path));
  return std::make_unique<SocketListener>(std::move(acceptor), AF_UNIX, path, path);
}

Result<std::unique_ptr<Listener>> adopt_tcp_listener(Shard& shard, Fd listening) {
  const int family = socket_option(listening, SO_DOMAIN);
  if ((family != AF_INET && family != AF_INET6) || socket_option(listening, SO_ACCEPTCONN) != 1) {
    return Error(ErrorCode::kProtocol, "adopt a listener: not a listening TCP socket");
  }
  std::string address = to_text(address_of(listening.get(), ::getsockname));
  Acceptor acceptor(shard.executor());
  error_code error;
  acceptor.assign(Protocol(family, IPPROTO_TCP), listening.get(), error);
  if (error) return errno_error("adopt a listener", error.value());
  listening.release();
  return std::make_unique<SocketListener>(std::move(acceptor), family, std::move(address), "");
}

Result<std::unique_ptr<Stream>> adopt_socket(Shard& shard, Fd connected) {
  const int family = socket_option(connected, SO_DOMAIN);
  if (family != AF_UNIX && family != AF_INET && family != AF_INET6) {
    return Error(ErrorCode::kUnsupported, "adopt a socket: neither TCP nor unix");
  }
  Socket socket(shard.executor());
  error_code error;
  socket.assign(Protocol(family, 0), connected.get(), error);
  if (error) return errno_error("adopt a socket", error.value());
  connected.release();
  return make_stream(std::move(socket), family);
}

Result<std::vector<std::string>> look_up(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int failure = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
  std::vector<std::string> addresses;
  for (const addrinfo* it = found; it != nullptr; it = it->ai_next) {
    char text[NI_MAXHOST];
    if (::getnameinfo(it->ai_addr, it->ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST) ==
        0) {
      addresses.emplace_back(text);
    }
  }
  if (found != nullptr) ::freeaddrinfo(found);
  if (failure != 0 || addresses.empty()) {
    return Error(ErrorCode::kUnavailable,
                 host + ": " + (failure != 0 ? ::gai_strerror(failure) : "no address"));
  }
  return addresses;
}

awaitable<Result<std::unique_ptr<Stream>>> connect_tcp(Shard* shard, BlockingPool* names,
                                                       std::string host, uint16_t port,
                                                       Deadline deadline) {
  return connect_tcp(shard, names, std::move(host), port, AddressCheck(), deadline);
}

awaitable<Result<std::unique_ptr<Stream>>> connect_tcp(Shard* shard, BlockingPool* names,
                                                       std::string host, uint16_t port,
                                                       AddressCheck check, Deadline deadline) {
  const std::string name = fmt::format("{}:{}", host, port);
  Result<std::vector<std::string>> addresses = std::vector<std::string>{host};
  error_code not_numeric;
  asio::ip::make_address(host, not_numeric);
  if (not_numeric) {
    std::function<void()> resolve = [&] {
      addresses = look_up(host);
    };
    co_await names->run(std::move(resolve));
    if (!addresses) {
      co_return Error(ErrorCode::kUnavailable,
                      fmt::format("connect to {}: {}", name, addresses.error().message));
    }
  }
  if (check) {
    for (const std::string& address : *addresses) SLUICE_CO_TRY_VOID(check(address));
  }
  Error last;
  for (const std::string& address : *addresses) {
    const asio::ip::tcp::endpoint endpoint(asio::ip::make_address(address, not_numeric), port);
    auto stream = co_await connect_to(shard, endpoint, name, deadline);
    if (stream) co_return stream;
    last = std::move(stream).error();
    if (deadline.expired()) break;
  }
  co_return last;
}

awaitable<Result<std::unique_ptr<Stream>>> connect_unix(Shard* shard, std::string path,
                                                        Deadline deadline) {
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    co_return Error(ErrorCode::kInvalidArgument,
                    "connect: the path is too long for a socket: " + path);
  }
  const asio::local::stream_protocol::endpoint endpoint(path);
  co_return co_await connect_to(shard, endpoint, path, deadline);
}

}  // namespace sluice::net
