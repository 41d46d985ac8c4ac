// RecentBodies: the request bodies that a rollout sent last, one for each of its sessions, to see
// what the next has in common with them. Agents send their whole conversation with every call, so
// that is most of it. Bounded, for a rollout and for all of a gate; on the rollout's shard.
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

  // `total` counts the bytes that all of a gate hold, and must outlive them.
  explicit RecentBodies(std::atomic<uint64_t>* total) : total_(total) {}
  ~RecentBodies();
  RecentBodies(const RecentBodies&) = delete;
  RecentBodies& operator=(const RecentBodies&) = delete;

  // What `body` has in common with the session's last, or with the rollout's last if that is the
  // session's first. Nothing if it is not worth telling.
  std::optional<Like> likeness(const llm::SessionKey& session, const Bytes& body) const;
  // The next of its session is compared with this one.
  void add(const llm::Call& call, json::Outline outline);

 private:
  struct Entry {
    std::string session;
    uint64_t ordinal;
    std::shared_ptr<const Bytes> body;
    json::Outline outline;
  };
  const Entry* nearest(const llm::SessionKey& session) const;
  void drop(std::vector<Entry>::iterator entry);

  std::atomic<uint64_t>* const total_;
  std::vector<Entry> entries_;  // the newest at the back
  size_t bytes_ = 0;
};

}  // namespace sluice::gate
