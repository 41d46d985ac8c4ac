// The trainer API as trainers and operators see it, over HTTP.
#include "sluice/gate/trainer_http/service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <set>

#include "sluice/gate/testing.h"
#include "sluice/gate/trainer_http/messages.h"
#include "sluice/json/value.h"
#include "sluice/trace/jsonl.h"
#include "sluice/trace/testing.h"

namespace sluice::gate::trainer_http {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::string_view kTrainerKey = "trainer-key-0123456789";
constexpr std::string_view kOperatorKey = "operator-key-0123456789";

class ServiceTest : public testing::GateFixture {
 protected:
  void serve() {
    open();
    agents_ = std::make_unique<http::SharedEndpoint>(shard_, gate_->for_operator,
                                                     http::SharedEndpoint::Options{});
    auto door = std::make_unique<net::MemoryListener>(shard_);
    door_ = door.get();
    agents_->serve(std::move(door));
    ServiceOptions options;
    options.trainer_key = kTrainerKey;
    options.operator_key = kOperatorKey;
    options.agents = agents_.get();
    options.agents_url = "http://gate";
    options.heartbeat = 20ms;
    options.max_response = max_response_;
    service_ = std::move(*TrainerService::make(shard_, gate_->for_trainer, options));
    auto listener = std::make_unique<net::MemoryListener>(shard_);
    api_ = listener.get();
    service_->serve(std::move(listener));
  }
  void TearDown() override {
    if (service_) {
      net::testing::run(shard_, service_->stop(Deadline::in(1s)));
      net::testing::run(shard_, agents_->stop(Deadline::in(1s)));
    }
    GateFixture::TearDown();
  }

  testing::Agent client() { return testing::Agent(shard_, *api_); }
  static std::string key(std::string_view key = kTrainerKey) {
    return "Authorization: Bearer " + std::string(key) + "\r\n";
  }
  testing::Response request(std::string_view method, std::string_view path, std::string_view body,
                            std::string_view headers) {
    auto client = this->client();
    client.send(std::string(method) + " " + std::string(path) + " HTTP/1.1\r\nHost: gate\r\n" +
                std::string(headers) + "Content-Length: " + std::to_string(body.size()) +
                "\r\n\r\n" + std::string(body));
    return client.response();
  }
  json::Value post(std::string_view path, std::string_view body, int status = 200) {
    const auto response = request("POST", path, body, key());
    EXPECT_EQ(response.status, status) << response.body;
    return json::parse(response.body).value_or(json::Value());
  }

  // The ids of a take's items; of an end "end".
  static std::vector<std::string> ids(const json::Value& taken) {
    std::vector<std::string> out;
    for (const json::Value& item : taken.at("items").as_array()) {
      const auto id = json::get_string(item.as_object(), "id");
      out.emplace_back(id ? *id : "end");
    }
    return out;
  }
  static std::string sampled(std::string_view call, std::string_view text) {
    return R"({"call":")" + std::string(call) +
           R"(","completion":{"choices":[{"message":{"role":"assistant","content":")" +
           std::string(text) +
           R"("},"finish_reason":"stop","token_ids":[5,6],"logprobs":{"content":[
             {"logprob":-0.5},{"logprob":-0.25}]}}],"prompt_token_ids":[1,2,3],
             "usage":{"prompt_tokens":3,"completion_tokens":2}}})";
  }

  size_t max_response_ = 64 * 1024 * 1024;
  std::unique_ptr<http::SharedEndpoint> agents_;
  net::MemoryListener* door_ = nullptr;
  std::unique_ptr<TrainerService> service_;
  net::MemoryListener* api_ = nullptr;
};

TEST_F(ServiceTest, ACallIsTakenAndAnsweredAsTheInferenceServerSaidIt) {
  registration_.origins = {};
  serve();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto taken = post("/v1/next_batch", R"({"max":8,"wait_s":10})");
  ASSERT_EQ(taken.at("items").as_array().size(), 1u);
  const json::Value& item = taken.at("items").at(0);
  EXPECT_EQ(item.at("type").as_string(), "call");
  EXPECT_EQ(item.at("body").at("messages").at(0).at("content").as_string(), "question 0");
  const std::string id = ids(taken)[0];
  const auto told = post("/v1/reply", sampled(id, "hello"));
  EXPECT_TRUE(told.at("results").at(0).at("accepted").as_bool());
  EXPECT_THAT(agent.response().body, HasSubstr("hello"));
  const auto again = post("/v1/reply", sampled(id, "other"));
  EXPECT_FALSE(again.at("results").at(0).at("accepted").as_bool());
  EXPECT_EQ(again.at("results").at(0).at("error").at("code").as_string(), "failed_precondition");
  EXPECT_EQ(counters().tokens, 5u);
}

TEST_F(ServiceTest, RepliesThatCannotBeReadCountAsRejectedToo) {
  registration_.origins = {};
  serve();
  auto agent = this->agent();
  agent.post(kPath, body());
  const std::string id = ids(post("/v1/next_batch", R"({"max":8,"wait_s":10})")).at(0);
  const auto told = [&](const std::string& reply) {
    const auto results = post("/v1/reply", R"({"call":")" + id + "\"," + reply + "}");
    return std::string(results.at("results").at(0).at("error").at("message").as_string());
  };
  const std::string first = told(R"("completion":{"choices":[]})");
  told(R"("answer":{"choices":[],"surprise":1})");
  told(R"("completion":{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]})");
  testing::settle(shard_);
  EXPECT_EQ(counters().rejected, 3u);
  EXPECT_EQ(counters().rejections.at(0), first);
  // One that names no call of ours is nobody's.
  post("/v1/reply", R"({"call":"forged","completion":{"choices":[]}})");
  post("/v1/reply", sampled(id, "hello"));
  EXPECT_THAT(agent.response().body, HasSubstr("hello"));
  EXPECT_EQ(counters().rejected, 3u);
}

TEST_F(ServiceTest, ABatchIsAnsweredPieceByPieceAndMayWaitForItsOutcomes) {
  serve();
  auto first = agent(), second = agent();
  first.post(kPath, body(1));
  testing::settle(shard_);
  second.post(kPath, streaming(2));
  testing::settle(shard_);
  const auto calls = ids(post("/v1/next_batch", R"({"max":8})"));
  ASSERT_EQ(calls.size(), 2u);
  const std::string batch = R"({"wait_s":10,"replies":[)" + sampled(calls[0], "one") +
                            R"(,{"call":"forged.id","refusal":{}},{"call":")" + calls[1] +
                            R"(","refusal":{"message":"no more"}}]})";
  const auto told = post("/v1/reply", batch);
  const auto& results = told.at("results").as_array();
  ASSERT_EQ(results.size(), 3u);
  EXPECT_EQ(results[0].at("outcome").as_string(), "delivered");
  EXPECT_EQ(results[1].at("error").at("code").as_string(), "not_found");
  EXPECT_EQ(results[2].at("outcome").as_string(), "refused");
  EXPECT_EQ(first.response().status, 200);
}

TEST_F(ServiceTest, PiecesGoAheadOfTheAnswerThatTheyBegin) {
  registration_.delivery = AnswerDelivery::kIncremental;
  serve();
  auto agent = this->agent();
  agent.post(kPath, streaming(1));
  const std::string id = ids(post("/v1/next_batch", R"({"max":8,"wait_s":10})"))[0];
  const auto piece = [&](std::string_view what) {
    return post("/v1/reply", R"({"call":")" + id + R"(","piece":)" + std::string(what) + "}")
        .at("results")
        .at(0);
  };
  EXPECT_TRUE(piece(R"({"reasoning":"hm"})").at("accepted").as_bool());
  EXPECT_TRUE(piece(R"({"text":"hel"})").at("accepted").as_bool());
  EXPECT_EQ(piece(R"({"txt":"hel"})").at("error").at("message").as_string(),
            "piece.txt: is not known here");
  // What does not begin so is no answer to them.
  const auto other =
      post("/v1/reply", R"({"call":")" + id + R"(","answer":{"choices":[{"text":"other"}]}})");
  EXPECT_EQ(other.at("results").at(0).at("error").at("code").as_string(), "invalid_argument");
  const auto told =
      post("/v1/reply", R"({"wait_s":30,"call":")" + id +
                            R"(","answer":{"choices":[{"reasoning":"hm","text":"hello"}]}})");
  EXPECT_EQ(told.at("results").at(0).at("outcome").as_string(), "delivered");
  const std::string stream = agent.response().body;
  EXPECT_THAT(stream, HasSubstr(R"("content":"hel")"));
  EXPECT_THAT(stream, HasSubstr(R"("content":"lo")"));
  EXPECT_EQ(piece(R"({"text":"more"})").at("error").at("code").as_string(), "failed_precondition");
}

// Who cuts text by UTF-16's units cuts characters in two: pieces are then what their whole is.
TEST_F(ServiceTest, PiecesMayBeCutInTheMiddleOfACharacter) {
  registration_.delivery = AnswerDelivery::kIncremental;
  serve();
  auto agent = this->agent();
  agent.post(kPath, streaming(1));
  const std::string id = ids(post("/v1/next_batch", R"({"max":8,"wait_s":10})"))[0];
  const auto said = [&](std::string_view what) {
    const auto told =
        post("/v1/reply", R"({"call":")" + id + R"(","piece":)" + std::string(what) + "}");
    EXPECT_TRUE(told.at("results").at(0).at("accepted").as_bool()) << what;
  };
  said(R"({"reasoning":"\ud83d"})");
  said(R"({"reasoning":"\ude00\ud83d"})");
  said(R"({"text":"a\ud83d"})");
  said(R"({"text":"\ude00b\ud83d"})");
  said(R"({"text":"c\ude00\ud83d"})");
  const auto told =
      post("/v1/reply", R"({"wait_s":30,"call":")" + id +
                            R"(","answer":{"choices":[{"reasoning":"\ud83d\ude00\ud83d",)"
                            R"("text":"a\ud83d\ude00b\ud83dc\ude00\ud83d\ude00!"}]}})");
  EXPECT_EQ(told.at("results").at(0).at("outcome").as_string(), "delivered");
  std::string text, reasoning;
  const std::string stream = agent.response().body;
  for (size_t at = 0; (at = stream.find("data: {", at)) != std::string::npos; ++at) {
    const auto chunk = json::parse(stream.substr(at + 6, stream.find('\n', at) - at - 6));
    ASSERT_TRUE(chunk) << stream;
    for (const auto& choice : chunk->at("choices").as_array()) {
      const auto& delta = choice.at("delta").as_object();
      text += json::get_string(delta, "content").value_or("");
      reasoning += json::get_string(delta, "reasoning_content").value_or("");
    }
  }
  EXPECT_EQ(text, "a\U0001F600b\uFFFDc\uFFFD\U0001F600!");
  EXPECT_EQ(reasoning, "\U0001F600\uFFFD");
}

TEST_F(ServiceTest, AMessageOverTheLimitIsToldSoToWhoSendsAllOfItFirst) {
  serve();
  auto client = this->client();
  const std::string body(70 << 20, ' ');
  client.post("/v1/reply", body, key());  // throws if the connection breaks meanwhile
  const auto response = client.response();
  EXPECT_EQ(response.status, 413);
  EXPECT_THAT(response.body, HasSubstr("too_large"));
}

TEST_F(ServiceTest, ALongPollIsWokenByACallAndByTheAgentsEnd) {
  serve();
  auto poll = client();
  poll.post("/v1/rollouts/r0/next", R"({"wait_s":300})", key());
  testing::settle(shard_);
  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_THAT(poll.response().body, HasSubstr("question 0"));
  poll.post("/v1/rollouts/r0/next", R"({"wait_s":300})", key());
  testing::settle(shard_);
  gate_->for_operator.stop_admitting(id_);
  EXPECT_THAT(poll.response().body, HasSubstr(R"("type":"ended","rollout":"r0")"));
  post("/v1/rollouts/r0/next", "", 404);  // by asking again it has received the end
}

TEST_F(ServiceTest, ALongPollThatFindsNothingEndsInTime) {
  serve();
  EXPECT_TRUE(ids(post("/v1/next_batch", R"({"wait_s":0.03})")).empty());
  EXPECT_TRUE(ids(post("/v1/next_batch", "")).empty());
  post("/v1/rollouts/unknown/next", R"({"wait_s":300})", 404);
}

TEST_F(ServiceTest, ATrainerThatDiesInItsPollHoldsNothing) {
  serve();
  {
    auto poll = client();
    poll.post("/v1/next_batch", R"({"wait_s":300,"trainer":"dead","lease_s":3600})", key());
    testing::settle(shard_);
    poll.reset();
    testing::settle(shard_);
  }
  auto agent = this->agent();
  agent.post(kPath, body());
  testing::settle(shard_);
  EXPECT_EQ(gate_->for_trainer.state().held, 0u);
  EXPECT_EQ(ids(post("/v1/next_batch", "")).size(), 1u);
}

TEST_F(ServiceTest, ItemsThatDidNotArriveAreGivenBackAtOnce) {
  serve();
  auto agent = this->agent();
  agent.post(kPath, body());
  testing::settle(shard_);
  auto poll = client();
  poll.stream().set_acknowledge(net::MemoryStream::Acknowledge::kByHand);
  poll.post("/v1/next_batch", R"({"trainer":"dead","lease_s":3600})", key());
  poll.wait_for("question 0");
  EXPECT_EQ(gate_->for_trainer.state().held, 1u);
  poll.reset();
  testing::run_until(shard_, [&] { return gate_->for_trainer.state().held == 0; });
  EXPECT_EQ(ids(post("/v1/next_batch", "")).size(), 1u);
}

TEST_F(ServiceTest, ADeadTrainersLeaseRunsOutUnderAPollThatWaits) {
  serve();
  auto agent = this->agent();
  agent.post(kPath, body());
  testing::settle(shard_);
  EXPECT_EQ(ids(post("/v1/next_batch", R"({"trainer":"one","lease_s":0.05})")).size(), 1u);
  const auto taken = post("/v1/next_batch", R"({"trainer":"two","wait_s":60})");
  ASSERT_EQ(ids(taken).size(), 1u);
  EXPECT_EQ(taken.at("items").at(0).at("deliveries").as_int64(), 2);
}

TEST_F(ServiceTest, ARestartedTrainerGetsItsCallsAgain) {
  serve();
  auto agent = this->agent();
  agent.post(kPath, body());
  testing::settle(shard_);
  const auto before = ids(post("/v1/next_batch", R"({"trainer":"t"})"));
  EXPECT_TRUE(ids(post("/v1/next_batch", R"({"trainer":"t"})")).empty());
  EXPECT_EQ(ids(post("/v1/next_batch", R"({"trainer":"t","afresh":true})")), before);
  EXPECT_EQ(post("/v1/give_back", R"({"trainer":"t"})").at("given_back").as_int64(), 1);
  EXPECT_EQ(ids(post("/v1/next_batch", R"({"trainer":"u"})")), before);
  post("/v1/renew", R"({"trainer":"u"})");
}

TEST_F(ServiceTest, AnAnswerOfItemsHasALimitAndTheRestComesNext) {
  max_response_ = 300;
  serve();
  std::vector<testing::Agent> agents;
  for (int i = 0; i < 4; ++i) {
    agents.push_back(agent());
    agents.back().post(kPath, body(i));
    testing::settle(shard_);
  }
  std::vector<std::string> all;
  for (int i = 0; i < 4 && all.size() < 4; ++i) {
    const auto some = ids(post("/v1/next_batch", R"({"max":100})"));
    EXPECT_LT(some.size(), 4u);
    all.insert(all.end(), some.begin(), some.end());
  }
  EXPECT_EQ(all.size(), 4u);
}

TEST_F(ServiceTest, PauseResumeCancelAndState) {
  serve();
  post("/v1/pause", "");
  auto agent = this->agent();
  agent.post(kPath, body());
  testing::settle(shard_);
  EXPECT_TRUE(ids(post("/v1/next_batch", "")).empty());
  EXPECT_TRUE(post("/v1/pause", "").at("ok").as_bool());
  post("/v1/resume", R"({"version":"step-7"})");
  const auto taken = post("/v1/next_batch", "");
  EXPECT_EQ(taken.at("items").at(0).at("version").as_string(), "step-7");
  const auto state = json::parse(request("GET", "/v1/state", "", key()).body);
  EXPECT_EQ(state->at("version").as_string(), "step-7");
  EXPECT_EQ(state->at("held").as_int64(), 1);
  post("/v1/cancel_stale", R"({"versions":0})");
  post("/v1/cancel_stale", "", 400);
  post("/v1/rollouts/r0/cancel", R"({"reason":"enough"})");
  EXPECT_EQ(agent.response().status, 400);
  EXPECT_TRUE(counters().cancelled);
}

TEST_F(ServiceTest, EventsAreAStreamThatCanBeTakenUpAgain) {
  serve();
  auto watcher = client();
  watcher.send("GET /v1/events HTTP/1.1\r\nHost: gate\r\n" + key() + "\r\n");
  watcher.wait_for(": here");  // a sign of life in silence
  auto agent = this->agent();
  agent.post(kPath, body());
  watcher.wait_for("event: call_arrived");
  EXPECT_THAT(watcher.seen(), HasSubstr("id: 1\nevent: call_arrived\ndata: {\"rollout\":\"r0\""));
  watcher.reset();
  const auto call = next_call();
  EXPECT_EQ(outcome(reply(call->id, "x")), llm::Outcome::kDelivered);
  auto again = client();
  again.send("GET /v1/events HTTP/1.1\r\nHost: gate\r\nLast-Event-ID: 1\r\n" + key() + "\r\n");
  again.wait_for("event: call_ended");
  EXPECT_THAT(again.seen(), Not(HasSubstr("id: 1\n")));
  EXPECT_THAT(again.seen(), HasSubstr("id: 2\nevent: call_answered"));
  EXPECT_EQ(request("GET", "/v1/events?after=x", "", key()).status, 400);
  EXPECT_EQ(request("GET", "/v1/events?x=1&after=x", "", key()).status, 400);
  // A number of a gate that was here before: nothing of this one was seen.
  auto returned = client();
  returned.send("GET /v1/events?x=1&after=700 HTTP/1.1\r\nHost: gate\r\n" + key() + "\r\n");
  returned.wait_for("id: 1\nevent: call_arrived");
}

// ---- keys

TEST_F(ServiceTest, finding_44_nothing_but_health_and_the_document_is_open) {
  serve();
  EXPECT_EQ(request("GET", "/health", "", "").body, "{\"status\":\"ok\"}\n");
  EXPECT_EQ(request("GET", "/openapi.json", "", "").status, 200);
  for (const std::string& headers :
       {std::string(), key("wrong"), key(""), key(std::string(kTrainerKey) + "x"),
        "Authorization: Basic " + std::string(kTrainerKey) + "\r\n",
        "x-api-key: " + std::string(kTrainerKey) + "\r\n"}) {
    for (const char* path : {"/metrics", "/v1/state", "/v1/events", "/v1/nothing", "/"}) {
      EXPECT_EQ(request("GET", path, "", headers).status, 401) << path;
    }
    for (const char* path : {"/v1/next_batch", "/v1/reply", "/v1/rollouts", "/v1/pause"}) {
      const auto response = request("POST", path, "{}", headers);
      EXPECT_EQ(response.status, 401) << path;
      EXPECT_THAT(response.body, Not(HasSubstr("trainer-key")));
    }
  }
  // A rollout's key is none here.
  const auto registered = request("POST", "/v1/rollouts", "{}", key(kOperatorKey));
  const auto rollout_key = json::parse(registered.body)->at("key").as_string();
  EXPECT_EQ(request("POST", "/v1/next_batch", "", key(std::string(rollout_key))).status, 401);
}

TEST_F(ServiceTest, AKeyIsCheckedBeforeAnyOfTheBodyIsThere) {
  serve();
  struct Row {
    const char* line;
    std::string headers;
    int status;
  };
  for (const Row& row :
       {Row{"POST /v1/reply", "", 401}, Row{"POST /v1/reply", key("wrong"), 401},
        Row{"POST /v1/reply", key(kOperatorKey), 403}, Row{"POST /v1/nothing", key(), 404},
        Row{"POST /v1/state", key(), 405}, Row{"GET /health", "", 401}}) {
    auto client = this->client();
    client.send(std::string(row.line) + " HTTP/1.1\r\nHost: gate\r\n" + row.headers +
                "Content-Length: 60000000\r\n\r\n");
    EXPECT_EQ(client.response().status, row.status) << row.line;
  }
}

TEST_F(ServiceTest, finding_51_the_trainers_and_the_operators_keys_do_different_things) {
  serve();
  EXPECT_EQ(request("POST", "/v1/rollouts", "{}", key(kTrainerKey)).status, 403);
  EXPECT_EQ(request("DELETE", "/v1/rollouts/r0", "", key(kTrainerKey)).status, 403);
  EXPECT_EQ(request("POST", "/v1/next_batch", "", key(kOperatorKey)).status, 403);
  EXPECT_EQ(request("POST", "/v1/reply", "{}", key(kOperatorKey)).status, 403);
  for (const auto which : {kTrainerKey, kOperatorKey}) {
    EXPECT_EQ(request("GET", "/metrics", "", key(which)).status, 200);
    EXPECT_EQ(request("GET", "/v1/nothing", "", key(which)).status, 404);
    EXPECT_EQ(request("GET", "/v1/reply", "", key(which)).status, 405);
  }
  ServiceOptions same;
  same.trainer_key = same.operator_key = kTrainerKey;
  EXPECT_FALSE(TrainerService::make(shard_, gate_->for_trainer, same));
  same.operator_key = "short";
  EXPECT_FALSE(TrainerService::make(shard_, gate_->for_trainer, same));
}

// ---- rollouts of others

TEST_F(ServiceTest, finding_78_a_rollout_from_outside_is_served_by_its_key_until_it_is_closed) {
  serve();
  const auto registered = request(
      "POST", "/v1/rollouts", R"({"id":"mine","origins":{"tokens":"waived"}})", key(kOperatorKey));
  ASSERT_EQ(registered.status, 201) << registered.body;
  const auto out = *json::parse(registered.body);
  EXPECT_EQ(out.at("url").as_string(), "http://gate/rollout/mine");
  const std::string agents_key(out.at("key").as_string());
  testing::Agent agent(shard_, *door_);
  agent.post("/rollout/mine/v1/chat/completions", body(), key(agents_key));
  const auto taken = post("/v1/rollouts/mine/next", R"({"wait_s":10})");
  post("/v1/reply", sampled(ids(taken).at(0), "hello"));
  EXPECT_THAT(agent.response().body, HasSubstr("hello"));
  const auto books = request("GET", "/v1/rollouts/mine", "", key(kOperatorKey));
  EXPECT_EQ(json::parse(books.body)->at("outcomes").at("delivered").as_int64(), 1);

  agent.post("/rollout/mine/v1/chat/completions", body(1), key(agents_key));
  testing::settle(shard_);
  EXPECT_EQ(request("DELETE", "/v1/rollouts/mine", "", key(kOperatorKey)).status, 200);
  EXPECT_EQ(agent.response().status, 400);
  const auto closed = request("GET", "/v1/rollouts/mine", "", key(kOperatorKey));
  EXPECT_THAT(closed.body, HasSubstr(R"("state":"closed")"));
  EXPECT_THAT(closed.body, HasSubstr(R"("reward":null)"));
  EXPECT_EQ(request("DELETE", "/v1/rollouts/mine", "", key(kOperatorKey)).status, 404);
  // The gate's own rollouts are none of an operator's from outside.
  EXPECT_EQ(request("DELETE", "/v1/rollouts/r0", "", key(kOperatorKey)).status, 404);
  EXPECT_EQ(request("POST", "/v1/rollouts", R"({"id":"r0"})", key(kOperatorKey)).status, 409);
}

TEST_F(ServiceTest, WhatCameOfARolloutIsGivenToOneTrainerAndToldToEverybody) {
  registration_.about.name = "t@2";
  serve();
  const auto books = [this](std::string_view which) {
    return *json::parse(request("GET", "/v1/rollouts/r0", "", key(which)).body);
  };
  EXPECT_EQ(books(kTrainerKey).at("state").as_string(), "open");
  EXPECT_EQ(books(kOperatorKey).at("name").as_string(), "t@2");
  EXPECT_EQ(request("GET", "/v1/rollouts/unknown", "", key()).status, 404);
  EXPECT_EQ(request("GET", "/v1/rollouts/r0", "", "").status, 401);
  gate_->for_operator.stop_admitting(id_);
  testing::settle(shard_);
  const auto take = [this](const std::string& trainer, const std::string& more) {
    const std::string body = R"({"max":8,"trainer":")" + trainer + "\"" + more + "}";
    return post("/v1/next_batch", body).at("items").as_array();
  };
  EXPECT_EQ(take("calls", "").at(0).at("type").as_string(), "ended");
  close();
  auto poll = client();
  poll.post("/v1/next_batch", R"({"wait_s":300,"trainer":"rewards","rollouts":true})", key());
  testing::settle(shard_);
  EXPECT_EQ(books(kTrainerKey).at("state").as_string(), "ended");
  gate_->for_operator.closed(id_, {1.0, "", ""});
  const auto told = poll.response();
  EXPECT_THAT(told.body, HasSubstr(R"({"type":"closed","rollout":"r0","name":"t@2","reward":1)"));
  EXPECT_THAT(told.body, HasSubstr(R"("error_kind":null)"));
  EXPECT_TRUE(take("calls", "").empty());
  EXPECT_TRUE(take("others", R"(,"rollouts":true)").empty());
  for (const auto which : {kTrainerKey, kOperatorKey}) {
    EXPECT_EQ(books(which).at("state").as_string(), "closed");
    EXPECT_EQ(books(which).at("reward").to_number<double>(), 1.0);
  }
}

// ---- bad input

TEST_F(ServiceTest, finding_07_mistakes_are_told_and_change_nothing) {
  serve();
  auto agent = this->agent();
  agent.post(kPath, body());
  testing::settle(shard_);
  for (const char* body : {"{", "[]", "null", R"({"max":"x"})", R"({"wait_s":-1})", "\xff"}) {
    EXPECT_EQ(request("POST", "/v1/next_batch", body, key()).status, 400) << body;
    EXPECT_EQ(request("POST", "/v1/resume", body, key()).status, 400) << body;
  }
  for (const char* body : {"{", "[]", "null", R"({"replies":{}})", "\xff", ""}) {
    EXPECT_EQ(request("POST", "/v1/reply", body, key()).status, 400) << body;
  }
  std::string deep(100'000, '[');
  EXPECT_EQ(request("POST", "/v1/reply", deep, key()).status, 400);
  for (const char* path : {"/v1/renew", "/v1/give_back"}) {
    EXPECT_EQ(request("POST", path, R"({"trainer":"a b"})", key()).status, 400) << path;
  }
  EXPECT_EQ(request("POST", "/v1/pause", R"({"version":"x"})", key()).status, 400);
  EXPECT_EQ(request("POST", "/v1/rollouts/nobody/cancel", "", key()).status, 404);
  EXPECT_EQ(request("POST", "/v1/rollouts/..%2f/next", "", key()).status, 404);
  EXPECT_EQ(request("POST", "/v1/rollouts//next", "", key()).status, 404);
  EXPECT_EQ(gate_->for_trainer.state().waiting, 1u);
  EXPECT_EQ(counters().open, 1u);
}

TEST_F(ServiceTest, ACallSaysWhatItGoesOnFromAndHow) {
  serve();
  const auto ask = [&](std::string_view more, std::string_view answer = "yes") {
    auto agent = this->agent();
    agent.post(kPath, R"({"model":"m","messages":[{"role":"user","content":"question"})" +
                          std::string(more) + "]}");
    const json::Value item = post("/v1/next_batch", R"({"wait_s":10})").at("items").at(0);
    const std::string id(item.at("id").as_string());
    post("/v1/reply", R"({"call":")" + id + R"(","answer":{"choices":[{"text":")" +
                          std::string(answer) + R"("}]}})");
    EXPECT_EQ(agent.response().status, 200);
    testing::settle(shard_);
    return item.as_object();
  };
  const auto how = [](const json::Object& item) {
    const auto from = json::get_integer(item, "rewritten_from");
    return std::string(json::get_string(item, "continues").value_or("")) +
           (from ? " " + std::to_string(*from) : "");
  };
  const json::Object first = ask("");
  EXPECT_FALSE(first.contains("parent"));
  EXPECT_EQ(how(first), "");
  const json::Object second = ask(R"(,{"role":"assistant","content":"yes"},{"role":"user"})");
  EXPECT_EQ(second.at("parent"), first.at("id"));
  EXPECT_EQ(how(second), "exact");
  const json::Object third = ask(R"(,{"role":"assistant","content":" yes"},{"role":"user"})", "no");
  EXPECT_EQ(third.at("parent"), first.at("id"));
  EXPECT_EQ(how(third), "repaired");
  const json::Object fourth = ask(R"(,{"role":"assistant","content":"yes"},{"role":"user",)"
                                  R"("content":"x"},{"role":"assistant","content":"yes"},)"
                                  R"({"role":"user"})");
  EXPECT_EQ(how(fourth), "rewritten 2");
}

TEST_F(ServiceTest, WhatWasPutAwayIsReadOffTheLoop) {
  std::string directory = ::testing::TempDir() + "sluice-service-XXXXXX";
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  const auto disk = std::make_shared<trace::testing::WatchedDisk>();
  trace::JsonlRecorder recorder(directory, Logger(), {.files = disk});
  registration_.recorder = &recorder;
  options_.put_away_after = 20ms;
  serve();
  auto agent = this->agent();
  agent.post(kPath, body(0, R"(,"user":")" + std::string(20'000, 'x') + "\""));
  const auto call = next_call();
  testing::run_until(shard_, [&] { return call->body.in_memory() == nullptr; });
  gate_->for_trainer.give_back("");
  const auto taken = post("/v1/next_batch", R"({"max":4})");
  EXPECT_EQ(ids(taken), std::vector<std::string>{call->id.value});
  EXPECT_EQ(taken.at("items").at(0).at("body").at("user").as_string().size(), 20'000u);
  EXPECT_EQ(disk->on_loop, 0);
  EXPECT_EQ(disk->elsewhere, 1);
  TearDown();  // before the recorder goes
  service_.reset();
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace sluice::gate::trainer_http
