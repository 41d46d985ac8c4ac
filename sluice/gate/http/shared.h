// SharedEndpoint: one listener for agents of many rollouts, for people whose sandboxes are their
// own. Each request shows its rollout's key (Authorization: Bearer, x-api-key, x-goog-api-key, or
// Gemini's ?key=; whatever else is shown beside it), which is checked before anything else, and
// before the request's body is read; below /rollout/ID that must be the rollout's own.
//
// Lives on one shard, as do the rollouts opened here; every member runs there.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include <tl/expected.hpp>

#include "sluice/gate/gate.h"
#include "sluice/gate/keys.h"
#include "sluice/net/http_server.h"

namespace sluice::gate::http {

class SharedEndpoint {
 public:
  struct Options {
    size_t max_rollouts = 10'000;
    trace::Recorder* recorder = nullptr;       // of rollouts that name none
    std::function<RolloutKeys::Time()> clock;  // by which keys expire; none: the system's
    size_t body_bytes = 32 * 1024 * 1024;      // of a request: 413 above
    // Of requests while they arrive, of one rollout and in all: 503 above. One rollout's cannot use
    // up what others need.
    size_t rollout_bodies_bytes = 64 * 1024 * 1024;
    size_t bodies_bytes = 1024 * 1024 * 1024;
    size_t rollout_connections = 1024;  // 503 above
    Logger log;
  };

  SharedEndpoint(net::Shard& shard, Operator gate, Options options);
  // REQUIRES: stop() has completed.
  ~SharedEndpoint();
  SharedEndpoint(const SharedEndpoint&) = delete;
  SharedEndpoint& operator=(const SharedEndpoint&) = delete;

  void serve(std::unique_ptr<net::Listener> listener);

  struct Opened {
    RolloutId rollout;
    std::string key;
    RolloutKeys::Time expires;
  };
  // Opens the rollout on this shard and admits its calls. It is closed when its `lifetime` is over.
  // Errors as Operator::open(); kExhausted over the limit, kAlreadyExists for an id that has a
  // trace.
  Result<Opened> open(Registration registration, Duration lifetime);
  // Whether it was one of these, and open. Its trainer is told why.
  net::awaitable<bool> close(RolloutId rollout, std::string_view why = "closed by its operator");
  // Only of those opened here.
  std::optional<Counters> counters(const RolloutId& rollout) const;
  size_t size() const { return rollouts_.size(); }

  // Closes every rollout of it, then the listeners and connections.
  net::awaitable<void> stop(Deadline deadline);

 private:
  struct Rollout;
  struct Asker {
    std::shared_ptr<OpenRollout> rollout;
    std::shared_ptr<net::BodyBudget> bodies, connections;
  };
  // Whose agent a request comes from, or what it is told instead.
  tl::expected<Asker, net::HttpResponse> asker_of(const net::HttpRequest& head) const;
  RolloutKeys::Time now() const;
  net::HttpServerOptions server_options();
  net::Admission admit(const net::HttpRequest& head) const;
  net::awaitable<void> handle(net::HttpRequest request, net::ResponseWriter* writer);
  net::awaitable<void> expire(RolloutId rollout);

  net::Shard& shard_;
  Operator gate_;
  const Options options_;
  const RolloutKeys keys_;
  std::unordered_map<RolloutId, std::unique_ptr<Rollout>> rollouts_;
  net::TaskGroup tasks_;
  net::HttpServer server_;
};

}  // namespace sluice::gate::http
