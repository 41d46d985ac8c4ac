// An HTTP/1.1 server on any Listener: keep-alive, pipelining in order, Expect: 100-continue,
// limits on everything, graceful drain. Follows RFC 9110 and 9112; what they leave open is refused
// (obs-fold, conflicting lengths, a body both sized and chunked, two fields that say who asks).
//
// Each connection is one coroutine. While a handler runs nothing is read from its connection, and
// the connection holds no timer: a parked request costs the coroutine's frames, the request itself
// and the stream. After a refusal, and wherever an answer has to show that it is broken, the
// connection is closed.
#pragma once

#include <cstddef>
#include <memory>

#include "sluice/net/http.h"
#include "sluice/net/http_options.h"
#include "sluice/net/shard.h"
#include "sluice/net/stream.h"

namespace sluice::net {

struct HttpServerState;

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
  std::shared_ptr<HttpServerState> state_;
};

}  // namespace sluice::net
