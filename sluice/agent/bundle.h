// Bundles: agents as relocatable directories, installed once from npm into a cache and mounted
// read-only into sandboxes.
//
// A bundle's directory is named after what it was made from (packages, scripts, what is kept,
// processor), so a changed spec gets a new one and an unchanged one is never fetched again. It is
// made beside its place and renamed into it when complete: an interrupted install leaves nothing
// that the next one trusts.
//
// Blocking (runs npm); call it from a thread that may block. Several processes may install at once.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "sluice/agent/spec.h"
#include "sluice/base/core/result.h"

namespace sluice::agent {

class Bundles {
 public:
  explicit Bundles(std::string directory) : directory_(std::move(directory)) {}

  // Where the spec's bundle is or would be.
  std::string path_of(const Spec& spec) const;
  // The complete bundle's path, if it is installed.
  std::optional<std::string> find(const Spec& spec) const;
  // Installs it if need be. `progress` gets a line per step. kUnavailable if there is no npm, else
  // npm's own words.
  Result<std::string> install(const Spec& spec,
                              const std::function<void(std::string_view)>& progress) const;

 private:
  std::string directory_;
};

// Where a spec's bundle is mounted in a sandbox: "/opt/opencode".
std::string bundle_mount(const Spec& spec);
// Its program's path when the bundle is at `bundle`.
Result<std::string> program_in(const Spec& spec, const std::string& bundle);

// $SLUICE_CACHE_DIR, else $XDG_CACHE_HOME/sluice, else ~/.cache/sluice: what can be made again.
std::string cache_directory();
// `bundles` in it.
std::string default_bundle_directory();

}  // namespace sluice::agent
