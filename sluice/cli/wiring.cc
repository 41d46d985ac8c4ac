#include "sluice/cli/wiring.h"

#include <sys/resource.h>

#include <algorithm>
#include <thread>

#include "sluice/cli/backends.h"

namespace sluice::cli {

void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

Result<std::unique_ptr<Wiring>> Wiring::make(WiringOptions options) {
  std::unique_ptr<Wiring> made(new Wiring());
  if (!options.backend.empty()) {
    SLUICE_TRY_VOID(made->make_shards(options));
    SLUICE_TRY(made->backend_, make_backend(options.backend, options.log));
  }
  made->recorder_.emplace(options.traces, options.log);
  options.gate.log = options.log;
  const size_t body_bytes = options.gate.body_bytes;
  made->gate_ = gate::make_gate(std::move(options.gate));
  if (options.trainer) {
    options.trainer->recorder = &*made->recorder_;
    options.trainer->log = options.log;
    options.trainer->body_bytes = body_bytes;
    SLUICE_TRY(made->trainer_, TrainerSide::start(*made->gate_, std::move(*options.trainer)));
  }
  if (made->backend_) {
    std::vector<net::Shard*> shards;
    for (const auto& shard : made->shards_) shards.push_back(shard.get());
    made->engine_ = std::make_unique<rollout::Engine>(
        rollout::Engine::Parts{std::move(shards), *made->backend_, made->gate_->for_operator,
                               *made->recorder_, options.log, options.metrics},
        options.engine);
  }
  return made;
}

Result<void> Wiring::make_shards(const WiringOptions& options) {
  const size_t count = options.shards > 0
                           ? options.shards
                           : std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 4);
  for (size_t i = 0; i < count; ++i) {
    auto& shard = shards_.emplace_back(std::make_unique<net::Shard>(static_cast<int>(i)));
    if (options.metrics != nullptr) {
      lags_.push_back(std::make_unique<net::LoopLag>(
          *shard, options.metrics->gauge("sluice_loop_lag_seconds", "How late a shard's loop runs",
                                         {{"shard", std::to_string(i)}})));
    }
    if (options.policy) {
      SLUICE_TRY(auto policy, options.policy(*shard));
      policies_.push_back(std::move(policy));
    }
  }
  for (const auto& shard : shards_) shard->start();
  return {};
}

Wiring::~Wiring() {
  engine_.reset();
  trainer_.reset();
  gate_.reset();
  recorder_.reset();
  backend_.reset();
  // The policies go when nothing runs on their shards any more, and before these.
  for (const auto& shard : shards_) shard->stop();
}

}  // namespace sluice::cli
