#include "sluice/net/http_wire.h"

#include <gtest/gtest.h>

namespace sluice::net::wire {
namespace {

using namespace std::string_literals;

constexpr size_t kMaxHead = 4096;
constexpr size_t kMaxFields = 10;

struct Request {
  RequestHead head;
  int status = 0;  // of the fault, 0 if none
  std::string message;
};

Request parse(ByteView bytes, Reader reader = Reader::kServer) {
  Request out;
  HeadScanner scanner(kMaxHead);
  const auto size = scanner.scan(bytes);
  if (!size) {
    out.status = size.error().status;
    out.message = size.error().message;
    return out;
  }
  EXPECT_GT(*size, 0u) << "incomplete: " << bytes;
  if (*size == 0) return out;
  const ByteView head = bytes.substr(scanner.start(), *size - scanner.start());
  if (const auto fault = parse_request_head(head, kMaxFields, &out.head, reader)) {
    out.status = fault->status;
    out.message = fault->message;
  }
  return out;
}

TEST(HeadScannerTest, FindsTheEndHoweverItArrives) {
  const std::string head = "\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n";
  const std::string bytes = head + "body\n\r\n\r\n";
  for (size_t cut = 0; cut <= bytes.size(); ++cut) {
    HeadScanner scanner(kMaxHead);
    const auto first = scanner.scan(ByteView(bytes).substr(0, cut));
    ASSERT_TRUE(first) << cut;
    EXPECT_EQ(*first, cut < head.size() ? 0 : head.size()) << cut;
    if (*first == 0) EXPECT_EQ(scanner.scan(bytes), head.size()) << cut;
    EXPECT_EQ(scanner.start(), 4u);
  }
}

TEST(HeadScannerTest, RefusesWhatTwoReadersCouldReadDifferently) {
  for (const std::string& bytes : {
           "GET / HTTP/1.1\nHost: x\r\n\r\n"s,
           "GET / HTTP/1.1\r\nHost: x\n\r\n"s,
           "GET / HTTP/1.1\r\nHost: x\r\n\n"s,
           "\nGET / HTTP/1.1\r\n\r\n"s,
           "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n"s,
           "GET / HTTP/1.1\r\nA: b\r\r\n\r\n"s,
           "GET / HTTP/1.1\r\nA: b\0c\r\n\r\n"s,
           "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n"s,
           "GET / HTTP/1.1\r\nA: b\r\n\tc\r\n\r\n"s,
           "GET / HTTP/1.1\r\n A: b\r\n\r\n"s,
       }) {
    HeadScanner scanner(kMaxHead);
    const auto size = scanner.scan(bytes);
    ASSERT_FALSE(size) << bytes;
    EXPECT_EQ(size.error().status, 400);
  }
}

TEST(HeadScannerTest, SaysAtOnceThatSomethingIsNotHttp) {
  HeadScanner scanner(kMaxHead);
  EXPECT_FALSE(scanner.scan("\x16\x03\x01\x02"));  // a TLS handshake
  HeadScanner spaces(kMaxHead);
  EXPECT_FALSE(spaces.scan(" GET"));
}

TEST(HeadScannerTest, TheLimitHoldsCompleteOrNot) {
  const std::string filler = "GET / HTTP/1.1\r\nA: " + std::string(kMaxHead, 'x');
  HeadScanner endless(kMaxHead);
  EXPECT_EQ(endless.scan(filler).error().status, 431);
  HeadScanner complete(kMaxHead);
  EXPECT_EQ(complete.scan(filler + "\r\n\r\n").error().status, 431);
  HeadScanner blank(16);
  EXPECT_EQ(blank.scan("\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n").error().status, 431);
  // A body behind the head does not count.
  const std::string fits = "GET / HTTP/1.1\r\n\r\n";
  HeadScanner exact(fits.size());
  EXPECT_EQ(exact.scan(fits + std::string(100, 'x')), fits.size());
  HeadScanner short_of(fits.size() - 1);
  EXPECT_EQ(short_of.scan(fits).error().status, 431);
}

TEST(RequestHeadTest, UnderstandsAnOrdinaryRequest) {
  const auto got =
      parse("POST /v1/chat?x=1 HTTP/1.1\r\nhost: h:80\r\nContent-Length:  12 \r\nX-A:\r\n\r\n");
  ASSERT_EQ(got.status, 0) << got.message;
  EXPECT_EQ(got.head.request.method, "POST");
  EXPECT_EQ(got.head.request.target, "/v1/chat?x=1");
  EXPECT_EQ(got.head.request.headers.get("Host"), "h:80");
  EXPECT_EQ(got.head.request.headers.get("x-a"), "");
  EXPECT_EQ(got.head.version, 11);
  EXPECT_EQ(got.head.framing, Framing::kSized);
  EXPECT_EQ(got.head.length, 12u);
  EXPECT_EQ(got.head.persistence, Persistence::kKeepAlive);
  EXPECT_FALSE(got.head.expects_continue);
}

TEST(RequestHeadTest, FramingPersistenceAndExpectation) {
  EXPECT_EQ(parse("GET / HTTP/1.1\r\nHost: h\r\n\r\n").head.framing, Framing::kNone);
  EXPECT_EQ(parse("PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n").head.framing,
            Framing::kChunked);
  EXPECT_EQ(parse("GET / HTTP/1.1\r\nHost: h\r\nConnection: foo, Close\r\n\r\n").head.persistence,
            Persistence::kClose);
  EXPECT_EQ(parse("GET / HTTP/1.0\r\n\r\n").head.persistence, Persistence::kClose);
  EXPECT_EQ(parse("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").head.persistence,
            Persistence::kKeepAlive);
  EXPECT_TRUE(
      parse("PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\n\r\n").head.expects_continue);
  EXPECT_FALSE(parse("PUT / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").head.expects_continue);
  EXPECT_EQ(parse("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").status, 0);
  EXPECT_EQ(parse("GET http://h/x HTTP/1.1\r\nHost: h\r\n\r\n").status, 0);
}

struct Bad {
  std::string bytes;
  int status;
};

TEST(RequestHeadTest, RefusesEveryOtherFormWithItsStatus) {
  const std::string host = "Host: h\r\n";
  for (const Bad& bad : std::vector<Bad>{
           // Lengths: one request must not look like two.
           {"POST / HTTP/1.1\r\n" + host + "Content-Length: 5\r\nContent-Length: 5\r\n\r\n", 400},
           {"POST / HTTP/1.1\r\n" + host + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400},
           {"POST / HTTP/1.1\r\n" + host + "Content-Length: 5, 5\r\n\r\n", 400},
           {"POST / HTTP/1.1\r\n" + host + "Content-Length: +5\r\n\r\n", 400},
           {"POST / HTTP/1.1\r\n" + host + "Content-Length: -5\r\n\r\n", 400},
           {"POST / HTTP/1.1\r\n" + host + "Content-Length: 0x5\r\n\r\n", 400},
           {"POST / HTTP/1.1\r\n" + host + "Content-Length: 5 5\r\n\r\n", 400},
           {"POST / HTTP/1.1\r\n" + host + "Content-Length:\r\n\r\n", 400},
           {"POST / HTTP/1.1\r\n" + host + "Content-Length: 99999999999999999999\r\n\r\n", 400},
           {"POST / HTTP/1.1\r\n" + host +
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            400},
           {"POST / HTTP/1.1\r\n" + host +
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
            400},
           {"POST / HTTP/1.1\r\n" + host +
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            400},
           {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
           {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n", 501},
           {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked, identity\r\n\r\n", 501},
           {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n", 501},
           {"POST / HTTP/1.1\r\n" + host +
                "Transfer-Encoding: \x0b"
                "chunked\r\n\r\n",
            400},
           {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding : chunked\r\n\r\n", 400},
           {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: \"chunked\"\r\n\r\n", 501},
           // What says who asks, and what a handshake answers to, once.
           {"GET / HTTP/1.1\r\n" + host + "Authorization: a\r\nauthorization: a\r\n\r\n", 400},
           {"GET / HTTP/1.1\r\n" + host + "X-Api-Key: a\r\nx-api-key: b\r\n\r\n", 400},
           {"GET / HTTP/1.1\r\n" + host + "x-goog-api-key: a\r\nx-goog-api-key: b\r\n\r\n", 400},
           {"GET / HTTP/1.1\r\n" + host + "Sec-WebSocket-Key: a\r\nSec-WebSocket-Key: b\r\n\r\n",
            400},
           {"GET / HTTP/1.1\r\n" + host +
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 8\r\n\r\n",
            400},
           // Fields.
           {"GET / HTTP/1.1\r\n" + host + "A : b\r\n\r\n", 400},
           {"GET / HTTP/1.1\r\n" + host + ": b\r\n\r\n", 400},
           {"GET / HTTP/1.1\r\n" + host + "no colon\r\n\r\n", 400},
           {"GET / HTTP/1.1\r\n" + host + "A(: b\r\n\r\n", 400},
           {"GET / HTTP/1.1\r\n" + host + "A: \x01\r\n\r\n", 400},
           {"GET / HTTP/1.1\r\n" + host + "A: \x7f\r\n\r\n", 400},
           {"GET / HTTP/1.1\r\n\r\n", 400},
           {"GET / HTTP/1.1\r\n" + host + host + "\r\n", 400},
           {"GET / HTTP/1.0\r\n" + host + host + "\r\n", 400},
           {"GET / HTTP/1.1\r\n" + host + "Expect: 200-ok\r\n\r\n", 417},
           {"GET / HTTP/1.1\r\n" + host +
                "A: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: "
                "1\r\nA: 1\r\nA: 1\r\nA: 1\r\n\r\n",
            431},
           // The request line.
           {"GET  / HTTP/1.1\r\n" + host + "\r\n", 400},
           {"GET /a b HTTP/1.1\r\n" + host + "\r\n", 400},
           {"GET /\r\n" + host + "\r\n", 400},
           {"GET\r\n" + host + "\r\n", 400},
           {"GET / HTTP/1.1 \r\n" + host + "\r\n", 400},
           {"GET / http/1.1\r\n" + host + "\r\n", 400},
           {"GET / HTTP/1.12\r\n" + host + "\r\n", 400},
           {"GET / HTTP/2.0\r\n" + host + "\r\n", 505},
           {"GET / HTTP/1.2\r\n" + host + "\r\n", 505},
           {"GET / HTTP/0.9\r\n" + host + "\r\n", 505},
           {"PRI * HTTP/2.0\r\n\r\n", 505},
           {"G(T / HTTP/1.1\r\n" + host + "\r\n", 400},
           {"GET path HTTP/1.1\r\n" + host + "\r\n", 400},
           {"GET * HTTP/1.1\r\n" + host + "\r\n", 400},
           {"GET ftp://h/ HTTP/1.1\r\n" + host + "\r\n", 400},
           {"GET /\x01 HTTP/1.1\r\n" + host + "\r\n", 400},
           {"CONNECT h:443 HTTP/1.1\r\n" + host + "\r\n", 501},
       }) {
    const auto got = parse(bad.bytes);
    EXPECT_EQ(got.status, bad.status) << bad.bytes << got.message;
    EXPECT_TRUE(is_field_value(got.message)) << got.message;
  }
}

TEST(RequestHeadTest, AProxyTakesAnyTargetAndNoOtherGrammar) {
  const auto tunnel = parse("CONNECT h:443 HTTP/1.1\r\nX: y\r\n\r\n", Reader::kProxy);
  EXPECT_EQ(tunnel.status, 0) << tunnel.message;
  EXPECT_EQ(tunnel.head.request.method, "CONNECT");
  EXPECT_EQ(tunnel.head.request.target, "h:443");
  const auto plain = parse("PUT http://h/x HTTP/1.0\r\nContent-Length: 3\r\n\r\n", Reader::kProxy);
  EXPECT_EQ(plain.status, 0) << plain.message;
  EXPECT_EQ(plain.head.length, 3U);
  for (const char* bad :
       {"CONNECT h:443 HTTP/2.0\r\n\r\n", "CONNECT h:443 HTTP/1.1\r\nX : y\r\n\r\n",
        "CONNECT h:443 HTTP/1.1\r\nX: y\r\n z\r\n\r\n", "CONNECT\r\n\r\n"}) {
    EXPECT_NE(parse(bad, Reader::kProxy).status, 0) << bad;
  }
}

TEST(RequestHeadTest, WhatIsUnderstoodBeforeAFaultIsKept) {
  const auto got = parse("POST /rollout/7 HTTP/1.1\r\nHost: h\r\nA : b\r\n\r\n");
  EXPECT_EQ(got.status, 400);
  EXPECT_EQ(got.head.request.method, "POST");
  EXPECT_EQ(got.head.request.target, "/rollout/7");
  EXPECT_EQ(got.head.request.headers.get("host"), "h");
}

TEST(GuessRequestTest, TakesWhatCanBeTold) {
  EXPECT_EQ(guess_request("POST /x HTTP/1.1\r\nA: ").target, "/x");
  EXPECT_EQ(guess_request("POST /long").method, "POST");
  EXPECT_EQ(guess_request("POST").method, "");
  EXPECT_EQ(guess_request("").target, "");
  EXPECT_EQ(guess_request("P\x01T /x HTTP/1.1\r\n").method, "");
}

Parsed<ResponseHead> answer(ByteView bytes, std::string_view method = "GET") {
  return parse_response_head(bytes, kMaxFields, method);
}

TEST(ResponseHeadTest, FramingByStatusMethodAndFields) {
  EXPECT_EQ(answer("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")->length, 3u);
  EXPECT_EQ(answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")->framing,
            Framing::kChunked);
  EXPECT_EQ(answer("HTTP/1.1 200 OK\r\n\r\n")->framing, Framing::kUntilClose);
  EXPECT_EQ(answer("HTTP/1.1 200 OK\r\n\r\n")->persistence, Persistence::kClose);
  for (const char* none : {"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n",
                           "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
                           "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 204 \r\n\r\n"}) {
    EXPECT_EQ(answer(none)->framing, Framing::kNone) << none;
    EXPECT_EQ(answer(none)->persistence, Persistence::kKeepAlive) << none;
  }
  EXPECT_EQ(answer("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HEAD")->framing,
            Framing::kNone);
  EXPECT_EQ(answer("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n")->persistence,
            Persistence::kClose);
  EXPECT_EQ(
      answer("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n")->persistence,
      Persistence::kClose);
}

TEST(ResponseHeadTest, RefusesBrokenOnes) {
  for (const char* bad :
       {"HTTP/2 200 OK\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 099 Low\r\n\r\n", "ICY 200 OK\r\n\r\n", "HTTP/1.1 200 O\x01K\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n"}) {
    EXPECT_FALSE(answer(bad)) << bad;
  }
}

struct Decoded {
  Bytes body;
  int status = 0;
  size_t used = 0;
  bool done = false;
};

Decoded decode(ByteView in, size_t step, uint64_t max = 1000) {
  Decoded out;
  ChunkDecoder decoder(max);
  for (size_t at = 0; at < in.size() && !decoder.done(); at += step) {
    const auto used = decoder.decode(in.substr(at, step), &out.body);
    if (!used) {
      out.status = used.error().status;
      return out;
    }
    out.used += *used;
  }
  out.done = decoder.done();
  return out;
}

TEST(ChunkDecoderTest, DecodesHoweverItArrivesAndStopsAtTheEnd) {
  const std::string in =
      "5\r\nhello\r\n1;ext=\"a;b\";x\r\n \r\n00A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n";
  for (size_t step = 1; step <= in.size(); ++step) {
    const Decoded got = decode(in, step);
    EXPECT_EQ(got.status, 0) << step;
    EXPECT_EQ(got.body, "hello 0123456789") << step;
    EXPECT_TRUE(got.done) << step;
    EXPECT_EQ(got.used, in.size()) << step;
  }
  const Decoded next = decode("0\r\n\r\nGET / HTTP/1.1", 1000);
  EXPECT_TRUE(next.done);
  EXPECT_EQ(next.used, 5u);
}

TEST(ChunkDecoderTest, RefusesBadSizesAndBreaks) {
  for (const std::string& in : {
           "5\nhello\r\n0\r\n\r\n"s,
           "5\r\nhello\n0\r\n\r\n"s,
           "5\r\nhelloX\r\n0\r\n\r\n"s,
           "5 \r\nhello\r\n0\r\n\r\n"s,
           " 5\r\nhello\r\n0\r\n\r\n"s,
           "+5\r\nhello\r\n0\r\n\r\n"s,
           "-5\r\nhello\r\n0\r\n\r\n"s,
           "0x5\r\nhello\r\n0\r\n\r\n"s,
           "\r\n\r\n\r\n"s,
           "g\r\nhello\r\n0\r\n\r\n"s,
           "5;\nx\r\nhello\r\n0\r\n\r\n"s,
           "5;a=\"\r\nhello\r\n0\r\n\r\n\"\r\n"s,
           "5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n"s,
           "5\r\nhello\r\n0\r\nbroken\r\n\r\n"s,
           "11111111111111111\r\n"s,
           "5\rhello\r\n"s,
           "5\0\r\nhello\r\n0\r\n\r\n"s,
           "0\r\n folded: x\r\n\r\n"s,
           "0\r\nA : b\r\n\r\n"s,
           "0\r\nTransfer-Encoding: x\r\n\r\n"s,
           "00000000000000005\r\nhello\r\n0\r\n\r\n"s,
           "5;\x01\r\nhello\r\n0\r\n\r\n"s,
           "5\r\r\nhello\r\n0\r\n\r\n"s,
       }) {
    for (const size_t step : {size_t{1}, in.size()}) {
      const Decoded got = decode(in, step);
      EXPECT_NE(got.status, 0) << in;
      EXPECT_FALSE(got.done) << in;
    }
  }
}

TEST(ChunkDecoderTest, TheBodyIsLimitedByWhatIsAnnounced) {
  EXPECT_EQ(decode("3e8\r\n" + std::string(1000, 'x') + "\r\n0\r\n\r\n", 7).body.size(), 1000u);
  const Decoded one = decode("3e9\r\n", 1000);
  EXPECT_EQ(one.status, 413);
  EXPECT_EQ(decode("3e8\r\n" + std::string(1000, 'x') + "\r\n1\r\n", 7).status, 413);
  EXPECT_EQ(decode("ffffffffffffffff\r\n", 1000).status, 413);
}

TEST(ChunkDecoderTest, EndlessExtensionsAndTrailersAreCutOff) {
  const std::string filler(ChunkDecoder::kMaxFraming, 'x');
  EXPECT_EQ(decode("1;" + filler, 100).status, 400);
  EXPECT_EQ(decode("0\r\nA: " + filler, 100).status, 400);
  std::string trailers = "0\r\n";
  for (int i = 0; i < 1000; ++i) trailers += "A: 0123456789\r\n";
  EXPECT_EQ(decode(trailers, 100).status, 400);
}

TEST(ListTest, AFieldListsItsWordsWithoutCase) {
  EXPECT_TRUE(lists("Upgrade, keep-alive", "upgrade"));
  EXPECT_TRUE(lists(" x ,\tupgrade\t", "Upgrade"));
  EXPECT_FALSE(lists("upgraded, up grade", "upgrade"));
  EXPECT_FALSE(lists("", "upgrade"));
  EXPECT_FALSE(lists(", ,\t", ""));
}

TEST(WriteTest, StatusLinesAndFields) {
  Bytes out;
  append_status_line(out, 200);
  append_status_line(out, 431);
  append_status_line(out, 298);
  EXPECT_EQ(out,
            "HTTP/1.1 200 OK\r\nHTTP/1.1 431 Request Header Fields Too Large\r\n"
            "HTTP/1.1 298 Unknown\r\n");
  out.clear();
  ASSERT_TRUE(append_fields(out, {{"A", "b c\t\xC3\xA9"}, {"connection", "close"}, {"D", ""}}));
  EXPECT_EQ(out, "A: b c\t\xC3\xA9\r\nD: \r\n");
}

TEST(WriteTest, NothingCanBeSmuggledOutThroughAField) {
  for (const Headers::Field& bad : std::vector<Headers::Field>{{"A", "b\r\nInjected: x"},
                                                               {"A", "b\n"},
                                                               {"A", "b\r"},
                                                               {"A", "b\0"s},
                                                               {"A\r\nB", "c"},
                                                               {"A:", "b"},
                                                               {"", "b"},
                                                               {"A b", "c"},
                                                               {"Content-Length", "5"},
                                                               {"transfer-encoding", "chunked"},
                                                               {"A", "\x7f"}}) {
    Bytes out;
    const auto written = append_fields(out, Headers{bad});
    ASSERT_FALSE(written) << bad.first;
    EXPECT_EQ(written.error().code, ErrorCode::kInternal);
  }
}

}  // namespace
}  // namespace sluice::net::wire
