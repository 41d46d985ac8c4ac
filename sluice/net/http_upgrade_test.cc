// The client asks to leave HTTP (RFC 9110, section 7.8), as Docker's attach and WebSockets do.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <deque>

#include "sluice/net/http_client.h"
#include "sluice/net/memory_stream.h"
#include "sluice/net/socket.h"
#include "sluice/net/testing.h"

namespace sluice::net {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

const Bytes kAgreed =
    "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
    "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n";

HttpRequest attach(Bytes body = {}) {
  return {"POST", "/containers/c1/attach?stdin=1", {{"Upgrade", "tcp"}}, std::move(body)};
}

using Answer = Result<std::unique_ptr<HttpIncoming>>;

awaitable<void> call(HttpClient* client, HttpRequest request, Deadline deadline,
                     std::optional<Answer>* answer) {
  answer->emplace(co_await client->call(std::move(request), deadline));
}

class HttpUpgradeTest : public ::testing::Test {
 protected:
  ~HttpUpgradeTest() override {
    for (const auto& server : servers_) server->reset();
    client_.reset();
    shard_.context().poll();
  }

  static awaitable<Result<std::unique_ptr<Stream>>> connect(HttpUpgradeTest* self) {
    MemoryPair pair = memory_pair(self->shard_, self->credit_);
    self->servers_.push_back(std::move(pair.second));
    co_return std::unique_ptr<Stream>(std::move(pair.first));
  }
  std::optional<Answer>& start(HttpRequest request, Deadline deadline = Deadline::never()) {
    if (!client_) {
      client_.emplace(shard_, [this](Deadline) { return connect(this); }, "docker", limits_);
    }
    auto& answer = answers_.emplace_back();
    shard_.spawn(call(&*client_, std::move(request), deadline, &answer));
    shard_.context().poll();
    return answer;
  }
  void say(Bytes bytes) {
    ASSERT_TRUE(testing::run(shard_, write_all(servers_.back().get(), bytes)));
    shard_.context().poll();
  }
  Answer answer_to(HttpRequest request, Bytes bytes) {
    auto& answer = start(std::move(request));
    say(std::move(bytes));
    shard_.run_until([&] { return answer.has_value(); });
    return std::move(*answer);
  }
  Bytes read(Stream& stream, size_t most = 4096) {
    Bytes buffer(most, '\0');
    const auto n = testing::run(shard_, stream.read_some(as_writable_byte_span(buffer)));
    return n ? buffer.substr(0, *n) : "error: " + n.error().message;
  }

  Shard shard_;
  HttpClientLimits limits_;
  size_t credit_ = 1 << 20;
  std::deque<std::unique_ptr<MemoryStream>> servers_;
  std::deque<std::optional<Answer>> answers_;
  std::optional<HttpClient> client_;
};

TEST_F(HttpUpgradeTest, TheConnectionBeginsWithWhatCameBehindTheAnswer) {
  auto& answer = start(attach());
  MemoryStream& server = *servers_.at(0);
  EXPECT_EQ(server.take_unread(),
            "POST /containers/c1/attach?stdin=1 HTTP/1.1\r\nHost: docker\r\nUpgrade: tcp\r\n"
            "Content-Length: 0\r\nConnection: Upgrade\r\n\r\n");
  // An interim answer and the final one, cut in mid-head; the first bytes come with its end.
  say("HTTP/1.1 100 Continue\r\n\r\n" + kAgreed.substr(0, 40));
  EXPECT_FALSE(answer);
  say(kAgreed.substr(40) + "early bytes");
  ASSERT_TRUE(answer && *answer) << (*answer).error().message;
  EXPECT_EQ((**answer)->status(), 101);
  EXPECT_EQ((**answer)->headers().get("content-type"), "application/vnd.docker.raw-stream");
  EXPECT_EQ(testing::run(shard_, (**answer)->read_all()), "") << "an upgrade has no body";
  const auto stream = (**answer)->take_stream();
  answer->value().reset();
  client_.reset();  // the connection is its own

  EXPECT_EQ(read(*stream, 6), "early ");
  bool closed = false;
  stream->on_peer_closed([&](PeerClose) { closed = true; });
  EXPECT_EQ(read(*stream), "bytes");
  say("later");
  EXPECT_EQ(read(*stream), "later");
  ASSERT_TRUE(testing::run(shard_, write_all(stream.get(), "input")));
  EXPECT_TRUE(testing::run(shard_, stream->drained(Deadline::never())));
  EXPECT_EQ(server.take_unread(), "input");
  stream->finish();
  EXPECT_EQ(read(server), "");
  say("and out");
  EXPECT_EQ(read(*stream), "and out");
  EXPECT_FALSE(closed) << "bytes had ended that watch";
  stream->on_peer_closed([&](PeerClose) { closed = true; });
  server.close();
  shard_.run_until([&] { return closed; });
  EXPECT_EQ(read(*stream), "");
  stream->close();
  EXPECT_THAT(read(*stream), HasSubstr("error: "));
}

TEST_F(HttpUpgradeTest, CloseDropsWhatCameEarly) {
  const auto answer = answer_to(attach(), kAgreed + "early");
  ASSERT_TRUE(answer);
  const auto stream = (*answer)->take_stream();
  stream->close();
  EXPECT_THAT(read(*stream), HasSubstr("error: "));
  EXPECT_TRUE(servers_[0]->peer_gone());
}

TEST_F(HttpUpgradeTest, AnUpgradeThatNobodyTakesIsClosed) {
  auto answer = answer_to(attach(), kAgreed);
  ASSERT_TRUE(answer);
  EXPECT_FALSE(servers_[0]->peer_gone());
  answer->reset();
  EXPECT_TRUE(servers_[0]->peer_gone());
}

TEST_F(HttpUpgradeTest, ARefusalIsAnAnswerLikeAnyOther) {
  auto missing = answer_to(attach(),
                           "HTTP/1.1 404 Not Found\r\nContent-Length: 27\r\n\r\n"
                           "{\"message\":\"no container\"}\n");
  ASSERT_TRUE(missing);
  EXPECT_EQ((*missing)->status(), 404);
  EXPECT_EQ(testing::run(shard_, (*missing)->read_all()), "{\"message\":\"no container\"}\n");
  // The connection is still one of HTTP, for any call but an upgrade.
  auto next = answer_to({"GET", "/", {}, {}}, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
  ASSERT_TRUE(next);
  EXPECT_EQ(servers_.size(), 1U);
  start(attach());
  EXPECT_EQ(servers_.size(), 2U);
  // What a server does that knows no upgrades.
  auto old = answer_to(attach(), "HTTP/1.1 200 OK\r\n\r\nuntil the end");
  ASSERT_TRUE(old);
  servers_.back()->take_unread();
  servers_.back()->close();
  EXPECT_EQ(testing::run(shard_, (*old)->read_all()), "until the end");
}

TEST_F(HttpUpgradeTest, WhatWasNotAskedForIsAProtocolError) {
  const std::string line = "HTTP/1.1 101 Switching Protocols\r\n";
  for (const std::string& bytes :
       {line + "\r\n", line + "Upgrade: websocket\r\n\r\n", line + "Upgrade:\r\n\r\n",
        line + "Upgrade: tcp\nConnection: Upgrade\r\n\r\n", line + "Upgrade: tcp, x\r\n\r\n"}) {
    const auto answer = answer_to(attach(), bytes);
    ASSERT_FALSE(answer) << bytes;
    EXPECT_EQ(answer.error().code, ErrorCode::kProtocol) << bytes;
    EXPECT_TRUE(servers_.back()->peer_gone()) << bytes;
  }
  limits_.header_bytes = 100;
  client_.reset();
  const auto long_winded = answer_to(attach(), line + "A: " + Bytes(200, 'x'));
  EXPECT_EQ(long_winded.error().code, ErrorCode::kTooLarge);
  // Nor may a server that has not read the request change the protocol.
  limits_ = HttpClientLimits();
  client_.reset();
  credit_ = 1000;
  auto& answer = start(attach(Bytes(100'000, 'x')));
  say(kAgreed);
  servers_.back()->take_unread();
  servers_.back()->finish();
  servers_.back()->close();
  shard_.run_until([&] { return answer.has_value(); });
  ASSERT_FALSE(*answer);
  EXPECT_EQ((*answer).error().code, ErrorCode::kProtocol) << (*answer).error().message;
}

TEST_F(HttpUpgradeTest, TheDeadlineIsForTheAnswerAlone) {
  auto& silent = start(attach(), Deadline::in(10ms));
  shard_.run_until([&] { return silent.has_value(); });
  EXPECT_EQ((*silent).error().code, ErrorCode::kTimedOut);
  EXPECT_TRUE(servers_.back()->peer_gone());

  const Deadline deadline = Deadline::in(200ms);
  auto& answer = start(attach(), deadline);
  say(kAgreed);
  ASSERT_TRUE(answer && *answer);
  ASSERT_TRUE(testing::run(shard_, sleep_until(deadline)));
  ASSERT_TRUE(testing::run(shard_, sleep_for(2 * Wheel::kTick)));
  const auto stream = (**answer)->take_stream();
  say("still there");
  EXPECT_EQ(read(*stream), "still there");
}

// Docker's daemon, as far as one attach goes: what the container is given comes back at its end.
awaitable<void> serve_attach(Listener* listener, std::vector<Bytes>* seen) {
  auto accepted = co_await listener->accept();
  Stream* const stream = accepted->get();
  Bytes buffer(4096, '\0');
  const auto head = co_await stream->read_some(as_writable_byte_span(buffer));
  seen->push_back(buffer.substr(0, *head));
  const Bytes answer = kAgreed + "hello";
  const auto told = co_await write_all(stream, answer);
  Bytes input;
  for (;;) {
    const auto n = co_await stream->read_some(as_writable_byte_span(buffer));
    if (!n || *n == 0) break;
    input.append(buffer, 0, *n);
  }
  seen->push_back(input);
  const auto echoed = co_await write_all(stream, input);
}

TEST(HttpUpgradeRealTest, HalfACloseReachesTheOtherEndOfAUnixSocket) {
  Shard shard;
  const std::string path =
      ::testing::TempDir() + "/sluice_attach." + std::to_string(::getpid()) + ".sock";
  auto listener = listen_unix(shard, path);
  ASSERT_TRUE(listener) << listener.error().message;
  std::vector<Bytes> seen;
  shard.spawn(serve_attach(listener->get(), &seen));
  HttpClient client(
      shard, [&](Deadline deadline) { return connect_unix(&shard, path, deadline); }, "docker");
  auto answer = testing::run(shard, client.call(attach(), Deadline::in(20s)));
  ASSERT_TRUE(answer) << answer.error().message;
  const auto stream = (*answer)->take_stream();
  Bytes got;
  Bytes buffer(4096, '\0');
  const auto read = [&] {
    const auto n = testing::run(shard, stream->read_some(as_writable_byte_span(buffer)));
    EXPECT_TRUE(n);
    got.append(buffer, 0, n ? *n : 0);
    return n && *n > 0;
  };
  while (got.size() < 5) ASSERT_TRUE(read());
  EXPECT_EQ(got, "hello");
  const Bytes input(100'000, 'i');
  ASSERT_TRUE(testing::run(shard, write_all(stream.get(), input)));
  stream->finish();
  while (read()) continue;
  EXPECT_EQ(got.substr(5), input);
  ASSERT_EQ(seen.size(), 2U);
  EXPECT_THAT(seen[0], HasSubstr("\r\nUpgrade: tcp\r\n"));
  EXPECT_EQ(seen[1], input);
}

}  // namespace
}  // namespace sluice::net
