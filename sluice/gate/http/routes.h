// Routes: what a URL below an agent's endpoint means. The endpoint's base is /rollout/ID, and, on a
// listener that belongs to one rollout, also the root; agents put the version in their base URL or
// in their paths, so both are known. Plain functions; any thread.
#pragma once

#include <string>
#include <string_view>

#include "sluice/base/id.h"
#include "sluice/llm/dialect.h"

namespace sluice::gate::http {

struct Route {
  enum class Kind : uint8_t {
    kCall,          // an LLM call in `dialect`
    kModels,        // the list of models
    kModel,         // one model, `target.model`
    kAlive,         // HEAD of the root: is anybody there?
    kOtherRollout,  // below /rollout/ID of another one
    kWrongMethod,   // known, but not by this method: `allow`
    kUnknown,
  };
  Kind kind = Kind::kUnknown;
  llm::Dialect dialect = llm::Dialect::kChat;  // in whose shape errors are told
  llm::Target target;
  std::string_view allow;
};

// `path` as in the request line, percent-encoded, without the query.
Route route(std::string_view method, std::string_view path, const RolloutId& rollout);

}  // namespace sluice::gate::http
