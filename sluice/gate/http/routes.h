// Routes: what a URL below an agent's endpoint means. The endpoint's base is /rollout/ID, and, on a
// listener that belongs to one rollout, also the root; agents put the version in their base URL or
// in their paths, so both are known. Three vendors use some of the same paths: whose client asks is
// told by its headers. Plain functions; any thread.
#pragma once

#include <string>
#include <string_view>

#include "sluice/base/id.h"
#include "sluice/llm/dialect.h"
#include "sluice/net/http.h"

namespace sluice::gate::http {

struct Route {
  enum class Kind : uint8_t {
    kCall,          // an LLM call in `dialect`
    kCount,         // how many tokens a prompt has
    kModels,        // the list of models
    kModel,         // one model, `target.model`
    kMcp,           // host tools, as an MCP server
    kTool,          // one of them, `tool`, by the plain route
    kExit,          // the agent says that it has ended
    kAlive,         // HEAD of the root: is anybody there?
    kOtherRollout,  // below /rollout/ID of another one
    kWrongMethod,   // known, but not by this method: `allow`
    kWebSocket,     // a call's path, dialed to speak WebSocket
    kUnknown,
  };
  // In which shape errors are told: in the dialect's, or as {"error": "..."} where the path, below
  // whichever rollout, is one of the plain routes of OpenEnv's own server.
  enum class Errors : uint8_t { kOfDialect, kPlain };
  Kind kind = Kind::kUnknown;
  llm::Dialect dialect = llm::Dialect::kChat;
  Errors errors = Errors::kOfDialect;
  llm::Target target;
  std::string tool;
  std::string_view allow;
};

// Where bases and paths meet there may be a slash too many: those count as one, and none at the
// end.
Route route(const net::HttpRequest& request, const RolloutId& rollout);
// A path so read, still percent-encoded.
std::string tidy_path(std::string_view path);

}  // namespace sluice::gate::http
