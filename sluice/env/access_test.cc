#include "sluice/env/access.h"

#include <gtest/gtest.h>

namespace sluice::env {
namespace {

using Reach = Access::Reach;

constexpr const char* kKey = "0123456789abcdef-key";

Access make(AccessOptions options) {
  auto access = Access::make(std::move(options));
  EXPECT_TRUE(access) << access.error().message;
  return *access;
}

int status(const Access& access, net::Headers headers, Reach reach = Reach::kLoopback,
           std::string target = "/step") {
  const net::HttpRequest request{"POST", std::move(target), std::move(headers), {}};
  const auto refusal = access.check(request, reach);
  return refusal ? refusal->status : 200;
}

TEST(Access, knows_loopback_from_what_looks_like_it) {
  for (const char* address : {"127.0.0.1:8000", "127.9.8.7", "[::1]:80", "localhost", "LOCALHOST:1",
                              "a.localhost:9", "unix", "localhost."}) {
    EXPECT_TRUE(is_loopback(address)) << address;
  }
  for (const char* address :
       {"0.0.0.0:8000", "[::]:80", "10.0.0.1:1", "127.evil.example:80", "127.0.0.1.evil.example",
        "localhost.evil.example", "example.com", "evil-localhost", "", "[::1"}) {
    EXPECT_FALSE(is_loopback(address)) << address;
  }
}

TEST(Access, a_listener_beyond_loopback_needs_a_key_or_plain_words) {
  EXPECT_TRUE(make({}).check_listener("127.0.0.1:8000"));
  const auto refused = make({}).check_listener("0.0.0.0:8000");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kFailedPrecondition);
  AccessOptions with_key;
  with_key.keys = {kKey};
  EXPECT_TRUE(make(with_key).check_listener("0.0.0.0:8000"));
  AccessOptions off;
  off.policy = KeyPolicy::kOff;
  EXPECT_TRUE(make(off).check_listener("0.0.0.0:8000"));
}

TEST(Access, refuses_keys_that_are_none) {
  for (const char* key : {"", "short", "has spaces in it, many of them", "0123456789abcde\n0"}) {
    AccessOptions options;
    options.keys = {key};
    const auto access = Access::make(options);
    ASSERT_FALSE(access) << key;
    EXPECT_EQ(access.error().message.find("0123456789"), std::string::npos);
  }
}

TEST(Access, asks_for_a_key_everywhere_but_at_the_health_page) {
  AccessOptions options;
  options.keys = {"another-key-of-sixteen", kKey};
  const Access access = make(options);
  EXPECT_EQ(status(access, {}), 401);
  EXPECT_EQ(status(access, {}, Reach::kLoopback, "/health"), 200);
  EXPECT_EQ(status(access, {}, Reach::kLoopback, "/health/x"), 401);
  EXPECT_EQ(status(access, {{"Content-Length", "9"}}, Reach::kLoopback, "/health"), 401);
  EXPECT_EQ(status(access, {{"Authorization", std::string("Bearer ") + kKey}}), 200);
  EXPECT_EQ(status(access, {{"authorization", std::string("bearer  ") + kKey}}), 200);
  EXPECT_EQ(status(access, {{"Authorization", std::string("Bearer ") + kKey + "x"}}), 401);
  EXPECT_EQ(status(access, {{"Authorization", "Bearer "}}), 401);
  EXPECT_EQ(status(access, {{"Authorization", kKey}}), 401);
  EXPECT_EQ(status(access, {{"Authorization", "Basic " + to_base64(std::string("user:") + kKey)}}),
            200);
  EXPECT_EQ(status(access, {{"Authorization", "Basic " + to_base64(std::string(kKey) + ":user")}}),
            401);
  EXPECT_EQ(status(access, {{"Authorization", "Basic %%%"}}), 401);
  options.policy = KeyPolicy::kOff;
  EXPECT_EQ(status(make(options), {}), 200);
}

TEST(Access, each_key_is_a_client_of_its_own) {
  AccessOptions options;
  options.keys = {"another-key-of-sixteen", kKey};
  const Access access = make(options);
  const auto client = [](const Access& of, const std::string& header) {
    net::HttpRequest request;
    request.headers.add("Authorization", header);
    return of.client_of(request);
  };
  const std::string one = client(access, "Bearer another-key-of-sixteen");
  const std::string other = client(access, std::string("Bearer ") + kKey);
  EXPECT_NE(one, other);
  EXPECT_NE(one, "");
  EXPECT_EQ(client(access, "Basic " + to_base64(std::string("user:") + kKey)), other);
  EXPECT_EQ(one.find("another"), std::string::npos) << "it is no key";
  options.policy = KeyPolicy::kOff;
  EXPECT_EQ(client(make(options), std::string("Bearer ") + kKey), "");
  EXPECT_EQ(client(make({}), std::string("Bearer ") + kKey), "");
}

TEST(Access, refuses_foreign_pages_and_foreign_names_for_loopback) {
  AccessOptions options;
  options.allowed_origins = {"https://trainer.example.com"};
  options.allowed_hosts = {"box.internal"};
  const Access access = make(options);
  const net::Headers::Field local{"Host", "127.0.0.1:8000"};
  EXPECT_EQ(status(access, {local}), 200);
  EXPECT_EQ(status(access, {local, {"Origin", "http://127.0.0.1:8000"}}), 200);
  EXPECT_EQ(status(access, {local, {"Origin", "http://localhost:3000"}}), 200);
  EXPECT_EQ(status(access, {local, {"Origin", "https://evil.example"}}), 403);
  EXPECT_EQ(status(access, {local, {"Origin", "null"}}), 403);
  EXPECT_EQ(status(access, {local, {"Origin", ""}}), 403);
  EXPECT_EQ(status(access, {local, {"Origin", "http://127.0.0.1.evil.example"}}), 403);
  EXPECT_EQ(status(access, {local, {"Origin", "https://Trainer.example.com"}}), 200);
  // Rebound: the page's own name, which points here.
  EXPECT_EQ(status(access, {{"Host", "evil.example:8000"}, {"Origin", "http://evil.example:8000"}}),
            403);
  EXPECT_EQ(status(access, {{"Host", "evil.example:8000"}}), 403);
  EXPECT_EQ(status(access, {{"Host", "box.internal:8000"}}), 200);
}

TEST(Access, a_public_server_takes_pages_of_its_own_origin_only) {
  AccessOptions options;
  options.policy = KeyPolicy::kOff;
  const Access access = make(options);
  const auto at = [&](const char* host, const char* origin) {
    return status(access, {{"Host", host}, {"Origin", origin}}, Reach::kAnywhere);
  };
  EXPECT_EQ(at("env.example.com", "https://env.example.com"), 200);
  EXPECT_EQ(at("env.example.com:443", "https://env.example.com"), 200);
  EXPECT_EQ(at("env.example.com:8000", "http://env.example.com:8000"), 200);
  EXPECT_EQ(at("env.example.com:8000", "http://env.example.com"), 403);
  EXPECT_EQ(at("env.example.com", "https://evil.example"), 403);
  EXPECT_EQ(at("env.example.com", "http://localhost:3000"), 403);
}

}  // namespace
}  // namespace sluice::env
