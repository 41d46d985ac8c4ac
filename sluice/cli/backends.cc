#include "sluice/cli/backends.h"

#include <utility>

#include "sluice/sandbox/local/local.h"

namespace sluice::cli {

Result<std::unique_ptr<sandbox::Backend>> make_backend(const std::string& name, const Logger& log) {
  if (name == "local") {
    sandbox::local::BackendOptions options;
    options.log = log;
    SLUICE_TRY(auto backend, sandbox::local::Backend::start(std::move(options)));
    return std::unique_ptr<sandbox::Backend>(std::move(backend));
  }
  return Error(ErrorCode::kInvalidArgument, "no backend \"" + name + "\"; there is: local",
               ErrorOrigin::kCaller);
}

}  // namespace sluice::cli
