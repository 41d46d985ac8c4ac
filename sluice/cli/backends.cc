#include "sluice/cli/backends.h"

#include <utility>

#include "sluice/agent/bundle.h"
#include "sluice/cli/paths.h"
#include "sluice/sandbox/local/local.h"

namespace sluice::cli {

namespace {

enum class Carry : uint8_t { kSockets, kConnections };

Result<std::unique_ptr<sandbox::Backend>> make_local(const Logger& log, Carry carry) {
  sandbox::local::BackendOptions options;
  options.log = log;
  options.carry_connections = carry == Carry::kConnections;
  options.journal_directory = sandbox_journals();
  options.image_directory = agent::cache_directory() + "/images";
  SLUICE_TRY(auto backend, sandbox::local::Backend::start(std::move(options)));
  return std::unique_ptr<sandbox::Backend>(std::move(backend));
}

}  // namespace

std::string sandbox_journals() {
  return state_directory() + "/sandboxes";
}

Result<std::unique_ptr<sandbox::Backend>> make_backend(const std::string& name, const Logger& log) {
  if (name == "local") return make_local(log, Carry::kSockets);
  return Error(ErrorCode::kInvalidArgument, "no backend \"" + name + "\"; there is: local",
               ErrorOrigin::kCaller);
}

Result<std::unique_ptr<sandbox::Backend>> make_carrying_backend(const std::string& name,
                                                                const Logger& log) {
  if (name == "local") return make_local(log, Carry::kConnections);
  return std::unique_ptr<sandbox::Backend>();
}

}  // namespace sluice::cli
