#include "sluice/net/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <future>

#include "sluice/base/core/defer.h"
#include "sluice/base/core/fd.h"
#include "sluice/net/memory_stream.h"
#include "sluice/net/socket.h"
#include "sluice/net/testing.h"
#include "sluice/net/wait.h"

namespace sluice::net {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// What the handlers of these tests do is chosen by the path.
struct App {
  explicit App(Shard& s) : shard(s) {}

  Shard& shard;
  Signal go;                        // ends /park
  std::vector<std::string> served;  // targets, in order
  std::vector<HttpRequest> requests;
  std::vector<Result<void>> results;
  std::optional<PeerClose> peer_closed;
  bool cancelled = false;

  static awaitable<void> handle(App* app, HttpRequest request, ResponseWriter* writer) {
    app->served.push_back(request.target);
    const std::string path(request.path());
    if (path == "/echo") {
      HttpResponse response{200, {{"Content-Type", "text/plain"}}, request.body};
      app->results.push_back(co_await writer->send(std::move(response)));
    } else if (path == "/pieces") {
      Headers headers{{"Content-Type", "text/event-stream"}};
      app->results.push_back(co_await writer->start(200, std::move(headers)));
      app->results.push_back(co_await writer->write("first "));
      app->results.push_back(co_await writer->write(""));
      app->results.push_back(co_await writer->write("second"));
      app->results.push_back(co_await writer->write(Bytes(100'000, 'x')));
      app->results.push_back(co_await writer->finish());
    } else if (path == "/throw") {
      throw std::runtime_error("secret detail");
    } else if (path == "/throw-int") {
      throw 7;
    } else if (path == "/throw-midway") {
      app->results.push_back(co_await writer->start(200, Headers()));
      app->results.push_back(co_await writer->write("half"));
      throw std::runtime_error("secret detail");
    } else if (path == "/half") {
      app->results.push_back(co_await writer->start(200, Headers()));
      app->results.push_back(co_await writer->write("half"));
    } else if (path == "/abort") {
      app->results.push_back(co_await writer->start(200, Headers()));
      writer->abort();
    } else if (path == "/park") {
      writer->on_peer_closed([app](PeerClose close) {
        app->peer_closed = close;
        app->go.notify();
      });
      const auto waited = co_await wait_for(&app->go);
      if (!waited) {
        app->cancelled = true;
        co_return;
      }
      HttpResponse response{200, {}, "parked"};
      app->results.push_back(co_await writer->send(std::move(response)));
    } else if (path == "/close") {
      HttpResponse response{200, {{"Connection", "close"}}, "bye"};
      app->results.push_back(co_await writer->send(std::move(response)));
    } else if (path == "/smuggle") {
      HttpResponse response{200, {{"X", "a\r\nSet-Cookie: b"}}, ""};
      app->results.push_back(co_await writer->send(std::move(response)));
    } else if (path == "/status") {
      HttpResponse response{std::stoi(std::string(request.query())), {}, "body"};
      app->results.push_back(co_await writer->send(std::move(response)));
    } else if (path == "/twice") {
      HttpResponse response{200, {}, "once"};
      app->results.push_back(co_await writer->send(response));
      app->results.push_back(co_await writer->send(response));
      app->results.push_back(co_await writer->start(200, Headers()));
      app->results.push_back(co_await writer->write("x"));
      app->results.push_back(co_await writer->finish());
    } else if (path == "/big") {
      HttpResponse response{200, {}, Bytes(std::stoul(std::string(request.query())), 'b')};
      app->results.push_back(co_await writer->send(std::move(response)));
    } else if (path == "/drained") {
      HttpResponse response{200, {}, "ok"};
      app->results.push_back(co_await writer->send(std::move(response)));
      app->results.push_back(co_await writer->drained(Deadline::in(5s)));
    }
    app->requests.push_back(std::move(request));
  }

  HttpHandler handler() {
    return [this](HttpRequest request, ResponseWriter* writer) {
      return handle(this, std::move(request), writer);
    };
  }
};

awaitable<void> write_bytes(Stream* stream, Bytes bytes) {
  const auto ignored = co_await write_all(stream, bytes);
}

awaitable<void> stop_then_set(HttpServer* server, Deadline deadline, bool* stopped) {
  co_await server->stop(deadline);
  *stopped = true;
}

class HttpServerTest : public ::testing::Test {
 protected:
  ~HttpServerTest() override {
    if (server_) testing::run(shard_, server_->stop(Deadline::in(0s)));
  }

  HttpServer& server() {
    if (!server_) {
      server_.emplace(shard_, app_.handler(), options_);
      auto listener = std::make_unique<MemoryListener>(shard_);
      listener_ = listener.get();
      server_->serve(std::move(listener));
    }
    return *server_;
  }
  std::unique_ptr<MemoryStream> connect(size_t credit = 1 << 20) {
    server();
    return listener_->connect(credit);
  }
  void send(MemoryStream& client, Bytes bytes) {
    shard_.spawn(write_bytes(&client, std::move(bytes)));
    shard_.context().poll();
  }
  // All that comes until the server closes the connection.
  static std::string read_to_end(Shard& shard, MemoryStream& client) {
    std::string all;
    Bytes buffer(65536, '\0');
    for (;;) {
      const auto n = testing::run(shard, client.read_some(as_writable_byte_span(buffer)));
      if (!n) return all + "<" + n.error().message + ">";
      if (*n == 0) return all;
      all.append(buffer, 0, *n);
    }
  }
  // Sends `bytes`, ends the sending side, and returns all that comes back.
  std::string talk(Bytes bytes) {
    auto client = connect();
    send(*client, std::move(bytes));
    client->finish();
    return read_to_end(shard_, *client);
  }
  // Removes Date, which no test can know.
  static std::string without_date(std::string text) {
    for (size_t at; (at = text.find("Date: ")) != std::string::npos;) {
      text.erase(at, text.find("\r\n", at) + 2 - at);
    }
    return text;
  }
  static size_t count(const std::string& text, const std::string& what) {
    size_t n = 0;
    for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += what.size()) ++n;
    return n;
  }

  Shard shard_;
  App app_{shard_};
  HttpServerOptions options_;
  MemoryListener* listener_ = nullptr;
  std::optional<HttpServer> server_;
};

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

TEST_F(HttpServerTest, RefusalsHaveTheirStatusAndCloseTheConnection) {
  options_.limits.header_bytes = 1000;
  options_.limits.header_fields = 5;
  options_.limits.body_bytes = 100;
  struct Case {
    std::string bytes;
    int status;
  };
  const std::string host = "Host: h\r\n";
  for (const Case& c : std::vector<Case>{
           {"BROKEN\r\n\r\n", 400},
           {"GET / HTTP/1.1\nHost: h\n\n", 400},
           {"GET / HTTP/1.1\r\n" + host + "A: b\r\n c\r\n\r\n", 400},
           {"\x16\x03\x01", 400},
           {"GET / HTTP/3.0\r\n" + host + "\r\n", 505},
           {"GET / HTTP/1.1\r\n" + host + "A: " + std::string(1000, 'x') + "\r\n\r\n", 431},
           {"GET /" + std::string(2000, 'x'), 431},
           {"GET / HTTP/1.1\r\n" + host + "A: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\n\r\n", 431},
           {"POST / HTTP/1.1\r\n" + host + "Content-Length: 101\r\n\r\n", 413},
           {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n65\r\n", 413},
           {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n5\nhello", 400},
           {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: br\r\n\r\n", 501},
           {"POST / HTTP/1.1\r\n" + host + "Expect: magic\r\n\r\n", 417},
       }) {
    const std::string got = talk(c.bytes + "GET /echo HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT_THAT(got, StartsWith("HTTP/1.1 " + std::to_string(c.status) + " ")) << c.bytes;
    EXPECT_THAT(got, HasSubstr("Connection: close\r\n")) << c.bytes;
    EXPECT_THAT(got, HasSubstr("{\"error\":\"")) << c.bytes;
    EXPECT_EQ(count(got, "Connection: close\r\n"), 1u) << got;
  }
  EXPECT_TRUE(app_.served.empty());
}

// ---- admission

TEST_F(HttpServerTest, WhoIsNotAdmittedIsToldBeforeAnyOfTheBodyIsThere) {
  std::vector<std::string> seen;
  options_.admit = [&](const HttpRequest& head) {
    seen.push_back(head.target + " " + std::string(head.headers.get_or("x-key", "-")));
    EXPECT_TRUE(head.body.empty());
    Admission admission;
    if (!head.headers.get("x-key")) {
      admission.refusal = HttpResponse{401, {{"WWW-Authenticate", "Bearer"}}, "who?"};
    }
    return admission;
  };
  for (const std::string framing :
       {"Content-Length: 1000", "Content-Length: 99999999999", "Transfer-Encoding: chunked",
        "Content-Length: 1000\r\nExpect: 100-continue", "Content-Length: 0", "X: y"}) {
    auto client = connect();
    send(*client, "POST /echo HTTP/1.1\r\nHost: h\r\n" + framing + "\r\n\r\n");
    shard_.run_until([&] { return client->unread() > 0; });
    EXPECT_THAT(client->take_unread(),
                AllOf(StartsWith("HTTP/1.1 401 "), HasSubstr("WWW-Authenticate: Bearer\r\n"),
                      HasSubstr("Connection: close\r\n"), EndsWith("\r\n\r\nwho?")))
        << framing;
    client->finish();
    EXPECT_EQ(read_to_end(shard_, *client), "") << framing;
  }
  EXPECT_TRUE(app_.served.empty());
  EXPECT_THAT(seen, ::testing::Each("/echo -"));
  EXPECT_THAT(talk("POST /echo HTTP/1.1\r\nHost: h\r\nX-Key: k\r\nContent-Length: 5\r\n\r\nhello"),
              EndsWith("hello"));
  EXPECT_EQ(seen.back(), "/echo k");
}

// What it sends all the same is no request.
TEST_F(HttpServerTest, WhatFollowsARefusedHeadIsNotServed) {
  options_.admit = [](const HttpRequest& head) {
    Admission admission;
    if (head.path() == "/no") admission.refusal = HttpResponse{403, {}, "no"};
    return admission;
  };
  const std::string inner = "GET /echo HTTP/1.1\r\nHost: h\r\n\r\n";
  const std::string body = "Content-Length: " + std::to_string(inner.size()) + "\r\n\r\n" + inner;
  const std::string got = talk("POST /no HTTP/1.1\r\nHost: h\r\n" + body + inner);
  EXPECT_EQ(count(got, "HTTP/1.1 "), 1u) << got;
  EXPECT_THAT(got, StartsWith("HTTP/1.1 403 "));
  EXPECT_TRUE(app_.served.empty());
}

TEST_F(HttpServerTest, AnAdmissionThatBreaksAdmitsNobody) {
  options_.admit = [](const HttpRequest& head) -> Admission {
    if (head.path() == "/throws") throw std::runtime_error("secret detail");
    Admission admission;
    admission.refusal = HttpResponse{401, {{"Bad\r\n", "x"}}, ""};
    return admission;
  };
  EXPECT_THAT(talk("GET /throws HTTP/1.1\r\nHost: h\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 500 "), Not(HasSubstr("secret"))));
  EXPECT_THAT(talk("GET /bad HTTP/1.1\r\nHost: h\r\n\r\n"), StartsWith("HTTP/1.1 401 "));
  EXPECT_TRUE(app_.served.empty());
}

TEST_F(HttpServerTest, SmuggledRequestsAreNeverServed) {
  const std::string inner = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
  const std::string size = std::to_string(inner.size());
  for (const std::string& fields : std::vector<std::string>{
           "Content-Length: 0\r\nContent-Length: " + size,
           "Content-Length: " + size + "\r\nTransfer-Encoding: chunked",
           "Transfer-Encoding: chunked\r\nContent-Length: " + size,
           "Content-Length: " + size + "\r\nTransfer-Encoding: xchunked",
           "Content-Length: 0\r\nTransfer-Encoding: \tchunked\t",
           "Content-Length: 0\n"
           "Content-Length: " +
               size,
           "Content-Length : " + size,
           "Content-Length: 0," + size,
           "X: y\r\n Content-Length: " + size,
           "X: y\rContent-Length: " + size,
           "Content-Length\t: " + size,
       }) {
    const std::string got =
        talk("POST /echo HTTP/1.1\r\nHost: h\r\n" + fields + "\r\n\r\n0\r\n\r\n" + inner);
    EXPECT_EQ(count(got, "HTTP/1.1 "), 1u) << fields << "\n" << got;
    EXPECT_THAT(got, Not(StartsWith("HTTP/1.1 200"))) << fields;
  }
  EXPECT_TRUE(app_.served.empty());
}

TEST_F(HttpServerTest, TheRefusalsShapeIsTheOwners) {
  std::vector<std::string> seen;
  options_.limits.body_bytes = 10;
  options_.refuse = [&](const HttpRequest& request, int status, const Error& error) {
    seen.push_back(request.method + " " + std::string(request.path()) + " " +
                   std::to_string(status) + " " + std::string(to_string(error.code)) + " " +
                   std::string(request.headers.get_or("x", "-")));
    EXPECT_TRUE(request.body.empty());
    return HttpResponse{200, {{"X-Shape", "mine"}}, error.message};
  };
  EXPECT_THAT(talk("POST /a?b HTTP/1.1\r\nHost: h\r\nX: y\r\nContent-Length: 11\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 413 "), HasSubstr("X-Shape: mine"),
                    EndsWith("the body is over 10 bytes")));
  talk("POST /b HTTP/1.1\r\nHost: h\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n");
  talk("POST /c HTTP/9.9\r\n\r\n");
  talk("POST /d HTTP/1.1\r\nHost: h\r\nX : y\r\n\r\n");
  talk("POST /e HTTP/1.1\nHost: h\r\n\r\n");
  talk("GET /throw HTTP/1.1\r\nHost: h\r\nX: y\r\n\r\n");
  EXPECT_THAT(
      seen, ::testing::ElementsAre("POST /a 413 too_large y", "POST /b 400 invalid_argument y",
                                   "POST /c 505 unsupported -", "POST /d 400 invalid_argument -",
                                   "POST /e 400 invalid_argument -", "GET /throw 500 internal -"));
}

TEST_F(HttpServerTest, ARefusalThatCannotBeWrittenIsReplaced) {
  options_.refuse = [](const HttpRequest& request, int, const Error&) -> HttpResponse {
    if (request.path() == "/throws") throw std::runtime_error("x");
    return HttpResponse{400, {{"Bad\r\n", "x"}}, ""};
  };
  for (const char* path : {"/throws", "/bad"}) {
    EXPECT_THAT(talk(std::string("GET ") + path + " HTTP/1.1\r\n\r\n"),
                AllOf(StartsWith("HTTP/1.1 400 "), HasSubstr("{\"error\":")))
        << path;
  }
}

// The client goes on sending 20 MiB whatever it is told, and must still get to read the 413.
TEST_F(HttpServerTest, AClientThatIsStillSendingGetsToReadTheRefusal) {
  auto client = connect(64 * 1024);
  const size_t size = 20 * 1024 * 1024;
  const std::string head =
      "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: " + std::to_string(size) + "\r\n\r\n";
  bool sent = false;
  shard_.spawn([](MemoryStream* stream, std::string h, size_t n, bool* done) -> awaitable<void> {
    const Bytes bytes = h + Bytes(n, 'x');
    const auto written = co_await write_all(stream, bytes);
    EXPECT_TRUE(written) << written.error().message;
    *done = true;
  }(client.get(), head, size, &sent));
  shard_.run_until([&] { return sent && client->peer_gone(); });
  EXPECT_THAT(client->take_unread(), StartsWith("HTTP/1.1 413 "));
  EXPECT_TRUE(app_.served.empty());
}

TEST_F(HttpServerTest, WhatIsDroppedAfterARefusalIsLimited) {
  options_.limits.discard_bytes = 100'000;
  auto client = connect(1024);
  bool sent = false;
  bool ok = true;
  shard_.spawn([](MemoryStream* stream, bool* done, bool* good) -> awaitable<void> {
    const Bytes bytes =
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n" + Bytes(1'000'000, 'x');
    const auto written = co_await write_all(stream, bytes);
    *good = written.has_value();
    *done = true;
  }(client.get(), &sent, &ok));
  shard_.run_until([&] { return sent; });
  EXPECT_FALSE(ok);
}

TEST_F(HttpServerTest, AClaimedLengthReservesNothing) {
  options_.limits.body_bytes = size_t{1} << 40;
  auto client = connect();
  send(*client, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000000\r\n\r\nstart");
  EXPECT_TRUE(app_.served.empty());
  client->reset();
  shard_.run_until([&] { return server().connections() == 0; });
}

// ---- bodies in the reading

TEST_F(HttpServerTest, BodiesInTheReadingAreBoundedTogether) {
  constexpr size_t kMiB = 1024 * 1024;
  options_.limits.body_bytes = 2 * kMiB;
  options_.limits.bodies_bytes = 4 * kMiB;
  for (const std::string framing : {"Content-Length: 1048577", "Transfer-Encoding: chunked"}) {
    std::vector<std::unique_ptr<MemoryStream>> clients;
    for (int i = 0; i < 16; ++i) {
      clients.push_back(connect());
      const std::string size = framing[0] == 'T' ? "100001\r\n" : "";
      shard_.spawn(write_bytes(
          clients.back().get(),
          "POST /echo HTTP/1.1\r\nHost: h\r\n" + framing + "\r\n\r\n" + size + Bytes(kMiB, 'x')));
      shard_.context().poll();
      EXPECT_LE(server().bodies_bytes(), 4 * kMiB);
    }
    size_t refused = 0;
    for (const auto& client : clients) {
      const Bytes told = client->take_unread();
      if (told.empty()) continue;
      EXPECT_THAT(told, AllOf(StartsWith("HTTP/1.1 503 "), HasSubstr("at once"))) << framing;
      ++refused;
    }
    EXPECT_GE(refused, 12u) << framing;
    EXPECT_LT(refused, 16u) << framing;
    EXPECT_GE(server().bodies_bytes(), kMiB) << framing;
    // What comes whole with its head needs no room.
    EXPECT_THAT(talk("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"),
                EndsWith("hello"));
    // And what is let go makes room.
    for (const auto& client : clients) client->reset();
    shard_.run_until([&] { return server().connections() == 0; });
    EXPECT_EQ(server().bodies_bytes(), 0u) << framing;
    EXPECT_THAT(talk("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2097152\r\n\r\n" +
                     Bytes(2 * kMiB - 1, 'x') + "!"),
                EndsWith("x!"));
  }
}

TEST_F(HttpServerTest, ABodyCountsUntilItsHandlerHasIt) {
  auto client = connect();
  const std::string head = "POST /park HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n";
  send(*client, head + Bytes(99'999, 'x'));
  EXPECT_EQ(server().bodies_bytes(), 100'000u);
  send(*client, "x");
  EXPECT_EQ(app_.served.size(), 1u);
  EXPECT_EQ(server().bodies_bytes(), 0u);
  app_.go.notify();
  shard_.run_until([&] { return !app_.requests.empty(); });
  EXPECT_EQ(app_.requests.at(0).body, Bytes(100'000, 'x'));
}

TEST_F(HttpServerTest, OneClientsBodiesLeaveRoomForOthers) {
  const auto budget = std::make_shared<BodyBudget>(300'000);
  options_.admit = [&](const HttpRequest& head) {
    Admission admission;
    if (head.path() == "/park") admission.budget = budget;
    return admission;
  };
  const std::string length = " HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n";
  auto one = connect(), two = connect(), other = connect();
  send(*one, "POST /park" + length + "x");
  EXPECT_EQ(budget->held(), 200'000u);
  send(*two, "POST /park" + length + "x");
  EXPECT_THAT(two->take_unread(), StartsWith("HTTP/1.1 503 "));
  send(*other, "POST /echo" + length + Bytes(200'000, 'x'));
  shard_.run_until([&] { return !app_.requests.empty(); });
  EXPECT_EQ(one->take_unread(), "");
  one->reset();
  two->reset();
  shard_.run_until([&] { return server().connections() == 1; });
  EXPECT_EQ(budget->held(), 0u);
}

TEST_F(HttpServerTest, SlowHeadsGet408) {
  options_.limits.header_timeout = 20ms;
  std::string seen;
  options_.refuse = [&](const HttpRequest& request, int status, const Error& error) {
    seen = request.target + " " + std::string(to_string(error.code));
    return json_response(status, "{}");
  };
  auto client = connect();
  send(*client, "GET /slow HTTP/1.1\r\nHos");
  EXPECT_THAT(read_to_end(shard_, *client), StartsWith("HTTP/1.1 408 Request Timeout\r\n"));
  EXPECT_EQ(seen, "/slow timed_out");
}

// A byte now and then does not help: the time counts from the first.
TEST_F(HttpServerTest, DrippedHeadsGet408) {
  options_.limits.header_timeout = 40ms;
  auto client = connect();
  std::string head = "GET /slow HTTP/1.1\r\nX: ";
  bool gone = false;
  for (int i = 0; i < 1000 && !gone; ++i) {
    send(*client, std::exchange(head, "x"));
    ASSERT_TRUE(testing::run(shard_, sleep_for(2ms)));
    gone = client->peer_gone();
  }
  EXPECT_TRUE(gone);
  EXPECT_THAT(client->take_unread(), StartsWith("HTTP/1.1 408 "));
}

TEST_F(HttpServerTest, SlowBodiesGet408) {
  options_.limits.body_idle_timeout = 20ms;
  for (const char* framing :
       {"Content-Length: 10", "Content-Length: 1000000", "Transfer-Encoding: chunked"}) {
    auto client = connect();
    send(*client, std::string("POST /slow HTTP/1.1\r\nHost: h\r\n") + framing + "\r\n\r\n1\r\nx");
    EXPECT_THAT(read_to_end(shard_, *client), StartsWith("HTTP/1.1 408 ")) << framing;
  }
  EXPECT_TRUE(app_.served.empty());
}

// Bytes that arrive while the 408 is on its way go nowhere.
TEST_F(HttpServerTest, BytesBehindThe408AreNotServed) {
  options_.limits.body_idle_timeout = 20ms;
  auto client = connect();
  client->set_acknowledge(MemoryStream::Acknowledge::kByHand);
  send(*client, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhel");
  shard_.run_until([&] { return client->unread() > 0; });
  EXPECT_THAT(client->take_unread(), StartsWith("HTTP/1.1 408 "));
  send(*client, "loGET /echo HTTP/1.1\r\nHost: h\r\n\r\n");
  client->acknowledge();
  shard_.run_until([&] { return client->peer_gone(); });
  EXPECT_EQ(client->take_unread(), "");
  EXPECT_TRUE(app_.served.empty());
}

TEST_F(HttpServerTest, IdleConnectionsAreClosedSilently) {
  options_.limits.keep_alive_timeout = 20ms;
  auto fresh = connect();
  EXPECT_EQ(read_to_end(shard_, *fresh), "");
  auto used = connect();
  send(*used, "GET /echo HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_EQ(count(read_to_end(shard_, *used), "HTTP/1.1"), 1u);
}

TEST_F(HttpServerTest, AClientThatDoesNotReadIsClosed) {
  options_.limits.write_timeout = 20ms;
  auto client = connect(1000);
  send(*client, "GET /big?100000 HTTP/1.1\r\nHost: h\r\n\r\n");
  shard_.run_until([&] { return !app_.results.empty(); });
  EXPECT_FALSE(app_.results[0]);
  shard_.run_until([&] { return server().connections() == 0; });
}

TEST_F(HttpServerTest, ConnectionsOverTheLimitAreClosedAtOnce) {
  options_.limits.connections = 2;
  auto first = connect();
  auto second = connect();
  shard_.context().poll();
  auto third = connect();
  shard_.context().poll();
  EXPECT_TRUE(third->peer_gone());
  EXPECT_FALSE(second->peer_gone());
  EXPECT_EQ(server().connections(), 2u);
  first->close();
  shard_.run_until([&] { return server().connections() == 1; });
  auto fourth = connect();
  shard_.context().poll();
  EXPECT_FALSE(fourth->peer_gone());
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
  shard_.spawn(stop_then_set(&server(), Deadline::in(10s), &stopped));
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

TEST_F(HttpServerTest, AfterStopNothingIsServed) {
  server();
  testing::run(shard_, server().stop(Deadline::in(1s)));
  auto listener = std::make_unique<MemoryListener>(shard_);
  server().serve(std::move(listener));
  testing::run(shard_, server().stop(Deadline::in(1s)));
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

// ---- Real peers, over real sockets. ----

// A server on a thread of its own, for programs that are its clients.
class RealServer {
 public:
  RealServer() {
    auto listener = listen_tcp(shard_, "127.0.0.1", 0);
    EXPECT_TRUE(listener);
    const std::string address = (*listener)->address();
    port_ = address.substr(address.rfind(':') + 1);
    server_.emplace(shard_, app_.handler(), HttpServerOptions());
    server_->serve(std::move(*listener));
    shard_.start();
  }
  ~RealServer() {
    std::promise<void> stopped;
    shard_.post([&] { shard_.spawn(stop(&*server_, &stopped)); });
    stopped.get_future().wait();
    std::promise<void> destroyed;
    shard_.post([&] {
      server_.reset();
      destroyed.set_value();
    });
    destroyed.get_future().wait();
    shard_.stop();
  }

  std::string url(const std::string& path) const { return "http://127.0.0.1:" + port_ + path; }
  uint16_t port() const { return static_cast<uint16_t>(std::stoi(port_)); }

 private:
  static awaitable<void> stop(HttpServer* server, std::promise<void>* done) {
    co_await server->stop(Deadline::in(1s));
    done->set_value();
  }

  Shard shard_;
  App app_{shard_};
  std::optional<HttpServer> server_;
  std::string port_;
};

// What `command` prints.
std::string output_of(const std::string& command) {
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return "cannot run: " + command;
  std::string out;
  char buffer[4096];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) out.append(buffer, n);
  ::pclose(pipe);
  return out;
}

class CurlTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (output_of("command -v curl").empty()) GTEST_SKIP() << "there is no curl";
  }
  static std::string curl(const std::string& arguments) {
    return output_of("curl -sS --noproxy '*' --max-time 20 " + arguments + " 2>&1");
  }
  RealServer server_;
};

// A client that goes on sending behind its last request makes the server's close a reset. The
// answer must have reached the client's kernel before that.
TEST(HttpServerRealTest, TheLastAnswerSurvivesWhatWasSentBehindItsRequest) {
  RealServer server;
  int resets = 0;
  for (int i = 0; i < 20; ++i) {
    const Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(server.port());
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    // More than the server reads at once, so that some of it stays unread in its kernel.
    const std::string request =
        "GET /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + std::string(20'000, 'x');
    ASSERT_EQ(::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(request.size()));
    std::string got(4096, '\0');
    const ssize_t n = ::recv(fd.get(), got.data(), got.size(), 0);
    ASSERT_GT(n, 0) << "the answer was lost";
    got.resize(static_cast<size_t>(n));
    EXPECT_THAT(got, StartsWith("HTTP/1.1 200 OK\r\n"));
    if (::recv(fd.get(), got.data(), got.size(), 0) < 0 && errno == ECONNRESET) ++resets;
  }
  EXPECT_GT(resets, 0) << "nothing was reset: this shows nothing";
}

TEST_F(CurlTest, ReusesItsConnection) {
  const std::string got = curl("-w '[%{num_connects}]' -d one " + server_.url("/echo") +
                               " -d one " + server_.url("/echo"));
  EXPECT_EQ(got, "one&one[1]one&one[0]");
}

TEST_F(CurlTest, UploadsInChunksOfUnknownLength) {
  EXPECT_EQ(output_of("head -c 300000 /dev/zero | tr '\\0' 'z' | curl -sS --noproxy '*' -T - " +
                      server_.url("/echo")),
            std::string(300'000, 'z'));
}

TEST_F(CurlTest, WaitsForContinue) {
  const std::string got = curl("-v -H 'Expect: 100-continue' -d hello " + server_.url("/echo"));
  EXPECT_THAT(got, HasSubstr("< HTTP/1.1 100 Continue"));
  EXPECT_THAT(got, HasSubstr("hello"));
}

TEST_F(CurlTest, AsksForHeadsAndReadsPieces) {
  EXPECT_THAT(curl("-I " + server_.url("/big?1234")), HasSubstr("Content-Length: 1234"));
  const std::string pieces = "first second" + std::string(100'000, 'x');
  EXPECT_TRUE(curl(server_.url("/pieces")) == pieces);
  EXPECT_TRUE(curl("--http1.0 " + server_.url("/pieces")) == pieces);
  EXPECT_THAT(curl(server_.url("/half")), HasSubstr("transfer closed"));
}

TEST_F(CurlTest, ReadsTheRefusalOfATooLargeBody) {
  const std::string path = ::testing::TempDir() + "/sluice_test_20mib." + std::to_string(::getpid());
  {
    std::ofstream file(path);
    file << std::string(20 * 1024 * 1024, 'x');
  }
  Defer remove([&] { ::unlink(path.c_str()); });
  // Sized, without waiting for "100 Continue", and in chunks.
  for (const char* how :
       {"-H 'Expect:' -H 'Content-Type: x'", "-H 'Transfer-Encoding: chunked' -H 'Expect:'"}) {
    const std::string got = curl(std::string(how) + " -w '[%{http_code}]' --data-binary @" + path +
                                 " " + server_.url("/echo"));
    EXPECT_EQ(got, "{\"error\":\"the body is over 16777216 bytes\"}[413]") << how;
  }
  EXPECT_EQ(
      curl("-w '[%{http_code}]' -o /dev/null --data-binary @" + path + " " + server_.url("/echo")),
      "[413]");
}

TEST_F(CurlTest, SixteenMebibytesPass) {
  const std::string got = output_of(
      "head -c 16777216 /dev/zero | curl -sS --noproxy '*' -H 'Expect:' --data-binary @- -o "
      "/dev/null -w '%{http_code} %{size_download}' " +
      server_.url("/echo"));
  EXPECT_EQ(got, "200 16777216");
}

}  // namespace
}  // namespace sluice::net
