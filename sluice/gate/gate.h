// The gate: the server side of every agent's LLM endpoint. It parks each call until its policy or
// the trainer answers it, delivers the answer once, and keeps the books (outcomes, budgets, trace).
//
// Two handles with nothing in common: the Operator opens and closes rollouts and serves their
// listeners; the Trainer takes calls and answers them. Nothing that serves an agent can obtain the
// Trainer's.
//
// The rules of delivery, resends, admission and budgets are in docs/gate.md.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "sluice/base/core/deadline.h"
#include "sluice/base/core/result.h"
#include "sluice/base/id.h"
#include "sluice/base/log.h"
#include "sluice/gate/policy.h"
#include "sluice/gate/tools.h"
#include "sluice/llm/call.h"
#include "sluice/net/shard.h"
#include "sluice/net/stream.h"
#include "sluice/trace/recorder.h"

namespace sluice::gate {

// Limits of one rollout; 0 is no limit. What is over one of them is refused with the status that
// ends the agent.
struct Budget {
  uint64_t calls = 500;          // admitted in all
  uint32_t open_calls = 16;      // at once
  double calls_per_second = 20;  // sustained, with a burst of one second's worth
  uint64_t tokens = 0;           // of delivered answers, prompts included, as far as usage tells
  uint64_t bytes = 0;            // of requests and answers
  Duration time{};               // from admit() on; what is open then is refused too
};

// Limits of all rollouts of a gate together; 0 is no limit.
struct TotalBudget {
  uint64_t calls = 0;
  uint32_t open_calls = 0;      // over it an agent is told to come again: 503
  double calls_per_second = 0;  // as well
  uint64_t tokens = 0;
  uint64_t bytes = 0;
  Duration time{};  // from the first admit() of any rollout on; what is open then is refused too
};

// How a request is recognised as a resend of an earlier one.
struct ResendRules {
  // An equal request this long after a delivery is taken for a resend; 0 turns that off.
  Duration window = std::chrono::seconds(60);
  // How long a call whose agent hung up stays open, and answerable, for the agent to come back for
  // it (agents do in 0.2 to 40 s); 0 ends it at once. An answer is kept beyond that.
  Duration grace = std::chrono::seconds(60);
  // Top-level fields of the body that differ between resends and are left out of the digest.
  std::vector<std::string> ignore_fields;
};

// Headers by which an agent names its session and a sub-agent's parent session; "" if it has none.
struct SessionHeaders {
  std::string session;
  std::string parent;
};

// Which calls are not the main trajectory; the first rule that matches decides.
struct PurposeRule {
  llm::Purpose purpose = llm::Purpose::kMain;
  std::optional<bool> has_tools;
  std::optional<bool> has_parent_session;
  std::string system_contains;
  // If set, the gate answers such calls itself with this text (Origin::kCanned).
  std::optional<std::string> canned;
};

// Which answers are taken. Only what was sampled is ever trainable, so what is said to be sampled
// has to come with its token ids and logprobs.
struct OriginRule {
  enum class Tokens : uint8_t { kRequired, kWaived };
  enum class Accept : uint8_t { kAny, kSampledOnly };
  Tokens tokens = Tokens::kRequired;
  Accept accept = Accept::kAny;
};

// When an agent that asked for a stream gets what an answer says. Tool calls, the finish reason and
// the usage always come with the end.
enum class AnswerDelivery : uint8_t {
  kWhole,  // at once, when it is complete: a stream that breaks then leaves nothing half-said
  // Its reasoning and text as they are made. Agents keep what they got of an answer that was never
  // completed, and some say it in later requests.
  kIncremental,
};

// Whether a rollout's tools are also put into the requests of its agent, as whoever answers sees
// them, where an agent does not offer them itself.
enum class ToolsInRequests : uint8_t { kAsSent, kAdded };

struct Registration {
  RolloutId id;
  net::Shard* shard = nullptr;  // the rollout lives there
  std::set<llm::Dialect> dialects{llm::Dialect::kChat};
  Budget budget;
  ResendRules resend;
  SessionHeaders session_headers;
  std::vector<PurposeRule> purposes;
  std::vector<std::string> models{"policy"};  // what the agent sees in a list of models
  std::shared_ptr<Policy> policy;             // none: calls park for the trainer
  OriginRule origins;
  AnswerDelivery delivery = AnswerDelivery::kWhole;
  std::vector<Tool> tools;
  ToolsInRequests tools_in_requests = ToolsInRequests::kAsSent;
  // Trainer's rollouts: cancelled when so many versions have come since its first answer.
  std::optional<uint64_t> max_version_lag;
  // A JSON object that says what the rollout is for, handed to trainers with each of its calls.
  std::shared_ptr<const std::string> task;
  trace::Recorder* recorder = nullptr;  // none: nothing is recorded
};

// The books of one rollout. calls = open + the sum of outcomes.
struct Counters {
  uint64_t calls = 0;  // admitted, resends not counted
  uint64_t resends = 0;
  uint64_t turns = 0;    // delivered
  uint64_t refused = 0;  // before they were calls: by budget, admission or malformed body
  uint64_t open = 0;
  uint64_t tokens = 0;  // of answers that were received, prompts included, as far as usage told
  uint64_t bytes = 0;   // of requests and answers
  uint64_t tool_calls = 0;
  bool budget_exhausted = false;
  std::string budget_reason;           // which limit was the first to refuse a call, in words
  bool cancelled = false;              // by the trainer: Trainer::cancel()
  std::array<uint64_t, 6> outcomes{};  // of ended calls, by llm::Outcome

  uint64_t ended(llm::Outcome outcome) const { return outcomes[static_cast<size_t>(outcome)]; }
};

// What an agent that asked for no stream gets while its call is parked.
enum class PlainKeepAlive : uint8_t {
  kNone,  // nothing: errors keep their status; whatever stands between must bear the silence
  // White space, which JSON allows in front of the answer. It spends the status: a later error is
  // an error body under 200.
  kWhiteSpace,
};

struct GateOptions {
  Duration keep_alive = std::chrono::seconds(10);  // between frames while a call is parked
  PlainKeepAlive plain_keep_alive = PlainKeepAlive::kNone;
  Duration delivery_timeout = std::chrono::seconds(30);  // for the peer to acknowledge an answer
  size_t ready_limit = 100'000;  // calls waiting for the trainer, over all rollouts
  // Of one rollout's requests while they arrive at its own endpoint: 503 above. Such connections
  // may be 1024, and each body 16 MiB.
  size_t bodies_bytes = 256 * 1024 * 1024;
  // The bodies of calls that have waited for longer (up to twice as long) are read from the
  // recorder's file when somebody looks at them, and are not in memory; zero: they stay there.
  Duration put_away_after = std::chrono::seconds(5);
  TotalBudget total;
  // kWaived: of every rollout, whatever its registration says.
  OriginRule::Tokens tokens = OriginRule::Tokens::kRequired;
  // Names that tools may have; empty: any that check_tool() lets through.
  std::set<std::string> tool_names;
  Logger log;
};

class Gate;
class EventLog;
class OpenRollout;
namespace http {
class SharedEndpoint;
}

// Of all rollouts of a gate, those that are closed included.
struct Totals {
  uint64_t rollouts = 0;  // opened
  uint64_t open_rollouts = 0;
  uint64_t calls = 0;
  uint64_t open_calls = 0;
  uint64_t resends = 0;
  uint64_t refused = 0;  // before they were calls
  uint64_t confirmed = 0;
  uint64_t tokens = 0;
  uint64_t request_bytes = 0;
  uint64_t put_away_bytes = 0;  // of calls' bodies, from memory
  uint64_t answer_bytes = 0;
  uint64_t tool_calls = 0;
  std::array<uint64_t, 6> outcomes{};  // by llm::Outcome
};

// Close every rollout before the gate and its shards go.
class Operator {
 public:
  // kAlreadyExists if the id is open; kInvalidArgument if it is no id, or there is no shard; else
  // kUnsupported for a dialect that this build does not speak. The rollout admits nothing yet.
  Result<void> open(Registration registration);
  // Serves the rollout's endpoint on `listener`; its calls belong to this rollout by that alone.
  // kNotFound if the rollout is not open: the listener is closed then. On the rollout's shard, as
  // are all below.
  Result<void> serve(const RolloutId& id, std::unique_ptr<net::Listener> listener);
  // Nothing happens to an id that is not open, here and below.
  void admit(const RolloutId& id);
  void stop_admitting(const RolloutId& id);
  // Cancels what is open, closes the rollout's listeners and connections, wakes whoever waits for
  // it. Returns when nothing of it runs any more; at once if it is being closed already.
  net::awaitable<void> close(RolloutId id);
  std::optional<Counters> counters(const RolloutId& id) const;

 private:
  friend class Gate;
  friend class http::SharedEndpoint;
  explicit Operator(std::shared_ptr<Gate> gate) : gate_(std::move(gate)) {}
  std::shared_ptr<OpenRollout> find(const RolloutId& id) const;
  std::shared_ptr<Gate> gate_;
};

// A rollout's last item for its trainer.
struct Ended {
  RolloutId rollout;
  std::string reason;
};

// What a trainer takes.
struct Item {
  using What =
      std::variant<std::shared_ptr<const llm::Call>, std::shared_ptr<const ToolRequest>, Ended>;
  What what;
  uint32_t deliveries = 1;  // how often it was handed out, this time included
  std::string version;      // the policy's, as the last resume() said
  std::shared_ptr<void> receipt;

  const llm::Call* call() const {
    const auto* call = std::get_if<0>(&what);
    return call == nullptr ? nullptr : call->get();
  }
  const ToolRequest* tool() const {
    const auto* tool = std::get_if<1>(&what);
    return tool == nullptr ? nullptr : tool->get();
  }
  const Ended* ended() const { return std::get_if<Ended>(&what); }
};

// Who takes. What a named trainer has taken and not answered is given to others when nothing is
// heard of it for `lease` and no take of it is waiting; ends count as received when it takes again.
struct Taker {
  enum class Start : uint8_t {
    kContinue,
    kAfresh,  // it has just started: what its name still holds was an earlier process's
  };
  std::string name;  // "": this process, which keeps what it takes
  Duration lease = std::chrono::seconds(60);
  Start start = Start::kContinue;
};

struct TakeRequest {
  size_t max = 1;
  std::optional<RolloutId> rollout;  // none: any
  Taker taker;
};

// How the gate stands to its trainers.
struct TrainerState {
  bool paused = false;
  std::string version;
  uint64_t versions = 0;  // how many there were
  size_t rollouts = 0;    // open for trainers, or ended and not taken
  size_t waiting = 0;     // calls
  size_t held = 0;        // items
  size_t trainers = 0;    // named ones
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
  // Puts back what silent trainers held, as every take does. Who uses neither calls it now and
  // then.
  void expire_leases();

  // Answers a call once. The future resolves when the call has ended and is recorded: its outcome.
  // Or at once: kNotFound (no call of this gate's has that id), kFailedPrecondition (it is answered
  // or has ended), kInvalidArgument (the answer does not fit, or is not of an origin that the
  // rollout takes; the call stays open for another).
  using Reply = std::variant<llm::Answer, llm::Refusal>;
  std::future<Result<llm::Outcome>> reply(const CallId& call, Reply reply);
  // The same without a future. `accepted` is called when the answer is recorded, or was not taken,
  // and then nothing else is; `ended` when the call has ended. Both on the rollout's shard, or on
  // this thread before this returns; either may be empty.
  struct Replied {
    std::function<void(Result<void>)> accepted;
    std::function<void(Result<llm::Outcome>)> ended;
  };
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
  // What all rollouts of the gate did so far.
  Totals totals() const;
  // What happens at the gate, as it happens.
  EventLog& events() const;

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
