// EnvServer: serves any environment as OpenEnv's server does, over HTTP, WebSocket and MCP, so that
// OpenEnv's clients work unchanged. docs/openenv.md says what is the same and what is better.
//
// Lives on one shard; every member runs there. Sessions do not hold each other up: whatever takes
// long is a suspended coroutine of its own, and an environment takes its heavy work to other shards
// or threads (environment.h).
#pragma once

#include <memory>

#include "sluice/env/environment.h"
#include "sluice/env/options.h"
#include "sluice/net/shard.h"
#include "sluice/net/stream.h"

namespace sluice::env {

class EnvServer {
 public:
  // kInvalidArgument for options that do not go together, among them more than one session of an
  // environment that allows but one. `factory` and the board outlive the server.
  static Result<std::unique_ptr<EnvServer>> make(net::Shard& shard, EnvironmentFactory& factory,
                                                 ServerOptions options);
  ~EnvServer();  // stop() must have completed
  EnvServer(const EnvServer&) = delete;
  EnvServer& operator=(const EnvServer&) = delete;

  // Several listeners may be added. kFailedPrecondition for one that is reachable from elsewhere
  // while nothing protects the server.
  Result<void> serve(std::unique_ptr<net::Listener> listener);

  // Stops accepting, ends idle sessions, lets calls under way end until the deadline, cancels the
  // rest. Returns when no environment and no connection is left.
  awaitable<void> stop(Deadline deadline);

  size_t sessions() const;
  size_t connections() const;

 private:
  struct State;
  explicit EnvServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sluice::env
