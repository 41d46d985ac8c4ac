#include "sluice/env/rollouts.h"

#include <gtest/gtest.h>

#include "sluice/env/python_text.h"
#include "sluice/net/testing.h"

namespace sluice::env {
namespace {

using namespace std::chrono_literals;

json::Object task(const char* id) {
  json::Object out;
  out["task_id"] = id;
  return out;
}

awaitable<void> events_into(RolloutBoard* board, std::string id, uint64_t after,
                            std::optional<Result<std::vector<RolloutEvent>>>* into) {
  into->emplace(co_await board->events(std::move(id), after, Deadline::never()));
}

class RolloutBoardTest : public ::testing::Test {
 protected:
  net::Shard shard_;
  RolloutBoard board_{shard_, RolloutBoardLimits{2, 3}};
};

TEST_F(RolloutBoardTest, lists_the_newest_first_and_shows_one) {
  board_.begin("a", task("first"), nullptr);
  board_.begin("b", task("second"), nullptr);
  board_.begin("b", task("again"), nullptr);
  json::Object fields;
  fields["reward"] = 0.5;
  json::Object result;
  result["files"] = json::Object();
  board_.finish("a", fields, result);

  const json::Array all = board_.list("", 10);
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].at("rollout_id"), "b");
  EXPECT_EQ(all[0].at("task_id"), "second");
  EXPECT_EQ(all[0].at("state"), "running");
  EXPECT_EQ(all[1].at("state"), "ended");
  EXPECT_EQ(all[1].at("reward"), 0.5);
  EXPECT_EQ(board_.list("", 1).size(), 1U);
  EXPECT_EQ(board_.list("ended", 10).size(), 1U);
  EXPECT_EQ(board_.list("cancelling", 10).size(), 0U);

  const auto one = board_.find("a");
  ASSERT_TRUE(one);
  EXPECT_EQ(one->at("result"), json::Value(result));
  EXPECT_EQ(one->at("events").at(0).at("kind"), "ended");
  EXPECT_EQ(board_.find("b")->at("result"), nullptr);
  EXPECT_FALSE(board_.find("c"));
}

TEST_F(RolloutBoardTest, forgets_the_oldest_that_ended_and_the_oldest_events) {
  board_.begin("running", {}, nullptr);
  for (const char* id : {"1", "2", "3"}) {
    board_.begin(id, {}, nullptr);
    board_.finish(id, {}, {});
  }
  EXPECT_TRUE(board_.find("running"));
  EXPECT_FALSE(board_.find("1"));
  EXPECT_TRUE(board_.find("2"));
  for (int i = 0; i < 5; ++i) board_.event("running", "phase", {});
  const json::Object one = *board_.find("running");
  ASSERT_EQ(one.at("events").as_array().size(), 3U);
  EXPECT_EQ(one.at("events").at(0).at("number"), 3);
}

TEST(RolloutBoard, what_events_say_is_bounded_too) {
  net::Shard shard;
  RolloutBoard board(shard);
  board.begin("talks", {}, nullptr);
  for (int i = 0; i < 500; ++i) {
    board.event("talks", "agent", {{"kind", "text"}, {"text", std::string(2000, 'x')}});
  }
  const json::Object one = *board.find("talks");
  const json::Array& events = one.at("events").as_array();
  EXPECT_LT(events.size(), 150U);
  EXPECT_GT(events.size(), 50U);
  EXPECT_EQ(events.back().at("number"), 500);
}

TEST_F(RolloutBoardTest, cancels_once_and_only_what_runs) {
  int cancelled = 0;
  board_.begin("a", {}, [&] { ++cancelled; });
  EXPECT_TRUE(board_.cancel("a"));
  EXPECT_TRUE(board_.cancel("a"));
  EXPECT_EQ(cancelled, 1);
  EXPECT_EQ(board_.list("cancelling", 10).size(), 1U);
  board_.finish("a", {}, {});
  EXPECT_EQ(board_.cancel("a").error().code, ErrorCode::kFailedPrecondition);
  EXPECT_EQ(board_.cancel("b").error().code, ErrorCode::kNotFound);
}

TEST_F(RolloutBoardTest, shows_and_cancels_each_clients_own_alone) {
  int cancelled = 0;
  board_.begin("a", {}, [&] { ++cancelled; }, "key 1");
  board_.begin("b", {}, nullptr, "key 2");
  ASSERT_EQ(board_.list("", 10, "key 1").size(), 1U);
  EXPECT_EQ(board_.list("", 10, "key 1")[0].at("rollout_id"), "a");
  EXPECT_TRUE(board_.list("", 10).empty());
  EXPECT_EQ(board_.list("", 1, "key 1").size(), 1U) << "others' do not use up the limit";
  EXPECT_TRUE(board_.find("a", "key 1"));
  for (const char* other : {"key 2", ""}) {
    EXPECT_FALSE(board_.find("a", other));
    EXPECT_EQ(board_.cancel("a", other).error().code, ErrorCode::kNotFound);
  }
  EXPECT_EQ(cancelled, 0);
  EXPECT_TRUE(board_.cancel("a", "key 1"));
  EXPECT_EQ(cancelled, 1);
}

TEST_F(RolloutBoardTest, gives_events_as_they_come_until_the_end) {
  board_.begin("a", {}, nullptr);
  std::optional<Result<std::vector<RolloutEvent>>> events;
  shard_.spawn(events_into(&board_, "a", 0, &events));
  shard_.post([&] { board_.event("a", "phase", task("x")); });
  shard_.run_until([&] { return events.has_value(); });
  ASSERT_TRUE(*events);
  ASSERT_EQ((*events)->size(), 1U);
  EXPECT_EQ((*events)->front().number, 1U);
  EXPECT_EQ(python::compact(to_json((*events)->front()).at("detail")), R"({"task_id":"x"})");

  const auto late = net::testing::run(shard_, board_.events("a", 1, Deadline::in(10ms)));
  EXPECT_EQ(late.error().code, ErrorCode::kTimedOut);
  board_.finish("a", {}, {});
  EXPECT_EQ(net::testing::run(shard_, board_.events("a", 1, Deadline::never()))->size(), 1U);
  EXPECT_TRUE(net::testing::run(shard_, board_.events("a", 2, Deadline::never()))->empty());
  EXPECT_EQ(net::testing::run(shard_, board_.events("z", 0, Deadline::never())).error().code,
            ErrorCode::kNotFound);
}

}  // namespace
}  // namespace sluice::env
