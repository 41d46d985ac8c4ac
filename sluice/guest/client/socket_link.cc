#include <sys/socket.h>

#include <cerrno>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "sluice/base/core/syscalls.h"
#include "sluice/guest/client/link.h"

namespace sluice::guest {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using Unix = asio::local::stream_protocol;
using Socket = Unix::socket::rebind_executor<net::Executor>::other;

const auto kUse = asio::as_tuple(asio::use_awaitable_t<net::Executor>());

class SocketLink final : public Link {
 public:
  explicit SocketLink(Socket socket) : socket_(std::move(socket)) {}
  ~SocketLink() override { SocketLink::close(); }

  bool passes_descriptors() const override { return true; }

  awaitable<Result<size_t>> read_some(std::span<std::byte> into, std::vector<Fd>* fds) override {
    for (;;) {
      if (!socket_.is_open()) co_return closed_here();
      const auto n = receive_with_fds(socket_.native_handle(), into, fds, MSG_DONTWAIT);
      if (n >= 0) co_return static_cast<size_t>(n);
      if (errno != EAGAIN) co_return errno_error("read from the guest", errno);
      const auto waited = co_await socket_.async_wait(Socket::wait_read, kUse);
      if (std::get<0>(waited)) co_return closed_here();
    }
  }

  awaitable<Result<void>> write_all(ByteView bytes) override {
    while (!bytes.empty()) {
      if (!socket_.is_open()) co_return closed_here();
      const auto n = send_with_fds(socket_.native_handle(), bytes, {}, MSG_DONTWAIT);
      if (n >= 0) {
        bytes.remove_prefix(static_cast<size_t>(n));
        continue;
      }
      if (errno != EAGAIN) co_return errno_error("write to the guest", errno);
      const auto waited = co_await socket_.async_wait(Socket::wait_write, kUse);
      if (std::get<0>(waited)) co_return closed_here();
    }
    co_return Result<void>();
  }

  void close() override {
    error_code ignored;
    socket_.close(ignored);
  }

 private:
  static Error closed_here() { return Error(ErrorCode::kClosed, "the link was closed here"); }

  Socket socket_;
};

}  // namespace

Result<std::unique_ptr<Link>> make_socket_link(net::Shard& shard, Fd socket) {
  Socket wrapped(shard.executor());
  error_code error;
  wrapped.assign(Unix(), socket.get(), error);
  if (error) return errno_error("take over the guest's socket", error.value());
  socket.release();
  return std::unique_ptr<Link>(std::make_unique<SocketLink>(std::move(wrapped)));
}

void close_foreign(Fd fd) {
  const linger none{0, 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &none, sizeof none);
}

}  // namespace sluice::guest
