// Host tools as an agent reaches them: over MCP and by the plain route.
#include "sluice/gate/http/mcp.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/gate/testing.h"
#include "sluice/json/value.h"

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

class McpTest : public testing::GateFixture {
 protected:
  Tool& tool(std::string name, ToolHandler handler = {}) {
    Tool& tool = registration_.tools.emplace_back();
    tool.name = std::move(name);
    tool.description = "about " + tool.name;
    tool.parameters = R"({"type":"object","properties":{"q":{"type":"string"}},"required":["q"]})";
    tool.handler = std::move(handler);
    return tool;
  }
  static ToolHandler echo() {
    return [](std::shared_ptr<const ToolRequest> request, ToolReply reply) {
      reply.answer({"got " + request->arguments, false});
    };
  }

  testing::Response post(std::string_view path, std::string_view body) {
    auto agent = this->agent();
    agent.post(path, body);
    return agent.response();
  }
  json::Value rpc(std::string_view method, std::string_view params = "{}") {
    const auto response =
        post("/mcp", R"({"jsonrpc":"2.0","id":7,"method":")" + std::string(method) +
                         R"(","params":)" + std::string(params) + "}");
    EXPECT_EQ(response.status, 200) << response.body;
    const auto value = json::parse(response.body);
    EXPECT_EQ(value->at("id").as_int64(), 7);
    return *value;
  }
  json::Value call(std::string_view name, std::string_view arguments) {
    return rpc("tools/call", R"({"name":")" + std::string(name) + R"(","arguments":)" +
                                 std::string(arguments) + "}");
  }
  static std::string text(const json::Value& answer) {
    return std::string(answer.at("result").at("content").at(0).at("text").as_string());
  }
  static bool is_error(const json::Value& answer) {
    return answer.at("result").at("isError").as_bool();
  }
};

TEST_F(McpTest, AClientFindsAndCallsATool) {
  tool("search", echo());
  open();
  const auto hello = rpc("initialize", R"({"protocolVersion":"2025-03-26","capabilities":{}})");
  EXPECT_EQ(hello.at("result").at("protocolVersion").as_string(), "2025-03-26");
  EXPECT_TRUE(hello.at("result").at("capabilities").as_object().contains("tools"));
  const auto odd = rpc("initialize", R"({"protocolVersion":"1999-01-01"})");
  EXPECT_EQ(odd.at("result").at("protocolVersion").as_string(), "2025-06-18");
  const auto noted = post("/mcp", R"({"jsonrpc":"2.0","method":"notifications/initialized"})");
  EXPECT_EQ(noted.status, 202);
  EXPECT_EQ(noted.body, "");
  EXPECT_TRUE(rpc("ping").at("result").as_object().empty());
  const auto list = rpc("tools/list");
  EXPECT_EQ(list.at("result").at("tools").at(0).at("name").as_string(), "search");
  EXPECT_EQ(list.at("result").at("tools").at(0).at("inputSchema").at("type").as_string(), "object");
  // Numbers reach the tool as they were written.
  const auto answer = call("search", R"({"q":"x", "n":1.50})");
  EXPECT_EQ(text(answer), R"(got {"q":"x", "n":1.50})");
  EXPECT_FALSE(is_error(answer));
  EXPECT_EQ(counters().tool_calls, 1u);
  EXPECT_EQ(recorder_.count("event:tool"), 1u);
}

TEST_F(McpTest, finding_77_a_tool_without_a_handler_is_the_trainers) {
  tool("ask");
  open();
  auto agent = this->agent();
  agent.post("/rollout/r0/mcp", R"({"jsonrpc":"2.0","id":"a","method":"tools/call",
      "params":{"name":"ask","arguments":{"q":"why"}}})");
  testing::settle(shard_);
  const auto items = gate_->for_trainer.next_batch(9, 0s);
  ASSERT_EQ(items.size(), 1u);
  const ToolRequest* request = items[0].tool();
  ASSERT_NE(request, nullptr);
  EXPECT_EQ(request->arguments, R"({"q":"why"})");
  Result<void> told = Error();
  gate_->for_trainer.reply_tool({"forged"}, {"x"}, [&](Result<void> r) { told = r; });
  EXPECT_EQ(told.error().code, ErrorCode::kNotFound);
  gate_->for_trainer.reply_tool(request->id, {"because"}, [&](Result<void> r) { told = r; });
  EXPECT_THAT(agent.response().body, HasSubstr("because"));
  EXPECT_TRUE(told);
  gate_->for_trainer.reply_tool(request->id, {"again"}, [&](Result<void> r) { told = r; });
  testing::settle(shard_);
  EXPECT_EQ(told.error().code, ErrorCode::kFailedPrecondition);
}

TEST_F(McpTest, ArgumentsThatDoNotFitAreToldToTheModelAndReachNoTool) {
  int calls = 0;
  tool("search", [&](auto, ToolReply reply) {
    ++calls;
    reply.answer({"x"});
  }).max_arguments = 100;
  open();
  const auto wrong = call("search", R"({"q":1})");
  EXPECT_TRUE(is_error(wrong));
  EXPECT_EQ(text(wrong), "/q must be of type string");
  EXPECT_EQ(text(call("search", "{}")), R"(the arguments must have "q")");
  EXPECT_THAT(text(call("search", "[]")), HasSubstr("must be a JSON object"));
  EXPECT_THAT(text(call("search", "{\"q\":\"" + std::string(200, 'x') + "\"}")),
              HasSubstr("over 100 bytes"));
  EXPECT_EQ(call("nothing", "{}").at("error").at("code").as_int64(), -32602);
  EXPECT_EQ(calls, 0);
}

TEST_F(McpTest, finding_07_why_a_tool_failed_is_for_the_trace) {
  tool("throws", [](auto, ToolReply) { throw std::runtime_error("secret /etc/path"); });
  tool("drops", [](auto, ToolReply) {});
  tool("fails", [](auto, ToolReply reply) { reply.answer({"no such document", true}); });
  open();
  for (const char* name : {"throws", "drops"}) {
    const auto answer = call(name, R"({"q":"x"})");
    EXPECT_TRUE(is_error(answer));
    EXPECT_EQ(text(answer), "the tool failed");
  }
  EXPECT_EQ(text(call("fails", R"({"q":"x"})")), "no such document");
  EXPECT_THAT(recorder_.entries()[0].detail, HasSubstr("secret /etc/path"));
  EXPECT_EQ(post("/v1/tools/throws", R"({"q":"x"})").body, R"({"error": "tool execution failed"})");
}

TEST_F(McpTest, ATooLongResultIsCutAndALateOneDropped) {
  std::optional<ToolReply> kept;
  tool("long", [](auto, ToolReply reply) { reply.answer({std::string(1000, 'x')}); }).max_result =
      10;
  tool("slow", [&](auto, ToolReply reply) { kept.emplace(std::move(reply)); }).timeout = 20ms;
  open();
  EXPECT_EQ(text(call("long", R"({"q":""})")), "xxxxxxxxxx\n[cut: 10 of 1000 bytes]");
  EXPECT_EQ(text(call("slow", R"({"q":""})")), "the tool did not answer in time");
  kept->answer({"late"});
}

TEST_F(McpTest, OnlySoManyToolsRunAtOnce) {
  std::vector<ToolReply> running;
  tool("slow", [&](auto, ToolReply reply) { running.push_back(std::move(reply)); });
  registration_.budget.calls_per_second = 0;
  open();
  std::vector<testing::Agent> agents;
  for (size_t i = 1; i <= 16; ++i) {
    agents.push_back(agent());
    agents.back().post("/v1/tools/slow", R"({"q":"x"})");
    testing::run_until(shard_, [&] { return running.size() == i; });
  }
  const auto over = call("slow", R"({"q":"x"})");
  EXPECT_TRUE(is_error(over));
  EXPECT_EQ(text(over), "16 tools run already: wait for one of them");
  EXPECT_EQ(running.size(), 16u);
  // When one has ended there is room again.
  running.front().answer({"done"});
  EXPECT_THAT(agents.front().response().body, HasSubstr("done"));
  agents.front().post("/v1/tools/slow", R"({"q":"x"})");
  testing::run_until(shard_, [&] { return running.size() == 17; });
}

TEST_F(McpTest, AnAgentThatLeavesStopsItsCall) {
  tool("ask");
  open();
  auto agent = this->agent();
  agent.post("/mcp",
             R"({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ask",
                 "arguments":{"q":"x"}}})");
  testing::settle(shard_);
  const auto items = gate_->for_trainer.next_batch(1, 0s);
  ASSERT_EQ(items.size(), 1u);
  agent.reset();
  testing::settle(shard_);
  Result<void> told;
  gate_->for_trainer.reply_tool(items[0].tool()->id, {"x"}, [&](Result<void> r) { told = r; });
  EXPECT_EQ(told.error().code, ErrorCode::kFailedPrecondition);
}

TEST_F(McpTest, ToolsEndWithTheRollout) {
  tool("ask");
  open();
  auto agent = this->agent();
  agent.post("/v1/tools/ask", R"({"arguments":{"q":"x"}})");
  testing::settle(shard_);
  gate_->for_operator.stop_admitting(id_);
  EXPECT_THAT(agent.response().body, HasSubstr("this rollout has ended"));
  EXPECT_TRUE(is_error(call("ask", R"({"q":"x"})")));
}

TEST_F(McpTest, finding_50_a_looping_agent_is_stopped_at_tools_too) {
  registration_.budget.calls_per_second = 3;
  tool("search", echo());
  open();
  int refused = 0;
  for (int i = 0; i < 10; ++i) refused += is_error(call("search", R"({"q":"x"})")) ? 1 : 0;
  EXPECT_GE(refused, 5);
}

TEST_F(McpTest, NoToolRunsWhenTheHostsDiskIsUsedUp) {
  tool("search", echo());
  const auto disk = std::make_shared<trace::DiskUse>();
  registration_.budget.host_disk = 1000;
  registration_.disk = disk;
  open();
  EXPECT_FALSE(is_error(call("search", R"({"q":"x"})")));
  disk->bytes = 1000;
  EXPECT_TRUE(is_error(call("search", R"({"q":"x"})")));
  EXPECT_EQ(recorder_.count("event:tool"), 1u);
}

// ---- the plain route, and /exit

TEST_F(McpTest, finding_76_the_plain_route_answers_as_the_original_did) {
  tool("search", echo());
  tool("object", [](auto, ToolReply reply) { reply.answer({R"({"a": 1})"}); });
  open();
  EXPECT_EQ(post("/rollout/r0/v1/tools/search", R"({"arguments":{"q":"x"}})").body,
            R"({"result": "got {\"q\":\"x\"}"})");
  EXPECT_EQ(post("/v1/tools/object", R"({"q":"x"})").body, R"({"a": 1})");
  const auto unknown = post("/v1/tools/none", "{}");
  EXPECT_EQ(unknown.status, 404);
  EXPECT_EQ(unknown.body, R"({"error": "tool not found"})");
  const auto broken = post("/v1/tools/search", "{");
  EXPECT_EQ(broken.status, 400);
  EXPECT_THAT(broken.body, HasSubstr("invalid JSON"));
  const auto list = post("/v1/tools/search", R"({"arguments":[]})");
  EXPECT_EQ(list.status, 400);
  EXPECT_EQ(list.body, R"({"error": "tool arguments must be a JSON object"})");
  const auto other = post("/rollout/other/v1/tools/search", "{}");
  EXPECT_EQ(other.status, 404);
  EXPECT_EQ(other.body, R"({"error": "rollout not found"})");
}

TEST_F(McpTest, AnAgentMaySayThatItHasEnded) {
  open();
  const auto other = post("/rollout/other/v1/exit", "");
  EXPECT_EQ(other.status, 404);
  EXPECT_EQ(other.body, R"({"error": "rollout not found"})");
  const auto told = post("/rollout/r0/v1/exit", R"({"code":0})");
  EXPECT_EQ(told.body, R"({"status": "ok"})");
  testing::settle(shard_);
  const auto items = gate_->for_trainer.next_batch(1, 0s);
  ASSERT_EQ(items.size(), 1u);
  EXPECT_NE(items[0].ended(), nullptr);
  EXPECT_EQ(post(kPath, body()).status, 400);
  // However often: the trace has it once.
  EXPECT_EQ(post("/v1/exit", "").status, 200);
  EXPECT_EQ(recorder_.count("event:exit"), 1u);
}

// ---- what cannot be a tool

TEST_F(McpTest, finding_49_finding_62_no_tool_looks_like_control_over_the_episode) {
  gate_.emplace(make_gate({}));
  registration_.id = id_;
  registration_.shard = &shard_;
  for (const char* name : {"reset", "Step", "STATE", "close", "", "a b", "a/b", "\xc3\xa9"}) {
    registration_.tools.clear();
    tool(name, echo());
    EXPECT_EQ(gate_->for_operator.open(registration_).error().code, ErrorCode::kInvalidArgument)
        << name;
  }
  registration_.tools.clear();
  tool("odd", echo()).parameters = R"({"type":"string"})";
  EXPECT_FALSE(gate_->for_operator.open(registration_));
  GateOptions some;
  some.tool_names = {"search"};
  gate_.emplace(make_gate(some));
  registration_.tools.clear();
  tool("other", echo());
  EXPECT_EQ(gate_->for_operator.open(registration_).error().code, ErrorCode::kPermissionDenied);
}

TEST_F(McpTest, TwoToolsOfOneNameAreRefused) {
  gate_.emplace(make_gate({}));
  registration_.id = id_;
  registration_.shard = &shard_;
  tool("search", echo());
  tool("search", echo());
  const auto opened = gate_->for_operator.open(registration_);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(opened.error().message, HasSubstr("\"search\": there are two of this name"));
  // Case tells them apart, as it does for whoever calls them.
  registration_.tools.back().name = "Search";
  EXPECT_TRUE(gate_->for_operator.open(registration_));
}

TEST_F(McpTest, BadMessagesAreErrorsOfJsonRpc) {
  tool("search", echo());
  open();
  for (const char* body : {"", "{", "[]", "7", "{}", R"({"id":{},"method":"ping"})",
                           R"({"id":1,"method":2})", R"({"id":1,"method":"ping","params":[]})"}) {
    const auto response = post("/mcp", body);
    EXPECT_EQ(response.status, 400) << body;
    EXPECT_THAT(response.body, HasSubstr("\"error\":{\"code\":-32")) << body;
  }
  EXPECT_EQ(rpc("resources/list").at("error").at("code").as_int64(), -32601);
  auto agent = this->agent();
  agent.get("/mcp");
  EXPECT_EQ(agent.response().status, 405);
}

}  // namespace
}  // namespace sluice::gate
