// Clients that mean harm: each gets a clear error or a closed connection, none reaches a policy or
// a trainer, and a well-behaved call is answered as ever. (Slow ones, which take time, are in
// net/http_server_test.cc.)
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/gate/testing.h"

namespace sluice::gate {
namespace {

using ::testing::HasSubstr;

constexpr size_t kLimit = 16 * 1024 * 1024;

std::string post(std::string_view path, std::string_view headers, std::string_view body) {
  return "POST " + std::string(path) + " HTTP/1.1\r\nHost: gate\r\n" + std::string(headers) +
         "\r\n" + std::string(body);
}
std::string sized(std::string_view body, std::string_view path = "/v1/chat/completions") {
  return post(path, "Content-Length: " + std::to_string(body.size()) + "\r\n", body);
}
std::string repeat(std::string_view text, size_t times) {
  std::string out;
  out.reserve(text.size() * times);
  for (size_t i = 0; i < times; ++i) out += text;
  return out;
}

constexpr std::string_view kGood = R"({"model":"m","messages":[{"role":"user","content":"x"}]})";

struct Attack {
  const char* name;
  std::function<std::string()> bytes;
  int status;  // 0: the connection is closed without an answer
};

void PrintTo(const Attack& attack, std::ostream* out) {
  *out << attack.name;
}

const Attack kAttacks[] = {
    {"header_too_large",
     [] { return post("/v1/chat/completions", "X: " + std::string(70'000, 'x') + "\r\n", ""); },
     431},
    {"too_many_headers", [] { return post("/", repeat("X: y\r\n", 200), ""); }, 431},
    {"target_too_long", [] { return "GET /" + std::string(70'000, 'a') + " HTTP/1.1\r\n\r\n"; },
     431},
    {"header_without_colon", [] { return post("/v1/models", "no colon here\r\n", ""); }, 400},
    {"folded_header", [] { return post("/v1/models", "X: a\r\n b\r\n", ""); }, 400},
    {"space_before_colon", [] { return post("/v1/models", "Content-Length : 5\r\n", "hello"); },
     400},
    {"nul_in_header", [] { return post("/v1/models", std::string("X: a\0b\r\n", 8), ""); }, 400},
    {"not_http",
     [] {
       constexpr char kHello[] = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n";
       return std::string(kHello, sizeof kHello - 1);
     },
     400},
    {"old_version", [] { return std::string("GET / HTTP/0.9\r\n\r\n"); }, 505},
    {"smuggling_both_lengths",
     [] {
       return post("/v1/chat/completions", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
                   "0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: gate\r\n\r\n");
     },
     400},
    {"smuggling_two_lengths",
     [] {
       return post("/v1/chat/completions", "Content-Length: 4\r\nContent-Length: 40\r\n", "abcd");
     },
     400},
    {"smuggling_odd_encoding",
     [] { return post("/v1/chat/completions", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"); },
     501},
    {"length_not_a_number",
     [] { return post("/v1/chat/completions", "Content-Length: 5x\r\n", "hello"); }, 400},
    {"length_negative",
     [] { return post("/v1/chat/completions", "Content-Length: -1\r\n", "hello"); }, 400},
    {"length_overflows",
     [] {
       return post("/v1/chat/completions", "Content-Length: 99999999999999999999999\r\n", "x");
     },
     400},
    {"bad_chunk_size",
     [] {
       return post("/v1/chat/completions", "Transfer-Encoding: chunked\r\n", "zz\r\nhello\r\n");
     },
     400},
    {"chunk_without_end",
     [] {
       return post("/v1/chat/completions", "Transfer-Encoding: chunked\r\n", "5\r\nhelloXX0\r\n");
     },
     400},
    {"body_one_byte_too_large", [] { return sized(std::string(kLimit + 1, ' ')); }, 413},
    {"body_said_to_be_huge",
     [] { return post("/v1/chat/completions", "Content-Length: 999999999999\r\n", "{"); }, 413},
    {"deep_json",
     [] {
       return sized(R"({"model":"m","messages":[{"role":"user","content":)" + repeat("[", 100'000) +
                    repeat("]", 100'000) + "}]}");
     },
     400},
    {"deep_canonical_json", [] { return sized(repeat("{\"messages\":", 5000)); }, 400},
    {"not_utf8", [] { return sized("{\"model\":\"\xff\",\"messages\":[{\"role\":\"user\"}]}"); },
     400},
    {"twice_the_same_field",
     [] { return sized(R"({"model":"m","messages":[{}],"messages":[{}]})"); }, 400},
    {"another_rollout", [] { return sized(kGood, "/rollout/r1/v1/chat/completions"); }, 404},
    {"another_rollout_encoded", [] { return sized(kGood, "/rollout/r%31/v1/chat/completions"); },
     404},
    {"out_of_its_rollout", [] { return sized(kGood, "/rollout/r0/../r1/v1/chat/completions"); },
     404},
    {"broken_escape", [] { return sized(kGood, "/rollout/r0/v1/chat/%zz"); }, 404},
    {"the_trainers_api", [] { return sized("{}", "/v1/next_batch"); }, 404},
    {"compressed_bomb",
     [] {
       return post("/v1/chat/completions", "Content-Encoding: gzip\r\nContent-Length: 2\r\n", "xx");
     },
     415},
    {"connect_through", [] { return std::string("CONNECT 10.0.0.1:80 HTTP/1.1\r\n\r\n"); }, 400},
};

class HostileTest : public testing::GateFixture, public ::testing::WithParamInterface<Attack> {
 protected:
  // As sockets do, in pieces; what is refused early is not read to its end.
  static net::awaitable<void> send(net::MemoryStream* stream, std::string bytes) {
    const auto written = co_await stream->write_all(as_byte_span(bytes));
    (void)written;
  }
};

TEST_P(HostileTest, IsToldOrClosedAndHarmsNobody) {
  open();
  testing::Agent hostile(shard_, *listener_);
  shard_.spawn(send(&hostile.stream(), GetParam().bytes()));
  if (GetParam().status == 0) {
    hostile.wait_until_closed();
  } else {
    const auto response = hostile.response();
    EXPECT_EQ(response.status, GetParam().status) << response.body;
    EXPECT_THAT(response.body, HasSubstr("error"));
    // Nothing that followed in the same bytes was taken for a request of its own.
    testing::settle(shard_);
    EXPECT_EQ(hostile.seen().find("HTTP/1.1 200"), std::string::npos);
  }
  EXPECT_EQ(counters().calls, 0u);
  EXPECT_FALSE(a_call_waits());

  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_EQ(answer_next("as ever"), llm::Outcome::kDelivered);
  EXPECT_THAT(agent.response().body, HasSubstr("as ever"));
  hostile.reset();
  testing::settle(shard_);
}

INSTANTIATE_TEST_SUITE_P(Attacks, HostileTest, ::testing::ValuesIn(kAttacks),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace sluice::gate
