// Registry: finding agent specs by name or path, without a rebuild.
//
//   name         looked up in the user's agents directory, then among the built-in ones
//   ./my.toml    a path (it holds a '/' or ends in ".toml")
//
// Plain values read from files at each call; any thread.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/agent/spec.h"

namespace sluice::agent {

class Registry {
 public:
  // `user_directory` need not exist.
  explicit Registry(std::string user_directory) : user_directory_(std::move(user_directory)) {}

  // kNotFound lists the known names and says where to put a spec of one's own.
  Result<Spec> find(std::string_view name_or_path) const;

  struct Entry {
    std::string name;
    std::string source;
    Result<Spec> spec;  // a broken file is listed with its error
  };
  // By name; a user's spec hides a built-in one of the same name.
  std::vector<Entry> list() const;

 private:
  std::string user_directory_;
};

// $XDG_CONFIG_HOME/sluice/agents, else ~/.config/sluice/agents.
std::string default_agents_directory();

// The specs compiled in from agents/*.toml: (name, text).
const std::vector<std::pair<std::string_view, std::string_view>>& builtin_specs();

}  // namespace sluice::agent
