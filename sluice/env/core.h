// Core: what the server's parts share. Private to the room.
//
// On the server's shard.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "sluice/env/access.h"
#include "sluice/env/environment.h"
#include "sluice/env/options.h"
#include "sluice/env/session.h"
#include "sluice/env/validation.h"
#include "sluice/net/wait.h"
#include "sluice/net/websocket.h"

namespace sluice::env {

// The factory's tools in the forms in which they are sent, made once for each list.
struct ToolTexts {
  std::shared_ptr<const Tools> source;
  std::map<std::string, const Tool*, std::less<>> by_name;
  std::string for_step;  // {"tools":[{"name","description","input_schema"}]}
  std::string for_mcp;   // {"tools":[{"name","description","inputSchema",...}]}
};

struct Core {
  Core(net::Shard& s, EnvironmentFactory& f, ServerOptions o, Access a);

  // Looks at the factory's list again.
  std::shared_ptr<const ToolTexts> tools();

  void count_request(std::string_view route, int status);
  void count_call(std::string_view kind, std::string_view outcome);

  net::Shard& shard;
  EnvironmentFactory& factory;
  const ServerOptions options;
  const Access access;
  const std::shared_ptr<Metrics> metrics;
  const Logger log;
  Access::Reach reach = Access::Reach::kLoopback;
  bool stopping = false;
  EnvSessions sessions;

 private:
  std::shared_ptr<const ToolTexts> tools_;
  std::map<std::pair<std::string, int>, Metrics::Counter> requests_;
  std::map<std::pair<std::string, std::string>, Metrics::Counter> calls_;
};

// --- Actions and observations (actions.cc) -------------------------------------------------------

// An action as a client sent it.
struct Action {
  enum class Kind : uint8_t { kListTools, kCallTool, kOwn } kind = Kind::kOwn;
  std::string tool;
  json::Object arguments;  // of the tool, or the action itself
};
// What is wrong with it goes to `problems`.
Action parse_action(const json::Object& data, const EnvironmentInfo& info, Mistakes* problems);

// How a step ended, as the text that stands under "data" in a frame and in a body over HTTP.
struct StepAnswer {
  std::string text;
  bool failed = false;  // `text` is a message: the environment could not take the step
};
awaitable<StepAnswer> take_step(Core* core, std::shared_ptr<EnvSession> session, Action action,
                                std::optional<double> timeout_s, CallHandle* handle);
awaitable<StepAnswer> take_reset(Core* core, std::shared_ptr<EnvSession> session,
                                 json::Object arguments, CallHandle* handle);

// A tool call's end: the result, or what a client is told of its failure.
struct ToolAnswer {
  std::optional<ToolResult> result;
  std::string type;     // of the error: "tool_not_found", "invalid_args", "timeout", ...
  std::string message;  // of the error
};
awaitable<ToolAnswer> call_tool(Core* core, std::shared_ptr<EnvSession> session, std::string name,
                                json::Value arguments, CallOptions options,
                                std::optional<double> timeout_s);

// A result as a step's observation holds it, and as MCP clients of both kinds read it.
json::Object step_tool_result(const ToolResult& result);
json::Object mcp_tool_result(const ToolResult& result);

// The schemas under /schema: the environment's own, or OpenEnv's for environments with tools.
json::Object schemas_of(const EnvironmentInfo& info);
json::Object metadata_of(EnvironmentFactory& factory);

// --- JSON-RPC (rpc.cc) ---------------------------------------------------------------------------

struct RpcError {
  int code = 0;
  std::string message;
  json::Value data;
};
struct RpcRequest {
  std::string method;
  json::Object params;
  json::Value id;
  bool has_id = false;

  // MCP's notifications, which get no answer.
  bool is_notification() const { return !has_id && method.starts_with("notifications/"); }
};
using ParsedRpc = tl::expected<RpcRequest, RpcError>;
ParsedRpc parse_rpc(const json::Value& message);

struct RpcReply {
  json::Value id;
  std::optional<RpcError> error;
  json::Value result;
  // Instead of `result`, when its text is at hand.
  std::shared_ptr<const ToolTexts> tools;
};
RpcReply rpc_error(json::Value id, int code, std::string message, json::Value data = nullptr);
std::string to_text(const RpcReply& reply);

struct RpcContext {
  std::shared_ptr<EnvSession> session;  // the connection's, if it has one
  CallHandle* handle = nullptr;
  ProgressSink sink;   // if the transport can carry notifications
  std::string client;  // who asks, where there is no session
};
awaitable<RpcReply> handle_rpc(Core* core, RpcRequest request, RpcContext context);

// Whether whoever asks wants to know how far it is.
bool wants_progress(const RpcRequest& request);

// A request that is worked on while its connection does other things.
struct RunningRpc {
  explicit RunningRpc(Core* c) : core(c), tasks(c->shard.executor()) {}
  // `changed` tells of `notes`, which there are if progress is wanted, and of `reply`.
  void start(RpcRequest request, RpcContext context);

  Core* const core;
  std::optional<RpcReply> reply;
  std::deque<std::string> notes;  // notifications, waiting to be sent; the latest few
  net::Signal changed;
  net::TaskGroup tasks;
};

RpcReply refusal_reply(json::Value id, const SessionRefusal& refusal);

// --- Endpoints -----------------------------------------------------------------------------------

// Each serves one request to its end. The request is a WebSocket's handshake where that is the
// name.
awaitable<void> serve_http(Core* core, net::HttpRequest request, net::ResponseWriter* writer);
// What one does on an open WebSocket of a client, until it is to be closed so.
struct SocketClose {
  uint16_t code = net::websocket::kNormal;
  std::string reason;
};
using Conversation =
    std::function<awaitable<SocketClose>(Core* core, net::WebSocket* socket, std::string client)>;
awaitable<void> serve_socket(Core* core, net::HttpRequest request, net::ResponseWriter* writer,
                             Conversation conversation, std::string route,
                             std::string protocol = "");
awaitable<void> serve_ws(Core* core, net::HttpRequest request, net::ResponseWriter* writer);
awaitable<void> serve_mcp_ws(Core* core, net::HttpRequest request, net::ResponseWriter* writer);
awaitable<void> serve_mcp_post(Core* core, net::HttpRequest request, net::ResponseWriter* writer);
// {"detail": "..."}, as FastAPI says what is wrong.
net::HttpResponse detail_response(int status, std::string_view message);
// 422 {"detail": [...]}, the same for an input that is wrong in so many places.
net::HttpResponse invalid_response(const Mistakes& problems);
awaitable<void> serve_rollout_events(Core* core, std::string id, net::HttpRequest request,
                                     net::ResponseWriter* writer);

}  // namespace sluice::env
