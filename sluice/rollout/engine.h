// Engine: the one way to run rollouts, as many at once as it may, on shards.
//
//   Engine engine(parts, options);
//   engine.submit(order);                    // any number of times, from any thread
//   engine.drain();                          // no more will come
//   while (!engine.done()) {
//     if (auto finished = engine.next(1s)) ...   // in the order in which they end
//   }
//
// or, in a coroutine on any shard, which is cancelled with its rollout:
//
//   auto finished = co_await engine.run(&shard, std::move(order), "the call was cancelled");
//
// Which order starts next is schedule.h's affair. An attempt that failed for infrastructure
// reasons, or because whoever answers could not, is made again within a bound of its kind; such
// attempts are listed beside the result and counted apart, and are never the agent's or the task's
// failure. What never ran has no result at all.
//
// Thread-safe. Each rollout lives on one of the shards for life; its options are made there. The
// engine's own state is behind one lock, held for moments only.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sluice/base/metrics.h"
#include "sluice/rollout/rollout.h"
#include "sluice/rollout/schedule.h"

namespace sluice::rollout {

struct EngineOptions {
  ScheduleLimits limits;
  // Further attempts when one failed for infrastructure reasons, and when whoever answers could
  // not.
  int retries = 2;
  int policy_retries = 2;
  Duration retry_pause = std::chrono::seconds(1);  // before the first of them; doubled each time
  // After so many failed attempts in a row, of whichever rollouts, nothing starts any more: what is
  // broken then is not mended by using up what waits. 0: go on for ever.
  size_t give_up_after = 100;
  // Results that nobody took hold back further starts.
  size_t untaken = 1000;
};

using OrderId = uint64_t;

// Its functions are called on the shard of an attempt, one of the engine's, but for `waits`.
struct Order {
  std::string name;   // the submitter's; comes back with the end
  std::string lane;   // lanes take turns: the task
  std::string batch;  // a group; "" if none
  // What it is reckoned to need of the engine's memory budget: its sandbox's limit.
  uint64_t memory_bytes = 0;
  // Called by the submitter's thread before submit() returns, if the order does not start at once.
  std::function<void()> waits;
  // What each attempt waits for before it is made, in its place among those that run: an agent to
  // be installed, a trainer to come. Cancelled with the order. Its error is the end of the order.
  std::function<net::awaitable<Result<void>>(OrderId order)> ready;
  // Called for each attempt, which is to have an id of its own. REQUIRES: it is there.
  std::function<Result<RolloutOptions>(net::Shard& shard)> make;
};

// An attempt that says nothing about agent or task.
struct FailedAttempt {
  RolloutId rollout;
  ErrorKind kind = ErrorKind::kInfrastructure;  // or kPolicy
  std::string error;
  Duration wall{};
};

struct Finished {
  OrderId order = 0;
  std::string name;
  // Of its last attempt. None: it was never run; `why` says so.
  std::optional<RolloutResult> result;
  std::string why;
  // In order; if the result is of such a kind, it is the last of these as well.
  std::vector<FailedAttempt> failed_attempts;
};

class Engine {
 public:
  // All must outlive the engine. The shards run on threads of their own.
  struct Parts {
    std::vector<net::Shard*> shards;
    sandbox::Backend& backend;
    gate::Operator& gate;
    trace::Recorder& recorder;
    Logger log;
    Metrics* metrics = nullptr;  // sluice_rollouts_*, if given
  };

  struct Status {
    size_t queued = 0;
    size_t retrying = 0;  // wait for their next attempt
    size_t running = 0;   // those that start included
    size_t starting = 0;
    size_t untaken = 0;  // have ended; next() gives them
    uint64_t finished = 0;
    uint64_t failed_attempts = 0;
    uint64_t memory_bytes = 0;  // that running ones are reckoned to need
    std::string gave_up;        // why nothing starts any more; "" while all is well
  };

  Engine(Parts parts, EngineOptions options);
  // Cancels what is left and waits for its end. REQUIRES: not on a shard's thread.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const Parts& parts() const;
  const EngineOptions& options() const;

  // Its end comes out of next(). kTooLarge and kExhausted as Schedule::add; kFailedPrecondition
  // after drain().
  Result<OrderId> submit(Order order);
  // The same, but its end is awaited here, on the shard `here`, which may be any, and does not come
  // out of next(). If the caller is cancelled, so is the order, for that reason; its end is waited
  // for all the same.
  net::awaitable<Result<Finished>> run(net::Shard* here, Order order, std::string if_cancelled);
  // Ends it wherever it is; its end is told as that of any other. False if it has ended.
  bool cancel(OrderId order, std::string why);
  // No more will be submitted; what was is run.
  void drain();
  // drain(), and nothing more starts: what waits comes out without a result.
  void drain_now(std::string why);
  // drain_now(), and what runs is cancelled.
  void cancel_all(std::string why);

  // The next end, in the order in which they happen; none if there was none in time, or done().
  std::optional<Finished> next(Duration wait);
  // Drained, everything ended and everything taken.
  bool done() const;
  Status status() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace sluice::rollout
