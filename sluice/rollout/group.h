// Group: what rollouts of one task share. The sandbox is made, filled and set up once; each rollout
// begins in a clone of that.
//
// Thread-safe: the rollouts of a group may live on several shards. The prepared files are held as
// long as the group is.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "sluice/agent/driver.h"
#include "sluice/net/shard.h"

namespace sluice::rollout {

class Group {
 public:
  using Prepared = std::shared_ptr<const agent::Report>;

  explicit Group(std::string id) : id_(std::move(id)) {}
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  const std::string& id() const { return id_; }

  // One rollout's turn to ask. On its shard.
  class Turn {
   public:
    explicit Turn(net::Shard& shard) : shard_(shard) {}
    // Ends prepared() soon, if it only waits. Whoever prepares is to be ended by its own means.
    void cancel();

   private:
    friend class Group;
    net::Shard& shard_;
    net::Signal signal_;
    bool cancelled_ = false;
  };

  // The preparation's report. Whoever asks first makes it by `prepare`, others wait for it. One
  // that failed for the task's sake is the end for all; one that was cancelled or failed for
  // infrastructure reasons is the asker's alone, and the next one makes it anew. None if the turn
  // was cancelled.
  net::awaitable<Prepared> prepared(std::shared_ptr<Turn> turn,
                                    std::function<net::awaitable<agent::Report>()> prepare);

 private:
  void wake_all();

  const std::string id_;
  std::mutex mutex_;  // guards what is below
  Prepared prepared_;
  bool preparing_ = false;
  std::list<std::shared_ptr<Turn>> waiting_;
};

}  // namespace sluice::rollout
