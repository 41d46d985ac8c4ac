#include "sluice/rollout/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "sluice/base/core/check.h"

namespace sluice::rollout {

Schedule::Lane& Schedule::lane(const std::string& name) {
  const auto [found, fresh] = by_name_.try_emplace(name);
  if (fresh) found->second = lanes_.insert(lanes_.end(), Lane{name, {}});
  return *found->second;
}

void Schedule::drop_if_empty(std::list<Lane>::iterator lane) {
  if (!lane->entries.empty()) return;
  by_name_.erase(lane->name);
  lanes_.erase(lane);
}

Result<void> Schedule::add(Entry entry) {
  if (limits_.memory_bytes != 0 && entry.memory_bytes > limits_.memory_bytes) {
    return Error(ErrorCode::kTooLarge,
                 fmt::format("it needs {} MiB of memory and all rollouts together may use {} MiB: "
                             "lower its limit or raise the total",
                             entry.memory_bytes >> 20, limits_.memory_bytes >> 20),
                 ErrorOrigin::kCaller);
  }
  if (queued_ >= limits_.queued) {
    return Error(ErrorCode::kExhausted,
                 fmt::format("{} rollouts wait already, which is the limit", queued_));
  }
  lane(entry.lane).entries.push_back(std::move(entry));
  ++queued_;
  return {};
}

void Schedule::add_again(Entry entry) {
  lane(entry.lane).entries.push_front(std::move(entry));
  ++queued_;
}

bool Schedule::remove(uint64_t id) {
  for (auto lane = lanes_.begin(); lane != lanes_.end(); ++lane) {
    const auto found = std::find_if(lane->entries.begin(), lane->entries.end(),
                                    [&](const Entry& entry) { return entry.id == id; });
    if (found == lane->entries.end()) continue;
    lane->entries.erase(found);
    --queued_;
    drop_if_empty(lane);
    return true;
  }
  return false;
}

bool Schedule::fits(const Entry& entry) const {
  if (running_.size() >= limits_.concurrency) return false;
  if (limits_.starting != 0 && starting_.size() >= limits_.starting) return false;
  return limits_.memory_bytes == 0 || memory_bytes_ + entry.memory_bytes <= limits_.memory_bytes;
}

std::optional<Schedule::Entry> Schedule::take(Clock::time_point now) {
  if (lanes_.empty() || !fits(lanes_.front().entries.front())) return std::nullopt;
  if (last_start_ && now < *last_start_ + limits_.start_gap) return std::nullopt;
  Lane& first = lanes_.front();
  Entry entry = std::move(first.entries.front());
  first.entries.pop_front();
  --queued_;
  const bool turn_ends =
      entry.batch.empty() || first.entries.empty() || first.entries.front().batch != entry.batch;
  if (turn_ends) lanes_.splice(lanes_.end(), lanes_, lanes_.begin());
  drop_if_empty(by_name_.at(entry.lane));
  const bool fresh = running_.emplace(entry.id, entry.memory_bytes).second;
  CHECK(fresh);
  starting_.insert(entry.id);
  memory_bytes_ += entry.memory_bytes;
  last_start_ = now;
  return entry;
}

Deadline Schedule::next_try() const {
  if (!last_start_ || lanes_.empty() || !fits(lanes_.front().entries.front())) return {};
  return Deadline(*last_start_ + limits_.start_gap);
}

void Schedule::started(uint64_t id) {
  starting_.erase(id);
}

void Schedule::ended(uint64_t id) {
  const auto found = running_.find(id);
  if (found == running_.end()) return;
  memory_bytes_ -= found->second;
  running_.erase(found);
  starting_.erase(id);
}

}  // namespace sluice::rollout
