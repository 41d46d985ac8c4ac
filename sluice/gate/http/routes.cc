#include "sluice/gate/http/routes.h"

#include <algorithm>
#include <array>

#include "sluice/llm/gemini.h"

namespace sluice::gate::http {
namespace {

using llm::Dialect;
using Kind = Route::Kind;

struct Row {
  std::string_view path;
  Kind kind;
  Dialect dialect;
};
constexpr std::array kPosts{
    Row{"/chat/completions", Kind::kCall, Dialect::kChat},
    Row{"/responses", Kind::kCall, Dialect::kResponses},
    Row{"/responses/input_tokens", Kind::kCount, Dialect::kResponses},
    Row{"/messages", Kind::kCall, Dialect::kMessages},
    Row{"/messages/count_tokens", Kind::kCount, Dialect::kMessages},
};

// Takes `prefix` off the path if it ends there at a segment's end.
bool take(std::string_view& path, std::string_view prefix) {
  if (!path.starts_with(prefix)) return false;
  const std::string_view rest = path.substr(prefix.size());
  if (!rest.empty() && rest.front() != '/') return false;
  path = rest;
  return true;
}

// In whose shape a client wants to be told what is no call.
Dialect vendor_of(const net::HttpRequest& request) {
  const net::Headers& headers = request.headers;
  if (headers.get("x-goog-api-client") || headers.get("x-goog-api-key")) return Dialect::kGemini;
  if (headers.get("anthropic-version")) return Dialect::kMessages;
  return Dialect::kChat;
}

Route of(Kind kind, Dialect dialect) {
  Route route;
  route.kind = kind;
  route.dialect = dialect;
  return route;
}

// Where something is to be had, so is its head alone.
Route unless(std::string_view method, std::string_view allowed, Route route) {
  if (method == allowed || (method == "HEAD" && allowed == "GET")) return route;
  route.kind = Kind::kWrongMethod;
  route.allow = allowed;
  return route;
}

// What is asked of the model in `rest`, all behind "/models/". Google puts a verb behind its name,
// in which others may have a colon as well.
Route model_route(const net::HttpRequest& request, std::string_view rest, Dialect vendor) {
  const llm::GeminiUrl url = llm::read_gemini_url(rest, request.query());
  Route found;
  switch (url.verb) {
    case llm::GeminiUrl::Verb::kGenerate:
      found = of(Kind::kCall, Dialect::kGemini);
      break;
    case llm::GeminiUrl::Verb::kCountTokens:
      found = of(Kind::kCount, Dialect::kGemini);
      break;
    case llm::GeminiUrl::Verb::kUnknown:
      if (request.method == "POST") return of(Kind::kUnknown, Dialect::kGemini);
      [[fallthrough]];
    case llm::GeminiUrl::Verb::kNone:
      found = of(Kind::kModel, vendor);
      found.target.model = rest;
      return unless(request.method, "GET", std::move(found));
  }
  found.target = url.target;
  return unless(request.method, "POST", std::move(found));
}

// The plain routes: of host tools, and of the agent's end.
bool is_plain(std::string_view path) {
  if (take(path, "/rollout")) path.remove_prefix(std::min(path.find('/', 1), path.size()));
  if (!take(path, "/v1beta")) take(path, "/v1");
  return path == "/exit" || (take(path, "/tools") && path.size() > 1);
}

Route find(const net::HttpRequest& request, const std::string& path, const RolloutId& rollout) {
  const std::string_view method = request.method;
  Dialect vendor = vendor_of(request);
  std::string_view rest = path;
  if (take(rest, "/rollout") && !take(rest, "/" + rollout.value)) {
    return of(Kind::kOtherRollout, vendor);
  }
  if (rest.empty() || rest == "/") {
    return of(method == "HEAD" ? Kind::kAlive : Kind::kUnknown, vendor);
  }
  // Claude Code asks this before its first call.
  if (rest == "/api/hello" && method == "HEAD") return of(Kind::kAlive, vendor);
  if (take(rest, "/v1beta")) {
    vendor = Dialect::kGemini;
  } else {
    take(rest, "/v1");
  }
  if (rest == "/mcp") return unless(method, "POST", of(Kind::kMcp, vendor));
  if (rest == "/exit") return unless(method, "POST", of(Kind::kExit, vendor));
  if (take(rest, "/tools") && rest.size() > 1) {
    Route found = of(Kind::kTool, vendor);
    found.tool = rest.substr(1);
    return unless(method, "POST", std::move(found));
  }
  for (const Row& row : kPosts) {
    if (rest == row.path) return unless(method, "POST", of(row.kind, row.dialect));
  }
  if (rest == "/models") return unless(method, "GET", of(Kind::kModels, vendor));
  if (take(rest, "/models") && rest.size() > 1) {
    return model_route(request, rest.substr(1), vendor);
  }
  return of(Kind::kUnknown, vendor);
}

}  // namespace

Route route(const net::HttpRequest& request, const RolloutId& rollout) {
  const auto path = net::percent_decode(request.path());
  if (!path) return of(Kind::kUnknown, vendor_of(request));
  Route found = find(request, *path, rollout);
  if (is_plain(*path)) found.errors = Route::Errors::kPlain;
  return found;
}

}  // namespace sluice::gate::http
