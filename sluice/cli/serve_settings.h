// The flags and settings of `sluice serve`: from flags, then from environment variables, then from
// a TOML file, then from defaults. Errors name the flag, or file, line and key.
#pragma once

#include "sluice/cli/serve.h"

namespace CLI {  // NOLINT(readability-identifier-naming): the library's own
class App;
}

namespace sluice::cli {

// Adds the subcommand; its exit code goes to `code`.
void add_serve(CLI::App& app, int* code);

}  // namespace sluice::cli
