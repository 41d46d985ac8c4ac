// Flags that several commands have.
#pragma once

#include "sluice/cli/gate_flags.h"

namespace CLI {  // NOLINT(readability-identifier-naming): the library's own
class App;
}

namespace sluice::cli {

// "max_sessions" is --max-sessions.
std::string flag_name(std::string_view key);

void add_limit_flags(CLI::App& command, GateLimitFlags& flags);
void add_rule_flags(CLI::App& command, GateRuleFlags& flags);

}  // namespace sluice::cli
