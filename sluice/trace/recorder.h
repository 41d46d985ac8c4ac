// Recorder: everything that is kept of a rollout, as it happens.
//
// What a member was given is with the kernel (appended to a file) when it returns, or when
// release() does if the rollout is held: a killed process loses what was held, a power cut may lose
// the last seconds. Thread-safe; the members for one rollout are called from one
// thread at a time. A recorder that cannot write says so once in the log and in flush(); it never
// stops a rollout by itself.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "sluice/base/core/result.h"
#include "sluice/base/id.h"
#include "sluice/llm/call.h"

namespace sluice::trace {

struct RolloutInfo {
  std::string task;
  std::string agent;  // "opencode 1.18.33"
  std::string group;  // "" if none
  std::string mode;   // "interception_gate", "black_box"
  std::string policy;
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
  virtual void closed(const RolloutId& rollout, const ResultSummary& summary) = 0;
  // From hold() to release() a recorder may keep what it is given and write it all at once. Whoever
  // holds acknowledges nothing that is not written yet, and holds for one turn of its loop at most.
  // Both are idempotent.
  virtual void hold(const RolloutId&) {}
  virtual void release(const RolloutId&) {}
  // The first write error of this rollout, if there was one.
  virtual Result<void> flush(const RolloutId& rollout) = 0;
  // Where a person finds the rollout's trace.
  virtual std::string location(const RolloutId& rollout) const = 0;
};

}  // namespace sluice::trace
