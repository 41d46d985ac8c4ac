// The routes of plain HTTP: /reset, /step, /state and what is asked without a session; POST /mcp;
// the events of a rollout.
#include <fmt/format.h>

#include <algorithm>

#include "sluice/env/core.h"
#include "sluice/env/documents.h"
#include "sluice/env/python_text.h"
#include "sluice/net/sse.h"

namespace sluice::env {
namespace {

using net::HttpRequest;
using net::HttpResponse;
using net::ResponseWriter;

constexpr size_t kMaxListed = 1000;

// --- Bodies as FastAPI reads them ----------------------------------------------------------------

const json::Object& reset_schema() {
  static const json::Object schema = parse_document(R"({
    "type": "object",
    "properties": {
      "seed": {"anyOf": [{"type": "integer", "minimum": 0, "x-any-size": true}, {"type": "null"}]},
      "episode_id": {"anyOf": [{"type": "string", "maxLength": 255}, {"type": "null"}]}}})");
  return schema;
}

const json::Object& step_schema() {
  static const json::Object schema = parse_document(R"({
    "type": "object", "required": ["action"],
    "properties": {
      "action": {"type": "object"},
      "timeout_s": {"anyOf": [{"type": "number", "exclusiveMinimum": 0.0}, {"type": "null"}]},
      "request_id": {"anyOf": [{"type": "string", "maxLength": 255}, {"type": "null"}]}}})");
  return schema;
}

bool is_json_type(std::string_view type) {
  type = type.substr(0, type.find(';'));
  while (type.ends_with(' ')) type.remove_suffix(1);
  constexpr std::string_view application = "application/";
  if (type.size() < application.size() ||
      !net::equal_ignoring_case(type.substr(0, application.size()), application)) {
    return false;
  }
  type.remove_prefix(application.size());
  constexpr std::string_view suffix = "+json";
  return net::equal_ignoring_case(type, "json") ||
         (type.size() > suffix.size() &&
          net::equal_ignoring_case(type.substr(type.size() - suffix.size()), suffix));
}

struct Body {
  std::optional<HttpResponse> refusal;
  bool empty = false;
  json::Value value;  // the body, or its text if it does not say that it is JSON
};

Body read_body(const Core& core, const HttpRequest& request) {
  Body body;
  if (request.body.empty()) {
    body.empty = true;
    return body;
  }
  const bool is_json = is_json_type(request.headers.get_or("Content-Type", ""));
  if (is_json) {
    if (auto parsed = json::parse(request.body, json::ParseLimits{core.options.http.body_bytes})) {
      body.value = std::move(*parsed);
      return body;
    }
  }
  if (!is_valid_utf8(request.body)) {
    body.refusal = detail_response(400, "There was an error parsing the body");
  } else if (!is_json) {
    body.value = json::Value(request.body);
  } else {
    body.refusal =
        invalid_response({Mistake{"json_invalid", {json::Value("body")}, "JSON decode error"}});
  }
  return body;
}

// The body checked against a model, or the refusal.
tl::expected<json::Object, HttpResponse> model(const Body& body, const json::Object& schema) {
  Mistakes problems;
  const json::Array where{json::Value("body")};
  if (!body.value.is_object()) {
    problems.push_back(
        Mistake{"model_attributes_type", where,
                "Input should be a valid dictionary or object to extract fields from"});
    return tl::unexpected(invalid_response(problems));
  }
  json::Value checked = check(schema, body.value, where, Naming::kModel, &problems);
  if (!problems.empty()) return tl::unexpected(invalid_response(problems));
  return std::move(checked.get_object());
}

// --- Calls without a session ---------------------------------------------------------------------

HttpResponse refusal_response(const SessionRefusal& refusal) {
  if (refusal.kind == SessionRefusal::Kind::kFactory) {
    return HttpResponse{
        500, {{"Content-Type", "text/plain; charset=utf-8"}}, "Internal Server Error"};
  }
  HttpResponse response = detail_response(503, refusal.message);
  response.headers.add("Retry-After", "1");
  return response;
}

// Cancels `handle` when the client leaves, if that is wanted.
void watch_client(Core* core, ResponseWriter* writer, const std::shared_ptr<CallHandle>& handle) {
  if (core->options.on_client_gone != OnClientGone::kCancel) return;
  writer->on_peer_closed([handle](net::PeerClose) { handle->cancel(CancelReason::kClientGone); });
}

HttpResponse step_response(StepAnswer answer) {
  return answer.failed ? detail_response(500, answer.text)
                       : net::json_response(200, std::move(answer.text));
}

awaitable<HttpResponse> reset(Core* core, HttpRequest request, ResponseWriter* writer) {
  Body body = read_body(*core, request);
  if (body.refusal) co_return std::move(*body.refusal);
  if (body.empty) body.value = json::Object();
  auto arguments = model(body, reset_schema());
  if (!arguments) co_return std::move(arguments.error());
  std::string client = core->access.client_of(request);
  auto opened = co_await core->sessions.open(EnvSession::Kind::kStateless, std::move(client));
  if (!opened) co_return refusal_response(opened.error());
  const auto handle = std::make_shared<CallHandle>();
  watch_client(core, writer, handle);
  StepAnswer answer = co_await take_reset(core, *opened, std::move(*arguments), handle.get());
  core->sessions.close_later(*opened, CancelReason::kRequested);
  co_return step_response(std::move(answer));
}

awaitable<HttpResponse> step(Core* core, HttpRequest request, ResponseWriter* writer) {
  Body body = read_body(*core, request);
  if (body.refusal) co_return std::move(*body.refusal);
  Mistakes problems;
  if (body.empty) {
    problems.push_back(Mistake{"missing", {json::Value("body")}, "Field required"});
    co_return invalid_response(problems);
  }
  auto fields = model(body, step_schema());
  if (!fields) co_return std::move(fields.error());
  Action action = parse_action(fields->at("action").get_object(), core->factory.info(), &problems);
  if (!problems.empty()) co_return invalid_response(problems);
  std::string client = core->access.client_of(request);
  auto opened = co_await core->sessions.open(EnvSession::Kind::kStateless, std::move(client));
  if (!opened) co_return refusal_response(opened.error());
  const auto handle = std::make_shared<CallHandle>();
  watch_client(core, writer, handle);
  StepAnswer answer = co_await take_step(core, *opened, std::move(action),
                                         json::get_number(*fields, "timeout_s"), handle.get());
  core->sessions.close_later(*opened, CancelReason::kRequested);
  co_return step_response(std::move(answer));
}

awaitable<HttpResponse> state(Core* core, HttpRequest request) {
  std::string client = core->access.client_of(request);
  auto opened = co_await core->sessions.open(EnvSession::Kind::kStateless, std::move(client));
  if (!opened) co_return refusal_response(opened.error());
  auto found = (*opened)->environment().state();
  core->sessions.close_later(*opened, CancelReason::kRequested);
  if (!found) co_return detail_response(500, to_valid_utf8(found.error().message));
  // Only what every state has: what an environment adds is for those who have a session.
  json::Object out;
  for (const char* name : {"episode_id", "step_count"}) {
    if (const json::Value* value = found->if_contains(name)) out[name] = *value;
  }
  co_return net::json_response(200, python::compact(out));
}

// --- /rollouts -----------------------------------------------------------------------------------

// The value of `name` in "a=b&c=d".
std::string query_value(std::string_view query, std::string_view name) {
  while (!query.empty()) {
    const size_t end = query.find('&');
    const std::string_view pair = query.substr(0, end);
    query = end == query.npos ? std::string_view() : query.substr(end + 1);
    const size_t equals = pair.find('=');
    if (pair.substr(0, equals) == name && equals != pair.npos) {
      return net::percent_decode(pair.substr(equals + 1)).value_or("");
    }
  }
  return "";
}

HttpResponse list_rollouts(const Core& core, const HttpRequest& request) {
  const std::string limit = query_value(request.query(), "limit");
  const std::string state = query_value(request.query(), "state");
  const auto number = limit.empty() ? std::optional<uint64_t>(100) : parse_decimal(limit);
  const bool known =
      state.empty() || state == "running" || state == "cancelling" || state == "ended";
  if (!number || *number > kMaxListed || !known) {
    return detail_response(
        422, fmt::format("state is running, cancelling or ended; limit is at most {}", kMaxListed));
  }
  const std::string client = core.access.client_of(request);
  const json::Object out{{"rollouts", core.options.rollouts->list(state, *number, client)}};
  return net::json_response(200, python::compact(out));
}

HttpResponse show_rollout(const Core& core, std::string_view id, std::string_view client) {
  const auto found = core.options.rollouts->find(id, client);
  return found ? net::json_response(200, python::compact(*found))
               : detail_response(404, "Not Found");
}

HttpResponse cancel_rollout(const Core& core, std::string_view id, std::string_view client) {
  const auto cancelled = core.options.rollouts->cancel(id, client);
  if (!cancelled) {
    return detail_response(cancelled.error().code == ErrorCode::kNotFound ? 404 : 409,
                           cancelled.error().message);
  }
  return show_rollout(core, id, client);
}

// --- Event streams -------------------------------------------------------------------------------

net::Headers event_stream() {
  return {{"Content-Type", "text/event-stream"}, {"Cache-Control", "no-cache"}};
}

// Answers an MCP request in an event stream, with notifications before the answer.
awaitable<void> stream_rpc(Core* core, RpcRequest request, std::string client,
                           std::shared_ptr<CallHandle> handle, ResponseWriter* writer) {
  RunningRpc running(core);
  RpcContext context;
  context.client = std::move(client);
  context.handle = handle.get();
  running.start(std::move(request), std::move(context));
  auto there = co_await writer->start(200, event_stream());
  while (!running.reply || !running.notes.empty()) {
    if (!running.notes.empty()) {
      Bytes out;
      escape_line_ends(running.notes.front());
      net::append_sse(out, "message", running.notes.front());
      running.notes.pop_front();
      if (there) there = co_await writer->write(std::move(out));
      continue;
    }
    const Deadline quiet = Deadline::in(core->options.sse_keep_alive);
    const auto waited = co_await net::wait_for(&core->shard, &running.changed, quiet);
    if (waited || running.reply || !running.notes.empty()) continue;
    if (waited.error().code != ErrorCode::kTimedOut) handle->cancel(CancelReason::kStopping);
    if (there) there = co_await writer->write(": still at it\n\n");
  }
  co_await running.tasks.join();
  Bytes reply = to_text(*running.reply);
  escape_line_ends(reply);
  Bytes out;
  net::append_sse(out, "message", reply);
  if (there) there = co_await writer->finish(std::move(out));
}

bool accepts_events(const HttpRequest& request) {
  return request.headers.get_or("Accept", "").find("text/event-stream") != std::string_view::npos;
}

}  // namespace

awaitable<void> serve_mcp_post(Core* core, HttpRequest request, ResponseWriter* writer) {
  const auto answer = [](const RpcReply& reply) {
    return net::json_response(200, to_text(reply));
  };
  HttpResponse response;
  auto parsed = json::parse(request.body, json::ParseLimits{core->options.http.body_bytes});
  if (!parsed || !parsed->is_object()) {
    response = answer(rpc_error(nullptr, -32700, "Parse error"));
  } else if (auto rpc = parse_rpc(*parsed); !rpc) {
    RpcReply reply;
    reply.error = std::move(rpc.error());
    response = answer(reply);
  } else if (rpc->is_notification()) {
    response.status = 202;
  } else {
    const auto handle = std::make_shared<CallHandle>();
    if (rpc->method == "tools/call") {
      watch_client(core, writer, handle);
      if (wants_progress(*rpc) && accepts_events(request)) {
        core->count_request("/mcp", 200);
        std::string client = core->access.client_of(request);
        co_await stream_rpc(core, std::move(*rpc), std::move(client), handle, writer);
        co_return;
      }
    }
    RpcContext context;
    context.handle = handle.get();
    context.client = core->access.client_of(request);
    const RpcReply reply = co_await handle_rpc(core, std::move(*rpc), std::move(context));
    response = answer(reply);
  }
  core->count_request("/mcp", response.status);
  const auto sent = co_await writer->send(std::move(response));
}

awaitable<void> serve_rollout_events(Core* core, std::string id, HttpRequest request,
                                     ResponseWriter* writer) {
  RolloutBoard* const board = core->options.rollouts;
  if (!board->find(id, core->access.client_of(request))) {
    core->count_request("/rollouts", 404);
    const auto sent = co_await writer->send(detail_response(404, "Not Found"));
    co_return;
  }
  core->count_request("/rollouts", 200);
  uint64_t last = parse_decimal(request.headers.get_or("Last-Event-ID", "")).value_or(0);
  bool gone = false;
  const auto gone_flag = std::make_shared<bool>(false);
  writer->on_peer_closed([gone_flag](net::PeerClose) { *gone_flag = true; });
  auto there = co_await writer->start(200, event_stream());
  while (there && !*gone_flag && !core->stopping && !gone) {
    const Deadline quiet = Deadline::in(core->options.sse_keep_alive);
    auto events = co_await board->events(id, last, quiet);
    if (!events) {
      gone = events.error().code != ErrorCode::kTimedOut;
      if (!gone) there = co_await writer->write(": nothing new\n\n");
      continue;
    }
    if (events->empty()) break;
    Bytes out;
    for (const RolloutEvent& event : *events) {
      last = event.number;
      fmt::format_to(std::back_inserter(out), "id: {}\n", event.number);
      net::append_sse(out, "", python::compact(to_json(event)));
    }
    there = co_await writer->write(std::move(out));
  }
  if (there) there = co_await writer->finish();
}

awaitable<void> serve_http(Core* core, HttpRequest request, ResponseWriter* writer) {
  const std::string path = net::percent_decode(request.path()).value_or("");
  std::string route = path;
  HttpResponse response;
  if (path == "/reset") {
    response = co_await reset(core, std::move(request), writer);
  } else if (path == "/step") {
    response = co_await step(core, std::move(request), writer);
  } else if (path == "/state") {
    response = co_await state(core, std::move(request));
  } else if (path == "/health") {
    response = net::json_response(200, R"({"status":"healthy"})");
  } else if (path == "/metadata") {
    response = net::json_response(200, python::compact(metadata_of(core->factory)));
  } else if (path == "/schema") {
    response = net::json_response(200, python::compact(schemas_of(core->factory.info())));
  } else if (path == "/rollouts") {
    response = list_rollouts(*core, request);
  } else {
    // "/rollouts/ID" or "/rollouts/ID/cancel"
    route = "/rollouts/*";
    std::string_view id = std::string_view(path).substr(std::string_view("/rollouts/").size());
    const size_t slash = id.find('/');
    const std::string client = core->access.client_of(request);
    response = slash == id.npos ? show_rollout(*core, id, client)
                                : cancel_rollout(*core, id.substr(0, slash), client);
  }
  core->count_request(route, response.status);
  const auto sent = co_await writer->send(std::move(response));
}

}  // namespace sluice::env
