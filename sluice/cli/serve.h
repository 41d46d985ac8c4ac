// `sluice serve`: the OpenEnv coding environment as a server. Settings come from flags, then from
// environment variables (both are in ServeFlags), then from a TOML file, then from defaults.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "sluice/base/core/result.h"
#include "sluice/cli/gate_flags.h"
#include "sluice/env/coding/catalog.h"
#include "sluice/env/server.h"
#include "sluice/rollout/task.h"

namespace sluice::cli {

// What flags and variables said; nothing for what neither did.
struct ServeFlags {
  std::string config;
  std::optional<std::string> host;
  std::optional<uint16_t> port;
  std::optional<std::string> mode;
  std::optional<size_t> max_sessions, max_rollouts, shards;
  std::optional<double> session_timeout_s, http_session_ttl_s, step_timeout_s, max_call_time_s;
  std::optional<double> drain_s;
  std::optional<size_t> max_message_mb;
  std::optional<std::string> on_client_gone;
  std::optional<std::string> key_file;
  std::optional<std::string> web;
  std::optional<std::string> readme;
  std::vector<std::string> allow_origins, allow_hosts;
  std::optional<std::string> backend, network, approvals;
  std::vector<std::string> setup_hosts;
  std::optional<std::string> agents_directory, templates_directory;
  std::optional<std::string> data;
  std::optional<std::string> policy, trainer_listen;
  GateLimitFlags limits;
  GateRuleFlags rules;
  bool trainer_text = false;
  std::optional<double> trainer_wait_s;
  std::optional<std::string> log, log_level;
  bool no_keys = false;
};

// What a server is made from.
struct ServeSettings {
  std::string host = "127.0.0.1";
  uint16_t port = 8000;
  env::ServerOptions server;  // without log, board and metrics
  Duration step_timeout = std::chrono::seconds(900);
  Duration drain = std::chrono::seconds(30);
  size_t max_rollouts = 32;
  size_t shards = 0;  // 0: as many as cores, at most 4
  std::string backend = "local";
  std::string agents_directory;
  std::string templates_directory;  // "" for none
  std::string data;
  std::string trainer_listen;  // "" for none
  bool trainer_text = false;   // its answers need no tokens
  Duration trainer_wait = std::chrono::seconds(30);
  gate::TotalBudget total;
  std::set<std::string> tool_names;  // empty: any
  std::string log;                   // "" for stderr
  LogLevel log_level = LogLevel::kInfo;
  rollout::Task defaults;
  env::coding::Variables variables;
};

// `variables` is the process's environment. Errors name the flag, or file, line and key.
Result<ServeSettings> make_settings(const ServeFlags& flags,
                                    const env::coding::Variables& variables);

int serve_command(const ServeFlags& flags);

}  // namespace sluice::cli
