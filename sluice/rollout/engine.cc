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

namespace sluice::rollout {
namespace {

using namespace std::chrono_literals;

constexpr Duration kMaxRetryPause = 1min;

// Whether another attempt could go otherwise. What this machine cannot do, or was asked wrongly, it
// cannot do the next time either.
bool may_pass(const RolloutResult& result) {
  if (result.error_kind != ErrorKind::kInfrastructure) return false;
  if (!result.report.error) return true;
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
  // One order from submit() to next(). What is below `rollout` is behind the lock.
  struct Task {
    OrderId id = 0;
    Order order;
    net::Shard* shard = nullptr;       // of the attempt that runs
    std::unique_ptr<Rollout> rollout;  // on that shard's thread only

    enum class Place : uint8_t { kQueued, kRetrying, kRunning } place = Place::kQueued;
    std::optional<std::string> cancelled;
    std::vector<FailedAttempt> failed_attempts;
    std::optional<RolloutResult> last;  // of an attempt that is to be made again
    Clock::time_point retry_at;
  };
  using TaskPtr = std::shared_ptr<Task>;

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
    retries_counter.emplace(metrics.counter("sluice_rollout_failed_attempts",
                                            "Attempts that failed for infrastructure reasons"));
  }

  // --- Behind the lock ---------------------------------------------------------------------------

  // Starts what may start, and asks to be called again when time alone will allow more.
  void pump() {
    const auto now = Clock::now();
    while (!retrying.empty() && retrying.begin()->first <= now) {
      const TaskPtr& task = tasks.at(retrying.begin()->second);
      retrying.erase(retrying.begin());
      task->place = Task::Place::kQueued;
      schedule.add_again(entry_of(*task));
    }
    while (ended.size() < options.untaken) {
      const auto entry = schedule.take(now);
      if (!entry) break;
      start(tasks.at(entry->id));
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

  static Schedule::Entry entry_of(const Task& task) {
    return {task.id, task.order.lane, task.order.batch, task.order.memory_bytes};
  }

  void start(const TaskPtr& task) {
    const size_t index =
        static_cast<size_t>(std::min_element(load.begin(), load.end()) - load.begin());
    ++load[index];
    task->place = Task::Place::kRunning;
    task->shard = parts.shards[index];
    task->shard->post(
        [self = shared_from_this(), task, index] { task->shard->spawn(run(self, task, index)); });
  }

  void conclude(const TaskPtr& task, std::optional<RolloutResult> result, std::string why) {
    Finished finished;
    finished.order = task->id;
    finished.name = task->order.name;
    finished.result = std::move(result);
    finished.why = std::move(why);
    finished.failed_attempts = std::move(task->failed_attempts);
    tasks.erase(task->id);
    ended.push_back(std::move(finished));
    ++finished_count;
    changed.notify_all();
  }

  // Ends one that does not run.
  void drop(const TaskPtr& task, const std::string& why) {
    if (task->place == Task::Place::kQueued) schedule.remove(task->id);
    retrying.erase({task->retry_at, task->id});
    auto last = std::move(task->last);
    conclude(task, std::move(last), why);
  }

  void cancel(const TaskPtr& task, const std::string& why) {
    if (task->cancelled) return;
    task->cancelled = why;
    if (task->place != Task::Place::kRunning) {
      drop(task, why);
      return;
    }
    task->shard->post([task, why] {
      if (task->rollout) task->rollout->cancel(why);
    });
  }

  std::vector<TaskPtr> all_tasks() const {
    std::vector<TaskPtr> all;
    for (const auto& [id, task] : tasks) all.push_back(task);
    return all;
  }

  // --- On a task's shard -------------------------------------------------------------------------

  static net::awaitable<void> run(std::shared_ptr<State> self, TaskPtr task, size_t index) {
    std::optional<RolloutResult> result;
    std::string failure;
    try {
      auto made = task->order.make(*task->shard);
      if (made) {
        RolloutOptions options = std::move(*made);
        self->watch_start(task, options);
        Rollout::Parts parts{*task->shard, self->parts.backend, self->parts.gate,
                             self->parts.recorder, self->parts.log};
        task->rollout = std::make_unique<Rollout>(parts, std::move(options));
        if (const auto why = self->cancelled(*task)) task->rollout->cancel(*why);
        result.emplace(co_await task->rollout->run());
      } else {
        failure = made.error().message;
      }
    } catch (const std::exception& e) {
      failure = fmt::format("a bug of Sluice's: {}", e.what());
    }
    task->rollout.reset();
    self->end(task, index, std::move(result), std::move(failure));
  }

  std::optional<std::string> cancelled(const Task& task) {
    const std::lock_guard lock(mutex);
    return task.cancelled;
  }

  // A rollout has started up when its agent has.
  void watch_start(const TaskPtr& task, RolloutOptions& options) {
    auto told = std::move(options.on_phase);
    options.on_phase = [state = this, id = task->id,
                        told = std::move(told)](std::string_view phase) {
      if (phase == "agent") {
        const std::lock_guard lock(state->mutex);
        state->schedule.started(id);
        state->pump();
      }
      if (told) told(phase);
    };
  }

  void end(const TaskPtr& task, size_t index, std::optional<RolloutResult> result,
           std::string failure) {
    if (!failure.empty()) {
      parts.log.error("engine", "a rollout could not be run",
                      {{"order", task->order.name}, {"why", failure}});
    }
    const std::lock_guard lock(mutex);
    --load[index];
    task->shard = nullptr;
    schedule.ended(task->id);
    if (result && result->error_kind == ErrorKind::kInfrastructure) {
      ++failed_attempts;
      if (++failed_in_row == options.give_up_after) give_up(result->error);
      if (retries_counter) retries_counter->add();
      task->failed_attempts.push_back({result->rollout, result->error, result->wall});
      const auto attempts = static_cast<int>(task->failed_attempts.size());
      if (attempts <= options.retries && may_pass(*result) && !task->cancelled && !stopped) {
        const Duration pause = options.retry_pause * (int64_t{1} << std::min(attempts - 1, 20));
        task->retry_at = Clock::now() + std::min(pause, kMaxRetryPause);
        task->place = Task::Place::kRetrying;
        retrying.emplace(task->retry_at, task->id);
        task->last = std::move(result);
        pump();
        return;
      }
    }
    if (result && result->error_kind != ErrorKind::kInfrastructure &&
        result->error_kind != ErrorKind::kCancelled) {
      failed_in_row = 0;
    }
    conclude(task, std::move(result), std::move(failure));
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
    for (const TaskPtr& task : all_tasks()) {
      if (task->place != Task::Place::kRunning) drop(task, why);
    }
    changed.notify_all();
  }

  const Parts parts;
  const EngineOptions options;

  mutable std::mutex mutex;
  std::condition_variable changed;  // `ended` or `tasks` did
  Schedule schedule;
  std::map<OrderId, TaskPtr> tasks;  // that have not ended
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
    state_->changed.wait(lock, [&] { return state_->tasks.empty(); });
  }
  // Nobody asks for the alarm any more; it dies where it lives.
  std::promise<void> gone;
  state_->parts.shards.front()->post([&] {
    state_->alarm.reset();
    gone.set_value();
  });
  gone.get_future().wait();
}

Result<OrderId> Engine::submit(Order order) {
  const std::lock_guard lock(state_->mutex);
  if (state_->drained) {
    return Error(ErrorCode::kFailedPrecondition, "the engine takes no more rollouts: it drains");
  }
  auto task = std::make_shared<State::Task>();
  task->id = state_->next_id;
  task->order = std::move(order);
  auto added = state_->schedule.add(State::entry_of(*task));
  if (!added) return std::move(added).error().within(task->order.name);
  ++state_->next_id;
  const OrderId id = task->id;
  state_->tasks.emplace(id, std::move(task));
  state_->pump();
  return id;
}

bool Engine::cancel(OrderId order, std::string why) {
  const std::lock_guard lock(state_->mutex);
  const auto found = state_->tasks.find(order);
  if (found == state_->tasks.end()) return false;
  const State::TaskPtr task = found->second;
  state_->cancel(task, why);
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
  for (const State::TaskPtr& task : state_->all_tasks()) state_->cancel(task, why);
}

std::optional<Finished> Engine::next(Duration wait) {
  std::unique_lock lock(state_->mutex);
  state_->changed.wait_until(lock, Deadline::in(wait).at(), [&] {
    return !state_->ended.empty() || (state_->drained && state_->tasks.empty());
  });
  if (state_->ended.empty()) return std::nullopt;
  Finished finished = std::move(state_->ended.front());
  state_->ended.pop_front();
  state_->pump();
  return finished;
}

bool Engine::done() const {
  const std::lock_guard lock(state_->mutex);
  return state_->drained && state_->tasks.empty() && state_->ended.empty();
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
