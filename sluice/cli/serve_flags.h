// The flags of `sluice serve`.
#pragma once

#include <memory>

#include "sluice/cli/serve.h"

namespace CLI {  // NOLINT(readability-identifier-naming): the library's own
class App;
}

namespace sluice::cli {

// Adds the subcommand; its exit code goes to `code`.
void add_serve(CLI::App& app, int* code);

}  // namespace sluice::cli
