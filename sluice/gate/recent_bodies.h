// RecentBodies: the request bodies that a rollout sent last, one for each of its sessions, to see
// what the next has in common with them. Agents send their whole conversation with every call, so
// that is most of it. What of them is in memory is bounded, for a rollout and for all of a gate. On
// the rollout's shard.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "sluice/json/peek.h"
#include "sluice/llm/call.h"

namespace sluice::gate {

class RecentBodies {
 public:
  struct Like {
    llm::Likeness what;
    const json::Outline* outline;  // of the earlier body; until the next add()
  };

  // `total` counts the bytes that all of a gate hold.
  // REQUIRES: it outlives them.
  explicit RecentBodies(std::atomic<uint64_t>* total) : total_(total) {}
  ~RecentBodies();
  RecentBodies(const RecentBodies&) = delete;
  RecentBodies& operator=(const RecentBodies&) = delete;

  // What `body` has in common with the session's last, or with the rollout's last if that is the
  // session's first. Nothing if it is not worth telling, or that one is not at hand.
  std::optional<Like> likeness(const llm::SessionKey& session, const Bytes& body) const;
  // With what the session's next is compared, if that is not at hand.
  std::optional<llm::Body> put_away_before(const llm::SessionKey& session) const;
  // The next of its session is compared with this one.
  void add(const llm::Call& call, json::Outline outline);
  // The call has ended, and its body is for nobody else; false if it is not here any more.
  bool ended(uint64_t ordinal);
  // Puts away what came no later than the call `ordinal` and is recorded; true if more is in
  // memory.
  bool put_away(uint64_t ordinal);

 private:
  struct Entry {
    std::string session;
    uint64_t ordinal;
    llm::Body body;
    json::Outline outline;
    bool in_memory = true;
    bool ended = false;
  };
  const Entry* nearest(const llm::SessionKey& session) const;
  void drop(std::vector<Entry>::iterator entry);
  void forget_size(Entry& entry);

  std::atomic<uint64_t>* const total_;
  std::vector<Entry> entries_;  // the newest at the back
  size_t bytes_ = 0;            // in memory
};

}  // namespace sluice::gate
