// run_server: what a program does that is nothing but an environment's server.
#pragma once

#include "sluice/env/server.h"

namespace sluice::env {

// Serves the factory's environments on a loopback port (0: a free one) and says on stdout where,
// until SIGINT or SIGTERM comes; then what runs may end. Returns the program's exit code; what went
// wrong is told on stderr. To be called once, from main().
int run_server(EnvironmentFactory& factory, int port, ServerOptions options);

}  // namespace sluice::env
