// Loop: the guest's event loop, epoll and timers on one thread.
#pragma once

#include <sys/epoll.h>

#include <cstdint>
#include <functional>
#include <map>
#include <unordered_map>
#include <utility>

#include "sluice/base/core/deadline.h"
#include "sluice/base/core/fd.h"

namespace sluice::guest::program {

class Loop {
 public:
  using Handler = std::function<void(uint32_t events)>;
  using TimerId = std::pair<Clock::time_point, uint64_t>;

  Loop();

  // Calls `handler` when `fd` is ready for `events` (EPOLLIN, EPOLLOUT). With no events the fd is
  // not watched at all: errors and hang-ups, which epoll always tells, are not told either. Watch
  // with none before closing an fd.
  void watch(int fd, uint32_t events, Handler handler);
  void forget(int fd) { watch(fd, 0, nullptr); }

  // Calls `handler` once. The id is good until then, or until cancel().
  TimerId at(Deadline deadline, std::function<void()> handler);
  void cancel(TimerId id) { timers_.erase(id); }

  // Waits for events at most until `deadline`, then handles what is due. Handlers may watch,
  // forget, set and cancel as they like.
  void run_once(Deadline deadline);

 private:
  struct Watch {
    uint32_t events = 0;
    uint32_t generation = 0;
    Handler handler;
  };
  Fd epoll_;
  uint32_t generation_ = 0;  // tells an event of a descriptor's former life
  uint64_t next_timer_ = 0;
  std::unordered_map<int, Watch> watches_;
  std::map<TimerId, std::function<void()>> timers_;
};

}  // namespace sluice::guest::program
