#include "sluice/net/http_server.h"

#include <sys/mman.h>
#include <unistd.h>

#include "sluice/base/core/fd.h"
#include "sluice/net/http_server_testing.h"

namespace sluice::net {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using testing::HttpServerTest;
using ::testing::Not;
using ::testing::StartsWith;

TEST_F(HttpServerTest, AnswersOneRequestToTheByte) {
  EXPECT_EQ(without_date(talk("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello");
  EXPECT_TRUE(app_.results.at(0));
}

TEST_F(HttpServerTest, TheDateIsInTheHttpFormat) {
  EXPECT_THAT(talk("GET /echo HTTP/1.1\r\nHost: h\r\n\r\n"),
              ::testing::ContainsRegex("\r\nDate: [A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} "
                                       "[0-9]{2}:[0-9]{2}:[0-9]{2} GMT\r\n"));
}

TEST_F(HttpServerTest, KeepsTheConnectionAndAnswersPipelinedRequestsInOrder) {
  std::string all;
  for (int i = 0; i < 50; ++i) {
    all += "POST /echo?" + std::to_string(i) + " HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n" +
           std::to_string(100 + i);
  }
  const std::string got = talk(all);
  EXPECT_EQ(count(got, "HTTP/1.1 200 OK"), 50u);
  ASSERT_EQ(app_.served.size(), 50u);
  size_t at = 0;
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(app_.served[static_cast<size_t>(i)], "/echo?" + std::to_string(i));
    at = got.find("\r\n\r\n" + std::to_string(100 + i), at);
    ASSERT_NE(at, std::string::npos) << i;
  }
}

TEST_F(HttpServerTest, HoweverTheBytesArrive) {
  const std::string request =
      "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
      "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
      "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nlast";
  auto client = connect();
  for (const char c : request) send(*client, std::string(1, c));
  client->finish();
  const std::string got = read_to_end(shard_, *client);
  EXPECT_THAT(got, HasSubstr("\r\n\r\nhello world"));
  EXPECT_THAT(got, EndsWith("\r\n\r\nlast"));
}

TEST_F(HttpServerTest, BodiesHavePaddingBehindThem) {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{5000}, size_t{70'000}, size_t{300'000}}) {
    talk("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: " + std::to_string(size) + "\r\n\r\n" +
         std::string(size, 's'));
    const Bytes& body = app_.requests.at(0).body;
    EXPECT_EQ(body, std::string(size, 's'));
    EXPECT_GE(body.capacity() - body.size(), size == 0 ? 0 : 64u) << size;
    app_.requests.clear();
  }
  std::string chunked = "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 100; ++i) chunked += "3e8\r\n" + std::string(1000, 'c') + "\r\n";
  talk(chunked + "0\r\n\r\n");
  const Bytes& body = app_.requests.at(0).body;
  EXPECT_EQ(body, std::string(100'000, 'c'));
  EXPECT_GE(body.capacity() - body.size(), 64u);
}

TEST_F(HttpServerTest, HeadGetsTheHeadersAlone) {
  const std::string got = talk(
      "HEAD /big?1000 HTTP/1.1\r\nHost: h\r\n\r\nHEAD /pieces HTTP/1.1\r\nHost: h\r\n\r\n"
      "HEAD /none HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_THAT(got, HasSubstr("Content-Length: 1000\r\n"));
  EXPECT_THAT(got, HasSubstr("Transfer-Encoding: chunked\r\n"));
  EXPECT_THAT(got, HasSubstr("HTTP/1.1 500 "));
  EXPECT_THAT(got, Not(HasSubstr("bbb")));
  EXPECT_THAT(got, Not(HasSubstr("first")));
  EXPECT_THAT(got, EndsWith("\r\n\r\n"));
}

TEST_F(HttpServerTest, AnswersWithoutABodyByTheirStatus) {
  EXPECT_THAT(talk("GET /status?204 HTTP/1.1\r\nHost: h\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 204 No Content\r\n"), Not(HasSubstr("Content-Length")),
                    EndsWith("\r\n\r\n")));
  EXPECT_THAT(talk("GET /status?304 HTTP/1.1\r\nHost: h\r\n\r\n"), EndsWith("\r\n\r\n"));
  // What is no final status never leaves.
  for (const char* status : {"100", "101", "0", "199", "600"}) {
    EXPECT_THAT(talk("GET /status?" + std::string(status) + " HTTP/1.1\r\nHost: h\r\n\r\n"),
                StartsWith("HTTP/1.1 500 "));
    EXPECT_EQ(app_.results.back().error().code, ErrorCode::kInternal);
  }
}

TEST_F(HttpServerTest, AnswersInPiecesAreChunked) {
  const std::string got = talk("GET /pieces HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_THAT(got, HasSubstr("Transfer-Encoding: chunked\r\n"));
  EXPECT_THAT(got, HasSubstr("\r\n\r\n6\r\nfirst \r\n6\r\nsecond\r\n186a0\r\n" +
                             std::string(100'000, 'x') + "\r\n0\r\n\r\n"));
}

TEST_F(HttpServerTest, ToHttp10ThePiecesEndWithTheConnection) {
  const std::string got = talk("GET /pieces HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_THAT(got, AllOf(HasSubstr("Connection: close\r\n"), Not(HasSubstr("chunked")),
                         EndsWith("\r\n\r\nfirst second" + std::string(100'000, 'x'))));
}

TEST_F(HttpServerTest, Http10IsKeptOnlyWhenAsked) {
  const std::string kept = talk(
      "GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /echo HTTP/1.0\r\n\r\n"
      "GET /echo HTTP/1.0\r\n\r\n");
  EXPECT_EQ(count(kept, "HTTP/1.1 200"), 2u);
  EXPECT_EQ(count(kept, "Connection: keep-alive"), 1u);
  EXPECT_EQ(count(kept, "Connection: close"), 1u);
}

TEST_F(HttpServerTest, EitherSideMayAskForTheEnd) {
  EXPECT_EQ(count(talk("GET /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
                       "GET /echo HTTP/1.1\r\nHost: h\r\n\r\n"),
                  "HTTP/1.1 200"),
            1u);
  const std::string got = talk("GET /close HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_EQ(count(got, "Connection: close"), 1u);
}

TEST_F(HttpServerTest, ExpectContinueIsAnsweredBeforeTheBody) {
  auto client = connect();
  send(*client,
       "POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_EQ(client->take_unread(), "HTTP/1.1 100 Continue\r\n\r\n");
  EXPECT_TRUE(app_.served.empty());
  send(*client, "ok");
  EXPECT_THAT(client->take_unread(), AllOf(StartsWith("HTTP/1.1 200"), EndsWith("ok")));
  // Not when the body is there already, nor when it would be refused.
  EXPECT_THAT(talk("POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: "
                   "2\r\n\r\nok"),
              StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(talk("POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: "
                   "99999999\r\n\r\n"),
              StartsWith("HTTP/1.1 413"));
}

TEST_F(HttpServerTest, MisusedWritersGetErrorsAndTheClientOneAnswer) {
  const std::string got = talk("GET /twice HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_EQ(count(got, "HTTP/1.1"), 1u);
  ASSERT_EQ(app_.results.size(), 5u);
  EXPECT_TRUE(app_.results[0]);
  for (size_t i = 1; i < 5; ++i) EXPECT_EQ(app_.results[i].error().code, ErrorCode::kInternal);
}

TEST_F(HttpServerTest, finding_07_failures_of_a_handler_tell_the_client_nothing) {
  options_.log = Logger();
  for (const char* path : {"/throw", "/throw-int", "/none", "/smuggle"}) {
    const std::string got =
        talk(std::string("GET ") + path + " HTTP/1.1\r\nHost: h\r\n\r\nGET /echo HTTP/1.1\r\n\r\n");
    EXPECT_THAT(got, StartsWith("HTTP/1.1 500 Internal Server Error\r\n")) << path;
    EXPECT_THAT(got, HasSubstr("Connection: close\r\n")) << path;
    EXPECT_THAT(got, EndsWith("{\"error\":\"internal error\"}")) << path;
    EXPECT_THAT(got, Not(HasSubstr("Set-Cookie"))) << path;
  }
  // The server lives on.
  EXPECT_THAT(talk("GET /echo HTTP/1.1\r\nHost: h\r\n\r\n"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, AHandlersExceptionIsLogged) {
  const Fd log(::memfd_create("log", MFD_CLOEXEC));
  options_.log = Logger::to_fd(log.get(), LogLevel::kInfo);
  talk("GET /throw HTTP/1.1\r\nHost: h\r\n\r\n");
  options_.log.flush();
  std::string text(4096, '\0');
  text.resize(static_cast<size_t>(::pread(log.get(), text.data(), text.size(), 0)));
  EXPECT_THAT(text, HasSubstr("secret detail"));
  EXPECT_THAT(text, HasSubstr("/throw"));
}

TEST_F(HttpServerTest, AnAnswerThatBreaksMidwayLooksBroken) {
  for (const char* path : {"/half", "/throw-midway"}) {
    const std::string got = talk(std::string("GET ") + path + " HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT_THAT(got, EndsWith("\r\n\r\n4\r\nhalf\r\n")) << path;
  }
  EXPECT_THAT(talk("GET /abort HTTP/1.1\r\nHost: h\r\n\r\n"), Not(HasSubstr("0\r\n\r\n")));
}

TEST_F(HttpServerTest, NothingIsReadWhileAHandlerRuns) {
  auto client = connect();
  send(*client, "GET /drained HTTP/1.1\r\nHost: h\r\n\r\n");
  app_.results.clear();
  client->set_acknowledge(MemoryStream::Acknowledge::kByHand);
  send(*client, "GET /drained HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_EQ(app_.results.size(), 1u) << "it waits for the acknowledgement";
  send(*client, "GET /echo HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_EQ(app_.served.size(), 2u);
  client->acknowledge();
  shard_.context().poll();
  ASSERT_EQ(app_.served.size(), 3u);
  EXPECT_TRUE(app_.results.at(1));
}

TEST_F(HttpServerTest, finding_04_a_handler_learns_that_its_client_went_away) {
  auto orderly = connect();
  send(*orderly, "GET /park HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_EQ(app_.peer_closed, std::nullopt);
  orderly->close();
  shard_.run_until([&] { return app_.peer_closed.has_value(); });
  EXPECT_EQ(app_.peer_closed, PeerClose::kFin);
  shard_.run_until([&] { return server().connections() == 0; });
  EXPECT_FALSE(app_.results.at(0)) << "nobody got that answer";

  app_.peer_closed.reset();
  auto broken = connect();
  send(*broken, "GET /park HTTP/1.1\r\nHost: h\r\n\r\n");
  broken->reset();
  shard_.run_until([&] { return app_.peer_closed.has_value(); });
  EXPECT_EQ(app_.peer_closed, PeerClose::kReset);
}

TEST_F(HttpServerTest, TheWatchEndsWithItsRequest) {
  auto client = connect();
  send(*client, "GET /park HTTP/1.1\r\nHost: h\r\n\r\n");
  app_.go.notify();
  shard_.context().poll();
  EXPECT_THAT(client->take_unread(), EndsWith("parked"));
  client->close();
  shard_.run_until([&] { return server().connections() == 0; });
  EXPECT_EQ(app_.peer_closed, std::nullopt);
}

TEST_F(HttpServerTest, StopLetsRequestsEndAndClosesIdleConnections) {
  auto idle = connect();
  auto busy = connect();
  auto half = connect();
  send(*busy, "GET /park HTTP/1.1\r\nHost: h\r\n\r\n");
  send(*half, "GET /echo HTTP/1.1\r\nHo");
  bool stopped = false;
  shard_.spawn(testing::stop_then_set(&server(), Deadline::in(10s), &stopped));
  shard_.context().poll();
  EXPECT_TRUE(idle->peer_gone());
  EXPECT_FALSE(busy->peer_gone());
  EXPECT_FALSE(stopped);
  app_.go.notify();
  send(*half, "st: h\r\n\r\n");
  shard_.run_until([&] { return stopped; });
  // Both were told that the connection ends.
  for (MemoryStream* client : {busy.get(), half.get()}) {
    EXPECT_THAT(client->take_unread(),
                AllOf(StartsWith("HTTP/1.1 200 "), HasSubstr("Connection: close\r\n")));
    EXPECT_TRUE(client->peer_gone());
  }
  EXPECT_EQ(server().connections(), 0u);
}

TEST_F(HttpServerTest, StopCancelsAtTheDeadline) {
  auto busy = connect();
  send(*busy, "GET /park HTTP/1.1\r\nHost: h\r\n\r\n");
  testing::run(shard_, server().stop(Deadline::in(20ms)));
  EXPECT_TRUE(app_.cancelled);
  EXPECT_TRUE(busy->peer_gone());
  EXPECT_EQ(server().connections(), 0u);
}

// Counts what a server does with it.
class CountingListener final : public Listener {
 public:
  struct Counts {
    int accepts = 0;
    int closes = 0;
  };
  explicit CountingListener(Counts* counts) : counts_(counts) {}

  awaitable<Result<std::unique_ptr<Stream>>> accept() override {
    ++counts_->accepts;
    co_return Error(ErrorCode::kClosed, "closed here");
  }
  void close() override { ++counts_->closes; }
  std::string address() const override { return "counted"; }

 private:
  Counts* const counts_;
};

TEST_F(HttpServerTest, AfterStopNothingIsServed) {
  auto client = connect();
  testing::run(shard_, server().stop(Deadline::in(1s)));
  EXPECT_TRUE(client->peer_gone());
  CountingListener::Counts counts;
  server().serve(std::make_unique<CountingListener>(&counts));
  testing::run(shard_, server().stop(Deadline::in(1s)));
  EXPECT_EQ(counts.accepts, 0);
  EXPECT_EQ(counts.closes, 1);
  EXPECT_EQ(server().connections(), 0u);
  EXPECT_TRUE(app_.served.empty());
}

TEST_F(HttpServerTest, ServesSeveralListeners) {
  server();
  auto second = std::make_unique<MemoryListener>(shard_);
  MemoryListener* raw = second.get();
  server().serve(std::move(second));
  auto client = raw->connect();
  send(*client, "GET /echo HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_THAT(client->take_unread(), StartsWith("HTTP/1.1 200 "));
}

}  // namespace
}  // namespace sluice::net
