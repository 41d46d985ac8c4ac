#include "sluice/net/http_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <deque>
#include <filesystem>
#include <fstream>

#include "sluice/base/core/fd.h"
#include "sluice/net/http_server.h"
#include "sluice/net/memory_stream.h"
#include "sluice/net/socket.h"
#include "sluice/net/testing.h"

namespace sluice::net {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST(UrlTest, TakesSchemeHostPortAndPath) {
  const auto plain = Url::parse("http://localhost:8000/v1/");
  ASSERT_TRUE(plain);
  EXPECT_FALSE(plain->tls);
  EXPECT_EQ(plain->host, "localhost");
  EXPECT_EQ(plain->port, 8000);
  EXPECT_EQ(plain->path, "/v1");
  EXPECT_EQ(plain->origin(), "http://localhost:8000");

  const auto tls = Url::parse("HTTPS://api.example.com");
  ASSERT_TRUE(tls);
  EXPECT_TRUE(tls->tls);
  EXPECT_EQ(tls->port, 443);
  EXPECT_EQ(tls->path, "");
  EXPECT_EQ(tls->origin(), "https://api.example.com");

  const auto v6 = Url::parse("http://[::1]:81/a/b%20c");
  ASSERT_TRUE(v6) << v6.error().message;
  EXPECT_EQ(v6->host, "::1");
  EXPECT_EQ(v6->path, "/a/b%20c");
  EXPECT_EQ(v6->origin(), "http://[::1]:81");
  EXPECT_EQ(Url::parse("http://h:/")->port, 80);
  EXPECT_EQ(Url::parse("http://h/a@b")->path, "/a@b");
}

TEST(UrlTest, SaysWhatIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "http://host:port/path"},
      {"localhost:8000", "only http and https"},
      {"ftp://h/", "only http and https"},
      {"unix:///run/x", "only http and https"},
      {"http://", "no host"},
      {"http:///path", "no host"},
      {"http://h:0/", "1 to 65535"},
      {"http://h:65536/", "1 to 65535"},
      {"http://h:99999999999999999999/", "1 to 65535"},
      {"http://h:x/", "1 to 65535"},
      {"http://h:80:90/", "1 to 65535"},
      {"http://h/?q=1", "end with its path"},
      {"http://h/#f", "end with its path"},
      {"http://h /", "http://host:port/path"},
      {"http://h\r\nX: y/", "http://host:port/path"},
      {"http://a%0d%0ab/", "the host is none"},
      {"//h/", "http://host:port/path"},
  };
  for (const auto& [text, why] : cases) {
    const auto url = Url::parse(text);
    ASSERT_FALSE(url) << text;
    EXPECT_EQ(url.error().code, ErrorCode::kInvalidArgument) << text;
    EXPECT_THAT(url.error().message, HasSubstr(why)) << text;
  }
  for (const char* text : {"http://user:hunter22@h/", "http://user:hunter22@h:x/",
                           "http://h/?key=hunter22", "ftp://user:hunter22@h"}) {
    const auto url = Url::parse(text);
    ASSERT_FALSE(url) << text;
    EXPECT_THAT(url.error().message, Not(HasSubstr("hunter22")));
  }
}

// A call that runs beside the test.
struct Call {
  std::optional<Result<HttpResponse>> result;
  bool done() const { return result.has_value(); }
};

class HttpClientTest : public ::testing::Test {
 protected:
  ~HttpClientTest() override {
    // A call that is left suspended would keep its stream, and the stream the call.
    for (const auto& server : servers_) server->reset();
    client_.reset();
    shard_.context().poll();
  }

  static awaitable<Result<std::unique_ptr<Stream>>> connect(HttpClientTest* self) {
    if (self->refuse_) co_return Error(ErrorCode::kUnavailable, "connect to memory: refused");
    MemoryPair pair = memory_pair(self->shard_, self->credit_);
    self->servers_.push_back(std::move(pair.second));
    co_return std::unique_ptr<Stream>(std::move(pair.first));
  }
  HttpClient& client() {
    if (!client_) {
      client_.emplace(shard_, [this](Deadline) { return connect(this); }, "h:1", limits_);
    }
    return *client_;
  }
  static awaitable<void> fetch(HttpClient* client, HttpRequest request, Deadline deadline,
                               Call* call) {
    auto response = co_await client->fetch(std::move(request), deadline);
    call->result.emplace(std::move(response));
  }
  static HttpRequest get(std::string target = "/x") { return {"GET", std::move(target), {}, {}}; }
  static HttpRequest post(Bytes body = "body") { return {"POST", "/x?key=hunter22", {}, body}; }

  Call& start(HttpRequest request, Deadline deadline = Deadline::never()) {
    Call& call = calls_.emplace_back();
    shard_.spawn(fetch(&client(), std::move(request), deadline, &call));
    shard_.context().poll();
    return call;
  }
  void say(MemoryStream& server, Bytes bytes) {
    ASSERT_TRUE(testing::run(shard_, write_all(&server, bytes)));
    shard_.context().poll();
  }
  // The call's result after the server said `bytes` and, if asked, closed.
  enum class Then : uint8_t { kStay, kClose };
  Result<HttpResponse> answer(HttpRequest request, Bytes bytes, Then then = Then::kStay) {
    Call& call = start(std::move(request));
    MemoryStream& server = *servers_.back();
    server.take_unread();
    say(server, std::move(bytes));
    if (then == Then::kClose) server.close();
    shard_.run_until([&] { return call.done(); });
    return *call.result;
  }

  Shard shard_;
  HttpClientLimits limits_;
  size_t credit_ = 1 << 20;
  bool refuse_ = false;
  std::deque<std::unique_ptr<MemoryStream>> servers_;
  std::deque<Call> calls_;
  std::optional<HttpClient> client_;
};

TEST_F(HttpClientTest, WritesTheRequestToTheByte) {
  Call& call = start({"POST",
                      "/v1/x?y",
                      {{"Authorization", "Bearer k"},
                       {"host", "evil"},
                       {"Content-Length", "99"},
                       {"Connection", "close"},
                       {"Transfer-Encoding", "chunked"}},
                      "hello"});
  EXPECT_EQ(servers_.at(0)->take_unread(),
            "POST /v1/x?y HTTP/1.1\r\nHost: h:1\r\nAuthorization: Bearer k\r\n"
            "Content-Length: 5\r\n\r\nhello");
  say(*servers_[0], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\nok");
  shard_.run_until([&] { return call.done(); });
  ASSERT_TRUE(*call.result);
  EXPECT_EQ((*call.result)->status, 200);
  EXPECT_EQ((*call.result)->headers.get("x"), "y");
  EXPECT_EQ((*call.result)->body, "ok");
  EXPECT_GE((*call.result)->body.capacity() - (*call.result)->body.size(), 64u);
  Call& empty = start({"POST", "/", {}, {}});
  EXPECT_THAT(servers_[0]->take_unread(), HasSubstr("Content-Length: 0\r\n"));
  say(*servers_[0], "HTTP/1.1 204 No Content\r\n\r\n");
  EXPECT_TRUE(empty.done());
  start(get());
  EXPECT_EQ(servers_[0]->take_unread(), "GET /x HTTP/1.1\r\nHost: h:1\r\n\r\n");
}

TEST_F(HttpClientTest, RequestsThatCannotBeWrittenAreRefused) {
  for (HttpRequest bad : std::vector<HttpRequest>{{"GE T", "/", {}, {}},
                                                  {"", "/", {}, {}},
                                                  {"GET", "", {}, {}},
                                                  {"GET", "/a b", {}, {}},
                                                  {"GET", "/\r\nX: y", {}, {}},
                                                  {"GET", "/", {{"A", "b\r\nC: d"}}, {}},
                                                  {"GET", "/", {{"A b", "c"}}, {}}}) {
    Call& call = start(std::move(bad));
    ASSERT_TRUE(call.done());
    EXPECT_EQ(call.result->error().code, ErrorCode::kInvalidArgument);
  }
  EXPECT_TRUE(servers_.empty());
}

TEST_F(HttpClientTest, ReadsEveryFraming) {
  EXPECT_EQ(answer(get(), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")->body, "hello");
  EXPECT_EQ(answer(get(),
                   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n "
                   "world\r\n0\r\n\r\n")
                ->body,
            "hello world");
  EXPECT_EQ(answer(get(), "HTTP/1.1 200 OK\r\n\r\nuntil the end", Then::kClose)->body,
            "until the end");
  EXPECT_EQ(answer(get(), "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold")->body, "old");
  EXPECT_EQ(answer(get(), "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n")->body, "");
  EXPECT_EQ(answer({"HEAD", "/", {}, {}}, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")->body,
            "");
  EXPECT_EQ(answer(get(),
                   "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: "
                   "x\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                ->status,
            404);
  // A redirect is an answer like any other.
  EXPECT_EQ(
      answer(get(), "HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n")->status,
      302);
}

TEST_F(HttpClientTest, KeepsAndReusesConnections) {
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(answer(get(), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
  }
  EXPECT_EQ(servers_.size(), 1u);
  // Two at a time need two.
  Call& first = start(get());
  Call& second = start(get());
  EXPECT_EQ(servers_.size(), 2u);
  say(*servers_[0], "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na");
  say(*servers_[1], "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb");
  EXPECT_TRUE(first.done() && second.done());
  start(get());
  start(get());
  EXPECT_EQ(servers_.size(), 2u);
}

TEST_F(HttpClientTest, DoesNotKeepWhatCannotBeKept) {
  for (const char* bytes : {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
                            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
                            // More than the answer: the sides do not agree where it ends.
                            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 "
                            "OK\r\nContent-Length: 6\r\n\r\nforged",
                            "HTTP/1.1 204 No Content\r\n\r\nx"}) {
    ASSERT_TRUE(answer(get(), bytes)) << bytes;
    EXPECT_TRUE(servers_.back()->peer_gone()) << bytes;
  }
  EXPECT_EQ(servers_.size(), 4u);
}

TEST_F(HttpClientTest, BytesThatNobodyAskedForEndAnIdleConnection) {
  ASSERT_TRUE(answer(get(), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
  say(*servers_[0], "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n");
  shard_.run_until([&] { return servers_[0]->peer_gone(); });
  const auto next = answer(get(), "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnew");
  EXPECT_EQ(next->body, "new");
  EXPECT_EQ(servers_.size(), 2u);
}

TEST_F(HttpClientTest, IdleConnectionsAreLimitedInNumber) {
  limits_.idle_connections = 1;
  Call& first = start(get());
  Call& second = start(get());
  say(*servers_[0], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
  say(*servers_[1], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
  ASSERT_TRUE(first.done() && second.done());
  EXPECT_FALSE(servers_[0]->peer_gone());
  EXPECT_TRUE(servers_[1]->peer_gone());
}

TEST_F(HttpClientTest, IdleConnectionsAreLimitedInTime) {
  limits_.idle_lifetime = 20ms;
  ASSERT_TRUE(answer(get(), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
  shard_.run_until([&] { return servers_[0]->peer_gone(); });
}

TEST_F(HttpClientTest, WithoutAPoolTheServerIsTold) {
  limits_.idle_connections = 0;
  start(get());
  EXPECT_THAT(servers_.at(0)->take_unread(), HasSubstr("Connection: close\r\n"));
}

TEST_F(HttpClientTest, AKeptConnectionThatIsClosedIsReplacedForIdempotentCalls) {
  ASSERT_TRUE(answer(get(), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
  // The end crosses with the request: written, and then nothing comes.
  Call& call = start(get());
  servers_[0]->take_unread();
  servers_[0]->close();
  shard_.run_until([&] { return servers_.size() == 2; });
  shard_.context().poll();
  EXPECT_THAT(servers_[1]->take_unread(), StartsWith("GET /x "));
  say(*servers_[1], "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain");
  ASSERT_TRUE(call.done());
  EXPECT_EQ((*call.result)->body, "again");
}

TEST_F(HttpClientTest, APostIsNotRepeatedOnceItWasWritten) {
  ASSERT_TRUE(answer(get(), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
  Call& call = start(post());
  servers_[0]->take_unread();
  servers_[0]->close();
  shard_.run_until([&] { return call.done(); });
  ASSERT_FALSE(*call.result);
  EXPECT_EQ(call.result->error().code, ErrorCode::kClosed);
  EXPECT_TRUE(call.result->error().retryable);
  EXPECT_EQ(servers_.size(), 1u);
}

TEST_F(HttpClientTest, APostThatCouldNotBeWrittenIsRepeated) {
  credit_ = 1000;
  ASSERT_TRUE(answer(get(), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
  credit_ = 1 << 20;
  Call& call = start(post(Bytes(5000, 'x')));
  servers_[0]->reset();
  shard_.run_until([&] { return servers_.size() == 2; });
  shard_.context().poll();
  EXPECT_THAT(servers_[1]->take_unread(), StartsWith("POST /x?key=hunter22 "));
  say(*servers_[1], "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain");
  ASSERT_TRUE(call.done());
  EXPECT_EQ((*call.result)->body, "again");
}

TEST_F(HttpClientTest, NothingIsRepeatedOnAFreshConnectionOrAfterTheFirstByte) {
  Call& fresh = start(get());
  servers_[0]->take_unread();
  servers_[0]->close();
  shard_.run_until([&] { return fresh.done(); });
  EXPECT_EQ(fresh.result->error().code, ErrorCode::kClosed);
  EXPECT_TRUE(fresh.result->error().retryable);
  EXPECT_EQ(servers_.size(), 1u);

  ASSERT_TRUE(answer(get(), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
  const auto cut = answer(get(), "HTTP/1.1 200", Then::kClose);
  EXPECT_EQ(cut.error().code, ErrorCode::kClosed);
  EXPECT_FALSE(cut.error().retryable);
  EXPECT_EQ(servers_.size(), 2u);
}

TEST_F(HttpClientTest, ErrorsNameTheCallAndNeverItsQuery) {
  const auto cut = answer(post(), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", Then::kClose);
  ASSERT_FALSE(cut);
  EXPECT_EQ(cut.error().code, ErrorCode::kClosed);
  EXPECT_EQ(cut.error().message, "POST h:1/x: the server closed in mid-answer");
}

TEST_F(HttpClientTest, ARefusalThatCutsTheRequestShortIsRead) {
  credit_ = 64 * 1024;
  Call& call = start(post(Bytes(1'000'000, 'x')));
  EXPECT_FALSE(call.done());
  MemoryStream& server = *servers_[0];
  say(server, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig");
  server.take_unread();
  server.close();
  shard_.run_until([&] { return call.done(); });
  ASSERT_TRUE(*call.result) << call.result->error().message;
  EXPECT_EQ((*call.result)->status, 413);
  EXPECT_EQ((*call.result)->body, "big");
}

TEST_F(HttpClientTest, HostileAnswersAreProtocolErrors) {
  std::string interim;
  for (int i = 0; i < 100; ++i) interim += "HTTP/1.1 100 Continue\r\n\r\n";
  for (const std::string& bytes : std::vector<std::string>{
           "garbage\r\n\r\n", "\x16\x03\x01", "HTTP/2 200 OK\r\n\r\n",
           "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
           "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
           "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
           "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
           "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\nok",
           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokX\r\n",
           "HTTP/1.1 101 Switching Protocols\r\n\r\n", interim}) {
    const auto got = answer(get(), bytes);
    ASSERT_FALSE(got) << bytes;
    EXPECT_EQ(got.error().code, ErrorCode::kProtocol) << bytes << got.error().message;
    EXPECT_TRUE(servers_.back()->peer_gone()) << bytes;
  }
}

TEST_F(HttpClientTest, SizesAreLimited) {
  limits_.header_bytes = 1000;
  limits_.header_fields = 5;
  limits_.body_bytes = 10;
  std::string many;
  for (int i = 0; i < 6; ++i) many += "A: b\r\n";
  for (const std::string& bytes : std::vector<std::string>{
           "HTTP/1.1 200 OK\r\nA: " + std::string(2000, 'x'), "HTTP/1.1 200 OK\r\n" + many + "\r\n",
           "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n",
           "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n",
           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n",
           "HTTP/1.1 200 OK\r\n\r\n01234567890"}) {
    const auto got = answer(get(), bytes);
    ASSERT_FALSE(got) << bytes;
    EXPECT_EQ(got.error().code, ErrorCode::kTooLarge) << bytes << got.error().message;
  }
}

TEST_F(HttpClientTest, EveryPhaseHasItsTime) {
  limits_.first_byte_timeout = 20ms;
  limits_.idle_timeout = 1h;
  const auto expect_late = [&](Call& call, const char* why) {
    shard_.run_until([&] { return call.done(); });
    ASSERT_FALSE(*call.result);
    EXPECT_EQ(call.result->error().code, ErrorCode::kTimedOut);
    EXPECT_THAT(call.result->error().message, HasSubstr(why));
  };
  expect_late(start(get()), "no answer in time");

  client_.reset();
  limits_.first_byte_timeout = 1h;
  limits_.idle_timeout = 30ms;
  Call& head = start(get());
  say(*servers_.back(), "HTTP/1.1 200 OK\r\nA");
  expect_late(head, "the answer stopped coming");

  Call& body = start(get());
  say(*servers_.back(), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe");
  expect_late(body, "the answer stopped coming");

  credit_ = 100;
  expect_late(start(post(Bytes(1000, 'x'))), "the server does not read");
}

TEST_F(HttpClientTest, TheDeadlineIsForTheWholeCall) {
  Call& call = start(get(), Deadline::in(500ms));
  MemoryStream& server = *servers_.back();
  say(server, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
  const std::string_view chunk = "1\r\nx\r\n";
  for (int i = 0; i < 10'000 && !call.done(); ++i) {
    // Fails once the deadline has ended the call.
    (void)testing::run(shard_, write_all(&server, chunk));
    ASSERT_TRUE(testing::run(shard_, sleep_for(2ms)));
  }
  ASSERT_TRUE(call.done());
  EXPECT_EQ(call.result->error().code, ErrorCode::kTimedOut);
  EXPECT_THAT(call.result->error().message, HasSubstr("not finished by the deadline"));
}

TEST_F(HttpClientTest, AFailedConnectionIsTheCallsError) {
  refuse_ = true;
  Call& call = start(get());
  ASSERT_TRUE(call.done());
  EXPECT_EQ(call.result->error().code, ErrorCode::kUnavailable);
}

awaitable<Result<std::unique_ptr<HttpIncoming>>> open_call(HttpClient* client,
                                                           HttpRequest request) {
  co_return co_await client->call(std::move(request), Deadline::never());
}

TEST_F(HttpClientTest, PiecesCanBeReadAsTheyArrive) {
  std::optional<Result<std::unique_ptr<HttpIncoming>>> opened;
  bool done = false;
  std::exception_ptr failure;
  shard_.spawn(testing::internal::store(open_call(&client(), get()), &opened, &done, &failure));
  shard_.context().poll();
  say(*servers_[0], "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
  ASSERT_TRUE(done && *opened);
  auto incoming = std::move(**opened);
  EXPECT_EQ(incoming->status(), 200);
  EXPECT_EQ(testing::run(shard_, incoming->read_some()), "one");
  say(*servers_[0], "3\r\ntwo\r\n0\r\n\r\n");
  EXPECT_EQ(testing::run(shard_, incoming->read_some()), "two");
  EXPECT_EQ(testing::run(shard_, incoming->read_some()), "");
  EXPECT_EQ(testing::run(shard_, incoming->read_some()), "");
  // The connection went back to the pool when the body ended.
  EXPECT_FALSE(servers_[0]->peer_gone());
  incoming.reset();
  EXPECT_FALSE(servers_[0]->peer_gone());
}

TEST_F(HttpClientTest, AnAnswerDroppedEarlyClosesItsConnectionAndErrorsStay) {
  std::optional<Result<std::unique_ptr<HttpIncoming>>> opened;
  bool done = false;
  std::exception_ptr failure;
  shard_.spawn(testing::internal::store(open_call(&client(), get()), &opened, &done, &failure));
  shard_.context().poll();
  say(*servers_[0], "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart");
  ASSERT_TRUE(done && *opened);
  (*opened)->reset();
  EXPECT_TRUE(servers_[0]->peer_gone());

  done = false;
  shard_.spawn(testing::internal::store(open_call(&client(), get()), &opened, &done, &failure));
  shard_.context().poll();
  say(*servers_[1], "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart");
  ASSERT_TRUE(done && *opened);
  client_.reset();  // an answer may outlive its client
  EXPECT_EQ(testing::run(shard_, (**opened)->read_some()), "part");
  servers_[1]->close();
  EXPECT_EQ(testing::run(shard_, (**opened)->read_some()).error().code, ErrorCode::kClosed);
  EXPECT_EQ(testing::run(shard_, (**opened)->read_all()).error().code, ErrorCode::kClosed);
}

// ---- Real peers. ----

// Our own server on a TCP port of the same shard, and a client made from a URL.
awaitable<void> echo(HttpRequest request, ResponseWriter* writer) {
  HttpResponse response{200, {}, std::move(request.body)};
  const auto sent = co_await writer->send(std::move(response));
}

TEST(HttpClientRealTest, TalksToOurServerOverTcp) {
  Shard shard;
  BlockingPool names(1);
  auto listener = listen_tcp(shard, "127.0.0.1", 0);
  ASSERT_TRUE(listener);
  const auto url = Url::parse("http://" + (*listener)->address());
  ASSERT_TRUE(url);
  HttpServer server(shard, [](HttpRequest request, ResponseWriter* writer) {
    return echo(std::move(request), writer);
  });
  server.serve(std::move(*listener));
  {
    HttpClient client(shard, url_connector(shard, names, *url), "localhost");
    for (const size_t size : {size_t{1}, size_t{100'000}, size_t{16} << 20}) {
      const auto got =
          testing::run(shard, client.fetch({"POST", "/", {}, Bytes(size, 'x')}, Deadline::in(20s)));
      ASSERT_TRUE(got) << got.error().message;
      EXPECT_EQ(got->body, Bytes(size, 'x'));
      EXPECT_EQ(server.connections(), 1u);
    }
    const auto refused = testing::run(
        shard, client.fetch({"POST", "/", {}, Bytes(20u << 20, 'x')}, Deadline::in(20s)));
    ASSERT_TRUE(refused) << refused.error().message;
    EXPECT_EQ(refused->status, 413);
  }
  testing::run(shard, server.stop(Deadline::in(5s)));
}

TEST(HttpClientRealTest, ConnectsToNothingThatIsRefusedWhenTheNameIsLookedUp) {
  Shard shard;
  BlockingPool names(1);
  auto listener = listen_tcp(shard, "127.0.0.1", 0);
  ASSERT_TRUE(listener);
  const std::string port = (*listener)->address().substr(10);
  HttpServer server(shard, [](HttpRequest request, ResponseWriter* writer) {
    return echo(std::move(request), writer);
  });
  server.serve(std::move(*listener));
  std::vector<std::string> judged;
  const AddressCheck check = [&](const std::string& address) -> Result<void> {
    judged.push_back(address);
    return Error(ErrorCode::kPermissionDenied, address + " is refused");
  };
  for (const char* host : {"localhost", "127.0.0.1", "2130706433"}) {
    judged.clear();
    const auto url = Url::parse("http://" + std::string(host) + ":" + port);
    HttpClient client(shard, url_connector(shard, names, *url, check), "localhost");
    const auto got = testing::run(shard, client.fetch({"GET", "/", {}, {}}, Deadline::in(20s)));
    ASSERT_FALSE(got) << host;
    EXPECT_EQ(got.error().code, ErrorCode::kPermissionDenied) << host;
    EXPECT_EQ(judged.size(), 1u) << host;
  }
  EXPECT_EQ(server.connections(), 0u);
  testing::run(shard, server.stop(Deadline::in(5s)));
}

TEST(HttpClientRealTest, TalksToPythonsServer) {
  std::string directory = ::testing::TempDir() + "/sluice_test_http.XXXXXX";
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  ASSERT_TRUE(write_file_atomically(directory + "/file", Bytes(300'000, 'f')));
  ASSERT_TRUE(write_file_atomically(
      directory + "/serve.py",
      "import http.server, functools, sys\n"
      "class H(http.server.SimpleHTTPRequestHandler):\n"
      "    protocol_version = 'HTTP/1.1'\n"
      "    def log_message(self, *a): pass\n"
      "s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(H, "
      "directory=sys.argv[1]))\n"
      "print(s.server_address[1], flush=True)\n"
      "s.serve_forever()\n"));
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], 1);
    ::execlp("python3", "python3", (directory + "/serve.py").c_str(), directory.c_str(), nullptr);
    ::_exit(127);
  }
  ::close(ends[1]);
  Fd out(ends[0]);
  char port[16] = {};
  const ssize_t n = ::read(out.get(), port, sizeof port - 1);
  if (n > 0) {
    Shard shard;
    BlockingPool names(1);
    const auto url = Url::parse("http://127.0.0.1:" + std::to_string(std::atoi(port)));
    HttpClient client(shard, url_connector(shard, names, *url), "localhost");
    for (int i = 0; i < 2; ++i) {
      const auto got =
          testing::run(shard, client.fetch({"GET", "/file", {}, {}}, Deadline::in(20s)));
      EXPECT_TRUE(got);
      if (got) EXPECT_EQ(got->body, Bytes(300'000, 'f'));
    }
    const auto missing =
        testing::run(shard, client.fetch({"GET", "/no", {}, {}}, Deadline::in(20s)));
    EXPECT_TRUE(missing && missing->status == 404);
    const auto head =
        testing::run(shard, client.fetch({"HEAD", "/file", {}, {}}, Deadline::in(20s)));
    EXPECT_TRUE(head && head->body.empty() && head->headers.get("Content-Length") == "300000");
    const auto refused =
        testing::run(shard, client.fetch({"POST", "/file", {}, "x"}, Deadline::in(20s)));
    EXPECT_TRUE(refused && refused->status == 501);
  }
  ::kill(child, SIGKILL);
  int status = 0;
  ::waitpid(child, &status, 0);
  std::filesystem::remove_all(directory);
  if (n <= 0) GTEST_SKIP() << "there is no python3";
}

}  // namespace
}  // namespace sluice::net
