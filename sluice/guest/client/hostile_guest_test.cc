// The client against guests that lie: whatever comes over the link, every pending call ends, and
// nothing is held beyond its bounds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "sluice/base/core/fd.h"
#include "sluice/guest/client/client.h"
#include "sluice/guest/wire/credit.h"
#include "sluice/guest/wire/frame.h"
#include "sluice/net/testing.h"
#include "sluice/net/wait.h"

namespace sluice::guest {
namespace {

using namespace std::chrono_literals;
using net::testing::run;
using wire::FrameType;

// Plays a guest by hand, over a socket pair.
class HostileGuestTest : public ::testing::Test {
 protected:
  void SetUp() override { greet(); }

  void greet(ClientOptions options = {}) {
    seq_ = 0;
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    guest_ = Fd(ends[1]);
    auto link = make_socket_link(shard_, Fd(ends[0]));
    ASSERT_TRUE(link);
    say(FrameType::kHello, 0, wire::encode(wire::GuestHello{}));
    auto client = run(shard_, Client::connect(&shard_, std::move(*link), options));
    ASSERT_TRUE(client) << client.error().message;
    client_ = std::move(*client);
  }

  void say(FrameType type, uint32_t stream, ByteView payload = {}) {
    Bytes frame;
    wire::append_frame(frame, type, stream, wire::on_link(type) ? 0 : ++seq_, payload);
    send(frame);
  }

  // The client reads on this same thread: it may do so whenever the socket is full. Ends early when
  // the client has gone.
  void send(ByteView bytes) {
    while (!bytes.empty()) {
      const auto n = ::send(guest_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n > 0) {
        bytes.remove_prefix(static_cast<size_t>(n));
      } else if (errno == EAGAIN) {
        settle();
      } else {
        return;
      }
    }
  }

  void say_with_socket(FrameType type, uint32_t stream, ByteView payload, int fd) {
    Bytes frame;
    wire::append_frame(frame, type, stream, ++seq_, payload);
    iovec piece{frame.data(), frame.size()};
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
    std::memcpy(CMSG_DATA(head), &fd, sizeof fd);
    ASSERT_EQ(::sendmsg(guest_.get(), &message, 0), static_cast<ssize_t>(frame.size()));
  }

  // One command (streams 1 and 3), one read (5), one carried port (7), in that order, all pending.
  struct Pending {
    std::string exec, read, listen;
    bool done() const { return !exec.empty() && !read.empty() && !listen.empty(); }
  };
  static awaitable<void> do_exec(Client* client, std::string* outcome) {
    CommandRequest request;
    request.argv = {"true"};
    request.output_cap = 1000;
    auto output = co_await client->exec(std::move(request));
    *outcome = output ? "ok" : std::string(to_string(output.error().code));
  }
  static awaitable<void> do_read(Client* client, std::string* outcome) {
    auto reader = co_await client->open_reader("/f", 1000, "0");
    while (reader) {
      auto piece = co_await (*reader)->read_some();
      if (!piece || piece->empty()) {
        *outcome = piece ? "ok" : std::string(to_string(piece.error().code));
        co_return;
      }
    }
    *outcome = to_string(reader.error().code);
  }
  static awaitable<void> do_listen(Client* client, Carry carry, std::string* outcome) {
    auto listener = co_await client->listen(0, carry);
    if (!listener) {
      *outcome = to_string(listener.error().code);
      co_return;
    }
    while (true) {
      auto stream = co_await (*listener)->accept();
      if (stream) continue;
      *outcome = to_string(stream.error().code);
      co_return;
    }
  }
  void start(Pending* pending) {
    shard_.spawn(do_exec(client_.get(), &pending->exec));
    shard_.spawn(do_read(client_.get(), &pending->read));
    shard_.spawn(do_listen(client_.get(), Carry::kConnections, &pending->listen));
    settle();
  }
  void settle() { (void)run(shard_, net::sleep_for(5ms)); }

  net::Shard shard_;
  Fd guest_;
  uint64_t seq_ = 0;
  std::unique_ptr<Client> client_;
};

Bytes reply_listening() {
  wire::Listening reply;
  reply.port = 80;
  return wire::encode(reply);
}
Bytes open_payload(uint32_t listener) {
  return wire::split({wire::Verb::kAccepted, wire::encode(wire::Accepted{listener, 1})})->front();
}

struct Lie {
  const char* name;
  std::function<void(std::function<void(FrameType, uint32_t, ByteView)> say)> tell;
};

// Each is one thing that the protocol does not allow at that point.
std::vector<Lie> lies() {
  const Bytes done = wire::encode(wire::Close{});
  const Bytes end = wire::encode(wire::End{});
  const Bytes started = wire::encode(wire::Started{7});
  const Bytes exit = wire::encode(wire::Exit{});
  const Bytes stat = wire::encode(wire::FileStat{});
  const Bytes full(wire::kMaxPayload, 'x');
  using enum FrameType;
  return {
      {"unknown stream",
       [=](auto say) {
         say(kReply, 99, started);
       }},
      {"a second hello",
       [=](auto say) {
         say(kHello, 0, wire::encode(wire::GuestHello{}));
       }},
      {"an acknowledgement",
       [=](auto say) {
         say(kAck, 0, wire::encode(wire::Ack{1}));
       }},
      {"a resumption",
       [=](auto say) {
         say(kResume, 0, Bytes(28, 'r'));
       }},
      {"a keep-alive with a payload",
       [=](auto say) {
         say(kKeepAlive, 0, "x");
       }},
      {"a reply to stderr",
       [=](auto say) {
         say(kReply, 3, started);
       }},
      {"two replies",
       [=](auto say) {
         say(kReply, 5, stat), say(kReply, 5, stat);
       }},
      {"a malformed file status",
       [=](auto say) {
         say(kReply, 5, "short");
       }},
      {"a malformed failure",
       [=](auto say) {
         say(kFail, 5, "short");
       }},
      {"an exit before the start",
       [=](auto say) {
         say(kExit, 1, exit);
       }},
      {"two exits",
       [=](auto say) {
         say(kReply, 1, started), say(kExit, 1, exit), say(kExit, 1, exit);
       }},
      {"an exit of a file",
       [=](auto say) {
         say(kReply, 5, stat), say(kExit, 5, exit);
       }},
      {"a malformed exit",
       [=](auto say) {
         say(kReply, 1, started), say(kExit, 1, "123");
       }},
      {"more output than the cap",
       [=](auto say) {
         say(kData, 1, Bytes(1001, 'x'));
       }},
      {"more of a file than asked for",
       [=](auto say) {
         say(kReply, 5, stat), say(kData, 5, Bytes(1001, 'x'));
       }},
      {"data beyond the credit",
       [=](auto say) {
         say(kReply, 7, reply_listening());
         say(kOpen, 2, open_payload(7));
         for (int i = 0; i < 5; ++i) say(kData, 2, full);
       }},
      {"empty data",
       [=](auto say) {
         say(kData, 1, "");
       }},
      {"data behind the end",
       [=](auto say) {
         say(kEnd, 1, end), say(kData, 1, "x");
       }},
      {"two ends",
       [=](auto say) {
         say(kEnd, 1, end), say(kEnd, 1, end);
       }},
      {"data of a listener",
       [=](auto say) {
         say(kData, 7, "x");
       }},
      {"a frame behind the close",
       [=](auto say) {
         say(kClose, 3, done), say(kEnd, 3, end);
       }},
      {"a grant beyond the window",
       [=](auto say) {
         say(kCredit, 5, wire::encode(wire::Credit{1}));
       }},
      {"a stop of a listener",
       [=](auto say) {
         say(kStop, 7, "");
       }},
      {"drained unasked",
       [=](auto say) {
         say(kReply, 7, reply_listening());
         say(kOpen, 2, open_payload(7));
         say(kDrained, 2, "");
       }},
      {"a command that is closed unanswered",
       [=](auto say) {
         say(kClose, 1, done);
       }},
      {"a file without its end",
       [=](auto say) {
         say(kReply, 5, stat), say(kClose, 5, done);
       }},
      {"a host's frame",
       [=](auto say) {
         say(kDrain, 1, "");
       }},
      {"a request in pieces",
       [=](auto say) {
         say(kMore, 1, "x");
       }},
      {"a connection on a host's number",
       [=](auto say) {
         say(kOpen, 9, open_payload(7));
       }},
      {"a connection of no listener",
       [=](auto say) {
         say(kOpen, 2, open_payload(1));
       }},
      {"a command for the host",
       [=](auto say) {
         say(kOpen, 2, wire::split({wire::Verb::kKillAll, ""})->front());
       }},
      {"stream numbers that go backwards",
       [=](auto say) {
         say(kReply, 7, reply_listening());
         say(kOpen, 4, open_payload(7));
         say(kOpen, 2, open_payload(7));
       }},
      {"a socket where connections were asked for",
       [=](auto say) {
         wire::Listening reply;
         reply.has_socket = true;
         say(kReply, 7, wire::encode(reply));
       }},
  };
}

TEST_F(HostileGuestTest, EveryLieEndsEveryCall) {
  for (const Lie& lie : lies()) {
    greet();
    Pending pending;
    start(&pending);
    lie.tell(
        [&](FrameType type, uint32_t stream, ByteView payload) { say(type, stream, payload); });
    shard_.run_until([&] { return pending.done(); });
    EXPECT_EQ(client_->why_closed().code, ErrorCode::kProtocol) << lie.name;
    for (const std::string* outcome : {&pending.exec, &pending.read, &pending.listen}) {
      EXPECT_TRUE(*outcome == "protocol" || *outcome == "closed") << lie.name << ": " << *outcome;
    }
    EXPECT_EQ(run(shard_, client_->kill_all()).error().code, ErrorCode::kClosed) << lie.name;
  }
}

TEST_F(HostileGuestTest, FramesThatCameTwiceOrNeverAreFound) {
  Pending pending;
  start(&pending);
  seq_ = 5;
  say(FrameType::kEnd, 1, wire::encode(wire::End{}));
  shard_.run_until([&] { return pending.done(); });
  EXPECT_EQ(client_->why_closed().code, ErrorCode::kProtocol);
  greet();
  Pending again;
  start(&again);
  say(FrameType::kEnd, 1, wire::encode(wire::End{}));
  seq_ = 0;
  say(FrameType::kEnd, 3, wire::encode(wire::End{}));
  shard_.run_until([&] { return again.done(); });
  EXPECT_EQ(client_->why_closed().code, ErrorCode::kProtocol);
}

TEST_F(HostileGuestTest, ASocketThatNobodyAskedForEndsTheLink) {
  Pending pending;
  start(&pending);
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  const Fd a(pair[0]);
  const Fd b(pair[1]);
  say_with_socket(FrameType::kReply, 7, reply_listening(), a.get());
  shard_.run_until([&] { return pending.done(); });
  EXPECT_EQ(client_->why_closed().code, ErrorCode::kProtocol);
}

TEST_F(HostileGuestTest, OnlyAListeningTcpSocketIsTakenForAListener) {
  std::string outcome;
  shard_.spawn(do_listen(client_.get(), Carry::kSocket, &outcome));
  settle();
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  const Fd a(pair[0]);
  const Fd b(pair[1]);
  wire::Listening reply;
  reply.has_socket = true;
  say_with_socket(FrameType::kReply, 1, wire::encode(reply), a.get());
  shard_.run_until([&] { return !outcome.empty(); });
  EXPECT_EQ(outcome, "protocol");
}

TEST_F(HostileGuestTest, AnnouncingASocketWithoutOneEndsTheLink) {
  std::string outcome;
  shard_.spawn(do_listen(client_.get(), Carry::kSocket, &outcome));
  settle();
  wire::Listening reply;
  reply.has_socket = true;
  say(FrameType::kReply, 1, wire::encode(reply));
  shard_.run_until([&] { return !outcome.empty(); });
  EXPECT_EQ(outcome, "protocol");
  EXPECT_EQ(client_->why_closed().code, ErrorCode::kProtocol);
}

TEST_F(HostileGuestTest, ConnectionsThatAreDroppedAreNotHeld) {
  ClientOptions options;
  options.max_held = 1024 * 1024;
  greet(options);
  Pending pending;
  start(&pending);
  say(FrameType::kReply, 7, reply_listening());
  const Bytes full(wire::kMaxPayload, 'x');
  for (uint32_t stream = 2; stream < 40; stream += 2) {
    say(FrameType::kOpen, stream, open_payload(7));
    for (int i = 0; i < 4; ++i) say(FrameType::kData, stream, full);
  }
  settle();
  EXPECT_TRUE(client_->why_closed().message.empty()) << client_->why_closed().message;
}

awaitable<void> hold_connections(Client* client, std::vector<std::unique_ptr<net::Stream>>* held,
                                 bool* closed) {
  auto listener = co_await client->listen(0, Carry::kConnections);
  while (listener) {
    auto stream = co_await (*listener)->accept();
    if (!stream) break;
    held->push_back(std::move(*stream));
  }
  *closed = true;
}

TEST_F(HostileGuestTest, ConnectionsFullOfUnreadBytesEndTheLink) {
  ClientOptions options;
  options.max_held = 1024 * 1024;
  greet(options);
  std::vector<std::unique_ptr<net::Stream>> held;
  bool closed = false;
  shard_.spawn(hold_connections(client_.get(), &held, &closed));
  settle();
  say(FrameType::kReply, 1, reply_listening());
  const Bytes full(wire::kMaxPayload, 'x');
  for (uint32_t stream = 2; !closed && stream < 40; stream += 2) {
    say(FrameType::kOpen, stream, open_payload(1));
    for (int i = 0; i < 4; ++i) say(FrameType::kData, stream, full);
  }
  shard_.run_until([&] { return closed; });
  EXPECT_TRUE(closed);
  EXPECT_EQ(client_->why_closed().code, ErrorCode::kExhausted);
  EXPECT_LE(held.size(), 5u);
}

TEST_F(HostileGuestTest, AGuestThatSaysNothingIsGivenUp) {
  ClientOptions options;
  options.silence = 200ms;
  options.keep_alive = 50ms;
  options.patience = 200ms;
  greet(options);
  Pending pending;
  start(&pending);
  shard_.run_until([&] { return pending.done(); });
  EXPECT_EQ(client_->why_closed().code, ErrorCode::kClosed);

  // Nor is a hello waited for without end.
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const Fd silent(ends[1]);
  auto link = make_socket_link(shard_, Fd(ends[0]));
  const auto client = run(shard_, Client::connect(&shard_, std::move(*link), options));
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, ErrorCode::kTimedOut);
}

TEST_F(HostileGuestTest, ACommandsEndIsNotWaitedForWithoutEnd) {
  ClientOptions options;
  options.patience = 100ms;
  greet(options);
  CommandRequest request;
  request.argv = {"true"};
  request.deadline = Deadline::in(50ms);
  const auto output = run(shard_, client_->exec(std::move(request)));
  ASSERT_FALSE(output);
  EXPECT_EQ(output.error().code, ErrorCode::kProtocol);
}

TEST_F(HostileGuestTest, AnotherVersionIsRefusedByName) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  guest_ = Fd(ends[1]);
  wire::GuestHello hello;
  hello.version = 77;
  say(FrameType::kHello, 0, wire::encode(hello));
  auto link = make_socket_link(shard_, Fd(ends[0]));
  const auto client = run(shard_, Client::connect(&shard_, std::move(*link), ClientOptions()));
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, ErrorCode::kProtocol);
  EXPECT_THAT(client.error().message, ::testing::HasSubstr("version 77"));
}

TEST_F(HostileGuestTest, FailuresArriveAsTheGuestMeantThem) {
  std::string outcome;
  shard_.spawn(do_read(client_.get(), &outcome));
  settle();
  say(FrameType::kFail, 1, wire::encode(wire::Failure{Error(ErrorCode::kNotFound, "no /f")}));
  say(FrameType::kClose, 1, wire::encode(wire::Close{}));
  shard_.run_until([&] { return !outcome.empty(); });
  EXPECT_EQ(outcome, "not_found");
  EXPECT_TRUE(client_->why_closed().message.empty());
}

}  // namespace
}  // namespace sluice::guest
