// An HTTP/1.1 server on any Listener: keep-alive, pipelining in order, Expect: 100-continue,
// limits on everything, graceful drain. Follows RFC 9110 and 9112; what they leave open is refused
// (obs-fold, conflicting lengths, a body both sized and chunked).
//
// Each connection is one coroutine. While a handler runs nothing is read from its connection, and
// the connection holds no timer: a parked request costs the coroutine's frames, the request itself
// and the stream. After a refusal, and wherever an answer has to show that it is broken, the
// connection is closed.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>

#include "sluice/base/log.h"
#include "sluice/net/http.h"
#include "sluice/net/shard.h"
#include "sluice/net/stream.h"

namespace sluice::net {

struct HttpLimits {
  size_t header_bytes = 64 * 1024;  // request line and fields: 431 above
  size_t header_fields = 100;
  size_t body_bytes = 16 * 1024 * 1024;  // 413 above
  // Of all bodies together that are being read, until their handlers have them: 503 above. A body
  // that came whole with its head does not count: its handler has it at once.
  // REQUIRES: at least body_bytes.
  size_t bodies_bytes = 256 * 1024 * 1024;
  size_t connections = 10'000;  // further ones are accepted and closed at once
  Duration header_timeout = std::chrono::seconds(20);  // from a request's first byte: 408
  // For each further 4 KiB of a body (or its rest): 408. So it is also the least speed.
  Duration body_idle_timeout = std::chrono::seconds(30);
  Duration keep_alive_timeout = std::chrono::seconds(120);  // between requests: closed silently
  // For each 256 KiB of an answer (or its rest) to leave: then the connection is closed.
  Duration write_timeout = std::chrono::seconds(60);
  // After an early refusal the rest of the body is read and dropped up to this much, so that the
  // client gets to read the refusal.
  size_t discard_bytes = 64 * 1024 * 1024;
};

// How many bytes of bodies may be in the reading at once. A server has one over all its connections
// (HttpLimits::bodies_bytes); those of one client may have another besides (Admission). Lives on
// the server's shard.
class BodyBudget {
 public:
  explicit BodyBudget(size_t limit) : limit_(limit) {}

  bool take(size_t bytes) {
    if (bytes > limit_ - held_) return false;
    held_ += bytes;
    return true;
  }
  // REQUIRES: they were taken.
  void give_back(size_t bytes) { held_ -= bytes; }
  size_t held() const { return held_; }

 private:
  const size_t limit_;
  size_t held_ = 0;
};

// What is decided on a request's head alone.
struct Admission {
  std::optional<HttpResponse> refusal;  // the answer, and the connection's last
  std::shared_ptr<BodyBudget> budget;   // its client's own, if it has one
};

struct HttpServerOptions {
  HttpLimits limits;
  // Looks at each request before any of its body is read or asked for, so that who has no business
  // here costs no more than a head. None: all are admitted. Between this and the handler lies the
  // time that the body takes.
  std::function<Admission(const HttpRequest& head)> admit;
  // Shapes the answer to a request that never reaches the handler (too large, malformed, too slow),
  // and the 500 for one whose handler failed. `request` holds what was understood so far; its body
  // is empty, and after the handler took the request so are its headers. `status` is the answer's,
  // whatever the returned value says. Default: {"error": message}.
  std::function<HttpResponse(const HttpRequest& request, int status, const Error& error)> refuse;
  Logger log;
};

// Lives on one shard; every member runs there.
class HttpServer {
 public:
  HttpServer(Shard& shard, HttpHandler handler, HttpServerOptions options = {});
  // REQUIRES: stop() has completed, or nothing was served.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Accepts from `listener` until it is closed or the server stops. Several listeners may be added.
  void serve(std::unique_ptr<Listener> listener);

  // Stops accepting, lets requests in progress end until the deadline, closes idle connections at
  // once and the rest at the deadline (cancelling what their handlers wait for). Returns when
  // nothing runs any more.
  awaitable<void> stop(Deadline deadline);

  size_t connections() const;
  // What bodies in the reading hold now.
  size_t bodies_bytes() const;

 private:
  class Connection;
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace sluice::net
