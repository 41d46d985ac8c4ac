#include "sluice/gate/ready_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <thread>

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;

// As long as nothing in a test takes: a wait that ends before was ended by what it waited for.
constexpr auto kForever = 1h;

std::shared_ptr<const llm::Call> call(const std::string& rollout, int number) {
  auto out = std::make_shared<llm::Call>();
  out->rollout = {rollout};
  out->ordinal = static_cast<uint64_t>(number);
  return out;
}

std::string name(const Item& item) {
  if (const auto* ended = item.ended()) return ended->rollout.value + ":end";
  if (const auto* closed = item.closed()) return closed->rollout.value + ":closed";
  if (const auto* tool = item.tool()) return tool->rollout.value + ":" + tool->tool;
  return item.call()->rollout.value + std::to_string(item.call()->ordinal);
}

std::vector<std::string> names(const std::vector<Item>& items) {
  std::vector<std::string> out;
  for (const Item& item : items) out.push_back(name(item));
  return out;
}

// As a taker in this process.
std::vector<Item> next_batch(ReadyQueue& queue, size_t max, Duration wait) {
  TakeRequest request;
  request.max = max;
  return *queue.take_within(request, wait);
}
Result<std::optional<Item>> next(ReadyQueue& queue, const std::string& rollout, Duration wait) {
  TakeRequest request;
  request.rollout = RolloutId{rollout};
  SLUICE_TRY(const std::vector<Item> items, queue.take_within(request, wait));
  return items.empty() ? std::optional<Item>() : items.front();
}

// As a named one.
TakeRequest request(std::string trainer, Duration lease = 1h, size_t max = 9) {
  TakeRequest request;
  request.max = max;
  request.taker.name = std::move(trainer);
  request.taker.lease = lease;
  return request;
}
std::vector<std::string> take(ReadyQueue& queue, const TakeRequest& request) {
  return names(*queue.take_within(request, 0s));
}

TEST(ReadyQueueTest, KnowsWhenATrainerWasHeardOfLast) {
  ReadyQueue queue(100);
  queue.open({"a"});
  EXPECT_EQ(queue.trainer_heard_last(), Clock::time_point::min());
  const auto heard_since = [&](Clock::time_point before) {
    return queue.trainer_heard_last() >= before;
  };
  auto before = Clock::now();
  take(queue, request("one"));
  EXPECT_TRUE(heard_since(before));
  // Looking at it is no sign of life.
  before = Clock::now();
  queue.state();
  queue.expire_leases();
  EXPECT_FALSE(heard_since(before));
  queue.renew("one");
  EXPECT_TRUE(heard_since(before));
  before = Clock::now();
  queue.trainer_lives();
  EXPECT_TRUE(heard_since(before));
  // Who waits lives for as long as that.
  const auto waiting =
      queue.take(request("two"), ReadyQueue::How::kWait, [](Result<std::vector<Item>>) {});
  before = Clock::now();
  EXPECT_TRUE(heard_since(before));
  queue.cancel(waiting);
  before = Clock::now();
  EXPECT_FALSE(heard_since(before));
}

TEST(ReadyQueueTest, WhatIsAnnouncedLaterWakesWhoWaitsOnceWithAllOfIt) {
  ReadyQueue queue(100);
  queue.open({"a"});
  std::vector<std::string> got;
  TakeRequest any;
  any.max = 9;
  queue.take(any, ReadyQueue::How::kWait, [&](auto items) { got = names(*items); });
  queue.push(call("a", 1), ReadyQueue::Announce::kLater);
  queue.push(call("a", 2), ReadyQueue::Announce::kLater);
  EXPECT_TRUE(got.empty());
  queue.announce({"a"});
  EXPECT_THAT(got, ElementsAre("a1", "a2"));
  // Who comes meanwhile need not wait for that.
  queue.push(call("a", 3), ReadyQueue::Announce::kLater);
  EXPECT_THAT(names(next_batch(queue, 9, 0s)), ElementsAre("a3"));
  queue.announce({"a"});
  queue.announce({"nobody"});
}

TEST(ReadyQueueTest, ServesRolloutsInTurn) {
  ReadyQueue queue(100);
  for (const char* rollout : {"a", "b", "c"}) queue.open({rollout});
  for (int i = 1; i <= 4; ++i) queue.push(call("a", i));
  queue.push(call("b", 1));
  queue.push(call("c", 1));
  queue.push(call("c", 2));
  EXPECT_THAT(names(next_batch(queue, 5, 0s)), ElementsAre("a1", "b1", "c1", "a2", "c2"));
  EXPECT_THAT(names(next_batch(queue, 5, 0s)), ElementsAre("a3", "a4"));
  EXPECT_TRUE(next_batch(queue, 5, 0s).empty());
  EXPECT_TRUE(next_batch(queue, 0, kForever).empty());
}

TEST(ReadyQueueTest, NoneOfManyRolloutsWaitsBehindAnothersCalls) {
  constexpr int kRollouts = 512, kEach = 3;
  ReadyQueue queue(10'000);
  for (int i = 0; i < kRollouts; ++i) {
    const std::string rollout = "r" + std::to_string(i) + ".";
    queue.open({rollout});
    // The first has a thousand calls, before anybody else's first.
    const int calls = i == 0 ? 1000 : kEach;
    for (int n = 1; n <= calls; ++n) queue.push(call(rollout, n));
  }
  for (int round = 1; round <= kEach; ++round) {
    std::map<std::string, int> served;
    for (int batch = 0; batch < kRollouts / 32; ++batch) {
      for (const Item& item : next_batch(queue, 32, 0s)) ++served[item.call()->rollout.value];
    }
    EXPECT_EQ(served.size(), static_cast<size_t>(kRollouts)) << "round " << round;
  }
  EXPECT_EQ(next_batch(queue, 10'000, 0s).size(), static_cast<size_t>(1000 - kEach));
}

TEST(ReadyQueueTest, NextTakesFromOneRolloutAlone) {
  ReadyQueue queue(100);
  queue.open({"a"});
  queue.open({"b"});
  queue.push(call("a", 1));
  EXPECT_FALSE(*next(queue, "b", 0s));
  EXPECT_EQ(name(**next(queue, "a", 0s)), "a1");
  EXPECT_FALSE(*next(queue, "a", 0s));
  EXPECT_EQ(next(queue, "unknown", kForever).error().code, ErrorCode::kNotFound);
}

TEST(ReadyQueueTest, TheEndIsTheLastItemAndIsTakenOnce) {
  ReadyQueue queue(100);
  queue.open({"a"});
  queue.push(call("a", 1));
  queue.end({{"a"}, "closed"});
  queue.push(call("a", 2));
  EXPECT_THAT(names(next_batch(queue, 9, 0s)), ElementsAre("a:end"));
  EXPECT_TRUE(next_batch(queue, 9, 0s).empty());
  EXPECT_EQ(next(queue, "a", 0s).error().code, ErrorCode::kNotFound);
}

TEST(ReadyQueueTest, NothingIsLeftOfRolloutsThatAreTakenFromOneByOne) {
  ReadyQueue queue(100);
  for (const char* rollout : {"a", "b", "c"}) {
    queue.open({rollout});
    queue.push(call(rollout, 1));
    EXPECT_TRUE((*next(queue, rollout, 0s))->call());
    queue.end({{rollout}, "closed"});
    EXPECT_TRUE((*next(queue, rollout, 0s))->ended());
  }
  EXPECT_EQ(queue.state().rollouts, 0u);
}

TEST(ReadyQueueTest, AllWhoWaitForARolloutHearOfItsEnd) {
  for (const std::string trainer : {"", "t"}) {
    ReadyQueue queue(100);
    queue.open({"a"});
    const auto of_a = [&](int number) {
      TakeRequest out = request(trainer.empty() ? "" : trainer + std::to_string(number));
      out.rollout = RolloutId{"a"};
      return out;
    };
    std::vector<std::string> heard;
    for (int i = 0; i < 3; ++i) {
      queue.take(of_a(i), ReadyQueue::How::kWait,
                 [&](auto items) { heard.push_back(name(items->at(0))); });
    }
    queue.end({{"a"}, "closed"});
    EXPECT_THAT(heard, ElementsAre("a:end", "a:end", "a:end"));
    if (trainer.empty()) continue;
    // One of them holds it: who asks meanwhile is told the same, and nobody else is.
    EXPECT_THAT(take(queue, of_a(3)), ElementsAre("a:end"));
    EXPECT_TRUE(take(queue, request("any")).empty());
    EXPECT_EQ(queue.state().held, 1u);
    take(queue, request("t0"));
    EXPECT_EQ(queue.state().rollouts, 0u);
  }
}

TEST(ReadyQueueTest, IsBoundedOverAllRollouts) {
  ReadyQueue queue(2);
  queue.open({"a"});
  queue.open({"b"});
  const auto first = queue.push(call("a", 1));
  EXPECT_TRUE(queue.has_room());
  queue.push(call("b", 1));
  EXPECT_FALSE(queue.has_room());
  queue.remove(first);
  EXPECT_TRUE(queue.has_room());
  EXPECT_THAT(names(next_batch(queue, 9, 0s)), ElementsAre("b1"));
  queue.push(call("a", 2));
  queue.push(call("a", 3));
  EXPECT_FALSE(queue.has_room());
  queue.end({{"a"}, ""});
  EXPECT_TRUE(queue.has_room());
}

TEST(ReadyQueueTest, APushWakesWhoeverWaits) {
  ReadyQueue queue(100);
  queue.open({"a"});
  std::thread any([&] { EXPECT_THAT(names(next_batch(queue, 1, kForever)), ElementsAre("a1")); });
  queue.push(call("a", 1));
  any.join();
  std::thread one([&] { EXPECT_EQ(name(**next(queue, "a", kForever)), "a2"); });
  queue.push(call("a", 2));
  one.join();
}

TEST(ReadyQueueTest, TheEndWakesWhoeverWaits) {
  ReadyQueue queue(100);
  queue.open({"a"});
  std::thread one([&] { EXPECT_EQ(name(**next(queue, "a", kForever)), "a:end"); });
  queue.end({{"a"}, "closed"});
  one.join();
}

constexpr int kRollouts = 64, kCalls = 50;

void push_all(ReadyQueue& queue) {
  for (int c = 0; c < kCalls; ++c) {
    for (int r = 0; r < kRollouts; ++r) queue.push(call("r" + std::to_string(r), c));
  }
}

// The original parked each waiting session on a thread of a small shared pool, and starved when
// there were more sessions than threads.
TEST(ReadyQueueTest, finding_05_many_trainers_wait_side_by_side) {
  ReadyQueue queue(100'000);
  for (int r = 0; r < kRollouts; ++r) queue.open({"r" + std::to_string(r)});
  std::atomic<int> taken = 0;
  std::vector<std::thread> trainers;
  for (int r = 0; r < kRollouts; ++r) {
    trainers.emplace_back([&queue, &taken, r] {
      for (;;) {
        const auto item = next(queue, "r" + std::to_string(r), kForever);
        if ((*item)->ended() != nullptr) return;
        ++taken;
      }
    });
  }
  push_all(queue);
  while (taken < kRollouts * kCalls) std::this_thread::yield();
  for (int r = 0; r < kRollouts; ++r) queue.end({{"r" + std::to_string(r)}, "closed"});
  for (auto& trainer : trainers) trainer.join();
  EXPECT_EQ(taken, kRollouts * kCalls);
}

TEST(ReadyQueueTest, finding_05_one_trainer_serves_many_rollouts) {
  ReadyQueue queue(100'000);
  for (int r = 0; r < kRollouts; ++r) queue.open({"r" + std::to_string(r)});
  int taken = 0, ends = 0;
  std::thread trainer([&] {
    while (ends < kRollouts) {
      for (const Item& item : next_batch(queue, 16, kForever)) {
        ++(item.ended() != nullptr ? ends : taken);
        if (taken == kRollouts * kCalls && ends == 0) {
          for (int r = 0; r < kRollouts; ++r) queue.end({{"r" + std::to_string(r)}, "closed"});
        }
      }
    }
  });
  push_all(queue);
  trainer.join();
  EXPECT_EQ(taken, kRollouts * kCalls);
}

TEST(ReadyQueueTest, EndsThatNobodyTakesAreForgottenInTheEnd) {
  ReadyQueue queue(10);
  for (int i = 0; i < 10'001; ++i) {
    const RolloutId id{"r" + std::to_string(i)};
    queue.open(id);
    queue.end({id, "closed"});
  }
  EXPECT_EQ(next(queue, "r0", 0s).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(name(**next(queue, "r10000", 0s)), "r10000:end");
  EXPECT_EQ(next_batch(queue, 20'000, 0s).size(), 9'999u);
}

std::shared_ptr<const Books> books(const std::string& rollout) {
  auto out = std::make_shared<Books>();
  out->rollout = {rollout};
  return out;
}
TakeRequest closings(TakeRequest request) {
  request.closings = true;
  return request;
}
TakeRequest of(const std::string& rollout, TakeRequest request) {
  request.rollout = RolloutId{rollout};
  return request;
}

TEST(ReadyQueueTest, WhatCameOfARolloutIsOneMoreItemForWhoAsksForSuch) {
  ReadyQueue queue(100);
  for (const char* rollout : {"a", "b"}) queue.open({rollout});
  queue.end({{"a"}, "closed"});
  queue.close(books("a"));
  queue.close(books("a"));        // once
  queue.close(books("b"));        // not before its end
  queue.close(books("unknown"));  // nor of one that no trainer knows
  // Behind the end, whoever gets that.
  EXPECT_THAT(take(queue, closings(request("t1", 1h, 1))), ElementsAre("a:end"));
  EXPECT_THAT(take(queue, request("t2")), ElementsAre());
  EXPECT_EQ(queue.state().rollouts, 2u);
  EXPECT_THAT(take(queue, closings(request("t1"))), ElementsAre("a:closed"));
  EXPECT_EQ(queue.state().rollouts, 1u);
  // To one taker, and it counts as received when that one takes again.
  EXPECT_THAT(take(queue, closings(request("t2"))), ElementsAre());
  EXPECT_EQ(queue.state().held, 1u);
  EXPECT_THAT(take(queue, closings(request("t1"))), ElementsAre());
  EXPECT_EQ(queue.state().held, 0u);
  EXPECT_EQ(queue.give_back("t1"), 0u);
}

TEST(ReadyQueueTest, AClosingWakesWhoAsksForSuchAndNobodyElse) {
  ReadyQueue queue(100);
  queue.open({"a"});
  queue.end({{"a"}, "closed"});
  EXPECT_THAT(take(queue, request("t")), ElementsAre("a:end"));
  std::vector<std::string> told;
  const auto wait = [&](const TakeRequest& request) {
    return queue.take(request, ReadyQueue::How::kWait, [&, who = request.taker.name](auto items) {
      for (const std::string& each : names(*items)) told.push_back(who + "=" + each);
    });
  };
  const auto first = wait(request("calls"));
  const auto second = wait(closings(request("all")));
  const auto third = wait(closings(request("late")));
  queue.close(books("a"));
  EXPECT_THAT(told, ElementsAre("all=a:closed"));
  queue.open({"b"});
  queue.push(call("b", 1));
  EXPECT_THAT(told, ElementsAre("all=a:closed", "calls=b1"));
  queue.cancel(third);
}

TEST(ReadyQueueTest, ClosingsDoNotWaitBehindCalls) {
  ReadyQueue queue(100);
  for (const char* rollout : {"a", "b"}) queue.open({rollout});
  queue.end({{"a"}, "closed"});
  EXPECT_THAT(take(queue, closings(request("t"))), ElementsAre("a:end"));
  queue.push(call("b", 1));
  queue.close(books("a"));
  EXPECT_THAT(take(queue, closings(request("t", 1h, 1))), ElementsAre("a:closed"));
  EXPECT_THAT(take(queue, closings(request("t", 1h, 1))), ElementsAre("b1"));
}

TEST(ReadyQueueTest, WhoTakesFromOneRolloutWaitsForItsClosingBehindItsEnd) {
  for (const std::string name : {"", "t"}) {
    ReadyQueue queue(100);
    queue.open({"a"});
    queue.end({{"a"}, "closed"});
    const TakeRequest mine = of("a", closings(request(name)));
    EXPECT_THAT(take(queue, mine), ElementsAre("a:end"));
    std::vector<std::string> told;
    const auto waiting =
        queue.take(mine, ReadyQueue::How::kWait, [&](const auto& items) { told = names(*items); });
    EXPECT_TRUE(told.empty());
    // Who does not ask for it has had all that there is.
    EXPECT_EQ(queue.take_within(of("a", request("other")), 0s).error().code, ErrorCode::kNotFound);
    queue.close(books("a"));
    EXPECT_THAT(told, ElementsAre("a:closed"));
    EXPECT_EQ(queue.take_within(mine, 0s).error().code, ErrorCode::kNotFound);
  }
}

TEST(ReadyQueueTest, AClosingThatADeadTrainerHeldIsTakenByAnother) {
  ReadyQueue queue(100);
  queue.open({"a"});
  queue.end({{"a"}, "closed"});
  queue.close(books("a"));
  EXPECT_THAT(take(queue, closings(request("t1", 1h, 1))), ElementsAre("a:end"));
  EXPECT_THAT(take(queue, closings(request("t1", 1ns))), ElementsAre("a:closed"));
  EXPECT_THAT(take(queue, request("t2")), ElementsAre());
  auto items = *queue.take_within(closings(request("t2")), 0s);
  EXPECT_THAT(names(items), ElementsAre("a:closed"));
  EXPECT_EQ(items[0].deliveries, 2u);
  // Its connection broke: as if it had not been taken.
  queue.give_back(items);
  EXPECT_THAT(take(queue, closings(request("t3"))), ElementsAre("a:closed"));
}

TEST(ReadyQueueTest, SomebodyLivesWhoWantsTheClosingsThatWait) {
  ReadyQueue queue(100);
  queue.open({"a"});
  queue.end({{"a"}, "closed"});
  queue.close(books("a"));
  take(queue, request("t", 1h));
  EXPECT_EQ(queue.closings(), 0u) << "nobody asks for it";
  take(queue, closings(request("dead", 1ns, 0)));
  EXPECT_EQ(queue.closings(), 0u) << "who asked for it is gone";
  take(queue, closings(request("t", 1h, 0)));
  EXPECT_EQ(queue.closings(), 1u);
  take(queue, closings(request("t", 1h)));
  EXPECT_EQ(queue.closings(), 0u);
}

TEST(ReadyQueueTest, ClosingsThatNobodyTakesAreForgottenInTheEnd) {
  ReadyQueue queue(10);
  std::optional<size_t> told;
  ReadyQueue::Waiting waiting;
  for (int i = 0; i < 10'001; ++i) {
    const RolloutId id{"r" + std::to_string(i)};
    queue.open(id);
    queue.end({id, "closed"});
    next_batch(queue, 1, 0s);
    if (i > 0) queue.close(books(id.value));
    if (i > 0) continue;
    waiting = queue.take(of("r0", closings(request("t"))), ReadyQueue::How::kWait,
                         [&](const auto& items) { told = items->size(); });
  }
  EXPECT_EQ(told, 0u) << "who waits for one that is forgotten asks again";
  EXPECT_EQ(queue.take_within(of("r0", closings(request("t"))), 0s).error().code,
            ErrorCode::kNotFound);
  EXPECT_EQ(take(queue, closings(request("t", 1h, 20'000))).size(), 10'000u);
}

TEST(ReadyQueueTest, ARolloutThatIsOpenedAnewHasNothingOfTheEarlierOne) {
  ReadyQueue queue(100);
  queue.open({"a"});
  queue.end({{"a"}, "closed"});
  queue.close(books("a"));
  queue.open({"a"});
  EXPECT_THAT(take(queue, closings(request("t"))), ElementsAre());
  queue.push(call("a", 1));
  EXPECT_THAT(take(queue, closings(request("t"))), ElementsAre("a1"));
}

TEST(ReadyQueueTest, WhatADeadTrainerHeldGoesToTheFrontAgain) {
  ReadyQueue queue(100);
  queue.open({"a"});
  for (int i = 1; i <= 4; ++i) queue.push(call("a", i));
  EXPECT_THAT(take(queue, request("t1", 1ns, 2)), ElementsAre("a1", "a2"));
  // Its lease has run out by now, and nothing was heard of it.
  auto items = *queue.take_within(request("t2"), 0s);
  EXPECT_THAT(names(items), ElementsAre("a1", "a2", "a3", "a4"));
  EXPECT_EQ(items[0].deliveries, 2u);
  EXPECT_EQ(items[2].deliveries, 1u);
  EXPECT_THAT(take(queue, request("t1")), ElementsAre());
}

TEST(ReadyQueueTest, ATrainerThatLivesKeepsWhatItHolds) {
  ReadyQueue queue(100);
  queue.open({"a"});
  queue.push(call("a", 1));
  EXPECT_THAT(take(queue, request("t1", 1h)), ElementsAre("a1"));
  queue.expire_leases();
  EXPECT_THAT(take(queue, request("t2")), ElementsAre());
  EXPECT_EQ(queue.state().held, 1u);
  EXPECT_EQ(queue.state().trainers, 2u);
  // A take that waits is a sign of life, however long it waits.
  bool told = false;
  const auto waiting =
      queue.take(request("t1", 1ns), ReadyQueue::How::kWait, [&](const auto&) { told = true; });
  queue.expire_leases();
  EXPECT_THAT(take(queue, request("t2")), ElementsAre());
  queue.cancel(waiting);
  EXPECT_TRUE(told);
}

TEST(ReadyQueueTest, ALeaseThatRunsOutWakesWhoeverWaits) {
  ReadyQueue queue(100);
  queue.open({"a"});
  queue.push(call("a", 1));
  EXPECT_THAT(take(queue, request("t1", 50ms)), ElementsAre("a1"));
  EXPECT_THAT(names(*queue.take_within(request("t2"), kForever)), ElementsAre("a1"));
}

TEST(ReadyQueueTest, ATrainerThatStartsAfreshGetsWhatItsNameHeld) {
  ReadyQueue queue(100);
  for (const char* rollout : {"a", "b", "c"}) queue.open({rollout});
  queue.push(call("a", 1));
  queue.push(call("b", 1));
  queue.end({{"c"}, "closed"});
  EXPECT_EQ(take(queue, request("t")).size(), 3u);
  TakeRequest again = request("t");
  again.taker.start = Taker::Start::kAfresh;
  std::vector<std::string> taken = take(queue, again);
  std::sort(taken.begin(), taken.end());
  EXPECT_THAT(taken, ElementsAre("a1", "b1", "c:end"));
}

TEST(ReadyQueueTest, AnEndCountsAsReceivedWhenItsTakerAsksAgain) {
  ReadyQueue queue(100);
  queue.open({"a"});
  queue.end({{"a"}, "closed"});
  EXPECT_THAT(take(queue, request("t")), ElementsAre("a:end"));
  EXPECT_EQ(queue.state().rollouts, 1u);
  EXPECT_THAT(take(queue, request("t")), ElementsAre());
  EXPECT_EQ(queue.state().rollouts, 0u);
  EXPECT_EQ(queue.state().held, 0u);
}

TEST(ReadyQueueTest, WhatIsGivenBackIsTakenAgainInItsOrder) {
  ReadyQueue queue(100);
  queue.open({"a"});
  for (int i = 1; i <= 3; ++i) queue.push(call("a", i));
  const auto items = *queue.take_within(request("t", 1h, 2), 0s);
  queue.give_back(items);
  queue.give_back(items);  // once is enough
  EXPECT_THAT(take(queue, request("t")), ElementsAre("a1", "a2", "a3"));
  EXPECT_EQ(queue.give_back("t"), 3u);
  EXPECT_EQ(queue.give_back("t"), 0u);
  EXPECT_EQ(queue.give_back("nobody"), 0u);
  // An old receipt for what is with somebody else by now.
  EXPECT_THAT(take(queue, request("t2")), ElementsAre("a1", "a2", "a3"));
  queue.give_back(items);
  EXPECT_THAT(take(queue, request("t")), ElementsAre());
}

TEST(ReadyQueueTest, WhatHasEndedIsHeldByNobody) {
  ReadyQueue queue(100);
  queue.open({"a"});
  const auto answered = queue.push(call("a", 1));
  queue.push(call("a", 2));
  EXPECT_THAT(take(queue, request("t")), ElementsAre("a1", "a2"));
  queue.remove(answered);
  queue.remove(answered);
  queue.remove(nullptr);
  EXPECT_EQ(queue.state().held, 1u);
  queue.end({{"a"}, "closed"});
  EXPECT_EQ(queue.state().held, 0u);
  EXPECT_EQ(queue.give_back("t"), 0u);
  EXPECT_THAT(take(queue, request("t")), ElementsAre("a:end"));
}

TEST(ReadyQueueTest, TakesThatWaitAreServedInTheirOrder) {
  ReadyQueue queue(100);
  queue.open({"a"});
  queue.open({"b"});
  std::vector<std::string> told;
  const auto note = [&](std::string who) {
    return [&told, who](Result<std::vector<Item>> items) {
      for (const std::string& each : names(*items)) told.push_back(who + "=" + each);
      if (items->empty()) told.push_back(who + "=");
    };
  };
  const auto first = queue.take(request("t1"), ReadyQueue::How::kWait, note("first"));
  const auto second = queue.take(request("t2"), ReadyQueue::How::kWait, note("second"));
  TakeRequest of_b = request("t3");
  of_b.rollout = RolloutId{"b"};
  const auto third = queue.take(of_b, ReadyQueue::How::kWait, note("third"));
  queue.push(call("b", 1));
  queue.push(call("a", 1));
  queue.cancel(second);
  queue.cancel(first);  // it was served already
  queue.push(call("a", 2));
  EXPECT_THAT(told, ElementsAre("third=b1", "first=a1", "second="));
  const auto none = queue.take(request("t1"), ReadyQueue::How::kNow, note("now"));
  EXPECT_EQ(told.back(), "now=a2");
}

TEST(ReadyQueueTest, APauseHoldsCallsBackAndNothingElse) {
  ReadyQueue queue(100);
  queue.open({"a"});
  queue.open({"b"});
  queue.push(call("a", 1));
  queue.pause();
  queue.push(call("a", 2));
  EXPECT_TRUE(queue.state().paused);
  EXPECT_THAT(take(queue, request("t")), ElementsAre());
  auto tool = std::make_shared<ToolRequest>();
  tool->rollout = {"a"};
  tool->tool = "search";
  queue.push(std::move(tool));
  queue.end({{"b"}, "closed"});
  EXPECT_THAT(take(queue, request("t")), ElementsAre("a:search", "b:end"));
  std::vector<std::string> told;
  const auto waiting = queue.take(request("t"), ReadyQueue::How::kWait,
                                  [&](const auto& items) { told = names(*items); });
  queue.resume(std::nullopt);
  EXPECT_THAT(told, ElementsAre("a1", "a2"));
}

TEST(ReadyQueueTest, AnItemTellsTheVersionItWasHandedOutUnder) {
  ReadyQueue queue(100);
  queue.open({"a"});
  const auto first = queue.push(call("a", 1));
  EXPECT_EQ((*queue.take_within(request("t"), 0s))[0].version, "");
  EXPECT_EQ(queue.version_of(first), "");
  queue.resume("step-1");
  const auto second = queue.push(call("a", 2));
  EXPECT_EQ(queue.version_of(second), "") << "nobody has it yet";
  EXPECT_EQ((*queue.take_within(request("t"), 0s))[0].version, "step-1");
  EXPECT_EQ(queue.version_of(second), "step-1");
  queue.pause();
  queue.resume("step-1");
  EXPECT_EQ(queue.version_of(second), "step-1");
  EXPECT_EQ(queue.state().versions, 1u);
  queue.resume("step-2");
  EXPECT_EQ(queue.version_of(second), "") << "it may be of either";
  EXPECT_EQ(queue.state().versions, 2u);
}

TEST(ReadyQueueTest, NamesOfTrainersAreBounded) {
  ReadyQueue queue(2000);
  queue.open({"a"});
  for (int i = 0; i < 1000; ++i) {
    queue.push(call("a", i));
    ASSERT_EQ(take(queue, request("t" + std::to_string(i), 1h, 1)).size(), 1u);
  }
  EXPECT_EQ(queue.take_within(request("one-more"), 0s).error().code, ErrorCode::kExhausted);
  EXPECT_TRUE(queue.take_within(request("t0"), 0s));
}

}  // namespace
}  // namespace sluice::gate
