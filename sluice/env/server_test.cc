// The server against a tool environment: its modes, pages, keys and other rooms' routes. What
// OpenEnv's own clients and the official MCP clients make of it is tested in tests/env.
#include "sluice/env/server.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "sluice/env/python_text.h"
#include "sluice/env/server_testing.h"
#include "sluice/net/sse.h"

namespace sluice::env {
namespace {

using namespace testing;

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

std::vector<std::string> keys_of(const json::Value& object) {
  std::vector<std::string> keys;
  for (const auto& field : object.as_object()) keys.emplace_back(field.key());
  return keys;
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
            R"({"jsonrpc":"2.0","id":1,"result":{}})");
  EXPECT_EQ(ask(connect(), R"({"type":"reset"})").substr(0, 22), R"({"type":"observation",)");
}

// The document is OpenEnv's own, word for word, with what is served besides; here, whether it is
// true of this server.
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
  EXPECT_GE(operations, 8);
  EXPECT_TRUE(openapi.at("paths").as_object().contains("/metrics"));
  EXPECT_FALSE(openapi.at("paths").as_object().contains("/rollouts")) << "it has no board";
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
// --- /rollouts -----------------------------------------------------------------------------------

TEST_F(EnvServerTest, rollouts_are_listed_streamed_and_cancelled_beside_the_wire) {
  RolloutBoard board(shard_);
  environment_.board = options_.rollouts = &board;
  Socket& socket = connect();
  EXPECT_EQ(get("/rollouts").body, R"({"rollouts":[]})");
  const json::Value document = get_json("/openapi.json");
  for (const char* path : {"/rollouts", "/rollouts/{id}", "/rollouts/{id}/events"}) {
    EXPECT_TRUE(document.at("paths").at(path).as_object().contains("get")) << path;
  }
  EXPECT_TRUE(document.at("paths").at("/rollouts/{id}/cancel").as_object().contains("post"));
  send(socket, R"({"type":"step","data":{"tool_name":"wait","arguments":{"seconds":0.5}}})");
  shard_.run_until([&] { return board.list("", 2).size() == 1; });
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
