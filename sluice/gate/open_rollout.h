// OpenRollout: one registration while it is open. The table of its calls and its books: what is
// admitted, who answers, what became of it. Knows nothing of HTTP; gate/http puts requests in and
// writes answers out.
//
// Lives on the rollout's shard; every member runs there unless it says otherwise. Internal to the
// gate.
#pragma once

#include <atomic>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "sluice/gate/call_ids.h"
#include "sluice/gate/events.h"
#include "sluice/gate/gate.h"
#include "sluice/gate/ready_queue.h"
#include "sluice/gate/recent_bodies.h"
#include "sluice/gate/session.h"
#include "sluice/gate/toolbox.h"
#include "sluice/gate/totals.h"
#include "sluice/json/peek.h"
#include "sluice/llm/dialect.h"
#include "sluice/net/shard.h"

namespace sluice::gate {

class OpenRollout;

// Which rollout an open call belongs to. Any thread.
class CallOwners {
 public:
  void add(const CallId& id, std::weak_ptr<OpenRollout> owner);
  void remove(const CallId& id);
  std::shared_ptr<OpenRollout> find(const CallId& id) const;

 private:
  mutable std::mutex mutex_;
  // By the ids' digests, which are a fraction of them. A digest met by chance or by force leads to
  // a rollout, which knows its calls by their whole ids.
  std::unordered_map<Digest, std::weak_ptr<OpenRollout>> owners_;
};

// What all rollouts of a gate share.
struct Core {
  explicit Core(GateOptions o) : options(std::move(o)), ready(options.ready_limit) {}
  const GateOptions options;
  const CallIds ids;
  ReadyQueue ready;
  CallOwners owners;
  GateTotals totals;
  EventLog events;
  std::atomic<uint64_t> recent_bytes{0};  // of bodies that rollouts keep for comparison
};

// A trainer's wait for an outcome. Tells kClosed if it is dropped, as happens when a shard is torn
// down before its work is done.
class PendingOutcome {
 public:
  explicit PendingOutcome(Trainer::Replied told) : told_(std::move(told)) {}
  ~PendingOutcome() { resolve(Error(ErrorCode::kClosed, "the gate was closed first")); }
  PendingOutcome(const PendingOutcome&) = delete;
  PendingOutcome& operator=(const PendingOutcome&) = delete;

  // The answer is recorded.
  void accept() {
    if (const auto accepted = std::exchange(told_.accepted, nullptr)) accepted({});
  }
  void resolve(Result<llm::Outcome> outcome) {
    const auto accepted = std::exchange(told_.accepted, nullptr);
    const auto ended = std::exchange(told_.ended, nullptr);
    if (accepted) accepted(outcome ? Result<void>() : Result<void>(outcome.error()));
    if (ended) ended(std::move(outcome));
  }

 private:
  Trainer::Replied told_;
};

// The agent's side of a parked call: one connection that waits for its answer. Lives in the frame
// of the coroutine that serves the connection.
struct Waiter {
  net::Signal wake;
  bool hung_up = false;  // the agent's side is gone
  bool due = false;      // for a keep-alive frame
};

// One call in the table.
struct ParkedCall {
  enum class State : uint8_t { kOpen, kAnswered, kEnded };

  std::shared_ptr<const llm::Call> call;
  ResendMarks marks;
  llm::HistoryMark mark;
  size_t conversation_size = 0;
  State state = State::kOpen;
  bool put_away = false;                 // its body
  ReadyQueue::Ticket ticket;             // if it is a trainer's
  std::unique_ptr<llm::Message> so_far;  // of an answer that comes in pieces
  std::shared_ptr<const llm::Answer> answer;
  std::unique_ptr<const llm::Problem> problem;  // what the agent is told instead
  std::unique_ptr<Relay> relay;
  llm::Outcome outcome = llm::Outcome::kFailed;  // when ended
  std::vector<Waiter*> waiters;
  std::vector<std::shared_ptr<PendingOutcome>> pending;
  std::optional<Clock::time_point> abandoned_until;
};

// What arrived, as far as the gate must know it.
struct Arrival {
  const llm::Codec* codec = nullptr;
  llm::Dialect dialect = llm::Dialect::kChat;
  llm::Target target;
  std::shared_ptr<const Bytes> body;
  std::optional<llm::Likeness> like;  // once it was judged
  llm::SessionKey session;
  std::string request_id;
  uint32_t retry_count = 0;
  std::vector<std::pair<std::string, std::string>> headers;
};

// The listeners and connections of a rollout, whatever they are.
class Endpoint {
 public:
  virtual ~Endpoint() = default;
  virtual void serve(std::unique_ptr<net::Listener> listener) = 0;
  // Returns when no connection and no handler of it is left.
  virtual net::awaitable<void> stop(Deadline deadline) = 0;
};

class OpenRollout : public std::enable_shared_from_this<OpenRollout> {
 public:
  OpenRollout(Registration registration, std::shared_ptr<Core> core,
              std::shared_ptr<json::Peeker> peeker);
  ~OpenRollout();

  const Registration& registration() const { return registration_; }
  const GateOptions& options() const { return core_->options; }
  net::Shard& shard() { return *registration_.shard; }
  json::Peeker& peeker() { return *peeker_; }
  const Counters& counters() const { return counters_; }
  bool closing() const { return closing_; }
  Core& core() { return *core_; }
  ToolBox& tools() { return tools_; }
  // Empty until something is served.
  std::unique_ptr<Endpoint>& endpoint() { return endpoint_; }

  void admit();
  void stop_admitting();
  // The agent says itself that it has ended.
  void agent_exited();

  // Judges a request. A call, new or joined, has `waiter` attached: every such waiter must be
  // given to delivered(), hung_up() or detach().
  using Judged = std::variant<llm::Problem,                 // told to the agent; no call
                              std::shared_ptr<ParkedCall>,  // wait for its answer
                              KeptAnswer>;                  // its bytes again
  Judged arrive(Arrival arrival, Waiter* waiter);
  // Why the agent may call no tool now, if so.
  std::optional<Error> judge_tool_call();
  void count_tool_call();
  // Counts and notes a refusal that was decided elsewhere (too large, malformed HTTP).
  void note_refusal(const llm::Problem& problem);

  // The agent's side of `waiter` has acknowledged the whole answer.
  void delivered(const std::shared_ptr<ParkedCall>& parked, Waiter* waiter);
  // The agent's side is gone, before the answer or in the middle of it.
  void hung_up(const std::shared_ptr<ParkedCall>& parked, Waiter* waiter);
  // An agent has got the kept answer of a call that had ended undelivered.
  void received_late(const KeptAnswer& kept);
  // The waiter leaves; what became of the call is known already.
  void detach(const std::shared_ptr<ParkedCall>& parked, Waiter* waiter);
  // A relayed call is over.
  void relayed(const std::shared_ptr<ParkedCall>& parked, llm::Outcome outcome,
               std::string_view detail);
  void event(std::string_view kind, std::string_view detail);
  // Whether what there is so far of the call's answer is for its agent already.
  bool goes_ahead(const ParkedCall& parked) const {
    return parked.so_far && parked.call->stream &&
           registration_.delivery == AnswerDelivery::kIncremental;
  }
  // Of an answer, on the wire.
  void count_answer_bytes(uint64_t bytes);

  // The trainer's and the policies' side.
  Result<void> piece(const CallId& id, const llm::Piece& piece);
  void reply(const CallId& id, std::variant<llm::Answer, llm::Refusal> reply,
             std::shared_ptr<PendingOutcome> pending);
  // Ends what is open and refuses the rest, so that the agent ends.
  void cancel(std::string_view reason);
  // The same if the first sampled answer is more than so many versions old.
  void cancel_if_older(uint64_t versions);
  std::optional<uint64_t> max_version_lag() const { return registration_.max_version_lag; }

  // Ends everything; returns when nothing of the rollout runs any more. False, and at once, if
  // somebody else is closing it.
  net::awaitable<bool> close();

 private:
  class PolicyTarget;
  struct ResendKey {
    llm::Dialect dialect;
    std::string session;
    Digest digest;
    bool operator==(const ResendKey&) const = default;
  };
  struct ResendKeyHash {
    size_t operator()(const ResendKey& key) const {
      return std::hash<Digest>()(key.digest) ^ std::hash<std::string>()(key.session);
    }
  };
  static ResendKey key_of(const llm::Call& call);

  Result<Digest> digest_of(const Bytes& body);
  std::optional<llm::Problem> over_rate();
  std::optional<llm::Problem> over_budget();
  // The refusal of a call that a budget does not allow, noted.
  llm::Problem exhausted(std::string reason);
  Result<void> check_origin(const llm::Answer& answer) const;
  void stamp_versions(const ParkedCall& parked, llm::Answer& answer) const;
  void note_resend(const CallId& call);
  const PurposeRule* purpose_of(const llm::Codec& codec, const llm::Peek& peek,
                                const llm::SessionKey& session) const;
  llm::Problem refuse(llm::Problem problem);
  std::shared_ptr<ParkedCall> park(Arrival arrival, const llm::Peek& peek, Digest digest,
                                   const PurposeRule* rule, std::optional<llm::WithTools> changed,
                                   Waiter* waiter);
  void join(const std::shared_ptr<ParkedCall>& parked, Waiter* waiter);
  void submit(const std::shared_ptr<ParkedCall>& parked, const PurposeRule* rule);

  static Result<void> check_open(const ParkedCall& parked);
  Result<void> piece(const std::shared_ptr<ParkedCall>& parked, const llm::Piece& piece);
  Result<void> answer(const std::shared_ptr<ParkedCall>& parked, llm::Answer answer);
  Result<void> accept(const std::shared_ptr<ParkedCall>& parked, llm::Answer answer);
  void refuse(const std::shared_ptr<ParkedCall>& parked, llm::Refusal refusal);
  void fail(const std::shared_ptr<ParkedCall>& parked, std::string_view detail);
  void relay(const std::shared_ptr<ParkedCall>& parked, std::unique_ptr<Relay> relay);
  void end(const std::shared_ptr<ParkedCall>& parked, llm::Outcome outcome,
           std::string_view detail);
  void wake(ParkedCall& parked);
  void end_open(const llm::Problem& problem, llm::Outcome outcome, std::string_view detail);
  void time_is_up(std::string reason);
  // What is recorded goes to the recorder's file, and who waits for that is told, once for all that
  // happens in one turn of the loop: behind what is ready now and what follows from it at once,
  // until nothing more follows, or for long enough.
  trace::Recorder* recorder();
  void at_turn_end();
  void turn(int quiet_hops, int hops);
  void end_turn();
  void tell(std::shared_ptr<PendingOutcome> pending, std::optional<llm::Outcome> outcome);
  void tell_event(std::string_view type, std::string_view more = {});
  void tell_call(std::string_view type, const llm::Call& call, std::string_view more = {});

  void count_tokens(const llm::Answer& answer);
  void remember(const ParkedCall& parked, Received received);
  void await_putting_away();
  void put_away();
  void abandon(const std::shared_ptr<ParkedCall>& parked);
  void give_up(const std::shared_ptr<ParkedCall>& parked, std::string_view detail);
  void end_abandoned();

  const Registration registration_;
  const std::shared_ptr<Core> core_;
  const std::shared_ptr<json::Peeker> peeker_;  // the shard's
  ToolBox tools_;
  std::vector<llm::ToolDefinition> added_tools_;  // to requests; none if that was not asked for
  std::unique_ptr<Endpoint> endpoint_;
  bool admitting_ = false;
  bool closing_ = false;
  bool closed_ = false;    // nothing is put off any more
  bool in_turn_ = false;   // its end will come
  bool active_ = false;    // something has happened since the turn's last hop
  bool held_ = false;      // the recorder
  bool announce_ = false;  // calls to trainers
  struct Told {
    std::shared_ptr<PendingOutcome> pending;
    std::optional<llm::Outcome> outcome;  // none: the answer is recorded
  };
  std::vector<Told> told_;                  // at the turn's end
  bool ended_ = false;                      // its agent: it has been admitting, and does so no more
  std::optional<std::string> out_of_time_;  // whose time it was
  std::optional<std::string> cancelled_;    // why
  std::optional<uint64_t> first_epoch_;     // of the gate's versions, at the first sampled answer
  Counters counters_;
  uint64_t noted_refusals_ = 0, noted_resends_ = 0;
  // The token bucket of calls per second.
  double tokens_ = 0;
  Clock::time_point filled_at_;

  // Not ended; by their ids, which are the calls' own.
  std::unordered_map<std::string_view, std::shared_ptr<ParkedCall>> calls_;
  std::unordered_map<ResendKey, std::weak_ptr<ParkedCall>, ResendKeyHash> by_digest_;
  Sessions sessions_;
  RecentBodies recent_bodies_{&core_->recent_bytes};
  // Calls whose agent hung up, in order of the time until which they wait for it. An entry counts
  // if its call still names the same time: the agent may have come back meanwhile.
  struct Abandoned {
    Clock::time_point until;
    std::weak_ptr<ParkedCall> parked;
  };
  std::deque<Abandoned> abandoned_;
  net::Wheel::Timer grace_timer_;
  net::Wheel::Timer time_timer_;  // Budget::time
  // While there are large bodies in memory: every GateOptions::put_away_after, those that were
  // there the last time are put away.
  net::Wheel::Timer put_away_timer_;
  uint64_t put_away_up_to_ = 0;             // the call's ordinal; counts from the next time on
  const ParkedCall* submitting_ = nullptr;  // whose submit() is running
};

}  // namespace sluice::gate
