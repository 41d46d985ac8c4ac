#include "sluice/gate/gate.h"

#include <map>
#include <mutex>

#include "sluice/gate/http/serve.h"
#include "sluice/gate/open_rollout.h"

namespace sluice::gate {

// What both handles share.
class Gate {
 public:
  explicit Gate(GateOptions options) : core_(std::make_shared<Core>(std::move(options))) {}

  static Handles handles(GateOptions options) {
    auto gate = std::make_shared<Gate>(std::move(options));
    return {Operator(gate), Trainer(gate)};
  }

  Result<void> open(Registration registration) {
    if (!is_valid_id(registration.id.value)) {
      return Error(ErrorCode::kInvalidArgument,
                   "a rollout's id is 1 to 64 of letters, digits, '.', '_' and '-'");
    }
    if (registration.shard == nullptr) {
      return Error(ErrorCode::kInvalidArgument, "a rollout needs a shard to live on");
    }
    for (const llm::Dialect dialect : registration.dialects) {
      if (llm::find_codec(dialect) == nullptr) {
        return Error(ErrorCode::kUnsupported,
                     "the gate does not speak the dialect " + std::string(to_string(dialect)));
      }
    }
    const std::lock_guard lock(mutex_);
    if (rollouts_.contains(registration.id)) {
      return Error(ErrorCode::kAlreadyExists,
                   "rollout " + registration.id.value + " is open at the gate already");
    }
    auto& peeker = peekers_[registration.shard];
    if (!peeker) peeker = std::make_shared<json::Peeker>();
    const RolloutId id = registration.id;
    rollouts_[id] = std::make_shared<OpenRollout>(std::move(registration), core_, peeker);
    return {};
  }

  std::shared_ptr<OpenRollout> find(const RolloutId& id) const {
    const std::lock_guard lock(mutex_);
    const auto it = rollouts_.find(id);
    return it == rollouts_.end() ? nullptr : it->second;
  }

  void forget(const RolloutId& id) {
    const std::lock_guard lock(mutex_);
    rollouts_.erase(id);
  }

  Core& core() { return *core_; }

 private:
  const std::shared_ptr<Core> core_;
  mutable std::mutex mutex_;
  std::unordered_map<RolloutId, std::shared_ptr<OpenRollout>> rollouts_;
  // One for each shard: its buffers are too large for one each rollout. Used on the shard alone.
  std::map<net::Shard*, std::shared_ptr<json::Peeker>> peekers_;
};

Handles make_gate(GateOptions options) {
  return Gate::handles(std::move(options));
}

Result<void> Operator::open(Registration registration) {
  return gate_->open(std::move(registration));
}

Result<void> Operator::serve(const RolloutId& id, std::unique_ptr<net::Listener> listener) {
  const auto rollout = gate_->find(id);
  if (!rollout || rollout->closing()) {
    listener->close();
    return Error(ErrorCode::kNotFound,
                 "rollout " + id.value + " is not open at the gate: open it before it is served");
  }
  if (!rollout->endpoint()) rollout->endpoint() = http::make_endpoint(rollout);
  rollout->endpoint()->serve(std::move(listener));
  return {};
}

void Operator::admit(const RolloutId& id) {
  if (const auto rollout = gate_->find(id)) rollout->admit();
}

void Operator::stop_admitting(const RolloutId& id) {
  if (const auto rollout = gate_->find(id)) rollout->stop_admitting();
}

net::awaitable<void> Operator::close(RolloutId id) {
  const auto gate = gate_;
  const auto rollout = gate->find(id);
  if (!rollout) co_return;
  const bool closed = co_await rollout->close();
  if (closed) gate->forget(id);
}

std::optional<Counters> Operator::counters(const RolloutId& id) const {
  const auto rollout = gate_->find(id);
  if (!rollout) return std::nullopt;
  return rollout->counters();
}

std::vector<Item> Trainer::next_batch(size_t max, Duration wait) {
  return gate_->core().ready.next_batch(max, wait);
}

Result<std::optional<Item>> Trainer::next(const RolloutId& rollout, Duration wait) {
  return gate_->core().ready.next(rollout, wait);
}

std::future<Result<llm::Outcome>> Trainer::reply(const CallId& call,
                                                 std::variant<llm::Answer, llm::Refusal> reply) {
  auto pending = std::make_shared<PendingOutcome>();
  auto future = pending->future();
  if (!gate_->core().ids.is_ours(call)) {
    pending->resolve(Error(ErrorCode::kNotFound, "no call of this gate has that id"));
    return future;
  }
  const auto rollout = gate_->core().owners.find(call);
  if (!rollout) {
    pending->resolve(Error(ErrorCode::kFailedPrecondition, "the call has ended"));
    return future;
  }
  rollout->shard().post([rollout, call, reply = std::move(reply), pending]() mutable {
    rollout->reply(call, std::move(reply), std::move(pending));
  });
  return future;
}

}  // namespace sluice::gate
