#include "sluice/net/socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>

#include "sluice/net/testing.h"

namespace sluice::net {
namespace {

using namespace std::chrono_literals;
using StreamPtr = std::unique_ptr<Stream>;

uint16_t port_of(const Listener& listener) {
  const std::string address = listener.address();
  return static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)));
}

struct Pair {
  StreamPtr client, server;
};

awaitable<void> accept_into(Listener* listener, StreamPtr* stream) {
  auto accepted = co_await listener->accept();
  if (accepted) *stream = std::move(*accepted);
}

class SocketTest : public ::testing::Test {
 protected:
  Pair connect() {
    auto listener = listen_tcp(shard_, "127.0.0.1", 0);
    EXPECT_TRUE(listener);
    Pair pair;
    shard_.spawn(accept_into(listener->get(), &pair.server));
    auto client = testing::run(
        shard_, connect_tcp(&shard_, &names_, "127.0.0.1", port_of(**listener), Deadline::in(5s)));
    EXPECT_TRUE(client);
    pair.client = std::move(*client);
    shard_.run_until([&] { return pair.server != nullptr; });
    return pair;
  }

  std::string read(Stream& stream) {
    Bytes buffer(4096, '\0');
    auto n = testing::run(shard_, stream.read_some(as_writable_byte_span(buffer)));
    return n ? buffer.substr(0, *n) : "error: " + n.error().message;
  }

  Shard shard_;
  BlockingPool names_{1};
};

TEST_F(SocketTest, CarriesBytesBothWaysAndReportsTheEnd) {
  Pair pair = connect();
  ASSERT_TRUE(testing::run(shard_, write_all(pair.client.get(), "ping")));
  EXPECT_EQ(read(*pair.server), "ping");
  ASSERT_TRUE(testing::run(shard_, write_all(pair.server.get(), "pong")));
  EXPECT_EQ(read(*pair.client), "pong");
  pair.client->close();
  EXPECT_EQ(read(*pair.server), "");
}

int option(int fd, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  EXPECT_EQ(::getsockopt(fd, level, name, &value, &size), 0);
  return value;
}

TEST_F(SocketTest, AnAcceptedConnectionNoticesThatItsPeerIsGone) {
  Fd bound(::socket(AF_INET, SOCK_STREAM, 0));
  ASSERT_EQ(::listen(bound.get(), 1), 0);
  auto adopted = adopt_tcp_listener(shard_, std::move(bound));
  auto made = listen_tcp(shard_, "127.0.0.1", 0);
  ASSERT_TRUE(adopted && made);
  for (Listener* const listener : {adopted->get(), made->get()}) {
    StreamPtr server;
    shard_.spawn(accept_into(listener, &server));
    const Fd client(::socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port_of(*listener));
    ASSERT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    shard_.run_until([&] { return server != nullptr; });
    // The stream does not show its descriptor: it is the one whose peer is our client.
    socklen_t size = sizeof address;
    ASSERT_EQ(::getsockname(client.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    int accepted = -1;
    for (int fd = 0; fd < 256; ++fd) {
      sockaddr_in peer{};
      size = sizeof peer;
      if (::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) == 0 &&
          peer.sin_family == AF_INET && peer.sin_port == address.sin_port) {
        accepted = fd;
      }
    }
    ASSERT_GE(accepted, 0);
    EXPECT_EQ(option(accepted, SOL_SOCKET, SO_KEEPALIVE), 1);
    EXPECT_EQ(option(accepted, IPPROTO_TCP, TCP_KEEPIDLE), 60);
    EXPECT_EQ(option(accepted, IPPROTO_TCP, TCP_KEEPINTVL), 15);
    EXPECT_EQ(option(accepted, IPPROTO_TCP, TCP_KEEPCNT), 4);
    EXPECT_EQ(option(accepted, IPPROTO_TCP, TCP_USER_TIMEOUT), 120'000);
  }
}

TEST_F(SocketTest, CloseEndsAPendingReadWithAnError) {
  Pair pair = connect();
  Bytes buffer(16, '\0');
  std::optional<Result<size_t>> result;
  bool done = false;
  std::exception_ptr failure;
  shard_.spawn(testing::internal::store(pair.client->read_some(as_writable_byte_span(buffer)),
                                        &result, &done, &failure));
  shard_.context().poll();
  EXPECT_FALSE(done);
  pair.client->close();
  shard_.run_until([&] { return done; });
  ASSERT_FALSE(*result);
  EXPECT_EQ(result->error().code, ErrorCode::kClosed);
}

TEST_F(SocketTest, HalfACloseReachesThePeerAndReadingGoesOn) {
  Pair pair = connect();
  ASSERT_TRUE(testing::run(shard_, write_all(pair.client.get(), "all of it")));
  pair.client->finish();
  EXPECT_EQ(read(*pair.server), "all of it");
  EXPECT_EQ(read(*pair.server), "");
  ASSERT_TRUE(testing::run(shard_, write_all(pair.server.get(), "answer")));
  EXPECT_EQ(read(*pair.client), "answer");
  EXPECT_FALSE(testing::run(shard_, write_all(pair.client.get(), "more")));
  pair.client->close();
  pair.client->finish();  // of no effect
}

TEST_F(SocketTest, TellsAFinFromAReset) {
  Pair orderly = connect();
  std::optional<PeerClose> seen;
  orderly.server->on_peer_closed([&](PeerClose close) { seen = close; });
  orderly.client->close();
  shard_.run_until([&] { return seen.has_value(); });
  EXPECT_EQ(seen, PeerClose::kFin);

  // A client that closes with unread bytes of ours resets the connection.
  Pair broken = connect();
  seen.reset();
  ASSERT_TRUE(testing::run(shard_, write_all(broken.server.get(), "unread")));
  broken.server->on_peer_closed([&](PeerClose close) { seen = close; });
  broken.client->close();
  shard_.run_until([&] { return seen.has_value(); });
  EXPECT_EQ(seen, PeerClose::kReset);
}

TEST_F(SocketTest, BytesEndTheWatchAndAreKept) {
  Pair pair = connect();
  bool called = false;
  pair.server->on_peer_closed([&](PeerClose) { called = true; });
  ASSERT_TRUE(testing::run(shard_, write_all(pair.client.get(), "next request")));
  ASSERT_TRUE(testing::run(shard_, sleep_for(20ms)));
  EXPECT_FALSE(called);
  EXPECT_EQ(read(*pair.server), "next request");
}

TEST_F(SocketTest, DrainedHoldsOnceThePeersKernelHasTheBytes) {
  Pair pair = connect();
  ASSERT_TRUE(testing::run(shard_, write_all(pair.server.get(), Bytes(100'000, 'x'))));
  EXPECT_TRUE(testing::run(shard_, pair.server->drained(Deadline::in(5s))));
}

TEST_F(SocketTest, DrainedFailsAfterAReset) {
  Pair pair = connect();
  ASSERT_TRUE(testing::run(shard_, write_all(pair.server.get(), "unread")));
  pair.client->close();
  ASSERT_TRUE(testing::run(shard_, sleep_for(10ms)));
  EXPECT_FALSE(testing::run(shard_, pair.server->drained(Deadline::in(1s))));
}

TEST_F(SocketTest, NamesAreLookedUpAndTheirAddressesTriedInOrder) {
  const auto found = look_up("localhost");
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_NE(std::find(found->begin(), found->end(), "127.0.0.1"), found->end());
  EXPECT_EQ(look_up("127.0.0.1"), std::vector<std::string>{"127.0.0.1"});
  EXPECT_EQ(look_up("no.such.name.invalid").error().code, ErrorCode::kUnavailable);
  auto listener = listen_tcp(shard_, "127.0.0.1", 0);
  ASSERT_TRUE(listener);
  EXPECT_TRUE(testing::run(
      shard_, connect_tcp(&shard_, &names_, "localhost", port_of(**listener), Deadline::in(5s))));
}

TEST_F(SocketTest, RefusedAndUnknownAreUnavailableAndNamed) {
  auto refused =
      testing::run(shard_, connect_tcp(&shard_, &names_, "127.0.0.1", 1, Deadline::in(5s)));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnavailable);
  EXPECT_NE(refused.error().message.find("127.0.0.1:1"), std::string::npos);

  auto unknown = testing::run(
      shard_, connect_tcp(&shard_, &names_, "no-such-host.invalid", 80, Deadline::in(20s)));
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, ErrorCode::kUnavailable);
}

TEST_F(SocketTest, UnixSocketsReplaceAStaleFileAndRefuseALiveOne) {
  const std::string path =
      ::testing::TempDir() + "/sluice_socket_test." + std::to_string(::getpid());
  {
    auto first = listen_unix(shard_, path);
    ASSERT_TRUE(first);
    auto second = listen_unix(shard_, path);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, ErrorCode::kAlreadyExists);
    auto client = testing::run(shard_, connect_unix(&shard_, path, Deadline::in(5s)));
    EXPECT_TRUE(client);
  }
  // A process that was killed leaves its socket file behind.
  const int stale = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(stale, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ::close(stale);
  EXPECT_TRUE(listen_unix(shard_, path));
}

TEST_F(SocketTest, OnlyListeningTcpSocketsAreAdopted) {
  EXPECT_FALSE(adopt_tcp_listener(shard_, Fd(::socket(AF_INET, SOCK_STREAM, 0))));
  EXPECT_FALSE(adopt_tcp_listener(shard_, Fd(::socket(AF_UNIX, SOCK_STREAM, 0))));
  EXPECT_FALSE(adopt_tcp_listener(shard_, Fd(::open("/dev/null", O_RDONLY))));
  Fd listening(::socket(AF_INET, SOCK_STREAM, 0));
  ASSERT_EQ(::listen(listening.get(), 1), 0);
  EXPECT_TRUE(adopt_tcp_listener(shard_, std::move(listening)));
}

}  // namespace
}  // namespace sluice::net
