#include "sluice/gate/recent_bodies.h"

#include <algorithm>

namespace sluice::gate {
namespace {

constexpr size_t kSessions = 8;           // an agent and some sub-agents
constexpr size_t kMaxBytes = 8 << 20;     // kept of a rollout in all
constexpr uint64_t kWorthTelling = 1024;  // less in common is not

}  // namespace

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
  const ByteView now = body;
  const ByteView then = *before->body;
  const size_t prefix = common_prefix(then, now);
  const size_t suffix = common_suffix(then.substr(prefix), now.substr(prefix));
  if (prefix + suffix < kWorthTelling) return std::nullopt;
  return Like{{before->ordinal, prefix, suffix}, &before->outline};
}

void RecentBodies::add(const llm::Call& call, json::Outline outline) {
  const auto drop = [this](std::vector<Entry>::iterator it) {
    bytes_ -= it->body->size();
    entries_.erase(it);
  };
  const auto same = [&](const Entry& entry) {
    return entry.session == call.session.value;
  };
  if (const auto it = std::find_if(entries_.begin(), entries_.end(), same); it != entries_.end()) {
    drop(it);
  }
  entries_.push_back({call.session.value, call.ordinal, call.body, std::move(outline)});
  bytes_ += call.body->size();
  while (entries_.size() > kSessions || bytes_ > kMaxBytes) drop(entries_.begin());
}

}  // namespace sluice::gate
