#include "sluice/env/coding/templates.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "sluice/env/python_text.h"
#include "sluice/json/value.h"

namespace sluice::env::coding {
namespace {

constexpr std::string_view kImage = ".tar";

}  // namespace

std::vector<std::string> template_names(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code failed;
  std::filesystem::directory_iterator at(directory, failed);
  for (; !failed && at != std::filesystem::directory_iterator(); at.increment(failed)) {
    std::string name = at->path().filename();
    if (name.starts_with('.')) continue;
    std::error_code ignored;
    const bool image = name.ends_with(kImage) && at->is_regular_file(ignored);
    if (image) name.resize(name.size() - kImage.size());
    if (image || at->is_directory(ignored)) names.push_back(std::move(name));
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

Result<std::string> find_template(const std::string& directory, std::string_view name) {
  const std::vector<std::string> names = template_names(directory);
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    json::Array known(names.begin(), names.end());
    return Error(ErrorCode::kNotFound,
                 "unknown template " + python::repr(json::Value(name)) +
                     (names.empty() ? "; this server has none (sluice serve --templates-dir)"
                                    : "; this server has " + python::repr(json::Value(known))),
                 ErrorOrigin::kCaller);
  }
  std::string path = directory + "/" + std::string(name);
  std::error_code ignored;
  const bool root = std::filesystem::is_directory(path, ignored);
  path = std::filesystem::absolute(root ? path : path + std::string(kImage), ignored);
  return path;
}

}  // namespace sluice::env::coding
