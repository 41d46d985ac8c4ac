#include "sluice/net/http_client.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>
#include <vector>

#include <boost/asio/cancellation_state.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/url/parse.hpp>
#include <boost/url/url_view.hpp>

#include "sluice/base/core/check.h"
#include "sluice/net/http_wire.h"
#include "sluice/net/socket.h"
#include "sluice/net/tls.h"
#include "sluice/net/wait.h"
#include "sluice/net/wheel.h"

namespace sluice::net {
namespace {

constexpr size_t kBuffer = 16 * 1024;
constexpr size_t kPadding = 64;                  // behind a whole body, for parsers that read ahead
constexpr size_t kWritePiece = 256 * 1024;       // see HttpClientLimits::idle_timeout
constexpr size_t kJoinedBody = 32 * 1024;        // up to this size a body goes out with its head
constexpr int kMaxInterim = 16;                  // 1xx answers before the real one
constexpr std::chrono::seconds kEarlyAnswer{1};  // to read an answer that cut the request short

bool is_idempotent(std::string_view method) {
  constexpr std::string_view methods[] = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"};
  return std::find(std::begin(methods), std::end(methods), method) != std::end(methods);
}

Error bad_url(std::string_view text, std::string_view why) {
  // What may hold a password is not repeated.
  const bool show = text.find_first_of("@?") == std::string_view::npos;
  return Error(ErrorCode::kInvalidArgument,
               fmt::format("{} is no usable URL: {}",
                           show ? fmt::format("\"{}\"", to_valid_utf8(text)) : "this", why),
               ErrorOrigin::kCaller);
}

}  // namespace

Result<Url> Url::parse(std::string_view text) {
  const auto parsed = boost::urls::parse_uri(text);
  if (!parsed) return bad_url(text, "write it as http://host:port/path");
  const boost::urls::url_view& view = *parsed;
  Url url;
  if (view.scheme_id() == boost::urls::scheme::https) {
    url.tls = true;
  } else if (view.scheme_id() != boost::urls::scheme::http) {
    return bad_url(text, "only http and https are spoken");
  }
  if (view.has_userinfo()) {
    return bad_url(text, "user info is not taken; pass a key by itself");
  }
  if (view.has_query() || view.has_fragment()) {
    return bad_url(text, "it must end with its path (no '?' and no '#')");
  }
  const std::string host = view.host_address();
  if (host.empty()) return bad_url(text, "there is no host");
  if (!wire::is_field_value(host) || host.find_first_of(" \t/%\\") != std::string::npos) {
    return bad_url(text, "the host is none");
  }
  url.host = host;
  url.port = url.tls ? 443 : 80;
  if (view.has_port() && !view.port().empty()) {
    const auto port = parse_decimal({view.port().data(), view.port().size()});
    if (!port || *port == 0 || *port > 65535) return bad_url(text, "the port is not 1 to 65535");
    url.port = static_cast<uint16_t>(*port);
  }
  const auto path = view.encoded_path();
  url.path.assign(path.data(), path.size());
  // Boost.URL 1.81 ends a port at its first letter and calls the rest a path.
  if (!url.path.empty() && !url.path.starts_with('/')) {
    return bad_url(text, "the port is not 1 to 65535");
  }
  while (url.path.ends_with('/')) url.path.pop_back();
  return url;
}

std::string Url::origin() const {
  const bool v6 = host.find(':') != std::string::npos;
  std::string out =
      fmt::format("{}://{}{}{}", tls ? "https" : "http", v6 ? "[" : "", host, v6 ? "]" : "");
  if (port != (tls ? 443 : 80)) fmt::format_to(std::back_inserter(out), ":{}", port);
  return out;
}

namespace {

struct UrlConnector {
  Shard* shard;
  BlockingPool* names;
  Url url;
  AddressCheck check;
  std::optional<TlsContext> tls;  // read once, at the first connection
};

awaitable<Result<std::unique_ptr<Stream>>> connect_url(std::shared_ptr<UrlConnector> self,
                                                       Deadline deadline) {
  if (self->url.tls && !self->tls) {
    // Reading the system's certificates takes tens of milliseconds: not on the loop.
    std::optional<Result<TlsContext>> context;
    std::function<void()> load = [&] {
      context.emplace(TlsContext::system());
    };
    co_await self->names->run(std::move(load));
    if (!*context) co_return context->error();
    self->tls = std::move(**context);
  }
  auto stream = co_await connect_tcp(self->shard, self->names, self->url.host, self->url.port,
                                     self->check, deadline);
  if (!stream || !self->url.tls) co_return stream;
  co_return co_await connect_tls(self->shard, std::move(*stream), *self->tls, self->url.host,
                                 deadline);
}

}  // namespace

Connector url_connector(Shard& shard, BlockingPool& names, const Url& url, AddressCheck check) {
  auto self = std::make_shared<UrlConnector>(
      UrlConnector{&shard, &names, url, std::move(check), std::nullopt});
  return [self = std::move(self)](Deadline deadline) {
    return connect_url(self, deadline);
  };
}

namespace {

// One connection, of a call or of the pool. While it is idle a read is under way: whatever it
// brings, the connection is of no use any more.
struct Connection {
  Connection(Shard& shard, std::unique_ptr<Stream> s)
      : stream(std::move(s)), timer(shard.wheel()) {}

  ByteView pending() const { return ByteView(in).substr(begin, end - begin); }
  void close() {
    timer.disarm();
    stream->close();
  }
  void arm(Deadline deadline) {
    timer.arm(deadline, [this] {
      late = true;
      stream->close();
    });
  }

  std::unique_ptr<Stream> stream;
  Wheel::Timer timer;
  bool late = false;  // closed by the timer
  Bytes in;           // [begin, end) was read and not used yet
  size_t begin = 0;
  size_t end = 0;
  bool idle = false;
  bool watching = false;  // the idle read is under way, possibly for the call that came meanwhile
  std::optional<Result<size_t>> watched;
  Signal arrived;
};

// Reads behind end; 0 at the end of the connection.
awaitable<Result<size_t>> fill(std::shared_ptr<Connection> c) {
  while (c->watching) {
    SLUICE_CO_TRY_VOID(co_await wait_for(&c->arrived));
  }
  if (c->watched) {
    auto n = *std::exchange(c->watched, std::nullopt);
    if (n) c->end += *n;
    co_return n;
  }
  if (c->begin == c->end) c->begin = c->end = 0;
  if (c->end == c->in.size()) c->in.resize(std::max(kBuffer, c->in.size() * 2));
  const auto room = as_writable_byte_span(c->in).subspan(c->end);
  auto n = co_await c->stream->read_some(room);
  if (n) c->end += *n;
  co_return n;
}

}  // namespace

struct HttpClient::State {
  State(Shard& s, Connector c, std::string h, HttpClientLimits l)
      : shard(s), connector(std::move(c)), host(std::move(h)), limits(l) {}

  std::shared_ptr<Connection> take_idle();
  static void give_back(const std::shared_ptr<State>& state, std::shared_ptr<Connection> c);
  void drop(const std::shared_ptr<Connection>& c) {
    std::erase(idle, c);
    c->idle = false;
    c->close();
  }
  static awaitable<void> watch(std::shared_ptr<Connection> c, std::weak_ptr<State> state);

  Result<Bytes> head_of(const HttpRequest& request) const;

  Shard& shard;
  const Connector connector;
  const std::string host;
  const HttpClientLimits limits;
  std::vector<std::shared_ptr<Connection>> idle;
  bool closed = false;
};

std::shared_ptr<Connection> HttpClient::State::take_idle() {
  if (idle.empty()) return nullptr;
  // The one used last is the least likely to be closed by the server.
  auto c = std::move(idle.back());
  idle.pop_back();
  c->idle = false;
  c->timer.disarm();
  return c;
}

void HttpClient::State::give_back(const std::shared_ptr<State>& state,
                                  std::shared_ptr<Connection> c) {
  c->timer.disarm();
  if (state->closed || state->idle.size() >= state->limits.idle_connections) return c->close();
  c->begin = c->end = 0;
  c->in.resize(kBuffer);
  c->in.shrink_to_fit();
  c->idle = true;
  c->watching = true;
  c->timer.arm(Deadline::in(state->limits.idle_lifetime),
               [raw = c.get()] { raw->stream->close(); });
  state->idle.push_back(c);
  state->shard.spawn(watch(std::move(c), state));
}

awaitable<void> HttpClient::State::watch(std::shared_ptr<Connection> c,
                                         std::weak_ptr<State> state) {
  const auto room = as_writable_byte_span(c->in);
  c->watched = co_await c->stream->read_some(room);
  c->watching = false;
  if (!c->idle) {
    c->arrived.notify();
    co_return;
  }
  // An end, or bytes that no request asked for (a 408, or the start of something worse).
  if (const auto s = state.lock()) {
    s->drop(c);
  } else {
    c->close();
  }
}

Result<Bytes> HttpClient::State::head_of(const HttpRequest& request) const {
  if (!wire::is_token(request.method)) {
    return Error(ErrorCode::kInvalidArgument, "the request's method is none");
  }
  if (request.target.empty() || !wire::is_field_value(request.target) ||
      request.target.find_first_of(" \t") != std::string::npos) {
    return Error(ErrorCode::kInvalidArgument, "the request's target cannot be written");
  }
  Bytes head;
  head.reserve(512 + (request.body.size() <= kJoinedBody ? request.body.size() : 0));
  head.append(request.method).append(" ").append(request.target).append(" HTTP/1.1\r\nHost: ");
  head.append(host).append("\r\n");
  Headers fields;
  for (const auto& [name, value] : request.headers.fields()) {
    const auto is = [&name = name](std::string_view other) {
      return equal_ignoring_case(name, other);
    };
    if (is("Host") || is("Content-Length") || is("Transfer-Encoding")) continue;
    fields.add(name, value);
  }
  if (auto written = wire::append_fields(head, fields); !written) {
    return Error(ErrorCode::kInvalidArgument, std::move(written).error().message);
  }
  const std::string_view method = request.method;
  if (!request.body.empty() || method == "POST" || method == "PUT" || method == "PATCH") {
    fmt::format_to(std::back_inserter(head), "Content-Length: {}\r\n", request.body.size());
  }
  if (!request.headers.get_or("Upgrade", "").empty()) {
    head.append("Connection: Upgrade\r\n");
  } else if (limits.idle_connections == 0) {
    head.append("Connection: close\r\n");
  }
  head.append("\r\n");
  return head;
}

namespace {

// One attempt at a call.
struct Exchange {
  std::string name;  // "POST api.example.com/v1/chat", for messages
  std::string_view method;
  std::string_view upgrade;  // the protocols that it offers to change to
  ByteView head;
  ByteView body;
  Deadline deadline;
  const HttpClientLimits* limits;

  // What became of it.
  wire::ResponseHead answer;
  bool written = false;  // the whole request is with the carrier
  bool heard = false;    // some byte of an answer came

  Error failed(ErrorCode code, std::string_view why) const {
    return Error(code, fmt::format("{}: {}", name, why));
  }
  // What a broken read or write means, given who closed.
  Error broken(const Connection& c, const Error& error) const {
    if (c.late) {
      return failed(ErrorCode::kTimedOut, deadline.expired() ? "not finished by the deadline"
                                          : !written         ? "the server does not read"
                                          : !heard           ? "no answer in time"
                                                             : "the answer stopped coming");
    }
    return failed(error.code, error.message);
  }
};

awaitable<Result<void>> write_request(std::shared_ptr<Connection> c, Exchange* x) {
  Bytes joined;
  ByteView parts[2] = {x->head, x->body};
  if (x->body.size() <= kJoinedBody) {
    joined.reserve(x->head.size() + x->body.size());
    joined.append(x->head).append(x->body);
    parts[0] = joined;
    parts[1] = {};
  }
  for (ByteView part : parts) {
    while (!part.empty()) {
      const ByteView piece = part.substr(0, kWritePiece);
      c->arm(x->deadline.earlier(Deadline::in(x->limits->idle_timeout)));
      const auto written = co_await write_all(c->stream.get(), piece);
      c->timer.disarm();
      if (!written) co_return x->broken(*c, written.error());
      part.remove_prefix(piece.size());
    }
  }
  x->written = true;
  co_return Result<void>();
}

// Reads the answer's head, skipping interim ones.
awaitable<Result<void>> read_answer(std::shared_ptr<Connection> c, Exchange* x, Duration first) {
  c->arm(x->deadline.earlier(Deadline::in(first)));
  for (int interim = 0; interim <= kMaxInterim; ++interim) {
    wire::HeadScanner scanner(x->limits->header_bytes);
    wire::Parsed<size_t> size = 0;
    for (;;) {
      size = scanner.scan(c->pending());
      if (!size || *size > 0) break;
      const auto n = co_await fill(c);
      if (!n) co_return x->broken(*c, n.error());
      if (c->late) co_return x->broken(*c, Error());
      if (*n == 0) {
        co_return x->failed(ErrorCode::kClosed, x->heard ? "the server closed in mid-answer"
                                                         : "the server closed without an answer");
      }
      if (!std::exchange(x->heard, true)) {
        c->arm(x->deadline.earlier(Deadline::in(x->limits->idle_timeout)));
      }
    }
    x->heard = true;
    auto head = size.and_then([&](size_t n) {
      const ByteView bytes = c->pending().substr(scanner.start(), n - scanner.start());
      return wire::parse_response_head(bytes, x->limits->header_fields, x->method);
    });
    if (!head) {
      const auto code = head.error().status == 431 ? ErrorCode::kTooLarge : ErrorCode::kProtocol;
      co_return x->failed(code, "the server's answer: " + head.error().message);
    }
    c->begin += *size;
    if (head->status == 101 &&
        (!x->written || !wire::lists(x->upgrade, head->headers.get_or("Upgrade", "")))) {
      co_return x->failed(ErrorCode::kProtocol, "an upgrade nobody asked for");
    }
    if (head->status >= 200 || head->status == 101) {
      c->timer.disarm();
      x->answer = std::move(*head);
      co_return Result<void>();
    }
  }
  co_return x->failed(ErrorCode::kProtocol, "too many interim answers");
}

// Whether a call's connection broke before any byte of an answer; not because it was cancelled.
awaitable<bool> broke_unheard(ErrorCode error, bool heard) {
  if (error != ErrorCode::kClosed || heard) co_return false;
  const auto cancellation = co_await boost::asio::this_coro::cancellation_state;
  co_return cancellation.cancelled() == boost::asio::cancellation_type::none;
}

awaitable<Result<void>> exchange(std::shared_ptr<Connection> c, Exchange* x) {
  auto written = co_await write_request(c, x);
  if (written) co_return co_await read_answer(c, x, x->limits->first_byte_timeout);
  if (c->late) co_return written;
  // A server that refuses a large request may answer and close before it has read it all.
  auto answered = co_await read_answer(c, x, kEarlyAnswer);
  if (!answered && !x->heard) co_return written;
  x->answer.persistence = wire::Persistence::kClose;
  co_return answered;
}

// What has left HTTP, with the bytes that came behind the answer in front of all others.
class UpgradedStream final : public Stream {
 public:
  UpgradedStream(std::unique_ptr<Stream> stream, Bytes early)
      : stream_(std::move(stream)), early_(std::move(early)) {}

  awaitable<Result<size_t>> read_some(std::span<std::byte> into) override {
    return early_.empty() ? stream_->read_some(into) : read_early(into);
  }
  awaitable<Result<void>> write_all(std::span<const std::byte> bytes) override {
    return stream_->write_all(bytes);
  }
  awaitable<Result<void>> drained(Deadline deadline) override { return stream_->drained(deadline); }
  void on_peer_closed(std::function<void(PeerClose)> callback) override {
    // Bytes that are here have ended the watch already.
    stream_->on_peer_closed(early_.empty() ? std::move(callback) : nullptr);
  }
  void finish() override { stream_->finish(); }
  void close() override {
    early_.clear();
    stream_->close();
  }
  std::string peer() const override { return stream_->peer(); }

 private:
  awaitable<Result<size_t>> read_early(std::span<std::byte> into) {
    const size_t n = early_.copy(reinterpret_cast<char*>(into.data()), into.size());
    early_.erase(0, n);
    co_return n;
  }

  const std::unique_ptr<Stream> stream_;
  Bytes early_;
};

}  // namespace

class HttpClient::Incoming final : public HttpIncoming {
 public:
  Incoming(std::shared_ptr<State> state, std::shared_ptr<Connection> c, Exchange x)
      : state_(std::move(state)),
        c_(std::move(c)),
        name_(std::move(x.name)),
        deadline_(x.deadline),
        head_(std::move(x.answer)) {
    if (head_.status == 101) {
      upgraded_ = std::exchange(c_, nullptr);
      return;
    }
    if (head_.framing == wire::Framing::kChunked) decoder_.emplace(state_->limits.body_bytes);
    if (head_.framing == wire::Framing::kNone ||
        (head_.framing == wire::Framing::kSized && head_.length == 0)) {
      end();
    }
  }
  ~Incoming() override {
    if (c_) c_->close();
    if (upgraded_) upgraded_->close();
  }

  int status() const override { return head_.status; }
  const Headers& headers() const override { return head_.headers; }
  awaitable<Result<Bytes>> read_some() override;
  awaitable<Result<Bytes>> read_all() override;
  std::unique_ptr<Stream> take_stream() override;

 private:
  Result<Bytes> take_pending();
  void end();
  Error fail(ErrorCode code, std::string_view why) {
    if (c_) std::exchange(c_, nullptr)->close();
    failure_ = Error(code, fmt::format("{}: {}", name_, why));
    return *failure_;
  }

  std::shared_ptr<State> state_;
  std::shared_ptr<Connection> c_;  // none when the body is over
  std::shared_ptr<Connection> upgraded_;
  std::string name_;
  Deadline deadline_;
  wire::ResponseHead head_;
  std::optional<wire::ChunkDecoder> decoder_;
  uint64_t received_ = 0;  // of the body
  std::optional<Error> failure_;
};

// The body is complete: the connection may serve another call.
void HttpClient::Incoming::end() {
  auto c = std::exchange(c_, nullptr);
  // Bytes behind the answer: the two sides do not agree where it ends.
  if (head_.persistence == wire::Persistence::kClose || !c->pending().empty()) return c->close();
  State::give_back(state_, std::move(c));
}

// What has been read already, decoded; empty if nothing has.
Result<Bytes> HttpClient::Incoming::take_pending() {
  Bytes piece;
  const ByteView pending = c_->pending();
  if (decoder_) {
    const auto used = decoder_->decode(pending, &piece);
    if (!used) {
      return fail(used.error().status == 413 ? ErrorCode::kTooLarge : ErrorCode::kProtocol,
                  "the answer's body: " + used.error().message);
    }
    c_->begin += *used;
  } else {
    const uint64_t left =
        head_.framing == wire::Framing::kSized ? head_.length - received_ : pending.size();
    piece = pending.substr(0, left);
    c_->begin += piece.size();
  }
  received_ += piece.size();
  if (received_ > state_->limits.body_bytes) {
    return fail(ErrorCode::kTooLarge,
                fmt::format("the answer is over {} bytes", state_->limits.body_bytes));
  }
  const bool over = decoder_ ? decoder_->done()
                             : head_.framing == wire::Framing::kSized && received_ == head_.length;
  if (over) end();
  return piece;
}

awaitable<Result<Bytes>> HttpClient::Incoming::read_some() {
  for (;;) {
    if (failure_) co_return *failure_;
    if (!c_) co_return Bytes();
    auto piece = take_pending();
    if (!piece || !piece->empty()) co_return piece;
    if (!c_) co_return Bytes();
    const auto c = c_;
    c->arm(deadline_.earlier(Deadline::in(state_->limits.idle_timeout)));
    const auto n = co_await fill(c);
    c->timer.disarm();
    if (c->late) {
      co_return fail(ErrorCode::kTimedOut, deadline_.expired() ? "not finished by the deadline"
                                                               : "the answer stopped coming");
    }
    if (!n) co_return fail(n.error().code, n.error().message);
    if (*n > 0) continue;
    if (head_.framing != wire::Framing::kUntilClose) {
      co_return fail(ErrorCode::kClosed, "the server closed in mid-answer");
    }
    end();
  }
}

awaitable<Result<Bytes>> HttpClient::Incoming::read_all() {
  Bytes all;
  for (;;) {
    auto piece = co_await read_some();
    if (!piece) co_return piece;
    if (piece->empty()) break;
    if (all.empty() && !c_) {
      all = std::move(*piece);
    } else {
      all.append(*piece);
    }
  }
  if (all.capacity() - all.size() < kPadding) all.reserve(all.size() + kPadding);
  co_return all;
}

std::unique_ptr<Stream> HttpClient::Incoming::take_stream() {
  CHECK(upgraded_ != nullptr);
  const auto c = std::exchange(upgraded_, nullptr);
  return std::make_unique<UpgradedStream>(std::move(c->stream), Bytes(c->pending()));
}

HttpClient::HttpClient(Shard& shard, Connector connector, std::string host_header,
                       HttpClientLimits limits)
    : state_(std::make_shared<State>(shard, std::move(connector), std::move(host_header), limits)) {
}

HttpClient::~HttpClient() {
  state_->closed = true;
  for (const auto& c : std::exchange(state_->idle, {})) {
    c->idle = false;
    c->close();
  }
}

awaitable<Result<std::unique_ptr<HttpIncoming>>> HttpClient::call(HttpRequest request,
                                                                  Deadline deadline) {
  const auto state = state_;
  SLUICE_CO_TRY(const Bytes head, state->head_of(request));
  Exchange x;
  x.name = fmt::format("{} {}{}", request.method, state->host, request.path());
  x.method = request.method;
  x.upgrade = request.headers.get_or("Upgrade", "");
  x.head = head;
  x.body = request.body;
  x.deadline = deadline;
  x.limits = &state->limits;
  // What cannot be repeated is not to meet a kept connection's end.
  auto c = x.upgrade.empty() ? state->take_idle() : nullptr;
  if (c) {
    auto answered = co_await exchange(c, &x);
    if (!answered) {
      c->close();
      Error error = std::move(answered).error();
      const bool stale = co_await broke_unheard(error.code, x.heard);
      error.retryable |= stale;
      if (!stale || (x.written && !is_idempotent(request.method))) co_return error;
      c = nullptr;
      x.written = false;
    }
  }
  if (!c) {
    const Deadline connected_by = deadline.earlier(Deadline::in(state->limits.connect_timeout));
    SLUICE_CO_TRY(auto stream, co_await state->connector(connected_by));
    c = std::make_shared<Connection>(state->shard, std::move(stream));
    auto answered = co_await exchange(c, &x);
    if (!answered) {
      c->close();
      Error error = std::move(answered).error();
      error.retryable |= co_await broke_unheard(error.code, x.heard);
      co_return error;
    }
  }
  if (x.answer.framing == wire::Framing::kSized && x.answer.length > state->limits.body_bytes) {
    c->close();
    co_return x.failed(ErrorCode::kTooLarge,
                       fmt::format("the answer is over {} bytes", state->limits.body_bytes));
  }
  co_return std::unique_ptr<HttpIncoming>(
      std::make_unique<Incoming>(state, std::move(c), std::move(x)));
}

awaitable<Result<HttpResponse>> HttpClient::fetch(HttpRequest request, Deadline deadline) {
  SLUICE_CO_TRY(const auto incoming, co_await call(std::move(request), deadline));
  SLUICE_CO_TRY(Bytes body, co_await incoming->read_all());
  HttpResponse response{incoming->status(), incoming->headers(), std::move(body)};
  co_return response;
}

}  // namespace sluice::net
