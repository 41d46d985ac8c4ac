#include "sluice/net/websocket.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "sluice/base/core/check.h"
#include "sluice/net/http_wire.h"
#include "sluice/net/wait.h"

namespace sluice::net {
namespace websocket {
namespace {

constexpr size_t kMaxControl = 125;

bool is_control(Opcode opcode) {
  return (static_cast<uint8_t>(opcode) & 0x8) != 0;
}

bool is_known(uint8_t opcode) {
  return opcode <= 0x2 || (opcode >= 0x8 && opcode <= 0xA);
}

// XORs `mask`, from its octet `at` on, over `bytes`.
void apply_mask(char* bytes, size_t size, const uint8_t* mask, size_t at) {
  uint8_t turned[8];
  for (size_t i = 0; i < 8; ++i) turned[i] = mask[(at + i) % 4];
  uint64_t word = 0;
  std::memcpy(&word, turned, 8);
  size_t i = 0;
  for (; i + 8 <= size; i += 8) {
    uint64_t eight = 0;
    std::memcpy(&eight, bytes + i, 8);
    eight ^= word;
    std::memcpy(bytes + i, &eight, 8);
  }
  for (; i < size; ++i) {
    bytes[i] = static_cast<char>(static_cast<uint8_t>(bytes[i]) ^ turned[i % 8]);
  }
}

void append_big_endian(Bytes& out, uint64_t value, int octets) {
  for (int i = octets - 1; i >= 0; --i) out.push_back(static_cast<char>(value >> (8 * i)));
}

// But for the mask.
void append_header(Bytes& out, Role role, Opcode opcode, size_t size) {
  const uint8_t masked = role == Role::kClient ? 0x80 : 0;
  out.push_back(static_cast<char>(0x80 | static_cast<uint8_t>(opcode)));
  if (size < 126) {
    out.push_back(static_cast<char>(masked | size));
  } else if (size <= 0xFFFF) {
    out.push_back(static_cast<char>(masked | 126));
    append_big_endian(out, size, 2);
  } else {
    out.push_back(static_cast<char>(masked | 127));
    append_big_endian(out, size, 8);
  }
}

}  // namespace

bool Utf8Checker::feed(ByteView piece) {
  const auto* at = reinterpret_cast<const uint8_t*>(piece.data());
  const auto* const end = at + piece.size();
  while (at < end) {
    if (missing_ > 0) {
      if (*at < low_ || *at > high_) return false;
      low_ = 0x80;
      high_ = 0xBF;
      --missing_;
      ++at;
      continue;
    }
    while (end - at >= 8) {  // plain ASCII, eight at a time
      uint64_t eight = 0;
      std::memcpy(&eight, at, 8);
      if ((eight & 0x8080808080808080U) != 0) break;
      at += 8;
    }
    if (at == end) break;
    const uint8_t octet = *at++;
    if (octet < 0x80) continue;
    // Neither overlong forms nor surrogates nor anything above U+10FFFF (RFC 3629, section 4).
    if (octet >= 0xC2 && octet <= 0xDF) {
      missing_ = 1;
    } else if (octet >= 0xE0 && octet <= 0xEF) {
      missing_ = 2;
      if (octet == 0xE0) low_ = 0xA0;
      if (octet == 0xED) high_ = 0x9F;
    } else if (octet >= 0xF0 && octet <= 0xF4) {
      missing_ = 3;
      if (octet == 0xF0) low_ = 0x90;
      if (octet == 0xF4) high_ = 0x8F;
    } else {
      return false;
    }
  }
  return true;
}

bool is_valid_close_code(uint16_t code) {
  return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
         (code >= 3000 && code <= 4999);
}

void append_frame(Bytes& out, Role role, Opcode opcode, ByteView payload, uint16_t close_code) {
  const size_t size = payload.size() + (close_code != 0 ? 2 : 0);
  append_header(out, role, opcode, size);
  uint8_t mask[4] = {};
  if (role == Role::kClient) {
    CHECK(::RAND_bytes(mask, sizeof mask) == 1);
    out.append(reinterpret_cast<const char*>(mask), sizeof mask);
  }
  const size_t start = out.size();
  if (close_code != 0) append_big_endian(out, close_code, 2);
  out.append(payload);
  if (role == Role::kClient) apply_mask(out.data() + start, size, mask, 0);
}

std::optional<Fault> Decoder::take_header() {
  const uint8_t first = header_[0];
  const uint8_t second = header_[1];
  if (have_ == 2) {
    if ((first & 0x70) != 0) return Fault{kProtocolError, "a reserved bit is set"};
    if (!is_known(first & 0x0F)) return Fault{kProtocolError, "a reserved opcode"};
    opcode_ = static_cast<Opcode>(first & 0x0F);
    final_ = (first & 0x80) != 0;
    const bool masked = (second & 0x80) != 0;
    if (masked != (role_ == Role::kServer)) {
      return Fault{kProtocolError,
                   masked ? "a server's frame is masked" : "the frame is not masked"};
    }
    if (is_control(opcode_)) {
      if (!final_) return Fault{kProtocolError, "a fragmented control frame"};
      if ((second & 0x7F) > kMaxControl)
        return Fault{kProtocolError, "a control frame is too long"};
    } else if ((opcode_ == Opcode::kContinuation) != in_message_) {
      return Fault{kProtocolError, in_message_ ? "a message begins inside another"
                                               : "there is no message to continue"};
    }
    need_ = 2 + (masked ? 4 : 0);
    if ((second & 0x7F) == 126) need_ += 2;
    if ((second & 0x7F) == 127) need_ += 8;
    if (have_ < need_) return std::nullopt;
  }
  size_t at = 2;
  left_ = second & 0x7F;
  if (left_ >= 126) {
    const size_t octets = left_ == 126 ? 2 : 8;
    left_ = 0;
    for (size_t i = 0; i < octets; ++i) left_ = left_ << 8 | header_[at++];
    if (left_ >> 63 != 0 || left_ < (octets == 2 ? 126U : 0x10000U)) {
      return Fault{kProtocolError, "a length is not written in its shortest form"};
    }
  }
  if (role_ == Role::kServer) std::memcpy(mask_, header_ + at, sizeof mask_);
  mask_at_ = 0;
  if (!is_control(opcode_)) {
    if (left_ > max_bytes_ - message_.size()) {
      return Fault{kTooBig, fmt::format("a message is over {} bytes", max_bytes_)};
    }
    if (!in_message_) {
      in_message_ = true;
      message_opcode_ = opcode_;
      text_ = Utf8Checker();
    }
  }
  in_payload_ = true;
  return std::nullopt;
}

tl::expected<size_t, Fault> Decoder::decode(ByteView in, std::optional<Event>* event) {
  event->reset();
  size_t used = 0;
  for (;;) {
    if (!in_payload_) {
      if (used == in.size()) return used;
      const size_t n = std::min(need_ - have_, in.size() - used);
      std::memcpy(header_ + have_, in.data() + used, n);
      have_ += n;
      used += n;
      if (have_ < need_) return used;
      if (auto fault = take_header()) return tl::unexpected(std::move(*fault));
      if (!in_payload_) continue;  // the header is longer than its first two octets
    }
    Bytes& into = is_control(opcode_) ? control_ : message_;
    const size_t n = std::min<uint64_t>(left_, in.size() - used);
    if (n > 0) {
      const size_t start = into.size();
      into.append(in.substr(used, n));
      if (role_ == Role::kServer) apply_mask(into.data() + start, n, mask_, mask_at_);
      mask_at_ = (mask_at_ + n) % 4;
      used += n;
      left_ -= n;
      if (!is_control(opcode_) && message_opcode_ == Opcode::kText &&
          !text_.feed(ByteView(into).substr(start))) {
        return tl::unexpected(Fault{kBadText, "a text message is not UTF-8"});
      }
    }
    if (left_ > 0) return used;
    if (auto fault = end_frame(event)) return tl::unexpected(std::move(*fault));
    if (*event) return used;
  }
}

std::optional<Fault> Decoder::end_frame(std::optional<Event>* event) {
  in_payload_ = false;
  have_ = 0;
  need_ = 2;
  if (is_control(opcode_)) return end_control(event);
  if (!final_) return std::nullopt;
  if (message_opcode_ == Opcode::kText && !text_.complete()) {
    return Fault{kBadText, "a text message is not UTF-8"};
  }
  in_message_ = false;
  event->emplace(Event{message_opcode_, std::exchange(message_, Bytes()), kNoCode});
  return std::nullopt;
}

std::optional<Fault> Decoder::end_control(std::optional<Event>* event) {
  Event whole{opcode_, std::exchange(control_, Bytes()), kNoCode};
  if (opcode_ == Opcode::kClose && !whole.data.empty()) {
    if (whole.data.size() < 2) return Fault{kProtocolError, "half a close code"};
    whole.code = static_cast<uint16_t>(static_cast<uint8_t>(whole.data[0]) << 8 |
                                       static_cast<uint8_t>(whole.data[1]));
    whole.data.erase(0, 2);
    if (!is_valid_close_code(whole.code)) {
      return Fault{kProtocolError, fmt::format("{} is no code to close with", whole.code)};
    }
    if (!is_valid_utf8(whole.data)) return Fault{kBadText, "a close reason is not UTF-8"};
  }
  event->emplace(std::move(whole));
  return std::nullopt;
}

}  // namespace websocket

namespace {

using websocket::Event;
using websocket::Fault;
using websocket::Opcode;
using websocket::Role;

constexpr size_t kBuffer = 4096;
constexpr size_t kBigBuffer = 64 * 1024;      // while a message is larger than the small one
constexpr size_t kWritePiece = 256 * 1024;    // see WebSocketOptions::write_timeout
constexpr size_t kJoinedPayload = 32 * 1024;  // up to this size a payload goes out with its header
constexpr size_t kMaxDiscard = 64 * 1024 * 1024;
constexpr std::chrono::seconds kLingerIdle{1};

bool any_field_lists(const Headers& headers, std::string_view name, std::string_view wanted) {
  return std::any_of(headers.fields().begin(), headers.fields().end(), [&](const auto& field) {
    return equal_ignoring_case(field.first, name) && wire::lists(field.second, wanted);
  });
}

std::string accept_of(std::string_view key) {
  Bytes text(key);
  text.append("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");  // RFC 6455, section 1.3
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  CHECK(::EVP_Digest(text.data(), text.size(), digest, &size, ::EVP_sha1(), nullptr) == 1);
  return to_base64({reinterpret_cast<const char*>(digest), size});
}

Opcode opcode_of(WebSocket::Kind kind) {
  return kind == WebSocket::Kind::kText ? Opcode::kText : Opcode::kBinary;
}

Error refused(std::string message) {
  return Error(ErrorCode::kProtocol, std::move(message), ErrorOrigin::kCaller);
}

}  // namespace

bool wants_websocket(const HttpRequest& request) {
  return request.method == "GET" && any_field_lists(request.headers, "Upgrade", "websocket");
}

Result<Headers> websocket_answer(const HttpRequest& request, std::string_view protocol) {
  const Headers& headers = request.headers;
  if (!wants_websocket(request) || !any_field_lists(headers, "Connection", "upgrade")) {
    return refused("a WebSocket is asked for with GET, Upgrade: websocket and Connection: Upgrade");
  }
  if (headers.get_or("Sec-WebSocket-Version", "") != "13") {
    return Error(ErrorCode::kUnsupported, "only version 13 of WebSocket is spoken",
                 ErrorOrigin::kCaller);
  }
  const auto key = headers.get("Sec-WebSocket-Key");
  const auto nonce = key ? from_base64(*key) : std::nullopt;
  if (!nonce || nonce->size() != 16)
    return refused("Sec-WebSocket-Key must be 16 octets in base64");
  Headers answer{{"Upgrade", "websocket"}, {"Sec-WebSocket-Accept", accept_of(*key)}};
  if (!protocol.empty() && any_field_lists(headers, "Sec-WebSocket-Protocol", protocol)) {
    answer.add("Sec-WebSocket-Protocol", std::string(protocol));
  }
  return answer;
}

awaitable<Result<std::unique_ptr<Stream>>> open_websocket(HttpClient* client, std::string target,
                                                          Headers headers, Deadline deadline) {
  unsigned char nonce[16];
  CHECK(::RAND_bytes(nonce, sizeof nonce) == 1);
  const std::string key = to_base64({reinterpret_cast<const char*>(nonce), sizeof nonce});
  headers.set("Upgrade", "websocket");
  headers.set("Sec-WebSocket-Version", "13");
  headers.set("Sec-WebSocket-Key", key);
  HttpRequest request{"GET", target, std::move(headers), {}};
  SLUICE_CO_TRY(const auto answer, co_await client->call(std::move(request), deadline));
  if (answer->status() != 101 ||
      answer->headers().get_or("Sec-WebSocket-Accept", "") != accept_of(key)) {
    co_return Error(ErrorCode::kProtocol,
                    fmt::format("the server answered {} instead of opening a WebSocket at {}",
                                answer->status(), target),
                    ErrorOrigin::kUpstream);
  }
  co_return answer->take_stream();
}

WebSocket::WebSocket(Shard& shard, Stream* stream, Bytes already_read, Role role,
                     WebSocketOptions options)
    : stream_(stream),
      role_(role),
      options_(options),
      decoder_(role, options.message_bytes),
      already_read_(std::move(already_read)),
      ping_timer_(shard.wheel()),
      write_timer_(shard.wheel()),
      close_timer_(shard.wheel()),
      tasks_(shard.executor()) {
  arm_ping();
  tasks_.spawn(pump(this));
}

WebSocket::~WebSocket() {
  CHECK(tasks_.size() == 0);
}

awaitable<void> WebSocket::pump(WebSocket* self) {
  co_await self->read_frames();
  // Lost: whoever waits for its own write to leave must not wait for its time-out.
  if (!self->close_sent_) self->stream_->close();
  self->end();
}

void WebSocket::end() {
  ping_timer_.disarm();
  if (std::exchange(ended_, true)) return;
  readable_.notify();
  if (on_ended_ && !closing_) std::exchange(on_ended_, nullptr)();
}

void WebSocket::on_ended(std::function<void()> callback) {
  if (ended_) {
    if (callback) callback();
  } else {
    on_ended_ = std::move(callback);
  }
}

awaitable<void> WebSocket::read_frames() {
  const Bytes first = std::exchange(already_read_, Bytes());
  const bool go_on = co_await take(first);
  if (!go_on) co_return;
  Bytes buffer(kBuffer, '\0');
  for (;;) {
    const auto room = as_writable_byte_span(buffer);
    const auto n = co_await stream_->read_some(room);
    if (!n || *n == 0) co_return;
    heard_ = true;
    const bool more = co_await take(ByteView(buffer).substr(0, *n));
    if (!more) co_return;
    const size_t fitting = decoder_.held() > kBuffer ? kBigBuffer : kBuffer;
    if (fitting != buffer.size()) buffer = Bytes(fitting, '\0');
  }
}

// False: no more is to be read.
awaitable<bool> WebSocket::take(ByteView bytes) {
  while (!bytes.empty()) {
    std::optional<Event> event;
    auto used = decoder_.decode(bytes, &event);
    if (!used) {
      co_await give_up(std::move(used).error());
      co_return false;
    }
    bytes.remove_prefix(*used);
    if (!event) continue;
    const bool go_on = co_await handle(std::move(*event));
    if (!go_on) co_return false;
  }
  co_return true;
}

awaitable<bool> WebSocket::handle(Event event) {
  switch (event.opcode) {
    case Opcode::kPing:
      pong_ = std::move(event.data);
      if (!writing_) co_await flush_control(this);
      co_return true;
    case Opcode::kPong:
      co_return true;
    case Opcode::kClose: {
      close_received_ = true;
      close_code_ = event.code;
      close_reason_ = std::move(event.data);
      end();
      if (!close_sent_) {
        const auto sent = co_await send_close(event.code, std::string());
      }
      co_return false;
    }
    default:
      break;
  }
  if (closing_) co_return true;
  if (waiting_.size() >= options_.waiting_messages ||
      event.data.size() > options_.waiting_bytes - waiting_bytes_) {
    Fault fault{websocket::kPolicy, "too many messages wait to be worked on"};
    co_await give_up(std::move(fault));
    co_return false;
  }
  waiting_bytes_ += event.data.size();
  Message message{event.opcode == Opcode::kText ? Kind::kText : Kind::kBinary,
                  std::move(event.data)};
  waiting_.push_back(std::move(message));
  readable_.notify();
  co_return true;
}

awaitable<void> WebSocket::give_up(Fault fault) {
  end();
  if (!close_sent_) {
    const auto sent = co_await send_close(fault.code, std::move(fault.message));
    if (sent) co_await linger();
  }
}

// Reads and drops for a while what the peer still sends: closing at once would reset the connection
// under a peer that has not read why.
awaitable<void> WebSocket::linger() {
  const Deadline end = Deadline::in(options_.close_timeout);
  Bytes buffer(kBigBuffer, '\0');
  size_t dropped = 0;
  while (dropped < kMaxDiscard && !end.expired()) {
    const Deadline idle = Deadline::in(kLingerIdle);
    close_timer_.arm(idle.earlier(end), [this] { stream_->close(); });
    const auto room = as_writable_byte_span(buffer);
    const auto n = co_await stream_->read_some(room);
    close_timer_.disarm();
    if (!n || *n == 0) break;
    dropped += *n;
  }
}

void WebSocket::stop_reading() {
  stopped_ = true;
  readable_.notify();
}

awaitable<Result<WebSocket::Message>> WebSocket::read() {
  while (waiting_.empty() || stopped_) {
    if (stopped_) co_return Error(ErrorCode::kCancelled, "reading has been stopped");
    if (ended_) co_return Error(ErrorCode::kClosed, "the WebSocket is closed");
    SLUICE_CO_TRY_VOID(co_await wait_for(&readable_));
  }
  co_return *take();
}

std::optional<WebSocket::Message> WebSocket::take() {
  if (waiting_.empty() || stopped_) return std::nullopt;
  std::optional<Message> message = std::move(waiting_.front());
  waiting_.pop_front();
  waiting_bytes_ -= message->data.size();
  return message;
}

void WebSocket::append(Bytes& frames, Kind kind, ByteView data) const {
  websocket::append_frame(frames, role_, opcode_of(kind), data);
}

awaitable<Result<void>> WebSocket::send_appended(Bytes frames) {
  return send_parts(std::move(frames), Bytes());
}

awaitable<Result<void>> WebSocket::send(Kind kind, Bytes data) {
  Bytes head;
  if (data.size() <= kJoinedPayload || role_ == Role::kClient) {
    head.reserve(data.size() + 14);
    append(head, kind, data);
    data = Bytes();
  } else {
    websocket::append_header(head, role_, opcode_of(kind), data.size());
  }
  return send_parts(std::move(head), std::move(data));
}

awaitable<Result<void>> WebSocket::send_parts(Bytes head, Bytes rest) {
  co_await acquire();
  Result<void> sent = Error(ErrorCode::kClosed, "the WebSocket is closed");
  if (!close_sent_ && !close_received_) {
    sent = co_await put(head);
    if (sent && !rest.empty()) sent = co_await put(rest);
    if (sent) co_await put_control();
  }
  release();
  co_return sent;
}

awaitable<void> WebSocket::acquire() {
  if (!std::exchange(writing_, true)) co_return;
  const auto mine = writers_.emplace(writers_.end());
  while (!mine->may_write) co_await mine->signal.wait();
  writers_.erase(mine);
}

void WebSocket::release() {
  if (writers_.empty()) {
    writing_ = false;
  } else {
    writers_.front().may_write = true;
    writers_.front().signal.notify();
  }
}

awaitable<Result<void>> WebSocket::put(ByteView bytes) {
  while (!bytes.empty()) {
    const ByteView piece = bytes.substr(0, kWritePiece);
    write_timer_.arm(Deadline::in(options_.write_timeout), [this] { stream_->close(); });
    auto written = co_await write_all(stream_, piece);
    write_timer_.disarm();
    if (!written) {
      stream_->close();  // half a frame may have left: nothing can follow it
      co_return written;
    }
    bytes.remove_prefix(piece.size());
  }
  co_return Result<void>();
}

// By whoever holds the right to write.
awaitable<void> WebSocket::put_control() {
  while ((pong_ || ping_due_) && !close_sent_) {
    Bytes out;
    if (pong_) websocket::append_frame(out, role_, Opcode::kPong, *std::exchange(pong_, {}));
    const bool ping = std::exchange(ping_due_, false);
    if (ping) websocket::append_frame(out, role_, Opcode::kPing, ByteView());
    const auto sent = co_await put(out);
    if (!sent) co_return;
    if (!ping || ended_ || closing_) continue;
    heard_ = false;
    ping_timer_.arm(Deadline::in(options_.ping_timeout), [this] {
      if (heard_) {
        arm_ping();
      } else {
        stream_->close();
      }
    });
  }
}

awaitable<void> WebSocket::flush_control(WebSocket* self) {
  co_await self->acquire();
  co_await self->put_control();
  self->release();
}

void WebSocket::arm_ping() {
  ping_timer_.arm(Deadline::in(options_.ping_interval), [this] { on_ping_due(); });
}

void WebSocket::on_ping_due() {
  ping_due_ = true;
  // Whoever writes now sends it when done.
  if (!writing_) tasks_.spawn(flush_control(this));
}

awaitable<Result<void>> WebSocket::send_close(uint16_t code, std::string reason) {
  co_await acquire();
  Result<void> sent;
  if (!std::exchange(close_sent_, true)) {
    Bytes out;
    websocket::append_frame(out, role_, Opcode::kClose, reason,
                            code == websocket::kNoCode ? uint16_t{0} : code);
    sent = co_await put(out);
  }
  release();
  co_return sent;
}

awaitable<void> WebSocket::close(uint16_t code, std::string reason) {
  closing_ = true;
  on_ended_ = nullptr;
  ping_timer_.disarm();
  waiting_.clear();
  waiting_bytes_ = 0;
  if (!ended_) {
    close_timer_.arm(Deadline::in(options_.close_timeout), [this] { stream_->close(); });
    const auto sent = co_await send_close(code, std::move(reason));
  }
  co_await tasks_.join();
  close_timer_.disarm();
  // The server ends the connection (RFC 6455, section 7.1.1), but not before its last frame is
  // with the peer.
  const auto drained = co_await stream_->drained(Deadline::in(options_.close_timeout));
  stream_->close();
}

}  // namespace sluice::net
