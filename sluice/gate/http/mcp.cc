#include "sluice/gate/http/mcp.h"

#include <algorithm>
#include <array>

#include "sluice/json/raw.h"
#include "sluice/json/text.h"
#include "sluice/json/value.h"
#include "sluice/llm/wire.h"
#include "sluice/net/wait.h"

namespace sluice::gate::http {
namespace {

using llm::wire::append_list;
using llm::wire::Members;
using llm::wire::object;
using net::awaitable;
using net::ResponseWriter;

// The first is what we offer to clients that ask for one we do not know.
constexpr std::array<std::string_view, 4> kRevisions{"2025-06-18", "2025-11-25", "2025-03-26",
                                                     "2024-11-05"};

// JSON-RPC's own codes.
constexpr int kParseError = -32700, kInvalidRequest = -32600, kMethodNotFound = -32601,
              kInvalidParams = -32602;

// A tool's call in progress.
struct Calling {
  net::Signal wake;
  std::optional<Result<ToolResult>> result;
  bool gone = false;
};

// What the tool gave, or an error for the agent to read. Nothing if nobody is there to tell.
awaitable<std::optional<Result<ToolResult>>> call_tool(std::shared_ptr<OpenRollout> rollout,
                                                       std::string tool, std::string arguments,
                                                       ResponseWriter* writer) {
  const auto calling = std::make_shared<Calling>();
  const auto id = rollout->tools().call(tool, arguments, [calling](Result<ToolResult> result) {
    calling->result = std::move(result);
    calling->wake.notify();
  });
  if (id) {
    writer->on_peer_closed([calling](net::PeerClose) {
      calling->gone = true;
      calling->wake.notify();
    });
    while (!calling->result && !calling->gone) {
      const auto waited = co_await net::wait_for(&calling->wake);
      if (!waited) calling->gone = true;
    }
    writer->on_peer_closed({});
    if (!calling->result) {
      rollout->tools().stop(*id);
      writer->abort();
    }
  }
  co_return std::move(calling->result);
}

// The members of what is answered, a "result" or an "error", are written by `write(members)`.
template <class Write>
net::HttpResponse rpc(std::string_view id, std::string_view answer, Write write) {
  return net::json_response(200, object([&](Members& members) {
                              members.text("jsonrpc", "2.0");
                              members.raw("id", id);
                              Members inner(members[answer]);
                              write(inner);
                            }));
}

net::HttpResponse rpc_error(std::string_view id, int code, std::string_view message) {
  return rpc(id, "error", [&](Members& error) {
    error.number("code", code);
    error.text("message", message);
  });
}

// What of a JSON-RPC message matters here.
struct Message {
  std::string id;  // as it came; "" for a notification
  std::string method;
  json::RawObject params;
};

Result<Message> read_message(const Bytes& body) {
  SLUICE_TRY(const json::Raw raw, json::read_value(body));
  SLUICE_TRY(const json::RawObject fields, json::fields(raw));
  Message out;
  if (const json::Raw* id = fields.find("id")) {
    if (!id->is(json::Type::kString) && !id->is(json::Type::kNumber)) {
      return Error(ErrorCode::kInvalidArgument, "id: must be a string or a number");
    }
    out.id = id->text;
  }
  if (const json::Raw* method = fields.find("method")) {
    SLUICE_TRY(out.method, json::to_text(*method));
  } else if (fields.find("result") == nullptr && fields.find("error") == nullptr) {
    return Error(ErrorCode::kInvalidArgument, "method: is missing");
  }
  if (const json::Raw* params = fields.find("params")) {
    SLUICE_TRY(out.params, json::fields(*params));
  }
  return out;
}

std::string text_param(const Message& message, std::string_view name) {
  const json::Raw* value = message.params.find(name);
  return value == nullptr ? std::string() : json::to_text(*value).value_or("");
}

net::HttpResponse initialize(const Message& message) {
  const std::string asked = text_param(message, "protocolVersion");
  const bool known = std::find(kRevisions.begin(), kRevisions.end(), asked) != kRevisions.end();
  return rpc(message.id, "result", [&](Members& result) {
    result.text("protocolVersion", known ? std::string_view(asked) : kRevisions.front());
    result.raw("capabilities", R"({"tools":{}})");
    result.raw("serverInfo", R"({"name":"sluice","version":"1"})");
  });
}

net::HttpResponse list_tools(const Message& message, const ToolBox& tools) {
  return rpc(message.id, "result", [&](Members& result) {
    append_list(result["tools"], tools.offered(), [](Bytes& out, const ToolBox::Offered& offered) {
      Members tool(out);
      tool.text("name", offered.tool->name);
      tool.text_if_any("description", offered.tool->description);
      tool.raw("inputSchema", offered.tool->parameters);
    });
  });
}

// The tool's own failure, and ours, are results: the model is to read them.
net::HttpResponse tool_result(const Message& message, const Result<ToolResult>& result) {
  return rpc(message.id, "result", [&](Members& members) {
    Bytes& out = members["content"].append(R"([{"type":"text","text":)");
    json::append_string(out, result ? result->text : result.error().message);
    out.append("}]");
    members.flag("isError", !result || result->failed);
  });
}

awaitable<void> serve_call(std::shared_ptr<OpenRollout> rollout, Message message,
                           ResponseWriter* writer) {
  std::string tool = text_param(message, "name");
  const json::Raw* given = message.params.find("arguments");
  std::string arguments(given == nullptr || given->is(json::Type::kNull) ? "{}" : given->text);
  const auto result =
      co_await call_tool(std::move(rollout), std::move(tool), std::move(arguments), writer);
  if (!result) co_return;
  net::HttpResponse response;
  if (!*result && result->error().code == ErrorCode::kNotFound) {
    response = rpc_error(message.id, kInvalidParams, "unknown tool: see tools/list");
  } else {
    response = tool_result(message, *result);
  }
  co_await writer->send_or_abort(std::move(response));
}

// The arguments in the body of the plain route.
Result<std::string> plain_arguments(const Bytes& body) {
  if (body.empty()) return std::string("{}");
  auto raw = json::read_value(body);
  if (!raw) return std::move(raw).error().within("invalid JSON");
  json::Raw arguments = *raw;
  json::RawObject fields;
  if (raw->is(json::Type::kObject)) {
    SLUICE_TRY(fields, json::fields(*raw));
    if (const json::Raw* inner = fields.find("arguments")) arguments = *inner;
  }
  if (arguments.is(json::Type::kNull)) return std::string("{}");
  return std::string(arguments.text);
}

net::HttpResponse plain_result(const Result<ToolResult>& result) {
  if (!result) {
    // In the words and statuses of the interface that this route is kept for.
    const Error& error = result.error();
    if (error.code == ErrorCode::kInternal) return plain_error(500, "tool execution failed");
    return plain_error(http_status(error.code), error.message);
  }
  if (result->failed) return plain_error(200, result->text);
  json::ParseLimits limits;
  limits.bytes = result->text.size();
  const auto value = json::parse(result->text, limits);
  if (value && value->is_object()) return net::json_response(200, result->text);
  Bytes body("{\"result\": ");
  json::append_string(body, result->text);
  body.push_back('}');
  return net::json_response(200, std::move(body));
}

}  // namespace

net::HttpResponse plain_error(int status, std::string_view text) {
  Bytes body("{\"error\": ");
  json::append_string(body, text);
  body.push_back('}');
  return net::json_response(status, std::move(body));
}

awaitable<void> serve_mcp(std::shared_ptr<OpenRollout> rollout, net::HttpRequest request,
                          ResponseWriter* writer) {
  auto message = read_message(request.body);
  net::HttpResponse response;
  if (!message) {
    const bool broken = !json::read_value(request.body);
    response = rpc_error("null", broken ? kParseError : kInvalidRequest, message.error().message);
    response.status = 400;
  } else if (message->id.empty() || message->method.empty()) {
    // A notification, or an answer to what we never asked.
    response.status = 202;
  } else if (message->method == "tools/call") {
    co_await serve_call(std::move(rollout), std::move(*message), writer);
    co_return;
  } else if (message->method == "initialize") {
    response = initialize(*message);
  } else if (message->method == "ping") {
    response = rpc(message->id, "result", [](Members&) {});
  } else if (message->method == "tools/list") {
    response = list_tools(*message, rollout->tools());
  } else {
    response = rpc_error(message->id, kMethodNotFound, "method not found");
  }
  co_await writer->send_or_abort(std::move(response));
}

awaitable<void> serve_tool(std::shared_ptr<OpenRollout> rollout, std::string tool,
                           net::HttpRequest request, ResponseWriter* writer) {
  auto arguments = plain_arguments(request.body);
  request.body = Bytes();
  if (!arguments) {
    net::HttpResponse response = plain_error(400, arguments.error().message);
    co_await writer->send_or_abort(std::move(response));
    co_return;
  }
  const auto result =
      co_await call_tool(std::move(rollout), std::move(tool), std::move(*arguments), writer);
  if (!result) co_return;
  net::HttpResponse response = plain_result(*result);
  co_await writer->send_or_abort(std::move(response));
}

}  // namespace sluice::gate::http
