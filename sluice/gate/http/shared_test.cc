// One listener for agents of many rollouts: whose key opens what.
#include "sluice/gate/http/shared.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "sluice/gate/testing.h"
#include "sluice/trace/jsonl.h"
#include "sluice/trace/reader.h"

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::Not;

class SharedTest : public ::testing::Test {
 protected:
  SharedTest() : gate_(make_gate({})), shared_(shard_, gate_.for_operator, options()) {
    auto listener = std::make_unique<net::MemoryListener>(shard_);
    listener_ = listener.get();
    shared_.serve(std::move(listener));
  }
  ~SharedTest() override { net::testing::run(shard_, shared_.stop(Deadline::in(1s))); }

  http::SharedEndpoint::Options options() {
    http::SharedEndpoint::Options options;
    options.max_rollouts = 3;
    options.rollout_connections = 4;
    options.clock = [this] {
      return now_;
    };
    return options;
  }

  http::SharedEndpoint::Opened open(const std::string& id, Duration lifetime = 1h) {
    Registration registration;
    registration.id = {id};
    registration.policy = testing::answering("for " + id);
    registration.dialects = {llm::Dialect::kChat, llm::Dialect::kMessages, llm::Dialect::kGemini};
    registration.origins.tokens = OriginRule::Tokens::kWaived;
    registration.budget = {.calls = 0, .open_calls = 0, .calls_per_second = 0};
    return *shared_.open(std::move(registration), lifetime);
  }

  testing::Response ask(const std::string& path, const std::string& headers) {
    testing::Agent agent(shard_, *listener_);
    agent.post(path, kBody, headers);
    return agent.response();
  }
  static std::string bearer(const std::string& key) {
    return "Authorization: Bearer " + key + "\r\n";
  }

  static constexpr std::string_view kBody =
      R"({"model":"m","max_tokens":1,"messages":[{"role":"user","content":"x"}],"contents":[{}]})";

  net::Shard shard_;
  RolloutKeys::Time now_{1'800'000'000s};
  Handles gate_;
  http::SharedEndpoint shared_;
  net::MemoryListener* listener_ = nullptr;
};

TEST_F(SharedTest, AKeyOpensItsRolloutInEveryWayItsVendorsClientsSendIt) {
  const auto a = open("a"), b = open("b");
  EXPECT_THAT(ask("/rollout/a/v1/chat/completions", bearer(a.key)).body, HasSubstr("for a"));
  EXPECT_THAT(ask("/rollout/b/v1/chat/completions", bearer(b.key)).body, HasSubstr("for b"));
  // The key alone says whose it is.
  EXPECT_THAT(ask("/v1/chat/completions", bearer(b.key)).body, HasSubstr("for b"));
  EXPECT_THAT(ask("/v1/messages", "x-api-key: " + a.key + "\r\n").body, HasSubstr("for a"));
  EXPECT_THAT(ask("/v1beta/models/m:generateContent", "x-goog-api-key: " + a.key + "\r\n").body,
              HasSubstr("for a"));
  EXPECT_THAT(ask("/v1beta/models/m:generateContent?alt=sse&key=" + a.key, "").body,
              HasSubstr("for a"));
}

// Agents show what they have: a key of another service, an old one of ours, ours.
TEST_F(SharedTest, WhicheverKeyFitsCountsWhateverIsShownBesideIt) {
  const auto a = open("a"), b = open("b", 10s);
  const std::string right[] = {bearer(a.key), "authorization: bearer " + a.key + "\r\n",
                               "Authorization: BEARER   " + a.key + "\r\n",
                               "x-api-key: " + a.key + "\r\n", "x-goog-api-key: " + a.key + "\r\n"};
  const auto name_of = [](const std::string& field) {
    return field.substr(0, field.find(':'));
  };
  const std::pair<std::string, std::string> paths[] = {
      {"/v1/chat/completions", ""},
      {"/v1/messages", "anthropic-version: 2023-06-01\r\n"},
      {"/v1beta/models/m:generateContent", ""}};
  for (const std::string& key : {std::string("some-other-services-token"), a.key + "0", b.key}) {
    if (key == b.key) now_ += 10s;  // which is over
    for (const std::string& field : right) {
      for (const std::string name :
           {"Authorization: Bearer", "Authorization: Basic", "x-api-key:", "x-goog-api-key:"}) {
        std::string beside = name + " " + key + "\r\n";
        if (net::equal_ignoring_case(name_of(beside), name_of(field))) beside.clear();
        for (const auto& [path, more] : paths) {
          for (const std::string base : {"", "/rollout/a"}) {
            EXPECT_THAT(ask(base + path + "?key=" + key, more + beside + field).body,
                        HasSubstr("for a"))
                << base << path << " " << beside << field;
          }
        }
      }
    }
    for (const auto& [path, more] : paths) {
      EXPECT_THAT(
          ask(path + "?key=" + a.key, more + bearer(key) + "x-api-key: " + key + "\r\n").body,
          HasSubstr("for a"))
          << path;
    }
  }
  EXPECT_EQ(ask("/v1/chat/completions?key=x", bearer("x") + "x-api-key: x\r\n").status, 401);
}

TEST_F(SharedTest, OfTwoGoodKeysThatOfThePathsRolloutCounts) {
  const auto a = open("a"), b = open("b");
  const std::string keys = bearer(a.key) + "x-api-key: " + b.key + "\r\n";
  EXPECT_THAT(ask("/rollout/a/v1/chat/completions", keys).body, HasSubstr("for a"));
  EXPECT_THAT(ask("/rollout/b/v1/chat/completions", keys).body, HasSubstr("for b"));
  EXPECT_THAT(ask("/v1/chat/completions", keys).body, HasSubstr("for a"));
  EXPECT_EQ(ask("/rollout/z/v1/chat/completions", keys).status, 404);
  EXPECT_TRUE(net::testing::run(shard_, shared_.close({"a"})));
  EXPECT_THAT(ask("/v1/chat/completions", keys).body, HasSubstr("for b"));
}

TEST_F(SharedTest, ATrainerIsToldWhyARolloutHasEnded) {
  const auto reason = [this](const std::string& id) {
    std::string out;
    testing::run_until(shard_, [&] {
      const auto taken = gate_.for_trainer.next({id}, 0s);
      if (taken && *taken) out = (*taken)->ended()->reason;
      return !out.empty();
    });
    return out;
  };
  const auto for_trainer = [this](const std::string& id, Duration lifetime) {
    Registration registration;
    registration.id = {id};
    ASSERT_TRUE(shared_.open(std::move(registration), lifetime));
  };
  for_trainer("deleted", 1h);
  EXPECT_TRUE(net::testing::run(shard_, shared_.close({"deleted"})));
  EXPECT_EQ(reason("deleted"), "closed by its operator");
  for_trainer("expired", 1ms);
  EXPECT_EQ(reason("expired"), "its lifetime is over");
  for_trainer("left", 1h);
  net::testing::run(shard_, shared_.stop(Deadline::in(1s)));
  EXPECT_EQ(reason("left"), "the gate is stopping");
}

TEST_F(SharedTest, finding_50_one_rollouts_key_opens_no_other) {
  const auto a = open("a");
  open("b");
  const auto response = ask("/rollout/b/v1/chat/completions", bearer(a.key));
  EXPECT_EQ(response.status, 404);
  EXPECT_THAT(response.body, Not(HasSubstr("for b")));
}

TEST_F(SharedTest, finding_44_without_a_right_key_there_is_nothing_but_401) {
  const auto a = open("a");
  for (const std::string& headers :
       {std::string(), bearer(""), bearer("sluice"), bearer(a.key + "0"),
        bearer("sluice.a.99999999999.00000000000000000000000000000000"),
        "Authorization: Basic " + a.key + "\r\n", std::string("x-api-key: \xc3\xa9\r\n")}) {
    // Whether a rollout exists is not told either.
    for (const char* path : {"/rollout/a/v1/chat/completions", "/rollout/z/v1/chat/completions",
                             "/nothing", "/rollout/a/mcp"}) {
      const auto response = ask(path, headers);
      EXPECT_EQ(response.status, 401) << headers << path;
      EXPECT_THAT(response.head, HasSubstr("WWW-Authenticate: Bearer"));
      EXPECT_THAT(response.body, Not(HasSubstr(a.key)));
    }
  }
  EXPECT_THAT(ask("/v1/messages", "anthropic-version: 1\r\n").body,
              HasSubstr("authentication_error"));
}

TEST_F(SharedTest, AKeyIsCheckedBeforeAnyOfTheBodyIsThere) {
  const auto a = open("a");
  const std::string length = "Content-Length: 1000000\r\n\r\n";
  for (const std::string& head :
       {"POST /rollout/a/v1/chat/completions HTTP/1.1\r\n" + bearer(a.key + "0"),
        "POST /v1/messages HTTP/1.1\r\n" + bearer(""), std::string("GET /health HTTP/1.1\r\n")}) {
    testing::Agent agent(shard_, *listener_);
    agent.send(head + "Host: gate\r\n" + length);
    EXPECT_EQ(agent.response().status, 401) << head;
    EXPECT_EQ(agent.stream().unread(), 0u);
  }
  // With it the gate waits for the body.
  testing::Agent agent(shard_, *listener_);
  agent.send("POST /v1/chat/completions HTTP/1.1\r\nHost: gate\r\nExpect: 100-continue\r\n" +
             bearer(a.key) + length);
  agent.wait_for("HTTP/1.1 100 Continue\r\n\r\n");
}

TEST_F(SharedTest, AKeyThatExpiresWhileTheBodyComesOpensNothing) {
  const auto a = open("a", 10s);
  const std::string body(kBody);
  testing::Agent agent(shard_, *listener_);
  agent.send("POST /v1/chat/completions HTTP/1.1\r\nHost: gate\r\n" + bearer(a.key) +
             "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body.substr(0, 10));
  testing::settle(shard_);
  now_ += 10s;
  agent.send(body.substr(10));
  EXPECT_EQ(agent.response().status, 401);
}

// As OpenEnv's own server says it, to the byte.
TEST_F(SharedTest, finding_76_the_plain_routes_errors_are_the_originals) {
  const auto a = open("a");
  open("b");
  for (const char* path : {"/rollout/a/v1/tools/search", "/rollout/a/v1/exit", "/v1/exit"}) {
    const auto unknown = ask(path, bearer("wrong"));
    EXPECT_EQ(unknown.status, 401) << path;
    EXPECT_EQ(unknown.body, R"({"error": "Unauthorized"})") << path;
    EXPECT_THAT(unknown.head, HasSubstr("Content-Type: application/json"));
  }
  for (const char* path : {"/rollout/b/v1/tools/search", "/rollout/z/v1/exit"}) {
    const auto other = ask(path, bearer(a.key));
    EXPECT_EQ(other.status, 404) << path;
    EXPECT_EQ(other.body, R"({"error": "rollout not found"})") << path;
  }
  EXPECT_TRUE(net::testing::run(shard_, shared_.close({"a"})));
  EXPECT_EQ(ask("/rollout/a/v1/exit", bearer(a.key)).body, R"({"error": "rollout not found"})");
}

TEST_F(SharedTest, finding_08_health_is_open_and_tells_nothing) {
  open("a");
  testing::Agent agent(shard_, *listener_);
  agent.get("/health");
  const auto response = agent.response();
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body, R"({"status":"ok"})");
}

TEST_F(SharedTest, ARolloutsConnectionsAreBoundedAndHealthIsNot) {
  const auto a = open("a"), b = open("b");
  const auto asking = [&](const std::string& key) {
    auto agent = std::make_unique<testing::Agent>(shard_, *listener_);
    agent->post("/v1/messages", kBody, bearer(key) + "anthropic-version: 2023-06-01\r\n");
    return agent;
  };
  std::vector<std::unique_ptr<testing::Agent>> agents;
  for (int i = 0; i < 4; ++i) {
    agents.push_back(asking(a.key));
    EXPECT_EQ(agents.back()->response().status, 200) << i;
  }
  const auto refused = asking(a.key)->response();
  EXPECT_EQ(refused.status, 503);
  EXPECT_THAT(refused.body, HasSubstr(R"({"type":"error","error":{)"));
  EXPECT_EQ(asking(b.key)->response().status, 200);
  testing::Agent health(shard_, *listener_);
  health.get("/health");
  EXPECT_EQ(health.response().status, 200);
  // An agent that goes makes room.
  agents.pop_back();
  testing::settle(shard_);
  EXPECT_EQ(asking(a.key)->response().status, 200);
}

TEST_F(SharedTest, AClosedRolloutIsGone) {
  const auto a = open("a");
  EXPECT_TRUE(net::testing::run(shard_, shared_.close({"a"})));
  EXPECT_FALSE(net::testing::run(shard_, shared_.close({"a"})));
  EXPECT_EQ(ask("/v1/chat/completions", bearer(a.key)).status, 404);
}

TEST_F(SharedTest, ARolloutIsClosedWhenItsLifetimeIsOver) {
  const auto b = open("b", 20ms);
  testing::run_until(shard_, [&] { return shared_.size() == 0; });
  EXPECT_FALSE(gate_.for_operator.counters({"b"}));
  // Its key lasts to the end of the second.
  EXPECT_EQ(ask("/v1/chat/completions", bearer(b.key)).status, 404);
}

TEST_F(SharedTest, AnExpiredKeyOpensNothingThoughItsRolloutIsOpen) {
  const auto a = open("a", 10s);
  EXPECT_EQ(a.expires, now_ + 10s);
  now_ += 9s;
  EXPECT_EQ(ask("/v1/chat/completions", bearer(a.key)).status, 200);
  now_ += 1s;
  const auto late = ask("/v1/chat/completions", bearer(a.key));
  EXPECT_EQ(late.status, 401);
  EXPECT_THAT(late.body, Not(HasSubstr("for a")));
  EXPECT_EQ(shared_.size(), 1u);
}

TEST_F(SharedTest, finding_50_a_key_ends_with_its_rollout_also_if_the_id_is_used_again) {
  const auto first = open("a");
  EXPECT_TRUE(net::testing::run(shard_, shared_.close({"a"})));
  const auto second = open("a");
  EXPECT_EQ(first.expires, second.expires);
  EXPECT_NE(first.key, second.key);
  for (const char* path : {"/rollout/a/v1/chat/completions", "/v1/chat/completions"}) {
    const auto old = ask(path, bearer(first.key));
    EXPECT_EQ(old.status, 401) << path;
    EXPECT_THAT(old.body, Not(HasSubstr("for a")));
    EXPECT_EQ(ask(path, bearer(second.key)).status, 200) << path;
  }
}

TEST_F(SharedTest, RolloutsAreBounded) {
  open("a");
  open("b");
  open("c");
  Registration registration;
  EXPECT_EQ(shared_.open(registration, 1h).error().code, ErrorCode::kExhausted);
}

TEST(SharedRecorderTest, AClosedRolloutLeavesNothingInTheRecorder) {
  std::string directory = ::testing::TempDir() + "sluice-shared-XXXXXX";
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  {
    net::Shard shard;
    trace::JsonlRecorder recorder(directory, Logger());
    Handles gate = make_gate({});
    http::SharedEndpoint::Options options;
    options.recorder = &recorder;
    http::SharedEndpoint shared(shard, gate.for_operator, std::move(options));
    for (const char* id : {"a", "b"}) {
      Registration registration;
      registration.id = {id};
      ASSERT_TRUE(shared.open(std::move(registration), 1h));
    }
    EXPECT_EQ(recorder.rollouts(), 2u);
    EXPECT_TRUE(net::testing::run(shard, shared.close({"a"})));
    EXPECT_EQ(recorder.rollouts(), 1u);
    const auto trace = trace::load(recorder.location({"a"}));
    ASSERT_TRUE(trace);
    EXPECT_TRUE(trace->summary) << "closed behind its flush";
    const auto again = [&](const char* id) {
      Registration registration;
      registration.id = {id};
      return shared.open(std::move(registration), 1h).error();
    };
    EXPECT_EQ(again("a").code, ErrorCode::kAlreadyExists);
    EXPECT_THAT(again("a").message, HasSubstr("has a trace here"));
    EXPECT_THAT(again("b").message, HasSubstr("is open at the gate already"));
    EXPECT_EQ(again("../a").code, ErrorCode::kInvalidArgument);
    net::testing::run(shard, shared.stop(Deadline::in(1s)));
    EXPECT_EQ(recorder.rollouts(), 0u);
  }
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace sluice::gate
