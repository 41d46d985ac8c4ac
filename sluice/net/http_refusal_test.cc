// What the server refuses: by its grammar, its limits, its owner and its clock.
#include <functional>
#include <map>
#include <memory>

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
      shard_.spawn(testing::write_bytes(
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

constexpr std::string_view kPark = "GET /park HTTP/1.1\r\nHost: h\r\n\r\n";
constexpr std::string_view kEcho = "GET /echo HTTP/1.1\r\nHost: h\r\n\r\n";

TEST_F(HttpServerTest, RequestsOverTheLimitOfConnectionsAre503) {
  options_.limits.connections = 1;
  auto first = connect(), second = connect(), third = connect();
  send(*first, Bytes(kPark));
  send(*second, Bytes(kEcho));
  EXPECT_THAT(second->take_unread(), StartsWith("HTTP/1.1 503 "));
  shard_.run_until([&] { return second->peer_gone(); });
  app_.go.notify();
  shard_.context().poll();
  EXPECT_THAT(first->take_unread(), EndsWith("parked"));
  send(*third, Bytes(kEcho));
  EXPECT_THAT(third->take_unread(), StartsWith("HTTP/1.1 200 "));
}

TEST_F(HttpServerTest, ThoseWhoSayNothingMakeRoomForThoseWhoCome) {
  options_.limits.strangers = 3;
  options_.limits.connections = 5;
  auto parked = connect();
  send(*parked, Bytes(kPark));
  std::vector<std::unique_ptr<MemoryStream>> silent;
  for (int i = 0; i < 20; ++i) {
    silent.push_back(connect());
    if (i % 2 == 0) send(*silent.back(), "GET /echo HT");
    shard_.context().poll();
    auto client = connect();
    send(*client, Bytes(kEcho));
    EXPECT_THAT(client->take_unread(), StartsWith("HTTP/1.1 200 ")) << i;
    client->close();
    shard_.context().poll();
  }
  for (size_t i = 0; i < silent.size(); ++i) EXPECT_EQ(silent[i]->peer_gone(), i < 18) << i;
  EXPECT_EQ(server().connections(), 3u);
  // Whoever is being served is left alone, and when it was it is like the others.
  EXPECT_FALSE(parked->peer_gone());
  app_.go.notify();
  shard_.context().poll();
  EXPECT_THAT(parked->take_unread(), EndsWith("parked"));
  EXPECT_FALSE(parked->peer_gone());
  for (int i = 0; i < 3; ++i) silent.push_back(connect());
  shard_.context().poll();
  EXPECT_TRUE(parked->peer_gone());
}

TEST_F(HttpServerTest, WhoeverWasRefusedAndLingersIsAStranger) {
  options_.limits.strangers = 2;
  options_.admit = [](const HttpRequest&) {
    Admission admission;
    admission.refusal = json_response(401, "{}");
    return admission;
  };
  std::vector<std::unique_ptr<MemoryStream>> refused;
  for (int i = 0; i < 5; ++i) {
    refused.push_back(connect());
    send(*refused.back(), "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n");
    EXPECT_THAT(refused.back()->take_unread(), StartsWith("HTTP/1.1 401 "));
  }
  shard_.context().poll();
  for (size_t i = 0; i < refused.size(); ++i) EXPECT_EQ(refused[i]->peer_gone(), i < 3) << i;
}

// Clients with a number of connections of their own, and what asks whether the server lives.
TEST_F(HttpServerTest, OneClientsConnectionsAreBoundedAndNoOtherSuffers) {
  options_.limits.strangers = 2;
  options_.limits.connections = 4;
  std::map<std::string, std::shared_ptr<BodyBudget>, std::less<>> clients;
  for (const char* name : {"a", "b"}) clients[name] = std::make_shared<BodyBudget>(2);
  options_.admit = [&](const HttpRequest& head) {
    Admission admission;
    const auto client = clients.find(head.query());
    if (client != clients.end()) admission.connections = client->second;
    admission.always = head.query() == "health";
    return admission;
  };
  const auto ask = [&](MemoryStream& stream, std::string_view who) {
    send(stream, "GET /echo?" + std::string(who) + " HTTP/1.1\r\nHost: h\r\n\r\n");
    return stream.take_unread().substr(9, 3);
  };
  auto one = connect();
  EXPECT_EQ(ask(*one, "a"), "200");
  auto two = connect();
  EXPECT_EQ(ask(*two, "a"), "200");
  EXPECT_EQ(ask(*one, "a"), "200") << "once for a connection, not for a request";
  EXPECT_EQ(clients["a"]->held(), 2u);
  auto three = connect();
  EXPECT_EQ(ask(*three, "a"), "503");
  auto other = connect();
  EXPECT_EQ(ask(*other, "b"), "200");

  // They are idle, and no strangers for whom others make room.
  std::vector<std::unique_ptr<MemoryStream>> silent;
  for (int i = 0; i < 5; ++i) silent.push_back(connect());
  shard_.context().poll();
  for (auto* stream : {one.get(), two.get(), other.get()}) EXPECT_FALSE(stream->peer_gone());

  // Another key on the same connection is another client; a place is free again when one ends.
  EXPECT_EQ(ask(*two, "b"), "200");
  EXPECT_EQ(clients["a"]->held(), 1u);
  EXPECT_EQ(clients["b"]->held(), 2u);
  other->close();
  shard_.run_until([&] { return clients["b"]->held() == 1; });

  // All are taken; it lives all the same.
  auto again = connect();
  EXPECT_EQ(ask(*again, "a"), "200");
  auto four = connect();
  EXPECT_EQ(ask(*four, "b"), "200");
  auto five = connect();
  EXPECT_EQ(ask(*five, "health"), "200");
  EXPECT_EQ(ask(*five, "health"), "200");
  EXPECT_EQ(ask(*five, "a"), "503");
}

}  // namespace
}  // namespace sluice::net
