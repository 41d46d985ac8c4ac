#include "sluice/net/wheel.h"

#include <algorithm>
#include <utility>

namespace sluice::net {

Wheel::Wheel(Executor executor) : timer_(executor), start_(Clock::now()), slots_(kSlots) {}

Wheel::~Wheel() = default;

int64_t Wheel::tick_of(Clock::time_point at) const {
  // Rounded up: never early.
  const auto since = at - start_;
  return (since + kTick - Clock::duration(1)) / kTick;
}

void Wheel::Timer::arm(Deadline deadline, std::function<void()> callback) {
  disarm();
  if (deadline.is_never()) return;
  callback_ = std::move(callback);
  tick_ = wheel_->tick_of(deadline.at());
  wheel_->insert(*this);
}

void Wheel::Timer::disarm() {
  if (!is_linked()) return;
  unlink();
  --wheel_->armed_;
  callback_ = nullptr;
}

void Wheel::insert(Timer& timer) {
  // With nothing armed the wheel stood still: bring it to the present before placing anything.
  if (armed_ == 0) done_ = std::max(done_, tick_of(Clock::now()) - 1);
  timer.tick_ = std::max(timer.tick_, done_ + 1);
  slots_[static_cast<size_t>(timer.tick_) % kSlots].push_back(timer);
  ++armed_;
  schedule();
}

void Wheel::schedule() {
  if (ticking_ || armed_ == 0) return;
  ticking_ = true;
  timer_.expires_at(start_ + (done_ + 1) * kTick);
  timer_.async_wait([this](boost::system::error_code error) {
    if (error) return;  // the wheel is being destroyed
    ticking_ = false;
    on_tick();
  });
}

void Wheel::on_tick() {
  const int64_t now = (Clock::now() - start_) / kTick;
  // After a stall of more than one round every slot is visited once; that finds all that is due.
  const int64_t first = std::max(done_ + 1, now - static_cast<int64_t>(kSlots) + 1);
  Slot due;
  for (int64_t tick = first; tick <= now; ++tick) {
    Slot& slot = slots_[static_cast<size_t>(tick) % kSlots];
    for (auto it = slot.begin(); it != slot.end();) {
      Timer& timer = *it++;
      if (timer.tick_ > now) continue;
      timer.unlink();
      due.push_back(timer);
    }
  }
  done_ = std::max(done_, now);
  // A callback may disarm or destroy any timer, the ones in `due` included: take one at a time.
  while (!due.empty()) {
    Timer& timer = due.front();
    timer.unlink();
    --armed_;
    const auto callback = std::exchange(timer.callback_, nullptr);
    callback();
  }
  schedule();
}

}  // namespace sluice::net
