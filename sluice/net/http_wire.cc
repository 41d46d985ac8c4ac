#include "sluice/net/http_wire.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>

#include <boost/asio/buffer.hpp>
#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/status.hpp>

namespace sluice::net::wire {
namespace {

namespace http = boost::beast::http;
using boost::beast::string_view;
using boost::system::error_code;

std::string_view view(string_view text) {
  return {text.data(), text.size()};
}

Fault malformed(std::string_view what) {
  return Fault{400, std::string(what)};
}

constexpr auto kTokenChars = [] {
  std::array<bool, 256> table{};
  for (int c = '0'; c <= '9'; ++c) table[static_cast<size_t>(c)] = true;
  for (int c = 'a'; c <= 'z'; ++c) table[static_cast<size_t>(c)] = true;
  for (int c = 'A'; c <= 'Z'; ++c) table[static_cast<size_t>(c)] = true;
  for (const unsigned char c : std::string_view("!#$%&'*+-.^_`|~")) table[c] = true;
  return table;
}();

bool is_token_char(char c) {
  return kTokenChars[static_cast<unsigned char>(c)];
}

// True if a quoted string in `text` does not end there.
bool has_open_quote(std::string_view text) {
  bool open = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"') open = !open;
    if (text[i] == '\\' && open) ++i;
  }
  return open;
}

Fault from_beast(error_code error) {
  // Beast's own messages name what is wrong ("bad field", "bad chunk") and quote nothing.
  return malformed(fmt::format("malformed message: {}", error.message()));
}

// Who asks, and how a connection goes on. Of two such fields this server and a proxy in front of it
// may each believe another.
bool stands_once(http::field name, std::string_view text) {
  switch (name) {
    case http::field::authorization:
    case http::field::sec_websocket_key:
    case http::field::sec_websocket_version:
      return true;
    case http::field::unknown:
      return equal_ignoring_case(text, "x-api-key") || equal_ignoring_case(text, "x-goog-api-key");
    default:
      return false;
  }
}

// The parts of a head that decide how its body is framed, gathered field by field.
struct Lengths {
  std::optional<uint64_t> content_length;
  bool chunked = false;

  std::optional<Fault> take(http::field name, std::string_view value) {
    if (name == http::field::content_length) {
      if (content_length) return malformed("two Content-Length fields");
      if (chunked) return malformed("both Content-Length and Transfer-Encoding");
      content_length = parse_decimal(value);
      if (!content_length) return malformed("Content-Length is not a number");
    } else if (name == http::field::transfer_encoding) {
      if (content_length) return malformed("both Content-Length and Transfer-Encoding");
      if (chunked) return malformed("two Transfer-Encoding fields");
      if (!equal_ignoring_case(value, "chunked")) {
        return Fault{501, "the only transfer coding understood here is chunked"};
      }
      chunked = true;
    }
    return std::nullopt;
  }
};

// Beast's parser up to the end of the head. What it hands out points into the parsed bytes.
template <bool kIsRequest>
class HeadParser final : public http::basic_parser<kIsRequest> {
 public:
  HeadParser(size_t max_fields, Headers* headers) : max_fields_(max_fields), headers_(headers) {
    headers_->reserve(std::min<size_t>(max_fields, 12));
    this->header_limit(UINT32_MAX);  // HeadScanner has counted
    this->body_limit(boost::none);   // and the body is read by others
  }

  // No fault if the whole head was understood.
  std::optional<Fault> parse(ByteView bytes) {
    error_code error;
    const size_t used = this->put(boost::asio::buffer(bytes.data(), bytes.size()), error);
    if (fault_) return std::move(fault_);
    if (error) return from_beast(error);
    if (used != bytes.size() || !this->is_header_done()) return malformed("malformed message");
    return std::nullopt;
  }

  int version = 0;
  std::string_view method, target;  // of a request
  int status = 0;                   // of an answer
  Lengths lengths;
  int hosts = 0;
  bool expects_continue = false;

 private:
  void on_request_impl(http::verb, string_view m, string_view t, int v, error_code&) override {
    method = view(m);
    target = view(t);
    version = v;
  }
  void on_response_impl(int code, string_view, int v, error_code&) override {
    status = code;
    version = v;
  }
  void on_field_impl(http::field name, string_view text, string_view value,
                     error_code& error) override {
    fault_ = take_field(name, view(text), view(value));
    if (fault_) error = http::error::bad_value;
  }
  std::optional<Fault> take_field(http::field name, std::string_view text, std::string_view value) {
    if (headers_->fields().size() >= max_fields_) {
      return Fault{431, fmt::format("more than {} header fields", max_fields_)};
    }
    if (kIsRequest && stands_once(name, text) && headers_->get(text)) {
      return malformed(fmt::format("two {} fields", text));
    }
    headers_->add(std::string(text), std::string(value));
    if (name == http::field::unknown) return std::nullopt;
    if (name == http::field::host) ++hosts;
    if (kIsRequest && name == http::field::expect && version == 11) {
      if (!equal_ignoring_case(value, "100-continue")) {
        return Fault{417, "the only expectation understood here is 100-continue"};
      }
      expects_continue = true;
    }
    return lengths.take(name, value);
  }
  void on_header_impl(error_code&) override {}
  void on_body_init_impl(const boost::optional<uint64_t>&, error_code&) override {}
  size_t on_body_impl(string_view, error_code&) override { return 0; }
  void on_chunk_header_impl(uint64_t, string_view, error_code&) override {}
  size_t on_chunk_body_impl(uint64_t, string_view, error_code&) override { return 0; }
  void on_finish_impl(error_code&) override {}

  const size_t max_fields_;
  Headers* const headers_;
  std::optional<Fault> fault_;
};

// The last word of the first line, "HTTP/1.1"; Beast does not tell a version it does not know from
// one that is none.
bool is_other_version(ByteView head) {
  const std::string_view line = head.substr(0, head.find("\r\n"));
  const std::string_view word = line.substr(line.rfind(' ') + 1);
  const auto digit = [](char c) {
    return c >= '0' && c <= '9';
  };
  return word.size() == 8 && word.starts_with("HTTP/") && digit(word[5]) && word[6] == '.' &&
         digit(word[7]) && word != "HTTP/1.1" && word != "HTTP/1.0";
}

bool is_absolute(std::string_view target) {
  return equal_ignoring_case(target.substr(0, 7), "http://") ||
         equal_ignoring_case(target.substr(0, 8), "https://");
}

}  // namespace

Parsed<size_t> HeadScanner::scan(ByteView bytes) {
  for (;;) {
    const size_t end = bytes.find('\n', looked_);
    if (end == ByteView::npos) break;
    looked_ = end + 1;
    if (end == line_ || bytes[end - 1] != '\r') {
      return tl::unexpected(malformed("a line of the head ends with LF alone"));
    }
    const ByteView line = bytes.substr(line_, end - 1 - line_);
    const size_t begin = std::exchange(line_, end + 1);
    if (looked_ > max_bytes_) break;
    if (line.empty()) {
      if (begin > start_) return end + 1;
      start_ = end + 1;
      continue;
    }
    if (line.find('\r') != ByteView::npos || line.find('\0') != ByteView::npos) {
      return tl::unexpected(malformed("a CR or NUL inside the head"));
    }
    if (begin > start_ && (line.front() == ' ' || line.front() == '\t')) {
      return tl::unexpected(malformed("a folded header line"));
    }
  }
  if (bytes.size() > max_bytes_) {
    return tl::unexpected(Fault{431, fmt::format("the head is over {} bytes", max_bytes_)});
  }
  // Something else than HTTP (a TLS handshake, say) would otherwise wait for its line to end.
  if (bytes.size() > start_ && !is_token_char(bytes[start_]) && bytes[start_] != '\r') {
    return tl::unexpected(malformed("this is not HTTP"));
  }
  looked_ = bytes.size();
  return 0;
}

std::optional<Fault> parse_request_head(ByteView bytes, size_t max_fields, RequestHead* head,
                                        Reader reader) {
  if (is_other_version(bytes)) {
    head->request = guess_request(bytes);
    return Fault{505, "only HTTP/1.1 and HTTP/1.0 are spoken here"};
  }
  HttpRequest& request = head->request;
  HeadParser<true> parser(max_fields, &request.headers);
  auto fault = parser.parse(bytes);
  request.method = parser.method;
  request.target = parser.target;
  head->expects_continue = parser.expects_continue;
  if (fault) return fault;
  head->version = parser.version;
  head->persistence = parser.keep_alive() ? Persistence::kKeepAlive : Persistence::kClose;
  if (parser.lengths.chunked) {
    if (parser.version == 10) return malformed("Transfer-Encoding in an HTTP/1.0 request");
    head->framing = Framing::kChunked;
  } else if (parser.lengths.content_length) {
    head->framing = Framing::kSized;
    head->length = *parser.lengths.content_length;
  }
  if (reader == Reader::kProxy) return std::nullopt;
  if (parser.hosts != 1 && (parser.version == 11 || parser.hosts > 1)) {
    return malformed("exactly one Host field is needed");
  }
  if (request.method == "CONNECT") return Fault{501, "CONNECT is not offered here"};
  if (!request.target.starts_with('/') && !is_absolute(request.target) &&
      !(request.target == "*" && request.method == "OPTIONS")) {
    return malformed("the request's target is neither a path nor a URL");
  }
  return std::nullopt;
}

HttpRequest guess_request(ByteView bytes) {
  HttpRequest request;
  const std::string_view line = bytes.substr(0, bytes.find("\r\n"));
  const size_t first = line.find(' ');
  if (first == std::string_view::npos || !is_token(line.substr(0, first))) return request;
  request.method = line.substr(0, first);
  const std::string_view rest = line.substr(first + 1);
  const std::string_view target = rest.substr(0, rest.find(' '));
  if (is_field_value(target)) request.target = target;
  return request;
}

Parsed<ResponseHead> parse_response_head(ByteView bytes, size_t max_fields,
                                         std::string_view method) {
  ResponseHead head;
  HeadParser<false> parser(max_fields, &head.headers);
  if (auto fault = parser.parse(bytes)) return tl::unexpected(std::move(*fault));
  if (parser.status < 100) return tl::unexpected(malformed("a status below 100"));
  head.status = parser.status;
  head.version = parser.version;
  if (head.status < 200 || head.status == 204 || head.status == 304 || method == "HEAD") {
    head.framing = Framing::kNone;
  } else if (parser.lengths.chunked) {
    head.framing = Framing::kChunked;
  } else if (parser.lengths.content_length) {
    head.framing = Framing::kSized;
    head.length = *parser.lengths.content_length;
  } else {
    head.framing = Framing::kUntilClose;
  }
  // Beast answers "no" as well when only the end of the connection ends the body.
  if (parser.keep_alive() && head.framing != Framing::kUntilClose) {
    head.persistence = Persistence::kKeepAlive;
  }
  return head;
}

Parsed<size_t> ChunkDecoder::decode(ByteView in, Bytes* out) {
  const ByteView all = in;
  while (!in.empty() && !done()) {
    if (state_ == State::kData) {
      const size_t n = std::min<uint64_t>(in.size(), chunk_);
      out->append(in.substr(0, n));
      in.remove_prefix(n);
      chunk_ -= n;
      if (chunk_ == 0) state_ = State::kDataEnd;
      continue;
    }
    const size_t end = in.find('\n');
    const size_t n = end == ByteView::npos ? in.size() : end + 1;
    if (line_.size() + n > kMaxFraming) {
      return tl::unexpected(malformed("a chunk's header is too long"));
    }
    line_.append(in.substr(0, n));
    in.remove_prefix(n);
    if (end == ByteView::npos) break;
    if (!line_.ends_with("\r\n")) {
      return tl::unexpected(malformed("a line between chunks ends with LF alone"));
    }
    if (auto fault = take_line(std::string_view(line_).substr(0, line_.size() - 2))) {
      return tl::unexpected(std::move(*fault));
    }
    line_.clear();
  }
  return all.size() - in.size();
}

std::optional<Fault> ChunkDecoder::take_line(std::string_view line) {
  if (!is_field_value(line)) return malformed("a control character between chunks");
  if (state_ == State::kDataEnd) {
    if (!line.empty()) return malformed("a chunk is longer than it said");
    state_ = State::kSize;
  } else if (state_ == State::kSize) {
    size_t digits = 0;
    uint64_t size = 0;
    for (; digits < line.size() && digits < 17; ++digits) {
      const int digit = hex_digit(line[digits]);
      if (digit < 0) break;
      size = size * 16 + static_cast<uint64_t>(digit);
    }
    if (digits == 0 || digits == 17 || (digits < line.size() && line[digits] != ';')) {
      return malformed("a chunk's size is not a number");
    }
    if (has_open_quote(line)) return malformed("a chunk's extension ends inside quotes");
    if (size > left_) return Fault{413, fmt::format("the body is over {} bytes", max_)};
    left_ -= size;
    chunk_ = size;
    state_ = size > 0 ? State::kData : State::kTrailer;
  } else if (line.empty()) {
    state_ = State::kDone;
  } else {
    trailers_ += line.size();
    if (trailers_ > kMaxFraming) return malformed("the trailers are too long");
    const std::string_view name = line.substr(0, line.find(':'));
    if (name.size() == line.size() || !is_token(name)) return malformed("a malformed trailer");
    for (const char* framing : {"Content-Length", "Transfer-Encoding"}) {
      if (equal_ignoring_case(name, framing)) return malformed("a trailer that frames the body");
    }
  }
  return std::nullopt;
}

bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), is_token_char);
}

bool lists(std::string_view field, std::string_view wanted) {
  while (!field.empty()) {
    const size_t comma = field.find(',');
    std::string_view item = field.substr(0, comma);
    field = comma == std::string_view::npos ? std::string_view() : field.substr(comma + 1);
    item.remove_prefix(std::min(item.find_first_not_of(" \t"), item.size()));
    item = item.substr(0, item.find_last_not_of(" \t") + 1);
    if (!item.empty() && equal_ignoring_case(item, wanted)) return true;
  }
  return false;
}

bool is_field_value(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](char c) {
    const auto octet = static_cast<unsigned char>(c);
    return (octet < 0x20 && c != '\t') || octet == 0x7F;
  });
}

void append_status_line(Bytes& out, int status) {
  const auto reason = http::obsolete_reason(http::int_to_status(static_cast<unsigned>(status)));
  fmt::format_to(std::back_inserter(out), "HTTP/1.1 {} {}\r\n", status,
                 reason.starts_with('<') ? std::string_view("Unknown") : view(reason));
}

Result<void> append_fields(Bytes& out, const Headers& headers) {
  for (const auto& [name, value] : headers.fields()) {
    if (!is_token(name) || !is_field_value(value)) {
      return Error(ErrorCode::kInternal,
                   fmt::format("the header field {} cannot be written", to_valid_utf8(name)));
    }
    if (equal_ignoring_case(name, "Content-Length") ||
        equal_ignoring_case(name, "Transfer-Encoding")) {
      return Error(ErrorCode::kInternal, "the body's framing is not the caller's: " + name);
    }
    if (equal_ignoring_case(name, "Connection")) continue;
    out.append(name).append(": ").append(value).append("\r\n");
  }
  return {};
}

}  // namespace sluice::net::wire
