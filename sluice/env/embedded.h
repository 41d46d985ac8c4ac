// The room's files as text (openapi.json, tool_schemas.json, coding/run_rollout.json), put into the
// program by CMake.
#pragma once

#include <string_view>

namespace sluice::env::embedded {

extern const std::string_view kOpenapi;
extern const std::string_view kRunRollout;
extern const std::string_view kToolSchemas;

}  // namespace sluice::env::embedded
