// ReadyQueue: what waits for a trainer (calls, tool calls, the ends of rollouts), a lane for each
// rollout, served one after the other, so that a rollout with much to do delays the others by one
// item each. Bounded over all rollouts.
//
// What a trainer has taken it holds, until it is answered or ends. What a dead one held (leases.h)
// goes to the front of its lanes again.
//
// Any thread. The one thing that shards and trainers share a lock on, held for moments only; nobody
// is called while it is held.
#pragma once

#include <list>
#include <mutex>
#include <utility>

#include "sluice/gate/leases.h"

namespace sluice::gate {

class ReadyQueue {
  struct Lane;

 public:
  // One item, from its push to its end. Whoever pushed it keeps it, to take it back.
  struct Entry;
  using Ticket = std::shared_ptr<Entry>;
  // A take that waits.
  struct Waiter;
  using Waiting = std::shared_ptr<Waiter>;
  using Done = std::function<void(Result<std::vector<Item>>)>;

  explicit ReadyQueue(size_t limit) : limit_(limit) {}
  ReadyQueue(const ReadyQueue&) = delete;
  ReadyQueue& operator=(const ReadyQueue&) = delete;

  // Makes the rollout's lane. Until then, and after its end, push() drops.
  // REQUIRES: an earlier lane of that id has ended.
  void open(const RolloutId& rollout);
  // The last item of the rollout's lane; what of it still waits, or is held, is dropped. One taker
  // holds it; others who ask for this rollout alone are told the same.
  void end(Ended ended);
  // What came of a rollout that has ended: one more item, behind its end, of a lane of its own that
  // only those are served from who ask for closings.
  void close(std::shared_ptr<const Books> books);

  // Whether one more call fits.
  bool has_room() const;
  // kLater: who waits is not woken before announce(), so that much that comes at once wakes once.
  enum class Announce : uint8_t { kNow, kLater };
  // REQUIRES: a call, or a tool's.
  Ticket push(Item::What what, Announce announce = Announce::kNow);
  void announce(const RolloutId& rollout);
  // Takes back what nobody needs to answer any more, whoever has it.
  void remove(const Ticket& ticket);
  // The version under which the item was handed out, if that is still the current one.
  std::string version_of(const Ticket& ticket) const;

  // Calls `done` once: with items as soon as there are any (on this thread or on the one that
  // pushes), with none if the take is cancelled first or there are none and `how` says not to wait.
  // kNotFound for a rollout without a lane; kExhausted for more trainers than anybody has.
  enum class How : uint8_t { kWait, kNow };
  Waiting take(const TakeRequest& request, How how, Done done);
  void cancel(const Waiting& waiting);
  // The same, waiting here.
  Result<std::vector<Item>> take_within(const TakeRequest& request, Duration wait);

  // Somebody lives: what it holds is its own for another lease.
  void renew(const std::string& taker);
  // Some trainer lives, though it takes nothing; and when one was last known to.
  void trainer_lives();
  Clock::time_point trainer_heard_last() const;
  // Puts back all that the trainer holds; how much that was.
  size_t give_back(const std::string& taker);
  // Puts back what was taken and did not get to who took it.
  void give_back(const std::vector<Item>& items);
  // Puts back what dead trainers held. Every take does so too.
  void expire_leases();
  Clock::time_point next_expiry() const;

  // While paused, calls are held back; tool calls and ends are not.
  void pause();
  // Also counts the versions: 0 until the first.
  void resume(std::optional<std::string> version);
  TrainerState state() const;
  // Closings that wait, if some named trainer that lives asks for such.
  size_t closings() const;

 private:
  class Locked;
  // Lanes of one kind.
  struct Lanes {
    std::unordered_map<RolloutId, std::shared_ptr<Lane>> by_id;
    // The same lanes: those with items, in the order in which they are served (one may have become
    // empty since), and the others.
    std::list<std::shared_ptr<Lane>> line, resting;
    std::list<Lane*> ended;  // in the order in which their rollouts ended
  };

  static std::shared_ptr<Lane> add(Lanes& among, const RolloutId& rollout);
  static std::shared_ptr<Lane> find(const Lanes& among, const RolloutId& rollout);
  void note_end(Lane& lane);
  void conclude(const std::shared_ptr<Lane>& lane, Item::What last);
  bool has_something(const Lane& lane) const;
  void offer(const std::shared_ptr<Lane>& lane);
  void offer_all();
  void serve(std::list<Waiting>& waiters);
  Item take_one(const std::shared_ptr<Lane>& lane, const std::shared_ptr<Holder>& holder);
  Result<std::vector<Item>> take_now(const TakeRequest& request, Waiter& waiter, size_t& released);
  std::vector<Item> collect(Waiter& waiter);
  void collect(Waiter& waiter, Lanes& among, std::vector<Item>& out);
  std::shared_ptr<Lane> next_lane(Lanes& among);
  static void stand_in_line(Lane& lane);
  void end_was_taken(const RolloutId& rollout);
  void unlink(Entry& entry);
  void put_back(const Ticket& ticket);
  size_t release(const Holder& holder);
  size_t expire();
  void acknowledge_ends(Holder& holder);
  Item news_of(const Item::What& last) const;
  void forget(std::shared_ptr<Lane> lane);
  void drop(std::shared_ptr<Lane> lane);
  std::list<Waiting>& waiters_of(const Waiter& waiter);
  void drop_waiter(const Waiting& waiting);
  void tell(Waiting waiter, std::vector<Item> items);

  const size_t limit_;
  mutable std::mutex mutex_;
  Lanes lanes_;
  Lanes closings_;              // one of each rollout that has ended
  std::list<Waiting> waiters_;  // for any rollout
  Leases leases_;
  size_t waiting_ = 0;  // calls
  bool paused_ = false;
  std::shared_ptr<const std::string> version_;
  uint64_t versions_ = 0;                                  // how many there were
  std::vector<std::pair<Done, std::vector<Item>>> calls_;  // to make when the lock is free
};

}  // namespace sluice::gate
