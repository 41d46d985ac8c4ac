#include "sluice/gate/recent_bodies.h"

#include <algorithm>
#include <utility>

namespace sluice::gate {
namespace {

constexpr size_t kSessions = 8;           // an agent and some sub-agents
constexpr size_t kMaxBytes = 8 << 20;     // kept of a rollout in all
constexpr uint64_t kMaxTotal = 1 << 29;   // kept of all of a gate
constexpr uint64_t kWorthTelling = 1024;  // less in common is not

}  // namespace

RecentBodies::~RecentBodies() {
  total_->fetch_sub(bytes_, std::memory_order_relaxed);
}

const RecentBodies::Entry* RecentBodies::nearest(const llm::SessionKey& session) const {
  const auto same = [&](const Entry& entry) {
    return entry.session == session.value;
  };
  const auto it = std::find_if(entries_.rbegin(), entries_.rend(), same);
  if (it != entries_.rend()) return &*it;
  return entries_.empty() ? nullptr : &entries_.back();
}

std::optional<RecentBodies::Like> RecentBodies::likeness(const llm::SessionKey& session,
                                                         const Bytes& body) const {
  const Entry* const before = nearest(session);
  if (before == nullptr) return std::nullopt;
  const auto bytes = before->body.at_hand();
  if (!bytes) return std::nullopt;
  const ByteView now = body;
  const ByteView then = *bytes;
  const size_t prefix = common_prefix(then, now);
  const size_t suffix = common_suffix(then.substr(prefix), now.substr(prefix));
  if (prefix + suffix < kWorthTelling) return std::nullopt;
  return Like{{before->ordinal, prefix, suffix}, &before->outline};
}

std::optional<llm::Body> RecentBodies::put_away_before(const llm::SessionKey& session) const {
  const Entry* const before = nearest(session);
  if (before == nullptr || before->in_memory || before->body.at_hand()) return std::nullopt;
  return before->body;
}

void RecentBodies::drop(std::vector<Entry>::iterator entry) {
  forget_size(*entry);
  if (entry->ended) entry->body.put_away();  // whoever still holds it
  entries_.erase(entry);
}

void RecentBodies::forget_size(Entry& entry) {
  if (!std::exchange(entry.in_memory, false)) return;
  bytes_ -= entry.body.size();
  total_->fetch_sub(entry.body.size(), std::memory_order_relaxed);
}

bool RecentBodies::ended(uint64_t ordinal) {
  for (Entry& entry : entries_) {
    if (entry.ordinal == ordinal) return entry.ended = true;
  }
  return false;
}

bool RecentBodies::put_away(uint64_t ordinal) {
  bool more = false;
  for (Entry& entry : entries_) {
    if (!entry.in_memory) continue;
    if (entry.ordinal > ordinal || !entry.body.put_away()) {
      more = true;
    } else {
      forget_size(entry);
    }
  }
  return more;
}

void RecentBodies::add(const llm::Call& call, json::Outline outline) {
  const auto same = [&](const Entry& entry) {
    return entry.session == call.session.value;
  };
  if (const auto it = std::find_if(entries_.begin(), entries_.end(), same); it != entries_.end()) {
    drop(it);
  }
  const size_t size = call.body.size();
  entries_.push_back({call.session.value, call.ordinal, call.body, std::move(outline)});
  bytes_ += size;
  const uint64_t total = total_->fetch_add(size, std::memory_order_relaxed) + size;
  if (total > kMaxTotal) drop(entries_.end() - 1);
  while (entries_.size() > kSessions || bytes_ > kMaxBytes) drop(entries_.begin());
}

}  // namespace sluice::gate
