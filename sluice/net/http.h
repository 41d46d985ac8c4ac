// HTTP/1.1 requests and answers as values, and the writer through which a handler answers. What
// reads and writes them on a Stream is http_server.h and http_client.h; rooms above know only this.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/deadline.h"
#include "sluice/base/core/result.h"
#include "sluice/net/executor.h"
#include "sluice/net/stream.h"

namespace sluice::net {

// Header fields in order; names compare without case (RFC 9110, section 5.1).
class Headers {
 public:
  using Field = std::pair<std::string, std::string>;

  Headers() = default;
  Headers(std::initializer_list<Field> fields) : fields_(fields) {}

  // The first field of that name.
  std::optional<std::string_view> get(std::string_view name) const;
  std::string_view get_or(std::string_view name, std::string_view otherwise) const;
  void add(std::string name, std::string value) {
    fields_.emplace_back(std::move(name), std::move(value));
  }
  void set(std::string_view name, std::string value);
  // Room for so many fields, for who is about to add them.
  void reserve(size_t fields) { fields_.reserve(fields); }

  const std::vector<Field>& fields() const { return fields_; }

 private:
  std::vector<Field> fields_;
};

bool equal_ignoring_case(std::string_view a, std::string_view b);
// The value of a hexadecimal digit, -1 if it is none.
int hex_digit(char c);

struct HttpRequest {
  std::string method;  // "POST"
  std::string target;  // as sent: "/v1/models?limit=2"
  Headers headers;
  // At least simdjson's padding of spare capacity behind size().
  Bytes body;

  // The target up to '?', still percent-encoded. Of a target with scheme and host, which a proxy's
  // client sends, what is behind them.
  std::string_view path() const;
  // Behind '?', or empty.
  std::string_view query() const;
  // What the query says of `name`, percent-decoded; "" if nothing.
  std::string parameter(std::string_view name) const;
  // The key in "Authorization: Bearer KEY", the scheme in any case; nothing if no key is shown in
  // this way.
  std::optional<std::string_view> bearer() const;
  // Whether the head says that a body of some bytes follows, read or not.
  bool announces_body() const;
};

struct HttpResponse {
  int status = 200;
  Headers headers;
  Bytes body;
};

// Percent-decodes ('+' stays); nullopt if an escape is broken or a NUL comes out.
std::optional<std::string> percent_decode(std::string_view text);

HttpResponse json_response(int status, std::string body);

// Writes the answer of one request.
// REQUIRES: one of these, once: send(); or start(), any number of write(), then finish(); or
// upgrade(); or abort(). All on the connection's shard, by one coroutine at a time.
// A handler that ends without an answer, or with an exception before one, gives 500; one that ends
// in mid-answer breaks the connection, so that the client can tell.
//
// Content-Length, Transfer-Encoding and Date are the writer's own: fields of these names, like
// names and values that would break the head, give kInternal and nothing is written (Date is
// taken as it is). "Connection: close" is obeyed. HEAD, 204 and 304 leave the body out.
class ResponseWriter {
 public:
  virtual ~ResponseWriter() = default;

  // The whole answer, with Content-Length.
  virtual awaitable<Result<void>> send(HttpResponse response) = 0;

  // An answer in pieces (chunked). start() puts the headers on the wire at once.
  virtual awaitable<Result<void>> start(int status, Headers headers) = 0;
  virtual awaitable<Result<void>> write(Bytes piece) = 0;
  // The last piece and the end of the answer in one write: a client that stops reading behind the
  // piece leaves no unread end behind, for which its kernel would reset the connection.
  virtual awaitable<Result<void>> finish(Bytes last) = 0;
  awaitable<Result<void>> finish() { return finish(Bytes()); }

  // The answer 101: the connection leaves HTTP and is the handler's until its coroutine ends, when
  // it is closed. `headers` say to what (Upgrade, and what that protocol asks for). If the
  // request cannot be upgraded, an error of the caller's, and nothing is written: kUnsupported (it
  // is not of HTTP/1.1), kProtocol (it is no GET, or has a body).
  struct Upgraded {
    Stream* stream = nullptr;
    Bytes already_read;  // what the client sent behind its request
  };
  virtual awaitable<Result<Upgraded>> upgrade(Headers headers);

  // Closes the connection without completing the answer, so that the client sees a broken one.
  virtual void abort() = 0;
  // send(), and abort() if that fails: for who has nothing else to do about it.
  awaitable<void> send_or_abort(HttpResponse response);

  // As Stream's, for the connection beneath.
  virtual awaitable<Result<void>> drained(Deadline deadline) = 0;
  virtual void on_peer_closed(std::function<void(PeerClose)> callback) = 0;

  virtual bool started() const = 0;
};

// `writer` is valid until the handler's coroutine ends.
using HttpHandler = std::function<awaitable<void>(HttpRequest request, ResponseWriter* writer)>;

}  // namespace sluice::net
