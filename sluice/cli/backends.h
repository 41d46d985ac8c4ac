// The only place that knows which backends there are.
#pragma once

#include <memory>
#include <string>

#include "sluice/base/core/result.h"
#include "sluice/base/log.h"
#include "sluice/sandbox/sandbox.h"

namespace sluice::cli {

// How agents' connections come out of a sandbox: by its listening sockets, which are handed over,
// or carried each, which the conformance suite tries as well.
enum class Carry : uint8_t { kSockets, kConnections };

Result<std::unique_ptr<sandbox::Backend>> make_backend(const std::string& name, const Logger& log,
                                                       Carry carry = Carry::kSockets);

// As Backend::check_image(), before there is a backend.
Result<void> check_image(const std::string& backend, const sandbox::Options& options);

// Where the engines of this user write down which sandboxes they make.
std::string sandbox_journals();

}  // namespace sluice::cli
