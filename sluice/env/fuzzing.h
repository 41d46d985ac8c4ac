// For fuzzers: a whole server in memory, kept for all inputs, whose calls never take long.
#pragma once

#include <memory>
#include <utility>

#include "sluice/base/core/check.h"
#include "sluice/env/server.h"
#include "sluice/env/testing.h"
#include "sluice/net/memory_stream.h"
#include "sluice/net/testing.h"

namespace sluice::env::testing {

struct FuzzedServer {
  FuzzedServer() : factory(environment()) {
    ServerOptions options;
    options.max_sessions = 2;
    options.max_call_time = std::chrono::milliseconds(2);
    options.http_session_ttl = std::chrono::milliseconds(1);
    options.rollouts = &board;
    options.web = WebInterface::kOn;
    options.websocket.close_timeout = std::chrono::milliseconds(5);
    auto made = EnvServer::make(shard, factory, std::move(options));
    CHECK(made);
    server = std::move(*made);
    auto listening = std::make_unique<net::MemoryListener>(shard);
    listener = listening.get();
    CHECK(server->serve(std::move(listening)));
  }

  ToolEnvironmentOptions environment() {
    ToolEnvironmentOptions options;
    options.step_timeout = std::chrono::milliseconds(2);
    options.max_echo = 4096;
    options.board = &board;
    return options;
  }

  net::Shard shard;
  RolloutBoard board{shard, RolloutBoardLimits{4, 4}};
  ToolEnvironmentFactory factory;
  std::unique_ptr<EnvServer> server;
  net::MemoryListener* listener = nullptr;
};

}  // namespace sluice::env::testing
