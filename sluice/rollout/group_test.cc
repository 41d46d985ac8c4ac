// Rollouts that share their preparation, over shards with threads of their own. Run under TSan.
#include "sluice/rollout/group.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "sluice/rollout/engine.h"
#include "sluice/sandbox/fake/fake.h"
#include "sluice/trace/memory.h"

namespace sluice::rollout {
namespace {

using namespace std::chrono_literals;
using sandbox::Exit;
using sandbox::fake::Answer;
using sandbox::fake::FakeBackend;
using sandbox::fake::FakeProcess;
using ::testing::HasSubstr;

constexpr char kSpec[] = R"(
name = "counter"
version = "1"
[install]
commands = ["true"]
program = "counter"
[run]
command = ["counter", "now"]
timeout_s = 3600
[dialects.chat]
path = "/v1"
)";

constexpr char kCount[] = "/home/user/workdir/count";

// Adds one to the number that set-up left.
net::awaitable<Exit> count_up(FakeProcess* self) {
  const auto before = self->machine().file(kCount);
  const int count = before ? std::stoi(before->content) : -1000;
  self->machine().put(kCount, std::to_string(count + 1));
  co_return Exit{};
}

net::awaitable<Exit> set_up(FakeProcess* self) {
  self->machine().put(kCount, "7", 0);
  co_return Exit{};
}

net::awaitable<Exit> set_up_for_ever(FakeProcess* self, std::atomic<bool>* begun) {
  *begun = true;
  const auto slept = co_await self->sleep(1h);
  static_cast<void>(slept);
  co_return Exit{};
}

class GroupTest : public ::testing::Test {
 protected:
  GroupTest() {
    for (net::Shard& shard : shards_) shard.start();
    auto spec = agent::parse_spec(kSpec, "counter.toml");
    EXPECT_TRUE(spec) << spec.error().message;
    spec_ = std::make_shared<const agent::Spec>(std::move(*spec));
    task_.id = "t";
    task_.instruction = "count";
    task_.setup = {"prepare it"};
    task_.uploads = {{"given.txt", "given", 0644}};
    backend_.on("counter now", count_up);
    backend_.on("prepare it", set_up);
    options_.retry_pause = 1ms;
    options_.limits.concurrency = 4;
  }

  // `members` of one group, as the engine ends them.
  std::vector<Finished> run(int members) {
    start(members);
    return wait();
  }
  void start(int members) {
    engine_ = std::make_unique<Engine>(
        Engine::Parts{{shards_, shards_ + 1}, backend_, gate_.for_operator, recorder_, Logger()},
        options_);
    auto group = std::make_shared<Group>("g1");
    group_ = group;
    auto task = std::make_shared<const Task>(task_);
    for (int i = 0; i < members; ++i) {
      Order order;
      order.name = std::to_string(i);
      order.lane = "t";
      order.batch = "g1";
      order.make = [this, task, group](net::Shard&) {
        RolloutOptions options;
        options.task = task;
        options.group = group;
        options.spec = spec_;
        return Result<RolloutOptions>(std::move(options));
      };
      auto id = engine_->submit(std::move(order));
      EXPECT_TRUE(id);
      ids_.push_back(*id);
    }
    engine_->drain();
  }
  std::vector<Finished> wait() {
    std::vector<Finished> all;
    while (!engine_->done()) {
      if (auto finished = engine_->next(1h)) all.push_back(std::move(*finished));
    }
    engine_.reset();
    for (net::Shard& shard : shards_) shard.stop();
    return all;
  }

  size_t preparations() {
    size_t count = 0;
    for (const auto& machine : backend_.machines()) {
      const auto commands = machine->commands();
      count += std::count(commands.begin(), commands.end(), "prepare it");
    }
    return count;
  }

  net::Shard shards_[2];
  FakeBackend backend_;
  gate::Handles gate_ = gate::make_gate({});
  trace::MemoryRecorder recorder_;
  std::shared_ptr<const agent::Spec> spec_;
  Task task_;
  EngineOptions options_;
  std::weak_ptr<Group> group_;
  std::vector<OrderId> ids_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(GroupTest, preparation_is_made_once_and_each_attempt_is_apart) {
  const auto all = run(6);
  ASSERT_EQ(all.size(), 6u);
  EXPECT_EQ(preparations(), 1u);
  EXPECT_EQ(backend_.machines().size(), 7u);
  std::set<std::string> sandboxes;
  for (const Finished& finished : all) {
    ASSERT_TRUE(finished.result);
    const RolloutResult& result = *finished.result;
    EXPECT_EQ(result.error_kind, ErrorKind::kGateNeverCalled) << result.error;
    EXPECT_EQ(result.group, "g1");
    EXPECT_TRUE(result.preparation);
    EXPECT_THAT(to_json(result), HasSubstr(R"("group_id":"g1")"));
    // None sees what another one did.
    EXPECT_EQ(result.report.files.at("count"), "8");
    EXPECT_EQ(result.report.files.at("given.txt"), "given");
    ASSERT_EQ(result.report.setup.size(), 1u);
    EXPECT_EQ(result.report.phases.front().name, "prepare");
    EXPECT_EQ(result.report.phases[1].name, "clone");
    sandboxes.insert(result.report.sandbox_id);
  }
  EXPECT_EQ(sandboxes.size(), 6u);
  for (const auto& machine : backend_.machines()) EXPECT_TRUE(machine->closed());
  EXPECT_TRUE(group_.expired()) << "what was prepared is still held";
}

TEST_F(GroupTest, a_broken_task_is_broken_for_all_and_tried_once) {
  Answer failing;
  failing.status = 3;
  backend_.on("prepare it", failing);
  for (const Finished& finished : run(4)) {
    ASSERT_TRUE(finished.result);
    EXPECT_EQ(finished.result->error_kind, ErrorKind::kTask);
    EXPECT_THAT(finished.result->error, HasSubstr("setup: setup command failed"));
    EXPECT_EQ(finished.result->report.setup.size(), 1u);
    EXPECT_TRUE(finished.failed_attempts.empty());
  }
  EXPECT_EQ(preparations(), 1u);
}

TEST_F(GroupTest, a_preparation_that_failed_for_our_sake_is_made_anew) {
  backend_.fail_next_create(Error(ErrorCode::kUnavailable, "no room", ErrorOrigin::kSandbox));
  size_t failed = 0;
  for (const Finished& finished : run(4)) {
    ASSERT_TRUE(finished.result);
    EXPECT_EQ(finished.result->error_kind, ErrorKind::kGateNeverCalled) << finished.result->error;
    failed += finished.failed_attempts.size();
  }
  EXPECT_EQ(failed, 1u) << "only the attempt that prepared";
  EXPECT_EQ(preparations(), 1u);
}

TEST_F(GroupTest, who_waits_for_a_preparation_can_be_cancelled_and_so_can_who_makes_it) {
  std::atomic<bool> begun = false;
  backend_.on("prepare it", [&begun](FakeProcess* self) { return set_up_for_ever(self, &begun); });
  options_.limits.concurrency = 2;
  start(2);
  // On different shards; either may prepare.
  while (!begun) std::this_thread::sleep_for(1ms);
  engine_->cancel(ids_[1], "enough");
  engine_->cancel(ids_[0], "enough");
  const auto all = wait();
  ASSERT_EQ(all.size(), 2u);
  for (const Finished& finished : all) {
    ASSERT_TRUE(finished.result);
    EXPECT_EQ(finished.result->error_kind, ErrorKind::kCancelled);
  }
  for (const auto& machine : backend_.machines()) EXPECT_TRUE(machine->closed());
}

TEST_F(GroupTest, a_backend_that_cannot_clone_says_so) {
  backend_.with_capabilities({});
  const auto all = run(1);
  ASSERT_TRUE(all.at(0).result);
  EXPECT_EQ(all[0].result->error_kind, ErrorKind::kInfrastructure);
  EXPECT_THAT(all[0].result->error, HasSubstr("fake cannot clone"));
  EXPECT_EQ(all[0].failed_attempts.size(), 1u) << "the next attempt would end as this one";
}

}  // namespace
}  // namespace sluice::rollout
