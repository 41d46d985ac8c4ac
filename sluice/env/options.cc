#include "sluice/env/options.h"

#include <fmt/format.h>

#include "sluice/net/http.h"

namespace sluice::env {

Result<ServerMode> parse_server_mode(std::string_view text) {
  if (net::equal_ignoring_case(text, "simulation")) return ServerMode::kSimulation;
  if (net::equal_ignoring_case(text, "production")) return ServerMode::kProduction;
  return Error(
      ErrorCode::kInvalidArgument,
      fmt::format("Invalid mode: '{}'. Must be one of: ['simulation', 'production']", text),
      ErrorOrigin::kCaller);
}

}  // namespace sluice::env
