// Core: what all open rollouts of a gate share, and how a call's answer finds its rollout.
//
// Any thread, unless it says otherwise. Internal to the gate.
#pragma once

#include <atomic>
#include <mutex>
#include <unordered_map>

#include "sluice/base/digest.h"
#include "sluice/gate/body_reader.h"
#include "sluice/gate/call_ids.h"
#include "sluice/gate/closings.h"
#include "sluice/gate/events.h"
#include "sluice/gate/outage_watch.h"
#include "sluice/gate/ready_queue.h"
#include "sluice/gate/totals.h"
#include "sluice/llm/answer.h"
#include "sluice/net/shard.h"

namespace sluice::gate {

class PendingOutcome;

// Answers the calls that belong to it, of the model and of tools: an open rollout. Its members run
// on its shard.
class CallOwner : public std::enable_shared_from_this<CallOwner> {
 public:
  virtual ~CallOwner() = default;
  virtual net::Shard& shard() = 0;  // any thread
  virtual Result<void> piece(const CallId& id, const llm::Piece& piece) = 0;
  virtual void reply(const CallId& id, TrainerReply reply,
                     std::shared_ptr<PendingOutcome> pending) = 0;
  // What a tool gave, or why its handler could not: that is for the trace, not for the agent.
  virtual Result<void> reply_tool(const ToolCallId& id, Result<ToolResult> result) = 0;
  // A reply to the call could not even be read.
  virtual void reject(const CallId& id, std::string_view why) = 0;
};

// Which rollout an open call belongs to.
class CallOwners {
 public:
  void add(const CallId& id, std::weak_ptr<CallOwner> owner) {
    const std::lock_guard lock(mutex_);
    owners_[xxh3_128(id.value)] = std::move(owner);
  }
  void remove(const CallId& id) {
    const std::lock_guard lock(mutex_);
    owners_.erase(xxh3_128(id.value));
  }
  std::shared_ptr<CallOwner> find(const CallId& id) const {
    const std::lock_guard lock(mutex_);
    const auto it = owners_.find(xxh3_128(id.value));
    return it == owners_.end() ? nullptr : it->second.lock();
  }

 private:
  mutable std::mutex mutex_;
  // By the ids' digests, which are a fraction of them. A digest met by chance or by force leads to
  // a rollout, which knows its calls by their whole ids.
  std::unordered_map<Digest, std::weak_ptr<CallOwner>> owners_;
};

struct Core {
  explicit Core(GateOptions o) : options(std::move(o)), ready(options.ready_limit) {}
  const GateOptions options;
  const CallIds ids;
  ReadyQueue ready;
  CallOwners owners;
  Closings closings;
  GateTotals totals;
  EventLog events;
  BodyReader bodies;
  ServedLog served;
  std::atomic<uint64_t> recent_bytes{0};  // of bodies that rollouts keep for comparison
};

}  // namespace sluice::gate
