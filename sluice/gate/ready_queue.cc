#include "sluice/gate/ready_queue.h"

#include <algorithm>

#include "sluice/base/core/deadline.h"

namespace sluice::gate {
namespace {

// Ends that no trainer asks for are forgotten beyond this many.
constexpr size_t kMaxEnded = 10'000;

// As a point in time that condition variables can take.
Clock::time_point until(Duration wait) {
  return Deadline::in(std::min<Duration>(wait, std::chrono::hours(24 * 365))).at();
}

}  // namespace

void ReadyQueue::open(const RolloutId& rollout) {
  const std::lock_guard lock(mutex_);
  auto lane = std::make_shared<Lane>();
  lane->rollout = rollout;
  lanes_[rollout] = std::move(lane);
}

void ReadyQueue::end(const RolloutId& rollout, std::string reason) {
  const std::lock_guard lock(mutex_);
  const auto it = lanes_.find(rollout);
  if (it == lanes_.end() || it->second->ended) return;
  const std::shared_ptr<Lane> lane = it->second;
  waiting_ -= lane->calls.size();
  lane->calls.clear();
  lane->ended = std::move(reason);
  ended_.push_back(lane);
  if (ended_.size() > kMaxEnded) {
    if (const auto oldest = ended_.front().lock(); oldest && oldest->ended) {
      oldest->ended.reset();
      const auto forgotten = lanes_.find(oldest->rollout);
      if (forgotten != lanes_.end() && forgotten->second == oldest) lanes_.erase(forgotten);
      oldest->changed.notify_all();
    }
    ended_.pop_front();
  }
  offer(lane);
  lane->changed.notify_all();
}

bool ReadyQueue::has_room() const {
  const std::lock_guard lock(mutex_);
  return waiting_ < limit_;
}

void ReadyQueue::push(std::shared_ptr<const llm::Call> call) {
  const std::lock_guard lock(mutex_);
  const auto it = lanes_.find(call->rollout);
  if (it == lanes_.end() || it->second->ended) return;
  it->second->calls.push_back(std::move(call));
  ++waiting_;
  offer(it->second);
}

void ReadyQueue::remove(const llm::Call& call) {
  const std::lock_guard lock(mutex_);
  const auto it = lanes_.find(call.rollout);
  if (it == lanes_.end()) return;
  auto& calls = it->second->calls;
  const auto found = std::find_if(calls.begin(), calls.end(),
                                  [&](const auto& waiting) { return waiting.get() == &call; });
  if (found == calls.end()) return;
  calls.erase(found);
  --waiting_;
}

void ReadyQueue::offer(const std::shared_ptr<Lane>& lane) {
  if (!lane->in_turn) {
    lane->in_turn = true;
    turns_.push_back(lane);
  }
  // Whoever waits for this rollout alone goes first: nothing else can serve it.
  if (lane->waiters > 0) {
    lane->changed.notify_one();
  } else {
    any_.notify_one();
  }
}

Item ReadyQueue::take(Lane& lane) {
  if (!lane.calls.empty()) {
    Item item = std::move(lane.calls.front());
    lane.calls.pop_front();
    --waiting_;
    return item;
  }
  Item item = Ended{lane.rollout, std::move(*lane.ended)};
  lane.ended.reset();
  const auto it = lanes_.find(lane.rollout);
  if (it != lanes_.end() && it->second.get() == &lane) lanes_.erase(it);
  return item;
}

std::vector<Item> ReadyQueue::next_batch(size_t max, Duration wait) {
  std::vector<Item> out;
  if (max == 0) return out;
  std::unique_lock lock(mutex_);
  const auto something = [this] {
    while (!turns_.empty() && turns_.front()->empty()) {
      turns_.front()->in_turn = false;
      turns_.pop_front();
    }
    return !turns_.empty();
  };
  any_.wait_until(lock, until(wait), something);
  while (out.size() < max && something()) {
    const std::shared_ptr<Lane> lane = std::move(turns_.front());
    turns_.pop_front();
    lane->in_turn = false;
    out.push_back(take(*lane));
    if (!lane->empty()) {
      lane->in_turn = true;
      turns_.push_back(lane);
    }
  }
  // What is left is for another waiter, who may have slept through its own notification.
  if (something()) any_.notify_one();
  return out;
}

Result<std::optional<Item>> ReadyQueue::next(const RolloutId& rollout, Duration wait) {
  std::unique_lock lock(mutex_);
  const auto it = lanes_.find(rollout);
  if (it == lanes_.end()) {
    return Error(ErrorCode::kNotFound, "rollout " + rollout.value +
                                           " is not open for a trainer (it has a policy of its "
                                           "own, was never opened, or its end was taken)");
  }
  const std::shared_ptr<Lane> lane = it->second;
  ++lane->waiters;
  const bool there = lane->changed.wait_until(lock, until(wait), [&] { return !lane->empty(); });
  --lane->waiters;
  if (!there) return std::optional<Item>();
  std::optional<Item> item = take(*lane);
  // A notification that went to this waiter may have been meant for the next item too.
  if (!lane->empty()) {
    if (lane->waiters > 0) {
      lane->changed.notify_one();
    } else {
      any_.notify_one();
    }
  }
  return item;
}

}  // namespace sluice::gate
