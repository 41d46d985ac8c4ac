// MCP over HTTP and over a WebSocket.
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "sluice/env/python_text.h"
#include "sluice/env/server_testing.h"
#include "sluice/net/sse.h"

namespace sluice::env {
namespace {

using namespace testing;

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
       "Invalid request: 1 validation error for JsonRpcRequest\njsonrpc\n  Input "
       "should be '2.0' [type=literal_error]"},
      {R"({"jsonrpc":"2.0","method":5,"id":"a"})", -32600,
       "Invalid request: 1 validation error for JsonRpcRequest\nmethod\n  Input "
       "should be a valid string [type=string_type]"},
      {R"({"jsonrpc":"2.0","method":"x","params":null})", -32600,
       "Invalid request: 1 validation error for JsonRpcRequest\nparams\n  Input "
       "should be a valid dictionary [type=dict_type]"},
      {R"({"jsonrpc":"2.0","method":"x","params":[]})", -32600,
       "Invalid request: 1 validation error for JsonRpcRequest\nparams\n  Input "
       "should be a valid dictionary [type=dict_type]"},
      {R"({"jsonrpc":"2.0","method":"x","foo":1})", -32600,
       "Invalid request: 1 validation error for JsonRpcRequest\nfoo\n  Extra "
       "inputs are not permitted [type=extra_forbidden]"},
      {R"({"jsonrpc":"1.0","method":5,"id":7})", -32600,
       "Invalid request: 2 validation errors for JsonRpcRequest\njsonrpc\n  "
       "Input should be '2.0' [type=literal_error]\nmethod\n  Input should be a "
       "valid string [type=string_type]"},
      {R"({"jsonrpc":"2.0","method":"x","id":1.5})", -32600,
       "Invalid request: 2 validation errors for JsonRpcRequest\nid\n  Input "
       "should be a valid string [type=string_type]\nid\n  Input should be a "
       "valid integer, got a number with a fractional part [type=int_from_float]"},
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
       "1 validation error for CallToolRequestParams\nname\n  Input should be a "
       "valid string [type=string_type]"},
      {R"({"jsonrpc":"2.0","method":"tools/call","params":{"name":"echo","arguments":[]}})", -32603,
       "1 validation error for call[echo]\nmessage\n  Missing required argument "
       "[type=missing_argument]"},
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
  EXPECT_EQ(ask(socket, R"({"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"echo",)"
                        R"("arguments":{"message":"hü"}}})"),
            R"({"jsonrpc":"2.0","id":4,"result":{"content":[{"type":"text",)"
            R"("text":"hü"}],"structuredContent":{"result":"hü"},"isError":false,)"
            R"("structured_content":{"result":"hü"},"data":"hü","is_error":false}})");
  EXPECT_EQ(ask(socket, "{"),
            R"({"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error: JSON: )"
            R"(incomplete JSON at byte 1","data":null}})");
  EXPECT_EQ(ask_json(socket, R"({"a":1})").at("error").at("code"), -32600);
  EXPECT_EQ(ask(socket, R"({"jsonrpc":"2.0","method":"x"})"),
            R"({"jsonrpc":"2.0","id":null,"error":{"code":-32601,"message":"Method not )"
            R"(found: x","data":null}})");
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
            R"({"jsonrpc":"2.0","id":9,"result":{}})");
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
  EXPECT_EQ(next(socket), R"({"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"'text'",)"
                          R"("data":null}})");
  EXPECT_EQ(next(socket), "closed 1000");
}

TEST_F(EnvServerTest, mcp_over_a_websocket_agrees_to_its_subprotocol) {
  EXPECT_TRUE(try_connect("/mcp", {{"Sec-WebSocket-Protocol", "mcp"}}));
}

TEST_F(EnvServerTest, progress_goes_to_websocket_clients_that_gave_a_token) {
  Socket& socket = connect("/mcp");
  send(socket, R"({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"wait",)"
               R"("arguments":{"seconds":0.05},"_meta":{"progressToken":"t"}}})");
  EXPECT_EQ(next(socket), R"({"jsonrpc":"2.0","method":"notifications/progress",)"
                          R"("params":{"progressToken":"t","progress":0.0,"total":10.0,)"
                          R"("message":"part 0"}})");
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

}  // namespace
}  // namespace sluice::env
