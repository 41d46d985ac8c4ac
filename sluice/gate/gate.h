// The gate: the server side of every agent's LLM endpoint. It parks each call until its policy or
// the trainer answers it, delivers the answer once, and keeps the books (outcomes, budgets, trace).
//
// Two handles with nothing in common: the Operator opens and closes rollouts and serves their
// listeners; the Trainer takes calls and answers them. Nothing that serves an agent can obtain the
// Trainer's.
//
// The rules of delivery, resends, admission and budgets are in docs/gate.md.
#pragma once

#include <future>

#include "sluice/gate/counters.h"
#include "sluice/gate/items.h"
#include "sluice/gate/options.h"
#include "sluice/gate/policy.h"
#include "sluice/net/shard.h"
#include "sluice/net/stream.h"
#include "sluice/trace/recorder.h"

namespace sluice::gate {

class Gate;
class BodyReader;
class EventLog;
class OpenRollout;
namespace http {
class SharedEndpoint;
}

// REQUIRES: every rollout is closed before the gate and its shards go.
class Operator {
 public:
  // kAlreadyExists if the id is open; kInvalidArgument if it is no id, there is no shard, or a tool
  // cannot be offered; kPermissionDenied for a tool that the gate does not allow. The rollout
  // admits nothing yet.
  Result<void> open(Registration registration);
  // Serves the rollout's endpoint on `listener`; its calls belong to this rollout by that alone.
  // kNotFound if the rollout is not open: the listener is closed then. On the rollout's shard, as
  // are all below.
  Result<void> serve(const RolloutId& id, std::unique_ptr<net::Listener> listener);
  // Nothing happens to an id that is not open, here and below.
  void admit(const RolloutId& id);
  // `why` is what its trainer is told with the end.
  void stop_admitting(const RolloutId& id, std::string_view why = kAgentEnded);
  // Cancels what is open, closes the rollout's listeners and connections, wakes whoever waits for
  // it. Returns when nothing of it runs any more; at once if it is being closed already.
  net::awaitable<void> close(RolloutId id);
  // What came of a rollout that was closed, by whoever knows: trainers who ask for closings, and
  // whoever asks for the rollout, are told so. Any thread.
  void closed(const RolloutId& id, trace::ResultSummary result);
  std::optional<Counters> counters(const RolloutId& id) const;
  // When its agent has ended. May take GateOptions' upstream_patience, if an upstream fails all
  // that time.
  net::awaitable<Answering> answering(RolloutId id) const;
  // Whoever waits for that waits no longer.
  void stop_asking(const RolloutId& id) const;
  // Returns when all is counted that is found out beside the loop: rewritten histories.
  net::awaitable<void> settled(RolloutId id) const;

 private:
  friend class Gate;
  friend class http::SharedEndpoint;
  explicit Operator(std::shared_ptr<Gate> gate) : gate_(std::move(gate)) {}
  std::shared_ptr<OpenRollout> find(const RolloutId& id) const;
  std::shared_ptr<Gate> gate_;
};

// Thread-safe, every member; blocks only where it says so. Sees the rollouts that were opened
// without a policy.
class Trainer {
 public:
  // Up to `max` items of any rollout, fairly over rollouts; blocks up to `wait` for the first.
  std::vector<Item> next_batch(size_t max, Duration wait);
  // The next item of one rollout; nothing if none came in time. kNotFound if it is not open and its
  // Ended was taken.
  Result<std::optional<Item>> next(const RolloutId& rollout, Duration wait);
  // Both, for a named trainer too. kExhausted for more names than anybody has.
  Result<std::vector<Item>> take(const TakeRequest& request, Duration wait);

  // The same without blocking: `done` is called once, on any thread and possibly before this
  // returns, with items as soon as there are any, with none if the take is cancelled first.
  using Taken = std::function<void(Result<std::vector<Item>>)>;
  using Waiting = std::shared_ptr<void>;  // a take in progress
  Waiting take(const TakeRequest& request, Taken done);
  void cancel(const Waiting& waiting);

  // Puts back what did not get to who took it, for the next take.
  void give_back(const std::vector<Item>& items);
  // The same for all that the named trainer holds; how much that was.
  size_t give_back(const std::string& taker);
  // The named trainer lives: what it holds is its own for another lease.
  void renew(const std::string& taker);
  // Some trainer lives, of whichever name. Taking, replying and renewing say so by themselves.
  void lives();
  // Puts back what silent trainers held, as every take does. Who uses neither calls it now and
  // then.
  void expire_leases();

  // Answers a call once. The future resolves when the call has ended and is recorded or could not
  // be: with its outcome, or why it is not. Or at once: kNotFound (no call of this gate's has that
  // id), kFailedPrecondition (it is answered or has ended), kInvalidArgument (the answer does not
  // fit, or is not of an origin that the rollout takes; the call stays open for another).
  using Reply = TrainerReply;
  std::future<Result<llm::Outcome>> reply(const CallId& call, Reply reply);
  // The same without a future.
  using Replied = gate::Replied;
  void reply(const CallId& call, Reply reply, Replied told);
  // The same for many, which is less work than one after the other.
  struct Given {
    CallId call;
    Reply reply;
    Replied told = {};
  };
  void reply(std::vector<Given> replies);

  // What comes next of the answer to a call that is being made; reply() then brings the whole,
  // which must begin with what the pieces said, also where answers are delivered whole. Errors as
  // reply(), and kTooLarge. `done` as `accepted`.
  void piece(const CallId& call, llm::Piece piece, std::function<void(Result<void>)> done = {});

  // A reply to the call came that could not even be read: it is counted as one that does not fit.
  void reject(const CallId& call, std::string why);

  // Answers a tool call once; errors as reply(). `done` as `accepted`.
  void reply_tool(const ToolCallId& call, ToolResult result,
                  std::function<void(Result<void>)> done);

  // Holds calls back from every take until resume(). What was taken may be answered.
  void pause();
  // Ends a pause, and says, if it has changed, under which version calls are answered from now on.
  // An answer that names no versions is taken to be of the one under which its call was handed out,
  // if that is still the current one. Cancels rollouts over their `max_version_lag`.
  void resume(std::optional<std::string> version = std::nullopt);
  TrainerState state() const;
  // Calls `told` once, on any thread: with the books of a rollout that is open, or was closed not
  // long ago; none for any other.
  void inspect(const RolloutId& rollout,
               std::function<void(std::shared_ptr<const Books>)> told) const;
  // What came of rollouts and waits for a named trainer who lives and asks for such.
  size_t closings() const;
  // What all rollouts of the gate did so far.
  Totals totals() const;
  // What happens at the gate, as it happens.
  EventLog& events() const;
  // Reads calls' bodies again, for loops that take items.
  BodyReader& bodies() const;

  // Ends what a rollout has open and refuses what else its agent asks, so that the agent ends.
  // False if it is not open.
  bool cancel(const RolloutId& rollout, std::string reason);
  // The same for every rollout whose first sampled answer is more than `versions` old.
  void cancel_stale(uint64_t versions);

 private:
  friend class Gate;
  explicit Trainer(std::shared_ptr<Gate> gate) : gate_(std::move(gate)) {}
  std::shared_ptr<Gate> gate_;
};

struct Handles {
  Operator for_operator;
  Trainer for_trainer;
};

Handles make_gate(GateOptions options);

}  // namespace sluice::gate
