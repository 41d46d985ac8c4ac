// JSON-RPC: OpenEnv's methods and those that stock MCP clients begin with.
#include <fmt/format.h>

#include <algorithm>

#include "sluice/env/core.h"
#include "sluice/env/documents.h"
#include "sluice/env/python_text.h"

namespace sluice::env {
namespace {

constexpr int kInvalidRequest = -32600;
constexpr int kMethodNotFound = -32601;
constexpr int kInvalidParams = -32602;
constexpr int kInternalError = -32603;
constexpr int kServerError = -32000;

constexpr size_t kMaxNotes = 16;  // of progress, waiting to be sent

// Versions of MCP whose initialize, tools/list and tools/call are what is spoken here.
constexpr std::string_view kVersions[] = {"2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"};

const json::Object& request_schema() {
  static const json::Object schema = parse_document(R"({
    "type": "object", "additionalProperties": false,
    "properties": {
      "jsonrpc": {"const": "2.0"},
      "method": {"type": "string"},
      "params": {"type": "object", "default": {}},
      "id": {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}],
             "default": null}},
    "required": ["jsonrpc", "method"]})");
  return schema;
}

const json::Object& call_schema() {
  static const json::Object schema = parse_document(R"({
    "type": "object",
    "properties": {
      "name": {"type": "string"},
      "arguments": {"anyOf": [{"type": "object"}, {"type": "null"}], "default": null}},
    "required": ["name"]})");
  return schema;
}

// What Python takes for false.
bool is_empty(const json::Value* value) {
  if (value == nullptr || value->is_null()) return true;
  switch (value->kind()) {
    case boost::json::kind::bool_:
      return !value->get_bool();
    case boost::json::kind::string:
      return value->get_string().empty();
    case boost::json::kind::array:
      return value->get_array().empty();
    case boost::json::kind::object:
      return value->get_object().empty();
    default:
      return value->to_number<double>() == 0;
  }
}

RpcReply success(json::Value id, json::Value result) {
  RpcReply reply;
  reply.id = std::move(id);
  reply.result = std::move(result);
  return reply;
}

json::Object initialize(Core* core, const json::Object& params) {
  const std::string_view asked = json::get_string(params, "protocolVersion").value_or("");
  const bool known =
      std::find(std::begin(kVersions), std::end(kVersions), asked) != std::end(kVersions);
  json::Object tools{{"listChanged", false}};
  json::Object server{{"name", core->factory.info().name}, {"version", "1.0.0"}};
  json::Object out{{"protocolVersion", known ? asked : kVersions[0]},
                   {"capabilities", json::Object{{"tools", std::move(tools)}}},
                   {"serverInfo", std::move(server)}};
  return out;
}

awaitable<RpcReply> create_session(Core* core, RpcRequest request, RpcContext context) {
  json::Object result;
  if (context.session) {
    result["session_id"] = context.session->id();
    co_return success(std::move(request.id), std::move(result));
  }
  auto opened = co_await core->sessions.open(EnvSession::Kind::kHttp, std::move(context.client));
  if (!opened) co_return refusal_reply(std::move(request.id), opened.error());
  result["session_id"] = (*opened)->id();
  co_return success(std::move(request.id), std::move(result));
}

// The session that `params` name, or why not.
using Found = tl::expected<std::shared_ptr<EnvSession>, RpcReply>;
Found find_session(Core* core, const RpcRequest& request, const RpcContext& context,
                   const json::Value& wanted) {
  const std::string id = python::str(wanted);
  const std::string& client = context.session ? context.session->client() : context.client;
  auto session = wanted.is_string() ? core->sessions.find(id, client) : nullptr;
  if (!session) {
    return tl::unexpected(
        rpc_error(request.id, kInvalidParams, fmt::format("Unknown session_id: {}", id)));
  }
  if (!session->ready()) {
    return tl::unexpected(
        rpc_error(request.id, kInvalidRequest,
                  fmt::format("Session {} is still initializing; retry shortly", id)));
  }
  return session;
}

awaitable<RpcReply> close_session(Core* core, RpcRequest request, RpcContext context) {
  const json::Value* wanted = request.params.if_contains("session_id");
  if (is_empty(wanted)) {
    co_return rpc_error(std::move(request.id), kInvalidParams,
                        "Invalid params - 'session_id' is required");
  }
  if (context.session && wanted->is_string() && wanted->get_string() == context.session->id()) {
    co_return rpc_error(std::move(request.id), kInvalidRequest,
                        "Cannot close active WebSocket-managed session via MCP method");
  }
  auto found = find_session(core, request, context, *wanted);
  if (!found) co_return std::move(found.error());
  const std::shared_ptr<EnvSession> session = *found;
  json::Object result;
  result["session_id"] = session->id();
  result["closed"] = true;
  if (session->on_end) {
    session->on_end(CancelReason::kRequested);  // its connection is told, and closes it
  }
  co_await core->sessions.close(session, CancelReason::kRequested);
  co_return success(std::move(request.id), std::move(result));
}

awaitable<RpcReply> call_tool_method(Core* core, RpcRequest request,
                                     std::shared_ptr<EnvSession> session, RpcContext context) {
  Mistakes problems;
  json::Object given;
  given["name"] = *request.params.if_contains("name");
  if (const json::Value* arguments = request.params.if_contains("arguments");
      !is_empty(arguments)) {
    given["arguments"] = *arguments;
  }
  json::Value checked = check(call_schema(), given, {}, Naming::kModel, &problems);
  if (!problems.empty()) {
    co_return rpc_error(std::move(request.id), kInternalError,
                        to_text(problems, "CallToolRequestParams"));
  }
  json::Object& fields = checked.get_object();
  std::string name(fields["name"].get_string());
  json::Value arguments = fields["arguments"];
  if (arguments.is_null()) arguments = json::Object();
  CallOptions options;
  options.handle = context.handle;
  options.sink = std::move(context.sink);
  const ToolAnswer answer =
      co_await call_tool(core, std::move(session), std::move(name), std::move(arguments),
                         std::move(options), std::nullopt);
  if (!answer.result) {
    co_return rpc_error(std::move(request.id), kInternalError, answer.message);
  }
  co_return success(std::move(request.id), mcp_tool_result(*answer.result));
}

// What a request calls its progress; null if it does not want to know.
const json::Value* progress_token(const RpcRequest& request) {
  const json::Object* meta = json::get_object(request.params, "_meta");
  const json::Value* token = meta == nullptr ? nullptr : meta->if_contains("progressToken");
  const bool fits =
      token != nullptr && (token->is_string() || token->is_int64() || token->is_uint64());
  return fits ? token : nullptr;
}

json::Object progress_notification(const json::Value& token, const ProgressNote& note) {
  json::Object params{{"progressToken", token}, {"progress", note.progress}};
  if (note.total) params["total"] = *note.total;
  if (!note.message.empty()) params["message"] = to_valid_utf8(note.message);
  return {{"jsonrpc", "2.0"}, {"method", "notifications/progress"}, {"params", std::move(params)}};
}

awaitable<void> work(RunningRpc* running, RpcRequest request, RpcContext context) {
  const json::Value id = request.id;
  try {
    running->reply = co_await handle_rpc(running->core, std::move(request), std::move(context));
  } catch (const std::exception& e) {
    running->core->log.error("env", "a request could not be handled", {{"what", e.what()}});
    running->reply = rpc_error(id, kInternalError, "internal error");
  }
  running->changed.notify();
}

}  // namespace

ParsedRpc parse_rpc(const json::Value& message) {
  Mistakes problems;
  json::Value checked = check(request_schema(), message, {}, Naming::kModel, &problems);
  if (!problems.empty()) {
    return tl::unexpected(RpcError{
        kInvalidRequest, "Invalid request: " + to_text(problems, "JsonRpcRequest"), nullptr});
  }
  json::Object& fields = checked.get_object();
  RpcRequest request;
  request.method = std::string(fields["method"].get_string());
  request.params = std::move(fields["params"].get_object());
  request.id = fields["id"];
  request.has_id = message.get_object().contains("id");
  return request;
}

RpcReply rpc_error(json::Value id, int code, std::string message, json::Value data) {
  RpcReply reply;
  reply.id = std::move(id);
  reply.error = RpcError{code, std::move(message), std::move(data)};
  return reply;
}

RpcReply refusal_reply(json::Value id, const SessionRefusal& refusal) {
  return rpc_error(std::move(id), kServerError, refusal.message,
                   refusal.data.empty() ? json::Value(nullptr) : json::Value(refusal.data));
}

std::string to_text(const RpcReply& reply) {
  if (reply.tools) {
    return fmt::format(R"({{"jsonrpc":"2.0","id":{},"result":{}}})", python::compact(reply.id),
                       reply.tools->for_mcp);
  }
  json::Object out{{"jsonrpc", "2.0"}, {"id", reply.id}};
  if (const auto& error = reply.error) {
    out["error"] = {{"code", error->code}, {"message", error->message}, {"data", error->data}};
  } else {
    out["result"] = reply.result;
  }
  return python::compact(out);
}

awaitable<RpcReply> handle_rpc(Core* core, RpcRequest request, RpcContext context) {
  const std::string& method = request.method;
  if (method == "openenv/session/create") {
    co_return co_await create_session(core, std::move(request), std::move(context));
  }
  if (method == "openenv/session/close") {
    co_return co_await close_session(core, std::move(request), std::move(context));
  }
  if (method == "initialize") {
    json::Object result = initialize(core, request.params);
    co_return success(std::move(request.id), std::move(result));
  }
  // A frame on /ws wants a frame, even where MCP wants none.
  if (method == "ping" || request.is_notification()) {
    co_return success(std::move(request.id), json::Object());
  }
  const bool call = method == "tools/call";
  if (!call && method != "tools/list") {
    co_return rpc_error(std::move(request.id), kMethodNotFound,
                        fmt::format("Method not found: {}", method));
  }

  std::shared_ptr<EnvSession> session = context.session;
  if (const json::Value* wanted = request.params.if_contains("session_id");
      !session && !is_empty(wanted)) {
    auto found = find_session(core, request, context, *wanted);
    if (!found) co_return std::move(found.error());
    session = *found;
  }
  if (session) session->touch();
  const auto tools = core->tools();
  if (tools->by_name.empty() && !core->factory.tools()) {
    co_return rpc_error(std::move(request.id), kInternalError, "Environment does not support MCP");
  }
  if (!call) {
    RpcReply reply;
    reply.id = std::move(request.id);
    reply.tools = tools;
    co_return reply;
  }
  if (is_empty(request.params.if_contains("name"))) {
    co_return rpc_error(std::move(request.id), kInvalidParams, "Missing 'name' in params");
  }
  if (session) {
    co_return co_await call_tool_method(core, std::move(request), std::move(session),
                                        std::move(context));
  }
  auto opened = co_await core->sessions.open(EnvSession::Kind::kStateless, context.client);
  if (!opened) co_return refusal_reply(std::move(request.id), opened.error());
  session = *opened;
  RpcReply reply = co_await call_tool_method(core, std::move(request), session, std::move(context));
  core->sessions.close_later(session, CancelReason::kRequested);
  co_return reply;
}

bool wants_progress(const RpcRequest& request) {
  return progress_token(request) != nullptr;
}

void RunningRpc::start(RpcRequest request, RpcContext context) {
  if (const json::Value* token = progress_token(request)) {
    context.sink = [this, token = *token](const ProgressNote& note) {
      if (notes.size() >= kMaxNotes) notes.pop_front();
      notes.push_back(python::compact(progress_notification(token, note)));
      changed.notify();
    };
  }
  tasks.spawn(work(this, std::move(request), std::move(context)));
}

}  // namespace sluice::env
