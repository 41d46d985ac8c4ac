// What an HTTP server is told: its limits, whom it admits, how it refuses. Values; a BodyBudget
// lives on its server's shard.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>

#include "sluice/base/core/deadline.h"
#include "sluice/base/log.h"
#include "sluice/net/http.h"

namespace sluice::net {

struct HttpLimits {
  size_t header_bytes = 64 * 1024;  // request line and fields: 431 above
  size_t header_fields = 100;
  size_t body_bytes = 16 * 1024 * 1024;  // 413 above
  // Of all bodies together that are being read, until their handlers have them: 503 above. A body
  // that came whole with its head does not count: its handler has it at once.
  // REQUIRES: at least body_bytes.
  size_t bodies_bytes = 256 * 1024 * 1024;
  size_t connections = 10'000;  // whose request was let in: 503 above
  // Beside those: connections that have shown nothing yet, or nothing that was let in. For one more
  // the one that came first is closed, so that whoever says at once what it wants is heard, however
  // many say nothing.
  // REQUIRES: at least 1.
  size_t strangers = 1'000;
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
// (HttpLimits::bodies_bytes); those of one client may have another besides (Admission). So it is
// with connections, which count one each. Lives on the server's shard.
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
  // Its client's own of connections: 503 above. From then on the connection is no stranger.
  std::shared_ptr<BodyBudget> connections;
  // It is let in whatever the server is busy with, and its connection stays a stranger: for what
  // asks whether the server lives.
  bool always = false;
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

}  // namespace sluice::net
