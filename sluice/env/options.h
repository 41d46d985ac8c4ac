// Everything that flags, variables and the configuration file of a server can say.
//
// Plain values; any thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/base/log.h"
#include "sluice/base/metrics.h"
#include "sluice/env/access.h"
#include "sluice/env/rollouts.h"
#include "sluice/net/http_server.h"
#include "sluice/net/websocket.h"

namespace sluice::env {

// In production an agent's MCP calls are all there is over HTTP: no /reset, /step or /state.
enum class ServerMode : uint8_t { kSimulation, kProduction };
// "simulation" or "production", in any case.
Result<ServerMode> parse_server_mode(std::string_view text);

// What becomes of a call whose client has left.
enum class OnClientGone : uint8_t { kCancel, kFinish };

enum class WebInterface : uint8_t { kOff, kOn };

struct ServerOptions {
  ServerMode mode = ServerMode::kSimulation;

  // Sessions at a time: /ws, WebSocket /mcp and MCP sessions over HTTP together
  // (MAX_CONCURRENT_ENVS). Above: CAPACITY_REACHED.
  size_t max_sessions = 1;
  // Calls at a time that have no session (POST /reset, /step, /mcp): each makes an environment.
  size_t max_stateless_calls = 64;
  // Sessions of any kind that nobody used for so long are ended; never by default.
  std::optional<Duration> session_timeout;
  // MCP sessions over HTTP have no connection whose end could be seen.
  Duration http_session_ttl = std::chrono::minutes(30);
  // No call at all takes longer than this, whatever client and environment say.
  Duration max_call_time = std::chrono::hours(6);
  OnClientGone on_client_gone = OnClientGone::kCancel;

  AccessOptions access;
  WebInterface web = WebInterface::kOff;  // ENABLE_WEB_INTERFACE
  std::optional<std::string> readme;      // shown by /web/metadata

  // Bodies and frames: 16 MiB each by default.
  net::HttpLimits http;
  net::WebSocketOptions websocket;
  Duration sse_keep_alive = std::chrono::seconds(15);  // comments on quiet event streams

  RolloutBoard* rollouts = nullptr;  // without it there is no /rollouts
  std::shared_ptr<Metrics> metrics;  // made if there is none; /metrics shows it
  Logger log;
};

}  // namespace sluice::env
