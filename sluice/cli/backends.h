// The only place that knows which backends there are.
#pragma once

#include <memory>
#include <string>

#include "sluice/base/core/result.h"
#include "sluice/base/log.h"
#include "sluice/sandbox/sandbox.h"

namespace sluice::cli {

Result<std::unique_ptr<sandbox::Backend>> make_backend(const std::string& name, const Logger& log);

}  // namespace sluice::cli
