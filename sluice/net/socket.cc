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
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/buffer.hpp>
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

std::string address_text(const sockaddr_storage& address) {
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if (address.ss_family == AF_UNIX) return "unix";
  if (::getnameinfo(reinterpret_cast<const sockaddr*>(&address), sizeof address, host, sizeof host,
                    port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "?";
  }
  return address.ss_family == AF_INET6 ? fmt::format("[{}]:{}", host, port)
                                       : fmt::format("{}:{}", host, port);
}

template <class GetName>
std::string name_of(int fd, GetName get_name) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (get_name(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return "?";
  return address_text(address);
}

using Timer = asio::basic_waitable_timer<Clock, asio::wait_traits<Clock>, Executor>;

// What the kernel's watch for a closed peer shares with the stream, which may go first.
template <class Protocol>
struct SocketState {
  explicit SocketState(typename Protocol::socket::template rebind_executor<Executor>::other s)
      : socket(std::move(s)) {}
  typename Protocol::socket::template rebind_executor<Executor>::other socket;
  std::function<void(PeerClose)> on_closed;
  Timer* draining = nullptr;  // to be woken by whatever the peer sends
  bool watching = false;
};

template <class Protocol>
class SocketStream final : public Stream {
 public:
  using Socket = typename Protocol::socket::template rebind_executor<Executor>::other;

  explicit SocketStream(Socket socket)
      : state_(std::make_shared<SocketState<Protocol>>(std::move(socket))),
        peer_(name_of(state_->socket.native_handle(), ::getpeername)) {}

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
        const auto slept = co_await sleep_until(Deadline::in(pause).earlier(deadline));
        if (!slept) co_return slept.error();
        pause = std::min<Duration>(pause * 2, std::chrono::milliseconds(50));
      }
    }
  }

  void on_peer_closed(std::function<void(PeerClose)> callback) override {
    state_->on_closed = std::move(callback);
    if (state_->on_closed && !state_->watching) watch(state_);
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
    if constexpr (std::is_same_v<Protocol, asio::ip::tcp>) {
      SLUICE_TRY(const Unacknowledged left, unacknowledged(fd));
      if (left == Unacknowledged::kReset) {
        return Error(ErrorCode::kClosed, "drain to " + peer_ + ": connection reset");
      }
      return left == Unacknowledged::kNothing;
    } else {
      // A unix socket's bytes are in the peer's queue as soon as they are written.
      int failure = 0;
      socklen_t size = sizeof failure;
      if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &size) == 0 && failure != 0) {
        return errno_error("drain to " + peer_, failure);
      }
      return true;
    }
  }

  // Until the peer's next bytes, or its end. One system call to arm; the news of an end is asked
  // for only when somebody wants it.
  static void watch(std::shared_ptr<SocketState<Protocol>> state) {
    state->watching = true;
    auto& socket = state->socket;
    socket.async_wait(Socket::wait_read, [state = std::move(state)](error_code error) {
      state->watching = false;
      if (error != asio::error::operation_aborted) seen(state);
    });
  }

  static void seen(const std::shared_ptr<SocketState<Protocol>>& state) {
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

  std::shared_ptr<SocketState<Protocol>> state_;
  std::string peer_;
};

using Tcp = asio::ip::tcp;
using Unix = asio::local::stream_protocol;

template <class Protocol>
std::unique_ptr<Stream> make_stream(typename SocketStream<Protocol>::Socket socket) {
  return std::make_unique<SocketStream<Protocol>>(std::move(socket));
}

// Within a machine there is no congestion to control; where BBR is the default, it would pace every
// answer with a timer. A kernel that does not let us choose does without.
void keep_simple_on_loopback(SocketStream<Tcp>::Socket& socket) {
  error_code error;
  const auto peer = socket.remote_endpoint(error);
  if (error || !peer.address().is_loopback()) return;
  constexpr std::string_view kReno = "reno";
  [[maybe_unused]] const int ignored =
      ::setsockopt(socket.native_handle(), IPPROTO_TCP, TCP_CONGESTION, kReno.data(), kReno.size());
}

template <>
std::unique_ptr<Stream> make_stream<Tcp>(SocketStream<Tcp>::Socket socket) {
  error_code ignored;
  socket.set_option(Tcp::no_delay(true), ignored);
  keep_simple_on_loopback(socket);
  return std::make_unique<SocketStream<Tcp>>(std::move(socket));
}

template <class Protocol>
class SocketListener final : public Listener {
 public:
  using Acceptor = typename Protocol::acceptor::template rebind_executor<Executor>::other;

  SocketListener(Acceptor acceptor, std::string address, std::string path_to_unlink)
      : acceptor_(std::move(acceptor)),
        address_(std::move(address)),
        unlink_(std::move(path_to_unlink)) {}

  ~SocketListener() override { SocketListener::close(); }

  awaitable<Result<std::unique_ptr<Stream>>> accept() override {
    for (;;) {
      auto result = co_await acceptor_.async_accept(kUse);
      auto& [error, socket] = result;
      if (!error) co_return make_stream<Protocol>(std::move(socket));
      // These concern one connection, or pass: the listener itself is well (accept(2)).
      if (error == asio::error::connection_aborted || error == asio::error::interrupted) continue;
      if (error == asio::error::no_descriptors || error == asio::error::no_memory ||
          error.value() == ENFILE || error.value() == ENOBUFS) {
        const auto slept = co_await sleep_for(std::chrono::milliseconds(50));
        if (!slept) co_return slept.error();
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
  std::string address_;
  std::string unlink_;
};

template <class Protocol>
awaitable<Result<std::unique_ptr<Stream>>> connect_to(Shard* shard,
                                                      typename Protocol::endpoint endpoint,
                                                      std::string name, Deadline deadline) {
  typename SocketStream<Protocol>::Socket socket(shard->executor());
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
  co_return make_stream<Protocol>(std::move(socket));
}

}  // namespace

Result<std::unique_ptr<Listener>> listen_tcp(Shard& shard, const std::string& host, uint16_t port) {
  error_code error;
  const auto address = asio::ip::make_address(host, error);
  if (error) {
    return Error(ErrorCode::kInvalidArgument, "listen: \"" + host + "\" is not a numeric address");
  }
  SocketListener<Tcp>::Acceptor acceptor(shard.executor());
  const Tcp::endpoint endpoint(address, port);
  const std::string name = fmt::format("{}:{}", host, port);
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(Tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(SOMAXCONN, error);
  if (error) return errno_error("listen on " + name, error.value());
  std::string bound = name_of(acceptor.native_handle(), ::getsockname);
  return std::unique_ptr<Listener>(
      std::make_unique<SocketListener<Tcp>>(std::move(acceptor), std::move(bound), ""));
}

Result<std::unique_ptr<Listener>> listen_unix(Shard& shard, const std::string& path) {
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    return Error(ErrorCode::kInvalidArgument, "listen: the path is too long for a socket: " + path);
  }
  error_code error;
  const Unix::endpoint endpoint(path);
  struct stat st{};
  if (::lstat(path.c_str(), &st) == 0 && S_ISSOCK(st.st_mode)) {
    Unix::socket probe(shard.context());
    probe.connect(endpoint, error);
    if (!error) {
      return Error(ErrorCode::kAlreadyExists, "listen: somebody already listens on " + path);
    }
    ::unlink(path.c_str());
  }
  SocketListener<Unix>::Acceptor acceptor(shard.executor());
  acceptor.open(Unix(), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(SOMAXCONN, error);
  if (error) return errno_error("listen on " + path, error.value());
  return std::unique_ptr<Listener>(
      std::make_unique<SocketListener<Unix>>(std::move(acceptor), path, path));
}

Result<std::unique_ptr<Listener>> adopt_tcp_listener(Shard& shard, Fd listening) {
  int domain = 0;
  int accepting = 0;
  socklen_t size = sizeof domain;
  if (::getsockopt(listening.get(), SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0 ||
      ::getsockopt(listening.get(), SOL_SOCKET, SO_ACCEPTCONN, &accepting, &size) != 0) {
    return errno_error("adopt a listener", errno);
  }
  if ((domain != AF_INET && domain != AF_INET6) || accepting == 0) {
    return Error(ErrorCode::kProtocol, "adopt a listener: not a listening TCP socket");
  }
  std::string address = name_of(listening.get(), ::getsockname);
  SocketListener<Tcp>::Acceptor acceptor(shard.executor());
  error_code error;
  acceptor.assign(domain == AF_INET ? Tcp::v4() : Tcp::v6(), listening.get(), error);
  if (error) return errno_error("adopt a listener", error.value());
  listening.release();
  return std::unique_ptr<Listener>(
      std::make_unique<SocketListener<Tcp>>(std::move(acceptor), std::move(address), ""));
}

Result<std::unique_ptr<Stream>> adopt_socket(Shard& shard, Fd connected) {
  int domain = 0;
  socklen_t size = sizeof domain;
  if (::getsockopt(connected.get(), SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0) {
    return errno_error("adopt a socket", errno);
  }
  error_code error;
  if (domain == AF_UNIX) {
    SocketStream<Unix>::Socket socket(shard.executor());
    socket.assign(Unix(), connected.get(), error);
    if (error) return errno_error("adopt a socket", error.value());
    connected.release();
    return make_stream<Unix>(std::move(socket));
  }
  if (domain != AF_INET && domain != AF_INET6) {
    return Error(ErrorCode::kUnsupported, "adopt a socket: neither TCP nor unix");
  }
  SocketStream<Tcp>::Socket socket(shard.executor());
  socket.assign(domain == AF_INET ? Tcp::v4() : Tcp::v6(), connected.get(), error);
  if (error) return errno_error("adopt a socket", error.value());
  connected.release();
  return make_stream<Tcp>(std::move(socket));
}

awaitable<Result<std::unique_ptr<Stream>>> connect_tcp(Shard* shard, BlockingPool* names,
                                                       std::string host, uint16_t port,
                                                       Deadline deadline) {
  const std::string name = fmt::format("{}:{}", host, port);
  std::vector<Tcp::endpoint> endpoints;
  error_code not_numeric;
  const auto address = asio::ip::make_address(host, not_numeric);
  if (!not_numeric) {
    endpoints.emplace_back(address, port);
  } else {
    int failure = 0;
    std::function<void()> look_up = [&] {
      addrinfo hints{};
      hints.ai_socktype = SOCK_STREAM;
      addrinfo* found = nullptr;
      failure = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
      for (const addrinfo* it = found; it != nullptr; it = it->ai_next) {
        Tcp::endpoint endpoint;
        endpoint.resize(it->ai_addrlen);
        std::memcpy(endpoint.data(), it->ai_addr, it->ai_addrlen);
        endpoint.port(port);
        endpoints.push_back(endpoint);
      }
      if (found != nullptr) ::freeaddrinfo(found);
    };
    co_await names->run(std::move(look_up));
    if (failure != 0 || endpoints.empty()) {
      co_return Error(ErrorCode::kUnavailable,
                      fmt::format("connect to {}: {}", name,
                                  failure != 0 ? ::gai_strerror(failure) : "no address"));
    }
  }
  Error last(ErrorCode::kUnavailable, "connect to " + name);
  for (const Tcp::endpoint& endpoint : endpoints) {
    auto stream = co_await connect_to<Tcp>(shard, endpoint, name, deadline);
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
  const Unix::endpoint endpoint(path);
  co_return co_await connect_to<Unix>(shard, endpoint, path, deadline);
}

}  // namespace sluice::net
