#include "sluice/rollout/group.h"

#include <utility>

#include "sluice/rollout/blame.h"

namespace sluice::rollout {

void Group::Turn::cancel() {
  cancelled_ = true;
  signal_.notify();
}

void Group::wake_all() {
  for (std::shared_ptr<Turn>& turn : std::exchange(waiting_, {})) {
    net::Shard& shard = turn->shard_;
    shard.post([turn = std::move(turn)] { turn->signal_.notify(); });
  }
}

net::awaitable<Group::Prepared> Group::prepared(
    std::shared_ptr<Turn> turn, std::function<net::awaitable<agent::Report>()> prepare) {
  for (;;) {
    if (turn->cancelled_) co_return nullptr;
    {
      const std::lock_guard lock(mutex_);
      if (prepared_) co_return prepared_;
      if (!preparing_) {
        preparing_ = true;
        break;
      }
      waiting_.push_back(turn);
    }
    co_await turn->signal_.wait();
  }
  Prepared made;
  try {
    auto task = prepare();
    made = std::make_shared<const agent::Report>(co_await std::move(task));
  } catch (...) {
    const std::lock_guard lock(mutex_);
    preparing_ = false;
    wake_all();
    throw;
  }
  const ErrorKind kind = kind_of(*made);
  const std::lock_guard lock(mutex_);
  preparing_ = false;
  if (kind != ErrorKind::kInfrastructure && kind != ErrorKind::kCancelled) prepared_ = made;
  wake_all();
  co_return made;
}

}  // namespace sluice::rollout
