// Wiring: what a command that serves agents is made of, in the order in which the parts need each
// other: the shards and who answers on each, the backend, the recorder, the gate, the trainer API
// before it, and the engine that runs rollouts. `sluice gate serve` has neither backend nor engine.
//
// Made and destroyed by a thread that is none of its shards'. What its callers give it must outlive
// it, and so must everything that uses it be gone before.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sluice/base/log.h"
#include "sluice/base/metrics.h"
#include "sluice/cli/trainer_side.h"
#include "sluice/net/loop_lag.h"
#include "sluice/rollout/engine.h"
#include "sluice/trace/jsonl.h"

namespace sluice::cli {

// At most so many of the further attempts that are asked for are made when whoever answers could
// not.
inline constexpr int kPolicyRetries = 2;

// As many open files as this process may have: each connection is one.
void raise_descriptor_limit();

struct WiringOptions {
  size_t shards = 0;    // 0: as many as cores, at most 4
  std::string backend;  // its name; "" for none, and then there are no shards and no engine
  std::string traces;   // their directory
  gate::GateOptions gate;
  std::optional<TrainerSideOptions> trainer;
  // Who answers the rollouts of a shard, before its thread starts. None: the rollouts say.
  std::function<Result<rollout::PolicyChoice>(net::Shard& shard)> policy;
  rollout::EngineOptions engine;
  Metrics* metrics = nullptr;  // of shards and engine, if given
  Logger log;                  // goes to all parts
};

class Wiring {
 public:
  static Result<std::unique_ptr<Wiring>> make(WiringOptions options);
  ~Wiring();
  Wiring(const Wiring&) = delete;
  Wiring& operator=(const Wiring&) = delete;

  const gate::Handles& gate() const { return *gate_; }
  const TrainerSide* trainer() const { return trainer_.get(); }  // null if there is none
  rollout::Engine& engine() const { return *engine_; }
  const rollout::PolicyChoice& policy(const net::Shard& shard) const {
    return policies_[static_cast<size_t>(shard.index())];
  }

 private:
  Wiring() = default;
  Result<void> make_shards(const WiringOptions& options);

  std::vector<std::unique_ptr<net::Shard>> shards_;
  std::vector<std::unique_ptr<net::LoopLag>> lags_;
  std::vector<rollout::PolicyChoice> policies_;  // by shard
  std::unique_ptr<sandbox::Backend> backend_;
  std::optional<trace::JsonlRecorder> recorder_;
  std::optional<gate::Handles> gate_;
  std::unique_ptr<TrainerSide> trainer_;
  std::unique_ptr<rollout::Engine> engine_;
};

}  // namespace sluice::cli
