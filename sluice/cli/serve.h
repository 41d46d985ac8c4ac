// `sluice serve`: the OpenEnv coding environment as a server, with settings from serve_settings.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sluice/base/core/result.h"
#include "sluice/env/coding/catalog.h"
#include "sluice/env/server.h"
#include "sluice/rollout/task.h"

namespace sluice::cli {

// What a server is made from.
struct ServeSettings {
  std::string host = "127.0.0.1";
  uint16_t port = 8000;
  env::ServerOptions server;  // without log, board and metrics
  Duration step_timeout = std::chrono::seconds(900);
  std::optional<Duration> upstream_silence;
  Duration drain = std::chrono::seconds(30);
  size_t max_rollouts = 32;
  int retries = 0;    // of a rollout that failed for infrastructure reasons
  size_t shards = 0;  // 0: as many as cores, at most 4
  std::string backend = "local";
  std::string agents_directory;
  std::string templates_directory;  // "" for none
  // Hosts that clients may name in a base_url although their addresses are private.
  std::vector<std::string> allow_upstreams;
  std::string data;
  std::string trainer_listen;  // "" for none
  Duration trainer_wait = std::chrono::seconds(30);
  gate::GateOptions gate;
  std::string log;  // "" for stderr
  LogLevel log_level = LogLevel::kInfo;
  rollout::Task defaults;
  env::coding::Variables variables;
};

// Serves until it is told to stop; the process's exit code.
int serve_command(Result<ServeSettings> settings);

}  // namespace sluice::cli
