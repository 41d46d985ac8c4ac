// Lineage: which earlier call each call of a rollout goes on from (its parent: the one whose answer
// its history holds latest), how, and whether its agent rewrote what was said before.
//
// What an arrival tells is decided at once: that the history is byte for byte what it was, and what
// stands in the answer's place. What needs bodies to be read is found out on threads that may wait,
// and only where the bytes differ.
//
// On the rollout's shard. Internal to the gate.
#pragma once

#include "sluice/gate/agent_session.h"
#include "sluice/gate/body_reader.h"
#include "sluice/gate/ledger.h"
#include "sluice/gate/parked_call.h"
#include "sluice/gate/recent_bodies.h"
#include "sluice/llm/continuation.h"

namespace sluice::gate {

class Lineage {
 public:
  // A request as it arrives. A view.
  struct Arriving {
    const llm::Codec& codec;
    const llm::SessionKey& session;
    const Bytes& body;
    const std::optional<llm::Likeness>& like;
    const llm::Peek& peek;
  };
  // Where a call comes from.
  struct Descent {
    std::shared_ptr<const llm::Parent> parent;  // may be none
    Digest head;                                // see PastCall
    size_t history_end = 0;
    // Without a parent: an earlier call of a conversation that began the same, and is to be
    // compared.
    std::optional<llm::Body> before;
    std::shared_ptr<const llm::Answer> before_answer;  // if its agent has it
  };

  // All outlive it.
  Lineage(AgentSessions& sessions, RecentBodies& recent, Ledger& ledger, BodyReader& reader,
          net::Executor executor);

  // Also notes which answers its conversation confirms.
  Descent of(const Arriving& arriving);
  // It has become a call, which has arrived.
  void arrived(const std::shared_ptr<const llm::Call>& call, Descent descent);
  // A call has ended, with the answer that later requests may hold; none if nobody here knows it.
  void ended(const ParkedCall& parked, Received received);
  // Returns when nothing is being found out any more.
  net::awaitable<void> settled() { return looking_.join(); }

 private:
  using Call = std::shared_ptr<const llm::Call>;
  static net::awaitable<void> find_out(Lineage* self, Call call);
  static net::awaitable<void> compare(Lineage* self, Call call, Descent descent);
  void note(const llm::Call& call, const std::optional<llm::Continuation>& how);

  AgentSessions& sessions_;
  RecentBodies& recent_;
  Ledger& ledger_;
  BodyReader& reader_;
  net::TaskGroup looking_;
};

}  // namespace sluice::gate
