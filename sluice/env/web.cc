#include "sluice/env/web.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <chrono>
#include <ctime>

#include "sluice/env/python_text.h"

namespace sluice::env {
namespace {

constexpr size_t kMaxActions = 1000;

net::HttpResponse not_a_dictionary() {
  return invalid_response(
      {Mistake{"dict_type", {json::Value("body")}, "Input should be a valid dictionary"}});
}

// "2026-11-20T11:25:00.123456", as datetime.now().isoformat() has it.
std::string local_time() {
  const auto now = std::chrono::system_clock::now();
  const auto micros =
      std::chrono::duration_cast<std::chrono::microseconds>(now.time_since_epoch()).count() %
      1000000;
  return fmt::format("{:%FT%T}.{:06}", fmt::localtime(std::chrono::system_clock::to_time_t(now)),
                     micros);
}

}  // namespace

awaitable<std::optional<net::HttpResponse>> WebDesk::open(WebDesk* self) {
  while (self->opening_) {
    const auto waited = co_await self->changed_.wait(Deadline::never());
  }
  if (self->stopped_) co_return detail_response(503, "The server is stopping.");
  if (self->session_) co_return std::nullopt;
  self->opening_ = true;
  auto opened = co_await self->core_->sessions.open(EnvSession::Kind::kWeb, self->client_);
  self->opening_ = false;
  if (opened) self->session_ = *opened;
  self->changed_.notify_all();
  if (!opened) co_return detail_response(500, opened.error().message);
  co_return std::nullopt;
}

void WebDesk::note_state() {
  const auto state = session_->environment().state();
  if (state) {
    if (const json::Value* id = state->if_contains("episode_id")) episode_id_ = *id;
    if (const json::Value* count = state->if_contains("step_count")) step_count_ = *count;
  }
  ++version_;
  changed_.notify_all();
}

awaitable<net::HttpResponse> WebDesk::reset(WebDesk* self, json::Value body) {
  if (!body.is_null() && !body.is_object()) co_return not_a_dictionary();
  auto refused = co_await open(self);
  if (refused) co_return std::move(*refused);
  json::Object arguments = body.is_object() ? std::move(body.get_object()) : json::Object();
  StepAnswer answer =
      co_await take_reset(self->core_, self->session_, std::move(arguments), nullptr);
  if (answer.failed) co_return detail_response(500, answer.text);
  auto parsed = json::parse(answer.text, json::ParseLimits{answer.text.size(), 128});
  if (parsed) self->observation_ = parsed->get_object()["observation"];
  self->actions_.clear();
  self->is_reset_ = true;
  self->note_state();
  self->step_count_ = 0;
  co_return net::json_response(200, std::move(answer.text));
}

awaitable<net::HttpResponse> WebDesk::step(WebDesk* self, json::Value body) {
  if (!body.is_object()) co_return not_a_dictionary();
  Mistakes problems;
  json::Object& fields = body.get_object();
  json::Object data;
  if (const json::Value* message = fields.if_contains("message")) {
    data["message"] = *message;
  } else if (const json::Object* action = json::get_object(fields, "action")) {
    data = *action;
  }
  Action action = parse_action(data, self->core_->factory.info(), &problems);
  if (!problems.empty()) co_return invalid_response(problems);
  auto refused = co_await open(self);
  if (refused) co_return std::move(*refused);
  StepAnswer answer =
      co_await take_step(self->core_, self->session_, std::move(action), std::nullopt, nullptr);
  if (answer.failed) co_return detail_response(500, answer.text);
  self->is_reset_ = false;
  self->note_state();
  json::Object log;
  log["timestamp"] = local_time();
  data.erase("metadata");
  log["action"] = std::move(data);
  auto parsed = json::parse(answer.text, json::ParseLimits{answer.text.size(), 128});
  if (parsed) {
    json::Object& taken = parsed->get_object();
    self->observation_ = taken["observation"];
    log["observation"] = taken["observation"];
    log["reward"] = taken["reward"];
    log["done"] = taken["done"];
  }
  log["step_count"] = self->step_count_;
  self->actions_.push_back(std::move(log));
  if (self->actions_.size() > kMaxActions) self->actions_.pop_front();
  co_return net::json_response(200, std::move(answer.text));
}

awaitable<net::HttpResponse> WebDesk::state(WebDesk* self) {
  auto refused = co_await open(self);
  if (refused) co_return std::move(*refused);
  auto state = self->session_->environment().state();
  if (!state) co_return detail_response(409, to_valid_utf8(state.error().message));
  co_return net::json_response(200, python::compact(*state));
}

net::HttpResponse WebDesk::metadata() const {
  json::Object out = metadata_of(core_->factory);
  out["name"] = core_->factory.info().name;
  if (core_->options.readme) out["readme_content"] = *core_->options.readme;
  return net::json_response(200, python::compact(out));
}

std::string WebDesk::state_update() const {
  json::Array actions;
  for (const json::Object& action : actions_) actions.push_back(action);
  json::Object episode{{"episode_id", episode_id_},
                       {"step_count", step_count_},
                       {"current_observation", observation_},
                       {"action_logs", std::move(actions)},
                       {"is_reset", is_reset_}};
  return python::compact(
      json::Object{{"type", "state_update"}, {"episode_state", std::move(episode)}});
}

// Viewers say nothing that matters; what they send is read so that their end is seen.
awaitable<void> WebDesk::listen(WebDesk* self, net::WebSocket* socket) {
  for (;;) {
    const auto message = co_await socket->read();
    if (!message) break;
  }
  self->changed_.notify_all();
}

awaitable<SocketClose> WebDesk::show(WebDesk* self, net::WebSocket* socket) {
  net::TaskGroup tasks(self->core_->shard.executor());
  tasks.spawn(listen(self, socket));
  uint64_t shown = 0;
  while (!socket->ended() && !self->stopped_) {
    if (shown == self->version_) {
      const auto waited = co_await self->changed_.wait(Deadline::never());
      continue;
    }
    shown = self->version_;  // what happens meanwhile is one update more
    const auto sent = co_await socket->send(net::WebSocket::Kind::kText, self->state_update());
    if (!sent) break;
  }
  socket->stop_reading();
  co_await tasks.join();
  co_return SocketClose{
      self->core_->stopping ? net::websocket::kGoingAway : net::websocket::kNormal, ""};
}

awaitable<void> WebDesk::stop(WebDesk* self) {
  self->stopped_ = true;
  self->changed_.notify_all();
  while (self->opening_) {
    const auto waited = co_await self->changed_.wait(Deadline::never());
  }
  if (self->session_) {
    co_await self->core_->sessions.close(self->session_, CancelReason::kStopping);
    self->session_ = nullptr;
  }
}

}  // namespace sluice::env
