// Where the command keeps things, by the XDG base directory rules.
#pragma once

#include <string>

namespace sluice::cli {

// $XDG_STATE_HOME/sluice, else ~/.local/state/sluice: rollouts and kept files.
std::string state_directory();

// An environment variable, or "" if it is unset.
std::string environment(const char* name);

}  // namespace sluice::cli
