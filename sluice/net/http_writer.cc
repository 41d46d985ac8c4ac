#include <fmt/format.h>

#include <utility>

#include "sluice/net/http_connection.h"

namespace sluice::net {

Result<void> HttpConnection::Writer::append_head(Bytes& out, int status, const Headers& headers,
                                                 Body body, size_t size) {
  if (status < 200 || status > 599) {
    return Error(ErrorCode::kInternal, fmt::format("{} is no status of an answer", status));
  }
  const wire::RequestHead& request = connection_->head_;
  const bool bodiless = status == 204 || status == 304;
  silent_ = bodiless || request.request.method == "HEAD";
  chunked_ = body == Body::kPieces && request.version == 11 && !bodiless;
  if (const auto connection = headers.get("Connection");
      (connection && equal_ignoring_case(*connection, "close")) || connection_->state_->stopping ||
      (body == Body::kPieces && !chunked_ && !silent_)) {
    keep_ = false;
  }
  wire::append_status_line(out, status);
  SLUICE_TRY_VOID(wire::append_fields(out, headers));
  if (!headers.get("Date")) out.append(connection_->state_->date());
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

awaitable<Result<void>> HttpConnection::Writer::put(ByteView bytes, Stage then) {
  stage_ = Stage::kBroken;  // until all of it has left
  return connection_->write(bytes, &stage_, then);
}

awaitable<Result<void>> HttpConnection::Writer::send(HttpResponse response) {
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

awaitable<Result<void>> HttpConnection::Writer::start(int status, Headers headers) {
  if (stage_ != Stage::kNone) {
    co_return Error(ErrorCode::kInternal, "the request was answered already");
  }
  Bytes out;
  SLUICE_CO_TRY_VOID(append_head(out, status, headers, Body::kPieces, 0));
  co_return co_await put(out, Stage::kStarted);
}

awaitable<Result<void>> HttpConnection::Writer::put_piece(Bytes piece, Stage then) {
  if (stage_ == Stage::kBroken) co_return Error(ErrorCode::kClosed, "the connection is broken");
  if (stage_ != Stage::kStarted) {
    co_return Error(ErrorCode::kInternal, "a piece belongs between start() and finish()");
  }
  const std::string_view end = chunked_ && then == Stage::kDone ? "0\r\n\r\n" : "";
  if (silent_ || (piece.empty() && end.empty())) {
    stage_ = then;
    co_return Result<void>();
  }
  if (!chunked_) co_return co_await put(piece, then);
  Bytes out;
  if (!piece.empty()) out = fmt::format("{:x}\r\n", piece.size());
  if (piece.size() > kJoinedBody) {
    SLUICE_CO_TRY_VOID(co_await put(out, Stage::kStarted));
    piece.append("\r\n").append(end);
    co_return co_await put(piece, then);
  }
  if (!piece.empty()) out.append(piece).append("\r\n");
  out.append(end);
  co_return co_await put(out, then);
}

awaitable<Result<ResponseWriter::Upgraded>> HttpConnection::Writer::upgrade(Headers headers) {
  if (stage_ != Stage::kNone) {
    co_return Error(ErrorCode::kInternal, "the request was answered already");
  }
  const wire::RequestHead& request = connection_->head_;
  if (request.version != 11) {
    co_return Error(
        ErrorCode::kUnsupported,
        "only HTTP/1.1 can be upgraded, and this came as HTTP/1.0, perhaps from a proxy "
        "(nginx: proxy_http_version 1.1)",
        ErrorOrigin::kCaller);
  }
  if (request.request.method != "GET" || request.framing == wire::Framing::kChunked ||
      request.length > 0) {
    co_return Error(ErrorCode::kProtocol, "only a GET without a body can be upgraded",
                    ErrorOrigin::kCaller);
  }
  Bytes out;
  wire::append_status_line(out, 101);
  SLUICE_CO_TRY_VOID(wire::append_fields(out, headers));
  out.append("Connection: Upgrade\r\n\r\n");
  keep_ = false;
  SLUICE_CO_TRY_VOID(co_await put(out, Stage::kDone));
  Upgraded upgraded;
  upgraded.stream = connection_->stream_.get();
  upgraded.already_read = connection_->pending();
  connection_->release_buffer();
  co_return upgraded;
}

}  // namespace sluice::net
