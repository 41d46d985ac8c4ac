// Ports of programs inside, handed over or carried.
#include <arpa/inet.h>
#include <netinet/in.h>

#include <atomic>
#include <optional>
#include <thread>

#include "sluice/guest/testing.h"

namespace sluice::guest {
namespace {

uint16_t port_of(const net::Listener& listener) {
  const std::string address = listener.address();
  return static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)));
}

// A program's side of a connection: a plain blocking socket.
Fd connect_to(uint16_t port) {
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return Fd();
  }
  return socket;
}

awaitable<Result<void>> echo_connection(std::unique_ptr<net::Stream> stream) {
  Bytes buffer(100'000, '\0');
  for (;;) {
    SLUICE_CO_TRY(const size_t n, co_await stream->read_some(as_writable_byte_span(buffer)));
    if (n == 0) co_return Result<void>();
    const ByteView view = ByteView(buffer).substr(0, n);
    SLUICE_CO_TRY_VOID(co_await net::write_all(stream.get(), view));
  }
}

class PortTest : public GuestTest {
 protected:
  std::unique_ptr<net::Listener> listen(Carry carry) {
    auto listener = run(shard_, client_->listen(0, carry));
    EXPECT_TRUE(listener) << listener.error().message;
    return listener ? std::move(*listener) : nullptr;
  }
  std::unique_ptr<net::Stream> accept(net::Listener& listener) {
    auto stream = run(shard_, listener.accept());
    EXPECT_TRUE(stream) << stream.error().message;
    return stream ? std::move(*stream) : nullptr;
  }
  std::string read_from(net::Stream& stream) {
    Bytes buffer(100, '\0');
    const auto n = run(shard_, stream.read_some(as_writable_byte_span(buffer)));
    return n ? buffer.substr(0, *n) : "error: " + n.error().message;
  }
};
INSTANTIATE_TEST_SUITE_P(Forms, PortTest,
                         ::testing::Values(Form::kLibrary, Form::kProgram, Form::kStream),
                         form_name);

TEST_P(PortTest, CarriesBothWaysByEitherMeans) {
  for (const Carry carry : {Carry::kSocket, Carry::kConnections}) {
    const auto listener = listen(carry);
    ASSERT_TRUE(listener);
    const Fd program = connect_to(port_of(*listener));
    ASSERT_TRUE(program);
    const auto stream = accept(*listener);
    ASSERT_TRUE(stream);
    ASSERT_TRUE(sluice::write_all(program.get(), "question"));
    EXPECT_EQ(read_from(*stream), "question");
    ASSERT_TRUE(run(shard_, net::write_all(stream.get(), "answer")));
    EXPECT_TRUE(run(shard_, stream->drained(Deadline::in(10s))));
    char buffer[6];
    EXPECT_EQ(::recv(program.get(), buffer, 6, MSG_WAITALL), 6);
    EXPECT_EQ(std::string(buffer, 6), "answer");
    // Half a close: its side ends, ours goes on.
    ::shutdown(program.get(), SHUT_WR);
    EXPECT_EQ(read_from(*stream), "");
    ASSERT_TRUE(run(shard_, net::write_all(stream.get(), "last!!")));
    EXPECT_TRUE(run(shard_, stream->drained(Deadline::in(10s))));
    EXPECT_EQ(::recv(program.get(), buffer, 6, MSG_WAITALL), 6);
    stream->close();
    EXPECT_FALSE(run(shard_, net::write_all(stream.get(), "x")));
    EXPECT_EQ(exec(shell("true")).exit.exit.status, 0);
    EXPECT_EQ(::recv(program.get(), buffer, 6, 0), 0);
  }
}

awaitable<void> listen_into(Client* client, std::unique_ptr<net::Listener>* into, int* left) {
  auto listener = co_await client->listen(0, Carry::kSocket);
  EXPECT_TRUE(listener) << listener.error().message;
  if (listener) *into = std::move(*listener);
  --*left;
}

// Asked for at once, they are answered at once: in one flush of the guest.
TEST_P(PortTest, SeveralSocketsInOneFlushAllArrive) {
  std::unique_ptr<net::Listener> listeners[3];
  int left = 3;
  for (auto& listener : listeners) shard_.spawn(listen_into(client_.get(), &listener, &left));
  shard_.run_until([&] { return left == 0; });
  for (const auto& listener : listeners) {
    ASSERT_TRUE(listener);
    const Fd program = connect_to(port_of(*listener));
    ASSERT_TRUE(program);
    const auto stream = accept(*listener);
    ASSERT_TRUE(stream);
    ASSERT_TRUE(sluice::write_all(program.get(), "question"));
    EXPECT_EQ(read_from(*stream), "question");
  }
  EXPECT_EQ(exec(shell("echo on")).out, "on\n");
}

TEST_P(PortTest, HalfACloseReachesTheProgramAndReadingGoesOn) {
  for (const Carry carry : {Carry::kSocket, Carry::kConnections}) {
    const auto listener = listen(carry);
    ASSERT_TRUE(listener);
    const Fd program = connect_to(port_of(*listener));
    ASSERT_TRUE(program);
    const timeval patience{20, 0};
    ::setsockopt(program.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    const auto stream = accept(*listener);
    ASSERT_TRUE(stream);
    ASSERT_TRUE(run(shard_, net::write_all(stream.get(), "all of it")));
    stream->finish();
    EXPECT_TRUE(run(shard_, stream->drained(Deadline::in(10s))));
    char buffer[10];
    EXPECT_EQ(::recv(program.get(), buffer, 10, MSG_WAITALL), 9) << "its bytes, and then its end";
    EXPECT_EQ(::recv(program.get(), buffer, 10, 0), 0);
    ASSERT_TRUE(sluice::write_all(program.get(), "answer"));
    EXPECT_EQ(read_from(*stream), "answer");
  }
}

TEST_P(PortTest, APortThatIsTakenSaysSo) {
  const auto first = listen(Carry::kConnections);
  const auto second = run(shard_, client_->listen(port_of(*first), Carry::kSocket));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kAlreadyExists);
  // A closed one is free again.
  const uint16_t port = port_of(*first);
  first->close();
  EXPECT_EQ(run(shard_, first->accept()).error().code, ErrorCode::kClosed);
  EXPECT_TRUE(run(shard_, client_->listen(port, Carry::kSocket)));
}

TEST_P(PortTest, AFinIsToldFromAReset) {
  const auto listener = listen(Carry::kConnections);
  for (const auto expected : {net::PeerClose::kFin, net::PeerClose::kReset}) {
    Fd program = connect_to(port_of(*listener));
    const auto stream = accept(*listener);
    std::optional<net::PeerClose> told;
    stream->on_peer_closed([&](net::PeerClose how) { told = how; });
    if (expected == net::PeerClose::kReset) {
      const linger hard{1, 0};
      ::setsockopt(program.get(), SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    }
    program.reset();
    shard_.run_until([&] { return told.has_value(); });
    EXPECT_EQ(*told, expected);
    // Who asks later is told too.
    told.reset();
    stream->on_peer_closed([&](net::PeerClose how) { told = how; });
    EXPECT_FALSE(told);
    shard_.run_until([&] { return told.has_value(); });
    EXPECT_EQ(*told, expected);
  }
}

TEST_P(PortTest, BytesEndTheWatchAndAreKept) {
  const auto listener = listen(Carry::kConnections);
  Fd program = connect_to(port_of(*listener));
  const auto stream = accept(*listener);
  bool told = false;
  stream->on_peer_closed([&](net::PeerClose) { told = true; });
  ASSERT_TRUE(sluice::write_all(program.get(), "bytes"));
  program.reset();
  exec(shell("sleep 0.05"));
  EXPECT_FALSE(told);
  EXPECT_EQ(read_from(*stream), "bytes");
  EXPECT_EQ(read_from(*stream), "");
}

TEST_P(PortTest, DrainedMeansTheProgramsKernelHasIt) {
  const auto listener = listen(Carry::kConnections);
  const Fd program = connect_to(port_of(*listener));
  const int small = 64 * 1024;
  ::setsockopt(program.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  const auto stream = accept(*listener);
  // More than every buffer on the way takes while nobody reads: TCP's may grow to 4 MiB, and do
  // where the kernel remembers a lossy loopback.
  const Bytes big(32 * kMiB, 'b');
  bool wrote = false;
  shard_.spawn([](net::Stream* to, const Bytes* bytes, bool* done) -> awaitable<void> {
    const ByteView view = *bytes;
    (void)co_await net::write_all(to, view);
    *done = true;
  }(stream.get(), &big, &wrote));
  EXPECT_EQ(run(shard_, stream->drained(Deadline::in(300ms))).error().code, ErrorCode::kTimedOut);
  EXPECT_FALSE(wrote);
  std::thread reader([&] {
    Bytes buffer(100'000, '\0');
    size_t total = 0;
    while (total < big.size()) {
      const auto n = ::recv(program.get(), buffer.data(), buffer.size(), 0);
      if (n <= 0) break;
      total += static_cast<size_t>(n);
    }
    EXPECT_EQ(total, big.size());
  });
  shard_.run_until([&] { return wrote; });
  EXPECT_TRUE(run(shard_, stream->drained(Deadline::in(10s))));
  reader.join();
}

TEST_P(PortTest, DrainFailsWhenTheProgramIsGone) {
  const auto listener = listen(Carry::kConnections);
  Fd program = connect_to(port_of(*listener));
  const auto stream = accept(*listener);
  const linger hard{1, 0};
  ::setsockopt(program.get(), SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  program.reset();
  (void)run(shard_, net::write_all(stream.get(), "lost"));
  EXPECT_FALSE(run(shard_, stream->drained(Deadline::in(10s))));
}

awaitable<void> serve(net::Listener* listener, net::Shard* shard, int* served) {
  for (;;) {
    auto stream = co_await listener->accept();
    if (!stream) co_return;
    ++*served;
    shard->spawn([](std::unique_ptr<net::Stream> s) -> awaitable<void> {
      (void)co_await echo_connection(std::move(s));
    }(std::move(*stream)));
  }
}

TEST_P(PortTest, TwoHundredConnectionsAtOnceWithOneThatDoesNotRead) {
  const auto listener = listen(Carry::kConnections);
  int served = 0;
  shard_.spawn(serve(listener.get(), &shard_, &served));
  const uint16_t port = port_of(*listener);
  std::atomic<int> good = 0;
  std::atomic<bool> done = false;
  std::thread programs([&] {
    Fd stuck = connect_to(port);
    ::fcntl(stuck.get(), F_SETFL, O_NONBLOCK);
    const Bytes flood(8 * kMiB, 'f');
    ::send(stuck.get(), flood.data(), flood.size(), MSG_NOSIGNAL);
    std::vector<Fd> all;
    for (int i = 0; i < 200; ++i) all.push_back(connect_to(port));
    for (int i = 0; i < 200; ++i) {
      (void)sluice::write_all(all[static_cast<size_t>(i)].get(), std::to_string(1000 + i));
    }
    for (int i = 0; i < 200; ++i) {
      char buffer[4];
      if (::recv(all[static_cast<size_t>(i)].get(), buffer, 4, MSG_WAITALL) == 4 &&
          std::string(buffer, 4) == std::to_string(1000 + i)) {
        ++good;
      }
    }
    done = true;
  });
  Deadline limit = Deadline::in(60s);
  shard_.run_until([&] {
    if (!done && !limit.expired()) {
      (void)run(shard_, net::sleep_for(1ms));
      return false;
    }
    return true;
  });
  programs.join();
  EXPECT_EQ(good, 200);
  EXPECT_EQ(served, 201);
  listener->close();
}

TEST_P(PortTest, ClosingTheClientBreaksWhatItCarries) {
  const auto listener = listen(Carry::kConnections);
  const Fd program = connect_to(port_of(*listener));
  const auto stream = accept(*listener);
  const auto job = start(shell("sleep 4242.6"));
  std::optional<net::PeerClose> told;
  stream->on_peer_closed([&](net::PeerClose how) { told = how; });
  client_->close();
  EXPECT_EQ(run(shard_, listener->accept()).error().code, ErrorCode::kClosed);
  EXPECT_EQ(run(shard_, net::write_all(stream.get(), "x")).error().code, ErrorCode::kClosed);
  EXPECT_TRUE(run(shard_, job->wait(Deadline::never()))->lost);
  EXPECT_EQ(run(shard_, client_->exec(shell("true"))).error().code, ErrorCode::kClosed);
  shard_.run_until([&] { return told.has_value(); });
  EXPECT_EQ(*told, net::PeerClose::kReset);
  EXPECT_EQ(guest_ended(), 0);
  EXPECT_EQ(count_processes("4242.6"), 0);
}

}  // namespace
}  // namespace sluice::guest
