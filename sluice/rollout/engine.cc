#include "sluice/rollout/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <future>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "sluice/base/core/check.h"
#include "sluice/base/core/defer.h"
#include "sluice/net/wait.h"

namespace sluice::rollout {
namespace {

using namespace std::chrono_literals;

constexpr Duration kMaxRetryPause = 1min;

// Whether another attempt could go otherwise. What this machine cannot do, or was asked wrongly, it
// cannot do the next time either.
bool may_pass(const RolloutResult& result) {
  if (result.error_kind == ErrorKind::kPolicy || !result.report.error) return true;
  switch (result.report.error->code) {
    case ErrorCode::kUnsupported:
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kPermissionDenied:
    case ErrorCode::kFailedPrecondition:
    case ErrorCode::kTooLarge:
      return false;
    default:
      return true;
  }
}

}  // namespace

struct Engine::State : std::enable_shared_from_this<Engine::State> {
  // Whoever awaits an order's end, on its shard.
  struct Awaiting {
    explicit Awaiting(net::Shard* h) : here(h) {}
    net::Shard* const here;
    net::Signal came;
    std::optional<Finished> finished;
  };

  // One order from submit() to its end. What is below `rollout` is behind the lock.
  struct Ordered {
    OrderId id = 0;
    Order order;
    std::shared_ptr<Awaiting> awaiting;  // none: its end goes to next()
    net::Shard* shard = nullptr;         // of the attempt that runs
    // On that shard's thread only: what it is doing.
    net::TaskGroup* readying = nullptr;
    std::unique_ptr<Rollout> rollout;

    enum class Place : uint8_t { kQueued, kRetrying, kRunning } place = Place::kQueued;
    std::optional<std::string> cancelled;
    std::vector<FailedAttempt> failed_attempts;
    std::optional<RolloutResult> last;  // of an attempt that is to be made again
    Clock::time_point retry_at;
  };
  using OrderedPtr = std::shared_ptr<Ordered>;

  State(Parts p, EngineOptions o)
      : parts(std::move(p)),
        options(o),
        schedule(options.limits),
        load(parts.shards.size(), 0),
        alarm(std::make_unique<net::Wheel::Timer>(parts.shards.front()->wheel())) {
    if (parts.metrics == nullptr) return;
    Metrics& metrics = *parts.metrics;
    queued_gauge.emplace(metrics.gauge("sluice_rollouts_queued", "Rollouts that wait to start"));
    running_gauge.emplace(metrics.gauge("sluice_rollouts_running", "Rollouts that run"));
    retries_counter.emplace(
        metrics.counter("sluice_rollout_failed_attempts",
                        "Attempts that failed for infrastructure's sake or the policy's"));
  }

  Result<OrderId> submit(Order order, std::shared_ptr<Awaiting> awaiting) {
    const auto ordered = std::make_shared<Ordered>();
    ordered->order = std::move(order);
    ordered->awaiting = std::move(awaiting);
    auto waits = ordered->order.waits;
    {
      const std::lock_guard lock(mutex);
      if (drained) {
        return Error(ErrorCode::kFailedPrecondition,
                     "the engine takes no more rollouts: it drains");
      }
      ordered->id = next_id;
      auto added = schedule.add(entry_of(*ordered));
      if (!added) return std::move(added).error().within(ordered->order.name);
      ++next_id;
      orders.emplace(ordered->id, ordered);
      pump();
      if (ordered->place == Ordered::Place::kRunning) waits = nullptr;
    }
    if (waits) waits();
    return ordered->id;
  }

  // --- Behind the lock ---------------------------------------------------------------------------

  // Starts what may start, and asks to be called again when time alone will allow more.
  void pump() {
    const auto now = Clock::now();
    while (!retrying.empty() && retrying.begin()->first <= now) {
      const OrderedPtr& ordered = orders.at(retrying.begin()->second);
      retrying.erase(retrying.begin());
      ordered->place = Ordered::Place::kQueued;
      schedule.add_again(entry_of(*ordered));
    }
    while (ended.size() < options.untaken) {
      const auto entry = schedule.take(now);
      if (!entry) break;
      start(orders.at(entry->id));
    }
    Deadline wake = ended.size() < options.untaken ? schedule.next_try() : Deadline();
    if (!retrying.empty()) wake = wake.earlier(Deadline(retrying.begin()->first));
    wake_at(wake);
    if (queued_gauge) queued_gauge->set(static_cast<double>(schedule.queued()));
    if (running_gauge) running_gauge->set(static_cast<double>(schedule.running()));
  }

  void wake_at(Deadline wake) {
    if (wake == armed) return;
    armed = wake;
    parts.shards.front()->post([self = shared_from_this(), wake] {
      if (!self->alarm) return;
      self->alarm->arm(wake, [state = self.get()] {
        const std::lock_guard lock(state->mutex);
        state->armed = Deadline();
        state->pump();
      });
    });
  }

  static Schedule::Entry entry_of(const Ordered& ordered) {
    return {ordered.id, ordered.order.lane, ordered.order.batch, ordered.order.memory_bytes};
  }

  void start(const OrderedPtr& ordered) {
    const size_t index =
        static_cast<size_t>(std::min_element(load.begin(), load.end()) - load.begin());
    ++load[index];
    ordered->place = Ordered::Place::kRunning;
    ordered->shard = parts.shards[index];
    ordered->shard->post([self = shared_from_this(), ordered, index] {
      ordered->shard->spawn(run(self, ordered, index));
    });
  }

  static void tell(const std::shared_ptr<Awaiting>& awaiting, Finished finished) {
    auto shared = std::make_shared<Finished>(std::move(finished));
    awaiting->here->post([awaiting, shared] {
      awaiting->finished = std::move(*shared);
      awaiting->came.notify();
    });
  }

  void conclude(const OrderedPtr& ordered, std::optional<RolloutResult> result, std::string why) {
    Finished finished;
    finished.order = ordered->id;
    finished.name = ordered->order.name;
    finished.result = std::move(result);
    finished.why = std::move(why);
    finished.failed_attempts = std::move(ordered->failed_attempts);
    orders.erase(ordered->id);
    ++finished_count;
    if (ordered->awaiting) {
      tell(ordered->awaiting, std::move(finished));
    } else {
      ended.push_back(std::move(finished));
    }
    changed.notify_all();
  }

  // Ends one that does not run.
  void drop(const OrderedPtr& ordered, const std::string& why) {
    if (ordered->place == Ordered::Place::kQueued) schedule.remove(ordered->id);
    retrying.erase({ordered->retry_at, ordered->id});
    auto last = std::move(ordered->last);
    conclude(ordered, std::move(last), why);
  }

  void cancel(const OrderedPtr& ordered, const std::string& why) {
    if (ordered->cancelled) return;
    ordered->cancelled = why;
    if (ordered->place != Ordered::Place::kRunning) {
      drop(ordered, why);
      return;
    }
    ordered->shard->post([ordered, why] {
      if (ordered->readying != nullptr) ordered->readying->cancel();
      if (ordered->rollout) ordered->rollout->cancel(why);
    });
  }

  std::vector<OrderedPtr> all_orders() const {
    std::vector<OrderedPtr> all;
    for (const auto& [id, ordered] : orders) all.push_back(ordered);
    return all;
  }

  // --- On an order's shard -----------------------------------------------------------------------

  static net::awaitable<void> run(std::shared_ptr<State> self, OrderedPtr ordered, size_t index) {
    std::optional<RolloutResult> result;
    std::string failure;
    try {
      auto made = co_await make(self.get(), ordered);
      if (made) {
        RolloutOptions options = std::move(*made);
        options.name = ordered->order.name;
        self->watch_start(ordered, options);
        Rollout::Parts parts{*ordered->shard, self->parts.backend, self->parts.gate,
                             options.recorder ? *options.recorder : self->parts.recorder,
                             self->parts.log};
        ordered->rollout = std::make_unique<Rollout>(parts, std::move(options));
        if (const auto why = self->cancelled(*ordered)) ordered->rollout->cancel(*why);
        result.emplace(co_await ordered->rollout->run());
      } else {
        failure = made.error().message;
      }
    } catch (const std::exception& e) {
      failure = fmt::format("a bug of Sluice's: {}", e.what());
    }
    ordered->rollout.reset();
    self->end(ordered, index, std::move(result), std::move(failure));
  }

  static net::awaitable<Result<RolloutOptions>> make(State* self, OrderedPtr ordered) {
    if (ordered->order.ready) {
      if (const auto why = self->cancelled(*ordered)) {
        co_return Error(ErrorCode::kCancelled, *why, ErrorOrigin::kCaller);
      }
      // A group of its own, so that it alone is cancelled: a rollout has better ways.
      std::optional<Result<void>> ready;
      net::TaskGroup group(ordered->shard->executor());
      ordered->readying = &group;
      group.spawn(get_ready(ordered, &ready));
      const Defer done([&] { ordered->readying = nullptr; });
      co_await group.join();
      if (!*ready) co_return std::move(*ready).error();
    }
    co_return ordered->order.make(*ordered->shard);
  }

  static net::awaitable<void> get_ready(OrderedPtr ordered, std::optional<Result<void>>* ready) {
    auto waiting = ordered->order.ready(ordered->id);
    ready->emplace(co_await std::move(waiting));
  }

  std::optional<std::string> cancelled(const Ordered& ordered) {
    const std::lock_guard lock(mutex);
    return ordered.cancelled;
  }

  // A rollout has started up when its agent has.
  void watch_start(const OrderedPtr& ordered, RolloutOptions& options) {
    auto told = std::move(options.on_phase);
    options.on_phase = [state = this, id = ordered->id,
                        told = std::move(told)](std::string_view phase) {
      if (phase == "agent") {
        const std::lock_guard lock(state->mutex);
        state->schedule.started(id);
        state->pump();
      }
      if (told) told(phase);
    };
  }

  void end(const OrderedPtr& ordered, size_t index, std::optional<RolloutResult> result,
           std::string failure) {
    if (!failure.empty() && !cancelled(*ordered)) {
      parts.log.error("engine", "a rollout could not be run",
                      {{"order", ordered->order.name}, {"why", failure}});
    }
    const std::lock_guard lock(mutex);
    --load[index];
    ordered->shard = nullptr;
    schedule.ended(ordered->id);
    if (result && is_failed_attempt(result->error_kind)) {
      const ErrorKind kind = result->error_kind;
      ++failed_attempts;
      if (++failed_in_row == options.give_up_after) give_up(result->error);
      if (retries_counter) retries_counter->add();
      auto& failed = ordered->failed_attempts;
      failed.push_back({result->rollout, kind, result->error, result->wall});
      const auto attempts =
          static_cast<int>(std::ranges::count(failed, kind, &FailedAttempt::kind));
      const int retries = kind == ErrorKind::kPolicy ? options.policy_retries : options.retries;
      if (attempts <= retries && may_pass(*result) && !ordered->cancelled && !stopped) {
        const Duration pause = options.retry_pause * (int64_t{1} << std::min(attempts - 1, 20));
        ordered->retry_at = Clock::now() + std::min(pause, kMaxRetryPause);
        ordered->place = Ordered::Place::kRetrying;
        retrying.emplace(ordered->retry_at, ordered->id);
        ordered->last = std::move(result);
        pump();
        return;
      }
    }
    if (result && !is_failed_attempt(result->error_kind) &&
        result->error_kind != ErrorKind::kCancelled) {
      failed_in_row = 0;
    }
    conclude(ordered, std::move(result), std::move(failure));
    pump();
  }

  void give_up(const std::string& error) {
    gave_up = fmt::format("gave up after {} failed attempts in a row, the last: {}", failed_in_row,
                          error);
    parts.log.error("engine", "nothing starts any more", {{"why", gave_up}});
    stop(gave_up);
  }

  void stop(const std::string& why) {
    drained = stopped = true;
    for (const OrderedPtr& ordered : all_orders()) {
      if (ordered->place != Ordered::Place::kRunning) drop(ordered, why);
    }
    changed.notify_all();
  }

  const Parts parts;
  const EngineOptions options;

  mutable std::mutex mutex;
  std::condition_variable changed;  // `ended` or `orders` did
  Schedule schedule;
  std::map<OrderId, OrderedPtr> orders;  // that have not ended
  std::set<std::pair<Clock::time_point, OrderId>> retrying;
  std::deque<Finished> ended;
  std::vector<size_t> load;  // rollouts, by shard
  OrderId next_id = 1;
  uint64_t finished_count = 0;
  uint64_t failed_attempts = 0;
  size_t failed_in_row = 0;
  std::string gave_up;
  bool drained = false;
  bool stopped = false;  // nothing more starts
  Deadline armed;        // what the alarm was last asked for

  // On the first shard's thread.
  std::unique_ptr<net::Wheel::Timer> alarm;

  std::optional<Metrics::Gauge> queued_gauge, running_gauge;
  std::optional<Metrics::Counter> retries_counter;
};

Engine::Engine(Parts parts, EngineOptions options) {
  CHECK(!parts.shards.empty());
  state_ = std::make_shared<State>(std::move(parts), options);
}

Engine::~Engine() {
  for (const net::Shard* shard : state_->parts.shards) CHECK(!shard->on_thread());
  cancel_all("the engine ends");
  {
    std::unique_lock lock(state_->mutex);
    state_->changed.wait(lock, [&] { return state_->orders.empty(); });
  }
  // Nobody asks for the alarm any more; it dies where it lives.
  std::promise<void> gone;
  state_->parts.shards.front()->post([&] {
    state_->alarm.reset();
    gone.set_value();
  });
  gone.get_future().wait();
}

const Engine::Parts& Engine::parts() const {
  return state_->parts;
}
const EngineOptions& Engine::options() const {
  return state_->options;
}

Result<OrderId> Engine::submit(Order order) {
  return state_->submit(std::move(order), nullptr);
}

net::awaitable<Result<Finished>> Engine::run(net::Shard* here, Order order,
                                             std::string if_cancelled) {
  const auto awaiting = std::make_shared<State::Awaiting>(here);
  SLUICE_CO_TRY(const OrderId id, state_->submit(std::move(order), awaiting));
  while (!awaiting->finished) {
    const auto waited = co_await net::wait_for(&awaiting->came);
    if (!waited) cancel(id, if_cancelled);
  }
  co_return std::move(*awaiting->finished);
}

bool Engine::cancel(OrderId order, std::string why) {
  const std::lock_guard lock(state_->mutex);
  const auto found = state_->orders.find(order);
  if (found == state_->orders.end()) return false;
  const State::OrderedPtr ordered = found->second;
  state_->cancel(ordered, why);
  state_->pump();  // it may have been the one that all others waited behind
  return true;
}

void Engine::drain() {
  const std::lock_guard lock(state_->mutex);
  state_->drained = true;
  state_->changed.notify_all();
}

void Engine::drain_now(std::string why) {
  const std::lock_guard lock(state_->mutex);
  state_->stop(why);
}

void Engine::cancel_all(std::string why) {
  drain_now(why);
  const std::lock_guard lock(state_->mutex);
  for (const State::OrderedPtr& ordered : state_->all_orders()) state_->cancel(ordered, why);
}

std::optional<Finished> Engine::next(Duration wait) {
  std::unique_lock lock(state_->mutex);
  state_->changed.wait_until(lock, Deadline::in(wait).at(), [&] {
    return !state_->ended.empty() || (state_->drained && state_->orders.empty());
  });
  if (state_->ended.empty()) return std::nullopt;
  Finished finished = std::move(state_->ended.front());
  state_->ended.pop_front();
  state_->pump();
  return finished;
}

bool Engine::done() const {
  const std::lock_guard lock(state_->mutex);
  return state_->drained && state_->orders.empty() && state_->ended.empty();
}

Engine::Status Engine::status() const {
  const std::lock_guard lock(state_->mutex);
  Status status;
  status.queued = state_->schedule.queued();
  status.retrying = state_->retrying.size();
  status.running = state_->schedule.running();
  status.starting = state_->schedule.starting();
  status.untaken = state_->ended.size();
  status.finished = state_->finished_count;
  status.failed_attempts = state_->failed_attempts;
  status.memory_bytes = state_->schedule.memory_bytes();
  status.gave_up = state_->gave_up;
  return status;
}

}  // namespace sluice::rollout
