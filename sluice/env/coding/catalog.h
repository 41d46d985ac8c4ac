// Catalog: the model endpoints that a rollout may name instead of giving a URL, a key and a model.
// Each takes what was given explicitly, else what the server's environment variables say, else a
// default; but whoever gives a URL of his own gives the key, too.
//
// Plain values and functions; any thread.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/base/core/result.h"
#include "sluice/json/value.h"

namespace sluice::env::coding {

// An environment variable, or "" if it is unset.
using Variables = std::function<std::string(const std::string& name)>;

struct EndpointKind {
  std::string_view kind;
  std::string_view base_url_variable, default_base_url;
  std::string_view key_variable, default_key;
  std::string_view model_variable, default_model;
  bool thinking_off = false;
};
const std::vector<EndpointKind>& endpoint_kinds();

struct Endpoint {
  std::string base_url;  // up to and with the version, no '/' at its end
  std::string key;
  std::string model;
  bool thinking_off = false;
};

// `given` holds what was given explicitly, "" for what was not. kInvalidArgument names what is
// missing and where it may be set. A key of the variables goes with the base URL of the same kind's
// variable or default, and with no other.
Result<Endpoint> resolve_endpoint(std::string_view kind, Endpoint given,
                                  const Variables& variables);

// The base URLs of variables and defaults.
std::vector<std::string> configured_urls(const Variables& variables);

// A row for each kind, with whether a rollout could name it as things are; no keys.
json::Array catalog_summary(const Variables& variables);

// ('vllm', 'openai', 'hf_router')
std::string endpoint_names();

// Names as Python writes a tuple of them.
std::string python_tuple(const std::vector<std::string>& names);

}  // namespace sluice::env::coding
