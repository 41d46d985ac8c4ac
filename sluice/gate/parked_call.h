// ParkedCall: one call in a rollout's table, from its arrival to its end, and who waits for it: the
// agent's connections, and the trainer that wants to know what became of its answer.
//
// On the rollout's shard. Internal to the gate.
#pragma once

#include <algorithm>
#include <utility>

#include "sluice/gate/agent_session.h"
#include "sluice/gate/policy.h"
#include "sluice/gate/ready_queue.h"
#include "sluice/net/shard.h"

namespace sluice::gate {

// A trainer's wait for an outcome. Tells kClosed if it is dropped, as happens when a shard is torn
// down before its work is done. An answer that could not be recorded is told as an error, also when
// its call ends.
class PendingOutcome {
 public:
  explicit PendingOutcome(Replied told) : told_(std::move(told)) {}
  ~PendingOutcome() { resolve(Error(ErrorCode::kClosed, "the gate was closed first")); }
  PendingOutcome(const PendingOutcome&) = delete;
  PendingOutcome& operator=(const PendingOutcome&) = delete;

  // Whether anybody waits.
  bool awaited() const { return told_.accepted || told_.ended; }
  // What was told of the call so far is recorded, or could not be: its answer, and with an outcome
  // its end.
  void recorded(const Result<void>& done, std::optional<llm::Outcome> outcome) {
    if (!done) lost_ = done.error().within("not recorded");
    if (outcome && lost_)
      lost_->message.append("; the call has ended: ").append(to_string(*outcome));
    if (outcome) return resolve(lost_ ? Result<llm::Outcome>(*lost_) : *outcome);
    const auto accepted = std::exchange(told_.accepted, nullptr);
    if (accepted) accepted(lost_ ? Result<void>(*lost_) : Result<void>());
  }
  void resolve(Result<llm::Outcome> outcome) {
    const auto accepted = std::exchange(told_.accepted, nullptr);
    const auto ended = std::exchange(told_.ended, nullptr);
    if (accepted) accepted(outcome ? Result<void>() : Result<void>(outcome.error()));
    if (ended) ended(std::move(outcome));
  }

 private:
  Replied told_;
  std::optional<Error> lost_;  // why not all is recorded
};

// The agent's side of a parked call: one connection that waits for its answer. Lives in the frame
// of the coroutine that serves the connection.
struct Waiter {
  net::Signal wake;
  bool hung_up = false;  // the agent's side is gone
  // The agent's side has ended (FIN), and whether somebody still reads there is not known.
  bool finished = false;
  bool displaced = false;  // others have taken its place
  bool due = false;        // for a keep-alive frame
};

// How a relayed answer goes, for who looks before its end.
class RelayProgress {
 public:
  virtual ~RelayProgress() = default;
  // "" where the upstream has done its part, though the agent may not have all of it yet; else why
  // it could not; nothing while it may yet.
  virtual std::optional<std::string> upstreams_part() const = 0;
  // Whether it could, and objects to what it was asked.
  virtual bool is_objection() const = 0;
};

struct ParkedCall {
  enum class State : uint8_t { kOpen, kAnswered, kEnded };

  std::shared_ptr<const llm::Call> call;
  ResendMarks marks;
  llm::HistoryMark mark;
  size_t conversation_size = 0;
  size_t history_end = 0;  // see PastCall, as below
  Digest head;
  State state = State::kOpen;
  bool put_away = false;                 // its body
  ReadyQueue::Ticket ticket;             // if it is a trainer's
  std::unique_ptr<llm::Message> so_far;  // of an answer that comes in pieces
  std::shared_ptr<const llm::Answer> answer;
  std::unique_ptr<const llm::Problem> problem;  // what the agent is told instead
  std::unique_ptr<Relay> relay;
  const RelayProgress* progress = nullptr;       // of the relay, while it runs
  llm::Outcome outcome = llm::Outcome::kFailed;  // when ended
  std::vector<Waiter*> waiters;
  std::vector<std::shared_ptr<PendingOutcome>> pending;
  std::optional<Clock::time_point> abandoned_until;

  // Whether an answer may still be given.
  bool is_open() const { return state == State::kOpen && !relay; }
  // Whether somebody is known to wait for it.
  bool is_awaited() const {
    return std::any_of(waiters.begin(), waiters.end(),
                       [](const Waiter* waiter) { return !waiter->finished; });
  }
  void wake() {
    for (Waiter* waiter : waiters) waiter->wake.notify();
  }
};

}  // namespace sluice::gate
