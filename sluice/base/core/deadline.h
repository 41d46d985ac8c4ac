// Deadline: a point on the monotonic clock by which something must be done. Passed as a parameter
// rather than hidden in a timer, so that nested operations share one.
#pragma once

#include <chrono>

namespace sluice {

using Clock = std::chrono::steady_clock;
using Duration = std::chrono::nanoseconds;

inline double to_seconds(Duration duration) {
  return std::chrono::duration<double>(duration).count();
}
inline Duration from_seconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

class Deadline {
 public:
  Deadline() = default;  // never
  explicit Deadline(Clock::time_point at) : at_(at) {}

  static Deadline never() { return {}; }
  static Deadline in(Duration d) {
    const auto now = Clock::now();
    if (d >= Clock::time_point::max() - now) return never();
    return Deadline(now + std::chrono::duration_cast<Clock::duration>(d));
  }

  bool is_never() const { return at_ == Clock::time_point::max(); }
  bool expired() const { return !is_never() && Clock::now() >= at_; }
  Clock::time_point at() const { return at_; }

  // Time left, at least 0; Duration::max() if never.
  Duration remaining() const {
    if (is_never()) return Duration::max();
    const auto now = Clock::now();
    return at_ <= now ? Duration::zero() : at_ - now;
  }

  Deadline earlier(Deadline other) const { return at_ < other.at_ ? *this : other; }

  auto operator<=>(const Deadline&) const = default;

 private:
  Clock::time_point at_ = Clock::time_point::max();
};

}  // namespace sluice
