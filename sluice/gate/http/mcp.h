// Host tools as agents reach them on their rollout's endpoint: MCP over HTTP (the revision
// 2025-06-18, "streamable HTTP" without streams: each request has one JSON answer) and the plain
// route /v1/tools/NAME. On the rollout's shard.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "sluice/gate/open_rollout.h"
#include "sluice/net/http.h"

namespace sluice::gate::http {

// One JSON-RPC message.
net::awaitable<void> serve_mcp(std::shared_ptr<OpenRollout> rollout, net::HttpRequest request,
                               net::ResponseWriter* writer);

// {"arguments":{...}}, or the arguments themselves; answered with the tool's JSON object, or with
// its text as {"result":"..."}, or with {"error":"..."}.
net::awaitable<void> serve_tool(std::shared_ptr<OpenRollout> rollout, std::string tool,
                                net::HttpRequest request, net::ResponseWriter* writer);

// How the plain route tells errors: {"error": "..."}, spaced as Python's json.dumps does.
net::HttpResponse plain_error(int status, std::string_view text);

}  // namespace sluice::gate::http
