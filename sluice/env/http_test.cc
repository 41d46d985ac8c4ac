// The routes of plain HTTP: what goes over the wire, byte for byte where clients see it.
#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "sluice/env/python_text.h"
#include "sluice/env/server_testing.h"

namespace sluice::env {
namespace {

using namespace testing;

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
       R"({"type":"greater_than_equal","loc":["body","seed"],"msg":"Input should )"
       R"(be greater than or equal to 0"})"},
      {R"({"seed":"x"})", R"({"type":"int_parsing","loc":["body","seed"],"msg":"Input should be a )"
                          R"(valid integer, unable to parse string as an integer"})"},
      {R"({"seed":1.5})",
       R"({"type":"int_from_float","loc":["body","seed"],"msg":"Input should be a )"
       R"(valid integer, got a number with a fractional part"})"},
      {R"({"episode_id":5})",
       R"({"type":"string_type","loc":["body","episode_id"],"msg":"Input should be )"
       R"(a valid string"})"},
      {R"({"episode_id":")" + long_id + R"("})",
       R"({"type":"string_too_long","loc":["body","episode_id"],"msg":"String )"
       R"(should have at most 255 characters"})"},
      {R"({"seed":-1,"episode_id":7})",
       R"({"type":"greater_than_equal","loc":["body","seed"],"msg":"Input should )"
       R"(be greater than or equal to 0"},{"type":"string_type","loc":["body",)"
       R"("episode_id"],"msg":"Input should be a valid string"})"},
      {"{", R"({"type":"json_invalid","loc":["body"],"msg":"JSON decode error"})"},
      {"{} x", R"({"type":"json_invalid","loc":["body"],"msg":"JSON decode error"})"},
      {"null", R"({"type":"model_attributes_type","loc":["body"],"msg":"Input should be a )"
               R"(valid dictionary or object to extract fields from"})"},
      {"[1]", R"({"type":"model_attributes_type","loc":["body"],"msg":"Input should be a )"
              R"(valid dictionary or object to extract fields from"})"},
  };
  for (const auto& [body, problem] : cases) {
    const HttpResponse response = post("/reset", body);
    EXPECT_EQ(response.status, 422) << body;
    EXPECT_EQ(response.body, "{\"detail\":[" + problem + "]}");
  }
  const std::string text_body =
      R"({"detail":[{"type":"model_attributes_type","loc":["body"],"msg":"Input )"
      R"(should be a valid dictionary or object to extract fields from"}]})";
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
      {"", R"({"type":"missing","loc":["body"],"msg":"Field required"})"},
      {"{}", R"({"type":"missing","loc":["body","action"],"msg":"Field required"})"},
      {R"({"action":5})", R"({"type":"dict_type","loc":["body","action"],"msg":"Input should be a )"
                          R"(valid dictionary"})"},
      {R"({"action":{},"timeout_s":0})",
       R"({"type":"greater_than","loc":["body","timeout_s"],"msg":"Input should be )"
       R"(greater than 0"})"},
      {R"({"action":{},"timeout_s":"x"})",
       R"({"type":"float_parsing","loc":["body","timeout_s"],"msg":"Input should )"
       R"(be a valid number, unable to parse string as a number"})"},
      {R"({"action":{},"request_id":5})",
       R"({"type":"string_type","loc":["body","request_id"],"msg":"Input should be )"
       R"(a valid string"})"},
      // What is wrong with an action has no "body" in front.
      {R"({"action":{}})", R"({"type":"missing","loc":["tool_name"],"msg":"Field required"})"},
      {R"({"action":{"type":"list_tools","x":1}})",
       R"({"type":"extra_forbidden","loc":["x"],"msg":"Extra inputs are not )"
       R"(permitted"})"},
      {R"({"action":{"type":"zzz"}})",
       R"({"type":"literal_error","loc":["type"],"msg":"Input should be )"
       R"('call_tool'"},{"type":"missing","loc":["tool_name"],"msg":"Field )"
       R"(required"})"},
      {R"({"action":{"tool_name":"echo","arguments":5,"bogus":1}})",
       R"({"type":"dict_type","loc":["arguments"],"msg":"Input should be a valid )"
       R"(dictionary"},{"type":"extra_forbidden","loc":["bogus"],"msg":"Extra )"
       R"(inputs are not permitted"})"},
      {R"({"action":{"tool_name":"echo","metadata":[]}})",
       R"({"type":"dict_type","loc":["metadata"],"msg":"Input should be a valid )"
       R"(dictionary"})"},
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
            R"("msg":"String should have at most 255 characters"}]})");
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
            R"({"error_type":"invalid_args","message":"1 validation error for )"
            R"(call[echo]\nbogus\n  Unexpected keyword argument )"
            R"([type=unexpected_keyword_argument]"})");
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

}  // namespace
}  // namespace sluice::env
