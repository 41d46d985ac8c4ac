#include "sluice/cli/env_file.h"

#include <algorithm>
#include <cstdlib>

#include "sluice/base/core/fd.h"
#include "sluice/cli/paths.h"

namespace sluice::cli {
namespace {

constexpr size_t kMaxFile = 1 << 20;

}  // namespace

std::vector<std::string> lines_of(std::string_view text, char separator) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    const std::string_view line = trimmed(text.substr(0, end));
    if (!line.empty() && !line.starts_with('#')) lines.emplace_back(line);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

Result<void> load_env_file(const std::string& path) {
  SLUICE_TRY(const Bytes text, read_file(path, kMaxFile));
  for (const std::string& each : lines_of(text, '\n')) {
    std::string_view line = each;
    if (line.starts_with("export ")) line = trimmed(line.substr(7));
    const size_t equals = line.find('=');
    const std::string name(trimmed(line.substr(0, equals)));
    if (equals == std::string_view::npos || name.empty()) {
      return Error(ErrorCode::kInvalidArgument, path + ": every line must be NAME=VALUE",
                   ErrorOrigin::kCaller);
    }
    std::string value(trimmed(line.substr(equals + 1)));
    if (value.size() >= 2 && value.front() == value.back() &&
        (value.front() == '"' || value.front() == '\'')) {
      value = value.substr(1, value.size() - 2);
    }
    if (!environment(name.c_str()).empty()) continue;
    // NOLINTNEXTLINE(concurrency-mt-unsafe): there is no second thread yet.
    ::setenv(name.c_str(), value.c_str(), 1);
  }
  return {};
}

}  // namespace sluice::cli
