// Recorder: everything that is kept of a rollout, as it happens. The seam between those who tell
// and whoever writes it down.
//
// Its members return at once, whatever a disk does: one that keeps files writes them on a thread of
// its own. What every recorder owes:
//
// * Order: of one rollout, things are kept in the order in which they were told.
// * Acknowledgement: what was told is recorded when a flush() behind it says so, and not before. A
//   process that is killed may lose what was not; a power cut may lose the last seconds.
// * Failure: a recorder that cannot write says so once in the log, in the flush() behind what it
//   could not write, and in each behind closed(). It never stops a rollout by itself.
// * Bodies: whoever keeps the bytes of a large body in a file says so (Body::kept_in()), once they
//   are there: from then on they can be put away. Nobody else lets arrived() find them put away.
// * Likeness: Call::like is what the gate saw when it compared two bodies. A recorder may write
//   only what is new by it, but has to look whether it has the earlier body, and whether the
//   numbers fit.
// * Bound: has_room() is false while so much waits to be written that a rollout's new calls have to
//   come again. What is told all the same is taken; but events that say no more than what happened
//   may be left out then, which a flush() behind closed() tells.
//
// Thread-safe; the members for one rollout are called from one thread at a time. It outlives
// whoever tells it something.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "sluice/base/core/result.h"
#include "sluice/base/id.h"
#include "sluice/llm/call.h"
#include "sluice/net/executor.h"
#include "sluice/net/shard.h"

namespace sluice::trace {

// Of the format (docs/trace.md). What reads it takes this and all before it.
inline constexpr int kTraceVersion = 3;

// What a rollout has written to this machine's disk. Any thread.
struct DiskUse {
  std::atomic<uint64_t> bytes = 0;
};

struct RolloutInfo {
  std::string task;
  std::string agent;  // "opencode 1.18.33"
  std::string group;  // "" if none
  std::string mode;   // "interception_gate", "black_box"
  std::string policy;
  std::string name = {};  // of its order: "task@3"; "" if none
  // Whoever keeps files adds what is written to them from here on; requests count whole until it is
  // known how much of them is new. None: nobody counts.
  std::shared_ptr<DiskUse> disk = nullptr;
};

// Something worth keeping that is no call: a phase's end, a warning, an agent's own event.
struct Event {
  std::string kind;    // "phase", "warning", "agent"
  std::string detail;  // JSON
};

struct ResultSummary {
  std::optional<double> reward;
  std::string error_kind;  // "" if none
  std::string error;
};

class Recorder {
 public:
  virtual ~Recorder() = default;
  virtual void opened(const RolloutId& rollout, const RolloutInfo& info) = 0;
  virtual void arrived(const llm::Call& call) = 0;
  virtual void answered(const llm::Call& call, const llm::Answer& answer) = 0;
  // `detail` says why, in plain words; may be empty.
  virtual void ended(const llm::Call& call, llm::Outcome outcome, std::string_view detail) = 0;
  // The answer was found again in a later request of the rollout.
  virtual void confirmed(const llm::Call& call) = 0;
  virtual void event(const RolloutId& rollout, const Event& event) = 0;
  // The last of a rollout. A flush() behind it makes the recorder forget the rollout.
  virtual void closed(const RolloutId& rollout, const ResultSummary& summary) = 0;

  // Calls `told` once, on `shard` and never before this returns, when all that was told of the
  // rollout is recorded or could not be: with an error if something told since the flush before
  // could not be, or was recorded together with such; behind closed(), with the first error of the
  // rollout's writing. Of one rollout and shard, in order.
  // REQUIRES: the shard lives until then.
  using Flushed = std::function<void(Result<void>)>;
  virtual void flush(const RolloutId& rollout, net::Shard& shard, Flushed told) = 0;
  // For a call of that rollout, with so many bytes.
  virtual bool has_room(const RolloutId& /*rollout*/, size_t /*bytes*/) const { return true; }
  // How it keeps up.
  struct Load {
    uint64_t waiting_bytes = 0;      // to be written
    uint64_t incomplete_traces = 0;  // of rollouts of which something could not be
  };
  virtual Load load() const { return {}; }
  // Where a person finds the rollout's trace.
  virtual std::string location(const RolloutId& rollout) const = 0;
  // Whether there is a trace of that id already, of an earlier process's too.
  virtual bool has(const RolloutId& /*rollout*/) const { return false; }
};

// Awaits a flush() on `shard`, which is the caller's.
net::awaitable<Result<void>> flushed(Recorder* recorder, net::Shard* shard, RolloutId rollout);

}  // namespace sluice::trace
