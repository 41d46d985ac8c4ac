#include "sluice/env/server.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "sluice/base/core/check.h"
#include "sluice/env/core.h"
#include "sluice/env/documents.h"
#include "sluice/env/python_text.h"
#include "sluice/env/web.h"

namespace sluice::env {
namespace {

using net::HttpRequest;
using net::HttpResponse;
using net::ResponseWriter;

HttpResponse html(std::string page) {
  // Nothing of a page comes from another host, and nothing in it runs.
  return HttpResponse{200,
                      {{"Content-Type", "text/html; charset=utf-8"},
                       {"Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"},
                       {"X-Content-Type-Options", "nosniff"}},
                      std::move(page)};
}

struct Route {
  std::string method;
  std::string what;
};

}  // namespace

struct EnvServer::State {
  State(net::Shard& shard, EnvironmentFactory& factory, ServerOptions options, Access access)
      : core(shard, factory, std::move(options), std::move(access)),
        http(
            shard,
            [this](HttpRequest request, ResponseWriter* writer) {
              return handle(this, std::move(request), writer);
            },
            http_options()) {
    add_routes();
    openapi = openapi_document([this](std::string_view path) {
      return routes.contains(std::string(path)) || rollout_route(path).has_value();
    });
    openapi_text = python::compact(openapi);
    docs = docs_page(openapi);
  }

  net::HttpServerOptions http_options() {
    net::HttpServerOptions out;
    out.limits = core.options.http;
    out.log = core.log;
    out.admit = [this](const HttpRequest& head) {
      return admit(head);
    };
    out.refuse = [](const HttpRequest&, int status, const Error& error) {
      if (status == 500) {
        return HttpResponse{
            500, {{"Content-Type", "text/plain; charset=utf-8"}}, "Internal Server Error"};
      }
      return detail_response(status, error.message);
    };
    return out;
  }

  net::Admission admit(const HttpRequest& head) {
    net::Admission admission;
    if (const auto refusal = core.access.check(head, core.reach)) {
      core.count_request("refused", refusal->status);
      HttpResponse response = detail_response(refusal->status, refusal->message);
      if (refusal->status == 401) response.headers.add("WWW-Authenticate", "Bearer");
      admission.refusal = std::move(response);
    } else if (head.path() == "/health" && !head.announces_body()) {
      admission.always = true;
    } else if (core.access.needs_key()) {
      admission.connections = with_key;
    }
    return admission;
  }

  void add_routes() {
    const bool simulation = core.options.mode == ServerMode::kSimulation;
    if (simulation) {
      routes["/reset"] = {"POST", "a new episode, without a session"};
      routes["/step"] = {"POST", "one step, without a session"};
      routes["/state"] = {"GET", "the state of a fresh environment"};
    }
    routes["/health"] = {"GET", "whether the server runs"};
    routes["/metadata"] = {"GET", "what this environment is"};
    routes["/schema"] = {"GET", "JSON Schemas of actions, observations and states"};
    routes["/openapi.json"] = {"GET", "the HTTP API for programs"};
    routes["/docs"] = {"GET", "the HTTP API for people"};
    routes["/redoc"] = {"GET", "the same"};
    routes["/docs/oauth2-redirect"] = {"GET", ""};
    routes["/mcp"] = {"POST", "the Model Context Protocol; also over a WebSocket"};
    routes["/metrics"] = {"GET", "counters, for Prometheus"};
    routes["/"] = {"GET", "this page"};
    routes["/web"] = {"GET", ""};
    routes["/web/"] = {"GET", ""};
    if (core.options.rollouts != nullptr) {
      routes["/rollouts"] = {"GET", "the rollouts that run or ran; /rollouts/ID: one of them"};
    }
    if (core.options.web == WebInterface::kOn) {
      routes["/web/metadata"] = {"GET", "what this environment is, with its README"};
      routes["/web/state"] = {"GET", "the state of the page's environment"};
      routes["/web/reset"] = {"POST", "a new episode of the page's environment"};
      routes["/web/step"] = {"POST", "one step of the page's environment"};
    }
  }

  std::string index() {
    std::vector<IndexRow> rows;
    rows.push_back({"WS /ws", "a session: one JSON frame for one JSON frame"});
    for (const auto& [path, route] : routes) {
      if (!route.what.empty()) rows.push_back({route.method + " " + path, route.what});
    }
    return index_page(core.factory.info(), rows, core.factory.listings());
  }

  // "/rollouts/ID", "/rollouts/ID/events", "/rollouts/ID/cancel".
  std::optional<Route> rollout_route(std::string_view path) const {
    constexpr std::string_view prefix = "/rollouts/";
    if (core.options.rollouts == nullptr || !path.starts_with(prefix)) return std::nullopt;
    path.remove_prefix(prefix.size());
    const size_t slash = path.find('/');
    if (path.empty() || slash == 0) return std::nullopt;
    const std::string_view rest = slash == path.npos ? std::string_view() : path.substr(slash + 1);
    if (slash == path.npos || rest == "events") return Route{"GET", ""};
    if (rest == "cancel") return Route{"POST", ""};
    return std::nullopt;
  }

  static awaitable<void> send(State* self, std::string route, HttpResponse response,
                              ResponseWriter* writer) {
    self->core.count_request(route, response.status);
    const auto sent = co_await writer->send(std::move(response));
  }

  static awaitable<void> handle(State* self, HttpRequest request, ResponseWriter* writer);
  static awaitable<void> handle_socket(State* self, std::string path, HttpRequest request,
                                       ResponseWriter* writer);
  static awaitable<void> handle_web(State* self, std::string path, HttpRequest request,
                                    ResponseWriter* writer);
  std::optional<HttpResponse> page(std::string_view path);
  WebDesk* web_of(const HttpRequest& request) {
    const std::string client = core.access.client_of(request);
    auto& desk = web[client];
    if (!desk) desk = std::make_unique<WebDesk>(&core, client);
    return desk.get();
  }

  Core core;
  // Connections of those who showed a key.
  const std::shared_ptr<net::BodyBudget> with_key =
      std::make_shared<net::BodyBudget>(core.options.http.connections);
  std::map<std::string, std::unique_ptr<WebDesk>> web;  // by client
  std::map<std::string, Route, std::less<>> routes;
  json::Object openapi;
  std::string openapi_text;
  std::string docs;
  net::HttpServer http;
};

std::optional<HttpResponse> EnvServer::State::page(std::string_view path) {
  if (path == "/openapi.json") return net::json_response(200, openapi_text);
  if (path == "/docs" || path == "/redoc") return html(docs);
  // Nobody signs in here; the page is there because clients of the documentation ask for it.
  if (path == "/docs/oauth2-redirect") return html("<!DOCTYPE html>\n<title>no sign-in</title>\n");
  if (path == "/metrics") {
    return HttpResponse{
        200, {{"Content-Type", "text/plain; version=0.0.4; charset=utf-8"}}, core.metrics->text()};
  }
  if (path == "/" || path == "/web" || path == "/web/") return html(index());
  return std::nullopt;
}

awaitable<void> EnvServer::State::handle_socket(State* self, std::string path, HttpRequest request,
                                                ResponseWriter* writer) {
  Core* const core = &self->core;
  if (path == "/ws") {
    co_await serve_ws(core, std::move(request), writer);
  } else if (path == "/mcp") {
    co_await serve_mcp_ws(core, std::move(request), writer);
  } else if (path == "/ws/ui" && core->options.web == WebInterface::kOn) {
    Conversation show = [web = self->web_of(request)](Core*, net::WebSocket* socket, std::string) {
      return WebDesk::show(web, socket);
    };
    co_await serve_socket(core, std::move(request), writer, std::move(show), "/ws/ui");
  } else {
    HttpResponse refusal{403, {{"Content-Type", "text/plain; charset=utf-8"}}, ""};
    co_await send(self, "unknown", std::move(refusal), writer);
  }
}

awaitable<void> EnvServer::State::handle_web(State* self, std::string path, HttpRequest request,
                                             ResponseWriter* writer) {
  WebDesk* const web = self->web_of(request);
  HttpResponse response;
  json::Value body;
  if (!request.body.empty()) {
    auto parsed = json::parse(request.body, json::ParseLimits{self->core.options.http.body_bytes});
    if (!parsed) {
      HttpResponse refusal = detail_response(422, "the body is not JSON");
      co_await send(self, path, std::move(refusal), writer);
      co_return;
    }
    body = std::move(*parsed);
  }
  if (path == "/web/reset") {
    response = co_await WebDesk::reset(web, std::move(body));
  } else if (path == "/web/step") {
    response = co_await WebDesk::step(web, std::move(body));
  } else if (path == "/web/state") {
    response = co_await WebDesk::state(web);
  } else {
    response = web->metadata();
  }
  co_await send(self, path, std::move(response), writer);
}

// Of requests that were admitted.
awaitable<void> EnvServer::State::handle(State* self, HttpRequest request, ResponseWriter* writer) {
  Core* const core = &self->core;
  const std::string path = net::percent_decode(request.path()).value_or("");
  if (net::wants_websocket(request)) {
    co_await handle_socket(self, path, std::move(request), writer);
    co_return;
  }
  auto found = self->routes.find(path);
  std::optional<Route> route;
  if (found != self->routes.end()) {
    route = found->second;
  } else {
    route = self->rollout_route(path);
  }
  if (!route) {
    // FastAPI sends "/health/" on to "/health".
    const bool slash = path.size() > 1 && path.ends_with('/') &&
                       self->routes.contains(std::string_view(path).substr(0, path.size() - 1));
    HttpResponse response = slash ? HttpResponse{307, {}, ""} : detail_response(404, "Not Found");
    if (slash) response.headers.add("Location", path.substr(0, path.size() - 1));
    co_await send(self, "unknown", std::move(response), writer);
    co_return;
  }
  if (request.method != route->method) {
    HttpResponse response = detail_response(405, "Method Not Allowed");
    response.headers.add("Allow", route->method);
    const std::string name = found == self->routes.end() ? "/rollouts/*" : path;
    co_await send(self, name, std::move(response), writer);
    co_return;
  }
  if (path == "/mcp") {
    co_await serve_mcp_post(core, std::move(request), writer);
  } else if (auto page = self->page(path)) {
    co_await send(self, path, std::move(*page), writer);
  } else if (path.starts_with("/web/")) {
    co_await handle_web(self, path, std::move(request), writer);
  } else if (path.starts_with("/rollouts/") && path.ends_with("/events")) {
    constexpr size_t prefix = std::string_view("/rollouts/").size();
    constexpr size_t suffix = std::string_view("/events").size();
    std::string id = path.substr(prefix, path.size() - prefix - suffix);
    co_await serve_rollout_events(core, std::move(id), std::move(request), writer);
  } else {
    co_await serve_http(core, std::move(request), writer);
  }
}

EnvServer::EnvServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

EnvServer::~EnvServer() = default;

Result<std::unique_ptr<EnvServer>> EnvServer::make(net::Shard& shard, EnvironmentFactory& factory,
                                                   ServerOptions options) {
  const EnvironmentInfo& info = factory.info();
  if (options.max_sessions < 1) {
    return Error(ErrorCode::kInvalidArgument, "a server needs room for one session at least",
                 ErrorOrigin::kCaller);
  }
  if (options.max_sessions > 1 && info.sessions == EnvironmentInfo::Sessions::kOne) {
    return Error(ErrorCode::kInvalidArgument,
                 fmt::format("environment '{}' allows one session at a time, the server is to hold "
                             "{}: set that to 1, or make the environment keep its sessions apart "
                             "and say so in its info()",
                             info.class_name, options.max_sessions),
                 ErrorOrigin::kCaller);
  }
  SLUICE_TRY(Access access, Access::make(options.access));
  for (const std::string& key : options.access.keys) options.log.redactor().add_secret(key);
  if (options.access.policy == KeyPolicy::kOff) {
    options.log.warn("env", "keys are switched off: whoever reaches this server may use it");
  }
  auto state = std::make_unique<State>(shard, factory, std::move(options), std::move(access));
  return std::unique_ptr<EnvServer>(new EnvServer(std::move(state)));
}

Result<void> EnvServer::serve(std::unique_ptr<net::Listener> listener) {
  const std::string address = listener->address();
  SLUICE_TRY_VOID(state_->core.access.check_listener(address));
  if (!is_loopback(address)) state_->core.reach = Access::Reach::kAnywhere;
  state_->core.log.info("env", "serving",
                        {{"environment", state_->core.factory.info().name},
                         {"address", address},
                         {"sessions", state_->core.options.max_sessions},
                         {"keys", state_->core.access.needs_key()}});
  state_->http.serve(std::move(listener));
  return {};
}

awaitable<void> EnvServer::stop(Deadline deadline) {
  State* const state = state_.get();
  state->core.stopping = true;
  // Both at once: connections end as their calls do.
  net::TaskGroup tasks(state->core.shard.executor());
  tasks.spawn(state->core.sessions.stop(deadline));
  for (const auto& [client, web] : state->web) tasks.spawn(WebDesk::stop(web.get()));
  // What is sent when the last call has ended may still leave.
  const Deadline grace = Deadline::in(deadline.remaining() + std::chrono::seconds(2));
  co_await state->http.stop(grace);
  co_await tasks.join();
}

size_t EnvServer::sessions() const {
  return state_->core.sessions.active();
}

size_t EnvServer::connections() const {
  return state_->http.connections();
}

}  // namespace sluice::env
