#include "sluice/guest/program/loop.h"

#include <algorithm>
#include <cerrno>

#include "sluice/base/core/check.h"

namespace sluice::guest::program {

Loop::Loop() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  CHECK(epoll_);
}

void Loop::watch(int fd, uint32_t events, Handler handler) {
  const auto found = watches_.find(fd);
  if (events == 0) {
    if (found == watches_.end()) return;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
    watches_.erase(found);
    return;
  }
  const bool known = found != watches_.end();
  if (known && found->second.events == events) {
    found->second.handler = std::move(handler);
    return;
  }
  Watch& entry = watches_[fd];
  entry.events = events;
  if (!known) entry.generation = ++generation_;
  entry.handler = std::move(handler);
  epoll_event event{};
  event.events = events;
  event.data.u64 = uint64_t{entry.generation} << 32 | static_cast<uint32_t>(fd);
  const int how = known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  // It fails for what cannot be polled (a file): nothing of that kind is ever watched; and when the
  // user's watches are used up, which leaves the stream silent until its time limit.
  if (::epoll_ctl(epoll_.get(), how, fd, &event) != 0) watches_.erase(fd);
}

Loop::TimerId Loop::at(Deadline deadline, std::function<void()> handler) {
  const TimerId id(deadline.at(), ++next_timer_);
  if (!deadline.is_never()) timers_.emplace(id, std::move(handler));
  return id;
}

void Loop::run_once(Deadline deadline) {
  if (!timers_.empty()) deadline = deadline.earlier(Deadline(timers_.begin()->first.first));
  int timeout = -1;
  if (!deadline.is_never()) {
    // Rounded up: a timer is never early, and the loop never spins for the last fraction.
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline.remaining());
    timeout = static_cast<int>(std::min<int64_t>(left.count(), 60'000));
  }
  epoll_event events[64];
  const int n = ::epoll_wait(epoll_.get(), events, 64, timeout);
  CHECK(n >= 0 || errno == EINTR);
  for (int i = 0; i < n; ++i) {
    const int fd = static_cast<int>(events[i].data.u64 & UINT32_MAX);
    const auto found = watches_.find(fd);
    if (found == watches_.end() || found->second.generation != events[i].data.u64 >> 32) continue;
    const Handler handler = found->second.handler;  // it may forget itself
    handler(events[i].events);
  }
  const auto now = Clock::now();
  while (!timers_.empty() && timers_.begin()->first.first <= now) {
    const auto handler = std::move(timers_.begin()->second);
    timers_.erase(timers_.begin());
    handler();
  }
}

}  // namespace sluice::guest::program
