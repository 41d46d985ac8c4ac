#include "sluice/gate/ready_queue.h"

#include <fmt/format.h>

#include <algorithm>

#include "sluice/base/core/deadline.h"

namespace sluice::gate {
namespace {

// Ends that no trainer asks for are forgotten beyond this many.
constexpr size_t kMaxEnded = 10'000;
// Names of trainers: those that are gone and hold nothing make room.
constexpr size_t kMaxTrainers = 1000;

// As a point in time that condition variables can take.
Clock::time_point until(Duration wait) {
  return Deadline::in(std::min<Duration>(wait, std::chrono::hours(24 * 365))).at();
}

}  // namespace

// One who takes.
struct ReadyQueue::Holder {
  std::string name;
  Duration lease{};
  Clock::time_point seen;
  size_t waits = 0;  // takes of it that wait now: it lives
  size_t held = 0;
  std::vector<std::weak_ptr<Lane>> ends;  // which it has been given

  bool immortal() const { return name.empty(); }
  Clock::time_point expiry() const {
    if (immortal() || waits > 0) return Clock::time_point::max();
    return lease >= Clock::time_point::max() - seen ? Clock::time_point::max() : seen + lease;
  }
};

struct ReadyQueue::Entry {
  Item::What what;
  Lane* lane = nullptr;            // none: the entry is over
  std::shared_ptr<Holder> holder;  // none: it waits
  std::list<Ticket>::iterator at;
  bool linked = false;
  uint32_t deliveries = 0;
  std::shared_ptr<const std::string> version;  // under which it was handed out last

  bool is_call() const { return what.index() == 0; }
};

struct ReadyQueue::Lane : std::enable_shared_from_this<Lane> {
  RolloutId rollout;
  std::list<Ticket> calls, tools;  // that wait
  std::list<Ticket> held;
  Ticket ended;                // waits, or is held
  bool in_turn = false;        // stands in turns_
  std::list<Waiting> waiters;  // for this rollout alone
};

struct ReadyQueue::Waiter {
  size_t max = 1;
  std::shared_ptr<Holder> holder;
  std::shared_ptr<Lane> lane;  // none: any
  Done done;
  std::list<Waiting>::iterator at;
  bool linked = false;
};

void ReadyQueue::run(Calls calls) {
  for (auto& [done, items] : calls) done(std::move(items));
}

bool ReadyQueue::has_something(const Lane& lane) const {
  if (!lane.tools.empty() || (!lane.calls.empty() && !paused_)) return true;
  return lane.ended && !lane.ended->holder;
}

void ReadyQueue::open(const RolloutId& rollout) {
  const std::lock_guard lock(mutex_);
  auto lane = std::make_shared<Lane>();
  lane->rollout = rollout;
  auto& slot = lanes_[rollout];
  // The end of an earlier one of that name, which nobody has taken.
  if (slot) forget(slot);
  lanes_[rollout] = std::move(lane);
}

void ReadyQueue::end(const RolloutId& rollout, std::string reason) {
  Calls calls;
  {
    const std::lock_guard lock(mutex_);
    const auto it = lanes_.find(rollout);
    if (it == lanes_.end() || it->second->ended) return;
    const std::shared_ptr<Lane> lane = it->second;
    for (auto* list : {&lane->calls, &lane->tools, &lane->held}) {
      while (!list->empty()) {
        const Ticket entry = list->front();
        unlink(*entry);
      }
    }
    lane->ended = std::make_shared<Entry>();
    lane->ended->what = Ended{rollout, std::move(reason)};
    lane->ended->lane = lane.get();
    ended_.push_back(lane);
    if (ended_.size() > kMaxEnded) {
      if (const auto oldest = ended_.front().lock()) forget(oldest);
      ended_.pop_front();
    }
    offer(lane, calls);
  }
  run(std::move(calls));
}

// The lane is over: its end was taken, or nobody wants it.
void ReadyQueue::forget(const std::shared_ptr<Lane>& lane) {
  if (lane->ended) {
    if (const auto& holder = lane->ended->holder) {
      --holder->held;
      --held_;
    }
    lane->ended->lane = nullptr;
    lane->ended.reset();
  }
  const auto it = lanes_.find(lane->rollout);
  if (it != lanes_.end() && it->second == lane) lanes_.erase(it);
}

bool ReadyQueue::has_room() const {
  const std::lock_guard lock(mutex_);
  return waiting_ < limit_;
}

ReadyQueue::Ticket ReadyQueue::push(std::shared_ptr<const llm::Call> call, Announce announce) {
  const RolloutId& rollout = call->rollout;
  return push(rollout, std::move(call), announce);
}

ReadyQueue::Ticket ReadyQueue::push(std::shared_ptr<const ToolRequest> tool) {
  const RolloutId& rollout = tool->rollout;
  return push(rollout, std::move(tool), Announce::kNow);
}

void ReadyQueue::announce(const RolloutId& rollout) {
  Calls calls;
  {
    const std::lock_guard lock(mutex_);
    const auto it = lanes_.find(rollout);
    if (it != lanes_.end() && has_something(*it->second)) offer(std::shared_ptr(it->second), calls);
  }
  run(std::move(calls));
}

ReadyQueue::Ticket ReadyQueue::push(const RolloutId& rollout, Item::What what, Announce announce) {
  Calls calls;
  Ticket ticket;
  {
    const std::lock_guard lock(mutex_);
    const auto it = lanes_.find(rollout);
    if (it == lanes_.end() || it->second->ended) return nullptr;
    const std::shared_ptr<Lane>& lane = it->second;
    ticket = std::make_shared<Entry>();
    ticket->what = std::move(what);
    ticket->lane = lane.get();
    auto& list = ticket->is_call() ? lane->calls : lane->tools;
    ticket->at = list.insert(list.end(), ticket);
    ticket->linked = true;
    if (ticket->is_call()) ++waiting_;
    if (announce == Announce::kNow) {
      offer(lane, calls);
    } else {
      stand_in_turn(lane);
    }
  }
  run(std::move(calls));
  return ticket;
}

// Takes the entry out of whatever list it is in, for good.
void ReadyQueue::unlink(Entry& entry) {
  if (!entry.linked) return;
  entry.linked = false;
  Lane* const lane = std::exchange(entry.lane, nullptr);
  if (entry.holder) {
    --entry.holder->held;
    --held_;
    entry.holder.reset();
    lane->held.erase(entry.at);
  } else if (entry.is_call()) {
    --waiting_;
    lane->calls.erase(entry.at);
  } else {
    lane->tools.erase(entry.at);
  }
}

void ReadyQueue::remove(const Ticket& ticket) {
  if (!ticket) return;
  const std::lock_guard lock(mutex_);
  unlink(*ticket);
}

std::string ReadyQueue::version_of(const Ticket& ticket) const {
  if (!ticket) return {};
  const std::lock_guard lock(mutex_);
  return ticket->version && ticket->version == version_ ? *version_ : std::string();
}

// The lane has something: for who waits for it alone (nothing else can serve those), else for who
// waits for any.
void ReadyQueue::offer(const std::shared_ptr<Lane>& lane, Calls& calls) {
  while (!lane->waiters.empty() && has_something(*lane)) {
    const Waiting waiter = lane->waiters.front();
    drop_waiter(waiter);
    std::vector<Item> items = collect_from(lane, *waiter);
    calls.emplace_back(std::move(waiter->done), std::move(items));
  }
  if (!has_something(*lane)) return;
  stand_in_turn(lane);
  serve(calls);
}

void ReadyQueue::serve(Calls& calls) {
  while (!waiters_.empty()) {
    const Waiting waiter = waiters_.front();
    std::vector<Item> items = collect(*waiter);
    if (items.empty()) return;
    drop_waiter(waiter);
    calls.emplace_back(std::move(waiter->done), std::move(items));
  }
}

void ReadyQueue::offer_all(Calls& calls) {
  // A copy: who takes an end makes its lane go.
  std::vector<std::shared_ptr<Lane>> lanes;
  lanes.reserve(lanes_.size());
  for (const auto& [id, lane] : lanes_) lanes.push_back(lane);
  for (const auto& lane : lanes) {
    if (has_something(*lane)) offer(lane, calls);
  }
}

// The lane whose turn it is.
std::shared_ptr<ReadyQueue::Lane> ReadyQueue::next_lane() {
  while (!turns_.empty()) {
    std::shared_ptr<Lane> lane = std::move(turns_.front());
    turns_.pop_front();
    lane->in_turn = false;
    if (has_something(*lane)) return lane;
  }
  return nullptr;
}

std::vector<Item> ReadyQueue::collect_from(const std::shared_ptr<Lane>& lane, Waiter& waiter) {
  std::vector<Item> out;
  while (out.size() < waiter.max && has_something(*lane)) {
    out.push_back(take_one(lane, waiter.holder));
  }
  return out;
}

std::vector<Item> ReadyQueue::collect(Waiter& waiter) {
  std::vector<Item> out;
  while (out.size() < waiter.max) {
    const std::shared_ptr<Lane> lane = next_lane();
    if (!lane) break;
    out.push_back(take_one(lane, waiter.holder));
    if (has_something(*lane)) stand_in_turn(lane);
  }
  return out;
}

Item ReadyQueue::take_one(const std::shared_ptr<Lane>& lane,
                          const std::shared_ptr<Holder>& holder) {
  Ticket entry;
  if (!lane->tools.empty()) {
    entry = lane->tools.front();
    lane->held.splice(lane->held.end(), lane->tools, entry->at);
  } else if (!lane->calls.empty() && !paused_) {
    entry = lane->calls.front();
    lane->held.splice(lane->held.end(), lane->calls, entry->at);
    --waiting_;
  } else {
    entry = lane->ended;
  }
  ++entry->deliveries;
  entry->version = version_;
  Item item;
  item.what = entry->what;
  item.deliveries = entry->deliveries;
  if (version_) item.version = *version_;
  item.receipt = entry;
  entry->holder = holder;
  ++holder->held;
  ++held_;
  if (entry == lane->ended) {
    if (holder->immortal()) {
      forget(lane);  // in this process nothing is lost on the way
    } else {
      holder->ends.push_back(lane);
    }
  }
  return item;
}

// REQUIRES: it is held.
void ReadyQueue::put_back(const Ticket& ticket) {
  --ticket->holder->held;
  --held_;
  ticket->holder.reset();
  Lane& lane = *ticket->lane;
  stand_in_turn(lane.shared_from_this());
  if (ticket == lane.ended) return;
  auto& list = ticket->is_call() ? lane.calls : lane.tools;
  list.splice(list.begin(), lane.held, ticket->at);
  if (ticket->is_call()) ++waiting_;
}

void ReadyQueue::stand_in_turn(const std::shared_ptr<Lane>& lane) {
  if (lane->in_turn) return;
  lane->in_turn = true;
  turns_.push_back(lane);
}

// Whoever calls this offers all lanes behind it.
size_t ReadyQueue::release(const Holder& holder) {
  size_t released = 0;
  if (holder.held == 0) return 0;
  for (const auto& [id, lane] : lanes_) {
    // From the last, so that they come to stand in their old order.
    std::vector<Ticket> mine;
    for (const Ticket& entry : lane->held) {
      if (entry->holder.get() == &holder) mine.push_back(entry);
    }
    if (lane->ended && lane->ended->holder.get() == &holder) mine.push_back(lane->ended);
    for (auto it = mine.rbegin(); it != mine.rend(); ++it) put_back(*it);
    released += mine.size();
  }
  return released;
}

// It has asked again, so it has what it was given: ends need no other answer.
void ReadyQueue::acknowledge_ends(Holder& holder) {
  for (const auto& weak : std::exchange(holder.ends, {})) {
    const auto lane = weak.lock();
    if (lane && lane->ended && lane->ended->holder.get() == &holder) forget(lane);
  }
}

std::shared_ptr<ReadyQueue::Holder> ReadyQueue::holder_of(const Taker& taker) {
  const auto now = Clock::now();
  auto it = holders_.find(taker.name);
  if (it == holders_.end()) {
    if (holders_.size() >= kMaxTrainers) {
      std::erase_if(holders_, [&](const auto& entry) {
        const Holder& holder = *entry.second;
        return holder.held == 0 && holder.expiry() <= now;
      });
      if (holders_.size() >= kMaxTrainers) return nullptr;
    }
    it = holders_.emplace(taker.name, std::make_shared<Holder>()).first;
    it->second->name = taker.name;
  }
  it->second->seen = now;
  it->second->lease = taker.lease;
  return it->second;
}

void ReadyQueue::drop_waiter(const Waiting& waiting) {
  auto& list = waiting->lane ? waiting->lane->waiters : waiters_;
  list.erase(waiting->at);
  waiting->linked = false;
  --waiting->holder->waits;
  waiting->holder->seen = Clock::now();
}

size_t ReadyQueue::expire(Clock::time_point now) {
  size_t released = 0;
  for (const auto& [name, holder] : holders_) {
    if (holder->held > 0 && holder->expiry() <= now) released += release(*holder);
  }
  return released;
}

ReadyQueue::Waiting ReadyQueue::take(const TakeRequest& request, How how, Done done) {
  Calls calls;
  Waiting waiter = std::make_shared<Waiter>();
  waiter->max = request.max;
  waiter->done = std::move(done);
  Result<std::vector<Item>> taken;
  bool waits = false;
  {
    const std::lock_guard lock(mutex_);
    size_t released = expire(Clock::now());
    taken = take_now(request, *waiter, released);
    // What was put back is for others too.
    if (released > 0) offer_all(calls);
    waits = taken && taken->empty() && how == How::kWait && request.max > 0;
    if (waits) {
      auto& list = waiter->lane ? waiter->lane->waiters : waiters_;
      waiter->at = list.insert(list.end(), waiter);
      waiter->linked = true;
      ++waiter->holder->waits;
    }
  }
  run(std::move(calls));
  // A waiter that waits may be answered by another thread from here on.
  if (!waits) std::exchange(waiter->done, nullptr)(std::move(taken));
  return waiter;
}

Result<std::vector<Item>> ReadyQueue::take_now(const TakeRequest& request, Waiter& waiter,
                                               size_t& released) {
  waiter.holder = holder_of(request.taker);
  if (!waiter.holder) {
    return Error(
        ErrorCode::kExhausted,
        fmt::format("there are {} trainers already: let each keep one name", kMaxTrainers));
  }
  if (request.taker.start == Taker::Start::kAfresh) {
    released += release(*waiter.holder);
  } else {
    acknowledge_ends(*waiter.holder);
  }
  if (!request.rollout) return collect(waiter);

  const auto it = lanes_.find(*request.rollout);
  if (it == lanes_.end()) {
    return Error(ErrorCode::kNotFound, "rollout " + request.rollout->value +
                                           " is not open for a trainer (it has a policy of its "
                                           "own, was never opened, or its end was taken)");
  }
  waiter.lane = it->second;
  return collect_from(waiter.lane, waiter);
}

void ReadyQueue::cancel(const Waiting& waiting) {
  Done done;
  {
    const std::lock_guard lock(mutex_);
    if (!waiting->linked) return;
    drop_waiter(waiting);
    done = std::move(waiting->done);
  }
  done(std::vector<Item>());
}

Result<std::vector<Item>> ReadyQueue::take_within(const TakeRequest& request, Duration wait) {
  struct Here {
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<Result<std::vector<Item>>> taken;
  };
  const auto here = std::make_shared<Here>();
  const auto deadline = until(wait);
  const How how = wait > Duration::zero() ? How::kWait : How::kNow;
  const Waiting waiting = take(request, how, [here](Result<std::vector<Item>> items) {
    {
      const std::lock_guard lock(here->mutex);
      here->taken = std::move(items);
    }
    // Without the lock, or the woken thread would run into it.
    here->changed.notify_one();
  });
  std::unique_lock lock(here->mutex);
  while (!here->taken) {
    // Somebody else's lease may run out meanwhile.
    lock.unlock();
    const auto wake = std::min(deadline, next_expiry());
    lock.lock();
    here->changed.wait_until(lock, wake, [&] { return here->taken.has_value(); });
    if (here->taken) break;
    lock.unlock();
    if (Clock::now() >= deadline) {
      cancel(waiting);
    } else {
      expire_leases();
    }
    lock.lock();
  }
  return std::move(*here->taken);
}

void ReadyQueue::renew(const std::string& taker) {
  const std::lock_guard lock(mutex_);
  const auto it = holders_.find(taker);
  if (it != holders_.end()) it->second->seen = Clock::now();
}

size_t ReadyQueue::give_back(const std::string& taker) {
  Calls calls;
  size_t released = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto it = holders_.find(taker);
    if (it != holders_.end()) released = release(*it->second);
    if (released > 0) offer_all(calls);
  }
  run(std::move(calls));
  return released;
}

void ReadyQueue::give_back(const std::vector<Item>& items) {
  Calls calls;
  {
    const std::lock_guard lock(mutex_);
    bool released = false;
    // From the last, so that they come to stand in their old order.
    for (auto it = items.rbegin(); it != items.rend(); ++it) {
      const auto entry = std::static_pointer_cast<Entry>(it->receipt);
      const bool still =
          entry && entry->holder && entry->lane != nullptr && entry->deliveries == it->deliveries;
      if (!still) continue;
      put_back(entry);
      released = true;
    }
    if (released) offer_all(calls);
  }
  run(std::move(calls));
}

void ReadyQueue::expire_leases() {
  Calls calls;
  {
    const std::lock_guard lock(mutex_);
    if (expire(Clock::now()) > 0) offer_all(calls);
  }
  run(std::move(calls));
}

Clock::time_point ReadyQueue::next_expiry() const {
  const std::lock_guard lock(mutex_);
  auto next = Clock::time_point::max();
  for (const auto& [name, holder] : holders_) {
    if (holder->held > 0) next = std::min(next, holder->expiry());
  }
  return next;
}

void ReadyQueue::pause() {
  const std::lock_guard lock(mutex_);
  paused_ = true;
}

void ReadyQueue::resume(std::optional<std::string> version) {
  Calls calls;
  {
    const std::lock_guard lock(mutex_);
    if (version && (!version_ || *version_ != *version)) {
      version_ = std::make_shared<const std::string>(std::move(*version));
      ++epoch_;
    }
    paused_ = false;
    offer_all(calls);
  }
  run(std::move(calls));
}

ReadyQueue::State ReadyQueue::state() const {
  const std::lock_guard lock(mutex_);
  State state;
  state.paused = paused_;
  if (version_) state.version = *version_;
  state.epoch = epoch_;
  state.waiting = waiting_;
  state.held = held_;
  state.lanes = lanes_.size();
  const auto now = Clock::now();
  for (const auto& [name, holder] : holders_) {
    if (!holder->immortal() && (holder->held > 0 || holder->expiry() > now)) ++state.trainers;
  }
  return state;
}

}  // namespace sluice::gate
