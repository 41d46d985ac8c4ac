// A server for the tests below this folder: the tool environment of sluice/env/testing.h over TCP.
//
//   env_test_server [--port N] [--sessions N] [--ttl SECONDS] [--mode simulation|production]
//                   [--key KEY] [--web] [--calls in-turn] [--step-timeout SECONDS] [--finish]
//
// Prints "listening on HOST:PORT" when it is ready, and at each SIGUSR1 the number of bytes that
// are allocated; SIGTERM stops it in order, within 5 s. What the environments did is printed at the
// end, as JSON.
#include <fmt/format.h>
#include <malloc.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "sluice/env/server.h"
#include "sluice/env/testing.h"
#include "sluice/net/signals.h"
#include "sluice/net/socket.h"

namespace {

using namespace sluice;
using namespace std::chrono_literals;

struct Flags {
  uint16_t port = 0;
  env::ServerOptions server;
  env::testing::ToolEnvironmentOptions environment;
};

Duration seconds(const char* text) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(std::atof(text)));
}

bool parse(int argc, char** argv, Flags& flags) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--web") {
      flags.server.web = env::WebInterface::kOn;
      continue;
    }
    if (flag == "--finish") {
      flags.server.on_client_gone = env::OnClientGone::kFinish;
      continue;
    }
    if (i + 1 == argc) return false;
    const char* const value = argv[++i];
    if (flag == "--port") {
      flags.port = static_cast<uint16_t>(std::atoi(value));
    } else if (flag == "--sessions") {
      flags.server.max_sessions = static_cast<size_t>(std::atoi(value));
    } else if (flag == "--ttl") {
      flags.server.http_session_ttl = seconds(value);
    } else if (flag == "--step-timeout") {
      flags.environment.step_timeout = seconds(value);
    } else if (flag == "--key") {
      flags.server.access.keys.emplace_back(value);
    } else if (flag == "--calls") {
      flags.environment.calls = env::EnvironmentInfo::Calls::kInTurn;
    } else if (flag == "--mode") {
      const auto mode = env::parse_server_mode(value);
      if (!mode) return false;
      flags.server.mode = *mode;
    } else {
      return false;
    }
  }
  return true;
}

// What has been asked for and not given back. Pages that the allocator keeps for what comes are not
// counted: how many it keeps depends on the busiest moment.
void print_allocated() {
  const auto heap = ::mallinfo2();
  fmt::print("{}\n", heap.uordblks + heap.hblkhd);
  std::fflush(stdout);
}

net::awaitable<void> stop_then_set(env::EnvServer* server, bool* done) {
  co_await server->stop(Deadline::in(5s));
  *done = true;
}

int run(Flags flags) {
  net::Shard shard;
  env::RolloutBoard board(shard);
  flags.environment.board = flags.server.rollouts = &board;
  env::testing::ToolEnvironmentFactory factory(flags.environment);
  auto server = env::EnvServer::make(shard, factory, flags.server);
  auto listener = net::listen_tcp(shard, "127.0.0.1", flags.port);
  if (!server || !listener) {
    fmt::print(stderr, "{}\n", server ? listener.error().message : server.error().message);
    return 1;
  }
  const std::string address = (*listener)->address();
  if (const auto served = (*server)->serve(std::move(*listener)); !served) {
    fmt::print(stderr, "{}\n", served.error().message);
    return 1;
  }
  fmt::print("listening on {}\n", address);
  std::fflush(stdout);
  bool stopping = false;
  bool stopped = false;
  const net::Signals signals(shard, {SIGTERM, SIGINT, SIGUSR1}, [&](int signal) {
    if (signal == SIGUSR1) return print_allocated();
    if (std::exchange(stopping, true)) return;
    shard.spawn(stop_then_set(server->get(), &stopped));
  });
  shard.run_until([&] { return stopped; });
  fmt::print(R"({{"created": {}, "closed": {}, "cancelled": {}, "waiting": {}}})"
             "\n",
             factory.log.created, factory.log.closed, factory.log.cancelled, factory.log.waiting);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  flags.server.max_sessions = 4;
  flags.server.log = Logger::to_fd(2, LogLevel::kInfo);
  if (!parse(argc, argv, flags)) {
    fmt::print(stderr, "flags: see the head of env_test_server.cc\n");
    return 2;
  }
  return run(std::move(flags));
}
