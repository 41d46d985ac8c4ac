// Documents that are the same in every server: OpenEnv's OpenAPI description and the schemas of its
// tool environments, embedded as files; and the pages made from them.
//
// Plain functions; any thread.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/env/environment.h"
#include "sluice/env/options.h"
#include "sluice/json/value.h"

namespace sluice::env {

// An object that is known to be one.
json::Object parse_document(std::string_view text);

// openapi.json; of its paths those that the server serves.
json::Object openapi_document(const std::function<bool(std::string_view)>& serves);

// {"action", "observation", "state"} of an environment with tools.
const json::Object& tool_schemas();

// Pages without a script, an image or a style from anywhere else.
std::string docs_page(const json::Object& openapi);

struct IndexRow {
  std::string route, what;
};
std::string index_page(const EnvironmentInfo& info, const std::vector<IndexRow>& routes,
                       const std::vector<Listing>& listings);

}  // namespace sluice::env
