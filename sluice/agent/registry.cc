#include "sluice/agent/registry.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <filesystem>
#include <map>

#include "sluice/base/core/fd.h"
#include "sluice/base/core/passwd.h"

namespace sluice::agent {
namespace {

constexpr size_t kMaxSpec = 1 << 20;

Result<Spec> read_spec(const std::string& path) {
  auto text = read_file(path, kMaxSpec);
  if (!text) return std::move(text).error().within("agent spec").from(ErrorOrigin::kCaller);
  return parse_spec(*text, path);
}

}  // namespace

Result<Spec> Registry::find(std::string_view name_or_path) const {
  if (name_or_path.find('/') != std::string_view::npos || name_or_path.ends_with(".toml")) {
    return read_spec(std::string(name_or_path));
  }
  std::vector<std::string> known;
  for (Entry& entry : list()) {
    if (entry.name == name_or_path) return std::move(entry.spec);
    known.push_back(entry.name);
  }
  return Error(ErrorCode::kNotFound,
               fmt::format("no agent \"{}\"; known: {}. To add one, put {}.toml into {} or name a "
                           "file: --agent ./{}.toml",
                           name_or_path, fmt::join(known, ", "), name_or_path, user_directory_,
                           name_or_path),
               ErrorOrigin::kCaller);
}

std::vector<Registry::Entry> Registry::list() const {
  std::map<std::string, Entry> entries;
  for (const auto& [name, text] : builtin_specs()) {
    entries.emplace(name, Entry{std::string(name), "built in",
                                parse_spec(text, fmt::format("agents/{}.toml", name))});
  }
  std::error_code ignored;
  for (const auto& file : std::filesystem::directory_iterator(user_directory_, ignored)) {
    if (file.path().extension() != ".toml") continue;
    const std::string name = file.path().stem().string();
    entries.insert_or_assign(name, Entry{name, file.path().string(), read_spec(file.path())});
  }
  std::vector<Entry> out;
  for (auto& [name, entry] : entries) out.push_back(std::move(entry));
  return out;
}

std::string default_agents_directory() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing changes the environment once there are threads.
  if (const char* config = std::getenv("XDG_CONFIG_HOME"); config != nullptr && *config == '/') {
    return std::string(config) + "/sluice/agents";
  }
  return home_directory() + "/.config/sluice/agents";
}

}  // namespace sluice::agent
