// Closings: the books of the rollouts that were closed last, for whoever asks for one.
//
// Any thread. Internal to the gate.
#pragma once

#include <deque>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "sluice/gate/books.h"

namespace sluice::gate {

class Closings {
 public:
  static constexpr size_t kMost = 10'000;

  // In place of what there was of that rollout.
  void put(std::shared_ptr<const Books> books) {
    const std::lock_guard lock(mutex_);
    auto& place = books_[books->rollout];
    if (!place) order_.push_back(books->rollout);
    place = std::move(books);
    if (order_.size() <= kMost) return;
    books_.erase(order_.front());
    order_.pop_front();
  }
  // None: there was none of that id, or long ago.
  std::shared_ptr<const Books> find(const RolloutId& rollout) const {
    const std::lock_guard lock(mutex_);
    const auto it = books_.find(rollout);
    return it == books_.end() ? nullptr : it->second;
  }

 private:
  mutable std::mutex mutex_;
  std::unordered_map<RolloutId, std::shared_ptr<const Books>> books_;
  std::deque<RolloutId> order_;  // the oldest first
};

}  // namespace sluice::gate
