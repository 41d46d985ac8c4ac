// Ledger: what is written down of a rollout as it goes: in its counters and the gate's, for its
// recorder, for who watches the gate. Trainers hear of an answer, and of an end, behind its record.
//
// Calls are announced to trainers, and who waits for what is recorded is told when the recorder
// says that it is, once for all that happens in one pass of the loop: behind what is ready now and
// what follows from it at once, until nothing more follows, or for long enough.
//
// On the rollout's shard, but for its destructor. Internal to the gate.
#pragma once

#include "sluice/gate/core.h"
#include "sluice/gate/parked_call.h"
#include "sluice/trace/recorder.h"

namespace sluice::gate {

class Ledger : public std::enable_shared_from_this<Ledger> {
 public:
  Ledger(const Registration& registration, std::shared_ptr<Core> core);
  ~Ledger();
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  const Counters& counters() const { return counters_; }

  // What becomes of a call.
  void arrived(const llm::Call& call);
  void answered(const llm::Call& call, const llm::Answer& answer);
  // `detail` says why, in plain words; may be empty.
  void ended(const llm::Call& call, llm::Outcome outcome, std::string_view detail);
  void confirmed(const llm::Call& call);
  void resent(const CallId& call);
  // A call's history is not what was said before.
  void rewritten();
  // An agent has all of an answer: what that used of the budget.
  void received(const llm::Answer& answer);
  void received_late(const CallId& call);
  void answer_bytes(uint64_t bytes);
  void tool_called();

  // Of a request that became no call.
  void refused(const llm::Problem& problem);
  // A trainer's reply to an open call.
  void rejected(const CallId& call, std::string_view reason);
  // A limit refused something.
  void exhausted(std::string_view reason);
  void cancelled(std::string_view reason);

  // For the trace; `detail` is JSON.
  void event(std::string_view kind, std::string_view detail);
  // For who watches the gate: what happened, to which call if to one, and what else there is to say
  // by a name of its own.
  void watched(std::string_view type, const llm::Call* call = nullptr, std::string_view name = {},
               std::string_view value = {});

  // Tells that the answer is recorded, or, with an outcome, that the call has ended; or why the
  // recorder could not write that.
  void tell(std::shared_ptr<PendingOutcome> pending, std::optional<llm::Outcome> outcome = {});
  // Calls were pushed that trainers are to hear of.
  void announce();
  // Gives trainers the rollout's last item, behind the record of all before it. The first counts.
  void end(std::string reason);

  // Whether the recorder takes one more call, with so many bytes.
  bool has_room(size_t bytes) const {
    return recorder_ == nullptr || recorder_->has_room(rollout_, bytes);
  }

  // From here on nothing is put off. Returns when who waited was told.
  net::awaitable<void> close();
  bool closed() const { return closed_; }

 private:
  struct Told {
    std::shared_ptr<PendingOutcome> pending;
    std::optional<llm::Outcome> outcome;
  };

  trace::Recorder* recorder();
  void at_pass_end();
  void pass(int quiet_hops, int hops);
  void end_pass();

  const RolloutId rollout_;
  const About about_;
  const std::shared_ptr<Core> core_;
  net::Shard& shard_;
  trace::Recorder* const recorder_;
  Counters counters_;
  uint64_t noted_refusals_ = 0, noted_resends_ = 0;
  bool closed_ = false;
  bool in_pass_ = false;              // its end will come
  bool active_ = false;               // something has happened since the pass's last hop
  bool announce_ = false;             // calls to trainers
  std::vector<Told> told_;            // at the pass's end
  std::shared_ptr<const Ended> end_;  // the same
};

}  // namespace sluice::gate
