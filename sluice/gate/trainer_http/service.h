// TrainerService: the trainer API over HTTP (docs/trainer-api.md), on a listener of its own that no
// agent can reach. Two keys: the trainer's takes calls and answers them, the operator's opens and
// closes rollouts of people whose sandboxes are their own; neither does the other's work.
//
// Lives on one shard; every member runs there.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/gate/gate.h"
#include "sluice/gate/http/shared.h"
#include "sluice/net/http_server.h"

namespace sluice::gate::trainer_http {

struct ServiceOptions {
  // At least 16 characters each, and not the same.
  std::string trainer_key;
  std::string operator_key;
  // Where agents of registered rollouts are served; none: there is no registering.
  http::SharedEndpoint* agents = nullptr;
  const trace::Recorder* recorder = nullptr;  // whose load the metrics tell; outlives the service
  std::string agents_url;  // what such agents reach it by: "http://10.0.0.1:8080"
  Duration heartbeat = std::chrono::seconds(15);  // between comments of a silent event stream
  size_t max_response = 64 * 1024 * 1024;         // bytes of items in one answer
  size_t bodies_bytes = 256 * 1024 * 1024;        // of requests while they arrive: 503 above
  Logger log;
};

// What the API answers to; "{id}" in a path is a rollout's.
struct Route {
  std::string_view method, path;
};
std::vector<Route> routes();

class TrainerService {
 public:
  // kInvalidArgument for keys that will not do.
  static Result<std::unique_ptr<TrainerService>> make(net::Shard& shard, Trainer trainer,
                                                      ServiceOptions options);
  ~TrainerService();  // stop() must have completed
  TrainerService(const TrainerService&) = delete;
  TrainerService& operator=(const TrainerService&) = delete;

  void serve(std::unique_ptr<net::Listener> listener);
  net::awaitable<void> stop(Deadline deadline);

 private:
  class State;
  friend std::vector<Route> routes();
  explicit TrainerService(std::unique_ptr<State> state);
  const std::unique_ptr<State> state_;
};

// The OpenAPI document of the API (openapi.json), put into the program by CMake.
extern const std::string_view kOpenapi;

}  // namespace sluice::gate::trainer_http
