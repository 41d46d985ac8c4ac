#include "sluice/net/http_server.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <exception>
#include <list>
#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

#include "sluice/net/http_wire.h"
#include "sluice/net/wheel.h"

namespace sluice::net {
namespace {

constexpr size_t kBuffer = 16 * 1024;       // what a connection reads into at first
constexpr size_t kMaxBuffer = 64 * 1024;    // and at most, for chunked bodies
constexpr size_t kSpareBuffers = 64;        // kept for the next connections
constexpr size_t kBodyStep = 256 * 1024;    // reserved for a body before any of it has arrived
constexpr size_t kPadding = 64;             // behind a body, for parsers that read ahead
constexpr size_t kBodyProgress = 4096;      // see HttpLimits::body_idle_timeout
constexpr size_t kWritePiece = 256 * 1024;  // see HttpLimits::write_timeout
constexpr size_t kJoinedBody = 32 * 1024;   // up to this size a body goes out with its head

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

// "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n" (RFC 9110, section 5.6.7), whatever the locale.
std::string date_line(std::time_t now) {
  constexpr const char* days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  constexpr const char* months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                    "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  std::tm t{};
  ::gmtime_r(&now, &t);
  return fmt::format("Date: {}, {:02} {} {} {:02}:{:02}:{:02} GMT\r\n", days[t.tm_wday], t.tm_mday,
                     months[t.tm_mon], t.tm_year + 1900, t.tm_hour, t.tm_min, t.tm_sec);
}

// What one body that is being read takes of its server's budget, and of its client's own.
class HeldBody {
 public:
  HeldBody(BodyBudget* all, std::shared_ptr<BodyBudget> own) : all_(all), own_(std::move(own)) {}
  ~HeldBody() {
    all_->give_back(bytes_);
    if (own_) own_->give_back(bytes_);
  }
  HeldBody(const HeldBody&) = delete;
  HeldBody& operator=(const HeldBody&) = delete;

  // False, and nothing has changed, if there is no room for it.
  bool grow_to(size_t bytes) {
    if (bytes <= bytes_) return true;
    const size_t more = bytes - bytes_;
    if (own_ && !own_->take(more)) return false;
    if (!all_->take(more)) {
      if (own_) own_->give_back(more);
      return false;
    }
    bytes_ = bytes;
    return true;
  }

 private:
  BodyBudget* const all_;
  const std::shared_ptr<BodyBudget> own_;
  size_t bytes_ = 0;
};

}  // namespace

struct HttpServer::State {
  State(Shard& s, HttpHandler h, HttpServerOptions o)
      : shard(s),
        handler(std::move(h)),
        options(std::move(o)),
        bodies(options.limits.bodies_bytes),
        tasks(s.executor()) {}

  static awaitable<void> accept_from(State* state, std::shared_ptr<Listener> listener);

  // A copy, since closing one may end it.
  std::vector<std::shared_ptr<Session>> open_sessions() const;

  const std::string& date() {
    const std::time_t now = std::time(nullptr);
    if (now != date_of) {
      date_of = now;
      date_text = date_line(now);
    }
    return date_text;
  }

  Shard& shard;
  const HttpHandler handler;
  const HttpServerOptions options;
  BodyBudget bodies;
  bool stopping = false;
  std::list<std::shared_ptr<Listener>> listeners;
  std::unordered_set<Session*> sessions;
  std::vector<Bytes> spare_buffers;
  std::time_t date_of = 0;
  std::string date_text;
  TaskGroup tasks;  // last: what it runs uses all of the above
};

// One connection. Owned by the coroutines that serve it.
class HttpServer::Session final : public std::enable_shared_from_this<Session> {
 public:
  Session(State* state, std::unique_ptr<Stream> stream)
      : state_(state), stream_(std::move(stream)), timer_(state->shard.wheel()) {
    state_->sessions.insert(this);
  }
  ~Session() {
    release_buffer();
    state_->sessions.erase(this);
  }

  static awaitable<void> run(std::shared_ptr<Session> self);

  bool idle() const { return wait_ == Wait::kRequest; }
  void close() { stream_->close(); }

 private:
  class Writer;

  // What the connection waits for, and so what its timer means.
  enum class Wait : uint8_t { kRequest, kHead, kBody, kHandler, kWrite, kLinger };

  const HttpLimits& limits() const { return state_->options.limits; }
  ByteView pending() const { return ByteView(in_).substr(begin_, end_ - begin_); }
  void consume(size_t n) { begin_ += n; }
  void release_buffer();
  void make_room(size_t max);
  [[gnu::noinline]] void arm(Wait wait, Duration timeout);
  void on_timer();

  awaitable<bool> read_head();
  uint64_t unread_body() const;
  std::optional<HttpResponse> turned_away();
  awaitable<bool> admit();
  [[gnu::noinline]] bool take_buffered_body();
  awaitable<bool> read_body();
  bool hold(size_t bytes);
  awaitable<void> refuse_without_room(uint64_t expected);
  awaitable<bool> read_sized();
  awaitable<bool> read_chunked();
  HttpRequest take_request();
  [[gnu::noinline]] awaitable<void> handling(Writer* writer);
  awaitable<bool> answer();
  awaitable<void> end_answer(Writer* writer);
  void log_failed_handler(std::string_view what) const;

  awaitable<size_t> read(std::span<std::byte> into);
  awaitable<bool> read_more(size_t max_buffer);
  // If it all leaves, `stage` becomes `then`.
  enum class Stage : uint8_t { kNone, kStarted, kDone, kBroken };
  awaitable<Result<void>> write(ByteView bytes, Stage* stage, Stage then);
  HttpResponse shape_refusal(int status, std::string message);
  awaitable<void> write_refusal(int status, std::string message);
  awaitable<void> write_refusal(HttpResponse response, std::string message);
  awaitable<void> refuse(wire::Fault fault, uint64_t expected);
  awaitable<void> linger(uint64_t expected);
  static awaitable<void> refuse_late(std::shared_ptr<Session> self);

  State* const state_;
  const std::unique_ptr<Stream> stream_;
  Wheel::Timer timer_;
  Wait wait_ = Wait::kRequest;
  bool late_ = false;  // the timer has taken over: it refuses and closes
  Bytes in_;           // [begin_, end_) was read and not used yet
  size_t begin_ = 0;
  size_t end_ = 0;
  // The request being served; from the handler's start on only its method and target.
  wire::RequestHead head_;
  std::unique_ptr<HeldBody> held_;  // of a body that is being read
};

class HttpServer::Session::Writer final : public ResponseWriter {
 public:
  explicit Writer(Session* session)
      : session_(session), keep_(session->head_.persistence == wire::Persistence::kKeepAlive) {}

  awaitable<Result<void>> send(HttpResponse response) override;
  awaitable<Result<void>> start(int status, Headers headers) override;
  awaitable<Result<void>> write(Bytes piece) override;
  using ResponseWriter::finish;
  awaitable<Result<void>> finish(Bytes last) override;
  awaitable<Result<Upgraded>> upgrade(Headers headers) override;
  void abort() override {
    stage_ = Stage::kBroken;
    session_->stream_->close();
  }
  awaitable<Result<void>> drained(Deadline deadline) override {
    return session_->stream_->drained(deadline);
  }
  void on_peer_closed(std::function<void(PeerClose)> callback) override {
    watched_ = true;
    session_->stream_->on_peer_closed(std::move(callback));
  }
  bool started() const override { return stage_ != Stage::kNone; }

  bool done() const { return stage_ == Stage::kDone; }
  bool keep() const { return keep_; }
  bool watched() const { return watched_; }
  // No next request on this connection.
  void do_not_keep() { keep_ = false; }

 private:
  enum class Body : uint8_t { kSized, kPieces };

  Result<void> append_head(Bytes& out, int status, const Headers& headers, Body body, size_t size);
  awaitable<Result<void>> put(ByteView bytes, Stage then);

  Session* const session_;
  Stage stage_ = Stage::kNone;
  bool keep_;
  bool watched_ = false;
  bool silent_ = false;   // the answer has no body, whatever the handler writes
  bool chunked_ = false;  // else a body in pieces ends with the connection
};

Result<void> HttpServer::Session::Writer::append_head(Bytes& out, int status,
                                                      const Headers& headers, Body body,
                                                      size_t size) {
  if (status < 200 || status > 599) {
    return Error(ErrorCode::kInternal, fmt::format("{} is no status of an answer", status));
  }
  const wire::RequestHead& request = session_->head_;
  const bool bodiless = status == 204 || status == 304;
  silent_ = bodiless || request.request.method == "HEAD";
  chunked_ = body == Body::kPieces && request.version == 11 && !bodiless;
  if (const auto connection = headers.get("Connection");
      (connection && equal_ignoring_case(*connection, "close")) || session_->state_->stopping ||
      (body == Body::kPieces && !chunked_ && !silent_)) {
    keep_ = false;
  }
  wire::append_status_line(out, status);
  SLUICE_TRY_VOID(wire::append_fields(out, headers));
  if (!headers.get("Date")) out.append(session_->state_->date());
  if (chunked_) {
    out.append("Transfer-Encoding: chunked\r\n");
  } else if (body == Body::kSized && !bodiless) {
    append_decimal(out.append("Content-Length: "), size);
    out.append("\r\n");
  }
  if (!keep_) {
    out.append("Connection: close\r\n");
  } else if (request.version == 10) {
    out.append("Connection: keep-alive\r\n");
  }
  out.append("\r\n");
  return {};
}

awaitable<Result<void>> HttpServer::Session::Writer::put(ByteView bytes, Stage then) {
  stage_ = Stage::kBroken;  // until all of it has left
  return session_->write(bytes, &stage_, then);
}

awaitable<Result<void>> HttpServer::Session::Writer::send(HttpResponse response) {
  if (stage_ != Stage::kNone) {
    co_return Error(ErrorCode::kInternal, "the request was answered already");
  }
  const Bytes& body = response.body;
  Bytes out;
  out.reserve(384 + (body.size() <= kJoinedBody ? body.size() : 0));
  SLUICE_CO_TRY_VOID(
      append_head(out, response.status, response.headers, Body::kSized, body.size()));
  if (silent_ || body.empty()) co_return co_await put(out, Stage::kDone);
  if (body.size() <= kJoinedBody) {
    out.append(body);
    co_return co_await put(out, Stage::kDone);
  }
  SLUICE_CO_TRY_VOID(co_await put(out, Stage::kStarted));
  co_return co_await put(body, Stage::kDone);
}

awaitable<Result<void>> HttpServer::Session::Writer::start(int status, Headers headers) {
  if (stage_ != Stage::kNone) {
    co_return Error(ErrorCode::kInternal, "the request was answered already");
  }
  Bytes out;
  SLUICE_CO_TRY_VOID(append_head(out, status, headers, Body::kPieces, 0));
  co_return co_await put(out, Stage::kStarted);
}

awaitable<Result<void>> HttpServer::Session::Writer::write(Bytes piece) {
  if (stage_ == Stage::kBroken) co_return Error(ErrorCode::kClosed, "the connection is broken");
  if (stage_ != Stage::kStarted) {
    co_return Error(ErrorCode::kInternal, "write() belongs between start() and finish()");
  }
  if (silent_ || piece.empty()) co_return Result<void>();
  if (!chunked_) co_return co_await put(piece, Stage::kStarted);
  Bytes out = fmt::format("{:x}\r\n", piece.size());
  if (piece.size() > kJoinedBody) {
    SLUICE_CO_TRY_VOID(co_await put(out, Stage::kStarted));
    piece.append("\r\n");
    co_return co_await put(piece, Stage::kStarted);
  }
  out.append(piece).append("\r\n");
  co_return co_await put(out, Stage::kStarted);
}

awaitable<Result<void>> HttpServer::Session::Writer::finish(Bytes last) {
  if (stage_ == Stage::kBroken) co_return Error(ErrorCode::kClosed, "the connection is broken");
  if (stage_ != Stage::kStarted) {
    co_return Error(ErrorCode::kInternal, "finish() belongs behind start()");
  }
  if (silent_ || (!chunked_ && last.empty())) {
    stage_ = Stage::kDone;
    co_return Result<void>();
  }
  if (!chunked_) co_return co_await put(last, Stage::kDone);
  Bytes out;
  if (!last.empty()) out = fmt::format("{:x}\r\n", last.size());
  if (last.size() > kJoinedBody) {
    SLUICE_CO_TRY_VOID(co_await put(out, Stage::kStarted));
    last.append("\r\n0\r\n\r\n");
    co_return co_await put(last, Stage::kDone);
  }
  if (!last.empty()) out.append(last).append("\r\n");
  out.append("0\r\n\r\n");
  co_return co_await put(out, Stage::kDone);
}

awaitable<Result<ResponseWriter::Upgraded>> HttpServer::Session::Writer::upgrade(Headers headers) {
  if (stage_ != Stage::kNone) {
    co_return Error(ErrorCode::kInternal, "the request was answered already");
  }
  const wire::RequestHead& request = session_->head_;
  if (request.version != 11 || request.request.method != "GET" ||
      request.framing != wire::Framing::kNone) {
    co_return Error(ErrorCode::kProtocol, "this request cannot be upgraded", ErrorOrigin::kCaller);
  }
  Bytes out;
  wire::append_status_line(out, 101);
  SLUICE_CO_TRY_VOID(wire::append_fields(out, headers));
  out.append("Connection: Upgrade\r\n\r\n");
  keep_ = false;
  SLUICE_CO_TRY_VOID(co_await put(out, Stage::kDone));
  Upgraded upgraded;
  upgraded.stream = session_->stream_.get();
  upgraded.already_read = session_->pending();
  session_->release_buffer();
  co_return upgraded;
}

void HttpServer::Session::release_buffer() {
  if (in_.size() == kBuffer && state_->spare_buffers.size() < kSpareBuffers) {
    state_->spare_buffers.push_back(std::move(in_));
  }
  in_ = Bytes();
  begin_ = end_ = 0;
}

// Makes the buffer have room behind end_, growing it up to `max`.
void HttpServer::Session::make_room(size_t max) {
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

void HttpServer::Session::arm(Wait wait, Duration timeout) {
  wait_ = wait;
  timer_.arm(Deadline::in(timeout), [this] { on_timer(); });
}

void HttpServer::Session::on_timer() {
  if (wait_ == Wait::kHead || wait_ == Wait::kBody) {
    // The stream cannot be closed before the client was told. Writing may run beside the read.
    late_ = true;
    state_->tasks.spawn(refuse_late(shared_from_this()));
  } else {
    stream_->close();
  }
}

awaitable<void> HttpServer::Session::run(std::shared_ptr<Session> self) {
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
      const bool keep = co_await self->answer();
      if (!keep) break;
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
awaitable<size_t> HttpServer::Session::read(std::span<std::byte> into) {
  const auto n = co_await stream_->read_some(into);
  co_return n && !late_ ? *n : 0;
}

awaitable<bool> HttpServer::Session::read_more(size_t max_buffer) {
  make_room(max_buffer);
  const auto room = as_writable_byte_span(in_).subspan(end_);
  const auto n = co_await stream_->read_some(room);
  if (!n || late_) co_return false;
  end_ += *n;
  co_return *n > 0;
}

awaitable<bool> HttpServer::Session::read_head() {
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
        if (!state_->options.admit) co_return true;
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

// What the server's owner answers to the head alone, if that is to refuse it.
std::optional<HttpResponse> HttpServer::Session::turned_away() {
  try {
    Admission admission = state_->options.admit(head_.request);
    if (admission.budget) {
      held_ = std::make_unique<HeldBody>(&state_->bodies, std::move(admission.budget));
    }
    return std::move(admission.refusal);
  } catch (const std::exception& e) {
    state_->options.log.error("net", "admitting a request failed", {{"what", e.what()}});
  }
  return shape_refusal(500, "internal error");
}

// Whether the request goes on to its body.
awaitable<bool> HttpServer::Session::admit() {
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
uint64_t HttpServer::Session::unread_body() const {
  if (head_.framing == wire::Framing::kChunked) return limits().discard_bytes;
  // A client that waits to be told to continue will not send it now.
  return head_.expects_continue ? 0 : head_.length;
}

// The usual case without a coroutine: a small body that came with its head.
bool HttpServer::Session::take_buffered_body() {
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

awaitable<bool> HttpServer::Session::read_body() {
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
bool HttpServer::Session::hold(size_t bytes) {
  if (!held_) held_ = std::make_unique<HeldBody>(&state_->bodies, nullptr);
  return held_->grow_to(bytes);
}

awaitable<void> HttpServer::Session::refuse_without_room(uint64_t expected) {
  // It makes room at once, not only when the client has read why.
  head_.request.body = Bytes();
  held_.reset();
  wire::Fault fault{503, "too many bytes of requests are being received at once"};
  co_await refuse(std::move(fault), expected);
}

awaitable<bool> HttpServer::Session::read_sized() {
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
      body.resize(space);
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

awaitable<bool> HttpServer::Session::read_chunked() {
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
HttpRequest HttpServer::Session::take_request() {
  HttpRequest request = std::move(head_.request);
  held_.reset();
  head_.request = HttpRequest{request.method, request.target, {}, {}};
  return request;
}

// No part of answer(), or the request's copies would be in its frame.
awaitable<void> HttpServer::Session::handling(Writer* writer) {
  return state_->handler(take_request(), writer);
}

// True if another request may follow. Its frame lives as long as the handler, so it holds only what
// a parked request needs; the rest is in end_answer().
awaitable<bool> HttpServer::Session::answer() {
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

void HttpServer::Session::log_failed_handler(std::string_view what) const {
  state_->options.log.error("net", "a request's handler failed",
                            {{"what", what}, {"path", head_.request.path()}});
}

// The last answer of a connection.
awaitable<void> HttpServer::Session::end_answer(Writer* writer) {
  if (writer->started() && !writer->done()) co_return;  // broken, and has to look so
  if (!writer->started()) co_await write_refusal(500, "internal error");
  // close() may lose what the other side's kernel does not have yet.
  const auto drained = co_await stream_->drained(Deadline::in(kDrainTime));
}

awaitable<Result<void>> HttpServer::Session::write(ByteView bytes, Stage* stage, Stage then) {
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

HttpResponse HttpServer::Session::shape_refusal(int status, std::string message) {
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

awaitable<void> HttpServer::Session::write_refusal(int status, std::string message) {
  HttpResponse response = shape_refusal(status, message);
  co_await write_refusal(std::move(response), std::move(message));
}

awaitable<void> HttpServer::Session::write_refusal(HttpResponse response, std::string message) {
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
awaitable<void> HttpServer::Session::refuse(wire::Fault fault, uint64_t expected) {
  timer_.disarm();
  co_await write_refusal(fault.status, std::move(fault.message));
  co_await linger(expected);
  const auto drained = co_await stream_->drained(Deadline::in(kDrainTime));
}

awaitable<void> HttpServer::Session::linger(uint64_t expected) {
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

awaitable<void> HttpServer::Session::refuse_late(std::shared_ptr<Session> self) {
  const bool in_head = self->wait_ == Wait::kHead;
  if (in_head) self->head_.request = wire::guess_request(self->pending());
  std::string message = in_head ? "the request's head took too long" : "the body took too long";
  co_await self->write_refusal(408, std::move(message));
  const auto drained = co_await self->stream_->drained(Deadline::in(kDrainTime));
  self->stream_->close();
}

std::vector<std::shared_ptr<HttpServer::Session>> HttpServer::State::open_sessions() const {
  std::vector<std::shared_ptr<Session>> open;
  open.reserve(sessions.size());
  for (Session* session : sessions) open.push_back(session->shared_from_this());
  return open;
}

awaitable<void> HttpServer::State::accept_from(State* state, std::shared_ptr<Listener> listener) {
  for (;;) {
    auto accepted = co_await listener->accept();
    if (!accepted) {
      if (!state->stopping && accepted.error().code != ErrorCode::kClosed) {
        state->options.log.error(
            "net", "a listener failed",
            {{"address", listener->address()}, {"error", accepted.error().message}});
      }
      break;
    }
    if (state->stopping || state->sessions.size() >= state->options.limits.connections) {
      (*accepted)->close();
      continue;
    }
    auto session = std::make_shared<Session>(state, std::move(*accepted));
    state->tasks.spawn_bare(Session::run(std::move(session)));
  }
  std::erase(state->listeners, listener);
}

HttpServer::HttpServer(Shard& shard, HttpHandler handler, HttpServerOptions options)
    : state_(std::make_shared<State>(shard, std::move(handler), std::move(options))) {}

HttpServer::~HttpServer() = default;

void HttpServer::serve(std::unique_ptr<Listener> listener) {
  if (state_->stopping) return listener->close();
  auto shared = std::shared_ptr<Listener>(std::move(listener));
  state_->listeners.push_back(shared);
  state_->tasks.spawn(State::accept_from(state_.get(), std::move(shared)));
}

awaitable<void> HttpServer::stop(Deadline deadline) {
  const auto state = state_;
  state->stopping = true;
  for (const auto& listener : state->listeners) listener->close();
  for (const auto& session : state->open_sessions()) {
    if (session->idle()) session->close();
  }
  Wheel::Timer timer(state->shard.wheel());
  timer.arm(deadline, [s = state.get()] {
    for (const auto& session : s->open_sessions()) session->close();
    s->tasks.cancel();
  });
  co_await state->tasks.join();
}

size_t HttpServer::connections() const {
  return state_->sessions.size();
}

size_t HttpServer::bodies_bytes() const {
  return state_->bodies.held();
}

}  // namespace sluice::net
