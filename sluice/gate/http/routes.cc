#include "sluice/gate/http/routes.h"

#include <algorithm>

namespace sluice::gate::http {
namespace {

using llm::Dialect;
using Kind = Route::Kind;

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
  for (const Dialect dialect : llm::kDialects) {
    for (const std::string_view name : llm::find_codec(dialect)->api().client_headers) {
      if (!name.empty() && request.headers.get(name)) return dialect;
    }
  }
  return Dialect::kChat;
}

// Takes the version off the path; the dialect, if it is one's own.
std::optional<Dialect> take_version(std::string_view& path) {
  for (const Dialect dialect : llm::kDialects) {
    const std::string_view own = llm::find_codec(dialect)->api().own_version;
    if (!own.empty() && take(path, own)) return dialect;
  }
  take(path, "/v1");
  return std::nullopt;
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

bool is_websocket(const net::HttpRequest& request) {
  return request.method == "GET" &&
         net::equal_ignoring_case(request.headers.get_or("Upgrade", ""), "websocket");
}

// What the dialects have at a path, if they do. Google puts a verb behind a model's name, in which
// others may have a colon as well: what nobody serves may yet be a model.
std::optional<Route> of_dialects(const net::HttpRequest& request, std::string_view path) {
  using llm::Endpoint;
  for (const Dialect dialect : llm::kDialects) {
    auto endpoint = llm::find_codec(dialect)->endpoint(path, request.query());
    if (!endpoint) continue;
    if (endpoint->kind == Endpoint::Kind::kUnknown) {
      if (request.method == "POST") return of(Kind::kUnknown, dialect);
      continue;
    }
    const bool call = endpoint->kind == Endpoint::Kind::kCall;
    Route found = of(call ? Kind::kCall : Kind::kCount, dialect);
    found.target = std::move(endpoint->target);
    if (call && is_websocket(request)) {
      found.kind = Kind::kWebSocket;
      return found;
    }
    return unless(request.method, "POST", std::move(found));
  }
  return std::nullopt;
}

// The plain routes: of host tools, and of the agent's end.
bool is_plain(std::string_view path) {
  if (take(path, "/rollout")) path.remove_prefix(std::min(path.find('/', 1), path.size()));
  take_version(path);
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
  vendor = take_version(rest).value_or(vendor);
  if (rest == "/mcp") return unless(method, "POST", of(Kind::kMcp, vendor));
  if (rest == "/exit") return unless(method, "POST", of(Kind::kExit, vendor));
  if (take(rest, "/tools") && rest.size() > 1) {
    Route found = of(Kind::kTool, vendor);
    found.tool = rest.substr(1);
    return unless(method, "POST", std::move(found));
  }
  if (auto found = of_dialects(request, rest)) return std::move(*found);
  if (rest == "/models") return unless(method, "GET", of(Kind::kModels, vendor));
  if (take(rest, "/models") && rest.size() > 1) {
    Route found = of(Kind::kModel, vendor);
    found.target.model = rest.substr(1);
    return unless(method, "GET", std::move(found));
  }
  return of(Kind::kUnknown, vendor);
}

}  // namespace

std::string tidy_path(std::string_view path) {
  const bool tidy = path.find("//") == path.npos && (path.size() <= 1 || !path.ends_with('/'));
  if (tidy) return std::string(path);
  std::string out;
  out.reserve(path.size());
  for (const char c : path) {
    if (c != '/' || !out.ends_with('/')) out.push_back(c);
  }
  if (out.size() > 1 && out.ends_with('/')) out.pop_back();
  return out;
}

Route route(const net::HttpRequest& request, const RolloutId& rollout) {
  const auto path = net::percent_decode(tidy_path(request.path()));
  if (!path) return of(Kind::kUnknown, vendor_of(request));
  Route found = find(request, *path, rollout);
  if (is_plain(*path)) found.errors = Route::Errors::kPlain;
  return found;
}

}  // namespace sluice::gate::http
