#include "sluice/gate/ready_queue.h"

#include <fmt/format.h>

#include <algorithm>
#include <future>

#include "sluice/base/core/deadline.h"

namespace sluice::gate {
namespace {

// Ends that no trainer asks for are forgotten beyond this many, and closings as well.
constexpr size_t kMaxEnded = 10'000;

// As a point in time that condition variables can take.
Clock::time_point until(Duration wait) {
  return Deadline::in(std::min<Duration>(wait, std::chrono::hours(24 * 365))).at();
}

}  // namespace

struct ReadyQueue::Entry {
  Item::What what;
  Lane* lane = nullptr;            // none: the entry is over
  std::shared_ptr<Holder> holder;  // none: it waits
  std::list<Ticket>::iterator at;
  uint32_t deliveries = 0;
  std::shared_ptr<const std::string> version;  // under which it was handed out last

  bool is_call() const { return what.index() == 0; }
};

struct ReadyQueue::Lane {
  RolloutId rollout;
  Lanes* among = nullptr;
  std::list<Ticket> calls, tools;  // that wait
  std::list<Ticket> held;
  Ticket ended;                                      // its last: waits, or is held
  std::list<std::shared_ptr<Lane>>::iterator place;  // in its Lanes' line or resting
  bool in_line = false;
  std::list<Lane*>::iterator place_ended;  // if its rollout has ended
  std::list<Waiting> waiters;              // for this rollout alone
};

struct ReadyQueue::Waiter {
  size_t max = 1;
  std::shared_ptr<Holder> holder;
  std::shared_ptr<Lane> lane;  // none: any
  bool closings = false;
  Done done;
  std::list<Waiting>::iterator at;
  bool linked = false;
};

// Holds the lock. When it is free, calls whom the queue has served meanwhile.
class ReadyQueue::Locked {
 public:
  explicit Locked(ReadyQueue& queue) : queue_(queue), lock_(queue.mutex_) {}
  ~Locked() {
    auto calls = std::exchange(queue_.calls_, {});
    lock_.unlock();
    for (auto& [done, items] : calls) done(std::move(items));
  }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;

 private:
  ReadyQueue& queue_;
  std::unique_lock<std::mutex> lock_;
};

bool ReadyQueue::has_something(const Lane& lane) const {
  if (!lane.tools.empty() || (!lane.calls.empty() && !paused_)) return true;
  if (!lane.ended || lane.ended->holder) return false;
  if (lane.among == &lanes_) return true;
  // A closing comes behind the end.
  const auto work = find(lanes_, lane.rollout);
  return !work || (work->ended && work->ended->holder);
}

std::shared_ptr<ReadyQueue::Lane> ReadyQueue::add(Lanes& among, const RolloutId& rollout) {
  auto lane = std::make_shared<Lane>();
  lane->rollout = rollout;
  lane->among = &among;
  lane->place = among.resting.insert(among.resting.end(), lane);
  among.by_id[rollout] = lane;
  return lane;
}

std::shared_ptr<ReadyQueue::Lane> ReadyQueue::find(const Lanes& among, const RolloutId& rollout) {
  const auto it = among.by_id.find(rollout);
  return it == among.by_id.end() ? nullptr : it->second;
}

void ReadyQueue::open(const RolloutId& rollout) {
  const Locked locked(*this);
  // The end of an earlier one of that name, which nobody has taken.
  for (const Lanes* const lanes : {&lanes_, &closings_}) {
    if (const auto earlier = find(*lanes, rollout)) drop(earlier);
  }
  add(lanes_, rollout);
}

void ReadyQueue::end(Ended ended) {
  const Locked locked(*this);
  const auto lane = find(lanes_, ended.rollout);
  if (!lane || lane->ended) return;
  for (auto* list : {&lane->calls, &lane->tools, &lane->held}) {
    while (!list->empty()) {
      const Ticket entry = list->front();
      unlink(*entry);
    }
  }
  // Whoever takes the end may ask for the closing at once.
  note_end(*add(closings_, ended.rollout));
  note_end(*lane);
  conclude(lane, std::move(ended));
}

void ReadyQueue::close(std::shared_ptr<const Books> books) {
  const Locked locked(*this);
  const auto lane = find(closings_, books->rollout);
  if (lane && !lane->ended) conclude(lane, std::move(books));
}

void ReadyQueue::note_end(Lane& lane) {
  std::list<Lane*>& ended = lane.among->ended;
  lane.place_ended = ended.insert(ended.end(), &lane);
  if (ended.size() > kMaxEnded) drop(*ended.front()->place);
}

// Gives the lane its last item.
void ReadyQueue::conclude(const std::shared_ptr<Lane>& lane, Item::What last) {
  lane->ended = std::make_shared<Entry>();
  lane->ended->what = last;
  lane->ended->lane = lane.get();
  offer(lane);
  while (!lane->waiters.empty()) tell(lane->waiters.front(), {news_of(last)});
}

// For who asks for nothing else, when another holds the item.
Item ReadyQueue::news_of(const Item::What& last) const {
  Item item;
  item.what = last;
  if (version_) item.version = *version_;
  return item;
}

// The lane is over: its end was taken, or nobody wants it.
void ReadyQueue::forget(std::shared_ptr<Lane> lane) {
  if (const Ticket end = std::exchange(lane->ended, nullptr)) {
    if (end->holder) --end->holder->held;
    end->lane = nullptr;
  }
  Lanes& among = *lane->among;
  among.ended.erase(lane->place_ended);
  (lane->in_line ? among.line : among.resting).erase(lane->place);
  among.by_id.erase(lane->rollout);
  if (&among == &lanes_) end_was_taken(lane->rollout);
}

// The same of one that somebody may wait for: he is told of nothing, and asks again.
void ReadyQueue::drop(std::shared_ptr<Lane> lane) {
  while (!lane->waiters.empty()) tell(lane->waiters.front(), {});
  forget(std::move(lane));
}

// Now there may be its closing.
void ReadyQueue::end_was_taken(const RolloutId& rollout) {
  if (const auto closing = find(closings_, rollout)) stand_in_line(*closing);
}

bool ReadyQueue::has_room() const {
  const std::lock_guard lock(mutex_);
  return waiting_ < limit_;
}

void ReadyQueue::announce(const RolloutId& rollout) {
  const Locked locked(*this);
  const auto lane = find(lanes_, rollout);
  if (lane && has_something(*lane)) offer(lane);
}

ReadyQueue::Ticket ReadyQueue::push(Item::What what, Announce announce) {
  const auto* const call = std::get_if<std::shared_ptr<const llm::Call>>(&what);
  const Locked locked(*this);
  const auto lane = find(lanes_, call != nullptr ? (*call)->rollout : std::get<1>(what)->rollout);
  if (!lane || lane->ended) return nullptr;
  auto ticket = std::make_shared<Entry>();
  ticket->what = std::move(what);
  ticket->lane = lane.get();
  auto& list = ticket->is_call() ? lane->calls : lane->tools;
  ticket->at = list.insert(list.end(), ticket);
  if (ticket->is_call()) ++waiting_;
  if (announce == Announce::kNow) {
    offer(lane);
  } else {
    stand_in_line(*lane);
  }
  return ticket;
}

// Takes the entry out of whatever list it is in, for good.
void ReadyQueue::unlink(Entry& entry) {
  Lane* const lane = std::exchange(entry.lane, nullptr);
  if (lane == nullptr) return;
  if (entry.holder) {
    --entry.holder->held;
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
void ReadyQueue::offer(const std::shared_ptr<Lane>& lane) {
  serve(lane->waiters);
  if (!has_something(*lane)) return;
  stand_in_line(*lane);
  if (lane->among == &lanes_) return serve(waiters_);
  // Not everybody asks for closings.
  const auto asks =
      std::ranges::find_if(waiters_, [](const Waiting& waiter) { return waiter->closings; });
  if (asks != waiters_.end()) tell(*asks, collect(**asks));
}

void ReadyQueue::serve(std::list<Waiting>& waiters) {
  while (!waiters.empty()) {
    const Waiting waiter = waiters.front();
    std::vector<Item> items = collect(*waiter);
    if (items.empty()) return;
    tell(waiter, std::move(items));
  }
}

void ReadyQueue::tell(Waiting waiter, std::vector<Item> items) {
  drop_waiter(waiter);
  calls_.emplace_back(std::move(waiter->done), std::move(items));
}

void ReadyQueue::offer_all() {
  // A copy: who takes an end makes its lane go.
  std::vector<std::shared_ptr<Lane>> lanes;
  lanes.reserve(lanes_.by_id.size() + closings_.by_id.size());
  for (const Lanes* const among : {&lanes_, &closings_}) {
    for (const auto& [id, lane] : among->by_id) lanes.push_back(lane);
  }
  for (const auto& lane : lanes) {
    if (has_something(*lane)) offer(lane);
  }
}

// The lane that is to be served, which leaves the line.
std::shared_ptr<ReadyQueue::Lane> ReadyQueue::next_lane(Lanes& among) {
  while (!among.line.empty()) {
    std::shared_ptr<Lane> lane = among.line.front();
    among.resting.splice(among.resting.end(), among.line, among.line.begin());
    lane->in_line = false;
    if (has_something(*lane)) return lane;
  }
  return nullptr;
}

std::vector<Item> ReadyQueue::collect(Waiter& waiter) {
  std::vector<Item> out;
  // First, since there is but one of each rollout.
  if (waiter.closings && !waiter.lane) collect(waiter, closings_, out);
  collect(waiter, lanes_, out);
  return out;
}

void ReadyQueue::collect(Waiter& waiter, Lanes& among, std::vector<Item>& out) {
  while (out.size() < waiter.max) {
    const std::shared_ptr<Lane> lane = waiter.lane ? waiter.lane : next_lane(among);
    if (!lane || !has_something(*lane)) return;
    out.push_back(take_one(lane, waiter.holder));
    if (has_something(*lane)) stand_in_line(*lane);
  }
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
  if (entry == lane->ended) {
    if (holder->name.empty()) {
      forget(lane);  // in this process nothing is lost on the way
    } else {
      holder->ends.push_back(entry);
      if (lane->among == &lanes_) end_was_taken(lane->rollout);
    }
  }
  return item;
}

// REQUIRES: it is held.
void ReadyQueue::put_back(const Ticket& ticket) {
  --ticket->holder->held;
  ticket->holder.reset();
  Lane& lane = *ticket->lane;
  stand_in_line(lane);
  if (ticket == lane.ended) return;
  auto& list = ticket->is_call() ? lane.calls : lane.tools;
  list.splice(list.begin(), lane.held, ticket->at);
  if (ticket->is_call()) ++waiting_;
}

void ReadyQueue::stand_in_line(Lane& lane) {
  if (std::exchange(lane.in_line, true)) return;
  lane.among->line.splice(lane.among->line.end(), lane.among->resting, lane.place);
}

// Whoever calls this offers all lanes behind it.
size_t ReadyQueue::release(const Holder& holder) {
  size_t released = 0;
  if (holder.held == 0) return 0;
  for (const Lanes* const among : {&lanes_, &closings_}) {
    for (const auto& [id, lane] : among->by_id) {
      // From the last, so that they come to stand in their old order.
      std::vector<Ticket> mine;
      for (const Ticket& entry : lane->held) {
        if (entry->holder.get() == &holder) mine.push_back(entry);
      }
      if (lane->ended && lane->ended->holder.get() == &holder) mine.push_back(lane->ended);
      for (auto it = mine.rbegin(); it != mine.rend(); ++it) put_back(*it);
      released += mine.size();
    }
  }
  return released;
}

// It has asked again, so it has what it was given: ends need no other answer.
void ReadyQueue::acknowledge_ends(Holder& holder) {
  for (const auto& receipt : std::exchange(holder.ends, {})) {
    const auto end = std::static_pointer_cast<Entry>(receipt.lock());
    if (end && end->lane != nullptr && end->holder.get() == &holder) forget(*end->lane->place);
  }
}

std::list<ReadyQueue::Waiting>& ReadyQueue::waiters_of(const Waiter& waiter) {
  return waiter.lane ? waiter.lane->waiters : waiters_;
}

void ReadyQueue::drop_waiter(const Waiting& waiting) {
  waiters_of(*waiting).erase(waiting->at);
  waiting->linked = false;
  --waiting->holder->waits;
  waiting->holder->seen = Clock::now();
  leases_.heard(waiting->holder->seen);
}

// Whoever calls this offers all lanes behind it.
size_t ReadyQueue::expire() {
  size_t released = 0;
  for (const Holder* holder : leases_.expired(Clock::now())) released += release(*holder);
  return released;
}

ReadyQueue::Waiting ReadyQueue::take(const TakeRequest& request, How how, Done done) {
  Waiting waiter = std::make_shared<Waiter>();
  waiter->max = request.max;
  waiter->done = std::move(done);
  Result<std::vector<Item>> taken;
  bool waits = false;
  {
    const Locked locked(*this);
    size_t released = expire();
    taken = take_now(request, *waiter, released);
    // What was put back is for others too.
    if (released > 0) offer_all();
    waits = taken && taken->empty() && how == How::kWait && request.max > 0;
    if (waits) {
      auto& list = waiters_of(*waiter);
      waiter->at = list.insert(list.end(), waiter);
      waiter->linked = true;
      ++waiter->holder->waits;
    }
  }
  // A waiter that waits may be answered by another thread from here on.
  if (!waits) std::exchange(waiter->done, nullptr)(std::move(taken));
  return waiter;
}

Result<std::vector<Item>> ReadyQueue::take_now(const TakeRequest& request, Waiter& waiter,
                                               size_t& released) {
  waiter.holder = leases_.holder_of(request.taker);
  if (!waiter.holder) {
    return Error(
        ErrorCode::kExhausted,
        fmt::format("there are {} trainers already: let each keep one name", Leases::kMost));
  }
  if (request.taker.start == Taker::Start::kAfresh) {
    released += release(*waiter.holder);
  } else {
    acknowledge_ends(*waiter.holder);
  }
  waiter.closings = waiter.holder->closings = request.closings;
  if (!request.rollout) return collect(waiter);
  waiter.lane = find(lanes_, *request.rollout);
  const bool ended = !waiter.lane || (waiter.lane->ended && waiter.lane->ended->holder);
  if (ended && request.closings) {
    if (const auto closing = find(closings_, *request.rollout)) waiter.lane = closing;
  }
  if (!waiter.lane) {
    return Error(ErrorCode::kNotFound, "rollout " + request.rollout->value +
                                           " is not open for a trainer (it has a policy of its "
                                           "own, was never opened, or its end was taken)");
  }
  std::vector<Item> items = collect(waiter);
  const Ticket& end = waiter.lane->ended;
  if (items.empty() && end && request.max > 0) items.push_back(news_of(end->what));
  return items;
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
  const auto promise = std::make_shared<std::promise<Result<std::vector<Item>>>>();
  auto taken = promise->get_future();
  const auto deadline = until(wait);
  const How how = wait > Duration::zero() ? How::kWait : How::kNow;
  const Waiting waiting = take(request, how, [promise](Result<std::vector<Item>> items) {
    promise->set_value(std::move(items));
  });
  // Somebody else's lease may run out meanwhile.
  while (taken.wait_until(std::min(deadline, next_expiry())) != std::future_status::ready) {
    if (Clock::now() >= deadline) {
      cancel(waiting);
    } else {
      expire_leases();
    }
  }
  return taken.get();
}

void ReadyQueue::renew(const std::string& taker) {
  const std::lock_guard lock(mutex_);
  leases_.heard(Clock::now());
  if (Holder* const holder = leases_.find(taker)) holder->seen = Clock::now();
}

void ReadyQueue::trainer_lives() {
  const std::lock_guard lock(mutex_);
  leases_.heard(Clock::now());
}

Clock::time_point ReadyQueue::trainer_heard_last() const {
  const std::lock_guard lock(mutex_);
  return leases_.heard_last(Clock::now());
}

size_t ReadyQueue::give_back(const std::string& taker) {
  const Locked locked(*this);
  const Holder* const holder = leases_.find(taker);
  const size_t released = holder == nullptr ? 0 : release(*holder);
  if (released > 0) offer_all();
  return released;
}

void ReadyQueue::give_back(const std::vector<Item>& items) {
  const Locked locked(*this);
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
  if (released) offer_all();
}

void ReadyQueue::expire_leases() {
  const Locked locked(*this);
  if (expire() > 0) offer_all();
}

Clock::time_point ReadyQueue::next_expiry() const {
  const std::lock_guard lock(mutex_);
  return leases_.next_expiry();
}

void ReadyQueue::pause() {
  const std::lock_guard lock(mutex_);
  paused_ = true;
}

void ReadyQueue::resume(std::optional<std::string> version) {
  const Locked locked(*this);
  if (version && (!version_ || *version_ != *version)) {
    version_ = std::make_shared<const std::string>(std::move(*version));
    ++versions_;
  }
  paused_ = false;
  offer_all();
}

TrainerState ReadyQueue::state() const {
  const std::lock_guard lock(mutex_);
  TrainerState state;
  state.paused = paused_;
  if (version_) state.version = *version_;
  state.versions = versions_;
  state.rollouts = lanes_.by_id.size();
  state.waiting = waiting_;
  state.held = leases_.held();
  state.trainers = leases_.trainers(Clock::now());
  return state;
}

size_t ReadyQueue::closings() const {
  const std::lock_guard lock(mutex_);
  if (!leases_.closings_wanted(Clock::now())) return 0;
  return static_cast<size_t>(std::ranges::count_if(closings_.by_id, [](const auto& one) {
    const Ticket& closing = one.second->ended;
    return closing && !closing->holder;
  }));
}

}  // namespace sluice::gate
