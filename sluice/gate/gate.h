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
#include "sluice/llm/call.h"
#include "sluice/net/shard.h"
#include "sluice/net/stream.h"
#include "sluice/trace/recorder.h"

namespace sluice::gate {

// Limits of one rollout. A call over one of them is refused with the status that ends the agent.
struct Budget {
  uint64_t calls = 500;          // admitted in all
  uint32_t open_calls = 16;      // at once
  double calls_per_second = 20;  // sustained, with a burst of one second's worth
};

// How a request is recognised as a resend of an earlier one.
struct ResendRules {
  // An equal request this long after a delivery is taken for a resend; 0 turns that off.
  Duration window = std::chrono::seconds(60);
  // How long a call whose agent hung up stays open, and answerable, for the agent to come back for
  // it (agents do in 0.2 to 40 s); 0 ends it at once.
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
  trace::Recorder* recorder = nullptr;        // none: nothing is recorded
};

// The books of one rollout. calls = open + the sum of outcomes.
struct Counters {
  uint64_t calls = 0;  // admitted, resends not counted
  uint64_t resends = 0;
  uint64_t turns = 0;    // delivered
  uint64_t refused = 0;  // before they were calls: by budget, admission or malformed body
  uint64_t open = 0;
  bool budget_exhausted = false;
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
  Logger log;
};

class Gate;

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
  explicit Operator(std::shared_ptr<Gate> gate) : gate_(std::move(gate)) {}
  std::shared_ptr<Gate> gate_;
};

// A rollout's last item for its trainer.
struct Ended {
  RolloutId rollout;
  std::string reason;
};
using Item = std::variant<std::shared_ptr<const llm::Call>, Ended>;

// Thread-safe, every member; blocks only where it says so. Sees the rollouts that were opened
// without a policy.
class Trainer {
 public:
  // Up to `max` items of any rollout, fairly over rollouts; blocks up to `wait` for the first.
  std::vector<Item> next_batch(size_t max, Duration wait);
  // The next item of one rollout; nothing if none came in time. kNotFound if it is not open and its
  // Ended was taken.
  Result<std::optional<Item>> next(const RolloutId& rollout, Duration wait);
  // Answers a call once. The future resolves when the call has ended and is recorded: its outcome.
  // Or at once: kNotFound (no call of this gate's has that id), kFailedPrecondition (it is answered
  // or has ended), kInvalidArgument (the answer does not fit; the call stays open for another).
  std::future<Result<llm::Outcome>> reply(const CallId& call,
                                          std::variant<llm::Answer, llm::Refusal> reply);

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
