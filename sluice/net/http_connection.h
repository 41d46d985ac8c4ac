// What HttpServer is made of: one HttpConnection for each stream that it accepted, and the Writer
// through which a connection's handler answers. Internal to the server; on its shard.
#pragma once

#include <ctime>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include <boost/intrusive/list.hpp>

#include "sluice/net/http_options.h"
#include "sluice/net/http_wire.h"
#include "sluice/net/shard.h"
#include "sluice/net/stream.h"
#include "sluice/net/wheel.h"

namespace sluice::net {

// Up to this size a body goes out with its head.
inline constexpr size_t kJoinedBody = 32 * 1024;

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

class HttpConnection;

// A connection's place among the strangers (HttpLimits::strangers), if it has one.
struct Stranger : boost::intrusive::list_base_hook<> {};

struct HttpServerState {
  HttpServerState(Shard& s, HttpHandler h, HttpServerOptions o)
      : shard(s),
        handler(std::move(h)),
        options(std::move(o)),
        bodies(options.limits.bodies_bytes),
        tasks(s.executor()) {}

  static awaitable<void> accept_from(HttpServerState* state, std::shared_ptr<Listener> listener);

  // A copy, since closing one may end it.
  std::vector<std::shared_ptr<HttpConnection>> open_connections() const;

  // The Date field's line, made once a second.
  const std::string& date();

  Shard& shard;
  const HttpHandler handler;
  const HttpServerOptions options;
  BodyBudget bodies;
  bool stopping = false;
  std::list<std::shared_ptr<Listener>> listeners;
  std::unordered_set<HttpConnection*> open;
  boost::intrusive::list<Stranger> strangers;  // who came first is in front
  std::vector<Bytes> spare_buffers;
  std::time_t date_of = 0;
  std::string date_text;
  TaskGroup tasks;  // last: what it runs uses all of the above
};

// One connection. Owned by the coroutines that serve it.
class HttpConnection final : public std::enable_shared_from_this<HttpConnection>, private Stranger {
 public:
  HttpConnection(HttpServerState* state, std::unique_ptr<Stream> stream)
      : state_(state), stream_(std::move(stream)), timer_(state->shard.wheel()) {
    state_->open.insert(this);
    be_stranger();
  }
  ~HttpConnection() {
    release_buffer();
    no_stranger();
    if (place_) place_->give_back(1);
    state_->open.erase(this);
  }

  static awaitable<void> run(std::shared_ptr<HttpConnection> self);

  bool idle() const { return wait_ == Wait::kRequest; }
  void close() { stream_->close(); }

 private:
  class Writer;

  // What the connection waits for, and so what its timer means.
  enum class Wait : uint8_t { kRequest, kHead, kBody, kHandler, kWrite, kLinger };

  const HttpLimits& limits() const { return state_->options.limits; }
  void be_stranger();
  void no_stranger() {
    if (is_linked()) state_->strangers.erase(state_->strangers.iterator_to(*this));
  }
  bool has_place() const;
  ByteView pending() const { return ByteView(in_).substr(begin_, end_ - begin_); }
  void consume(size_t n) { begin_ += n; }
  void release_buffer();
  void make_room(size_t max);
  [[gnu::noinline]] void arm(Wait wait, Duration timeout);
  void on_timer();

  awaitable<bool> read_head();
  uint64_t unread_body() const;
  bool take_place(std::shared_ptr<BodyBudget> of_client);
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
  static awaitable<void> refuse_late(std::shared_ptr<HttpConnection> self);

  HttpServerState* const state_;
  const std::unique_ptr<Stream> stream_;
  Wheel::Timer timer_;
  Wait wait_ = Wait::kRequest;
  bool late_ = false;  // the timer has taken over: it refuses and closes
  Bytes in_;           // [begin_, end_) was read and not used yet
  size_t begin_ = 0;
  size_t end_ = 0;
  // The request being served; from the handler's start on only its method and target.
  wire::RequestHead head_;
  std::unique_ptr<HeldBody> held_;     // of a body that is being read
  std::shared_ptr<BodyBudget> place_;  // of its client's connections
  bool always_ = false;                // of the request being served: Admission::always
};

class HttpConnection::Writer final : public ResponseWriter {
 public:
  explicit Writer(HttpConnection* connection)
      : connection_(connection),
        keep_(connection->head_.persistence == wire::Persistence::kKeepAlive) {}

  awaitable<Result<void>> send(HttpResponse response) override;
  awaitable<Result<void>> start(int status, Headers headers) override;
  awaitable<Result<void>> write(Bytes piece) override {
    return put_piece(std::move(piece), Stage::kStarted);
  }
  using ResponseWriter::finish;
  awaitable<Result<void>> finish(Bytes last) override {
    return put_piece(std::move(last), Stage::kDone);
  }
  awaitable<Result<Upgraded>> upgrade(Headers headers) override;
  void abort() override {
    stage_ = Stage::kBroken;
    connection_->stream_->close();
  }
  awaitable<Result<void>> drained(Deadline deadline) override {
    return connection_->stream_->drained(deadline);
  }
  void on_peer_closed(std::function<void(PeerClose)> callback) override {
    watched_ = true;
    connection_->stream_->on_peer_closed(std::move(callback));
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
  awaitable<Result<void>> put_piece(Bytes piece, Stage then);

  HttpConnection* const connection_;
  Stage stage_ = Stage::kNone;
  bool keep_;
  bool watched_ = false;
  bool silent_ = false;   // the answer has no body, whatever the handler writes
  bool chunked_ = false;  // else a body in pieces ends with the connection
};

}  // namespace sluice::net
