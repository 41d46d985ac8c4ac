#include "sluice/rollout/rollout.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/gate/script_policy.h"
#include "sluice/gate/testing.h"
#include "sluice/json/value.h"
#include "sluice/net/testing.h"
#include "sluice/rollout/testing.h"
#include "sluice/sandbox/fake/fake.h"
#include "sluice/trace/testing.h"

namespace sluice::rollout {
namespace {

using namespace std::chrono_literals;
using sandbox::Exit;
using sandbox::fake::Answer;
using sandbox::fake::FakeBackend;
using sandbox::fake::FakeProcess;
using ::testing::AllOf;
using testing::call_gate;
using ::testing::Contains;
using ::testing::HasSubstr;

constexpr char kScript[] = R"(
[[rules]]
text = "hello"
)";

net::Shard* shard_of_test = nullptr;

net::awaitable<Exit> call_once(FakeProcess* self) {
  const int status = co_await call_gate(shard_of_test, self, "hi");
  self->machine().put("/home/user/workdir/status", std::to_string(status));
  Exit exit;
  exit.status = status == 200 ? 0 : 1;
  co_return exit;
}

net::awaitable<Exit> call_until_refused(FakeProcess* self) {
  for (int i = 0; i < 10; ++i) {
    std::string content = fmt::format("question {}", i);
    const int status = co_await call_gate(shard_of_test, self, std::move(content));
    if (status == 200) continue;
    Exit exit;
    exit.status = 1;
    co_return exit;
  }
  co_return Exit{};
}

net::awaitable<Exit> call_then_hang(FakeProcess* self) {
  co_await call_gate(shard_of_test, self, "hi");
  const auto slept = co_await self->sleep(1h);
  static_cast<void>(slept);
  co_return Exit{};
}

// Its second request has another beginning than the first.
net::awaitable<Exit> rewrite_history(FakeProcess* self) {
  co_await call_gate(shard_of_test, self, "hi");
  std::string content =
      R"(Ho"},{"role":"assistant","content":"hello"},{"role":"user","content":"more)";
  co_await call_gate(shard_of_test, self, std::move(content));
  co_return Exit{};
}

net::awaitable<Exit> leave_reward(FakeProcess* self, std::string text) {
  self->machine().put("/home/user/logs/verifier/reward.txt", std::move(text), 1001);
  co_return Exit{};
}

net::awaitable<Exit> never_call(FakeProcess*) {
  co_return Exit{};
}

// Whoever answers is elsewhere, and does not.
class Out final : public gate::Policy {
 public:
  void submit(std::shared_ptr<const llm::Call>, gate::Reply reply) override {
    auto relay = std::make_unique<gate::testing::FakeRelay>(0, std::vector<Result<Bytes>>());
    relay->opens = Error(ErrorCode::kUnavailable, "refused");
    reply.relay(std::move(relay));
  }
  std::string base_url() const override { return "http://model.example/v1"; }
  net::awaitable<Result<void>> probe(llm::Dialect, Deadline) override {
    co_return Error(ErrorCode::kUnavailable, "refused, too");
  }
};

// Without its key, with another's, and with its own.
net::awaitable<Exit> call_with_keys(FakeProcess* self) {
  std::string own;
  for (const auto& [name, value] : self->command().env) {
    if (name == "GATE_KEY") own = value;
  }
  std::string statuses;
  for (const std::string& key : {std::string(), own + "0", own}) {
    std::string content = "after " + statuses;
    std::string shown = key;
    const int status =
        co_await call_gate(shard_of_test, self, std::move(content), std::move(shown));
    statuses += std::to_string(status) + " ";
  }
  self->machine().put("/home/user/workdir/statuses", statuses + own);
  co_return Exit{};
}

net::awaitable<Exit> print_an_event(FakeProcess* self) {
  Bytes line = R"({"type":"text","text":"longer than ten bytes"})"
               "\n";
  const auto written = co_await self->write(sandbox::Channel::kOut, std::move(line));
  static_cast<void>(written);
  co_return co_await call_once(self);
}

net::awaitable<Exit> print_then_call(FakeProcess* self) {
  for (int i = 0; i < 5; ++i) {
    Bytes piece(100'000, 'x');
    const auto written = co_await self->write(sandbox::Channel::kOut, std::move(piece));
    static_cast<void>(written);
  }
  co_return co_await call_once(self);
}

class RolloutTest : public ::testing::Test {
 protected:
  RolloutTest() {
    shard_of_test = &shard_;
    task_.id = "t1";
    task_.instruction = "do it";
    task_.verify.commands = {"check"};
    auto script = gate::Script::parse(kScript, "script.toml");
    EXPECT_TRUE(script);
    policy_ = std::make_shared<gate::ScriptPolicy>(std::move(*script), shard_);
    backend_.on("caller http", call_once);
  }

  RolloutResult run(Verifier verifier = {}) {
    auto spec = agent::parse_spec(spec_, "caller.toml");
    EXPECT_TRUE(spec) << spec.error().message;
    RolloutOptions options;
    options.name = name_;
    options.group_id = "b/t1";
    options.max_tokens_cap = max_tokens_cap_;
    options.task = std::make_shared<const Task>(task_);
    options.spec = std::make_shared<const agent::Spec>(std::move(*spec));
    options.policy = {"interception_gate", "script", policy_};
    options.verifier = std::move(verifier);
    options.on_phase = on_phase_;
    options.on_agent_event = on_agent_event_;
    options.output_files = output_files_;
    Rollout rollout({shard_, backend_, gate_.for_operator, recorder_, Logger()}, options);
    if (cancel_after_) {
      timer_.arm(Deadline::in(*cancel_after_), [&] { rollout.cancel("interrupted"); });
    }
    auto result = net::testing::run(shard_, rollout.run());
    timer_.disarm();
    EXPECT_FALSE(gate_.for_operator.counters(rollout.id())) << "still open at the gate";
    return result;
  }

  // To the next call of a trainer's rollout, as soon as there is one: first a reply that does not
  // fit.
  void reply_twice() {
    gate_.for_trainer.take(gate::TakeRequest(), [this](Result<std::vector<gate::Item>> items) {
      if (!items || items->empty() || items->front().call() == nullptr) return;
      for (const llm::Origin origin : {llm::Origin::kSampled, llm::Origin::kEdited}) {
        gate_.for_trainer.reply(items->front().call()->id, llm::text_answer("hello", origin));
      }
    });
  }

  static Answer failing() {
    Answer answer;
    answer.status = 1;
    return answer;
  }

  net::Shard shard_;
  FakeBackend backend_;
  gate::Handles gate_ = gate::make_gate({});
  trace::testing::StallingRecorder recorder_;
  Task task_;
  std::shared_ptr<gate::Policy> policy_;
  std::string spec_ = testing::kCallerSpec;
  std::string name_;
  std::optional<int64_t> max_tokens_cap_;
  std::vector<std::string> warnings_;
  std::function<void(std::string_view)> on_phase_;
  std::function<void(const agent::AgentEvent&)> on_agent_event_;
  std::shared_ptr<net::BlockingPool> output_files_;
  std::optional<Duration> cancel_after_;
  net::Wheel::Timer timer_{shard_.wheel()};
};

TEST_F(RolloutTest, AnAgentIsAnsweredAtTheGateAndItsWorkVerified) {
  const RolloutResult result = run();
  EXPECT_EQ(result.error_kind, ErrorKind::kNone) << result.error;
  EXPECT_EQ(result.reward, 1.0);
  EXPECT_EQ(result.calls.calls, 1u);
  EXPECT_EQ(result.calls.turns, 1u);
  EXPECT_EQ(result.report.files.at("status"), "200");
}

TEST_F(RolloutTest, OnASharedNetworkAnEndpointWantsItsRolloutsKey) {
  spec_.replace(spec_.find("timeout_s = 5\n"), 14,
                "timeout_s = 5\nenv = { GATE_KEY = \"{key}\" }\n");
  backend_.on("caller http", call_with_keys);
  const auto statuses = [&] {
    const RolloutResult result = run();
    EXPECT_EQ(result.error_kind, ErrorKind::kNone) << result.error;
    return result.report.files.at("statuses");
  };
  EXPECT_EQ(statuses(), "200 200 200 sluice-no-key-needed");
  task_.sandbox.network = sandbox::Network::kOpen;
  const std::string one = statuses(), other = statuses();
  EXPECT_THAT(one, ::testing::StartsWith("401 401 200 rollout."));
  EXPECT_THAT(other, ::testing::StartsWith("401 401 200 rollout."));
  EXPECT_NE(one, other) << "each has its own";
  for (const auto& entry : recorder_.entries()) {
    EXPECT_THAT(entry.detail, ::testing::Not(HasSubstr("rollout."))) << "no key is recorded";
  }
}

// First its calls' ends are recorded, then its own.
TEST_F(RolloutTest, AResultIsToldOnlyWhenItsTraceIsRecorded) {
  recorder_.stall();
  std::vector<size_t> waited;  // with so many "closed" recorded
  std::function<void()> look = [&] {
    if (recorder_.waiting() > 0) {
      waited.push_back(recorder_.count("closed"));
      recorder_.resume();
      recorder_.stall();
    }
    timer_.arm(Deadline::in(1ms), look);
  };
  look();
  EXPECT_EQ(run().error_kind, ErrorKind::kNone);
  EXPECT_EQ(waited, (std::vector<size_t>{0, 1}));
}

TEST_F(RolloutTest, FailingVerificationIsZeroAndNoneIsNull) {
  backend_.on("check", failing());
  EXPECT_EQ(run().reward, 0.0);
  task_.verify.commands.clear();
  const RolloutResult result = run();
  EXPECT_EQ(result.reward, std::nullopt);
  EXPECT_EQ(result.error_kind, ErrorKind::kNone);
}

TEST_F(RolloutTest, WorkThatCannotBeJudgedAfreshIsTheLeastReward) {
  task_.verify.where = agent::VerifyWhere::kFresh;
  task_.verify.reward_min = -1;
  EXPECT_EQ(run().reward, 1.0);
  const auto refuse = [&](size_t machines) {
    backend_.prepare([machines, made = size_t{0}](sandbox::fake::FakeMachine& machine) mutable {
      if (made++ >= machines) return;
      machine.refuse_work(Error(ErrorCode::kTooLarge, "too much", ErrorOrigin::kSandbox));
    });
  };
  refuse(2);
  const RolloutResult tasks = run();
  EXPECT_EQ(tasks.error_kind, ErrorKind::kTask);
  EXPECT_EQ(tasks.error, "without any agent, too: the work cannot be taken: too much");
  EXPECT_EQ(tasks.reward, std::nullopt);
  refuse(1);
  const RolloutResult result = run();
  EXPECT_EQ(result.error_kind, ErrorKind::kNone) << result.error;
  EXPECT_EQ(result.reward, -1.0);
  EXPECT_EQ(result.reward_error, "the work cannot be taken: too much");
  EXPECT_EQ(result.report.verify_where, "fresh");
}

TEST_F(RolloutTest, AFreshSandboxThatCannotBeHadIsToldBeforeThereIsOne) {
  sandbox::Capabilities none;
  backend_.with_capabilities(none);
  task_.verify.where = agent::VerifyWhere::kFresh;
  const RolloutResult result = run();
  EXPECT_EQ(result.error_kind, ErrorKind::kTask);
  EXPECT_THAT(result.error, HasSubstr("cannot clone sandboxes"));
  EXPECT_TRUE(backend_.machines().empty());
}

// Never null, and never another way to a reward.
TEST_F(RolloutTest, AnUnusableVerdictIsTheLeastReward) {
  backend_.on("check", [](FakeProcess* self) { return leave_reward(self, "nan"); });
  task_.verify.reward_min = -2;
  RolloutResult result = run();
  EXPECT_EQ(result.reward, -2.0);
  EXPECT_EQ(result.error_kind, ErrorKind::kNone);
  EXPECT_THAT(result.reward_error, HasSubstr("no finite number"));
  backend_.on("check", [](FakeProcess* self) { return leave_reward(self, "-3"); });
  result = run();
  EXPECT_EQ(result.reward, -2.0);
  EXPECT_EQ(result.reward_error, "");
  EXPECT_EQ(result.reward_clamped, "-3");
}

TEST_F(RolloutTest, AnAgentThatNeverCallsIsAnErrorOfItsOwn) {
  backend_.on("caller http", never_call);
  const RolloutResult result = run();
  EXPECT_EQ(result.error_kind, ErrorKind::kGateNeverCalled);
  EXPECT_EQ(result.reward, std::nullopt);
  EXPECT_THAT(result.error, HasSubstr("made no LLM call"));
}

TEST_F(RolloutTest, ABrokenTaskIsTheTasksFault) {
  task_.setup = {"prepare"};
  backend_.on("prepare", failing());
  const RolloutResult result = run();
  EXPECT_EQ(result.error_kind, ErrorKind::kTask);
  EXPECT_EQ(result.reward, std::nullopt);
  EXPECT_EQ(result.report.setup.size(), 1u);
  EXPECT_FALSE(result.report.agent);
}

TEST_F(RolloutTest, WhatAnAgentPrintsIsKeptUpToTheBudgetOfTheHostsDisk) {
  backend_.on("caller http", print_then_call);
  RolloutResult result = run();
  EXPECT_EQ(result.report.agent->whole.out, nullptr) << "nobody keeps it";
  EXPECT_EQ(result.error_kind, ErrorKind::kNone) << result.error;
  output_files_ = std::make_shared<net::BlockingPool>(1);
  result = run();
  EXPECT_EQ(result.report.agent->whole.out->size(), 500'000u);
  EXPECT_EQ(result.report.agent->out.size(), agent::Printed::kTail);
  EXPECT_EQ(result.error_kind, ErrorKind::kNone) << result.error;
  task_.budget.host_disk = 300'000;
  result = run();
  EXPECT_LE(result.report.agent->whole.out->size(), 300'000u);
  EXPECT_GE(result.report.agent->whole.out->size(), 200'000u);
  EXPECT_EQ(result.error_kind, ErrorKind::kBudget);
  EXPECT_EQ(result.error,
            "refused by its budget: the budget of 300000 bytes of this machine's disk is used up");
  EXPECT_EQ(result.reward, 1.0) << "as verified";
  EXPECT_THAT(result.report.warnings, Contains(HasSubstr("is kept in part")));
}

// An agent that prints events for ever fills no trace.
TEST_F(RolloutTest, EventsOfAnAgentAreRecordedUpToTheBudgetOfTheHostsDisk) {
  spec_ += R"([[events]]
match = { "/type" = "text" }
kind = "text"
text = "/text"
)";
  backend_.on("caller http", print_an_event);
  EXPECT_EQ(run().error_kind, ErrorKind::kNone);
  EXPECT_EQ(recorder_.count("event:agent"), 1u);
  task_.budget.host_disk = 10;
  int shown = 0;
  on_agent_event_ = [&](const agent::AgentEvent&) {
    ++shown;
  };
  const RolloutResult result = run();
  EXPECT_EQ(result.error_kind, ErrorKind::kBudget) << result.error;
  EXPECT_EQ(result.reward, 1.0);
  EXPECT_EQ(recorder_.count("event:agent"), 1u) << "none of the second";
  EXPECT_EQ(shown, 1);
}

TEST_F(RolloutTest, ABudgetEndsTheAgentAndIsNamed) {
  backend_.on("caller http", call_until_refused);
  task_.budget.calls = 3;
  const RolloutResult result = run();
  EXPECT_EQ(result.error_kind, ErrorKind::kBudget);
  EXPECT_EQ(result.error, "refused by its budget: the budget of 3 calls is used up");
  EXPECT_EQ(result.calls.turns, 3u);
  EXPECT_EQ(result.reward, 1.0);
}

TEST_F(RolloutTest, WhicheverLimitRefusedTheAgentIsNamed) {
  backend_.on("caller http", call_until_refused);
  task_.budget.bytes = 1;
  EXPECT_EQ(run().error, "refused by its budget: the budget of 1 bytes is used up");
  task_.budget = {};
  task_.budget.tokens = 1;
  auto script = gate::Script::parse(
      "[[rules]]\ntext = \"x\"\nusage = { prompt_tokens = 1, completion_tokens = 1 }\n", "s.toml");
  ASSERT_TRUE(script) << script.error().message;
  policy_ = std::make_shared<gate::ScriptPolicy>(std::move(*script), shard_);
  EXPECT_EQ(run().error, "refused by its budget: the budget of 1 tokens is used up");
  backend_.on("caller http", call_then_hang);
  task_.budget = {};
  task_.budget.time = 100ms;
  task_.agent_timeout = 1s;  // long behind, even on a busy machine
  EXPECT_EQ(run().error, "refused by its budget: the time of this rollout is used up");
}

// By the rules of its task: such an answer is not taken.
TEST_F(RolloutTest, ARolloutMayTakeOnlyWhatWasSampled) {
  task_.gate.accept = gate::OriginRule::Accept::kSampledOnly;
  EXPECT_EQ(run().calls.ended(llm::Outcome::kFailed), 1u);
}

TEST_F(RolloutTest, finding_77_tools_for_an_agent_that_cannot_have_them_are_refused_at_once) {
  task_.tools.resize(1);
  task_.tools[0].name = "lookup";
  const RolloutResult result = run();
  EXPECT_EQ(result.error_kind, ErrorKind::kTask);
  EXPECT_THAT(result.error, HasSubstr("caller 1 has no MCP"));
  EXPECT_TRUE(backend_.machines().empty());
}

TEST_F(RolloutTest, AnEndlessAgentTimesOutAndItsWorkIsVerified) {
  backend_.on("caller http", call_then_hang);
  task_.agent_timeout = 500ms;
  const RolloutResult result = run();
  EXPECT_EQ(result.error_kind, ErrorKind::kTimedOut);
  EXPECT_EQ(result.reward, 1.0);
}

TEST_F(RolloutTest, AFailedAgentIsNamedAndItsWorkVerified) {
  auto script = gate::Script::parse("[[rules]]\nrefuse = \"no\"\n", "script.toml");
  policy_ = std::make_shared<gate::ScriptPolicy>(std::move(*script), shard_);
  const RolloutResult result = run();
  EXPECT_EQ(result.error_kind, ErrorKind::kAgent);
  EXPECT_EQ(result.reward, 1.0);
}

TEST_F(RolloutTest, InfrastructureIsNeverTheAgentsFault) {
  backend_.fail_next_create(Error(ErrorCode::kUnavailable, "no room", ErrorOrigin::kSandbox));
  const RolloutResult result = run();
  EXPECT_EQ(result.error_kind, ErrorKind::kInfrastructure);
  EXPECT_EQ(result.reward, std::nullopt);
  EXPECT_EQ(result.error, "create: no room");
}

// What verify said of such an attempt is kept, and is no reward.
TEST_F(RolloutTest, WhereWhoeverAnswersCouldNotItIsThePolicysAndHasNoReward) {
  policy_ = std::make_shared<Out>();
  const RolloutResult result = run();
  EXPECT_EQ(result.error_kind, ErrorKind::kPolicy);
  EXPECT_EQ(result.reward, std::nullopt);
  EXPECT_EQ(result.reward_if_counted, 1.0);
  EXPECT_THAT(result.error, HasSubstr("the upstream at http://model.example/v1 failed"));
  EXPECT_THAT(result.report.warnings, Contains(result.error));
  const std::string json = to_json(result);
  EXPECT_THAT(json, HasSubstr(R"("reward":null,"reward_if_counted":)"));
  EXPECT_THAT(json, HasSubstr(R"("error_kind":"policy")"));
}

TEST_F(RolloutTest, AnAgentThatRewritesItsHistoryIsSeen) {
  backend_.on("caller http", rewrite_history);
  const RolloutResult result = run();
  EXPECT_EQ(result.error_kind, ErrorKind::kNone) << result.error;
  EXPECT_EQ(result.calls.rewrites, 1u);
  EXPECT_THAT(result.report.warnings,
              Contains(HasSubstr("the agent rewrote its history in 1 call:")));
  EXPECT_THAT(to_json(result), HasSubstr(R"("rewrites":1)"));
}

TEST_F(RolloutTest, RejectedRepliesAreToldWithTheirReasons) {
  policy_ = nullptr;
  reply_twice();
  const RolloutResult result = run();
  EXPECT_EQ(result.calls.rejected, 1u);
  EXPECT_THAT(
      result.report.warnings,
      Contains(AllOf(HasSubstr("a reply of the trainer was rejected: "), HasSubstr("token ids"))));
  EXPECT_THAT(to_json(result), HasSubstr(R"("rejected":1)"));
  // The second one was fine.
  EXPECT_EQ(result.error_kind, ErrorKind::kNone) << result.error;
  EXPECT_EQ(result.calls.turns, 1u);
}

TEST_F(RolloutTest, ItsTrainerIsToldOfWhatItIsAndOfWhatCameOfIt) {
  policy_ = nullptr;
  name_ = "t1@2";
  task_.metadata = R"({"level":3})";
  reply_twice();
  const RolloutResult result = run();
  EXPECT_EQ(result.group, "b/t1");
  gate::TakeRequest request;
  request.max = 9;
  request.closings = true;
  auto items = *gate_.for_trainer.take(request, 0s);
  ASSERT_EQ(items.size(), 1u);
  ASSERT_NE(items[0].ended(), nullptr);
  const gate::About& about = items[0].ended()->about;
  EXPECT_EQ(*about.task, R"({"id":"t1","metadata":{"level":3}})");
  EXPECT_EQ(about.name, "t1@2");
  EXPECT_EQ(about.group, "b/t1");
  items = *gate_.for_trainer.take(request, 0s);
  ASSERT_EQ(items.size(), 1u);
  const gate::Books* const closed = items[0].closed();
  ASSERT_NE(closed, nullptr);
  EXPECT_EQ(closed->rollout, result.rollout);
  EXPECT_EQ(closed->about.group, "b/t1");
  EXPECT_EQ(closed->result.reward, 1.0);
  EXPECT_EQ(closed->result.error_kind, "");
  EXPECT_EQ(closed->counters.turns, 1u);
}

TEST_F(RolloutTest, TheAgentIsToldOfTheModelsLimitsUnderTheCap) {
  const auto told = [this] {
    const RolloutResult result = run();
    EXPECT_EQ(result.error_kind, ErrorKind::kNone) << result.error;
    warnings_ = result.report.warnings;
    std::string said;
    for (const std::string& command : backend_.last().commands()) {
      if (command.starts_with("caller http")) said = command.substr(command.rfind(' ') + 1);
    }
    return said;
  };
  EXPECT_EQ(told(), "8192");
  task_.max_output = 2048;
  EXPECT_EQ(told(), "2048");
  max_tokens_cap_ = 4096;
  EXPECT_EQ(told(), "2048");
  max_tokens_cap_ = 1000;
  EXPECT_EQ(told(), "1000");
  task_.max_output.reset();
  max_tokens_cap_ = 20'000;
  EXPECT_EQ(told(), "20000");
  EXPECT_TRUE(warnings_.empty());
  // This one's spec has no use for it.
  task_.context_window = 32768;
  told();
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_EQ(warnings_[0],
            "context_window has no effect: caller's spec does not use {context_window}");
}

net::awaitable<Result<std::optional<double>>> find_nothing(sandbox::Sandbox* sandbox, const Task*) {
  const auto content = co_await sandbox->read_file("/home/user/workdir/result", 100, "1001");
  if (!content) co_return content.error();
  co_return std::optional<double>(1);
}

TEST_F(RolloutTest, WhatAnAgentLeftThatCannotBeJudgedIsItsOwnAndEarnsNothing) {
  const RolloutResult result = run(find_nothing);
  EXPECT_EQ(result.error_kind, ErrorKind::kAgent);
  EXPECT_THAT(result.error, HasSubstr("verify: verifier: /home/user/workdir/result: No such file"));
  EXPECT_EQ(result.reward, 0.0);
}

net::awaitable<Exit> lose_the_sandbox(FakeProcess* self) {
  co_await call_gate(shard_of_test, self, "hi");
  self->machine().lose();
  co_return Exit{};
}

TEST_F(RolloutTest, ALostSandboxIsInfrastructureWhateverTheAgentDid) {
  backend_.on("caller http", lose_the_sandbox);
  const RolloutResult result = run();
  EXPECT_EQ(result.error_kind, ErrorKind::kInfrastructure);
  EXPECT_EQ(result.reward, std::nullopt);
}

// That its gate registration is gone too is looked at after every run.
TEST_F(RolloutTest, defect_19_an_agent_that_cannot_be_started_leaves_nothing_open) {
  on_phase_ = [this](std::string_view phase) {
    if (phase == "start") backend_.last().remove(task_.workdir);
  };
  const RolloutResult result = run();
  EXPECT_THAT(result.error, HasSubstr("start: ")) << result.error;
  EXPECT_EQ(result.reward, std::nullopt);
  EXPECT_FALSE(result.report.agent);
  EXPECT_TRUE(backend_.last().closed());
}

// The gate is looked at after every run here, too.
void expect_a_bug(const RolloutResult& result) {
  EXPECT_EQ(result.error_kind, ErrorKind::kInfrastructure);
  EXPECT_THAT(result.error, HasSubstr("a bug of Sluice's: oops"));
  EXPECT_EQ(result.reward, std::nullopt);
}

TEST_F(RolloutTest, an_exception_in_any_phase_leaves_nothing_open) {
  for (const std::string_view where : agent::Driver::phases()) {
    SCOPED_TRACE(where);
    on_phase_ = [&](std::string_view phase) {
      if (phase == where) throw std::logic_error("oops");
    };
    const RolloutResult result = run();
    expect_a_bug(result);
    // The driver itself closed it, and tells what happened until then.
    if (where != "create") EXPECT_EQ(result.report.sandbox_id, backend_.last().id());
    for (const auto& machine : backend_.machines()) EXPECT_TRUE(machine->closed());
    EXPECT_EQ(recorder_.entries().back().kind, "closed");
  }
}

net::awaitable<Exit> tell_then_call(FakeProcess* self) {
  const auto told = co_await self->write(sandbox::Job::Channel::kOut, "{\"t\":\"x\"}\n");
  static_cast<void>(told);
  co_return co_await call_once(self);
}

TEST_F(RolloutTest, an_exception_over_an_agents_event_leaves_nothing_open) {
  spec_ += "[[events]]\nkind = \"text\"\nmatch = { \"/t\" = \"x\" }\n";
  backend_.on("caller http", tell_then_call);
  on_agent_event_ = [](const agent::AgentEvent&) {
    throw std::logic_error("oops");
  };
  const RolloutResult result = run();
  expect_a_bug(result);
  EXPECT_EQ(result.calls.turns, 1u) << "the agent ran to its end";
  EXPECT_TRUE(backend_.last().closed());
}

net::awaitable<Result<std::optional<double>>> broken(sandbox::Sandbox*, const Task*) {
  throw std::logic_error("oops");
  co_return std::optional<double>();
}

TEST_F(RolloutTest, an_exception_of_a_verifier_leaves_nothing_open) {
  expect_a_bug(run(broken));
  EXPECT_TRUE(backend_.last().closed());
}

TEST_F(RolloutTest, defect_18_files_are_uploaded_for_agents_without_files_of_their_own) {
  task_.uploads = {{"given.txt", "as given", 0644}};
  EXPECT_EQ(run().reward, 1.0);
  EXPECT_EQ(backend_.last().file(task_.workdir + "/given.txt")->content, "as given");
}

TEST_F(RolloutTest, CancelReportsCancelled) {
  backend_.on("caller http", call_then_hang);
  cancel_after_ = 100ms;
  const RolloutResult result = run();
  EXPECT_EQ(result.error_kind, ErrorKind::kCancelled);
  EXPECT_EQ(result.reward, std::nullopt);
}

net::awaitable<Result<std::optional<double>>> half(sandbox::Sandbox* sandbox, const Task* task) {
  const auto content = co_await sandbox->read_file(task->workdir + "/status", 100, "1001");
  if (!content) co_return content.error();
  co_return std::optional<double>(*content == "200" ? 0.5 : -1.0);
}

TEST_F(RolloutTest, AVerifierSeesTheSandboxAfterTheAgentIsDead) {
  EXPECT_EQ(run(half).reward, 0.5);
}

TEST_F(RolloutTest, finding_46_the_result_says_whether_approvals_were_bypassed) {
  EXPECT_EQ(run().approvals, agent::Approvals::kAgentDefault);
  task_.approvals = agent::Approvals::kBypass;
  const RolloutResult result = run();
  EXPECT_EQ(result.approvals, agent::Approvals::kBypass);
  EXPECT_THAT(to_json(result), HasSubstr(R"("approvals":"bypass")"));
}

// The agent's URL is on its own loopback, carried out by the sandbox: nobody arranges reachability.
TEST_F(RolloutTest, finding_78_the_endpoint_is_on_the_sandboxes_own_loopback) {
  run();
  for (const auto& command : backend_.last().history()) {
    if (command.argv.front() != "caller") continue;
    EXPECT_THAT(command.argv.at(1), ::testing::StartsWith("http://127.0.0.1:"));
    return;
  }
  FAIL() << "the agent did not run";
}

TEST_F(RolloutTest, TheTraceTellsTheWholeStory) {
  const RolloutResult result = run();
  const auto entries = recorder_.entries();
  ASSERT_FALSE(entries.empty());
  EXPECT_EQ(entries.front().kind, "opened");
  EXPECT_EQ(entries.back().kind, "closed");
  EXPECT_EQ(recorder_.count("event:phase"), result.report.phases.size());
  EXPECT_EQ(recorder_.count(llm::Outcome::kDelivered), 1u);
  EXPECT_TRUE(json::parse(to_json(result)));
}

}  // namespace
}  // namespace sluice::rollout
