// The engine over shards with threads of their own, on the fake backend. Run under TSan.
#include "sluice/rollout/engine.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <thread>

#include "sluice/gate/script_policy.h"
#include "sluice/gate/testing.h"
#include "sluice/net/testing.h"
#include "sluice/rollout/testing.h"
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

// Longer than any test runs: what returns before was woken by what it waited for.
constexpr Duration kForever = 1h;

constexpr char kSpec[] = R"(
name = "waiter"
version = "1"
[install]
commands = ["true"]
program = "waiter"
[run]
command = ["waiter"]
prompt = "argument"
timeout_s = 3600
[dialects.chat]
path = "/v1"
)";

// How many agents run now, and how many ran at once at most.
struct Crowd {
  std::atomic<int> now = 0, most = 0;
  void enter() {
    const int here = ++now;
    int seen = most;
    while (here > seen && !most.compare_exchange_weak(seen, here)) {
    }
  }
};

// Its instruction says for how many milliseconds it runs; then it exits with 0.
net::awaitable<Exit> wait_a_while(FakeProcess* self, Crowd* crowd) {
  crowd->enter();
  const auto slept =
      co_await self->sleep(std::chrono::milliseconds(std::stoi(self->command().argv.at(1))));
  --crowd->now;
  static_cast<void>(slept);
  co_return Exit{};
}

class EngineTest : public ::testing::Test {
 protected:
  EngineTest() {
    for (net::Shard& shard : shards_) shard.start();
    auto spec = agent::parse_spec(kSpec, "waiter.toml");
    EXPECT_TRUE(spec) << spec.error().message;
    spec_ = std::make_shared<const agent::Spec>(std::move(*spec));
    backend_.on("waiter ", [this](FakeProcess* self) { return wait_a_while(self, &crowd_); });
    options_.retry_pause = 1ms;
  }

  Engine& engine() {
    if (!engine_) {
      engine_ = std::make_unique<Engine>(
          Engine::Parts{
              {shards_, shards_ + 1}, backend_, gate_.for_operator, recorder_, Logger(), &metrics_},
          options_);
    }
    return *engine_;
  }

  Order order(std::string name, Duration takes = 1ms) {
    Task task;
    task.id = name;
    task.instruction = fmt::format("{}", takes / 1ms);
    Order order;
    order.name = order.lane = name;
    order.make = [this, task = std::make_shared<const Task>(task)](net::Shard& shard) {
      EXPECT_TRUE(shard.on_thread());
      RolloutOptions options;
      options.task = task;
      options.spec = spec_;
      return Result<RolloutOptions>(std::move(options));
    };
    return order;
  }

  OrderId submit(Order order) {
    auto id = engine().submit(std::move(order));
    EXPECT_TRUE(id) << id.error().message;
    return id ? *id : 0;
  }

  Finished next() {
    auto finished = engine().next(kForever);
    EXPECT_TRUE(finished);
    return finished ? std::move(*finished) : Finished{};
  }

  std::vector<Finished> all() {
    engine().drain();
    std::vector<Finished> all;
    while (!engine().done()) {
      if (auto finished = engine().next(kForever)) all.push_back(std::move(*finished));
    }
    return all;
  }

  void wait_until(const std::function<bool(const Engine::Status&)>& there) {
    while (!there(engine().status())) std::this_thread::sleep_for(1ms);
  }
  void wait_for_agents(int count) {
    while (crowd_.now < count) std::this_thread::sleep_for(1ms);
  }

  net::Shard shards_[2];
  Metrics metrics_;
  FakeBackend backend_;
  gate::Handles gate_ = gate::make_gate({});
  trace::MemoryRecorder recorder_;
  std::shared_ptr<const agent::Spec> spec_;
  Crowd crowd_;
  EngineOptions options_;
  std::unique_ptr<Engine> engine_;  // first to go
};

const Error kNoRoom(ErrorCode::kUnavailable, "no room", ErrorOrigin::kSandbox);

// The waiter calls nothing, which is an error of its own: the attempt was made all the same.
void expect_ran(const Finished& finished) {
  ASSERT_TRUE(finished.result) << finished.why;
  EXPECT_EQ(finished.result->error_kind, ErrorKind::kGateNeverCalled) << finished.result->error;
  EXPECT_EQ(finished.why, "");
}

TEST_F(EngineTest, everything_submitted_from_any_thread_is_run_once) {
  options_.limits.concurrency = 3;
  engine();
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([this, thread] {
      for (int i = 0; i < 10; ++i) submit(order(fmt::format("{}-{}", thread, i)));
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::set<std::string> names;
  for (const Finished& finished : all()) {
    expect_ran(finished);
    names.insert(finished.name);
  }
  EXPECT_EQ(names.size(), 40u);
  EXPECT_EQ(backend_.machines().size(), 40u);
  EXPECT_LE(crowd_.most, 3);
  EXPECT_EQ(engine().status().finished, 40u);
  EXPECT_EQ(engine().next(kForever), std::nullopt);
}

TEST_F(EngineTest, results_come_in_the_order_in_which_rollouts_end) {
  submit(order("long", kForever));
  wait_for_agents(1);
  const OrderId middle = submit(order("middle", kForever));
  wait_for_agents(2);
  submit(order("short"));
  EXPECT_EQ(next().name, "short");
  engine().cancel(middle, "enough");
  EXPECT_EQ(next().name, "middle");
  engine().cancel_all("enough");
  EXPECT_EQ(next().name, "long");
  EXPECT_TRUE(engine().done());
}

TEST_F(EngineTest, starting_rollouts_are_bounded) {
  options_.limits.starting = 1;
  std::promise<void> go;
  auto gone = go.get_future().share();
  // Starts up for as long as it is not told to go on.
  Order slow = order("slow");
  slow.make = [make = slow.make, gone](net::Shard& shard) {
    gone.wait();
    return make(shard);
  };
  submit(std::move(slow));
  submit(order("other", kForever));
  EXPECT_EQ(engine().status().running, 1u);
  EXPECT_EQ(engine().status().queued, 1u);
  go.set_value();
  // It starts when the first has started, not when it has ended.
  EXPECT_EQ(next().name, "slow");
  wait_for_agents(1);
}

TEST_F(EngineTest, starts_keep_their_distance) {
  options_.limits.start_gap = 20ms;
  const auto began = Clock::now();
  for (int i = 0; i < 4; ++i) submit(order(fmt::format("{}", i)));
  EXPECT_EQ(all().size(), 4u);
  EXPECT_GE(Clock::now() - began, 60ms);
}

TEST_F(EngineTest, infrastructure_failures_are_retried_and_counted_apart) {
  backend_.fail_next_create(kNoRoom).fail_next_create(kNoRoom);
  submit(order("unlucky"));
  const Finished finished = next();
  expect_ran(finished);
  ASSERT_EQ(finished.failed_attempts.size(), 2u);
  EXPECT_EQ(finished.failed_attempts[0].error, "create: no room");
  EXPECT_NE(finished.failed_attempts[0].rollout, finished.failed_attempts[1].rollout);
  EXPECT_NE(finished.failed_attempts[1].rollout, finished.result->rollout);
  EXPECT_EQ(engine().status().failed_attempts, 2u);
  EXPECT_EQ(engine().status().finished, 1u);
  EXPECT_THAT(metrics_.text(), HasSubstr("sluice_rollout_failed_attempts 2"));
}

TEST_F(EngineTest, retries_are_bounded_and_end_as_infrastructure) {
  for (int i = 0; i < 3; ++i) backend_.fail_next_create(kNoRoom);
  submit(order("hopeless"));
  const Finished finished = next();
  ASSERT_TRUE(finished.result);
  EXPECT_EQ(finished.result->error_kind, ErrorKind::kInfrastructure);
  EXPECT_EQ(finished.result->reward, std::nullopt);
  EXPECT_EQ(finished.failed_attempts.size(), 3u);
}

// Whoever answers is elsewhere, and is out for the first so many calls.
class Elsewhere final : public gate::Policy {
 public:
  explicit Elsewhere(int outages) : outages_(outages) {}
  void submit(std::shared_ptr<const llm::Call>, gate::Reply reply) override {
    auto relay = std::make_unique<gate::testing::FakeRelay>(
        200, std::vector<Result<Bytes>>{Bytes(R"({"choices":[{"message":{}}]})")});
    if (--outages_ >= 0) relay->opens = Error(ErrorCode::kUnavailable, "refused");
    reply.relay(std::move(relay));
  }
  std::string base_url() const override { return "http://model.example/v1"; }
  net::awaitable<Result<void>> probe(llm::Dialect, Deadline) override {
    co_return Error(ErrorCode::kUnavailable, "refused, too");
  }

 private:
  int outages_;
};

class EngineOutageTest : public EngineTest {
 protected:
  EngineOutageTest() {
    options_.limits.concurrency = 1;  // all on the first shard
    auto spec = agent::parse_spec(testing::kCallerSpec, "caller.toml");
    EXPECT_TRUE(spec) << spec.error().message;
    spec_ = std::make_shared<const agent::Spec>(std::move(*spec));
    backend_.on("caller http", [this](FakeProcess* self) { return call(self, &shards_[0]); });
  }

  static net::awaitable<Exit> call(FakeProcess* self, net::Shard* shard) {
    const int status = co_await testing::call_gate(shard, self, "hi");
    Exit exit;
    exit.status = status == 200 ? 0 : 1;
    co_return exit;
  }

  Finished run(int outages) {
    Order one = order("t");
    auto policy = std::make_shared<Elsewhere>(outages);
    one.make = [make = one.make, policy](net::Shard& shard) {
      auto options = make(shard);
      if (options) options->policy = {"black_box", "passthrough", policy};
      return options;
    };
    submit(std::move(one));
    return next();
  }

  static std::vector<ErrorKind> kinds(const Finished& finished) {
    std::vector<ErrorKind> out;
    for (const FailedAttempt& attempt : finished.failed_attempts) out.push_back(attempt.kind);
    return out;
  }
};

TEST_F(EngineOutageTest, outages_are_tried_again_twice_and_end_as_policy) {
  options_.retries = 0;
  const Finished finished = run(99);
  ASSERT_TRUE(finished.result);
  EXPECT_EQ(finished.result->error_kind, ErrorKind::kPolicy) << finished.result->error;
  EXPECT_EQ(finished.result->reward, std::nullopt);
  EXPECT_EQ(kinds(finished), std::vector(3, ErrorKind::kPolicy));
  EXPECT_EQ(engine().status().failed_attempts, 3u);
}

TEST_F(EngineOutageTest, their_retries_are_counted_apart_from_those_of_infrastructure) {
  options_.retries = 1;
  backend_.fail_next_create(kNoRoom);
  const Finished finished = run(2);
  ASSERT_TRUE(finished.result);
  EXPECT_EQ(finished.result->error_kind, ErrorKind::kNone) << finished.result->error;
  EXPECT_EQ(kinds(finished),
            (std::vector{ErrorKind::kInfrastructure, ErrorKind::kPolicy, ErrorKind::kPolicy}));
}

TEST_F(EngineOutageTest, outages_in_a_row_are_a_reason_to_give_up) {
  options_.policy_retries = 9;
  options_.give_up_after = 3;
  const Finished finished = run(99);
  EXPECT_EQ(kinds(finished).size(), 3u);
  EXPECT_THAT(engine().status().gave_up, HasSubstr("gave up after 3 failed attempts"));
}

TEST_F(EngineTest, what_cannot_go_otherwise_is_not_retried) {
  backend_.fail_next_create(Error(ErrorCode::kUnsupported, "no such image", ErrorOrigin::kSandbox));
  submit(order("impossible"));
  const Finished finished = next();
  ASSERT_TRUE(finished.result);
  EXPECT_EQ(finished.result->error_kind, ErrorKind::kInfrastructure);
  EXPECT_EQ(finished.failed_attempts.size(), 1u);
}

TEST_F(EngineTest, when_everything_fails_it_gives_up) {
  options_.limits.concurrency = 1;
  options_.retries = 1;
  options_.give_up_after = 5;
  for (int i = 0; i < 99; ++i) backend_.fail_next_create(kNoRoom);
  // Who gives up takes no more: all are there before the first one fails.
  std::promise<void> submitted;
  const std::shared_future<void> all_there = submitted.get_future().share();
  for (int i = 0; i < 20; ++i) {
    Order one = order(fmt::format("{}", i));
    one.make = [make = one.make, all_there](net::Shard& shard) {
      all_there.wait();
      return make(shard);
    };
    submit(std::move(one));
  }
  submitted.set_value();
  size_t failed = 0, untouched = 0;
  for (const Finished& finished : all()) {
    if (finished.result) {
      EXPECT_EQ(finished.result->error_kind, ErrorKind::kInfrastructure);
      failed += finished.failed_attempts.size();
    } else {
      EXPECT_THAT(finished.why, HasSubstr("gave up after 5 failed attempts in a row"));
      ++untouched;
    }
  }
  EXPECT_EQ(failed, 5u);
  EXPECT_GE(untouched, 15u);
  EXPECT_THAT(engine().status().gave_up, HasSubstr("no room"));
}

TEST_F(EngineTest, failures_in_between_are_no_reason_to_give_up) {
  options_.limits.concurrency = 1;
  options_.give_up_after = 2;
  for (int i = 0; i < 4; ++i) {
    backend_.fail_next_create(kNoRoom);
    submit(order(fmt::format("{}", i)));
    expect_ran(next());
  }
  EXPECT_EQ(engine().status().gave_up, "");
}

TEST_F(EngineTest, failures_of_agent_and_task_are_results) {
  Answer failure;
  failure.status = 3;
  backend_.on("waiter ", failure);
  submit(order("failing"));
  const Finished finished = next();
  expect_ran(finished);
  EXPECT_TRUE(finished.failed_attempts.empty());
  EXPECT_EQ(backend_.machines().size(), 1u);
}

TEST_F(EngineTest, what_is_cancelled_in_the_queue_has_no_result) {
  options_.limits.concurrency = 1;
  const OrderId first = submit(order("first", kForever));
  const OrderId second = submit(order("second"));
  EXPECT_TRUE(engine().cancel(second, "not wanted"));
  const Finished finished = next();
  EXPECT_EQ(finished.name, "second");
  EXPECT_FALSE(finished.result);
  EXPECT_EQ(finished.why, "not wanted");
  EXPECT_FALSE(engine().cancel(second, "again"));
  EXPECT_TRUE(engine().cancel(first, "nor this"));
  EXPECT_EQ(next().result->error_kind, ErrorKind::kCancelled);
  EXPECT_EQ(engine().status().running, 0u);
}

TEST_F(EngineTest, what_is_cancelled_between_attempts_keeps_what_happened) {
  options_.retry_pause = kForever;
  backend_.fail_next_create(kNoRoom);
  const OrderId id = submit(order("waiting"));
  wait_until([](const Engine::Status& status) { return status.retrying == 1; });
  EXPECT_TRUE(engine().cancel(id, "not wanted"));
  const Finished finished = next();
  EXPECT_EQ(finished.why, "not wanted");
  ASSERT_TRUE(finished.result);
  EXPECT_EQ(finished.result->error_kind, ErrorKind::kInfrastructure);
  EXPECT_EQ(finished.failed_attempts.size(), 1u);
}

TEST_F(EngineTest, draining_refuses_the_new_and_runs_the_rest) {
  options_.limits.concurrency = 1;
  submit(order("first"));
  submit(order("second"));
  engine().drain();
  EXPECT_EQ(engine().submit(order("late")).error().code, ErrorCode::kFailedPrecondition);
  for (const Finished& finished : all()) expect_ran(finished);
}

TEST_F(EngineTest, draining_now_lets_only_running_ones_end) {
  options_.limits.concurrency = 1;
  submit(order("first", 1s));  // it runs until the engine is told, even on a busy machine
  wait_for_agents(1);
  submit(order("second"));
  engine().drain_now("shutting down");
  const Finished second = next();
  EXPECT_EQ(second.name, "second");
  EXPECT_FALSE(second.result);
  expect_ran(next());
  EXPECT_TRUE(engine().done());
}

TEST_F(EngineTest, memory_is_a_budget_of_all) {
  options_.limits.memory_bytes = 100;
  Order large = order("large", kForever);
  large.memory_bytes = 60;
  submit(large);
  const OrderId second = submit(large);
  wait_for_agents(1);
  EXPECT_EQ(engine().status().memory_bytes, 60u);
  EXPECT_EQ(engine().status().queued, 1u);
  large.memory_bytes = 101;
  EXPECT_EQ(engine().submit(large).error().code, ErrorCode::kTooLarge);
  engine().cancel(second, "");
}

TEST_F(EngineTest, results_that_nobody_takes_hold_back_starts) {
  options_.limits.concurrency = 1;
  options_.untaken = 2;
  for (int i = 0; i < 5; ++i) submit(order(fmt::format("{}", i)));
  wait_until([](const Engine::Status& status) { return status.untaken == 2; });
  std::this_thread::sleep_for(20ms);
  EXPECT_EQ(engine().status().queued, 3u);
  EXPECT_EQ(all().size(), 5u);
}

TEST_F(EngineTest, an_order_that_cannot_be_made_has_no_result) {
  Order broken = order("broken");
  broken.make = [](net::Shard&) {
    return Result<RolloutOptions>(Error(ErrorCode::kNotFound, "no such script"));
  };
  submit(std::move(broken));
  const Finished finished = next();
  EXPECT_FALSE(finished.result);
  EXPECT_EQ(finished.why, "no such script");
}

TEST_F(EngineTest, a_bug_ends_its_own_rollout_only) {
  Order broken = order("broken");
  broken.make = [](net::Shard&) -> Result<RolloutOptions> {
    throw std::logic_error("oops");
  };
  submit(order("other", 500ms));
  submit(std::move(broken));
  const Finished finished = next();
  EXPECT_FALSE(finished.result);
  EXPECT_THAT(finished.why, HasSubstr("oops"));
  expect_ran(next());
}

// A coroutine that awaits an order's end on a shard of the test's own.
struct Caller {
  Caller(Engine& engine, Order order) {
    const auto known = [&] {
      const Engine::Status now = engine.status();
      return now.queued + now.running + now.retrying + now.finished;
    };
    const size_t before = known();
    group.spawn(call(&engine, &here, std::move(order), &end));
    here.run_until([&] { return known() > before; });
  }
  static net::awaitable<void> call(Engine* engine, net::Shard* here, Order order,
                                   std::optional<Result<Finished>>* end) {
    std::string why = "the caller left";
    end->emplace(co_await engine->run(here, std::move(order), std::move(why)));
  }
  Finished wait() {
    here.run_until([&] { return end.has_value() && group.size() == 0; });
    EXPECT_TRUE(*end) << end->error().message;
    return std::move(**end);
  }
  Finished cancel() {
    group.cancel();
    return wait();
  }

  net::Shard here{7};
  net::TaskGroup group{here.executor()};
  std::optional<Result<Finished>> end;
};

TEST_F(EngineTest, an_end_may_be_awaited_and_does_not_come_out_of_next) {
  Caller caller(engine(), order("awaited"));
  const Finished finished = caller.wait();
  expect_ran(finished);
  EXPECT_EQ(finished.name, "awaited");
  engine().drain();
  EXPECT_TRUE(engine().done());
  net::Shard here;
  const auto late = net::testing::run(here, engine().run(&here, order("late"), ""));
  EXPECT_EQ(late.error().code, ErrorCode::kFailedPrecondition);
}

TEST_F(EngineTest, a_caller_that_is_cancelled_cancels_its_rollout_and_waits) {
  Caller caller(engine(), order("running", kForever));
  wait_for_agents(1);
  const Finished finished = caller.cancel();
  ASSERT_TRUE(finished.result);
  EXPECT_EQ(finished.result->error_kind, ErrorKind::kCancelled);
  EXPECT_THAT(finished.result->error, HasSubstr("the caller left"));
  EXPECT_EQ(crowd_.now, 0);
  EXPECT_TRUE(backend_.last().closed());
}

TEST_F(EngineTest, who_waits_for_a_place_is_told_and_may_leave) {
  options_.limits.concurrency = 1;
  std::vector<std::string> waited;
  const auto telling = [&](std::string name) {
    Order one = order(name, kForever);
    one.waits = [&waited, name] {
      waited.push_back(name);
    };
    return one;
  };
  submit(telling("first"));
  Caller second(engine(), telling("second"));
  EXPECT_THAT(waited, ::testing::ElementsAre("second"));
  const Finished finished = second.cancel();
  EXPECT_FALSE(finished.result);
  EXPECT_EQ(finished.why, "the caller left");
}

net::awaitable<Result<void>> sleep_for_ever(std::atomic<int>* sleeping) {
  ++*sleeping;
  const auto slept = co_await net::sleep_for(kForever);
  --*sleeping;
  if (!slept) co_return Error(ErrorCode::kCancelled, "woken");
  co_return Result<void>();
}

TEST_F(EngineTest, what_an_attempt_waits_for_takes_its_place_and_is_cancelled_with_it) {
  options_.limits.concurrency = 1;
  std::atomic<int> sleeping = 0;
  Order waiting = order("waiting");
  waiting.ready = [&](OrderId) {
    return sleep_for_ever(&sleeping);
  };
  Caller caller(engine(), std::move(waiting));
  while (sleeping == 0) std::this_thread::sleep_for(1ms);
  submit(order("behind"));
  EXPECT_EQ(engine().status().queued, 1u);
  const Finished finished = caller.cancel();
  EXPECT_FALSE(finished.result);
  EXPECT_EQ(finished.why, "woken");
  EXPECT_EQ(sleeping, 0);
  expect_ran(next());
  EXPECT_EQ(backend_.machines().size(), 1u);
}

net::awaitable<Result<void>> count(std::vector<OrderId>* asked, OrderId order) {
  asked->push_back(order);
  if (asked->size() < 3) co_return Result<void>();
  co_return Error(ErrorCode::kUnavailable, "no bundle");
}

TEST_F(EngineTest, what_an_attempt_waits_for_is_asked_for_each_time_and_may_fail) {
  std::vector<OrderId> asked;  // one attempt at a time
  const auto counted = [&](std::string name) {
    Order one = order(std::move(name));
    one.ready = [&](OrderId id) {
      return count(&asked, id);
    };
    return one;
  };
  backend_.fail_next_create(kNoRoom);
  const OrderId id = submit(counted("twice"));
  expect_ran(next());
  EXPECT_THAT(asked, ::testing::ElementsAre(id, id));
  submit(counted("refused"));
  const Finished refused = next();
  EXPECT_FALSE(refused.result);
  EXPECT_EQ(refused.why, "no bundle");
}

TEST_F(EngineTest, who_leaves_the_head_of_the_queue_lets_the_others_pass) {
  options_.limits.memory_bytes = 100;
  Order large = order("large", kForever);
  large.memory_bytes = 60;
  submit(large);
  wait_for_agents(1);
  const OrderId second = submit(large);
  submit(order("small", kForever));
  EXPECT_EQ(engine().status().queued, 2u);
  // Before anybody takes its end: that would start the next one, too.
  engine().cancel(second, "not wanted");
  wait_for_agents(2);
  EXPECT_EQ(next().name, "large");
}

TEST_F(EngineTest, a_rollout_may_have_a_recorder_of_its_own) {
  const auto own = std::make_shared<trace::MemoryRecorder>();
  Order recorded = order("recorded");
  recorded.make = [make = recorded.make, own](net::Shard& shard) {
    auto options = make(shard);
    options->recorder = own;
    return options;
  };
  submit(std::move(recorded));
  expect_ran(next());
  EXPECT_EQ(own->count("closed"), 1u);
  EXPECT_TRUE(recorder_.entries().empty());
}

TEST_F(EngineTest, the_engines_end_cancels_and_waits) {
  submit(order("endless", kForever));
  wait_for_agents(1);
  engine_.reset();
  EXPECT_EQ(crowd_.now, 0);
  EXPECT_TRUE(backend_.last().closed());
}

TEST_F(EngineTest, cancelling_at_any_moment_loses_nothing) {
  options_.limits.concurrency = 4;
  std::vector<OrderId> ids;
  for (int i = 0; i < 40; ++i) ids.push_back(submit(order(fmt::format("{}", i), 2ms)));
  std::thread canceller([&] {
    for (const OrderId id : ids) engine().cancel(id, "raced");
  });
  const auto finished = all();
  canceller.join();
  EXPECT_EQ(finished.size(), 40u);
  for (const Finished& one : finished) {
    if (!one.result) {
      EXPECT_EQ(one.why, "raced");
    }
  }
}

}  // namespace
}  // namespace sluice::rollout
