#include "sluice/gate/gate.h"

#include <fmt/format.h>

#include <map>
#include <mutex>
#include <set>
#include <unordered_map>

#include "sluice/gate/http/endpoint.h"
#include "sluice/gate/open_rollout.h"
#include "sluice/llm/wire.h"

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
    std::set<std::string_view> names;
    for (const Tool& tool : registration.tools) {
      SLUICE_TRY_VOID(check_offered(tool));
      if (!names.insert(tool.name).second) {
        return Error(ErrorCode::kInvalidArgument,
                     "tool \"" + tool.name + "\": there are two of this name",
                     ErrorOrigin::kCaller);
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

  // The rollout of an open call, or of a tool's. The id is matched whole where it leads, so only
  // one that leads nowhere has its signature looked at: has its call ended, or was it never ours?
  Result<std::shared_ptr<CallOwner>> owner_of(const CallId& id, std::string_view what) const {
    if (auto owner = core_->owners.find(id)) return owner;
    if (core_->ids.is_ours(id)) {
      return Error(ErrorCode::kFailedPrecondition, fmt::format("the {} has ended", what));
    }
    return Error(ErrorCode::kNotFound, fmt::format("no {} of this gate has that id", what));
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

  // A copy: what is done with them may close some.
  std::vector<std::shared_ptr<OpenRollout>> all() const {
    const std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<OpenRollout>> out;
    out.reserve(rollouts_.size());
    for (const auto& [id, rollout] : rollouts_) out.push_back(rollout);
    return out;
  }

  Core& core() { return *core_; }

 private:
  Result<void> check_offered(const Tool& tool) const {
    const auto& allowed = core_->options.tool_names;
    if (!allowed.empty() && !allowed.contains(tool.name)) {
      return Error(ErrorCode::kPermissionDenied,
                   "tool " + tool.name + " is not among those that this gate allows",
                   ErrorOrigin::kCaller);
    }
    return check_tool(tool);
  }

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

std::shared_ptr<OpenRollout> Operator::find(const RolloutId& id) const {
  return gate_->find(id);
}

void Operator::admit(const RolloutId& id) {
  if (const auto rollout = gate_->find(id)) rollout->admit();
}

void Operator::stop_admitting(const RolloutId& id, std::string_view why) {
  if (const auto rollout = gate_->find(id)) rollout->stop_admitting(why);
}

net::awaitable<void> Operator::close(RolloutId id) {
  const auto gate = gate_;
  const auto rollout = gate->find(id);
  if (!rollout) co_return;
  const bool closed = co_await rollout->close();
  if (!closed) co_return;
  gate->core().closings.put(std::make_shared<const Books>(rollout->books()));
  gate->forget(id);
}

void Operator::closed(const RolloutId& id, trace::ResultSummary result) {
  const auto known = gate_->core().closings.find(id);
  if (!known) return;
  auto books = std::make_shared<Books>(*known);
  books->state = Books::State::kClosed;
  books->result = std::move(result);
  gate_->core().closings.put(books);
  gate_->core().ready.close(std::move(books));
}

std::optional<Counters> Operator::counters(const RolloutId& id) const {
  const auto rollout = gate_->find(id);
  if (!rollout) return std::nullopt;
  return rollout->counters();
}

net::awaitable<Answering> Operator::answering(RolloutId id) const {
  const auto rollout = gate_->find(id);
  if (!rollout) co_return Answering();
  co_return co_await rollout->outages().answering();
}

void Operator::stop_asking(const RolloutId& id) const {
  if (const auto rollout = gate_->find(id)) rollout->outages().stop_asking();
}

net::awaitable<void> Operator::settled(RolloutId id) const {
  const auto rollout = gate_->find(id);
  if (rollout) co_await rollout->settled();
}

std::vector<Item> Trainer::next_batch(size_t max, Duration wait) {
  TakeRequest request;
  request.max = max;
  return gate_->core().ready.take_within(request, wait).value_or(std::vector<Item>());
}

Result<std::optional<Item>> Trainer::next(const RolloutId& rollout, Duration wait) {
  TakeRequest request;
  request.rollout = rollout;
  SLUICE_TRY(std::vector<Item> items, gate_->core().ready.take_within(request, wait));
  if (items.empty()) return std::optional<Item>();
  return std::optional<Item>(std::move(items.front()));
}

Result<std::vector<Item>> Trainer::take(const TakeRequest& request, Duration wait) {
  return gate_->core().ready.take_within(request, wait);
}

Trainer::Waiting Trainer::take(const TakeRequest& request, Taken done) {
  return gate_->core().ready.take(request, ReadyQueue::How::kWait, std::move(done));
}

void Trainer::cancel(const Waiting& waiting) {
  gate_->core().ready.cancel(std::static_pointer_cast<ReadyQueue::Waiter>(waiting));
}

void Trainer::give_back(const std::vector<Item>& items) {
  gate_->core().ready.give_back(items);
}

size_t Trainer::give_back(const std::string& taker) {
  return gate_->core().ready.give_back(taker);
}

void Trainer::renew(const std::string& taker) {
  gate_->core().ready.renew(taker);
}

void Trainer::lives() {
  gate_->core().ready.trainer_lives();
}

void Trainer::expire_leases() {
  gate_->core().ready.expire_leases();
}

std::future<Result<llm::Outcome>> Trainer::reply(const CallId& call, Reply reply) {
  const auto promise = std::make_shared<std::promise<Result<llm::Outcome>>>();
  auto future = promise->get_future();
  Replied told;
  told.ended = [promise](Result<llm::Outcome> outcome) {
    promise->set_value(std::move(outcome));
  };
  this->reply(call, std::move(reply), std::move(told));
  return future;
}

void Trainer::reply(const CallId& call, Reply reply, Replied told) {
  std::vector<Given> one;
  one.push_back({call, std::move(reply), std::move(told)});
  this->reply(std::move(one));
}

void Trainer::reply(std::vector<Given> replies) {
  struct Work {
    std::shared_ptr<CallOwner> owner;
    Given given;
    std::shared_ptr<PendingOutcome> pending;
  };
  std::map<net::Shard*, std::vector<Work>> by_shard;
  lives();
  for (Given& given : replies) {
    auto pending = std::make_shared<PendingOutcome>(std::move(given.told));
    auto owner = gate_->owner_of(given.call, "call");
    if (!owner) {
      pending->resolve(std::move(owner).error());
      continue;
    }
    net::Shard* const shard = &(*owner)->shard();
    by_shard[shard].push_back({std::move(*owner), std::move(given), std::move(pending)});
  }
  for (auto& [shard, work] : by_shard) {
    shard->post([work = std::move(work)]() mutable {
      for (Work& each : work) {
        each.owner->reply(each.given.call, std::move(each.given.reply), std::move(each.pending));
      }
    });
  }
}

void Trainer::piece(const CallId& call, llm::Piece piece, std::function<void(Result<void>)> done) {
  if (!done)
    done = [](Result<void>) {
    };
  lives();
  const auto found = gate_->owner_of(call, "call");
  if (!found) return done(found.error());
  const auto& owner = *found;
  owner->shard().post([owner, call, piece = std::move(piece), done = std::move(done)] {
    done(owner->piece(call, piece));
  });
}

void Trainer::reject(const CallId& call, std::string why) {
  const auto found = gate_->owner_of(call, "call");
  if (!found) return;
  const auto& owner = *found;
  owner->shard().post([owner, call, why = std::move(why)] { owner->reject(call, why); });
}

void Trainer::reply_tool(const ToolCallId& call, ToolResult result,
                         std::function<void(Result<void>)> done) {
  lives();
  const auto found = gate_->owner_of(call, "tool call");
  if (!found) return done(found.error());
  const auto& owner = *found;
  owner->shard().post([owner, call, result = std::move(result), done = std::move(done)]() mutable {
    done(owner->reply_tool(call, std::move(result)));
  });
}

void Trainer::pause() {
  gate_->core().ready.pause();
  gate_->core().events.add("paused", "{}");
}

void Trainer::resume(std::optional<std::string> version) {
  Core& core = gate_->core();
  const uint64_t before = core.ready.state().versions;
  core.ready.resume(std::move(version));
  const TrainerState now = core.ready.state();
  if (core.events.wanted()) {
    core.events.add("resumed", llm::wire::object([&](llm::wire::Members& members) {
                      members.text("version", now.version);
                    }));
  }
  if (now.versions == before) return;
  for (const auto& rollout : gate_->all()) {
    const auto lag = rollout->registration().max_version_lag;
    if (!lag) continue;
    rollout->shard().post([rollout, lag = *lag] { rollout->cancel_if_older(lag); });
  }
}

TrainerState Trainer::state() const {
  return gate_->core().ready.state();
}

void Trainer::inspect(const RolloutId& rollout,
                      std::function<void(std::shared_ptr<const Books>)> told) const {
  const auto open = gate_->find(rollout);
  if (!open) return told(gate_->core().closings.find(rollout));
  open->shard().post(
      [open, told = std::move(told)] { told(std::make_shared<const Books>(open->books())); });
}

size_t Trainer::closings() const {
  return gate_->core().ready.closings();
}

Totals Trainer::totals() const {
  return gate_->core().totals.read();
}

BodyReader& Trainer::bodies() const {
  return gate_->core().bodies;
}

EventLog& Trainer::events() const {
  return gate_->core().events;
}

bool Trainer::cancel(const RolloutId& rollout, std::string reason) {
  const auto found = gate_->find(rollout);
  if (!found) return false;
  found->shard().post([found, reason = std::move(reason)] { found->cancel(reason); });
  return true;
}

void Trainer::cancel_stale(uint64_t versions) {
  for (const auto& rollout : gate_->all()) {
    rollout->shard().post([rollout, versions] { rollout->cancel_if_older(versions); });
  }
}

}  // namespace sluice::gate
