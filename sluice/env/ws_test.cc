// /ws: one frame for one frame, sessions and their ends.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "sluice/env/server_testing.h"

namespace sluice::env {
namespace {

using namespace testing;

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
      {"{bad", R"("message":"Invalid JSON: syntax error at byte 1","code":"INVALID_JSON")"},
      {"", R"("message":"Invalid JSON: incomplete JSON at byte 0","code":"INVALID_JSON")"},
      {R"({"type":"zzz"})", R"("message":"Unknown message type: zzz","code":"UNKNOWN_TYPE")"},
      {R"({"type":null})", R"("message":"Unknown message type: None","code":"UNKNOWN_TYPE")"},
      {"{}", R"("message":"Unknown message type: ","code":"UNKNOWN_TYPE")"},
      {R"({"type":["a",1]})",
       R"("message":"Unknown message type: ['a', 1]","code":"UNKNOWN_TYPE")"},
      {R"({"type":"state","data":{}})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR",)"
       R"("errors":[{"type":"extra_forbidden","loc":["data"],"msg":"Extra inputs )"
       R"(are not permitted"}])"},
      {R"({"type":"close","data":{}})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR",)"
       R"("errors":[{"type":"extra_forbidden","loc":["data"],"msg":"Extra inputs )"
       R"(are not permitted"}])"},
      {R"({"type":"reset","data":null})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR",)"
       R"("errors":[{"type":"dict_type","loc":["data"],"msg":"Input should be a )"
       R"(valid dictionary"}])"},
      {R"({"type":"step"})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR",)"
       R"("errors":[{"type":"missing","loc":["data"],"msg":"Field required"}])"},
      {R"({"type":"step","data":{}})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR",)"
       R"("errors":[{"type":"missing","loc":["tool_name"],"msg":"Field required"}])"},
      {R"({"type":"reset","x":1})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR",)"
       R"("errors":[{"type":"extra_forbidden","loc":["x"],"msg":"Extra inputs are )"
       R"(not permitted"}])"},
      {R"({"type":"step","data":{"type":"list_tools"},"timeout_s":1})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR",)"
       R"("errors":[{"type":"extra_forbidden","loc":["timeout_s"],"msg":"Extra )"
       R"(inputs are not permitted"}])"},
      {R"({"type":"mcp","data":{},"x":[]})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR",)"
       R"("errors":[{"type":"extra_forbidden","loc":["x"],"msg":"Extra inputs are )"
       R"(not permitted"}])"},
      {R"({"type":"mcp"})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR",)"
       R"("errors":[{"type":"missing","loc":["data"],"msg":"Field required"}])"},
      {R"({"type":"mcp","data":"x"})",
       R"("message":"Invalid message","code":"VALIDATION_ERROR",)"
       R"("errors":[{"type":"dict_type","loc":["data"],"msg":"Input should be a )"
       R"(valid dictionary"}])"},
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
            R"("message":"Invalid request: 2 validation errors for )"
            R"(JsonRpcRequest\njsonrpc\n  Field required [type=missing]\nmethod\n  )"
            R"(Field required [type=missing]","data":null}}})");
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
              R"(dictionary"}]}})");
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
  EXPECT_EQ(next(refused_mcp), R"({"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":")" +
                                   message +
                                   R"(","data":{"active_sessions":3,"max_sessions":3}}})");
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
  EXPECT_EQ(next(mcp_socket), R"({"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":")" +
                                  message + R"(","data":{"factory_name":"ToolEnv"}}})");
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

// What a proxy makes of a handshake, or a client that sends a body with it.
TEST_F(EnvServerTest, a_handshake_that_cannot_be_upgraded_is_told_why) {
  options_.web = WebInterface::kOn;
  const auto handshake = [](std::string_view path, std::string_view version,
                            std::string_view rest) {
    return "GET " + std::string(path) + " HTTP/" + std::string(version) +
           "\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
           std::string(rest);
  };
  for (const char* path : {"/ws", "/mcp", "/ws/ui"}) {
    const Bytes old = answer_to(handshake(path, "1.0", "\r\n"));
    EXPECT_TRUE(old.starts_with("HTTP/1.1 426 ")) << path << old;
    EXPECT_NE(old.find("proxy_http_version 1.1"), Bytes::npos) << old;
    for (const char* body :
         {"Content-Length: 2\r\n\r\n{}", "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
          "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"}) {
      const Bytes refused = answer_to(handshake(path, "1.1", body));
      EXPECT_TRUE(refused.starts_with("HTTP/1.1 400 ")) << path << body << refused;
      EXPECT_NE(refused.find("without a body"), Bytes::npos) << refused;
    }
    const auto raw = listener_->connect();
    const Bytes empty = handshake(path, "1.1", "Content-Length: 0\r\n\r\n");
    ASSERT_TRUE(net::testing::run(shard_, net::write_all(raw.get(), empty)));
    Bytes answer;
    shard_.run_until([&] { return !(answer += raw->take_unread()).empty(); });
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 101 ")) << path << answer;
  }
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
  send(busy, R"({"type":"step","data":{"tool_name":"wait","arguments":{"seconds":0.01}}})");
  send(stuck, R"({"type":"step","data":{"tool_name":"wait","arguments":{"seconds":60}}})");
  shard_.run_until([&] { return factory().log.waiting == 2; });
  net::testing::run(shard_, server().stop(Deadline::in(1s)));
  EXPECT_EQ(next(idle), "closed 1001");
  EXPECT_EQ(next(busy).substr(0, 22), R"({"type":"observation",)");
  EXPECT_EQ(next(busy), "closed 1001");
  EXPECT_NE(next(stuck).find("cancelled"), std::string::npos);
  EXPECT_EQ(factory().log.closed, 3);
  EXPECT_EQ(factory().log.last_reason, CancelReason::kStopping);
}

}  // namespace
}  // namespace sluice::env
