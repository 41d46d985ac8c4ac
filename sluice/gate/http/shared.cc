#include "sluice/gate/http/shared.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "sluice/gate/http/routes.h"
#include "sluice/gate/http/serve.h"
#include "sluice/gate/http/shown_key.h"
#include "sluice/net/wheel.h"

namespace sluice::gate::http {
namespace {

using net::awaitable;

// In the shape that whose client asks reads.
net::HttpResponse refusal(const net::HttpRequest& request, int status, ErrorCode kind,
                          std::string message) {
  return error_response(route(request, RolloutId()), status,
                        llm::Problem::of(kind, std::move(message)));
}

// Open to everybody on purpose, for load balancers and start-up scripts: it tells that there is a
// server, and nothing of what it holds or does. A body of nobody's is not read for it.
bool is_health(const net::HttpRequest& head) {
  return tidy_path(head.path()) == "/health";
}
bool is_open_to_all(const net::HttpRequest& head) {
  return is_health(head) && !head.announces_body();
}

}  // namespace

struct SharedEndpoint::Rollout {
  Rollout(RolloutKeys::Holder h, const Options& options, net::Wheel& wheel, trace::Recorder* r)
      : holder(std::move(h)),
        bodies(std::make_shared<net::BodyBudget>(options.rollout_bodies_bytes)),
        connections(std::make_shared<net::BodyBudget>(options.rollout_connections)),
        end(wheel),
        recorder(r) {}
  const RolloutKeys::Holder holder;  // of its key
  const std::shared_ptr<net::BodyBudget> bodies, connections;
  net::Wheel::Timer end;
  trace::Recorder* const recorder;  // may be none
  bool closing = false;
};

SharedEndpoint::SharedEndpoint(net::Shard& shard, Operator gate, Options options)
    : shard_(shard),
      gate_(std::move(gate)),
      options_(std::move(options)),
      tasks_(shard.executor()),
      server_(
          shard,
          [this](net::HttpRequest request, net::ResponseWriter* writer) {
            return handle(std::move(request), writer);
          },
          server_options()) {}

SharedEndpoint::~SharedEndpoint() = default;

net::HttpServerOptions SharedEndpoint::server_options() {
  net::HttpServerOptions options;
  options.log = options_.log;
  options.limits.body_bytes = options_.body_bytes;
  options.limits.bodies_bytes = options_.bodies_bytes;
  options.admit = [this](const net::HttpRequest& head) {
    return admit(head);
  };
  options.refuse = [](const net::HttpRequest& request, int status, const Error& error) {
    return refusal(request, status, error.code, error.message);
  };
  return options;
}

RolloutKeys::Time SharedEndpoint::now() const {
  if (options_.clock) return options_.clock();
  return std::chrono::time_point_cast<std::chrono::seconds>(std::chrono::system_clock::now());
}

void SharedEndpoint::serve(std::unique_ptr<net::Listener> listener) {
  server_.serve(std::move(listener));
}

Result<SharedEndpoint::Opened> SharedEndpoint::open(Registration registration, Duration lifetime) {
  if (rollouts_.size() >= options_.max_rollouts) {
    return Error(ErrorCode::kExhausted,
                 fmt::format("{} rollouts are open, as many as are allowed: close some",
                             options_.max_rollouts));
  }
  registration.shard = &shard_;
  if (registration.recorder == nullptr) registration.recorder = options_.recorder;
  if (registration.id.empty()) registration.id = RolloutId::fresh();
  const RolloutId id = registration.id;
  trace::Recorder* const recorder = registration.recorder;
  // One that is being closed is here longer than at the gate.
  const bool here = rollouts_.contains(id);
  if (here || (recorder != nullptr && is_valid_id(id.value) && recorder->has(id))) {
    return Error(ErrorCode::kAlreadyExists,
                 fmt::format("rollout {} {}", id.value,
                             here ? "is open at the gate already"
                                  : "has a trace here, from an earlier registration: take another "
                                    "id, or leave it out"),
                 ErrorOrigin::kCaller);
  }
  const auto disk = std::make_shared<trace::DiskUse>();
  registration.disk = disk;
  SLUICE_TRY_VOID(gate_.open(std::move(registration)));
  if (recorder != nullptr) {
    trace::RolloutInfo info;
    info.mode = "interception_gate";
    info.policy = "trainer";
    info.disk = disk;
    recorder->opened(id, info);
  }
  gate_.admit(id);
  const auto holder = RolloutKeys::fresh_holder(id);
  auto rollout = std::make_unique<Rollout>(holder, options_, shard_.wheel(), recorder);
  rollout->end.arm(Deadline::in(lifetime), [this, id] { tasks_.spawn(expire(id)); });
  rollouts_[id] = std::move(rollout);
  const auto expires = now() + std::chrono::ceil<std::chrono::seconds>(lifetime);
  return Opened{id, keys_.make(holder, expires), expires};
}

awaitable<void> SharedEndpoint::expire(RolloutId rollout) {
  options_.log.info("gate", "a rollout's lifetime is over", {{"rollout", rollout.value}});
  co_await close(std::move(rollout), "its lifetime is over");
}

awaitable<bool> SharedEndpoint::close(RolloutId rollout, std::string_view why) {
  const auto it = rollouts_.find(rollout);
  if (it == rollouts_.end() || it->second->closing) co_return false;
  it->second->closing = true;
  trace::Recorder* const recorder = it->second->recorder;
  gate_.stop_admitting(rollout, why);
  co_await gate_.close(rollout);
  if (recorder != nullptr) {
    const trace::ResultSummary nothing_verified;
    recorder->closed(rollout, nothing_verified);
    // What it could not write it has told its log.
    [[maybe_unused]] const auto recorded = co_await trace::flushed(recorder, &shard_, rollout);
  }
  gate_.closed(rollout, {});
  rollouts_.erase(rollout);
  co_return true;
}

std::optional<Counters> SharedEndpoint::counters(const RolloutId& rollout) const {
  if (!rollouts_.contains(rollout)) return std::nullopt;
  return gate_.counters(rollout);
}

awaitable<void> SharedEndpoint::stop(Deadline deadline) {
  std::vector<RolloutId> ids;
  for (const auto& [id, rollout] : rollouts_) ids.push_back(id);
  for (const RolloutId& id : ids) co_await close(id, "the gate is stopping");
  co_await tasks_.join();
  co_await server_.stop(deadline);
}

tl::expected<SharedEndpoint::Asker, net::HttpResponse> SharedEndpoint::asker_of(
    const net::HttpRequest& head) const {
  // In whichever ways vendors' clients send keys. An agent may show others beside ours (those of
  // services that it has an account with): what fits counts.
  const std::string in_query = head.parameter("key");
  const std::array<std::string_view, 4> shown{head.bearer().value_or(""),
                                              head.headers.get_or("x-api-key", ""),
                                              head.headers.get_or("x-goog-api-key", ""), in_query};
  const bool several = std::ranges::count(shown, std::string_view()) + 1 < std::ssize(shown);
  bool was_ours = false;
  std::optional<Asker> of_another;  // than the path names
  for (const std::string_view key : shown) {
    if (key.empty()) continue;
    const auto holder = keys_.check(key, now());
    if (!holder) continue;
    const auto open = rollouts_.find(holder->rollout);
    auto found = gate_.find(holder->rollout);
    if (!found || open == rollouts_.end()) {
      was_ours = true;
      continue;
    }
    // The key of an earlier rollout of that id ended with it.
    if (!open->second->holder.is(*holder)) continue;
    Asker asker{std::move(found), open->second->bodies, open->second->connections};
    if (!several || route(head, holder->rollout).kind != Route::Kind::kOtherRollout) return asker;
    if (!of_another) of_another = std::move(asker);
  }
  if (of_another) return std::move(*of_another);
  if (!was_ours) return tl::unexpected(unauthenticated(head));
  return tl::unexpected(refusal(head, 404, ErrorCode::kNotFound, "rollout not found"));
}

net::Admission SharedEndpoint::admit(const net::HttpRequest& head) const {
  net::Admission admission;
  admission.always = is_open_to_all(head);
  if (admission.always) return admission;
  auto asker = asker_of(head);
  if (asker) {
    admission.budget = std::move(asker->bodies);
    admission.connections = std::move(asker->connections);
  } else {
    admission.refusal = std::move(asker).error();
  }
  return admission;
}

// No coroutine, as http::handle().
awaitable<void> SharedEndpoint::handle(net::HttpRequest request, net::ResponseWriter* writer) {
  if (is_health(request)) {
    return writer->send_or_abort(net::json_response(200, R"({"status":"ok"})"));
  }
  // Once more: while the body came the key may have expired, and the rollout been closed.
  auto asker = asker_of(request);
  if (!asker) return writer->send_or_abort(std::move(asker).error());
  return http::handle(std::move(asker->rollout), std::move(request), writer);
}

}  // namespace sluice::gate::http
