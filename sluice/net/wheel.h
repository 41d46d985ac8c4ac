// Wheel: every deadline of a shard in one hashed timing wheel (Varghese and Lauck, 1987), so that
// ten thousand parked calls cost one kernel timer and no coroutine each. A deadline fires at most
// kTick late and never early.
//
// Lives on one shard; every member, and every callback, runs on its thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

#include <boost/asio/steady_timer.hpp>
#include <boost/intrusive/list.hpp>

#include "sluice/base/core/deadline.h"
#include "sluice/net/executor.h"

namespace sluice::net {

class Wheel {
 public:
  static constexpr std::chrono::milliseconds kTick{5};

  // One deadline. Must not outlive its wheel while armed; destroying it disarms it.
  class Timer : public boost::intrusive::list_base_hook<
                    boost::intrusive::link_mode<boost::intrusive::auto_unlink>> {
   public:
    explicit Timer(Wheel& wheel) : wheel_(&wheel) {}
    ~Timer() { disarm(); }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

    // Calls `callback` once at `deadline`; a deadline of never disarms. Replaces an earlier one.
    void arm(Deadline deadline, std::function<void()> callback);
    void disarm();
    bool armed() const { return is_linked(); }

   private:
    friend class Wheel;
    Wheel* wheel_;
    int64_t tick_ = 0;
    std::function<void()> callback_;
  };

  explicit Wheel(Executor executor);
  ~Wheel();
  Wheel(const Wheel&) = delete;
  Wheel& operator=(const Wheel&) = delete;

  size_t armed() const { return armed_; }

 private:
  using Slot = boost::intrusive::list<Timer, boost::intrusive::constant_time_size<false>>;
  static constexpr size_t kSlots = 4096;  // 20 s in one round; later deadlines go round again

  int64_t tick_of(Clock::time_point at) const;
  void insert(Timer& timer);
  void schedule();
  void on_tick();

  boost::asio::basic_waitable_timer<Clock, boost::asio::wait_traits<Clock>, Executor> timer_;
  Clock::time_point start_;
  std::vector<Slot> slots_;
  int64_t done_ = 0;  // the last tick whose slot was emptied
  size_t armed_ = 0;
  bool ticking_ = false;
};

}  // namespace sluice::net
