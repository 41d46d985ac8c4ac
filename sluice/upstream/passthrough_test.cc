#include "sluice/upstream/passthrough.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/gate/testing.h"
#include "sluice/net/http_server.h"
#include "sluice/net/wait.h"

namespace sluice::upstream {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::Not;

// A gate whose policy is passthrough, and the model endpoint behind it, all in memory.
class PassthroughTest : public gate::testing::GateFixture {
 protected:
  void open_gate() {
    auto listener = std::make_unique<net::MemoryListener>(shard_);
    upstream_listener_ = listener.get();
    server_.emplace(shard_, [this](net::HttpRequest request, net::ResponseWriter* writer) {
      return serve(this, std::move(request), writer);
    });
    server_->serve(std::move(listener));
    PassthroughOptions options = asked_;
    options.base_url = "https://model.example/api/v1";
    options.key = "sk-real";
    auto policy = make_passthrough(
        shard_,
        [this](Deadline) -> net::awaitable<Result<std::unique_ptr<net::Stream>>> {
          return connect(this);
        },
        std::move(options));
    ASSERT_TRUE(policy);
    registration_.policy = std::move(*policy);
    open();
  }

  void TearDown() override {
    GateFixture::TearDown();
    registration_.policy = nullptr;
    gate_.reset();
    if (server_) net::testing::run(shard_, server_->stop(Deadline::in(Duration::zero())));
  }

  static net::awaitable<Result<std::unique_ptr<net::Stream>>> connect(PassthroughTest* self) {
    if (self->unreachable_) {
      co_return Error(ErrorCode::kUnavailable, "connect to model.example:443: refused");
    }
    std::unique_ptr<net::Stream> stream = self->upstream_listener_->connect();
    co_return stream;
  }

  static net::awaitable<void> serve(PassthroughTest* self, net::HttpRequest request,
                                    net::ResponseWriter* writer) {
    const bool probes = request.method == "GET";
    (probes ? self->probes_ : self->requests_).push_back(std::move(request));
    if (self->breaks_ > 0 && !probes) {
      --self->breaks_;
      co_return writer->abort();
    }
    if (self->silent_) {
      writer->on_peer_closed([self](net::PeerClose) { self->client_gone_ = true; });
      const auto waited = co_await net::wait_for(&self->go_on_);
      if (!waited || self->client_gone_) co_return;
    }
    if (self->pieces_.empty()) {
      net::HttpResponse response = self->response_;
      const auto sent = co_await writer->send(std::move(response));
      EXPECT_TRUE(sent);
      co_return;
    }
    writer->on_peer_closed([self](net::PeerClose) { self->client_gone_ = true; });
    net::Headers headers = self->response_.headers;
    auto ok = co_await writer->start(self->response_.status, std::move(headers));
    for (const Bytes& piece : self->pieces_) {
      Bytes copy = piece;
      if (ok) ok = co_await writer->write(std::move(copy));
      const auto waited = co_await net::wait_for(&self->go_on_);
      if (!waited) co_return;
    }
    if (self->cut_) co_return writer->abort();
    if (ok) ok = co_await writer->finish();
  }

  static std::vector<std::string> header_names(const net::HttpRequest& request) {
    std::vector<std::string> out;
    for (const auto& [name, value] : request.headers.fields()) out.push_back(name);
    return out;
  }

  net::MemoryListener* upstream_listener_ = nullptr;
  std::optional<net::HttpServer> server_;
  std::vector<net::HttpRequest> requests_, probes_;
  net::HttpResponse response_ =
      net::json_response(200, R"({"id":"from upstream","choices":[{"message":{}}]})");
  std::vector<Bytes> pieces_;  // sent one by one, each followed by a wait for go_on_
  net::Signal go_on_;
  bool client_gone_ = false;
  bool unreachable_ = false;
  int breaks_ = 0;       // so many requests are answered by a broken connection
  bool silent_ = false;  // nothing is answered before go_on_
  bool cut_ = false;     // behind the pieces, instead of an end
  PassthroughOptions asked_;
};

TEST_F(PassthroughTest, ForwardsTheBodyToTheOneUrlWithTheRealKey) {
  open_gate();
  auto agent = this->agent();
  const std::string request = "{ \"messages\":[{\"role\":\"user\"}],\"model\":\"m\"\n}";
  agent.post(kPath, request,
             "Authorization: Bearer agents-own\r\nx-api-key: agents-own\r\nCookie: c=1\r\n"
             "X-Forwarded-Host: evil.example\r\nOpenAI-Beta: v2\r\nAccept-Encoding: gzip\r\n");
  const auto response = agent.response();
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body, R"({"id":"from upstream","choices":[{"message":{}}]})");
  ASSERT_EQ(requests_.size(), 1u);
  const net::HttpRequest& seen = requests_[0];
  EXPECT_EQ(seen.method, "POST");
  EXPECT_EQ(seen.target, "/api/v1/chat/completions");
  EXPECT_EQ(seen.body, request);
  EXPECT_EQ(seen.headers.get("Host"), "model.example");
  EXPECT_EQ(seen.headers.get("Authorization"), "Bearer sk-real");
  EXPECT_EQ(seen.headers.get("Accept-Encoding"), "identity");
  EXPECT_EQ(seen.headers.get("OpenAI-Beta"), "v2");
  for (const auto& [name, value] : seen.headers.fields()) {
    EXPECT_THAT(value, Not(HasSubstr("agents-own"))) << name;
    EXPECT_THAT(value, Not(HasSubstr("evil"))) << name;
  }
  EXPECT_FALSE(seen.headers.get("Cookie"));
  gate::testing::run_until(shard_, [&] { return counters().open == 0; });
  EXPECT_EQ(counters().turns, 1u);
}

TEST_F(PassthroughTest, ToolsThatARolloutAsksForAreInWhatTheUpstreamGets) {
  gate::Tool& tool = registration_.tools.emplace_back();
  tool.name = "lookup";
  tool.handler = [](auto, gate::ToolReply reply) {
    reply.answer({"x"});
  };
  registration_.tools_in_requests = gate::ToolsInRequests::kAdded;
  open_gate();
  auto agent = this->agent();
  agent.post(kPath, body());
  EXPECT_EQ(agent.response().status, 200);
  ASSERT_EQ(requests_.size(), 1u);
  EXPECT_THAT(requests_[0].body, HasSubstr(R"("function":{"name":"lookup")"));
}

TEST_F(PassthroughTest, EachDialectHasItsPathAndItsHeaderForTheKey) {
  registration_.dialects = {llm::Dialect::kResponses, llm::Dialect::kMessages,
                            llm::Dialect::kGemini};
  open_gate();
  response_ = net::json_response(200, "{}");
  auto agent = this->agent();
  const auto sent = [&](std::string_view path, std::string_view body) {
    agent.post(path, body,
               "x-api-key: placeholder\r\nx-goog-api-key: placeholder\r\n"
               "Authorization: Bearer placeholder\r\nanthropic-version: 2023-06-01\r\n");
    EXPECT_EQ(agent.response().status, 200) << path;
    const net::HttpRequest& request = requests_.back();
    EXPECT_EQ(request.body, body);
    std::string keys;
    for (const auto& [name, value] : request.headers.fields()) {
      if (value.find("placeholder") != std::string::npos) ADD_FAILURE() << name;
      if (value.find("sk-real") != std::string::npos) keys += name + ": " + value;
    }
    return request.target + " " + keys;
  };
  EXPECT_EQ(sent("/v1/responses", R"({"model":"m","input":"hi"})"),
            "/api/v1/responses Authorization: Bearer sk-real");
  EXPECT_EQ(sent("/v1/messages?beta=true",
                 R"({"model":"m","max_tokens":1,"messages":[{"role":"user","content":"hi"}]})"),
            "/api/v1/messages x-api-key: sk-real");
  EXPECT_EQ(requests_.back().headers.get_or("anthropic-version", ""), "2023-06-01");
  const std::string contents = R"({"contents":[{"parts":[{"text":"hi"}]}]})";
  EXPECT_EQ(sent("/v1beta/models/m-1:generateContent", contents),
            "/api/v1/models/m-1:generateContent x-goog-api-key: sk-real");
  EXPECT_EQ(sent("/v1beta/models/m-1:streamGenerateContent?key=placeholder&alt=sse", contents),
            "/api/v1/models/m-1:streamGenerateContent?alt=sse x-goog-api-key: sk-real");
  // A model's name stays one segment, whatever is in it.
  EXPECT_EQ(sent("/v1beta/models/..%2F..%3Fa%20b:streamGenerateContent", contents),
            "/api/v1/models/..%2F..%3Fa%20b:streamGenerateContent x-goog-api-key: sk-real");
}

TEST_F(PassthroughTest, OnlyHarmlessHeadersComeBack) {
  response_.headers = {{"Content-Type", "application/json"},  {"Retry-After", "3"},
                       {"X-RateLimit-Remaining-Tokens", "5"}, {"Set-Cookie", "session=1"},
                       {"OpenAI-Organization", "the-lab"},    {"Keep-Alive", "timeout=5"}};
  open_gate();
  auto agent = this->agent();
  agent.post(kPath, body());
  const std::string head = agent.response().head;
  EXPECT_THAT(head, HasSubstr("Retry-After: 3"));
  EXPECT_THAT(head, HasSubstr("X-RateLimit-Remaining-Tokens: 5"));
  EXPECT_THAT(head, Not(HasSubstr("Set-Cookie")));
  EXPECT_THAT(head, Not(HasSubstr("the-lab")));
  EXPECT_THAT(head, Not(HasSubstr("timeout=5")));
}

TEST_F(PassthroughTest, StreamsPieceByPieceAsTheyArrive) {
  pieces_ = {"data: one\n\n", "data: two\n\n", "data: [DONE]\n\n"};
  response_.headers = {{"Content-Type", "text/event-stream"}};
  open_gate();
  auto agent = this->agent();
  agent.post(kPath, streaming());
  agent.wait_for("data: one");
  EXPECT_THAT(agent.seen(), Not(HasSubstr("data: two")));
  go_on_.notify();
  agent.wait_for("data: two");
  EXPECT_THAT(agent.seen(), Not(HasSubstr("DONE")));
  go_on_.notify();
  agent.wait_for("DONE");
  go_on_.notify();
  EXPECT_EQ(agent.response().body, "data: one\n\ndata: two\n\ndata: [DONE]\n\n");
  EXPECT_EQ(requests_[0].headers.get("Accept"), "text/event-stream");
}

TEST_F(PassthroughTest, AnUpstreamsErrorIsPassedThroughAsItIs) {
  response_ = net::json_response(429, R"({"error":{"message":"slow down"}})");
  open_gate();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto response = agent.response();
  EXPECT_EQ(response.status, 429);
  EXPECT_EQ(response.body, R"({"error":{"message":"slow down"}})");
  gate::testing::run_until(shard_, [&] { return counters().open == 0; });
  EXPECT_EQ(counters().turns, 0u);
}

// What the gate asks for itself, when calls failed: is there anybody at all?
TEST_F(PassthroughTest, AProbeTellsAnAnswerFromAnOutage) {
  open_gate();
  const auto probe = [&] {
    return net::testing::run(
        shard_, registration_.policy->probe(llm::Dialect::kMessages, Deadline::in(5s)));
  };
  for (const int status : {200, 400, 403, 404}) {
    response_ = net::json_response(status, "{}");
    EXPECT_TRUE(probe()) << status;
  }
  EXPECT_EQ(probes_.back().target, "/api/v1/models");
  EXPECT_EQ(probes_.back().headers.get("x-api-key"), "sk-real");
  for (const int status : {307, 401, 429, 500, 502, 503}) {
    response_ = net::json_response(status, "{}");
    const auto answered = probe();
    ASSERT_FALSE(answered) << status;
    EXPECT_EQ(answered.error().code,
              status == 401 ? ErrorCode::kPermissionDenied : ErrorCode::kExhausted);
    EXPECT_EQ(answered.error().message, "status " + std::to_string(status));
  }
  EXPECT_EQ(registration_.policy->base_url(), "https://model.example/api/v1");
}

TEST_F(PassthroughTest, AProbeOfWhatIsNotThereOrSaysNothingFails) {
  open_gate();
  const auto probe = [&](Duration time) {
    return net::testing::run(shard_,
                             registration_.policy->probe(llm::Dialect::kChat, Deadline::in(time)));
  };
  pieces_ = {"{"};  // and never more
  const auto silent = probe(50ms);
  ASSERT_FALSE(silent);
  EXPECT_EQ(silent.error().code, ErrorCode::kTimedOut);
  unreachable_ = true;
  const auto refused = probe(5s);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("refused"));
  EXPECT_THAT(refused.error().message + silent.error().message, Not(HasSubstr("sk-real")));
}

TEST_F(PassthroughTest, ARedirectIsRefusedAndNotPassedOn) {
  response_ = net::json_response(307, "");
  response_.headers.add("Location", "http://169.254.169.254/latest/meta-data");
  open_gate();
  auto agent = this->agent();
  agent.post(kPath, body());
  const auto response = agent.response();
  EXPECT_EQ(response.status, 502);
  EXPECT_THAT(response.head + response.body, Not(HasSubstr("169.254")));
  gate::testing::run_until(shard_, [&] { return counters().open == 0; });
  EXPECT_EQ(requests_.size(), 1u);
  const auto entries = recorder_.entries();
  EXPECT_THAT(entries.back().detail, HasSubstr("redirect (307)"));
}

TEST_F(PassthroughTest, AnUnreachableUpstreamIs503) {
  unreachable_ = true;
  open_gate();
  auto agent = this->agent();
  agent.post(kPath, streaming());
  const auto response = agent.response();
  EXPECT_EQ(response.status, 503);
  EXPECT_THAT(response.body, Not(HasSubstr("model.example")));
}

TEST_F(PassthroughTest, AConnectionThatBreaksBeforeAnyByteIsTriedAgainOnce) {
  open_gate();
  auto agent = this->agent();
  for (const bool kept : {false, true}) {  // the connection, from the call before
    breaks_ = 1;
    requests_.clear();
    agent.post(kPath, body(kept));
    const auto response = agent.response();
    EXPECT_EQ(response.status, 200) << kept;
    EXPECT_EQ(response.body, R"({"id":"from upstream","choices":[{"message":{}}]})");
    ASSERT_EQ(requests_.size(), 2u);
    EXPECT_EQ(requests_[0].body, requests_[1].body);
    EXPECT_EQ(requests_[1].headers.get("Authorization"), "Bearer sk-real");
  }
  EXPECT_EQ(counters().calls, 2u);

  breaks_ = 100;
  requests_.clear();
  agent.post(kPath, body(2));
  EXPECT_EQ(agent.response().status, 503);
  EXPECT_EQ(requests_.size(), 2u) << "once";
  gate::testing::run_until(shard_, [&] { return counters().open == 0; });
  EXPECT_EQ(counters().ended(llm::Outcome::kFailed), 1u);
}

TEST_F(PassthroughTest, WhatWasCutBeforeItsFinishIsUndeliveredAndNotAskedForAgain) {
  pieces_ = {"data: one\n\n"};
  cut_ = true;
  response_.headers = {{"Content-Type", "text/event-stream"}};
  open_gate();
  auto agent = this->agent();
  agent.post(kPath, streaming());
  agent.wait_for("data: one");
  go_on_.notify();
  agent.wait_until_closed();
  EXPECT_THAT(agent.seen(), Not(HasSubstr("\r\n0\r\n\r\n")));
  gate::testing::run_until(shard_, [&] { return counters().open == 0; });
  EXPECT_EQ(counters().ended(llm::Outcome::kUndelivered), 1u);
  EXPECT_EQ(requests_.size(), 1u);
}

TEST_F(PassthroughTest, SilenceHasADeadlineOfItsOwn) {
  asked_.set_silence(50ms);
  open_gate();
  auto agent = this->agent();
  silent_ = true;
  agent.post(kPath, streaming(1));
  EXPECT_EQ(agent.response().status, 504);
  gate::testing::run_until(shard_, [&] { return counters().open == 0; });
  EXPECT_EQ(counters().ended(llm::Outcome::kFailed), 1u);
  EXPECT_EQ(requests_.size(), 1u) << "it may be at work";
  gate::testing::run_until(shard_, [&] { return client_gone_; });
  go_on_.notify();
  gate::testing::settle(shard_);

  silent_ = false;
  pieces_ = {"data: one\n\n"};  // and never more
  response_.headers = {{"Content-Type", "text/event-stream"}};
  auto second = this->agent();
  second.post(kPath, streaming(2));
  second.wait_until_closed();
  EXPECT_THAT(second.seen(), HasSubstr("data: one"));
  gate::testing::run_until(shard_, [&] { return counters().open == 0; });
  EXPECT_EQ(counters().ended(llm::Outcome::kUndelivered), 1u);
  EXPECT_THAT(recorder_.entries().back().detail, HasSubstr("stopped coming"));
}

TEST_F(PassthroughTest, AnAgentThatLeavesBeforeAnythingCameIsNotAskedForAgain) {
  silent_ = true;
  open_gate();
  auto agent = this->agent();
  agent.post(kPath, streaming());
  gate::testing::run_until(shard_, [&] { return !requests_.empty(); });
  agent.reset();
  gate::testing::run_until(shard_, [&] { return counters().open == 0 && client_gone_; });
  gate::testing::settle(shard_);
  EXPECT_EQ(requests_.size(), 1u);
  EXPECT_EQ(counters().ended(llm::Outcome::kUndelivered), 1u);
}

TEST_F(PassthroughTest, TheAgentsLeavingCancelsTheUpstreamCall) {
  pieces_ = {"data: one\n\n", "data: two\n\n"};
  open_gate();
  auto agent = this->agent();
  agent.post(kPath, streaming());
  agent.wait_for("data: one");
  agent.reset();
  gate::testing::run_until(shard_, [&] { return counters().open == 0; });
  EXPECT_EQ(counters().ended(llm::Outcome::kUndelivered), 1u);
  gate::testing::run_until(shard_, [&] { return client_gone_; });
}

TEST_F(PassthroughTest, TheKeyIsInNothingThatIsKept) {
  unreachable_ = true;
  open_gate();
  auto agent = this->agent();
  agent.post(kPath, body());
  agent.response();
  gate::testing::run_until(shard_, [&] { return counters().open == 0; });
  for (const auto& entry : recorder_.entries()) {
    EXPECT_THAT(entry.detail, Not(HasSubstr("sk-real"))) << entry.kind;
  }
}

TEST(PassthroughOptionsTest, RefusesWhatCannotWork) {
  net::Shard shard;
  net::BlockingPool names(1);
  const auto refused = [&](std::string url, std::string key) {
    PassthroughOptions options;
    options.base_url = std::move(url);
    options.key = std::move(key);
    const auto policy = make_passthrough(shard, names, std::move(options));
    return policy ? "" : policy.error().message;
  };
  EXPECT_EQ(refused("http://127.0.0.1:8000/v1", ""), "");
  EXPECT_NE(refused("ftp://x", ""), "");
  EXPECT_NE(refused("", ""), "");
  EXPECT_NE(refused("https://user:pass@x/v1", ""), "");
  const std::string message = refused("https://x/v1", "sk-1\nX-Evil: 1");
  EXPECT_THAT(message, HasSubstr("line break"));
  EXPECT_THAT(message, Not(HasSubstr("sk-1")));
}

}  // namespace
}  // namespace sluice::upstream
