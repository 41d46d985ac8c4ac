// The server against a tool environment: what goes over the wire, byte for byte where clients see
// it. What OpenEnv's own clients and the official MCP clients make of it is tested in tests/env.
#include "sluice/env/server.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "sluice/env/documents.h"
#include "sluice/env/python_text.h"
#include "sluice/env/testing.h"
#include "sluice/net/http_client.h"
#include "sluice/net/memory_stream.h"
#include "sluice/net/sse.h"
#include "sluice/net/testing.h"

namespace sluice::env {
namespace {

using namespace std::chrono_literals;
using net::HttpRequest;
using net::HttpResponse;
using net::WebSocket;

class NamedListener final : public net::Listener {
 public:
  NamedListener(std::unique_ptr<net::MemoryListener> inner, std::string address)
      : inner_(std::move(inner)), address_(std::move(address)) {}
  awaitable<Result<std::unique_ptr<net::Stream>>> accept() override { return inner_->accept(); }
  void close() override { inner_->close(); }
  std::string address() const override { return address_; }

 private:
  std::unique_ptr<net::MemoryListener> inner_;
  std::string address_;
};

awaitable<Result<std::unique_ptr<net::Stream>>> connect_to(net::MemoryListener** listener,
                                                           net::MemoryStream** last) {
  std::unique_ptr<net::MemoryStream> stream = (*listener)->connect(64 << 20);
  *last = stream.get();
  co_return std::unique_ptr<net::Stream>(std::move(stream));
}

// A client's WebSocket with the stream beneath it.
struct Socket {
  std::unique_ptr<net::Stream> stream;
  net::MemoryStream* memory = nullptr;  // what carries it
  std::unique_ptr<WebSocket> web;
};

awaitable<void> fetch_into(net::HttpClient* client, HttpRequest request,
                           std::optional<Result<HttpResponse>>* into) {
  into->emplace(co_await client->fetch(std::move(request), Deadline::in(20s)));
}

class EnvServerTest : public ::testing::Test {
 protected:
  EnvServerTest() { options_.max_sessions = 4; }
  ~EnvServerTest() override {
    client_.reset();
    for (Socket* socket : sockets_) socket->stream->close();
    if (server_) net::testing::run(shard_, server_->stop(Deadline::in(0s)));
    for (Socket* socket : sockets_) {
      if (socket->web) net::testing::run(shard_, socket->web->close(1000, ""));
      delete socket;
    }
    if (factory_) {
      EXPECT_EQ(factory_->log.created, factory_->log.closed);
    }
  }

  testing::ToolEnvironmentFactory& factory() {
    if (!factory_) factory_.emplace(environment_);
    return *factory_;
  }
  EnvServer& server() {
    if (server_) return *server_;
    EnvironmentFactory& served = other_ ? *other_ : factory();
    auto made = EnvServer::make(shard_, served, options_);
    EXPECT_TRUE(made) << made.error().message;
    server_ = std::move(*made);
    auto listener = std::make_unique<net::MemoryListener>(shard_);
    listener_ = listener.get();
    EXPECT_TRUE(server_->serve(std::move(listener)));
    client_.emplace(
        shard_, [this](Deadline) { return connect_to(&listener_, &last_); }, "localhost");
    return *server_;
  }

  HttpResponse http(std::string method, std::string target, std::string body = "",
                    net::Headers headers = {{"Content-Type", "application/json"}}) {
    server();
    HttpRequest request{std::move(method), std::move(target), std::move(headers), std::move(body)};
    auto response =
        net::testing::run(shard_, client_->fetch(std::move(request), Deadline::in(20s)));
    EXPECT_TRUE(response) << response.error().message;
    return response ? *response : HttpResponse{0, {}, {}};
  }
  HttpResponse get(std::string target) { return http("GET", std::move(target), "", {}); }
  HttpResponse post(std::string target, std::string body) {
    return http("POST", std::move(target), std::move(body));
  }
  json::Value get_json(std::string target) {
    const HttpResponse response = get(std::move(target));
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.headers.get_or("Content-Type", ""), "application/json");
    auto value = json::parse(response.body);
    EXPECT_TRUE(value);
    return value ? *value : json::Value();
  }
  std::string mcp(std::string body) {
    const HttpResponse response = post("/mcp", std::move(body));
    EXPECT_EQ(response.status, 200);
    return response.body;
  }

  Result<Socket*> try_connect(std::string path, net::Headers headers = {}) {
    server();
    auto opened = net::testing::run(
        shard_,
        net::open_websocket(&*client_, std::move(path), std::move(headers), Deadline::in(20s)));
    if (!opened) return std::move(opened).error();
    auto* socket = new Socket{std::move(*opened), last_, nullptr};
    sockets_.push_back(socket);
    net::WebSocketOptions options;
    options.message_bytes = 100 << 20;
    options.ping_interval = 1h;
    socket->web = std::make_unique<WebSocket>(shard_, socket->stream.get(), Bytes(),
                                              net::websocket::Role::kClient, options);
    return socket;
  }
  Socket& connect(std::string path = "/ws") {
    auto socket = try_connect(std::move(path));
    EXPECT_TRUE(socket) << socket.error().message;
    return **socket;
  }
  void send(Socket& socket, std::string text, WebSocket::Kind kind = WebSocket::Kind::kText) {
    EXPECT_TRUE(net::testing::run(shard_, socket.web->send(kind, std::move(text))));
  }
  // The next frame, or "closed CODE".
  std::string next(Socket& socket) {
    auto message = net::testing::run(shard_, socket.web->read());
    return message ? message->data : "closed " + std::to_string(socket.web->close_code());
  }
  std::string ask(Socket& socket, std::string text) {
    send(socket, std::move(text));
    return next(socket);
  }
  json::Object ask_json(Socket& socket, std::string text) {
    return parse_document(ask(socket, std::move(text)));
  }

  // What is answered to bytes that no client of ours would send, as far as the head and a body of
  // JSON go.
  Bytes answer_to(ByteView request) {
    server();
    const auto raw = listener_->connect();
    EXPECT_TRUE(net::testing::run(shard_, net::write_all(raw.get(), request)));
    Bytes answer;
    shard_.run_until([&] {
      answer += raw->take_unread();
      return raw->peer_gone() || (answer.find("\r\n\r\n") != Bytes::npos && answer.back() == '}');
    });
    return answer;
  }
  std::string create_session() {
    const json::Object created =
        parse_document(mcp(R"({"jsonrpc":"2.0","id":1,"method":"openenv/session/create"})"));
    return std::string(created.at("result").at("session_id").as_string());
  }

  net::Shard shard_;
  testing::ToolEnvironmentOptions environment_;
  ServerOptions options_;
  std::optional<testing::ToolEnvironmentFactory> factory_;
  std::unique_ptr<EnvironmentFactory> other_;  // served instead, if there is one
  std::unique_ptr<EnvServer> server_;
  net::MemoryListener* listener_ = nullptr;
  net::MemoryStream* last_ = nullptr;  // the connection made last
  std::optional<net::HttpClient> client_;
  std::vector<Socket*> sockets_;
};

// Says again what it is told, as an action of its own; one that says "fail" fails.
class SayingEnvironment final : public Environment {
 public:
  awaitable<Result<Observation>> reset(json::Object, CallContext*) override {
    co_return Observation();
  }
  awaitable<Result<Observation>> step(json::Object action, CallContext*) override {
    const std::string_view message = *json::get_string(action, "message");
    if (message == "fail") {
      co_return Error(ErrorCode::kInvalidArgument, "this cannot be said");
    }
    ++steps_;
    Observation said;
    said.fields["said"] = message;
    said.reward = 0.5;
    co_return said;
  }
  Result<json::Object> state() override {
    json::Object now;
    now["episode_id"] = "e";
    now["step_count"] = steps_;
    return now;
  }

 private:
  int64_t steps_ = 0;
};

class SayingFactory final : public EnvironmentFactory {
 public:
  SayingFactory() {
    info_.name = info_.class_name = "Saying";
    info_.actions = EnvironmentInfo::Actions::kOwn;
    info_.sessions = EnvironmentInfo::Sessions::kMany;
    info_.action_schema = parse_document(
        R"({"type":"object","properties":{"message":{"type":"string"}},"required":["message"],)"
        R"("additionalProperties":false})");
  }
  const EnvironmentInfo& info() const override { return info_; }
  awaitable<Result<std::unique_ptr<Environment>>> create(std::string) override {
    std::unique_ptr<Environment> made = std::make_unique<SayingEnvironment>();
    co_return made;
  }

 private:
  EnvironmentInfo info_;
};

std::vector<std::string> keys_of(const json::Value& object) {
  std::vector<std::string> keys;
  for (const auto& field : object.as_object()) keys.emplace_back(field.key());
  return keys;
}

constexpr const char* kEcho = R"("action":{"tool_name":"echo","arguments":{"message":"hü"}})";
constexpr const char* kEchoed =
    R"({"observation":{"tool_name":"echo","result":{"content":[{"type":"text","text":"hü",)"
    R"("annotations":null,"meta":null}],"structured_content":{"result":"hü"},"meta":null,)"
    R"("data":"hü","is_error":false},"error":null},"reward":null,"done":false})";
constexpr const char* kEchoedMcp =
    R"({"content":[{"type":"text","text":"hü"}],"structuredContent":{"result":"hü"},)"
    R"("isError":false,"structured_content":{"result":"hü"},"data":"hü","is_error":false})";

// --- HTTP ---------------------------------------------------------------------------------------

TEST_F(EnvServerTest, answers_what_needs_no_environment) {
  EXPECT_EQ(get("/health").body, R"({"status":"healthy"})");
  EXPECT_EQ(get("/health").headers.get_or("Content-Type", ""), "application/json");
  EXPECT_EQ(get("/metadata").body,
            R"({"name":"ToolEnv","description":"ToolEnv environment","readme_content":null,)"
            R"("version":"1.0.0","author":null,"documentation_url":null})");
  EXPECT_EQ(get_json("/schema"), json::Value(tool_schemas()));
  EXPECT_EQ(factory().log.created, 0);
}

TEST_F(EnvServerTest, defect_14_a_reset_over_http_says_what_the_environment_says) {
  // OpenEnv leaves the metadata out, so that "ready" and every error of a reset are lost.
  const char* expected =
      R"({"observation":{"metadata":{"status":"ready"}},"reward":null,"done":false})";
  for (const char* body : {"", "{}", R"({"seed":"12","episode_id":"e"})",
                           R"({"seed":null,"x":[1]})", R"({"seed":true})", R"({"seed":2.0})",
                           R"({"seed":340282366920938463463374607431768211455})"}) {
    const HttpResponse response = post("/reset", body);
    EXPECT_EQ(response.status, 200) << body;
    EXPECT_EQ(response.body, expected);
  }
  EXPECT_EQ(http("POST", "/reset", "{}", {{"Content-Type", "application/vnd.x+json; a=b"}}).status,
            200);
  EXPECT_EQ(factory().log.created, 8);  // a fresh one each
}

TEST_F(EnvServerTest, refuses_resets_in_fastapis_words) {
  const std::string long_id(256, 'a');
  const std::pair<std::string, std::string> cases[] = {
      {R"({"seed":-1})",
       R"({"type":"greater_than_equal","loc":["body","seed"],)"
       R"("msg":"Input should be greater than or equal to 0","input":-1,"ctx":{"ge":0}})"},
      {R"({"seed":"x"})",
       R"({"type":"int_parsing","loc":["body","seed"],"msg":"Input should be a valid integer, )"
       R"(unable to parse string as an integer","input":"x"})"},
      {R"({"seed":1.5})",
       R"({"type":"int_from_float","loc":["body","seed"],"msg":"Input should be a valid integer, )"
       R"(got a number with a fractional part","input":1.5})"},
      {R"({"episode_id":5})", R"({"type":"string_type","loc":["body","episode_id"],)"
                              R"("msg":"Input should be a valid string","input":5})"},
      {R"({"episode_id":")" + long_id + R"("})",
       R"({"type":"string_too_long","loc":["body","episode_id"],)"
       R"("msg":"String should have at most 255 characters","input":")" +
           long_id + R"(","ctx":{"max_length":255}})"},
      {R"({"seed":-1,"episode_id":7})",
       R"({"type":"greater_than_equal","loc":["body","seed"],)"
       R"("msg":"Input should be greater than or equal to 0","input":-1,"ctx":{"ge":0}},)"
       R"({"type":"string_type","loc":["body","episode_id"],)"
       R"("msg":"Input should be a valid string","input":7})"},
      {"{", R"({"type":"json_invalid","loc":["body",1],"msg":"JSON decode error","input":{},)"
            R"("ctx":{"error":"Expecting property name enclosed in double quotes"}})"},
      {"{} x", R"({"type":"json_invalid","loc":["body",3],"msg":"JSON decode error","input":{},)"
               R"("ctx":{"error":"Extra data"}})"},
      {"null", R"({"type":"model_attributes_type","loc":["body"],"msg":"Input should be a valid )"
               R"(dictionary or object to extract fields from","input":null})"},
      {"[1]", R"({"type":"model_attributes_type","loc":["body"],"msg":"Input should be a valid )"
              R"(dictionary or object to extract fields from","input":[1]})"},
  };
  for (const auto& [body, problem] : cases) {
    const HttpResponse response = post("/reset", body);
    EXPECT_EQ(response.status, 422) << body;
    EXPECT_EQ(response.body, "{\"detail\":[" + problem + "]}");
  }
  const std::string text_body =
      R"({"detail":[{"type":"model_attributes_type","loc":["body"],"msg":"Input should be a valid )"
      R"(dictionary or object to extract fields from","input":"{}"}]})";
  EXPECT_EQ(http("POST", "/reset", "{}", {{"Content-Type", "text/plain"}}).body, text_body);
  EXPECT_EQ(http("POST", "/reset", "{}", {}).body, text_body);
  EXPECT_EQ(http("POST", "/reset", "\xFF{}").status, 400);
  EXPECT_EQ(http("POST", "/reset", "\xFF{}").body,
            R"({"detail":"There was an error parsing the body"})");
  EXPECT_EQ(factory().log.created, 0);
}

TEST_F(EnvServerTest, steps_over_http) {
  EXPECT_EQ(post("/step", "{" + std::string(kEcho) + "}").body, kEchoed);
  EXPECT_EQ(
      post("/step", "{" + std::string(kEcho) + R"(,"timeout_s":"1.5","request_id":"r","x":1})")
          .status,
      200);
  const json::Object listed =
      parse_document(post("/step", R"({"action":{"type":"list_tools"}})").body);
  const json::Array& tools = listed.at("observation").at("tools").as_array();
  ASSERT_EQ(tools.size(), 4U);
  EXPECT_EQ(tools[1].at("name"), "fail");
  EXPECT_EQ(python::compact(tools[1]),
            R"({"name":"fail","description":"Fail.","input_schema":{"type":"object",)"
            R"("additionalProperties":false,"properties":{"message":{"type":"string",)"
            R"("default":"boom"}}}})");
  EXPECT_EQ(listed.at("reward"), nullptr);
  EXPECT_EQ(listed.at("done"), false);
}

TEST_F(EnvServerTest, refuses_steps_in_fastapis_words) {
  const std::pair<const char*, const char*> cases[] = {
      {"", R"({"type":"missing","loc":["body"],"msg":"Field required","input":null})"},
      {"{}", R"({"type":"missing","loc":["body","action"],"msg":"Field required","input":{}})"},
      {R"({"action":5})",
       R"({"type":"dict_type","loc":["body","action"],"msg":"Input should be a valid dictionary",)"
       R"("input":5})"},
      {R"({"action":{},"timeout_s":0})",
       R"({"type":"greater_than","loc":["body","timeout_s"],"msg":"Input should be greater than )"
       R"(0","input":0,"ctx":{"gt":0.0}})"},
      {R"({"action":{},"timeout_s":"x"})",
       R"({"type":"float_parsing","loc":["body","timeout_s"],"msg":"Input should be a valid )"
       R"(number, unable to parse string as a number","input":"x"})"},
      {R"({"action":{},"request_id":5})",
       R"({"type":"string_type","loc":["body","request_id"],"msg":"Input should be a valid )"
       R"(string","input":5})"},
      // What is wrong with an action has no "body" in front and a link behind.
      {R"({"action":{}})",
       R"({"type":"missing","loc":["tool_name"],"msg":"Field required","input":{},)"
       R"("url":"https://errors.pydantic.dev/2.14/v/missing"})"},
      {R"({"action":{"type":"list_tools","x":1}})",
       R"({"type":"extra_forbidden","loc":["x"],"msg":"Extra inputs are not permitted","input":1,)"
       R"("url":"https://errors.pydantic.dev/2.14/v/extra_forbidden"})"},
      {R"({"action":{"type":"zzz"}})",
       R"({"type":"literal_error","loc":["type"],"msg":"Input should be 'call_tool'",)"
       R"("input":"zzz","ctx":{"expected":"'call_tool'"},)"
       R"("url":"https://errors.pydantic.dev/2.14/v/literal_error"},)"
       R"({"type":"missing","loc":["tool_name"],"msg":"Field required","input":{"type":"zzz"},)"
       R"("url":"https://errors.pydantic.dev/2.14/v/missing"})"},
      {R"({"action":{"tool_name":"echo","arguments":5,"bogus":1}})",
       R"({"type":"dict_type","loc":["arguments"],"msg":"Input should be a valid dictionary",)"
       R"("input":5,"url":"https://errors.pydantic.dev/2.14/v/dict_type"},)"
       R"({"type":"extra_forbidden","loc":["bogus"],"msg":"Extra inputs are not permitted",)"
       R"("input":1,"url":"https://errors.pydantic.dev/2.14/v/extra_forbidden"})"},
      {R"({"action":{"tool_name":"echo","metadata":[]}})",
       R"({"type":"dict_type","loc":["metadata"],"msg":"Input should be a valid dictionary",)"
       R"("input":[],"url":"https://errors.pydantic.dev/2.14/v/dict_type"})"},
  };
  for (const auto& [body, problem] : cases) {
    const HttpResponse response = post("/step", body);
    EXPECT_EQ(response.status, 422) << body;
    EXPECT_EQ(response.body, "{\"detail\":[" + std::string(problem) + "]}");
  }
  const auto with_id = [&](size_t length) {
    return post("/step", R"({"action":{"type":"list_tools"},"request_id":")" +
                             std::string(length, 'a') + "\"}");
  };
  EXPECT_EQ(with_id(255).status, 200);
  EXPECT_EQ(with_id(256).status, 422);
  EXPECT_EQ(with_id(256).body,
            R"({"detail":[{"type":"string_too_long","loc":["body","request_id"],)"
            R"("msg":"String should have at most 255 characters","input":")" +
                std::string(256, 'a') + R"(","ctx":{"max_length":255}}]})");
}

TEST_F(EnvServerTest, a_failed_tool_is_an_observation_with_an_error) {
  const auto error = [&](const char* tool, const char* arguments, const char* more = "") {
    const json::Object body =
        parse_document(post("/step", std::string(R"({"action":{"tool_name":")") + tool +
                                         R"(","arguments":)" + arguments + "}" + more + "}")
                           .body);
    EXPECT_EQ(body.at("observation").at("result"), nullptr);
    EXPECT_EQ(body.at("observation").at("error").as_object().size(), 2U);
    return python::compact(body.at("observation").at("error"));
  };
  EXPECT_EQ(error("nope", "{}"),
            R"({"error_type":"tool_not_found","message":"Unknown tool: 'nope'"})");
  EXPECT_EQ(error("fail", "{}"),
            R"({"error_type":"execution_error","message":"Error calling tool 'fail': boom"})");
  EXPECT_EQ(
      error("fail", R"({"message":"File NOT FOUND"})"),
      R"({"error_type":"tool_not_found","message":"Error calling tool 'fail': File NOT FOUND"})");
  EXPECT_EQ(error("fail", R"({"message":"bad Argument"})"),
            R"({"error_type":"invalid_args","message":"Error calling tool 'fail': bad Argument"})");
  EXPECT_EQ(error("fail", R"({"message":"Invalid id"})"),
            R"({"error_type":"invalid_args","message":"Error calling tool 'fail': Invalid id"})");
  EXPECT_EQ(error("echo", R"({"message":"a","bogus":1})"),
            R"({"error_type":"invalid_args","message":"1 validation error for call[echo]\nbogus\n)"
            R"(  Unexpected keyword argument [type=unexpected_keyword_argument, input_value=1, )"
            R"(input_type=int]\n    For further information visit )"
            R"(https://errors.pydantic.dev/2.14/v/unexpected_keyword_argument"})");
  // A time-out ends what runs: OpenEnv's goes on behind the client's back.
  EXPECT_EQ(error("wait", R"({"seconds":60})", R"(,"timeout_s":0.03)"),
            R"({"error_type":"timeout","message":"Tool 'wait' timed out after 0.03 seconds"})");
  shard_.run_until([&] { return factory().log.cancelled == 1; });
  EXPECT_EQ(factory().log.last_reason, CancelReason::kTimedOut);
}

TEST_F(EnvServerTest, a_steps_time_is_the_environments_unless_the_client_names_one) {
  environment_.step_timeout = 30ms;
  const json::Object body = parse_document(
      post("/step", R"({"action":{"tool_name":"wait","arguments":{"seconds":60}}})").body);
  EXPECT_EQ(body.at("observation").at("error").at("message"),
            "Tool 'wait' timed out after 0.03 seconds");
  const std::string quick =
      R"({"action":{"tool_name":"wait","arguments":{"seconds":0.1}},"timeout_s":20})";
  EXPECT_EQ(parse_document(post("/step", quick).body).at("observation").at("error"), nullptr);
  // A frame on /ws has no place for one.
  const json::Object frame = ask_json(
      connect(), R"({"type":"step","data":{"tool_name":"wait","arguments":{"seconds":60}}})");
  EXPECT_EQ(python::compact(frame.at("data").at("observation").at("error")),
            R"({"error_type":"timeout","message":"Tool 'wait' timed out after 0.03 seconds"})");
}

TEST_F(EnvServerTest, shows_the_base_of_a_fresh_state_over_http) {
  const json::Object state = get_json("/state").as_object();
  EXPECT_EQ(state.size(), 2U);
  EXPECT_EQ(state.at("episode_id").as_string().size(), 36U);
  EXPECT_EQ(state.at("step_count"), 0);
  EXPECT_NE(get_json("/state").at("episode_id"), state.at("episode_id"));
}

TEST_F(EnvServerTest, says_not_found_and_not_allowed_as_fastapi_does) {
  EXPECT_EQ(get("/nope").status, 404);
  EXPECT_EQ(get("/nope").body, R"({"detail":"Not Found"})");
  EXPECT_EQ(get("/ws").status, 404);
  const std::tuple<const char*, const char*, const char*> cases[] = {
      {"GET", "/reset", "POST"},  {"PUT", "/state", "GET"},   {"OPTIONS", "/health", "GET"},
      {"GET", "/mcp", "POST"},    {"DELETE", "/mcp", "POST"}, {"POST", "/health", "GET"},
      {"POST", "/metrics", "GET"}};
  for (const auto& [method, path, allow] : cases) {
    const HttpResponse response = http(method, path, "", {});
    EXPECT_EQ(response.status, 405) << method << path;
    EXPECT_EQ(response.body, R"({"detail":"Method Not Allowed"})");
    EXPECT_EQ(response.headers.get_or("Allow", ""), allow);
  }
  EXPECT_EQ(http("HEAD", "/health", "", {}).status, 405);
  EXPECT_EQ(get("/health/").status, 307);
  EXPECT_EQ(get("/health/").headers.get_or("Location", ""), "/health");
  EXPECT_EQ(get("/%68ealth?x=1").status, 200);
}

TEST_F(EnvServerTest, failures_of_the_environment_are_told_apart) {
  EXPECT_EQ(post("/reset", R"({"fail":"no seed today"})").body, R"({"detail":"no seed today"})");
  EXPECT_EQ(post("/reset", R"({"fail":"no seed today"})").status, 500);
  EXPECT_EQ(post("/reset", R"({"throw":true})").body, R"({"detail":"internal error"})");
  factory().log.create_fails_with = "secret reason";
  const HttpResponse response = post("/reset", "{}");
  EXPECT_EQ(response.status, 500);
  EXPECT_EQ(response.body, "Internal Server Error");
  EXPECT_EQ(response.headers.get_or("Content-Type", ""), "text/plain; charset=utf-8");
  EXPECT_EQ(get("/state").status, 500);
  EXPECT_EQ(get("/health").status, 200);
}

TEST_F(EnvServerTest, bounds_calls_without_a_session) {
  options_.max_stateless_calls = 1;
  server();
  std::optional<Result<HttpResponse>> busy;
  HttpRequest request{"POST",
                      "/step",
                      {{"Content-Type", "application/json"}},
                      R"({"action":{"tool_name":"wait","arguments":{"seconds":0.3}}})"};
  shard_.spawn(fetch_into(&*client_, std::move(request), &busy));
  shard_.run_until([&] { return factory().log.waiting == 1; });
  const HttpResponse refused = post("/reset", "{}");
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.get_or("Retry-After", ""), "1");
  EXPECT_EQ(parse_document(mcp(R"({"jsonrpc":"2.0","id":1,"method":"tools/call",)"
                               R"("params":{"name":"object"}})"))
                .at("error")
                .at("code"),
            -32000);
  shard_.run_until([&] { return busy.has_value(); });
  EXPECT_EQ((*busy)->status, 200);
  EXPECT_EQ(post("/reset", "{}").status, 200);
}

TEST_F(EnvServerTest, a_client_that_leaves_ends_its_call) {
  server();
  auto stream = listener_->connect();
  const std::string body = R"({"action":{"tool_name":"wait","arguments":{"seconds":60}}})";
  const std::string request = "POST /step HTTP/1.1\r\nHost: localhost\r\nContent-Type: " +
                              std::string("application/json\r\nContent-Length: ") +
                              std::to_string(body.size()) + "\r\n\r\n" + body;
  ASSERT_TRUE(net::testing::run(shard_, net::write_all(stream.get(), request)));
  shard_.run_until([&] { return factory().log.waiting == 1; });
  stream->close();
  shard_.run_until([&] { return factory().log.closed == 1; });
  EXPECT_EQ(factory().log.last_reason, CancelReason::kClientGone);
}

TEST_F(EnvServerTest, defect_11_a_client_that_leaves_ends_its_call_over_mcp) {
  server();
  const std::string body =
      R"({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"wait",)"
      R"("arguments":{"seconds":60},"_meta":{"progressToken":1}}})";
  for (const char* accept : {"application/json", "application/json, text/event-stream"}) {
    const int before = factory().log.closed;
    factory().log.last_reason = CancelReason::kNone;
    auto stream = listener_->connect();
    const std::string request =
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: " + std::string(accept) +
        "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
    ASSERT_TRUE(net::testing::run(shard_, net::write_all(stream.get(), request)));
    shard_.run_until([&] { return factory().log.waiting == 1; });
    stream->close();
    shard_.run_until([&] { return factory().log.closed == before + 1; });
    EXPECT_EQ(factory().log.last_reason, CancelReason::kClientGone) << accept;
  }
}

TEST_F(EnvServerTest, production_has_no_orchestration_over_http) {
  options_.mode = ServerMode::kProduction;
  for (const char* path : {"/reset", "/step"}) EXPECT_EQ(post(path, "{}").status, 404) << path;
  EXPECT_EQ(get("/state").status, 404);
  const json::Value openapi = get_json("/openapi.json");
  EXPECT_FALSE(openapi.at("paths").as_object().contains("/reset"));
  EXPECT_TRUE(openapi.at("paths").as_object().contains("/mcp"));
  EXPECT_EQ(get("/metadata").status, 200);
  EXPECT_EQ(get("/health").body, R"({"status":"healthy"})");
  EXPECT_EQ(get_json("/schema"), json::Value(tool_schemas()));
  EXPECT_EQ(ask(connect("/mcp"), R"({"jsonrpc":"2.0","id":1,"method":"ping"})"),
            R"({"jsonrpc": "2.0", "id": 1, "result": {}})");
  EXPECT_EQ(ask(connect(), R"({"type":"reset"})").substr(0, 22), R"({"type":"observation",)");
}

// The document is OpenEnv's own, word for word; here, whether it is true of this server.
TEST_F(EnvServerTest, everything_in_the_document_of_the_api_is_served) {
  const json::Value openapi = get_json("/openapi.json");
  EXPECT_EQ(openapi.at("info").at("title"), "OpenEnv Environment HTTP API");
  EXPECT_EQ(openapi.at("info").at("version"), "1.0.0");
  int operations = 0;
  for (const auto& [path, methods] : openapi.at("paths").as_object()) {
    for (const auto& [method, operation] : methods.as_object()) {
      std::string name(method);
      for (char& c : name) c = static_cast<char>(c - 'a' + 'A');
      const std::string body = name == "POST" ? "{}" : "";
      const int status = http(name, std::string(path), body).status;
      EXPECT_TRUE(status == 200 || status == 422) << name << " " << path << ": " << status;
      EXPECT_TRUE(operation.at("responses").as_object().contains(std::to_string(status)))
          << name << " " << path << ": " << status;
      ++operations;
    }
  }
  EXPECT_GE(operations, 7);
}

TEST_F(EnvServerTest, knows_its_modes_by_name) {
  EXPECT_EQ(*parse_server_mode("Simulation"), ServerMode::kSimulation);
  EXPECT_EQ(*parse_server_mode("PRODUCTION"), ServerMode::kProduction);
  EXPECT_EQ(parse_server_mode("x").error().message,
            "Invalid mode: 'x'. Must be one of: ['simulation', 'production']");
}

TEST_F(EnvServerTest, pages_hold_nothing_from_elsewhere) {
  for (const char* path : {"/", "/web", "/web/", "/docs", "/redoc", "/docs/oauth2-redirect"}) {
    const HttpResponse page = get(path);
    EXPECT_EQ(page.status, 200) << path;
    EXPECT_EQ(page.headers.get_or("Content-Type", ""), "text/html; charset=utf-8");
    EXPECT_EQ(page.headers.get_or("Content-Security-Policy", ""),
              "default-src 'none'; style-src 'unsafe-inline'");
    for (const char* foreign : {"<script", "src=", "http://", "https://", "//cdn"}) {
      EXPECT_EQ(page.body.find(foreign), std::string::npos) << path << " " << foreign;
    }
  }
  const std::string index = get("/").body;
  EXPECT_NE(index.find("opencode &lt;1.18&gt;"), std::string::npos);
  EXPECT_NE(index.find("POST /reset"), std::string::npos);
  EXPECT_NE(get("/docs").body.find("POST /step"), std::string::npos);
}

TEST_F(EnvServerTest, shows_its_metrics) {
  connect();
  post("/reset", R"({"seed":-1})");
  shard_.run_until([&] { return server().sessions() == 1; });
  const HttpResponse page = get("/metrics");
  EXPECT_EQ(page.headers.get_or("Content-Type", ""), "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_NE(page.body.find("sluice_env_sessions 1"), std::string::npos) << page.body;
  EXPECT_NE(page.body.find(R"(sluice_env_requests_total{route="/reset",status="422"} 1)"),
            std::string::npos);
  EXPECT_NE(page.body.find(R"(sluice_env_requests_total{route="/ws",status="101"} 1)"),
            std::string::npos);
}

TEST_F(EnvServerTest, large_bodies_are_refused_as_too_large) {
  options_.http.body_bytes = 1000;
  const HttpResponse response = post("/reset", std::string(1001, ' '));
  EXPECT_EQ(response.status, 413);
  EXPECT_EQ(response.body, R"({"detail":"the body is over 1000 bytes"})");
}

// --- Keys, origins, hosts ------------------------------------------------------------------------

TEST_F(EnvServerTest, keys_guard_everything_but_the_health_page) {
  const std::string key = "a-key-of-twenty-one-x";
  options_.access.keys = {key};
  EXPECT_EQ(get("/health").status, 200);
  for (const char* path : {"/", "/docs", "/metadata", "/schema", "/metrics", "/openapi.json"}) {
    const HttpResponse refused = get(path);
    EXPECT_EQ(refused.status, 401) << path;
    EXPECT_EQ(refused.body, R"({"detail":"Unauthorized"})");
    EXPECT_EQ(refused.headers.get_or("WWW-Authenticate", ""), "Bearer");
  }
  EXPECT_EQ(post("/mcp", "{}").status, 401);
  EXPECT_EQ(post("/reset", "{}").status, 401);
  EXPECT_FALSE(try_connect("/ws"));
  EXPECT_FALSE(try_connect("/mcp", {{"Authorization", "Bearer wrong-but-as-long-as-the-key"}}));
  EXPECT_EQ(http("GET", "/metadata", "", {{"Authorization", "Bearer " + key}}).status, 200);
  EXPECT_TRUE(try_connect("/ws", {{"Authorization", "Bearer " + key}}));
  EXPECT_TRUE(try_connect("/ws", {{"Authorization", "Basic " + to_base64("user:" + key)}}));
}

TEST_F(EnvServerTest, who_has_no_key_is_told_before_any_of_the_body_is_there) {
  options_.access.keys = {"a-key-of-twenty-one-x"};
  server();
  for (const char* line : {"POST /reset", "POST /mcp", "GET /health"}) {
    auto stream = listener_->connect();
    const std::string head = std::string(line) +
                             " HTTP/1.1\r\nHost: localhost\r\n"
                             "Content-Length: 10000000\r\n\r\n";
    ASSERT_TRUE(net::testing::run(shard_, net::write_all(stream.get(), head)));
    shard_.run_until([&] { return stream->unread() > 0; });
    EXPECT_TRUE(stream->take_unread().starts_with("HTTP/1.1 401 ")) << line;
  }
  EXPECT_EQ(factory().log.created, 0);
}

TEST_F(EnvServerTest, foreign_pages_are_refused_over_http_and_websocket) {
  const net::Headers foreign{{"Origin", "https://evil.example"}};
  EXPECT_EQ(http("POST", "/mcp", "{}", foreign).status, 403);
  EXPECT_EQ(http("GET", "/health", "", foreign).status, 403);
  EXPECT_FALSE(try_connect("/ws", foreign));
  EXPECT_FALSE(try_connect("/mcp", foreign));
  EXPECT_TRUE(try_connect("/ws", {{"Origin", "http://localhost"}}));
  EXPECT_EQ(factory().log.created, 1);
}

TEST_F(EnvServerTest, does_not_listen_beyond_loopback_without_keys) {
  auto listener = std::make_unique<NamedListener>(std::make_unique<net::MemoryListener>(shard_),
                                                  "0.0.0.0:8000");
  const auto refused = server().serve(std::move(listener));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kFailedPrecondition);
}

TEST_F(EnvServerTest, refuses_options_that_do_not_go_together) {
  environment_.sessions = EnvironmentInfo::Sessions::kOne;
  const auto several = EnvServer::make(shard_, factory(), options_);
  ASSERT_FALSE(several);
  EXPECT_NE(several.error().message.find("'ToolEnv' allows one session"), std::string::npos);
  options_.max_sessions = 0;
  EXPECT_FALSE(EnvServer::make(shard_, factory(), options_));
  options_.max_sessions = 1;
  options_.access.keys = {"short"};
  EXPECT_FALSE(EnvServer::make(shard_, factory(), options_));
  options_.access.keys.clear();
  EXPECT_TRUE(EnvServer::make(shard_, factory(), options_));
}

// --- /ws -----------------------------------------------------------------------------------------

TEST_F(EnvServerTest, a_session_over_ws_is_one_frame_for_one_frame) {
  Socket& socket = connect();
  EXPECT_EQ(ask(socket, R"({"type":"reset","data":{"episode_id":"e1","seed":-5,"bogus":1}})"),
            R"({"type":"observation","data":{"observation":{"metadata":{"status":"ready"}},)"
            R"("reward":null,"done":false}})");
  EXPECT_EQ(
      ask(socket, R"({"type":"step","data":{"tool_name":"echo","arguments":{"message":"hü"}}})"),
      R"({"type":"observation","data":)" + std::string(kEchoed) + "}");
  EXPECT_EQ(ask(socket, R"({"type":"state"})"),
            R"({"type":"state","data":{"episode_id":"e1","step_count":1,"calls":1}})");
  EXPECT_EQ(
      ask(socket, R"({"type":"mcp","data":{"jsonrpc":"2.0","id":4,"method":"tools/call",)"
                  R"("params":{"name":"echo","arguments":{"message":"hü"}}}})"),
      R"({"type":"mcp","data":{"jsonrpc":"2.0","id":4,"result":)" + std::string(kEchoedMcp) + "}}");
  // MCP calls reach the same environment and are no steps of its episode.
  EXPECT_EQ(ask(socket, R"({"type":"state"})"),
            R"({"type":"state","data":{"episode_id":"e1","step_count":1,"calls":2}})");
  send(socket, R"({"type":"close"})");
  EXPECT_EQ(next(socket), "closed 1000");
  shard_.run_until([&] { return factory().log.closed == 1; });
}

TEST_F(EnvServerTest, ws_mistakes_are_told_and_the_session_stays) {
  Socket& socket = connect();
  const std::pair<const char*, const char*> cases[] = {
      {"{bad",
       R"("message":"Invalid JSON: Expecting property name enclosed in double quotes: line 1 )"
       R"x(column 2 (char 1)","code":"INVALID_JSON")x"},
      {"",
       R"x("message":"Invalid JSON: Expecting value: line 1 column 1 (char 0)","code":"INVALID_JSON")x"},
      {R"({"type":"zzz"})", R"("message":"Unknown message type: zzz","code":"UNKNOWN_TYPE")"},
      {R"({"type":null})", R"("message":"Unknown message type: None","code":"UNKNOWN_TYPE")"},
      {"{}", R"("message":"Unknown message type: ","code":"UNKNOWN_TYPE")"},
      {R"({"type":["a",1]})",
       R"("message":"Unknown message type: ['a', 1]","code":"UNKNOWN_TYPE")"},
      {R"({"type":"state","data":{}})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR","errors":[{"type":"extra_forbidden",)"
       R"("loc":["data"],"msg":"Extra inputs are not permitted","input":{},)"
       R"("url":"https://errors.pydantic.dev/2.14/v/extra_forbidden"}])"},
      {R"({"type":"close","data":{}})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR","errors":[{"type":"extra_forbidden",)"
       R"("loc":["data"],"msg":"Extra inputs are not permitted","input":{},)"
       R"("url":"https://errors.pydantic.dev/2.14/v/extra_forbidden"}])"},
      {R"({"type":"reset","data":null})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR","errors":[{"type":"dict_type",)"
       R"("loc":["data"],"msg":"Input should be a valid dictionary","input":null,)"
       R"("url":"https://errors.pydantic.dev/2.14/v/dict_type"}])"},
      {R"({"type":"step"})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR","errors":[{"type":"missing",)"
       R"("loc":["data"],"msg":"Field required","input":{"type":"step"},)"
       R"("url":"https://errors.pydantic.dev/2.14/v/missing"}])"},
      {R"({"type":"step","data":{}})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR","errors":[{"type":"missing",)"
       R"("loc":["tool_name"],"msg":"Field required","input":{},)"
       R"("url":"https://errors.pydantic.dev/2.14/v/missing"}])"},
      {R"({"type":"reset","x":1})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR","errors":[{"type":"extra_forbidden",)"
       R"("loc":["x"],"msg":"Extra inputs are not permitted","input":1,)"
       R"("url":"https://errors.pydantic.dev/2.14/v/extra_forbidden"}])"},
      {R"({"type":"step","data":{"type":"list_tools"},"timeout_s":1})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR","errors":[{"type":"extra_forbidden",)"
       R"("loc":["timeout_s"],"msg":"Extra inputs are not permitted","input":1,)"
       R"("url":"https://errors.pydantic.dev/2.14/v/extra_forbidden"}])"},
      {R"({"type":"mcp","data":{},"x":[]})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR","errors":[{"type":"extra_forbidden",)"
       R"("loc":["x"],"msg":"Extra inputs are not permitted","input":[],)"
       R"("url":"https://errors.pydantic.dev/2.14/v/extra_forbidden"}])"},
      {R"({"type":"mcp"})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR","errors":[{"type":"missing",)"
       R"("loc":["data"],"msg":"Field required","input":{"type":"mcp"},)"
       R"("url":"https://errors.pydantic.dev/2.14/v/missing"}])"},
      {R"({"type":"mcp","data":"x"})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR","errors":[{"type":"dict_type",)"
       R"("loc":["data"],"msg":"Input should be a valid dictionary","input":"x",)"
       R"("url":"https://errors.pydantic.dev/2.14/v/dict_type"}])"},
      {R"({"type":"reset","data":{"fail":"no seed today"}})",
       R"("message":"no seed today","code":"EXECUTION_ERROR")"},
      {R"({"type":"reset","data":{"throw":1}})",
       R"("message":"internal error","code":"EXECUTION_ERROR")"},
  };
  for (const auto& [sent, data] : cases) {
    EXPECT_EQ(ask(socket, sent), R"({"type":"error","data":{)" + std::string(data) + "}}") << sent;
  }
  ask(socket, R"({"type":"reset","data":{"broken_state":true}})");
  EXPECT_EQ(
      ask(socket, R"({"type":"state"})"),
      R"({"type":"error","data":{"message":"the state is broken","code":"EXECUTION_ERROR"}})");
  EXPECT_EQ(ask(socket, R"({"type":"mcp","data":{}})"),
            R"({"type":"mcp","data":{"jsonrpc":"2.0","id":null,"error":{"code":-32600,)"
            R"("message":"Invalid request: 2 validation errors for JsonRpcRequest\njsonrpc\n  )"
            R"(Field required [type=missing, input_value={}, input_type=dict]\n    For further )"
            R"(information visit https://errors.pydantic.dev/2.14/v/missing\nmethod\n  Field )"
            R"(required [type=missing, input_value={}, input_type=dict]\n    For further )"
            R"(information visit https://errors.pydantic.dev/2.14/v/missing","data":null}}})");
}

TEST_F(EnvServerTest, a_step_that_fails_is_told_and_the_session_stays) {
  other_ = std::make_unique<SayingFactory>();
  Socket& socket = connect();
  EXPECT_EQ(
      ask(socket, R"({"type":"step","data":{"message":"fail"}})"),
      R"({"type":"error","data":{"message":"this cannot be said","code":"EXECUTION_ERROR"}})");
  EXPECT_EQ(ask(socket, R"({"type":"step","data":{"message":"hi"}})"),
            R"({"type":"observation","data":{"observation":{"said":"hi"},"reward":0.5,)"
            R"("done":false}})");
  EXPECT_EQ(post("/step", R"({"action":{"message":"fail"}})").status, 500);
}

TEST_F(EnvServerTest, json_rpc_in_a_frame_knows_the_session_it_is_in) {
  Socket& socket = connect();
  const auto rpc = [&](const std::string& message) {
    return ask(socket, R"({"type":"mcp","data":)" + message + "}");
  };
  const std::string created = rpc(R"({"jsonrpc":"2.0","id":1,"method":"openenv/session/create"})");
  const std::string id = factory().log.last_session;
  EXPECT_EQ(created, R"({"type":"mcp","data":{"jsonrpc":"2.0","id":1,"result":{"session_id":")" +
                         id + R"("}}})");
  EXPECT_EQ(rpc(R"({"jsonrpc":"2.0","id":1,"method":"openenv/session/create"})"), created);
  EXPECT_EQ(factory().log.created, 1);
  EXPECT_EQ(rpc(R"({"jsonrpc":"2.0","id":2,"method":"openenv/session/close","params":)"
                R"({"session_id":")" +
                id + "\"}}"),
            R"({"type":"mcp","data":{"jsonrpc":"2.0","id":2,"error":{"code":-32600,"message":)"
            R"("Cannot close active WebSocket-managed session via MCP method","data":null}}})");
  // A frame gets a frame, also where MCP itself wants no answer.
  EXPECT_EQ(rpc(R"({"jsonrpc":"2.0","method":"notifications/initialized"})"),
            R"({"type":"mcp","data":{"jsonrpc":"2.0","id":null,"result":{}}})");
}

TEST_F(EnvServerTest, defect_13_json_that_is_no_object_is_a_mistake_and_not_the_end) {
  Socket& socket = connect();
  for (const char* sent : {"[]", "1", "null", "\"s\"", "true", "1.5"}) {
    EXPECT_EQ(ask(socket, sent),
              R"({"type":"error","data":{"message":"Invalid message","code":"VALIDATION_ERROR",)"
              R"("errors":[{"type":"dict_type","loc":[],"msg":"Input should be a valid )"
              R"(dictionary","input":)" +
                  std::string(sent) +
                  R"(,"url":"https://errors.pydantic.dev/2.14/v/dict_type"}]}})");
  }
  EXPECT_EQ(ask(socket, R"({"type":"reset"})").substr(0, 22), R"({"type":"observation",)");
}

TEST_F(EnvServerTest, a_binary_frame_ends_a_session) {
  Socket& socket = connect();
  send(socket, "{}", WebSocket::Kind::kBinary);
  EXPECT_EQ(next(socket), R"({"type":"error","data":{"message":"'text'","code":"SESSION_ERROR"}})");
  EXPECT_EQ(next(socket), "closed 1000");
}

TEST_F(EnvServerTest, sessions_of_every_kind_share_the_capacity) {
  options_.max_sessions = 3;
  Socket& first = connect();
  Socket& second = connect("/mcp");
  const std::string created = mcp(R"({"jsonrpc":"2.0","id":1,"method":"openenv/session/create"})");
  const std::string id(parse_document(created).at("result").at("session_id").as_string());
  EXPECT_EQ(id.size(), 36U);

  const std::string message =
      "Server at capacity: 3/3 sessions active. Cannot accept new connections.";
  Socket& refused = connect();
  EXPECT_EQ(next(refused),
            R"({"type":"error","data":{"message":")" + message +
                R"(","code":"CAPACITY_REACHED","active_sessions":3,"max_sessions":3}})");
  EXPECT_EQ(next(refused), "closed 1000");
  Socket& refused_mcp = connect("/mcp");
  EXPECT_EQ(next(refused_mcp),
            R"({"jsonrpc": "2.0", "id": null, "error": {"code": -32000, "message": ")" + message +
                R"(", "data": {"active_sessions": 3, "max_sessions": 3}}})");
  EXPECT_EQ(next(refused_mcp), "closed 1000");
  EXPECT_EQ(mcp(R"({"jsonrpc":"2.0","id":2,"method":"openenv/session/create"})"),
            R"({"jsonrpc":"2.0","id":2,"error":{"code":-32000,"message":")" + message +
                R"(","data":{"active_sessions":3,"max_sessions":3}}})");
  EXPECT_EQ(post("/reset", "{}").status, 200);  // has no session

  EXPECT_EQ(
      mcp(R"({"jsonrpc":"2.0","id":3,"method":"openenv/session/close","params":{"session_id":")" +
          id + "\"}}"),
      R"({"jsonrpc":"2.0","id":3,"result":{"session_id":")" + id + R"(","closed":true}})");
  net::testing::run(shard_, first.web->close(1000, ""));
  second.memory->reset();
  shard_.run_until([&] { return server().sessions() == 0; });
  EXPECT_EQ(ask(connect(), R"({"type":"state"})").substr(0, 16), R"({"type":"state",)");
}

TEST_F(EnvServerTest, an_environment_that_cannot_be_made_is_told_on_every_transport) {
  factory().log.create_fails_with = "secret reason";
  const std::string message = "Environment factory 'ToolEnv' failed to create instance.";
  Socket& socket = connect();
  EXPECT_EQ(next(socket), R"({"type":"error","data":{"message":")" + message +
                              R"(","code":"FACTORY_ERROR","factory_name":"ToolEnv"}})");
  EXPECT_EQ(next(socket), "closed 1000");
  Socket& mcp_socket = connect("/mcp");
  EXPECT_EQ(next(mcp_socket),
            R"({"jsonrpc": "2.0", "id": null, "error": {"code": -32000, "message": ")" + message +
                R"(", "data": {"factory_name": "ToolEnv"}}})");
  EXPECT_EQ(mcp(R"({"jsonrpc":"2.0","id":1,"method":"openenv/session/create"})"),
            R"({"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":")" + message +
                R"(","data":{"factory_name":"ToolEnv"}}})");
}

TEST_F(EnvServerTest, frames_over_16_mib_close_with_1009) {
  Socket& socket = connect();
  EXPECT_TRUE(net::testing::run(
      shard_, socket.web->send(WebSocket::Kind::kText, std::string((16 << 20) + 1, ' '))));
  EXPECT_EQ(next(socket), "closed 1009");
  Socket& other = connect();
  EXPECT_EQ(
      ask(other, std::string((16 << 20) - 16, ' ') + R"({"type":"zzz"})"),
      R"({"type":"error","data":{"message":"Unknown message type: zzz","code":"UNKNOWN_TYPE"}})");
}

TEST_F(EnvServerTest, unknown_sockets_are_forbidden_and_bad_handshakes_refused) {
  EXPECT_NE(try_connect("/nope").error().message.find("403"), std::string::npos);
  EXPECT_NE(try_connect("/ws/ui").error().message.find("403"), std::string::npos);
}

TEST_F(EnvServerTest, handshakes_that_are_none_are_refused_on_every_websocket) {
  options_.web = WebInterface::kOn;
  for (const char* path : {"/ws", "/mcp", "/ws/ui"}) {
    const auto handshake = [&](std::string_view connection, std::string_view version,
                               std::string_view key) {
      return answer_to("GET " + std::string(path) + " HTTP/1.1\r\nHost: localhost\r\n" +
                       "Upgrade: websocket\r\nConnection: " + std::string(connection) +
                       "\r\nSec-WebSocket-Version: " + std::string(version) +
                       "\r\nSec-WebSocket-Key: " + std::string(key) + "\r\n\r\n");
    };
    constexpr const char* key = "dGhlIHNhbXBsZSBub25jZQ==";
    const Bytes old = handshake("Upgrade", "8", key);
    EXPECT_TRUE(old.starts_with("HTTP/1.1 426 ")) << path << old;
    EXPECT_NE(old.find("Upgrade: websocket\r\n"), Bytes::npos) << old;
    EXPECT_NE(old.find("Sec-WebSocket-Version: 13\r\n"), Bytes::npos) << old;
    EXPECT_TRUE(old.ends_with(R"({"detail":"only version 13 of WebSocket is spoken"})")) << old;
    EXPECT_TRUE(handshake("keep-alive", "13", key).starts_with("HTTP/1.1 400 ")) << path;
    EXPECT_TRUE(handshake("Upgrade", "13", "short").starts_with("HTTP/1.1 400 ")) << path;
  }
  EXPECT_EQ(factory().log.created, 0);
}

TEST_F(EnvServerTest, pings_are_answered_while_a_step_runs) {
  Socket& socket = connect();
  send(socket, R"({"type":"step","data":{"tool_name":"wait","arguments":{"seconds":60}}})");
  shard_.run_until([&] { return factory().log.waiting == 1; });
  Bytes ping;
  net::websocket::append_frame(ping, net::websocket::Role::kClient, net::websocket::Opcode::kPing,
                               "still there?");
  // Beneath the client's own WebSocket, which would not show the pong.
  auto raw = listener_->connect();
  const Bytes handshake =
      "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
  Bytes step;
  net::websocket::append_frame(
      step, net::websocket::Role::kClient, net::websocket::Opcode::kText,
      R"({"type":"step","data":{"tool_name":"wait","arguments":{"seconds":60}}})");
  ASSERT_TRUE(net::testing::run(shard_, net::write_all(raw.get(), handshake + step + ping)));
  Bytes pong;
  net::websocket::append_frame(pong, net::websocket::Role::kServer, net::websocket::Opcode::kPong,
                               "still there?");
  Bytes answer;
  shard_.run_until([&] {
    answer += raw->take_unread();
    return answer.find(pong) != Bytes::npos;
  });
  EXPECT_EQ(factory().log.cancelled, 0);
}

TEST_F(EnvServerTest, defect_11_a_client_that_leaves_ends_its_step_and_gives_its_slot_back) {
  options_.max_sessions = 1;
  for (const bool in_order : {true, false}) {
    const int before = factory().log.cancelled;
    Socket& socket = connect();
    send(socket, R"({"type":"step","data":{"tool_name":"wait","arguments":{"seconds":60}}})");
    shard_.run_until([&] { return factory().log.waiting == 1; });
    if (in_order) {
      net::testing::run(shard_, socket.web->close(1000, ""));
    } else {
      socket.memory->reset();
    }
    shard_.run_until([&] { return server().sessions() == 0; });
    EXPECT_EQ(factory().log.cancelled, before + 1);
    EXPECT_EQ(factory().log.last_reason, CancelReason::kClientGone);
  }
}

TEST_F(EnvServerTest, a_step_sent_together_with_the_end_is_not_begun) {
  server();
  auto raw = listener_->connect();
  Bytes all =
      "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
  net::websocket::append_frame(
      all, net::websocket::Role::kClient, net::websocket::Opcode::kText,
      R"({"type":"step","data":{"tool_name":"wait","arguments":{"seconds":60}}})");
  net::websocket::append_frame(all, net::websocket::Role::kClient, net::websocket::Opcode::kClose,
                               "", 1000);
  ASSERT_TRUE(net::testing::run(shard_, net::write_all(raw.get(), all)));
  shard_.run_until([&] { return factory().log.closed == 1; });
  EXPECT_EQ(factory().log.waiting + factory().log.cancelled, 0);
}

TEST_F(EnvServerTest, frames_that_came_together_are_answered_in_order_and_none_waits_for_a_step) {
  server();
  auto raw = listener_->connect();
  Bytes all =
      "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
  for (const char* frame :
       {R"({"type":"one"})", R"({"type":"step","data":{"type":"list_tools"}})", R"({"type":"two"})",
        R"({"type":"step","data":{"tool_name":"wait","arguments":{"seconds":60}}})",
        R"({"type":"three"})"}) {
    net::websocket::append_frame(all, net::websocket::Role::kClient, net::websocket::Opcode::kText,
                                 frame);
  }
  ASSERT_TRUE(net::testing::run(shard_, net::write_all(raw.get(), all)));
  Bytes answers;
  shard_.run_until([&] {
    answers += raw->take_unread();
    return factory().log.waiting == 1 && answers.find("type: two") != Bytes::npos;
  });
  const size_t one = answers.find("type: one"), tools = answers.find("input_schema");
  EXPECT_LT(one, tools);
  EXPECT_LT(tools, answers.find("type: two"));
  EXPECT_EQ(answers.find("type: three"), Bytes::npos);
  raw->close();
  shard_.run_until([&] { return factory().log.closed == 1; });
}

TEST_F(EnvServerTest, a_step_may_be_let_finish_when_its_client_leaves) {
  options_.on_client_gone = OnClientGone::kFinish;
  options_.max_sessions = 1;
  Socket& socket = connect();
  send(socket, R"({"type":"step","data":{"tool_name":"wait","arguments":{"seconds":0.2}}})");
  shard_.run_until([&] { return factory().log.waiting == 1; });
  socket.memory->reset();
  shard_.run_until([&] { return server().sessions() == 0; });
  EXPECT_EQ(factory().log.cancelled, 0);
}

TEST_F(EnvServerTest, sessions_do_not_hold_each_other_up) {
  Socket& slow = connect();
  send(slow, R"({"type":"step","data":{"tool_name":"wait","arguments":{"seconds":60}}})");
  shard_.run_until([&] { return factory().log.waiting == 1; });
  Socket& other = connect();
  EXPECT_EQ(ask(other, R"({"type":"reset"})").substr(0, 22), R"({"type":"observation",)");
  EXPECT_EQ(factory().log.waiting, 1);
}

TEST_F(EnvServerTest, idle_sessions_end_when_that_is_asked_for) {
  options_.session_timeout = 60ms;
  Socket& socket = connect();
  EXPECT_EQ(next(socket), "closed 1000");
  shard_.run_until([&] { return server().sessions() == 0; });
}

TEST_F(EnvServerTest, stopping_ends_idle_sessions_and_lets_steps_end) {
  Socket& idle = connect();
  Socket& busy = connect();
  Socket& stuck = connect();
  shard_.run_until([&] { return factory().log.created == 3; });
  send(busy, R"({"type":"step","data":{"tool_name":"wait","arguments":{"seconds":0.05}}})");
  send(stuck, R"({"type":"step","data":{"tool_name":"wait","arguments":{"seconds":60}}})");
  shard_.run_until([&] { return factory().log.waiting == 2; });
  net::testing::run(shard_, server().stop(Deadline::in(300ms)));
  EXPECT_EQ(next(idle), "closed 1001");
  EXPECT_EQ(next(busy).substr(0, 22), R"({"type":"observation",)");
  EXPECT_EQ(next(busy), "closed 1001");
  EXPECT_NE(next(stuck).find("cancelled"), std::string::npos);
  EXPECT_EQ(factory().log.closed, 3);
  EXPECT_EQ(factory().log.last_reason, CancelReason::kStopping);
}

// --- MCP -----------------------------------------------------------------------------------------

TEST_F(EnvServerTest, lists_tools_for_mcp_without_null_keys) {
  const json::Object reply =
      parse_document(mcp(R"({"jsonrpc":"2.0","id":"a","method":"tools/list"})"));
  EXPECT_EQ(reply.at("id"), "a");
  const json::Array& tools = reply.at("result").at("tools").as_array();
  ASSERT_EQ(tools.size(), 4U);
  for (const json::Value& tool : tools) {
    for (const auto& field : tool.as_object()) EXPECT_FALSE(field.value().is_null());
  }
  EXPECT_EQ(python::compact(tools[1]),
            R"({"name":"fail","description":"Fail.","inputSchema":{"type":"object",)"
            R"("additionalProperties":false,"properties":{"message":{"type":"string",)"
            R"("default":"boom"}}},"outputSchema":{"type":"object","properties":{"result":)"
            R"({"type":"string"}},"required":["result"],"x-fastmcp-wrap-result":true}})");
}

TEST_F(EnvServerTest, calls_tools_with_both_spellings_of_a_result) {
  EXPECT_EQ(mcp(R"({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo",)"
                R"("arguments":{"message":"hü"}}})"),
            R"({"jsonrpc":"2.0","id":1,"result":)" + std::string(kEchoedMcp) + "}");
  EXPECT_EQ(mcp(R"({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"object"}})"),
            R"({"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":)"
            R"("{\"answer\": 42}"}],"structuredContent":{"answer":42},"isError":false,)"
            R"("structured_content":{"answer":42},"data":{"answer":42},"is_error":false}})");
}

class EnvServerModeTest : public EnvServerTest, public ::testing::WithParamInterface<ServerMode> {};

TEST_P(EnvServerModeTest, tools_over_mcp_and_over_steps_are_the_same) {
  options_.mode = GetParam();
  Socket& socket = connect();
  const json::Value listed = ask_json(socket, R"({"type":"step","data":{"type":"list_tools"}})");
  const json::Array& over_steps = listed.at("data").at("observation").at("tools").as_array();
  const json::Object reply =
      parse_document(mcp(R"({"jsonrpc":"2.0","id":1,"method":"tools/list"})"));
  const json::Array& over_mcp = reply.at("result").at("tools").as_array();
  ASSERT_EQ(over_steps.size(), over_mcp.size());
  for (size_t i = 0; i < over_mcp.size(); ++i) {
    EXPECT_EQ(over_steps[i].at("name"), over_mcp[i].at("name"));
    EXPECT_EQ(over_steps[i].at("input_schema"), over_mcp[i].at("inputSchema"));
  }
  const json::Value step = ask_json(
      socket,
      R"({"type":"step","data":{"tool_name":"echo","arguments":{"message":"x","times":2}}})");
  const json::Object call = parse_document(
      mcp(R"({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":)"
          R"({"message":"x","times":2}}})"));
  EXPECT_EQ(call.at("result").at("data"), "xx");
  EXPECT_EQ(call.at("result").at("data"),
            step.at("data").at("observation").at("result").at("data"));
}

INSTANTIATE_TEST_SUITE_P(Modes, EnvServerModeTest,
                         ::testing::Values(ServerMode::kSimulation, ServerMode::kProduction));

TEST_F(EnvServerTest, a_call_over_mcp_has_no_time_of_its_own_and_is_no_step) {
  environment_.step_timeout = 1ms;
  const std::string call =
      R"({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"wait","arguments":)"
      R"({"seconds":0.1}}})";
  EXPECT_NE(mcp(call).find("waited"), std::string::npos);
  Socket& socket = connect();
  EXPECT_NE(ask(socket, R"({"type":"mcp","data":)" + call + "}").find("waited"), std::string::npos);
  EXPECT_EQ(ask_json(socket, R"({"type":"state"})").at("data").at("step_count"), 0);
}

TEST_F(EnvServerTest, speaks_the_beginning_of_mcp_to_stock_clients) {
  const auto version = [&](const char* asked) {
    const json::Object reply = parse_document(mcp(
        R"({"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":")" +
        std::string(asked) + R"(","capabilities":{},"clientInfo":{"name":"c","version":"1"}}})"));
    EXPECT_EQ(reply.at("result").at("serverInfo").at("name"), "tool_env");
    EXPECT_TRUE(reply.at("result").at("capabilities").as_object().contains("tools"));
    return std::string(reply.at("result").at("protocolVersion").as_string());
  };
  EXPECT_EQ(version("2025-03-26"), "2025-03-26");
  EXPECT_EQ(version("2025-11-25"), "2025-11-25");
  EXPECT_EQ(version("2099-01-01"), "2025-11-25");
  const HttpResponse notified =
      post("/mcp", R"({"jsonrpc":"2.0","method":"notifications/initialized"})");
  EXPECT_EQ(notified.status, 202);
  EXPECT_TRUE(notified.body.empty());
  EXPECT_EQ(mcp(R"({"jsonrpc":"2.0","id":7,"method":"ping"})"),
            R"({"jsonrpc":"2.0","id":7,"result":{}})");
  EXPECT_EQ(http("GET", "/mcp", "", {{"Accept", "text/event-stream"}}).status, 405);
  EXPECT_EQ(factory().log.created, 0);
}

TEST_F(EnvServerTest, has_every_code_of_json_rpc) {
  struct Case {
    const char* request;
    int code;
    const char* message;
  };
  const Case cases[] = {
      {"{", -32700, "Parse error"},
      {"", -32700, "Parse error"},
      {"[]", -32700, "Parse error"},
      {"\"x\"", -32700, "Parse error"},
      {"\xFF", -32700, "Parse error"},
      // An invalid request's own id is not taken from it.
      {R"({"jsonrpc":"1.0","method":"x","id":7})", -32600,
       "Invalid request: 1 validation error for JsonRpcRequest\njsonrpc\n  Input should be '2.0' "
       "[type=literal_error, input_value='1.0', input_type=str]\n    For further information visit "
       "https://errors.pydantic.dev/2.14/v/literal_error"},
      {R"({"jsonrpc":"2.0","method":5,"id":"a"})", -32600,
       "Invalid request: 1 validation error for JsonRpcRequest\nmethod\n  Input should be a valid "
       "string [type=string_type, input_value=5, input_type=int]\n    For further information "
       "visit "
       "https://errors.pydantic.dev/2.14/v/string_type"},
      {R"({"jsonrpc":"2.0","method":"x","params":null})", -32600,
       "Invalid request: 1 validation error for JsonRpcRequest\nparams\n  Input should be a valid "
       "dictionary [type=dict_type, input_value=None, input_type=NoneType]\n    For further "
       "information visit https://errors.pydantic.dev/2.14/v/dict_type"},
      {R"({"jsonrpc":"2.0","method":"x","params":[]})", -32600,
       "Invalid request: 1 validation error for JsonRpcRequest\nparams\n  Input should be a valid "
       "dictionary [type=dict_type, input_value=[], input_type=list]\n    For further information "
       "visit https://errors.pydantic.dev/2.14/v/dict_type"},
      {R"({"jsonrpc":"2.0","method":"x","foo":1})", -32600,
       "Invalid request: 1 validation error for JsonRpcRequest\nfoo\n  Extra inputs are not "
       "permitted [type=extra_forbidden, input_value=1, input_type=int]\n    For further "
       "information visit https://errors.pydantic.dev/2.14/v/extra_forbidden"},
      {R"({"jsonrpc":"1.0","method":5,"id":7})", -32600,
       "Invalid request: 2 validation errors for JsonRpcRequest\njsonrpc\n  Input should be '2.0' "
       "[type=literal_error, input_value='1.0', input_type=str]\n    For further information visit "
       "https://errors.pydantic.dev/2.14/v/literal_error\nmethod\n  Input should be a valid string "
       "[type=string_type, input_value=5, input_type=int]\n    For further information visit "
       "https://errors.pydantic.dev/2.14/v/string_type"},
      {R"({"jsonrpc":"2.0","method":"x","id":1.5})", -32600,
       "Invalid request: 2 validation errors for JsonRpcRequest\nid.str\n  Input should be a valid "
       "string [type=string_type, input_value=1.5, input_type=float]\n    For further information "
       "visit https://errors.pydantic.dev/2.14/v/string_type\nid.int\n  Input should be a valid "
       "integer, got a number with a fractional part [type=int_from_float, input_value=1.5, "
       "input_type=float]\n    For further information visit "
       "https://errors.pydantic.dev/2.14/v/int_from_float"},
      {R"({"jsonrpc":"2.0","method":"x"})", -32601, "Method not found: x"},
      {R"({"jsonrpc":"2.0","method":"tools/call"})", -32602, "Missing 'name' in params"},
      {R"({"jsonrpc":"2.0","method":"tools/call","params":{"name":""}})", -32602,
       "Missing 'name' in params"},
      {R"({"jsonrpc":"2.0","method":"tools/list","params":{"session_id":"zz"}})", -32602,
       "Unknown session_id: zz"},
      {R"({"jsonrpc":"2.0","method":"tools/call","params":{"name":"echo","session_id":7}})", -32602,
       "Unknown session_id: 7"},
      {R"({"jsonrpc":"2.0","method":"openenv/session/close"})", -32602,
       "Invalid params - 'session_id' is required"},
      {R"({"jsonrpc":"2.0","method":"openenv/session/close","params":{"session_id":"zz"}})", -32602,
       "Unknown session_id: zz"},
      {R"({"jsonrpc":"2.0","method":"tools/call","params":{"name":"nope"}})", -32603,
       "Unknown tool: 'nope'"},
      {R"({"jsonrpc":"2.0","method":"tools/call","params":{"name":"fail"}})", -32603,
       "Error calling tool 'fail': boom"},
      {R"({"jsonrpc":"2.0","method":"tools/call","params":{"name":5}})", -32603,
       "1 validation error for CallToolRequestParams\nname\n  Input should be a valid string "
       "[type=string_type, input_value=5, input_type=int]\n    For further information visit "
       "https://errors.pydantic.dev/2.14/v/string_type"},
      {R"({"jsonrpc":"2.0","method":"tools/call","params":{"name":"echo","arguments":[]}})", -32603,
       "1 validation error for call[echo]\nmessage\n  Missing required argument "
       "[type=missing_argument, input_value={}, input_type=dict]\n    For further information "
       "visit https://errors.pydantic.dev/2.14/v/missing_argument"},
  };
  for (const Case& c : cases) {
    const json::Object reply = parse_document(mcp(c.request));
    EXPECT_EQ(reply.size(), 3U) << c.request;
    EXPECT_EQ(reply.at("id"), nullptr);
    const json::Object& error = reply.at("error").as_object();
    EXPECT_EQ(error.at("code"), c.code) << c.request;
    EXPECT_EQ(error.at("data"), nullptr);
    EXPECT_EQ(error.at("message"), c.message);
  }
  EXPECT_EQ(http("POST", "/mcp", R"({"jsonrpc":"2.0","id":1,"method":"ping"})",
                 {{"Content-Type", "text/plain"}})
                .status,
            200);
}

TEST_F(EnvServerTest, an_http_session_keeps_its_environment) {
  const std::string id = create_session();
  const std::string call =
      R"({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":)"
      R"({"message":"a"},"session_id":")" +
      id + "\"}}";
  mcp(call);
  mcp(call);
  EXPECT_EQ(factory().log.created, 1);
  EXPECT_EQ(
      mcp(R"({"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"session_id":")" + id + "\"}}")
          .find("error"),
      std::string::npos);
  mcp(R"({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"object"}})");
  EXPECT_EQ(factory().log.created, 2);  // without the session: a fresh one
  // Nothing about a session can be asked for: every one is new.
  const json::Object second =
      parse_document(mcp(R"({"jsonrpc":"2.0","id":1,"method":"openenv/session/create","params":)"
                         R"({"session_id":")" +
                         id + R"(","bogus":[1]}})"));
  EXPECT_NE(second.at("result").at("session_id"), json::Value(id));
  EXPECT_EQ(server().sessions(), 2U);
}

TEST_F(EnvServerTest, calls_of_one_http_session_run_side_by_side) {
  const std::string id = create_session();
  std::optional<Result<HttpResponse>> answers[2];
  for (auto& answer : answers) {
    HttpRequest request{"POST",
                        "/mcp",
                        {},
                        R"({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"wait",)"
                        R"("arguments":{"seconds":60},"session_id":")" +
                            id + "\"}}"};
    shard_.spawn(fetch_into(&*client_, std::move(request), &answer));
  }
  shard_.run_until([&] { return factory().log.waiting == 2; });
  EXPECT_EQ(factory().log.created, 1);
  // Its end is theirs.
  mcp(R"({"jsonrpc":"2.0","id":3,"method":"openenv/session/close","params":{"session_id":")" + id +
      "\"}}");
  shard_.run_until([&] { return answers[0] && answers[1]; });
  for (const auto& answer : answers) {
    ASSERT_TRUE(*answer);
    EXPECT_NE((*answer)->body.find("cancelled"), std::string::npos) << (*answer)->body;
  }
  EXPECT_EQ(factory().log.last_reason, CancelReason::kRequested);
}

TEST_F(EnvServerTest, defect_11_an_http_session_that_nobody_uses_ends_by_itself) {
  options_.http_session_ttl = 60ms;
  const std::string id = create_session();
  Socket& socket = connect();  // has a connection, whose end is seen
  shard_.run_until([&] { return server().sessions() == 1; });
  EXPECT_EQ(mcp(R"({"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"session_id":")" + id +
                "\"}}"),
            R"({"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Unknown session_id: )" +
                id + R"(","data":null}})");
  EXPECT_EQ(ask_json(socket, R"({"type":"state"})").at("type"), "state");
}

TEST_F(EnvServerTest, a_session_that_is_being_made_is_not_there_yet) {
  factory().log.hold_create = true;
  server();
  std::optional<Result<HttpResponse>> created;
  HttpRequest request{
      "POST", "/mcp", {}, R"({"jsonrpc":"2.0","id":1,"method":"openenv/session/create"})"};
  shard_.spawn(fetch_into(&*client_, std::move(request), &created));
  shard_.run_until([&] { return server().sessions() == 1; });
  // Of its id only the factory has heard.
  const std::string id = factory().log.last_session;
  const auto about = [&](std::string_view method) {
    return mcp(R"({"jsonrpc":"2.0","id":2,"method":")" + std::string(method) +
               R"(","params":{"name":"object","session_id":")" + id + "\"}}");
  };
  for (const char* method : {"tools/list", "tools/call", "openenv/session/close"}) {
    EXPECT_EQ(about(method),
              R"({"jsonrpc":"2.0","id":2,"error":{"code":-32600,"message":"Session )" + id +
                  R"( is still initializing; retry shortly","data":null}})");
  }
  EXPECT_FALSE(created);
  factory().log.hold_create = false;
  shard_.run_until([&] { return created.has_value(); });
  EXPECT_EQ((*created)->body, R"({"jsonrpc":"2.0","id":1,"result":{"session_id":")" + id + "\"}}");
  EXPECT_NE(about("tools/call").find(R"("data":{"answer":42})"), std::string::npos);
}

TEST_F(EnvServerTest, mcp_over_a_websocket_is_a_session_of_its_own) {
  Socket& socket = connect("/mcp");
  EXPECT_EQ(
      ask(socket, R"({"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"echo",)"
                  R"("arguments":{"message":"hü"}}})"),
      R"({"jsonrpc": "2.0", "id": 4, "result": {"content": [{"type": "text", "text": "h\u00fc"}],)"
      R"( "structuredContent": {"result": "h\u00fc"}, "isError": false, "structured_content":)"
      R"( {"result": "h\u00fc"}, "data": "h\u00fc", "is_error": false}})");
  EXPECT_EQ(ask(socket, "{"),
            R"({"jsonrpc": "2.0", "id": null, "error": {"code": -32700, "message": "Parse error: )"
            R"x(Expecting property name enclosed in double quotes: line 1 column 2 (char 1)", )x"
            R"("data": null}})");
  EXPECT_EQ(ask_json(socket, R"({"a":1})").at("error").at("code"), -32600);
  EXPECT_EQ(ask(socket, R"({"jsonrpc":"2.0","method":"x"})"),
            R"({"jsonrpc": "2.0", "id": null, "error": {"code": -32601, "message": "Method not )"
            R"(found: x", "data": null}})");
  const json::Object created =
      ask_json(socket, R"({"jsonrpc":"2.0","id":5,"method":"openenv/session/create"})");
  const std::string id(created.at("result").at("session_id").as_string());
  EXPECT_EQ(ask_json(socket, R"({"jsonrpc":"2.0","id":5,"method":"openenv/session/create"})"),
            created);
  const json::Object refused =
      ask_json(socket, R"({"jsonrpc":"2.0","id":6,"method":"openenv/session/close","params":)"
                       R"({"session_id":")" +
                           id + "\"}}");
  EXPECT_EQ(refused.at("error").at("code"), -32600);
  EXPECT_EQ(refused.at("error").at("message"),
            "Cannot close active WebSocket-managed session via MCP method");
  EXPECT_EQ(factory().log.created, 1);
  // Notifications get no answer: the next frame is the ping's.
  send(socket, R"({"jsonrpc":"2.0","method":"notifications/initialized"})");
  EXPECT_EQ(ask(socket, R"({"jsonrpc":"2.0","id":9,"method":"ping"})"),
            R"({"jsonrpc": "2.0", "id": 9, "result": {}})");
}

TEST_F(EnvServerTest, mcp_over_a_websocket_ends_at_what_is_no_request_at_all) {
  for (const char* sent : {"[]", "1", "null"}) {
    Socket& socket = connect("/mcp");
    const json::Object reply = ask_json(socket, sent);
    EXPECT_EQ(reply.at("id"), nullptr) << sent;
    EXPECT_EQ(reply.at("error").at("code"), -32000) << sent;
    EXPECT_EQ(next(socket), "closed 1000");
  }
  Socket& socket = connect("/mcp");
  send(socket, "{}", WebSocket::Kind::kBinary);
  EXPECT_EQ(next(socket),
            R"({"jsonrpc": "2.0", "id": null, "error": {"code": -32000, "message": "'text'", )"
            R"("data": null}})");
  EXPECT_EQ(next(socket), "closed 1000");
}

TEST_F(EnvServerTest, mcp_over_a_websocket_agrees_to_its_subprotocol) {
  EXPECT_TRUE(try_connect("/mcp", {{"Sec-WebSocket-Protocol", "mcp"}}));
}

TEST_F(EnvServerTest, progress_goes_to_websocket_clients_that_gave_a_token) {
  Socket& socket = connect("/mcp");
  send(socket, R"({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"wait",)"
               R"("arguments":{"seconds":0.05},"_meta":{"progressToken":"t"}}})");
  EXPECT_EQ(next(socket),
            R"({"jsonrpc": "2.0", "method": "notifications/progress", "params": )"
            R"({"progressToken": "t", "progress": 0.0, "total": 10.0, "message": "part 0"}})");
  std::string last;
  do last = next(socket);
  while (last.find("notifications/progress") != std::string::npos);
  EXPECT_NE(last.find("\"waited\""), std::string::npos);
  // Without a token there is nothing but the answer.
  EXPECT_NE(ask(socket, R"({"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"wait",)"
                        R"("arguments":{"seconds":0.01}}})")
                .find("\"waited\""),
            std::string::npos);
  // Nor is there on /ws, whose clients take the next frame for the answer.
  Socket& step = connect();
  EXPECT_EQ(ask_json(step, R"({"type":"mcp","data":{"jsonrpc":"2.0","id":3,"method":"tools/call",)"
                           R"("params":{"name":"wait","arguments":{"seconds":0.01},"_meta":)"
                           R"({"progressToken":"t"}}}})")
                .at("data")
                .at("id"),
            3);
}

TEST_F(EnvServerTest, progress_goes_to_http_clients_that_take_event_streams) {
  const std::string request =
      R"({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"wait",)"
      R"("arguments":{"seconds":0.5},"_meta":{"progressToken":5}}})";
  options_.sse_keep_alive = 2ms;
  const HttpResponse response =
      http("POST", "/mcp", request, {{"Accept", "application/json, text/event-stream"}});
  EXPECT_EQ(response.headers.get_or("Content-Type", ""), "text/event-stream");
  EXPECT_NE(response.body.find(": still at it\n\n"), std::string::npos);
  net::SseReader reader(1 << 20);
  ASSERT_TRUE(reader.feed(response.body));
  std::vector<json::Object> events;
  while (auto event = reader.next()) {
    EXPECT_EQ(event->event, "message");
    events.push_back(parse_document(event->data));
  }
  ASSERT_GE(events.size(), 3U);
  EXPECT_EQ(events.front().at("params").at("progressToken"), 5);
  EXPECT_EQ(events.back().at("result").at("data"), "waited");
  // Whoever takes no streams gets one answer.
  EXPECT_EQ(http("POST", "/mcp", request, {{"Accept", "application/json"}})
                .headers.get_or("Content-Type", ""),
            "application/json");
}

TEST_F(EnvServerTest, mcp_clients_on_a_websocket_can_cancel_what_runs) {
  Socket& socket = connect("/mcp");
  send(socket, R"({"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"wait",)"
               R"("arguments":{"seconds":60}}})");
  shard_.run_until([&] { return factory().log.waiting == 1; });
  send(socket,
       R"({"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"b"}})");
  send(socket,
       R"({"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a"}})");
  EXPECT_NE(next(socket).find("cancelled"), std::string::npos);
  EXPECT_EQ(factory().log.last_reason, CancelReason::kRequested);
}

TEST_F(EnvServerTest, too_many_waiting_requests_end_a_websocket) {
  Socket& socket = connect("/mcp");
  send(socket, R"({"jsonrpc":"2.0","id":0,"method":"tools/call","params":{"name":"wait",)"
               R"("arguments":{"seconds":0.2}}})");
  shard_.run_until([&] { return factory().log.waiting == 1; });
  for (int i = 0; i < 70; ++i) {
    const auto sent = net::testing::run(
        shard_,
        socket.web->send(WebSocket::Kind::kText, R"({"jsonrpc":"2.0","id":1,"method":"ping"})"));
  }
  std::string last;
  while (!(last = next(socket)).starts_with("closed")) continue;
  EXPECT_EQ(last, "closed 1008");
}

TEST_F(EnvServerTest, finding_49_no_tool_has_an_orchestrations_name) {
  using Called = std::vector<std::string>;
  class Obedient final : public Environment {
   public:
    explicit Obedient(std::shared_ptr<Called> called) : called_(std::move(called)) {}
    awaitable<Result<Observation>> reset(json::Object, CallContext*) override {
      co_return Observation();
    }
    awaitable<Result<ToolResult>> call_tool(std::string name, json::Object, CallContext*) override {
      called_->push_back(std::move(name));
      co_return ToolResult{"done", std::nullopt};
    }
    Result<json::Object> state() override { return json::Object(); }

   private:
    const std::shared_ptr<Called> called_;
  };
  class Sneaky final : public EnvironmentFactory {
   public:
    explicit Sneaky(std::shared_ptr<Called> called) : called_(std::move(called)) {
      info_.name = info_.class_name = "Sneaky";
      info_.sessions = EnvironmentInfo::Sessions::kMany;
      auto tools = std::make_shared<Tools>();
      for (const char* name : {"reset", "step", "state", "close", "fine"}) {
        tools->push_back(testing::plain_tool(name));
      }
      tools_ = tools;
    }
    const EnvironmentInfo& info() const override { return info_; }
    std::shared_ptr<const Tools> tools() override { return tools_; }
    awaitable<Result<std::unique_ptr<Environment>>> create(std::string) override {
      std::unique_ptr<Environment> made = std::make_unique<Obedient>(called_);
      co_return made;
    }

   private:
    const std::shared_ptr<Called> called_;
    EnvironmentInfo info_;
    std::shared_ptr<const Tools> tools_;
  };
  const auto called = std::make_shared<Called>();
  other_ = std::make_unique<Sneaky>(called);
  const json::Object listed =
      parse_document(mcp(R"({"jsonrpc":"2.0","id":1,"method":"tools/list"})"));
  EXPECT_EQ(listed.at("result").at("tools").as_array().size(), 1U);
  const json::Object step =
      parse_document(post("/step", R"({"action":{"type":"list_tools"}})").body);
  EXPECT_EQ(step.at("observation").at("tools").as_array().size(), 1U);
  for (const std::string name : {"reset", "step", "state", "close"}) {
    EXPECT_EQ(mcp(R"({"jsonrpc":"2.0","id":1,"method":")" + name + "\"}"),
              R"({"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found: )" +
                  name + R"(","data":null}})");
    EXPECT_EQ(
        mcp(R"({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":")" + name + "\"}}"),
        R"({"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"Unknown tool: ')" + name +
            R"('","data":null}})");
    const json::Object taken =
        parse_document(post("/step", R"({"action":{"tool_name":")" + name + "\"}}").body);
    EXPECT_EQ(taken.at("observation").at("error").at("error_type"), "tool_not_found");
  }
  EXPECT_TRUE(called->empty());
  EXPECT_EQ(post("/step", R"({"action":{"tool_name":"fine"}})").status, 200);
  EXPECT_EQ(*called, Called{"fine"});
}

TEST_F(EnvServerTest, an_environment_without_tools_says_so) {
  class Bare final : public EnvironmentFactory {
   public:
    Bare() {
      info_.name = info_.class_name = "Bare";
      info_.sessions = EnvironmentInfo::Sessions::kMany;
    }
    const EnvironmentInfo& info() const override { return info_; }
    awaitable<Result<std::unique_ptr<Environment>>> create(std::string) override {
      co_return Error(ErrorCode::kInternal, "not needed");
    }

   private:
    EnvironmentInfo info_;
  };
  other_ = std::make_unique<Bare>();
  EXPECT_EQ(mcp(R"({"jsonrpc":"2.0","id":1,"method":"tools/list"})"),
            R"({"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":)"
            R"("Environment does not support MCP","data":null}})");
}

// --- /rollouts -----------------------------------------------------------------------------------

TEST_F(EnvServerTest, rollouts_are_listed_streamed_and_cancelled_beside_the_wire) {
  RolloutBoard board(shard_);
  environment_.board = options_.rollouts = &board;
  Socket& socket = connect();
  EXPECT_EQ(get("/rollouts").body, R"({"rollouts":[]})");
  send(socket, R"({"type":"step","data":{"tool_name":"wait","arguments":{"seconds":0.5}}})");
  shard_.run_until([&] { return board.size() == 1; });
  const json::Value listed = get_json("/rollouts?state=running&limit=5");
  ASSERT_EQ(listed.at("rollouts").as_array().size(), 1U);
  const json::Object& row = listed.at("rollouts").at(0).as_object();
  const std::string id(row.at("rollout_id").as_string());
  EXPECT_EQ(row.at("state"), "running");
  EXPECT_EQ(get_json("/rollouts/" + id).at("task_id"), "wait 0.5");
  EXPECT_EQ(get("/rollouts?state=zzz").status, 422);
  EXPECT_EQ(get("/rollouts?limit=1001").status, 422);
  EXPECT_EQ(get("/rollouts/zzz").status, 404);
  EXPECT_EQ(get("/rollouts/zzz/events").status, 404);
  EXPECT_EQ(post("/rollouts/zzz/cancel", "").status, 404);
  EXPECT_EQ(get("/rollouts/" + id + "/zzz").status, 404);
  EXPECT_EQ(get("/rollouts/" + id + "/cancel").status, 405);

  EXPECT_EQ(parse_document(post("/rollouts/" + id + "/cancel", "").body).at("state"), "cancelling");
  // The stream ends with the rollout; Last-Event-ID skips what was seen.
  const HttpResponse events =
      http("GET", "/rollouts/" + id + "/events", "", {{"Last-Event-ID", "1"}});
  EXPECT_EQ(events.headers.get_or("Content-Type", ""), "text/event-stream");
  net::SseReader reader(1 << 20);
  ASSERT_TRUE(reader.feed(events.body));
  std::vector<std::string> kinds;
  while (auto event = reader.next()) {
    kinds.emplace_back(parse_document(event->data).at("kind").as_string());
    EXPECT_NE(event->id, "1");
  }
  EXPECT_EQ(kinds.back(), "ended");
  EXPECT_NE(next(socket).find("cancelled"), std::string::npos);
  EXPECT_EQ(post("/rollouts/" + id + "/cancel", "").status, 409);
}

TEST_F(EnvServerTest, without_a_board_there_are_no_rollouts) {
  EXPECT_EQ(get("/rollouts").status, 404);
  EXPECT_EQ(get("/rollouts/x").status, 404);
}

TEST_F(EnvServerTest, other_rooms_routes_are_behind_the_same_rules) {
  options_.access.keys = {"a-key-of-twenty-one-x"};
  options_.mounts.push_back(
      {"/trainer/", [](HttpRequest request, net::ResponseWriter* writer) -> awaitable<void> {
         HttpResponse response{200, {}, request.target};
         const auto sent = co_await writer->send(std::move(response));
       }});
  EXPECT_EQ(get("/trainer/next").status, 401);
  EXPECT_EQ(
      http("GET", "/trainer/next?x", "", {{"Authorization", "Bearer a-key-of-twenty-one-x"}}).body,
      "/trainer/next?x");
}

// --- The page's wire -----------------------------------------------------------------------------

TEST_F(EnvServerTest, the_pages_routes_are_there_only_when_asked_for) {
  EXPECT_EQ(get("/web/metadata").status, 404);
  EXPECT_EQ(post("/web/reset", "").status, 404);
}

TEST_F(EnvServerTest, the_pages_viewers_share_one_environment) {
  options_.web = WebInterface::kOn;
  options_.readme = "# Hello";
  options_.max_sessions = 1;
  connect();
  EXPECT_EQ(get_json("/web/metadata").at("name"), "tool_env");
  EXPECT_EQ(get_json("/web/metadata").at("readme_content"), "# Hello");
  Socket& viewer = connect("/ws/ui");
  const json::Object first = parse_document(next(viewer));
  EXPECT_EQ(first.at("type"), "state_update");
  EXPECT_EQ(python::compact(first.at("episode_state")),
            R"({"episode_id":null,"step_count":0,"current_observation":null,"action_logs":[],)"
            R"("is_reset":true})");
  EXPECT_EQ(post("/web/reset", R"({"episode_id":"shared"})").body,
            R"({"observation":{"metadata":{"status":"ready"}},"reward":null,"done":false})");
  EXPECT_EQ(parse_document(next(viewer)).at("episode_state").at("episode_id"), "shared");
  EXPECT_EQ(post("/web/reset", "null").status, 200);
  EXPECT_EQ(post("/web/reset", R"({"episode_id":"shared"})").status, 200);
  EXPECT_EQ(post("/web/step", "{" + std::string(kEcho) + "}").body, kEchoed);
  json::Object update;
  do update = parse_document(next(viewer));
  while (update.at("episode_state").at("action_logs").as_array().empty());
  const json::Object& log = update.at("episode_state").at("action_logs").at(0).as_object();
  EXPECT_EQ(log.at("action").at("tool_name"), "echo");
  EXPECT_EQ(log.at("step_count"), 1);
  EXPECT_EQ(log.at("done"), false);
  EXPECT_EQ(get("/web/state").body, R"({"episode_id":"shared","step_count":1,"calls":1})");
  EXPECT_EQ(post("/web/step", R"({"action":{}})").status, 422);
  EXPECT_EQ(post("/web/step", "[]").status, 422);
  EXPECT_EQ(post("/web/reset", "[]").status, 422);
  EXPECT_EQ(post("/web/reset", "{").status, 422);
  EXPECT_EQ(post("/web/reset", R"({"fail":"no"})").status, 500);
  post("/web/reset", R"({"broken_state":true})");
  EXPECT_EQ(get("/web/state").status, 409);
  EXPECT_EQ(factory().log.created, 2);
}

TEST_F(EnvServerTest, the_page_takes_messages_and_keeps_the_last_thousand_actions) {
  options_.web = WebInterface::kOn;
  other_ = std::make_unique<SayingFactory>();
  EXPECT_EQ(post("/web/step", R"({"message":"hi"})").body,
            R"({"observation":{"said":"hi"},"reward":0.5,"done":false})");
  const auto shown = [&] {
    Socket& viewer = connect("/ws/ui");
    return parse_document(next(viewer)).at("episode_state");
  };
  const json::Value first = shown();
  EXPECT_EQ(keys_of(first),
            (std::vector<std::string>{"episode_id", "step_count", "current_observation",
                                      "action_logs", "is_reset"}));
  const json::Value& log = first.at("action_logs").at(0);
  EXPECT_EQ(keys_of(log), (std::vector<std::string>{"timestamp", "action", "observation", "reward",
                                                    "done", "step_count"}));
  EXPECT_EQ(log.at("action"), json::Value({{"message", "hi"}}));
  EXPECT_EQ(log.at("observation"), json::Value({{"said", "hi"}}));
  EXPECT_EQ(log.at("reward"), 0.5);
  for (int i = 0; i < 1000; ++i) post("/web/step", R"({"action":{"message":"again"}})");
  const json::Value last = shown();
  const json::Array& logs = last.at("action_logs").as_array();
  ASSERT_EQ(logs.size(), 1000U);
  EXPECT_EQ(logs.front().at("step_count"), 2);
  EXPECT_EQ(logs.back().at("step_count"), 1001);
  EXPECT_EQ(last.at("step_count"), 1001);
}

}  // namespace
}  // namespace sluice::env
