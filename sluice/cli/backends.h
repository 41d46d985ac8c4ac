// The only place that knows which backends there are.
#pragma once

#include <memory>
#include <string>

#include "sluice/base/core/result.h"
#include "sluice/base/log.h"
#include "sluice/sandbox/sandbox.h"

namespace sluice::cli {

Result<std::unique_ptr<sandbox::Backend>> make_backend(const std::string& name, const Logger& log);

// The same backend, carrying connections where it could pass listening sockets; null where it never
// passes them. For the conformance suite.
Result<std::unique_ptr<sandbox::Backend>> make_carrying_backend(const std::string& name,
                                                                const Logger& log);

// Where the engines of this user write down which sandboxes they make.
std::string sandbox_journals();

}  // namespace sluice::cli
