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
  EXPECT_EQ(request("GET", "/v1/rollouts/mine", "", key(kOperatorKey)).status, 404);
  EXPECT_EQ(request("DELETE", "/v1/rollouts/mine", "", key(kOperatorKey)).status, 404);
  // The gate's own rollouts are none of an operator's from outside.
  EXPECT_EQ(request("DELETE", "/v1/rollouts/r0", "", key(kOperatorKey)).status, 404);
  EXPECT_EQ(request("POST", "/v1/rollouts", R"({"id":"r0"})", key(kOperatorKey)).status, 409);
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

// ---- the document

std::string lower(std::string_view method) {
  std::string out;
  for (const char c : method) out.push_back(static_cast<char>(c | 0x20));
  return out;
}

TEST(OpenapiTest, TheDocumentNamesEveryRouteAndNoOther) {
  const auto document = json::parse(kOpenapi);
  ASSERT_TRUE(document) << document.error().message;
  std::set<std::string> served, documented;
  for (const Route& route : routes()) {
    served.insert(lower(route.method) + " " + std::string(route.path));
  }
  for (const auto& [path, methods] : document->at("paths").as_object()) {
    for (const auto& [method, operation] : methods.as_object()) {
      documented.insert(std::string(method) + " " + std::string(path));
    }
  }
  EXPECT_EQ(documented, served);
}

class ExampleTest : public ::testing::Test {
 protected:
  // What the document has of a request's body under `name`: "example" or "examples".
  json::Value content(std::string_view path, std::string_view name) {
    const auto document = json::parse(kOpenapi);
    const std::string pointer = "/post/requestBody/content/application~1json/" + std::string(name);
    boost::json::error_code error;
    const json::Value* found = document->at("paths").at(path).find_pointer(pointer, error);
    EXPECT_NE(found, nullptr) << path;
    return found == nullptr ? json::Value() : *found;
  }
};

TEST_F(ExampleTest, TakesAreRead) {
  for (const char* path : {"/v1/next_batch", "/v1/rollouts/{id}/next"}) {
    const auto take = take_from_json(json::serialize(content(path, "example")));
    ASSERT_TRUE(take) << take.error().message;
    EXPECT_EQ(take->request.taker.name, "node-1");
    EXPECT_EQ(take->wait, 30s);
  }
}

TEST_F(ExampleTest, RepliesAreRead) {
  const json::Value examples = content("/v1/reply", "examples");
  std::set<std::string> ways;
  for (const auto& [name, example] : examples.as_object()) {
    const auto message = replies_from_json(json::serialize(example.at("value")));
    ASSERT_TRUE(message) << std::string_view(name) << ": " << message.error().message;
    for (const auto& each : message->replies) {
      EXPECT_TRUE(each.reply) << std::string_view(name) << ": " << each.reply.error().message;
    }
    // Each shows the way that it is named by.
    if (name == "batch") continue;
    ways.insert(std::string(name));
    EXPECT_TRUE(example.at("value").as_object().contains(name)) << std::string_view(name);
  }
  EXPECT_EQ(ways,
            (std::set<std::string>{"answer", "completion", "piece", "refusal", "tool_result"}));
}

// It shows every member that the schema has, so that a gate which knows no such member is found
// out.
TEST_F(ExampleTest, ARegistrationIsReadWithEveryMember) {
  const json::Value example = content("/v1/rollouts", "example");
  const auto message = registration_from_json(json::serialize(example));
  ASSERT_TRUE(message) << message.error().message;
  EXPECT_EQ(message->registration.tools_in_requests, ToolsInRequests::kAdded);
  EXPECT_TRUE(check_tool(message->registration.tools.at(0)));
  const auto document = json::parse(kOpenapi);
  const json::Value& schema = document->at("components").at("schemas").at("Registration");
  std::set<std::string> shown, known;
  for (const auto& [name, value] : example.as_object()) shown.emplace(name);
  for (const auto& [name, value] : schema.at("properties").as_object()) known.emplace(name);
  EXPECT_EQ(shown, known);
}

// The bounds that the document has are those that messages are held to.
class BoundsTest : public ::testing::Test {
 protected:
  using Reads = std::function<bool(const json::Object&)>;

  // Each member of a schema: at its bounds it is read, beyond them it is not, nor as anything else.
  static int check(const json::Value& schema, const Reads& reads) {
    int bounds = 0;
    EXPECT_FALSE(schema.at("additionalProperties").as_bool());
    EXPECT_FALSE(reads({{"no_such_member", 1}}));
    for (const auto& [name, member] : schema.at("properties").as_object()) {
      const std::string_view said = name;
      const json::Object& one = member.as_object();
      const auto with = [&](json::Value value) {
        json::Object message;
        message[said] = std::move(value);
        return reads(message);
      };
      EXPECT_TRUE(with(nullptr)) << said;
      EXPECT_FALSE(with(json::Object{{"no such", 1}})) << said;
      for (const auto& [bound, step] : {std::pair{"minimum", -1}, std::pair{"maximum", 1}}) {
        const json::Value* limit = one.if_contains(bound);
        if (limit == nullptr) continue;
        ++bounds;
        EXPECT_TRUE(with(*limit)) << said << ' ' << bound;
        EXPECT_FALSE(with(limit->to_number<int64_t>() + step)) << said << ' ' << bound;
      }
      if (const json::Value* properties = one.if_contains("properties")) {
        if (properties->as_object().empty()) continue;
        bounds += check(member, [&](const json::Object& part) { return with(part); });
      }
      const json::Value* most = one.if_contains("maxItems");
      if (most == nullptr) continue;
      ++bounds;
      EXPECT_FALSE(with(json::Array(most->to_number<size_t>() + 1, 1))) << said;
    }
    return bounds;
  }
  static json::Value schema(std::string_view name) {
    return json::parse(kOpenapi)->at("components").at("schemas").at(name);
  }
};

TEST_F(BoundsTest, OfATake) {
  EXPECT_EQ(check(schema("Take"),
                  [](const json::Object& message) {
                    return take_from_json(json::serialize(json::Value(message))).has_value();
                  }),
            6);
}

TEST_F(BoundsTest, OfARegistration) {
  EXPECT_EQ(
      check(schema("Registration"),
            [](const json::Object& message) {
              return registration_from_json(json::serialize(json::Value(message))).has_value();
            }),
      25);
  EXPECT_FALSE(registration_from_json(R"({"id":""})"));
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
