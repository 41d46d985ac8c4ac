// An HTTP/1.1 client for one origin: a pool of keep-alive connections over whatever carries them
// (TCP, TLS, unix socket, a guest's channel). It never follows redirects, and gives every phase a
// deadline.
//
// A call is repeated, once and on a new connection, in one case only: its connection was a kept one
// that turned out to be closed, nothing of an answer came, and the server cannot have acted on the
// request, because not all of it could be written, or will not mind, because the method is
// idempotent (RFC 9110, section 9.2.2). Any other call of whose answer nothing came before its
// connection broke is the caller's to repeat: its kClosed error is then `retryable`.
//
// Lives on one shard; every member runs there. Calls may run side by side, each on its connection.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "sluice/base/core/deadline.h"
#include "sluice/net/address.h"
#include "sluice/net/http.h"
#include "sluice/net/shard.h"
#include "sluice/net/stream.h"

namespace sluice::net {

// http://host:port/base or https://...; unix sockets have no URL, see HttpClient's constructor.
struct Url {
  bool tls = false;
  std::string host;
  uint16_t port = 0;
  std::string path;  // "" or "/base", without a trailing slash

  // kInvalidArgument with what is wrong: another scheme, user info, a query or a fragment.
  static Result<Url> parse(std::string_view text);
  std::string origin() const;  // "https://host" or "http://host:8080"
};

// Opens one connection to the origin.
using Connector = std::function<awaitable<Result<std::unique_ptr<Stream>>>(Deadline deadline)>;

// TCP, with TLS (system trust store, host name checked) if the URL says https. What the host's name
// leads to is judged by `check`, if there is one, at each connection.
Connector url_connector(Shard& shard, BlockingPool& names, const Url& url, AddressCheck check = {});

struct HttpClientLimits {
  size_t header_bytes = 64 * 1024;
  size_t header_fields = 200;
  size_t body_bytes = 64 * 1024 * 1024;  // kTooLarge above
  Duration connect_timeout = std::chrono::seconds(10);
  Duration first_byte_timeout = std::chrono::minutes(10);
  // Between pieces of a body; for a head to be complete from its first byte; for each 256 KiB of a
  // request to leave.
  Duration idle_timeout = std::chrono::minutes(5);
  size_t idle_connections = 16;
  // Kept connections are closed after this long without a call. Many servers (Node, uvicorn) close
  // theirs after 5 s, and a request that crosses with that end is lost.
  Duration idle_lifetime = std::chrono::seconds(4);
};

// An answer whose body is still arriving. Dropping it early closes its connection. After an error
// every further read gives it again. It may outlive its HttpClient.
class HttpIncoming {
 public:
  virtual ~HttpIncoming() = default;
  virtual int status() const = 0;
  virtual const Headers& headers() const = 0;
  // The next piece, decoded from its framing, or empty at the end of the body.
  virtual awaitable<Result<Bytes>> read_some() = 0;
  // The rest of the body.
  virtual awaitable<Result<Bytes>> read_all() = 0;
  // The connection, which has left HTTP; what came behind the answer is read first. The call's
  // deadline is over with the answer's head.
  // REQUIRES: status() is 101, and nobody took it yet.
  virtual std::unique_ptr<Stream> take_stream() = 0;
};

class HttpClient {
 public:
  // `host_header` is the Host field ("api.example.com", "docker").
  HttpClient(Shard& shard, Connector connector, std::string host_header,
             HttpClientLimits limits = {});
  ~HttpClient();

  // A request with an Upgrade field asks to leave HTTP, on a connection of its own. The server does
  // that with 101 (HttpIncoming::take_stream); it may as well give any other answer.
  //
  // Host, Content-Length, Transfer-Encoding and Connection are set here, whatever the request's
  // fields of these names say. The whole call, body included, ends by `deadline`. Errors:
  // kUnavailable (no connection), kTimedOut, kProtocol, kClosed (the peer closed before or in the
  // middle of the answer), kTooLarge, kInvalidArgument (a request that cannot be written). Messages
  // name the origin, the method and the path, never the query.
  awaitable<Result<std::unique_ptr<HttpIncoming>>> call(HttpRequest request, Deadline deadline);

  // The same with the whole body read.
  // REQUIRES: the request has no Upgrade field.
  awaitable<Result<HttpResponse>> fetch(HttpRequest request, Deadline deadline);

 private:
  class Incoming;
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace sluice::net
