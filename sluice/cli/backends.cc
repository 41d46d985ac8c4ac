#include "sluice/cli/backends.h"

#include <utility>

#include "sluice/agent/bundle.h"
#include "sluice/cli/paths.h"
#include "sluice/sandbox/local/local.h"

namespace sluice::cli {

std::string sandbox_journals() {
  return state_directory() + "/sandboxes";
}

Result<std::unique_ptr<sandbox::Backend>> make_backend(const std::string& name, const Logger& log,
                                                       Carry carry) {
  if (name != "local") {
    return Error(ErrorCode::kInvalidArgument, "no backend \"" + name + "\"; there is: local",
                 ErrorOrigin::kCaller);
  }
  sandbox::local::BackendOptions options;
  options.log = log;
  options.carry_connections = carry == Carry::kConnections;
  options.journal_directory = sandbox_journals();
  options.image_directory = agent::cache_directory() + "/images";
  SLUICE_TRY(auto backend, sandbox::local::Backend::start(std::move(options)));
  return std::unique_ptr<sandbox::Backend>(std::move(backend));
}

Result<void> check_image(const std::string& backend, const sandbox::Options& options) {
  return backend == "local" ? sandbox::local::check_image(options.image) : Result<void>();
}

}  // namespace sluice::cli
