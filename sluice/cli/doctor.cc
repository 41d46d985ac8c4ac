#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "sluice/agent/bundle.h"
#include "sluice/agent/registry.h"
#include "sluice/base/printable.h"
#include "sluice/cli/commands.h"
#include "sluice/cli/display.h"
#include "sluice/cli/output.h"
#include "sluice/cli/paths.h"
#include "sluice/json/value.h"
#include "sluice/sandbox/local/host.h"

namespace sluice::cli {
namespace {

using State = sandbox::local::Need::State;

struct Row {
  std::string area, name;
  State state = State::kOk;
  std::string detail;  // what there is, or what is lost and how to get it
};

std::string_view to_string(State state) {
  constexpr std::string_view names[] = {"ok", "less", "missing"};
  return names[static_cast<size_t>(state)];
}

// The first executable of that name in PATH, or "".
std::string find_program(const std::string& name) {
  std::string path = environment("PATH");
  for (size_t from = 0; from <= path.size();) {
    const size_t colon = std::min(path.find(':', from), path.size());
    std::string candidate = path.substr(from, colon - from) + "/" + name;
    if (::access(candidate.c_str(), X_OK) == 0 && !std::filesystem::is_directory(candidate)) {
      return candidate;
    }
    from = colon + 1;
  }
  return "";
}

void look_at_local(std::vector<Row>& rows) {
  for (const auto& need : sandbox::local::inspect_host()) {
    rows.push_back({"local", need.name, need.state, need.detail});
  }
}

void look_at_agents(const std::string& directory, std::vector<Row>& rows) {
  const agent::Bundles bundles(agent::default_bundle_directory());
  bool needs_npm = false;
  for (const auto& entry : agent::Registry(directory).list()) {
    if (!entry.spec) {
      rows.push_back({"agents", entry.name, State::kMissing, entry.spec.error().message});
      continue;
    }
    const agent::Spec& spec = *entry.spec;
    if (!spec.bundle) {
      rows.push_back({"agents", entry.name, State::kOk, spec.version + ", needs no bundle"});
      continue;
    }
    const auto found = bundles.find(spec);
    needs_npm |= !found;
    rows.push_back({"agents", entry.name, found ? State::kOk : State::kMissing,
                    found ? spec.version + " in " + *found
                          : "not installed: sluice agents install " + entry.name});
  }
  const std::string npm = find_program("npm");
  rows.push_back({"agents", "npm",
                  !npm.empty() ? State::kOk
                  : needs_npm  ? State::kMissing
                               : State::kLess,
                  !npm.empty() ? npm
                               : "needed to install agents: install Node.js with npm, or run "
                                 "through ./dev, which brings its own"});
}

void look_at_space(std::vector<Row>& rows) {
  constexpr uint64_t kWanted = uint64_t{1} << 30;
  for (const std::string& directory : {state_directory(), agent::default_bundle_directory()}) {
    std::filesystem::path existing = directory;
    std::error_code ignored;
    while (!std::filesystem::exists(existing, ignored) && existing.has_relative_path()) {
      existing = existing.parent_path();
    }
    struct statvfs info{};
    if (::statvfs(existing.c_str(), &info) != 0) continue;
    const uint64_t free = info.f_bavail * info.f_frsize;
    rows.push_back({"disk", directory, free >= kWanted ? State::kOk : State::kLess,
                    fmt::format("{:.1f} GiB free", static_cast<double>(free) / (1 << 30))});
  }
}

}  // namespace

int doctor_command(const DoctorFlags& flags) {
  std::vector<Row> rows;
  look_at_local(rows);
  look_at_agents(flags.agents_directory, rows);
  look_at_space(rows);
  bool missing = false;
  json::Array out;
  for (const Row& row : rows) {
    missing |= row.area == "local" && row.state == State::kMissing;
    json::Object object;
    object["area"] = row.area;
    object["name"] = row.name;
    object["state"] = to_string(row.state);
    object["detail"] = row.detail;
    out.push_back(std::move(object));
    if (!flags.json) {
      put(fmt::format("{:<8} {:<8} {:<22} {}\n", to_string(row.state), row.area, row.name,
                      printable(row.detail)));
    }
  }
  if (flags.json) {
    put_json(json::serialize(out));
  } else {
    put(fmt::format("\n{}\n",
                    missing ? "Local sandboxes cannot be made here; see what is missing above."
                            : "Local sandboxes can be made here."));
  }
  return missing ? 1 : 0;
}

}  // namespace sluice::cli
