#include "sluice/net/http_connection.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <utility>

namespace sluice::net {
namespace {

constexpr size_t kBuffer = 16 * 1024;       // what a connection reads into at first
constexpr size_t kMaxBuffer = 64 * 1024;    // and at most, for chunked bodies
constexpr size_t kSpareBuffers = 64;        // kept for the next connections
constexpr size_t kBodyStep = 256 * 1024;    // reserved for a body before any of it has arrived
constexpr size_t kPadding = 64;             // behind a body, for parsers that read ahead
constexpr size_t kBodyProgress = 4096;      // see HttpLimits::body_idle_timeout
constexpr size_t kWritePiece = 256 * 1024;  // see HttpLimits::write_timeout

constexpr std::chrono::seconds kDrainTime{5};     // for a last answer to be acknowledged
constexpr std::chrono::seconds kLingerIdle{2};    // after a refusal, when no more is expected
constexpr std::chrono::seconds kLingerTotal{60};  // after a refusal, in all

ErrorCode code_of(int status) {
  switch (status) {
    case 408:
      return ErrorCode::kTimedOut;
    case 413:
    case 431:
      return ErrorCode::kTooLarge;
    case 500:
      return ErrorCode::kInternal;
    case 503:
      return ErrorCode::kUnavailable;
    case 501:
    case 505:
      return ErrorCode::kUnsupported;
    default:
      return ErrorCode::kInvalidArgument;
  }
}

// The messages that come here are ours and hold nothing that JSON would quote.
HttpResponse default_refusal(int status, const Error& error) {
  return json_response(status, fmt::format(R"({{"error":"{}"}})", error.message));
}

}  // namespace

void HttpConnection::release_buffer() {
  if (in_.size() == kBuffer && state_->spare_buffers.size() < kSpareBuffers) {
    state_->spare_buffers.push_back(std::move(in_));
  }
  in_ = Bytes();
  begin_ = end_ = 0;
}

// Makes the buffer have room behind end_, growing it up to `max`.
void HttpConnection::make_room(size_t max) {
  if (begin_ == end_) begin_ = end_ = 0;
  if (end_ < in_.size()) return;
  if (begin_ > 0) {
    in_.erase(0, begin_);
    end_ -= begin_;
    begin_ = 0;
    in_.resize(std::max(kBuffer, end_ + end_ / 2));
    return;
  }
  if (!in_.empty()) {
    in_.resize(std::max(end_ + 1, std::min(in_.size() * 2, max)));
  } else if (!state_->spare_buffers.empty()) {
    in_ = std::move(state_->spare_buffers.back());
    state_->spare_buffers.pop_back();
  } else {
    in_.resize(kBuffer);
  }
}

void HttpConnection::be_stranger() {
  if (place_ || is_linked()) return;
  state_->strangers.push_back(*this);
  if (state_->strangers.size() <= limits().strangers) return;
  auto* const first = static_cast<HttpConnection*>(&state_->strangers.front());
  first->no_stranger();
  first->close();
}

// Whether its request may be let in, as far as the number of such connections goes.
bool HttpConnection::has_place() const {
  return place_ || state_->open.size() - state_->strangers.size() < limits().connections;
}

void HttpConnection::arm(Wait wait, Duration timeout) {
  wait_ = wait;
  timer_.arm(Deadline::in(timeout), [this] { on_timer(); });
}

void HttpConnection::on_timer() {
  if (wait_ == Wait::kHead || wait_ == Wait::kBody) {
    // The stream cannot be closed before the client was told. Writing may run beside the read.
    late_ = true;
    state_->tasks.spawn(refuse_late(shared_from_this()));
  } else {
    stream_->close();
  }
}

awaitable<void> HttpConnection::run(std::shared_ptr<HttpConnection> self) {
  co_await kNoThrowWhenCancelled;
  try {
    for (;;) {
      const bool have_head = co_await self->read_head();
      if (!have_head) break;
      if (self->head_.framing != wire::Framing::kNone && !self->take_buffered_body()) {
        const bool have_body = co_await self->read_body();
        if (!have_body) break;
      }
      self->timer_.disarm();
      if (!self->always_) self->no_stranger();
      const bool keep = co_await self->answer();
      if (!keep) break;
      self->be_stranger();
    }
  } catch (const std::exception& e) {
    self->state_->options.log.error("net", "a connection failed", {{"what", e.what()}});
  } catch (...) {
    self->state_->options.log.error("net", "a connection failed");
  }
  if (self->late_) co_return;  // refuse_late() has the stream and the timer now
  self->timer_.disarm();
  self->stream_->close();
}

// Some bytes, or 0: the connection is over, or the timer has taken it over.
awaitable<size_t> HttpConnection::read(std::span<std::byte> into) {
  const auto n = co_await stream_->read_some(into);
  co_return n && !late_ ? *n : 0;
}

awaitable<bool> HttpConnection::read_more(size_t max_buffer) {
  make_room(max_buffer);
  const auto room = as_writable_byte_span(in_).subspan(end_);
  const auto n = co_await stream_->read_some(room);
  if (!n || late_) co_return false;
  end_ += *n;
  co_return *n > 0;
}

awaitable<bool> HttpConnection::read_head() {
  wire::HeadScanner scanner(limits().header_bytes);
  head_ = wire::RequestHead();
  if (pending().empty()) {
    if (state_->stopping) co_return false;
    arm(Wait::kRequest, limits().keep_alive_timeout);
    const bool more = co_await read_more(kBuffer);
    if (!more) co_return false;
  }
  wait_ = Wait::kHead;
  bool timed = false;
  for (;;) {
    auto size = scanner.scan(pending());
    if (!size) {
      head_.request = wire::guess_request(pending().substr(scanner.start()));
      co_await refuse(std::move(size).error(), 0);
      co_return false;
    }
    if (*size > 0) {
      const ByteView bytes = pending().substr(scanner.start(), *size - scanner.start());
      auto fault = wire::parse_request_head(bytes, limits().header_fields, &head_);
      consume(*size);
      if (!fault) {
        // Here, since what awaits it has a frame that lives as long as the handler.
        if (!state_->options.admit && has_place()) co_return true;
        co_return co_await admit();
      }
      co_await refuse(std::move(*fault), 0);
      co_return false;
    }
    if (!std::exchange(timed, true)) arm(Wait::kHead, limits().header_timeout);
    const bool more = co_await read_more(limits().header_bytes + 1);
    if (!more) co_return false;
  }
}

// False if there is none. Who shows another key on the same connection is another client from then
// on.
bool HttpConnection::take_place(std::shared_ptr<BodyBudget> of_client) {
  if (!has_place()) return false;
  if (of_client == nullptr || of_client == place_) return true;
  if (!of_client->take(1)) return false;
  if (place_) place_->give_back(1);
  place_ = std::move(of_client);
  no_stranger();
  return true;
}

// What the server's owner answers to the head alone, if that is to refuse it.
std::optional<HttpResponse> HttpConnection::turned_away() {
  try {
    Admission admission;
    if (state_->options.admit) admission = state_->options.admit(head_.request);
    if (admission.refusal) return std::move(admission.refusal);
    always_ = admission.always;
    if (!always_ && !take_place(std::move(admission.connections))) {
      return shape_refusal(503, "too many connections are open");
    }
    if (admission.budget) {
      held_ = std::make_unique<HeldBody>(&state_->bodies, std::move(admission.budget));
    }
    return std::nullopt;
  } catch (const std::exception& e) {
    state_->options.log.error("net", "admitting a request failed", {{"what", e.what()}});
  }
  return shape_refusal(500, "internal error");
}

// Whether the request goes on to its body.
awaitable<bool> HttpConnection::admit() {
  std::optional<HttpResponse> refusal = turned_away();
  if (!refusal) co_return true;
  timer_.disarm();
  co_await write_refusal(std::move(*refusal), "refused by its head");
  const uint64_t expected = unread_body();
  if (head_.request.announces_body()) co_await linger(expected);
  const auto drained = co_await stream_->drained(Deadline::in(kDrainTime));
  co_return false;
}

// How much may still come of a body of which nothing was used, 0 if that cannot be told.
uint64_t HttpConnection::unread_body() const {
  if (head_.framing == wire::Framing::kChunked) return limits().discard_bytes;
  // A client that waits to be told to continue will not send it now.
  return head_.expects_continue ? 0 : head_.length;
}

// The usual case without a coroutine: a small body that came with its head.
bool HttpConnection::take_buffered_body() {
  const size_t available = end_ - begin_;
  if (head_.framing != wire::Framing::kSized || head_.length > available ||
      head_.length > limits().body_bytes) {
    return false;
  }
  Bytes& body = head_.request.body;
  body.reserve(head_.length + kPadding);
  body.append(pending().substr(0, head_.length));
  consume(head_.length);
  return true;
}

awaitable<bool> HttpConnection::read_body() {
  const uint64_t expected = unread_body();
  if (head_.framing == wire::Framing::kSized && head_.length > limits().body_bytes) {
    wire::Fault fault{413, fmt::format("the body is over {} bytes", limits().body_bytes)};
    co_await refuse(std::move(fault), expected);
    co_return false;
  }
  const bool sized = head_.framing == wire::Framing::kSized;
  if (sized && !hold(std::min<uint64_t>(head_.length, kBodyStep))) {
    co_await refuse_without_room(expected);
    co_return false;
  }
  if (head_.expects_continue && pending().empty()) {
    Stage stage = Stage::kNone;
    const auto told = co_await write("HTTP/1.1 100 Continue\r\n\r\n", &stage, stage);
    if (!told) co_return false;
  }
  arm(Wait::kBody, limits().body_idle_timeout);
  if (sized) co_return co_await read_sized();
  co_return co_await read_chunked();
}

// Counts the body that is being read as `bytes`; false if there is no room for that.
bool HttpConnection::hold(size_t bytes) {
  if (!held_) held_ = std::make_unique<HeldBody>(&state_->bodies, nullptr);
  return held_->grow_to(bytes);
}

awaitable<void> HttpConnection::refuse_without_room(uint64_t expected) {
  // It makes room at once, not only when the client has read why.
  head_.request.body = Bytes();
  held_.reset();
  wire::Fault fault{503, "too many bytes of requests are being received at once"};
  co_await refuse(std::move(fault), expected);
}

awaitable<bool> HttpConnection::read_sized() {
  // The body is read into its own place. What a client claims is not reserved before it comes: the
  // space grows with what has arrived.
  Bytes& body = head_.request.body;
  const size_t length = head_.length;
  size_t have = std::min(length, end_ - begin_);
  body.reserve(std::min(length, kBodyStep) + kPadding);
  body.append(pending().substr(0, have));
  consume(have);
  size_t noted = have;
  while (have < length) {
    if (have == body.size()) {
      const size_t space = std::min(length, std::max(kBodyStep, have * 4));
      if (!hold(space)) {
        const uint64_t expected = length - have;
        co_await refuse_without_room(expected);
        co_return false;
      }
      body.reserve(space + kPadding);
      resize_unfilled(body, space);
    }
    const auto room = as_writable_byte_span(body).subspan(have);
    const size_t n = co_await read(room);
    if (n == 0) co_return false;
    have += n;
    if (have - noted >= kBodyProgress && have < length) {
      noted = have;
      arm(Wait::kBody, limits().body_idle_timeout);
    }
  }
  co_return true;
}

awaitable<bool> HttpConnection::read_chunked() {
  Bytes& body = head_.request.body;
  wire::ChunkDecoder decoder(limits().body_bytes);
  // Tiny chunks cost more bytes than they carry; that has a limit too.
  const uint64_t max_raw = uint64_t{8} * limits().body_bytes + kMaxBuffer;
  uint64_t raw = 0;
  size_t noted = 0;
  for (;;) {
    // At most all that has come belongs to it.
    if (const size_t most = body.size() + pending().size(); most > body.capacity()) {
      const size_t space = std::max(most, std::min(2 * body.size(), limits().body_bytes));
      if (!hold(space)) {
        co_await refuse_without_room(limits().discard_bytes);
        co_return false;
      }
      body.reserve(space + kPadding);
    }
    auto used = decoder.decode(pending(), &body);
    if (used && raw > max_raw) {
      used = tl::unexpected(wire::Fault{413, "the body's chunks are too small for its size"});
    }
    if (!used) {
      co_await refuse(std::move(used).error(), limits().discard_bytes);
      co_return false;
    }
    consume(*used);
    raw += *used;
    if (decoder.done()) break;
    if (raw - noted >= kBodyProgress) {
      noted = raw;
      arm(Wait::kBody, limits().body_idle_timeout);
    }
    const bool more = co_await read_more(kMaxBuffer);
    if (!more) co_return false;
  }
  if (body.capacity() - body.size() < kPadding) body.reserve(body.size() + kPadding);
  co_return true;
}

// The request for its handler. What shapes a refusal (method and target) stays.
HttpRequest HttpConnection::take_request() {
  HttpRequest request = std::move(head_.request);
  held_.reset();
  head_.request = HttpRequest{request.method, request.target, {}, {}};
  return request;
}

// No part of answer(), or the request's copies would be in its frame.
awaitable<void> HttpConnection::handling(Writer* writer) {
  return state_->handler(take_request(), writer);
}

// True if another request may follow. Its frame lives as long as the handler, so it holds only what
// a parked request needs; the rest is in end_answer().
awaitable<bool> HttpConnection::answer() {
  wait_ = Wait::kHandler;
  if (begin_ == end_) release_buffer();
  Writer writer(this);
  try {
    co_await handling(&writer);
  } catch (const std::exception& e) {
    log_failed_handler(e.what());
    writer.do_not_keep();
  } catch (...) {
    log_failed_handler("unknown exception");
    writer.do_not_keep();
  }
  if (writer.watched()) stream_->on_peer_closed(nullptr);
  if (writer.done() && writer.keep()) co_return true;
  co_await end_answer(&writer);
  co_return false;
}

void HttpConnection::log_failed_handler(std::string_view what) const {
  state_->options.log.error("net", "a request's handler failed",
                            {{"what", what}, {"path", head_.request.path()}});
}

// The last answer of a connection.
awaitable<void> HttpConnection::end_answer(Writer* writer) {
  if (writer->started() && !writer->done()) co_return;  // broken, and has to look so
  if (!writer->started()) co_await write_refusal(500, "internal error");
  // close() may lose what the other side's kernel does not have yet.
  const auto drained = co_await stream_->drained(Deadline::in(kDrainTime));
}

awaitable<Result<void>> HttpConnection::write(ByteView bytes, Stage* stage, Stage then) {
  while (!bytes.empty()) {
    const ByteView piece = bytes.substr(0, kWritePiece);
    arm(Wait::kWrite, limits().write_timeout);
    auto written = co_await stream_->write_all(as_byte_span(piece));
    timer_.disarm();
    wait_ = Wait::kHandler;
    if (!written) co_return written;
    bytes.remove_prefix(piece.size());
  }
  *stage = then;
  co_return Result<void>();
}

HttpResponse HttpConnection::shape_refusal(int status, std::string message) {
  const Error error(code_of(status), std::move(message), ErrorOrigin::kCaller);
  if (state_->options.refuse) {
    // A copy: when the timer refuses, a read into the request's body is still under way.
    const HttpRequest& r = head_.request;
    const HttpRequest outline{r.method, r.target, r.headers, {}};
    try {
      HttpResponse response = state_->options.refuse(outline, status, error);
      response.status = status;
      return response;
    } catch (const std::exception& e) {
      state_->options.log.error("net", "shaping a refusal failed", {{"what", e.what()}});
    }
  }
  return default_refusal(status, error);
}

awaitable<void> HttpConnection::write_refusal(int status, std::string message) {
  HttpResponse response = shape_refusal(status, message);
  co_await write_refusal(std::move(response), std::move(message));
}

awaitable<void> HttpConnection::write_refusal(HttpResponse response, std::string message) {
  const int status = response.status;
  state_->options.log.debug("net", "request refused",
                            {{"peer", stream_->peer()}, {"status", status}, {"why", message}});
  Writer writer(this);
  writer.do_not_keep();
  auto sent = co_await writer.send(std::move(response));
  if (!sent && !writer.started()) {
    // What the owner made of it cannot be written.
    HttpResponse plain = default_refusal(status, Error(code_of(status), message));
    sent = co_await writer.send(std::move(plain));
  }
}

// Refuses the request, and reads and drops what the client still sends: closing at once would reset
// the connection under a client that has not read its answer yet. `expected` is how much of a body
// may follow, 0 if that cannot be told.
awaitable<void> HttpConnection::refuse(wire::Fault fault, uint64_t expected) {
  timer_.disarm();
  co_await write_refusal(fault.status, std::move(fault.message));
  co_await linger(expected);
  const auto drained = co_await stream_->drained(Deadline::in(kDrainTime));
}

awaitable<void> HttpConnection::linger(uint64_t expected) {
  const Deadline end = Deadline::in(kLingerTotal);
  uint64_t dropped = end_ - begin_;
  begin_ = end_ = 0;
  in_.resize(kMaxBuffer);
  while (dropped < limits().discard_bytes && !end.expired()) {
    if (expected > 0 && dropped >= expected) break;
    const Duration idle = expected > 0 ? limits().body_idle_timeout : Duration(kLingerIdle);
    arm(Wait::kLinger, std::min(idle, end.remaining()));
    const auto room = as_writable_byte_span(in_);
    const size_t n = co_await read(room);
    if (n == 0) break;
    dropped += n;
  }
  timer_.disarm();
}

awaitable<void> HttpConnection::refuse_late(std::shared_ptr<HttpConnection> self) {
  const bool in_head = self->wait_ == Wait::kHead;
  if (in_head) self->head_.request = wire::guess_request(self->pending());
  std::string message = in_head ? "the request's head took too long" : "the body took too long";
  co_await self->write_refusal(408, std::move(message));
  const auto drained = co_await self->stream_->drained(Deadline::in(kDrainTime));
  self->stream_->close();
}

}  // namespace sluice::net
