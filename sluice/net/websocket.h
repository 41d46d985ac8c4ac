// WebSocket (RFC 6455) on any Stream, server and client: messages whole, fragmented or not, pings
// and pongs, the closing handshake. No extension is ever agreed to, so compression is declined.
//
// The framing is written here rather than taken from Beast, which would send each of several small
// answers by itself (docs/dependencies.md has the figures). What is needed is small and is fuzzed.
//
// On one shard.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <optional>
#include <string>
#include <string_view>

#include <tl/expected.hpp>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/deadline.h"
#include "sluice/base/core/result.h"
#include "sluice/net/http.h"
#include "sluice/net/http_client.h"
#include "sluice/net/shard.h"
#include "sluice/net/stream.h"
#include "sluice/net/wheel.h"

namespace sluice::net {

// The grammar of frames, without I/O. Plain values; any thread.
namespace websocket {

enum class Opcode : uint8_t {
  kContinuation = 0x0,
  kText = 0x1,
  kBinary = 0x2,
  kClose = 0x8,
  kPing = 0x9,
  kPong = 0xA,
};

// Which side of the connection this is: a client masks what it sends, a server must not.
enum class Role : uint8_t { kServer, kClient };

// Codes of the closing handshake (RFC 6455, section 7.4).
inline constexpr uint16_t kNormal = 1000;
inline constexpr uint16_t kGoingAway = 1001;
inline constexpr uint16_t kProtocolError = 1002;
inline constexpr uint16_t kNoCode = 1005;  // never on the wire: a close frame without a code
inline constexpr uint16_t kLost = 1006;    // never on the wire: no close frame at all
inline constexpr uint16_t kBadText = 1007;
inline constexpr uint16_t kPolicy = 1008;
inline constexpr uint16_t kTooBig = 1009;
inline constexpr uint16_t kServerError = 1011;

struct Fault {
  uint16_t code = kProtocolError;
  std::string message;
};

// A whole message or a control frame.
struct Event {
  Opcode opcode = Opcode::kText;
  Bytes data;               // of a close frame: the reason
  uint16_t code = kNoCode;  // of a close frame
};

// Checks UTF-8 that arrives in pieces, refusing the first octet that no text can go on with.
class Utf8Checker {
 public:
  bool feed(ByteView piece);
  bool complete() const { return missing_ == 0; }

 private:
  uint8_t missing_ = 0;  // octets that the sequence still needs
  uint8_t low_ = 0x80;   // what the next of them may be
  uint8_t high_ = 0xBF;
};

class Decoder {
 public:
  Decoder(Role role, size_t max_message_bytes) : role_(role), max_bytes_(max_message_bytes) {}

  // Takes from `in` up to the end of one event, or all of it. How much that was; `event` is set if
  // one is complete. After a fault the decoder is spent.
  tl::expected<size_t, Fault> decode(ByteView in, std::optional<Event>* event);

  // Bytes held of a message that has no end yet.
  size_t held() const { return message_.size() + control_.size(); }

 private:
  std::optional<Fault> take_header();
  std::optional<Fault> end_frame(std::optional<Event>* event);
  std::optional<Fault> end_control(std::optional<Event>* event);

  const Role role_;
  const size_t max_bytes_;

  uint8_t header_[14] = {};
  size_t have_ = 0;  // of the header
  size_t need_ = 2;
  bool in_payload_ = false;

  // The frame under way.
  Opcode opcode_ = Opcode::kText;
  bool final_ = false;
  uint64_t left_ = 0;
  uint8_t mask_[4] = {};
  size_t mask_at_ = 0;

  // The message under way, which control frames may interrupt.
  bool in_message_ = false;
  Opcode message_opcode_ = Opcode::kText;
  Bytes message_;
  Utf8Checker text_;
  Bytes control_;
};

// One frame. A client's is masked with fresh random bytes.
void append_frame(Bytes& out, Role role, Opcode opcode, ByteView payload, uint16_t close_code = 0);

// Codes that a peer may send.
bool is_valid_close_code(uint16_t code);

}  // namespace websocket

// What a server answers to a request for a WebSocket, for ResponseWriter::upgrade(). `protocol` is
// the subprotocol agreed to, if the client offered it. kProtocol, with what is missing, if the
// request is none; kUnsupported for a version other than 13.
Result<Headers> websocket_answer(const HttpRequest& request, std::string_view protocol = {});

// Whether a request means to leave HTTP for a WebSocket, well-formed or not.
bool wants_websocket(const HttpRequest& request);

// As a client: asks for `target` on a connection of its own, which is then the socket's. kProtocol,
// with the status, if the server does something else.
awaitable<Result<std::unique_ptr<Stream>>> open_websocket(HttpClient* client, std::string target,
                                                          Headers headers, Deadline deadline);

struct WebSocketOptions {
  size_t message_bytes = 16 * 1024 * 1024;  // of one that arrives: closed with 1009 above
  // Messages that arrived and were not read yet: closed with 1008 above. So that pings are answered
  // and the end is seen while a message is worked on, reading never waits for the reader.
  size_t waiting_messages = 64;
  size_t waiting_bytes = 32 * 1024 * 1024;
  Duration ping_interval = std::chrono::seconds(20);
  Duration ping_timeout = std::chrono::seconds(20);   // for anything to arrive after a ping
  Duration write_timeout = std::chrono::seconds(60);  // for each 256 KiB to leave
  Duration close_timeout = std::chrono::seconds(5);   // for the peer to close in turn
};

class WebSocket {
 public:
  enum class Kind : uint8_t { kText, kBinary };
  struct Message {
    Kind kind = Kind::kText;
    Bytes data;
  };

  // Begins to read at once. `stream` outlives it; `already_read` is what came behind the handshake.
  WebSocket(Shard& shard, Stream* stream, Bytes already_read, websocket::Role role,
            WebSocketOptions options = {});
  // REQUIRES: close() has completed.
  ~WebSocket();
  WebSocket(const WebSocket&) = delete;
  WebSocket& operator=(const WebSocket&) = delete;

  // The next message. kClosed when no more will come.
  // REQUIRES: nobody else reads.
  awaitable<Result<Message>> read();

  // The next message if it is here already and read() would return it at once.
  std::optional<Message> take();

  // read() returns kCancelled from now on; messages still go out. For whoever ends a conversation
  // from outside.
  void stop_reading();

  // Returns when the carrier has all of it. Several coroutines may send; each message is whole.
  awaitable<Result<void>> send(Kind kind, Bytes data);

  // Several small messages in one write: append() puts each behind the others in `frames`.
  void append(Bytes& frames, Kind kind, ByteView data) const;
  awaitable<Result<void>> send_appended(Bytes frames);

  // Called once when no more will be read because of the peer (it closed, it is gone, it broke the
  // protocol), for whoever works on a message at that time. At once if that has happened already.
  // An empty one takes it back.
  void on_ended(std::function<void()> callback);
  bool ended() const { return ended_; }

  // What the peer closed with: kNoCode or kLost if there was none.
  uint16_t close_code() const { return close_code_; }
  const std::string& close_reason() const { return close_reason_; }

  // The closing handshake, as far as the peer takes part, then the end of the stream and of
  // everything that runs in here. Safe to call after the peer closed.
  // REQUIRES: `reason` is UTF-8 of at most 123 bytes (RFC 6455, section 5.5).
  awaitable<void> close(uint16_t code, std::string reason);

 private:
  static awaitable<void> pump(WebSocket* self);
  static awaitable<void> flush_control(WebSocket* self);

  awaitable<void> read_frames();
  awaitable<bool> take(ByteView bytes);
  awaitable<bool> handle(websocket::Event event);
  awaitable<void> give_up(websocket::Fault fault);
  awaitable<void> linger();
  void end();

  awaitable<void> acquire();
  void release();
  awaitable<Result<void>> put(ByteView bytes);
  awaitable<Result<void>> send_parts(Bytes head, Bytes rest);
  awaitable<void> put_control();
  awaitable<Result<void>> send_close(uint16_t code, std::string reason);

  void arm_ping();
  void on_ping_due();

  Stream* const stream_;
  const websocket::Role role_;
  const WebSocketOptions options_;
  websocket::Decoder decoder_;
  Bytes already_read_;

  std::deque<Message> waiting_;
  size_t waiting_bytes_ = 0;
  Signal readable_;
  std::function<void()> on_ended_;
  bool stopped_ = false;  // stop_reading() was called
  bool ended_ = false;    // no more messages will come
  bool closing_ = false;  // close() was called: messages are dropped
  bool close_sent_ = false;
  bool close_received_ = false;
  uint16_t close_code_ = websocket::kLost;
  std::string close_reason_;

  // One writer at a time, in the order in which they came. Control frames go between messages.
  bool writing_ = false;
  struct Writer {
    Signal signal;
    bool may_write = false;
  };
  std::list<Writer> writers_;
  std::optional<Bytes> pong_;  // the last ping's, to be sent: earlier ones need none
  bool ping_due_ = false;
  bool heard_ = false;  // something arrived since the last ping

  Wheel::Timer ping_timer_;
  Wheel::Timer write_timer_;
  Wheel::Timer close_timer_;
  TaskGroup tasks_;  // last: what it runs uses all of the above
};

}  // namespace sluice::net
