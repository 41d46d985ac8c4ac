#include "sluice/gate/ready_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
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
  if (const auto* ended = std::get_if<Ended>(&item)) return ended->rollout.value + ":end";
  const auto& waiting = std::get<std::shared_ptr<const llm::Call>>(item);
  return waiting->rollout.value + std::to_string(waiting->ordinal);
}

std::vector<std::string> names(const std::vector<Item>& items) {
  std::vector<std::string> out;
  for (const Item& item : items) out.push_back(name(item));
  return out;
}

TEST(ReadyQueueTest, ServesRolloutsInTurn) {
  ReadyQueue queue(100);
  for (const char* rollout : {"a", "b", "c"}) queue.open({rollout});
  for (int i = 1; i <= 4; ++i) queue.push(call("a", i));
  queue.push(call("b", 1));
  queue.push(call("c", 1));
  queue.push(call("c", 2));
  EXPECT_THAT(names(queue.next_batch(5, 0s)), ElementsAre("a1", "b1", "c1", "a2", "c2"));
  EXPECT_THAT(names(queue.next_batch(5, 0s)), ElementsAre("a3", "a4"));
  EXPECT_TRUE(queue.next_batch(5, 0s).empty());
  EXPECT_TRUE(queue.next_batch(0, kForever).empty());
}

TEST(ReadyQueueTest, NextTakesFromOneRolloutAlone) {
  ReadyQueue queue(100);
  queue.open({"a"});
  queue.open({"b"});
  queue.push(call("a", 1));
  EXPECT_EQ(*queue.next({"b"}, 0s), std::nullopt);
  EXPECT_EQ(name(**queue.next({"a"}, 0s)), "a1");
  EXPECT_EQ(*queue.next({"a"}, 0s), std::nullopt);
  EXPECT_EQ(queue.next({"unknown"}, kForever).error().code, ErrorCode::kNotFound);
}

TEST(ReadyQueueTest, TheEndIsTheLastItemAndIsTakenOnce) {
  ReadyQueue queue(100);
  queue.open({"a"});
  queue.push(call("a", 1));
  queue.end({"a"}, "closed");
  queue.push(call("a", 2));
  EXPECT_THAT(names(queue.next_batch(9, 0s)), ElementsAre("a:end"));
  EXPECT_TRUE(queue.next_batch(9, 0s).empty());
  EXPECT_EQ(queue.next({"a"}, 0s).error().code, ErrorCode::kNotFound);
}

TEST(ReadyQueueTest, IsBoundedOverAllRollouts) {
  ReadyQueue queue(2);
  queue.open({"a"});
  queue.open({"b"});
  const auto first = call("a", 1);
  queue.push(first);
  EXPECT_TRUE(queue.has_room());
  queue.push(call("b", 1));
  EXPECT_FALSE(queue.has_room());
  queue.remove(*first);
  EXPECT_TRUE(queue.has_room());
  EXPECT_THAT(names(queue.next_batch(9, 0s)), ElementsAre("b1"));
  queue.push(call("a", 2));
  queue.push(call("a", 3));
  EXPECT_FALSE(queue.has_room());
  queue.end({"a"}, "");
  EXPECT_TRUE(queue.has_room());
}

TEST(ReadyQueueTest, APushWakesWhoeverWaits) {
  ReadyQueue queue(100);
  queue.open({"a"});
  std::thread any([&] { EXPECT_THAT(names(queue.next_batch(1, kForever)), ElementsAre("a1")); });
  queue.push(call("a", 1));
  any.join();
  std::thread one([&] { EXPECT_EQ(name(**queue.next({"a"}, kForever)), "a2"); });
  queue.push(call("a", 2));
  one.join();
}

TEST(ReadyQueueTest, TheEndWakesWhoeverWaits) {
  ReadyQueue queue(100);
  queue.open({"a"});
  std::thread one([&] { EXPECT_EQ(name(**queue.next({"a"}, kForever)), "a:end"); });
  queue.end({"a"}, "closed");
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
        const auto item = queue.next({"r" + std::to_string(r)}, kForever);
        if (std::holds_alternative<Ended>(**item)) return;
        ++taken;
      }
    });
  }
  push_all(queue);
  while (taken < kRollouts * kCalls) std::this_thread::yield();
  for (int r = 0; r < kRollouts; ++r) queue.end({"r" + std::to_string(r)}, "closed");
  for (auto& trainer : trainers) trainer.join();
  EXPECT_EQ(taken, kRollouts * kCalls);
}

TEST(ReadyQueueTest, finding_05_one_trainer_serves_many_rollouts) {
  ReadyQueue queue(100'000);
  for (int r = 0; r < kRollouts; ++r) queue.open({"r" + std::to_string(r)});
  int taken = 0, ends = 0;
  std::thread trainer([&] {
    while (ends < kRollouts) {
      for (const Item& item : queue.next_batch(16, kForever)) {
        ++(std::holds_alternative<Ended>(item) ? ends : taken);
        if (taken == kRollouts * kCalls && ends == 0) {
          for (int r = 0; r < kRollouts; ++r) queue.end({"r" + std::to_string(r)}, "closed");
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
    queue.end(id, "closed");
  }
  EXPECT_EQ(queue.next({"r0"}, 0s).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(name(**queue.next({"r10000"}, 0s)), "r10000:end");
  EXPECT_EQ(queue.next_batch(20'000, 0s).size(), 9'999u);
}

}  // namespace
}  // namespace sluice::gate
