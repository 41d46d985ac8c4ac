#include "sluice/gate/http/routes.h"

#include <array>

#include "sluice/net/http.h"

namespace sluice::gate::http {
namespace {

struct Row {
  std::string_view path;
  llm::Dialect dialect;
};
constexpr std::array kCalls{Row{"/chat/completions", llm::Dialect::kChat}};

// Takes `prefix` off the path if it ends there at a segment's end.
bool take(std::string_view& path, std::string_view prefix) {
  if (!path.starts_with(prefix)) return false;
  const std::string_view rest = path.substr(prefix.size());
  if (!rest.empty() && rest.front() != '/') return false;
  path = rest;
  return true;
}

Route of(Route::Kind kind) {
  Route route;
  route.kind = kind;
  return route;
}

Route unless(std::string_view method, std::string_view allowed, Route route) {
  if (method == allowed) return route;
  route.kind = Route::Kind::kWrongMethod;
  route.allow = allowed;
  return route;
}

}  // namespace

Route route(std::string_view method, std::string_view path, const RolloutId& rollout) {
  const auto decoded = net::percent_decode(path);
  if (!decoded) return of(Route::Kind::kUnknown);
  std::string_view rest = *decoded;
  if (take(rest, "/rollout") && !take(rest, "/" + rollout.value)) {
    return of(Route::Kind::kOtherRollout);
  }
  if (rest.empty() || rest == "/") {
    return method == "HEAD" ? of(Route::Kind::kAlive) : of(Route::Kind::kUnknown);
  }
  // Claude Code asks this before its first call.
  if (rest == "/api/hello" && method == "HEAD") return of(Route::Kind::kAlive);
  take(rest, "/v1");
  for (const Row& row : kCalls) {
    if (rest != row.path) continue;
    Route found = of(Route::Kind::kCall);
    found.dialect = row.dialect;
    return unless(method, "POST", std::move(found));
  }
  if (rest == "/models") return unless(method, "GET", of(Route::Kind::kModels));
  if (take(rest, "/models") && rest.size() > 1) {
    Route found = of(Route::Kind::kModel);
    found.target.model = rest.substr(1);
    return unless(method, "GET", std::move(found));
  }
  return of(Route::Kind::kUnknown);
}

}  // namespace sluice::gate::http
