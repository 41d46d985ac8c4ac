// The grammar of HTTP/1.1 on the wire, without I/O: finding the end of a head, parsing it, decoding
// chunks, writing heads. What the server and the client share; no other room needs it.
//
// Strict where RFC 9112 leaves a choice, because two readers that choose differently can be made to
// see different requests in the same bytes: a bare LF or CR, a folded line, NUL, space before a
// colon, two lengths, or a length beside a transfer coding is a Fault.
//
// Plain values; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <tl/expected.hpp>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/result.h"
#include "sluice/net/http.h"

namespace sluice::net::wire {

// What is wrong with a message, and the status with which a server refuses it.
struct Fault {
  int status = 400;
  std::string message;
};
template <class T>
using Parsed = tl::expected<T, Fault>;

// Finds the end of a head that arrives in pieces.
class HeadScanner {
 public:
  explicit HeadScanner(size_t max_bytes) : max_bytes_(max_bytes) {}

  // `bytes` is what has arrived so far: the same as last time and more behind it. The size of the
  // head with its empty line, or 0 while that is missing.
  Parsed<size_t> scan(ByteView bytes);

  // Where the head begins in `bytes`: empty lines before a message are skipped.
  size_t start() const { return start_; }

 private:
  size_t max_bytes_;
  size_t start_ = 0;
  size_t line_ = 0;    // where the line begins that has no end yet
  size_t looked_ = 0;  // no line ends before this
};

enum class Framing : uint8_t { kNone, kSized, kChunked, kUntilClose };
enum class Persistence : uint8_t { kKeepAlive, kClose };

struct RequestHead {
  HttpRequest request;
  int version = 11;  // 10 or 11
  Framing framing = Framing::kNone;
  uint64_t length = 0;  // kSized
  Persistence persistence = Persistence::kClose;
  bool expects_continue = false;
};

// A server wants one Host field, and a path or a URL as the target. To a proxy the target alone, of
// CONNECT too, says where a request is to go.
enum class Reader : uint8_t { kServer, kProxy };

// Parses a complete head. What was understood before a fault is in `head`.
std::optional<Fault> parse_request_head(ByteView bytes, size_t max_fields, RequestHead* head,
                                        Reader reader = Reader::kServer);

// Method and target of a head that is broken or incomplete, as far as they can be told.
HttpRequest guess_request(ByteView bytes);

struct ResponseHead {
  int status = 0;
  int version = 11;
  Headers headers;
  Framing framing = Framing::kNone;
  uint64_t length = 0;
  Persistence persistence = Persistence::kClose;
};

// `method` is the request's: an answer to HEAD has no body.
Parsed<ResponseHead> parse_response_head(ByteView bytes, size_t max_fields,
                                         std::string_view method);

// Decodes a chunked body (RFC 9112, section 7.1). Extensions and trailers are checked and dropped.
class ChunkDecoder {
 public:
  // What a chunk's size with its extensions, or all trailers, may have.
  static constexpr size_t kMaxFraming = 8 * 1024;

  explicit ChunkDecoder(uint64_t max_body_bytes) : max_(max_body_bytes), left_(max_body_bytes) {}

  // Appends the decoded bytes to `out`. How much of `in` belongs to the body: all of it, unless
  // the body ends before.
  Parsed<size_t> decode(ByteView in, Bytes* out);
  bool done() const { return state_ == State::kDone; }

 private:
  enum class State : uint8_t { kSize, kData, kDataEnd, kTrailer, kDone };

  std::optional<Fault> take_line(std::string_view line);

  const uint64_t max_;
  uint64_t left_;       // of max_
  uint64_t chunk_ = 0;  // bytes of the chunk still to come
  State state_ = State::kSize;
  size_t trailers_ = 0;  // bytes
  Bytes line_;           // of the line that has no end yet
};

bool is_token(std::string_view text);
// Whether a field that is a list has `wanted` in it: "Upgrade, keep-alive" has "upgrade" (RFC 9110,
// section 5.6.1).
bool lists(std::string_view field, std::string_view wanted);
// No control character but the tab.
bool is_field_value(std::string_view text);

// "HTTP/1.1 200 OK\r\n" without the line break's successor fields.
void append_status_line(Bytes& out, int status);
// kInternal if a name or value cannot be written, or is one that the caller writes itself
// (Content-Length, Transfer-Encoding; Connection is skipped).
Result<void> append_fields(Bytes& out, const Headers& headers);

}  // namespace sluice::net::wire
