#include "sluice/net/websocket.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "sluice/net/http_server.h"
#include "sluice/net/memory_stream.h"
#include "sluice/net/testing.h"
#include "sluice/net/wait.h"

namespace sluice::net {
namespace {

using namespace std::chrono_literals;
using websocket::append_frame;
using websocket::Decoder;
using websocket::Event;
using websocket::Fault;
using websocket::Opcode;
using websocket::Role;

// Everything that `bytes` decode to, fed in pieces of `step`.
struct Decoded {
  std::vector<Event> events;
  std::optional<Fault> fault;
};
Decoded decode(ByteView bytes, Role role = Role::kServer, size_t step = 1 << 20,
               size_t max_message = 1 << 20) {
  Decoder decoder(role, max_message);
  Decoded all;
  while (!bytes.empty()) {
    ByteView piece = bytes.substr(0, step);
    bytes.remove_prefix(piece.size());
    while (!piece.empty()) {
      std::optional<Event> event;
      auto used = decoder.decode(piece, &event);
      if (!used) {
        all.fault = used.error();
        return all;
      }
      piece.remove_prefix(*used);
      if (event) all.events.push_back(std::move(*event));
    }
  }
  return all;
}

Bytes masked(Opcode opcode, ByteView payload, uint16_t code = 0) {
  Bytes out;
  append_frame(out, Role::kClient, opcode, payload, code);
  return out;
}
Bytes masked_fragment(Opcode opcode, ByteView payload) {
  Bytes out = masked(opcode, payload);
  out[0] = static_cast<char>(out[0] & 0x7F);  // more follows
  return out;
}

uint16_t code_of(const Decoded& decoded) {
  return decoded.fault ? decoded.fault->code : 0;
}

TEST(WebSocketDecoder, reads_messages_of_every_length_however_they_are_cut) {
  for (const size_t size :
       {0UL, 1UL, 124UL, 125UL, 126UL, 127UL, 128UL, 65535UL, 65536UL, 70000UL}) {
    const Bytes payload(size, 'x');
    for (const size_t step : {1UL, 7UL, 4096UL, 1UL << 20}) {
      if (step == 1 && size > 1000) continue;
      Decoded decoded = decode(masked(Opcode::kBinary, payload), Role::kServer, step);
      ASSERT_FALSE(decoded.fault) << decoded.fault->message;
      ASSERT_EQ(decoded.events.size(), 1U) << size << " " << step;
      EXPECT_EQ(decoded.events[0].opcode, Opcode::kBinary);
      EXPECT_EQ(decoded.events[0].data, payload);
    }
  }
}

TEST(WebSocketDecoder, puts_fragments_together_around_control_frames) {
  const Bytes bytes = masked_fragment(Opcode::kText, "fr\xC3") + masked(Opcode::kPing, "hello") +
                      masked_fragment(Opcode::kContinuation, "\xBC") +
                      masked_fragment(Opcode::kContinuation, "") + masked(Opcode::kPong, "") +
                      masked(Opcode::kContinuation, "h") + masked(Opcode::kText, "next");
  for (const size_t step : {1UL, 3UL, 1000UL}) {
    const Decoded decoded = decode(bytes, Role::kServer, step);
    ASSERT_FALSE(decoded.fault) << decoded.fault->message;
    ASSERT_EQ(decoded.events.size(), 4U);
    EXPECT_EQ(decoded.events[0].opcode, Opcode::kPing);
    EXPECT_EQ(decoded.events[0].data, "hello");
    EXPECT_EQ(decoded.events[1].opcode, Opcode::kPong);
    EXPECT_EQ(decoded.events[2].opcode, Opcode::kText);
    EXPECT_EQ(decoded.events[2].data, "fr\xC3\xBCh");
    EXPECT_EQ(decoded.events[3].data, "next");
  }
}

TEST(WebSocketDecoder, refuses_frames_that_break_the_protocol) {
  using websocket::kProtocolError;
  struct Case {
    const char* what;
    Bytes bytes;
  };
  const Bytes mask(4, '\0');
  const Case cases[] = {
      {"RSV1", Bytes("\xC1\x80", 2) + mask},
      {"RSV2", Bytes("\xA1\x80", 2) + mask},
      {"RSV3", Bytes("\x91\x80", 2) + mask},
      {"opcode 3", Bytes("\x83\x80", 2) + mask},
      {"opcode 7", Bytes("\x87\x80", 2) + mask},
      {"opcode 11", Bytes("\x8B\x80", 2) + mask},
      {"opcode 15", Bytes("\x8F\x80", 2) + mask},
      {"not masked", Bytes("\x81\x01", 2) + "x"},
      {"fragmented ping", masked_fragment(Opcode::kPing, "x")},
      {"fragmented close", masked_fragment(Opcode::kClose, "")},
      {"long ping", masked(Opcode::kPing, Bytes(126, 'x'))},
      {"continuation of nothing", masked(Opcode::kContinuation, "x")},
      {"continuation after the end",
       masked(Opcode::kText, "a") + masked_fragment(Opcode::kContinuation, "x")},
      {"message inside a message",
       masked_fragment(Opcode::kText, "a") + masked(Opcode::kText, "b")},
      {"16-bit length for 125", Bytes("\x81\xFE\x00\x7D", 4) + mask + Bytes(125, 'x')},
      {"64-bit length for 65535",
       Bytes("\x82\xFF\x00\x00\x00\x00\x00\x00\xFF\xFF", 10) + mask + Bytes(65535, 'x')},
      {"64-bit length with the top bit",
       Bytes("\x82\xFF\x80\x00\x00\x00\x00\x00\x00\x00", 10) + mask},
      {"close with one octet", masked(Opcode::kClose, "x")},
      {"close 999", masked(Opcode::kClose, "", 999)},
      {"close 1004", masked(Opcode::kClose, "", 1004)},
      {"close 1005", masked(Opcode::kClose, "", 1005)},
      {"close 1006", masked(Opcode::kClose, "", 1006)},
      {"close 1015", masked(Opcode::kClose, "", 1015)},
      {"close 1016", masked(Opcode::kClose, "", 1016)},
      {"close 2999", masked(Opcode::kClose, "", 2999)},
      {"close 5000", masked(Opcode::kClose, "", 5000)},
      {"close 65535", masked(Opcode::kClose, "", 65535)},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(code_of(decode(c.bytes)), kProtocolError) << c.what;
    EXPECT_EQ(code_of(decode(c.bytes, Role::kServer, 1)), kProtocolError) << c.what;
  }
  Bytes from_server;
  append_frame(from_server, Role::kServer, Opcode::kText, "x");
  EXPECT_EQ(code_of(decode(from_server, Role::kClient)), 0);
  EXPECT_EQ(code_of(decode(masked(Opcode::kText, "x"), Role::kClient)), kProtocolError);
}

TEST(WebSocketDecoder, takes_every_code_that_may_be_sent) {
  for (const uint16_t code : {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013,
                              1014, 3000, 3999, 4000, 4999}) {
    const Decoded decoded = decode(masked(Opcode::kClose, "why", code));
    ASSERT_EQ(decoded.events.size(), 1U) << code;
    EXPECT_EQ(decoded.events[0].code, code);
    EXPECT_EQ(decoded.events[0].data, "why");
  }
  const Decoded empty = decode(masked(Opcode::kClose, ""));
  ASSERT_EQ(empty.events.size(), 1U);
  EXPECT_EQ(empty.events[0].code, websocket::kNoCode);
}

TEST(WebSocketDecoder, refuses_text_that_is_not_utf8) {
  const char* bad[] = {
      "\x80",          // a continuation alone
      "\xC0\xAF",      // overlong
      "\xE0\x80\xAF",  // overlong
      "\xF0\x80\x80\xAF",
      "\xED\xA0\x80",      // a surrogate
      "\xF4\x90\x80\x80",  // above U+10FFFF
      "\xF5",
      "\xFF",
      "abc\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xED\xA0\x80\x65\x64\x69\x74\x65\x64",
      "\xC3",  // ends in mid-character
      "long enough for words of eight\xE2\x82",
  };
  for (const char* text : bad) {
    EXPECT_EQ(code_of(decode(masked(Opcode::kText, text))), websocket::kBadText) << text;
    EXPECT_EQ(code_of(decode(masked(Opcode::kText, text), Role::kServer, 1)), websocket::kBadText);
    EXPECT_EQ(code_of(decode(masked(Opcode::kBinary, text))), 0);
    EXPECT_EQ(code_of(decode(masked(Opcode::kClose, text, 1000))), websocket::kBadText);
  }
  // Told as soon as it is certain, not at the end of the message.
  EXPECT_EQ(code_of(decode(masked_fragment(Opcode::kText, "\xF4\x90"))), websocket::kBadText);
  const Decoded good = decode(masked(Opcode::kText, "\xF4\x8F\xBF\xBF\xEF\xBF\xBF\xED\x9F\xBF"));
  EXPECT_FALSE(good.fault);
}

TEST(WebSocketDecoder, refuses_messages_over_the_limit_from_their_length_alone) {
  EXPECT_EQ(code_of(decode(masked(Opcode::kBinary, Bytes(1000, 'x')), Role::kServer, 100, 1000)),
            0);
  EXPECT_EQ(code_of(decode(masked(Opcode::kBinary, Bytes(1001, 'x')), Role::kServer, 10, 1000)),
            websocket::kTooBig);
  // Before a byte of it has come.
  EXPECT_EQ(code_of(decode(Bytes("\x82\xFF\x00\x00\x00\x00\x01\x00\x00\x00", 10) + Bytes(4, '\0'))),
            websocket::kTooBig);
  // In fragments too.
  EXPECT_EQ(code_of(decode(masked_fragment(Opcode::kBinary, Bytes(600, 'x')) +
                               masked(Opcode::kContinuation, Bytes(401, 'x')),
                           Role::kServer, 100, 1000)),
            websocket::kTooBig);
}

TEST(WebSocketHandshake, answers_as_the_standard_says) {
  HttpRequest request{"GET", "/chat", {}, {}};
  request.headers = {{"Upgrade", "h2c, WebSocket"},
                     {"Connection", "keep-alive, Upgrade"},
                     {"Sec-WebSocket-Version", "13"},
                     {"Sec-WebSocket-Protocol", "chat, mcp"},
                     {"Sec-WebSocket-Extensions", "permessage-deflate"},
                     {"Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}};
  EXPECT_TRUE(wants_websocket(request));
  const auto answer = websocket_answer(request, "mcp");
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_EQ(answer->get_or("Sec-WebSocket-Accept", ""), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
  EXPECT_EQ(answer->get_or("Sec-WebSocket-Protocol", ""), "mcp");
  EXPECT_FALSE(answer->get("Sec-WebSocket-Extensions"));  // compression is declined
  EXPECT_FALSE(websocket_answer(request, "other")->get("Sec-WebSocket-Protocol"));

  const auto without = [&](const char* name, const char* value) {
    HttpRequest changed = request;
    changed.headers.set(name, value);
    return websocket_answer(changed);
  };
  EXPECT_EQ(without("Upgrade", "h2c").error().code, ErrorCode::kProtocol);
  EXPECT_EQ(without("Connection", "close").error().code, ErrorCode::kProtocol);
  EXPECT_EQ(without("Sec-WebSocket-Version", "8").error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(without("Sec-WebSocket-Key", "dGhlIHNhbXBsZQ==").error().code, ErrorCode::kProtocol);
  EXPECT_EQ(without("Sec-WebSocket-Key", "?").error().code, ErrorCode::kProtocol);
  request.method = "POST";
  EXPECT_FALSE(wants_websocket(request));
  EXPECT_EQ(websocket_answer(request).error().code, ErrorCode::kProtocol);
}

awaitable<void> read_into(WebSocket* socket, std::vector<std::string>* messages, bool* done) {
  for (;;) {
    auto message = co_await socket->read();
    if (!message) break;
    messages->push_back((message->kind == WebSocket::Kind::kText ? "t:" : "b:") + message->data);
  }
  *done = true;
}

awaitable<void> send_into(WebSocket* socket, Bytes data, std::optional<Result<void>>* result) {
  result->emplace(co_await socket->send(WebSocket::Kind::kText, std::move(data)));
}

awaitable<void> close_then_set(WebSocket* socket, uint16_t code, bool* done) {
  co_await socket->close(code, "bye");
  *done = true;
}

// A server's socket whose client is the test, byte by byte.
class WebSocketTest : public ::testing::Test {
 protected:
  ~WebSocketTest() override {
    if (socket_) {
      client_->close();
      testing::run(shard_, socket_->close(websocket::kNormal, ""));
    }
  }

  WebSocket& socket(size_t credit = 1 << 20, Bytes already_read = {}) {
    if (!socket_) {
      auto [server, client] = memory_pair(shard_, credit);
      server_ = std::move(server);
      client_ = std::move(client);
      socket_.emplace(shard_, server_.get(), std::move(already_read), Role::kServer, options_);
    }
    return *socket_;
  }
  void put(ByteView bytes) { ASSERT_TRUE(testing::run(shard_, write_all(client_.get(), bytes))); }
  // What the server sends next.
  Event next() {
    while (sent_.empty()) {
      shard_.run_until([&] { return client_->unread() > 0 || client_->peer_gone(); });
      Bytes bytes = client_->take_unread();
      ByteView rest = bytes;
      while (!rest.empty()) {
        std::optional<Event> event;
        auto used = decoder_->decode(rest, &event);
        EXPECT_TRUE(used) << used.error().message;
        if (!used) return {};
        rest.remove_prefix(*used);
        if (event) sent_.push_back(std::move(*event));
      }
      if (sent_.empty() && client_->peer_gone()) return Event{Opcode::kContinuation, "gone", 0};
    }
    Event event = std::move(sent_.front());
    sent_.pop_front();
    return event;
  }

  Shard shard_;
  WebSocketOptions options_;
  std::unique_ptr<MemoryStream> server_, client_;
  std::optional<WebSocket> socket_;
  std::optional<Decoder> decoder_{std::in_place, Role::kClient, 64 << 20};
  std::deque<Event> sent_;
};

TEST_F(WebSocketTest, carries_messages_both_ways) {
  WebSocket& server = socket(1 << 20, masked(Opcode::kText, "early"));
  put(masked(Opcode::kBinary, Bytes("\0\xFF", 2)));
  auto first = testing::run(shard_, server.read());
  ASSERT_TRUE(first);
  EXPECT_EQ(first->data, "early");
  auto second = testing::run(shard_, server.read());
  EXPECT_EQ(second->kind, WebSocket::Kind::kBinary);
  for (const size_t size :
       {0UL, 5UL, 126UL, 32UL * 1024, 32UL * 1024 + 1, 65535UL, 65536UL, 300000UL}) {
    ASSERT_TRUE(testing::run(shard_, server.send(WebSocket::Kind::kText, Bytes(size, 'a'))));
    const Event event = next();
    EXPECT_EQ(event.opcode, Opcode::kText);
    EXPECT_EQ(event.data.size(), size);
  }
}

TEST_F(WebSocketTest, answers_pings_while_nobody_reads_and_only_the_last_of_several) {
  socket();
  put(masked(Opcode::kText, "a long step") + masked(Opcode::kPing, "are you there"));
  Event pong = next();
  EXPECT_EQ(pong.opcode, Opcode::kPong);
  EXPECT_EQ(pong.data, "are you there");
}

TEST_F(WebSocketTest, echoes_the_peers_close_and_then_ends_the_connection) {
  WebSocket& server = socket();
  bool ended = false;
  server.on_ended([&] { ended = true; });
  put(masked(Opcode::kText, "last") + masked(Opcode::kClose, "done", 4321) +
      masked(Opcode::kText, "never seen"));
  const Event close = next();
  EXPECT_EQ(close.opcode, Opcode::kClose);
  EXPECT_EQ(close.code, 4321);
  EXPECT_TRUE(ended);
  EXPECT_EQ(server.close_code(), 4321);
  EXPECT_EQ(server.close_reason(), "done");
  EXPECT_EQ(testing::run(shard_, server.read())->data, "last");
  EXPECT_EQ(testing::run(shard_, server.read()).error().code, ErrorCode::kClosed);
  EXPECT_EQ(testing::run(shard_, server.send(WebSocket::Kind::kText, "x")).error().code,
            ErrorCode::kClosed);
  EXPECT_FALSE(client_->peer_gone());
  testing::run(shard_, server.close(websocket::kNormal, ""));
  EXPECT_TRUE(client_->peer_gone());
  bool again = false;
  server.on_ended([&] { again = true; });
  EXPECT_TRUE(again);
}

TEST_F(WebSocketTest, closes_with_a_code_and_waits_for_the_peer) {
  WebSocket& server = socket();
  bool closed = false;
  shard_.spawn(close_then_set(&server, websocket::kGoingAway, &closed));
  const Event close = next();
  EXPECT_EQ(close.opcode, Opcode::kClose);
  EXPECT_EQ(close.code, websocket::kGoingAway);
  EXPECT_EQ(close.data, "bye");
  EXPECT_FALSE(closed);
  put(masked(Opcode::kText, "crossing") + masked(Opcode::kClose, "", websocket::kGoingAway));
  shard_.run_until([&] { return closed; });
  EXPECT_TRUE(client_->peer_gone());
  EXPECT_EQ(client_->unread(), 0U);
}

TEST_F(WebSocketTest, does_not_wait_for_ever_for_a_peer_that_never_closes) {
  options_.close_timeout = 50ms;
  WebSocket& server = socket();
  testing::run(shard_, server.close(websocket::kNormal, ""));
  EXPECT_EQ(next().opcode, Opcode::kClose);
  EXPECT_TRUE(client_->peer_gone());
}

TEST_F(WebSocketTest, tells_of_a_peer_that_is_gone) {
  WebSocket& server = socket();
  std::vector<std::string> messages;
  bool done = false;
  bool ended = false;
  server.on_ended([&] { ended = true; });
  shard_.spawn(read_into(&server, &messages, &done));
  put(masked(Opcode::kText, "one"));
  client_->reset();
  shard_.run_until([&] { return done; });
  EXPECT_TRUE(ended);
  EXPECT_EQ(server.close_code(), websocket::kLost);
}

TEST_F(WebSocketTest, a_reader_can_be_stopped_and_still_send) {
  WebSocket& server = socket();
  std::vector<std::string> messages;
  bool done = false;
  shard_.spawn(read_into(&server, &messages, &done));
  put(masked(Opcode::kText, "one"));
  shard_.run_until([&] { return messages.size() == 1; });
  server.stop_reading();
  shard_.run_until([&] { return done; });
  put(masked(Opcode::kText, "two"));
  EXPECT_EQ(testing::run(shard_, server.read()).error().code, ErrorCode::kCancelled);
  ASSERT_TRUE(testing::run(shard_, server.send(WebSocket::Kind::kText, "bye")));
  EXPECT_EQ(next().data, "bye");
}

TEST_F(WebSocketTest, what_came_together_can_be_taken_and_answered_together) {
  WebSocket& server = socket();
  EXPECT_FALSE(server.take());
  put(masked(Opcode::kText, "one") + masked(Opcode::kBinary, "two") +
      masked(Opcode::kText, "three"));
  EXPECT_EQ(testing::run(shard_, server.read())->data, "one");
  EXPECT_EQ(server.take()->data, "two");
  Bytes answers;
  server.append(answers, WebSocket::Kind::kText, "1");
  server.append(answers, WebSocket::Kind::kBinary, "2");
  ASSERT_TRUE(testing::run(shard_, server.send_appended(answers)));
  EXPECT_EQ(next().data, "1");
  EXPECT_EQ(next().opcode, Opcode::kBinary);
  server.stop_reading();
  EXPECT_FALSE(server.take());
  put(masked(Opcode::kClose, "", 1000));
  EXPECT_EQ(next().opcode, Opcode::kClose);
  EXPECT_EQ(testing::run(shard_, server.send_appended(answers)).error().code, ErrorCode::kClosed);
}

TEST_F(WebSocketTest, says_why_it_gives_up_on_a_peer) {
  struct Case {
    Bytes bytes;
    uint16_t code;
  };
  options_.message_bytes = 1000;
  options_.waiting_messages = 2;
  const Case cases[] = {
      {Bytes("\xC1\x80\0\0\0\0", 6), websocket::kProtocolError},
      {masked(Opcode::kText, "\xFF"), websocket::kBadText},
      {masked(Opcode::kText, Bytes(1001, 'x')), websocket::kTooBig},
      {masked(Opcode::kText, "1") + masked(Opcode::kText, "2") + masked(Opcode::kText, "3"),
       websocket::kPolicy}};
  for (const Case& c : cases) {
    WebSocket& server = socket();
    bool ended = false;
    server.on_ended([&] { ended = true; });
    put(c.bytes);
    const Event close = next();
    EXPECT_EQ(close.opcode, Opcode::kClose);
    EXPECT_EQ(close.code, c.code);
    EXPECT_FALSE(close.data.empty());
    EXPECT_TRUE(ended);
    client_->close();
    testing::run(shard_, server.close(websocket::kNormal, ""));
    socket_.reset();
    decoder_.emplace(Role::kClient, 64 << 20);
  }
}

TEST_F(WebSocketTest, pings_an_idle_peer_and_gives_up_on_a_silent_one) {
  options_.ping_interval = 10ms;
  options_.ping_timeout = 300ms;  // a pause of this process is not the peer's silence
  WebSocket& server = socket();
  bool ended = false;
  server.on_ended([&] { ended = true; });
  for (int i = 0; i < 3; ++i) {
    const Event ping = next();
    ASSERT_EQ(ping.opcode, Opcode::kPing);
    put(masked(Opcode::kPong, ping.data));
  }
  EXPECT_FALSE(ended);
  EXPECT_EQ(next().opcode, Opcode::kPing);
  shard_.run_until([&] { return ended; });  // nothing comes any more
  EXPECT_TRUE(client_->peer_gone());
}

TEST_F(WebSocketTest, gives_up_on_a_peer_that_does_not_read) {
  options_.write_timeout = 50ms;
  WebSocket& server = socket(/*credit=*/1000);
  std::optional<Result<void>> sent;
  std::optional<Result<void>> behind;
  shard_.spawn(send_into(&server, Bytes(100'000, 'x'), &sent));
  shard_.spawn(send_into(&server, "second", &behind));
  shard_.run_until([&] { return sent && behind; });
  EXPECT_FALSE(*sent);
  EXPECT_FALSE(*behind);
  EXPECT_TRUE(server.ended());
}

TEST_F(WebSocketTest, keeps_messages_of_several_senders_whole_and_in_order) {
  WebSocket& server = socket(/*credit=*/777);
  std::vector<std::optional<Result<void>>> sent(20);
  for (size_t i = 0; i < sent.size(); ++i) {
    shard_.spawn(send_into(&server, Bytes(1000 + i, static_cast<char>('a' + i)), &sent[i]));
  }
  put(masked(Opcode::kPing, "now"));
  int pongs = 0;
  for (size_t i = 0; i < sent.size();) {
    const Event event = next();
    if (event.opcode == Opcode::kPong) {
      ++pongs;
      continue;
    }
    EXPECT_EQ(event.data, Bytes(1000 + i, static_cast<char>('a' + i)));
    ++i;
  }
  EXPECT_EQ(pongs, 1);
  shard_.run_until([&] { return sent.back().has_value(); });
}

// Over a real server: the handshake, and what a server's end does to an open socket.
struct EchoApp {
  Shard* shard;
  std::vector<uint16_t> codes;
  bool cut = false;

  static awaitable<void> handle(EchoApp* app, HttpRequest request, ResponseWriter* writer) {
    auto answer = websocket_answer(request);
    if (request.path() == "/none") answer = Error(ErrorCode::kNotFound, "no such path");
    if (!answer) {
      HttpResponse refusal = json_response(request.path() == "/none" ? 404 : 400, "{}");
      const auto sent = co_await writer->send(std::move(refusal));
      co_return;
    }
    auto upgraded = co_await writer->upgrade(std::move(*answer));
    if (!upgraded) co_return;
    WebSocket socket(*app->shard, upgraded->stream, std::move(upgraded->already_read),
                     Role::kServer);
    for (;;) {
      auto message = co_await socket.read();
      if (!message) break;
      const auto sent = co_await socket.send(message->kind, std::move(message->data));
    }
    app->codes.push_back(socket.close_code());
    co_await socket.close(websocket::kNormal, "");
  }
};

class WebSocketServerTest : public ::testing::Test {
 protected:
  WebSocketServerTest() {
    auto listener = std::make_unique<MemoryListener>(shard_);
    listener_ = listener.get();
    server_.serve(std::move(listener));
  }
  ~WebSocketServerTest() override { testing::run(shard_, server_.stop(Deadline::in(0s))); }

  Shard shard_;
  EchoApp app_{&shard_, {}};
  HttpServer server_{shard_, [this](HttpRequest request, ResponseWriter* writer) {
                       return EchoApp::handle(&app_, std::move(request), writer);
                     }};
  static awaitable<Result<std::unique_ptr<Stream>>> connect(MemoryListener* listener) {
    co_return std::unique_ptr<Stream>(listener->connect());
  }

  MemoryListener* listener_ = nullptr;
  HttpClient client_{shard_, [this](Deadline) { return connect(listener_); }, "localhost"};
};

TEST_F(WebSocketServerTest, upgrades_and_echoes) {
  auto stream = testing::run(shard_, open_websocket(&client_, "/ws", {}, Deadline::in(5s)));
  ASSERT_TRUE(stream) << stream.error().message;
  WebSocket client(shard_, stream->get(), Bytes(), Role::kClient);
  for (const size_t size : {3UL, 70'000UL, 1'000'000UL}) {
    ASSERT_TRUE(testing::run(shard_, client.send(WebSocket::Kind::kText, Bytes(size, 'e'))));
    auto answer = testing::run(shard_, client.read());
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->data.size(), size);
  }
  EXPECT_EQ(server_.connections(), 1U);
  testing::run(shard_, client.close(3001, "enough"));
  EXPECT_EQ(client.close_code(), 3001);
  shard_.run_until([&] { return server_.connections() == 0; });
  EXPECT_EQ(app_.codes, std::vector<uint16_t>{3001});
}

TEST_F(WebSocketServerTest, takes_frames_that_came_with_the_handshake) {
  auto stream = listener_->connect();
  const Bytes request =
      "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" +
      masked(Opcode::kText, "eager");
  ASSERT_TRUE(testing::run(shard_, write_all(stream.get(), request)));
  Bytes answer;
  shard_.run_until([&] {
    answer += stream->take_unread();
    return answer.ends_with("eager");
  });
  ASSERT_TRUE(testing::run(shard_, write_all(stream.get(), masked(Opcode::kClose, "", 1000))));
  shard_.run_until([&] { return server_.connections() == 0; });
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n")) << answer;
  EXPECT_NE(answer.find("\r\nConnection: Upgrade\r\n"), Bytes::npos);
  Bytes echoed;
  append_frame(echoed, Role::kServer, Opcode::kText, "eager");
  EXPECT_NE(answer.find("\r\n\r\n" + echoed), Bytes::npos);
}

TEST_F(WebSocketServerTest, refuses_what_cannot_be_upgraded) {
  auto stream = listener_->connect();
  const Bytes old =
      "GET /ws HTTP/1.0\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
  ASSERT_TRUE(testing::run(shard_, write_all(stream.get(), old)));
  shard_.run_until([&] { return server_.connections() == 0; });
  EXPECT_TRUE(stream->take_unread().starts_with("HTTP/1.1 500"));  // the handler gave no answer

  const auto refused =
      testing::run(shard_, open_websocket(&client_, "/none", {}, Deadline::in(5s)));
  EXPECT_EQ(refused.error().code, ErrorCode::kProtocol);
  EXPECT_EQ(refused.error().message,
            "the server answered 404 instead of opening a WebSocket at /none");
  const auto unwritten = testing::run(
      shard_,
      open_websocket(&client_, "/ws", {{"Sec-WebSocket-Protocol", "a\r\nb"}}, Deadline::in(5s)));
  EXPECT_EQ(unwritten.error().code, ErrorCode::kInvalidArgument);
}

TEST_F(WebSocketServerTest, a_server_that_stops_cuts_sockets_at_its_deadline) {
  auto stream = testing::run(shard_, open_websocket(&client_, "/ws", {}, Deadline::in(5s)));
  ASSERT_TRUE(stream);
  testing::run(shard_, server_.stop(Deadline::in(20ms)));
  Bytes rest(16, '\0');
  EXPECT_EQ(testing::run(shard_, (*stream)->read_some(as_writable_byte_span(rest))), 0U);
  EXPECT_EQ(app_.codes, std::vector<uint16_t>{websocket::kLost});
}

}  // namespace
}  // namespace sluice::net
