// ReadyQueue: the calls that wait for a trainer, a lane for each rollout, served in turn, so that a
// rollout with many calls delays the others by one item each. Bounded over all rollouts.
//
// Any thread; next() and next_batch() block. The one thing that shards and trainers share a lock
// on, held for moments only.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "sluice/gate/gate.h"

namespace sluice::gate {

class ReadyQueue {
 public:
  explicit ReadyQueue(size_t limit) : limit_(limit) {}
  ReadyQueue(const ReadyQueue&) = delete;
  ReadyQueue& operator=(const ReadyQueue&) = delete;

  // Makes the rollout's lane. Until then, and after its end, push() drops.
  void open(const RolloutId& rollout);
  // The rollout's last item; calls of it that still wait are dropped.
  void end(const RolloutId& rollout, std::string reason);

  // Whether one more call fits.
  bool has_room() const;
  void push(std::shared_ptr<const llm::Call> call);
  // Takes a call back that nobody needs to answer any more, if it still waits.
  void remove(const llm::Call& call);

  std::vector<Item> next_batch(size_t max, Duration wait);
  Result<std::optional<Item>> next(const RolloutId& rollout, Duration wait);

 private:
  struct Lane {
    RolloutId rollout;
    std::deque<std::shared_ptr<const llm::Call>> calls;
    std::optional<std::string> ended;
    bool in_turn = false;  // stands in turns_
    int waiters = 0;       // in next()
    std::condition_variable changed;

    bool empty() const { return calls.empty() && !ended; }
  };

  void offer(const std::shared_ptr<Lane>& lane);
  Item take(Lane& lane);

  const size_t limit_;
  mutable std::mutex mutex_;
  std::condition_variable any_;  // something was offered to next_batch()
  std::unordered_map<RolloutId, std::shared_ptr<Lane>> lanes_;
  std::deque<std::shared_ptr<Lane>> turns_;  // lanes with items; one may have become empty since
  std::deque<std::weak_ptr<Lane>> ended_;    // in order of their end
  size_t waiting_ = 0;                       // calls
};

}  // namespace sluice::gate
