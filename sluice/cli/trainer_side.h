// The trainer API of a command (docs/trainer-api.md), and with it, for `sluice gate serve`, the
// listener for agents in sandboxes of others. On a thread of its own; made and destroyed by the
// command's.
#pragma once

#include <future>
#include <memory>
#include <optional>
#include <string>

#include "sluice/base/core/result.h"
#include "sluice/base/log.h"
#include "sluice/gate/gate.h"
#include "sluice/gate/http/shared.h"
#include "sluice/gate/trainer_http/service.h"
#include "sluice/net/shard.h"

namespace sluice::cli {

struct TrainerSideOptions {
  std::string listen;                   // "127.0.0.1:8790"; port 0 takes a free one
  std::string keys_file;                // where keys are written that no variable gives
  std::string agents;                   // the listener for agents; "": there is none
  std::string advertise;                // their base URL; "": http:// and that listener's address
  trace::Recorder* recorder = nullptr;  // of rollouts registered from outside
  size_t max_rollouts = 10'000;
  size_t body_bytes = gate::GateOptions().body_bytes;  // of an agent's request
  Logger log;
};

class TrainerSide {
 public:
  static Result<std::unique_ptr<TrainerSide>> start(const gate::Handles& gate,
                                                    TrainerSideOptions options);
  // Ends the agents' rollouts, lets requests in progress end, joins the thread.
  ~TrainerSide();
  TrainerSide(const TrainerSide&) = delete;
  TrainerSide& operator=(const TrainerSide&) = delete;

  const std::string& address() const { return address_; }
  const std::string& agents_url() const { return agents_url_; }
  // Where the keys are; "" if the environment gave both.
  const std::string& keys_file() const { return keys_file_; }

 private:
  TrainerSide() = default;
  static net::awaitable<void> stop(TrainerSide* self, std::promise<void>* done);

  net::Shard shard_{1000};
  std::optional<gate::Trainer> trainer_;
  std::unique_ptr<gate::http::SharedEndpoint> agents_;
  std::unique_ptr<gate::trainer_http::TrainerService> service_;
  std::string address_, agents_url_, keys_file_;
};

}  // namespace sluice::cli
