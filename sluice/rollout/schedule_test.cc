#include "sluice/rollout/schedule.h"

#include <gtest/gtest.h>

#include <vector>

namespace sluice::rollout {
namespace {

using namespace std::chrono_literals;

const Clock::time_point kNow{1h};

Schedule::Entry entry(uint64_t id, std::string lane, std::string batch = "", uint64_t memory = 0) {
  return {id, std::move(lane), std::move(batch), memory};
}

// What starts, in order, if each ends as soon as it started.
std::vector<uint64_t> order_of(Schedule& schedule) {
  std::vector<uint64_t> ids;
  while (const auto next = schedule.take(kNow)) {
    ids.push_back(next->id);
    schedule.ended(next->id);
  }
  return ids;
}

TEST(Schedule, lanes_take_turns) {
  Schedule schedule({.concurrency = 1});
  for (uint64_t id = 1; id <= 4; ++id) ASSERT_TRUE(schedule.add(entry(id, "long")));
  ASSERT_TRUE(schedule.add(entry(10, "short")));
  ASSERT_TRUE(schedule.add(entry(20, "other")));
  ASSERT_TRUE(schedule.add(entry(21, "other")));
  EXPECT_EQ(order_of(schedule), (std::vector<uint64_t>{1, 10, 20, 2, 21, 3, 4}));
  EXPECT_EQ(schedule.queued(), 0);
}

TEST(Schedule, a_batch_is_one_turn) {
  Schedule schedule({.concurrency = 1});
  for (const uint64_t id : {1, 2, 3}) ASSERT_TRUE(schedule.add(entry(id, "a", "g1")));
  ASSERT_TRUE(schedule.add(entry(4, "a", "g2")));
  ASSERT_TRUE(schedule.add(entry(5, "b")));
  EXPECT_EQ(order_of(schedule), (std::vector<uint64_t>{1, 2, 3, 5, 4}));
}

TEST(Schedule, no_more_at_once_than_allowed) {
  Schedule schedule({.concurrency = 2});
  for (const uint64_t id : {1, 2, 3}) ASSERT_TRUE(schedule.add(entry(id, "a")));
  EXPECT_TRUE(schedule.take(kNow));
  EXPECT_TRUE(schedule.take(kNow));
  EXPECT_FALSE(schedule.take(kNow));
  EXPECT_EQ(schedule.running(), 2);
  schedule.started(1);  // still runs
  EXPECT_FALSE(schedule.take(kNow));
  schedule.ended(1);
  EXPECT_EQ(schedule.take(kNow)->id, 3);
}

TEST(Schedule, starts_are_smoothed) {
  Schedule schedule({.concurrency = 9, .starting = 1, .start_gap = 100ms});
  for (const uint64_t id : {1, 2, 3}) ASSERT_TRUE(schedule.add(entry(id, "a")));
  EXPECT_TRUE(schedule.next_try().is_never());
  EXPECT_EQ(schedule.take(kNow)->id, 1);
  EXPECT_FALSE(schedule.take(kNow + 1h));  // the first still starts
  EXPECT_TRUE(schedule.next_try().is_never());
  schedule.started(1);
  EXPECT_FALSE(schedule.take(kNow + 99ms));
  EXPECT_EQ(schedule.next_try(), Deadline(kNow + 100ms));
  EXPECT_EQ(schedule.take(kNow + 100ms)->id, 2);
  schedule.ended(2);  // an end is no start-up any more either
  EXPECT_EQ(schedule.starting(), 0);
  EXPECT_EQ(schedule.take(kNow + 200ms)->id, 3);
}

TEST(Schedule, memory_is_bounded_and_nothing_overtakes) {
  Schedule schedule({.concurrency = 9, .memory_bytes = 10});
  EXPECT_EQ(schedule.add(entry(99, "a", "", 11)).error().code, ErrorCode::kTooLarge);
  ASSERT_TRUE(schedule.add(entry(1, "a", "", 6)));
  ASSERT_TRUE(schedule.add(entry(2, "b", "", 5)));
  ASSERT_TRUE(schedule.add(entry(3, "c", "", 1)));
  EXPECT_EQ(schedule.take(kNow)->id, 1);
  EXPECT_EQ(schedule.memory_bytes(), 6);
  EXPECT_FALSE(schedule.take(kNow));
  schedule.ended(1);
  EXPECT_EQ(schedule.take(kNow)->id, 2);
  EXPECT_EQ(schedule.take(kNow)->id, 3);
  EXPECT_EQ(schedule.memory_bytes(), 6);
}

TEST(Schedule, the_queue_is_bounded_but_not_for_what_ran_before) {
  Schedule schedule({.concurrency = 1, .queued = 2});
  ASSERT_TRUE(schedule.add(entry(1, "a")));
  ASSERT_TRUE(schedule.add(entry(2, "a")));
  EXPECT_EQ(schedule.add(entry(3, "a")).error().code, ErrorCode::kExhausted);
  schedule.add_again(entry(4, "a"));
  EXPECT_EQ(order_of(schedule), (std::vector<uint64_t>{4, 1, 2}));
}

TEST(Schedule, what_is_removed_does_not_start) {
  Schedule schedule({.concurrency = 1});
  ASSERT_TRUE(schedule.add(entry(1, "a")));
  ASSERT_TRUE(schedule.add(entry(2, "b")));
  EXPECT_TRUE(schedule.remove(1));
  EXPECT_FALSE(schedule.remove(1));
  EXPECT_EQ(order_of(schedule), (std::vector<uint64_t>{2}));
  EXPECT_FALSE(schedule.remove(2));
}

}  // namespace
}  // namespace sluice::rollout
