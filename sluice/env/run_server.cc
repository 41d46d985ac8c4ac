#include "sluice/env/run_server.h"

#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <utility>

#include "sluice/net/signals.h"
#include "sluice/net/socket.h"

namespace sluice::env {
namespace {

using namespace std::chrono_literals;

constexpr auto kDrain = 30s;

awaitable<void> stop_then_set(EnvServer* server, bool* stopped) {
  co_await server->stop(Deadline::in(kDrain));
  *stopped = true;
}

Result<void> run(EnvironmentFactory& factory, int port, ServerOptions options) {
  if (port < 0 || port > 65535) {
    return Error(ErrorCode::kInvalidArgument, fmt::format("{} is no port", port));
  }
  net::Shard shard;
  SLUICE_TRY(const auto server, EnvServer::make(shard, factory, std::move(options)));
  SLUICE_TRY(auto listener, net::listen_tcp(shard, "127.0.0.1", static_cast<uint16_t>(port)));
  const std::string address = listener->address();
  SLUICE_TRY_VOID(server->serve(std::move(listener)));
  bool stopping = false;
  bool stopped = false;
  const net::Signals signals(shard, {SIGINT, SIGTERM}, [&](int) {
    if (!std::exchange(stopping, true)) shard.spawn(stop_then_set(server.get(), &stopped));
  });
  fmt::print("listening on {}\n", address);
  std::fflush(stdout);
  shard.run_until([&] { return stopped; });
  return {};
}

}  // namespace

int run_server(EnvironmentFactory& factory, int port, ServerOptions options) {
  const auto ran = run(factory, port, std::move(options));
  if (ran) return 0;
  fmt::print(stderr, "{}\n", ran.error().message);
  return exit_code(ran.error().code);
}

}  // namespace sluice::env
