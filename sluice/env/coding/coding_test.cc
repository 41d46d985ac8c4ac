// The coding environment over a fake backend and the real gate: what needs no process. How it is
// met on the wire is in tests/env/test_coding_env.py.
#include "sluice/env/coding/coding.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "sluice/base/core/check.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/id.h"
#include "sluice/llm/answer.h"
#include "sluice/net/testing.h"
#include "sluice/rollout/testing.h"
#include "sluice/sandbox/fake/fake.h"
#include "sluice/trace/memory.h"

namespace sluice::env::coding {
namespace {

using namespace std::chrono_literals;
using rollout::testing::call_gate;
using rollout::testing::kCallerSpec;
using sandbox::Exit;
using sandbox::fake::FakeBackend;
using sandbox::fake::FakeProcess;
using ::testing::HasSubstr;

net::Shard* rollout_shard = nullptr;

net::awaitable<Exit> call_once(FakeProcess* self) {
  const int status = co_await call_gate(rollout_shard, self, "hi");
  Exit exit;
  exit.status = status == 200 ? 0 : 1;
  co_return exit;
}

net::awaitable<Exit> call_then_hang(FakeProcess* self) {
  co_await call_gate(rollout_shard, self, "hi");
  const auto slept = co_await self->sleep(1h);
  static_cast<void>(slept);
  co_return Exit{};
}

// Answers at once, without a network.
class Canned final : public gate::Policy {
 public:
  void submit(std::shared_ptr<const llm::Call>, gate::Reply reply) override {
    reply.answer(llm::text_answer("hello", llm::Origin::kCanned));
  }
};

class FakeContext final : public CallContext {
 public:
  const std::string& session() const override { return session_; }
  Deadline deadline() const override { return Deadline::never(); }
  CancelReason cancelled() const override { return reason; }
  void progress(double progress, std::optional<double>, std::string message) override {
    EXPECT_GE(progress, last);
    last = progress;
    messages.push_back(std::move(message));
  }
  CancelReason reason = CancelReason::kNone;
  double last = 0;
  std::vector<std::string> messages;

 private:
  std::string session_ = "s1";
};

class CodingTest : public ::testing::Test {
 protected:
  CodingTest() {
    worker_.start();
    rollout_shard = &worker_;
    std::filesystem::create_directories(directory_);
    CHECK(write_file_atomically(directory_ + "/caller.toml", kCallerSpec));
    backend_.on("caller http", call_once);
    options_.agents_directory = directory_;
    options_.variables = [](const std::string&) {
      return std::string();
    };
    options_.upstream = [this](net::Shard* shard, const Upstream& where) {
      EXPECT_EQ(shard, &worker_);
      asked_ = where;
      return Result<std::shared_ptr<gate::Policy>>(std::make_shared<Canned>());
    };
    arguments_ = json::parse(R"({"agent":"caller","endpoint":"","base_url":"http://up/v1/",
        "api_key":"k","model":"m","instruction":"do it","setup":null,"verify":["check"],
        "task_id":"t1","mode":"black_box","disable_thinking":null,"max_tokens_cap":4096,
        "agent_timeout_s":5.0,"template":""})")
                     ->get_object();
  }
  ~CodingTest() override {
    engine_.reset();
    worker_.stop();
    std::filesystem::remove_all(directory_);
  }

  static rollout::EngineOptions one_attempt() {
    rollout::EngineOptions options;
    options.retries = 0;
    options.give_up_after = 0;
    return options;
  }

  CodingFactory& factory() {
    if (!factory_) {
      engine_ = std::make_unique<rollout::Engine>(
          rollout::Engine::Parts{{&worker_}, backend_, gate_.for_operator, recorder_, Logger()},
          engine_options_);
      factory_ =
          std::make_unique<CodingFactory>(CodingParts{server_, pool_, *engine_, board_}, options_);
    }
    return *factory_;
  }

  std::unique_ptr<Environment> make() {
    auto made = net::testing::run(server_, factory().create("s1"));
    EXPECT_TRUE(made);
    return std::move(*made);
  }

  json::Object run(Environment& environment) {
    context_.last = 0;
    context_.messages.clear();
    auto result =
        net::testing::run(server_, environment.call_tool("run_rollout", arguments_, &context_));
    EXPECT_TRUE(result) << result.error().message;
    return json::parse(result->text)->get_object();
  }
  json::Object run() { return run(*make()); }

  static net::awaitable<void> call(Environment* environment, json::Object arguments,
                                   CallContext* context, std::optional<Result<ToolResult>>* into) {
    into->emplace(co_await environment->call_tool("run_rollout", std::move(arguments), context));
  }

  // Runs it in a group, and cancels the group when the agent runs.
  json::Object run_and_cancel(Environment& environment) {
    std::optional<Result<ToolResult>> result;
    net::TaskGroup group(server_.executor());
    group.spawn(call(&environment, arguments_, &context_, &result));
    server_.run_until([&] {
      const auto& said = context_.messages;
      return !said.empty() && said.back() == "agent";
    });
    context_.reason = CancelReason::kClientGone;
    group.cancel();
    server_.run_until([&] { return result.has_value() && group.size() == 0; });
    return json::parse((*result)->text)->get_object();
  }

  struct Call;

  std::string directory_ = ::testing::TempDir() + "/agents-" + random_hex(8);
  net::Shard server_;
  net::Shard worker_{1};
  net::BlockingPool pool_{1};
  FakeBackend backend_;
  gate::Handles gate_ = gate::make_gate({});
  trace::MemoryRecorder recorder_;
  RolloutBoard board_{server_};
  CodingOptions options_;
  rollout::EngineOptions engine_options_ = one_attempt();
  std::unique_ptr<rollout::Engine> engine_;
  std::unique_ptr<CodingFactory> factory_;
  json::Object arguments_;
  FakeContext context_;
  Upstream asked_;
};

TEST_F(CodingTest, a_black_box_rollout_asks_its_upstream_and_is_verified) {
  const json::Object result = run();
  EXPECT_EQ(result.at("reward"), 1.0);
  EXPECT_EQ(result.at("error"), nullptr);
  EXPECT_EQ(asked_.base_url, "http://up/v1");
  EXPECT_EQ(asked_.key, "k");
  EXPECT_EQ(result.at("llm").at("turns"), 1);
  EXPECT_EQ(context_.messages.front(), "create");
  EXPECT_EQ(context_.messages.back(), "close");
  const json::Array listed = board_.list("ended", 10);
  ASSERT_EQ(listed.size(), 1U);
  EXPECT_EQ(listed[0].at("task_id"), "t1");
  EXPECT_EQ(listed[0].at("reward"), 1.0);
}

TEST_F(CodingTest, an_upstream_that_clients_may_not_name_is_refused_before_there_is_a_sandbox) {
  options_.check_upstream = [](const std::string& base_url) -> Result<void> {
    return Error(ErrorCode::kPermissionDenied, base_url + " is inside");
  };
  const json::Object result = run();
  EXPECT_EQ(result.at("error"), "ValueError: base_url: http://up/v1 is inside");
  EXPECT_EQ(result.at("error_kind"), "task");
  EXPECT_EQ(result.at("reward"), nullptr);
  EXPECT_TRUE(recorder_.entries().empty());
}

TEST_F(CodingTest, the_cap_on_tokens_reaches_the_agent_and_zero_is_none) {
  arguments_["max_tokens_cap"] = 123;
  run();
  EXPECT_THAT(backend_.last().commands(), ::testing::Contains(HasSubstr("/v1 123")));
  arguments_["max_tokens_cap"] = 0;
  run();
  EXPECT_THAT(backend_.last().commands(), ::testing::Contains(HasSubstr("/v1 8192")));
}

TEST_F(CodingTest, a_servers_longest_answer_stands_where_the_caps_default_would) {
  options_.defaults.max_output = 16'000;
  const auto told = [this](int64_t cap) {
    arguments_["max_tokens_cap"] = cap;
    run();
    std::string said;
    for (const std::string& command : backend_.last().commands()) {
      if (command.starts_with("caller http")) said = command.substr(command.rfind(' ') + 1);
    }
    return said;
  };
  EXPECT_EQ(told(4096), "16000");
  EXPECT_EQ(asked_.max_tokens_cap, 16'000);
  EXPECT_EQ(told(123), "123");
  EXPECT_EQ(told(20'000), "16000");
  EXPECT_EQ(asked_.max_tokens_cap, 20'000);
  EXPECT_EQ(told(0), "16000");
  EXPECT_EQ(asked_.max_tokens_cap, std::nullopt);
}

TEST_F(CodingTest, defect_08_what_a_rollout_asks_of_its_calls_goes_to_the_upstream) {
  json::Object result = run();
  EXPECT_FALSE(asked_.disable_thinking);
  EXPECT_EQ(asked_.max_tokens_cap, 4096);
  EXPECT_EQ(asked_.top_logprobs, std::nullopt);
  EXPECT_TRUE(result.at("warnings").as_array().empty());
  // The default asks for none: endpoints that refuse it serve all others. Who asks for it is told.
  arguments_["top_logprobs"] = 5;
  result = run();
  EXPECT_EQ(asked_.top_logprobs, std::nullopt);
  ASSERT_EQ(result.at("warnings").as_array().size(), 1U);
  EXPECT_THAT(std::string(result.at("warnings").at(0).as_string()),
              HasSubstr("top_logprobs has no effect: 5, its default,"));
  arguments_["disable_thinking"] = true;
  arguments_["max_tokens_cap"] = 12;
  arguments_["top_logprobs"] = 3;
  result = run();
  EXPECT_TRUE(asked_.disable_thinking);
  EXPECT_EQ(asked_.max_tokens_cap, 12);
  EXPECT_EQ(asked_.top_logprobs, 3);
  // This model's answers have none.
  ASSERT_EQ(result.at("warnings").as_array().size(), 1U);
  EXPECT_THAT(std::string(result.at("warnings").at(0).as_string()), HasSubstr("not captured"));
  arguments_["max_tokens_cap"] = arguments_["top_logprobs"] = -1;
  run();
  EXPECT_EQ(asked_.max_tokens_cap, std::nullopt);
  EXPECT_EQ(asked_.top_logprobs, std::nullopt);
}

TEST_F(CodingTest, defect_08_what_cannot_be_asked_for_is_told) {
  std::string spec = kCallerSpec;
  spec.replace(spec.find("[dialects.chat]"), 15, "[dialects.messages]");
  CHECK(write_file_atomically(directory_ + "/caller.toml", spec));
  arguments_["top_logprobs"] = 3;
  const json::Object result = run();
  ASSERT_EQ(result.at("warnings").as_array().size(), 1U);
  EXPECT_EQ(result.at("warnings").at(0),
            "top_logprobs has no effect: the messages dialect has none");
}

TEST_F(CodingTest, finding_76_a_trainer_answers_in_interception_gate) {
  std::atomic<bool> ended = false;
  std::thread trainer([&] {
    while (!ended) {
      for (const gate::Item& item : gate_.for_trainer.next_batch(8, 20ms)) {
        if (item.call() == nullptr) continue;
        llm::Answer answer = llm::text_answer("hello", llm::Origin::kSampled);
        answer.choices.front().ids = {1, 2, 3};
        answer.choices.front().logprobs = {-0.5F, -0.25F, -1.0F};
        gate_.for_trainer.reply(item.call()->id, std::move(answer)).wait();
      }
    }
  });
  TrainerAccess access;
  access.attached = [] {
    return true;
  };
  options_.trainer = std::move(access);
  arguments_["mode"] = "interception_gate";
  arguments_["base_url"] = arguments_["api_key"] = arguments_["model"] = "";
  arguments_["disable_thinking"] = true;
  arguments_["top_logprobs"] = 3;
  const json::Object result = run();
  ended = true;
  trainer.join();
  // Nothing of ours stands between agent and trainer: what the agent cannot be told has no effect.
  EXPECT_EQ(result.at("warnings"),
            json::Value({"disable_thinking has no effect: caller's spec has no option for it",
                         "top_logprobs has no effect: the trainer decides what it captures"}));
  EXPECT_EQ(result.at("reward"), 1.0) << result.at("error");
  EXPECT_EQ(result.at("mode"), "interception_gate");
  const json::Array& turns = result.at("proxy_turns").as_array();
  ASSERT_EQ(turns.size(), 1U);
  EXPECT_EQ(turns[0].at("completion_token_ids"), json::Value({1, 2, 3}));
  EXPECT_EQ(turns[0].at("per_token_logps"), json::Value({-0.5, -0.25, -1.0}));
  EXPECT_EQ(turns[0].at("finish_reason"), "stop");
}

TEST_F(CodingTest, without_a_trainer_interception_gate_is_refused_at_once_and_starts_nothing) {
  arguments_["mode"] = "interception_gate";
  EXPECT_THAT(run().at("error").as_string().c_str(), HasSubstr("this server has no trainer API"));
  factory_.reset();
  TrainerAccess access;
  access.attached = [] {
    return false;
  };
  access.patience = 100ms;
  options_.trainer = std::move(access);
  const json::Object result = run();
  EXPECT_THAT(result.at("error").as_string().c_str(), HasSubstr("no trainer is attached"));
  EXPECT_EQ(result.at("error_kind"), "infrastructure");
  EXPECT_EQ(result.at("reward"), nullptr);
  EXPECT_TRUE(recorder_.entries().empty());
}

TEST_F(CodingTest, a_call_that_is_cancelled_ends_its_rollout_first) {
  backend_.on("caller http", call_then_hang);
  auto environment = make();
  const json::Object result = run_and_cancel(*environment);
  EXPECT_EQ(result.at("error_kind"), "cancelled");
  EXPECT_EQ(result.at("reward"), nullptr);
  EXPECT_TRUE(backend_.last().closed());
  EXPECT_EQ(board_.list("ended", 10)[0].at("call_cancelled"), "client_gone");
}

TEST_F(CodingTest, over_the_limit_rollouts_wait_and_all_of_them_run) {
  engine_options_.limits.concurrency = 1;
  std::vector<std::optional<Result<ToolResult>>> results(5);
  std::vector<FakeContext> contexts(5);
  auto environment = make();
  net::TaskGroup group(server_.executor());
  for (size_t i = 0; i < results.size(); ++i) {
    group.spawn(call(environment.get(), arguments_, &contexts[i], &results[i]));
  }
  server_.run_until([&] { return group.size() == 0; });
  for (const auto& result : results) {
    ASSERT_TRUE(result && *result);
    EXPECT_EQ(json::parse((*result)->text)->at("reward"), 1.0);
  }
  EXPECT_EQ(environment->state()->at("rollouts_completed"), 5);
}

// One call in a group of its own.
struct CodingTest::Call {
  Call(CodingTest& test, Environment& environment) : server(test.server_) {
    group.spawn(call(&environment, test.arguments_, &context, &result));
  }
  void wait_until_told(std::string_view message) {
    server.run_until(
        [&] { return !context.messages.empty() && context.messages.back() == message; });
  }
  json::Object end() {
    server.run_until([&] { return group.size() == 0; });
    return json::parse((*result)->text)->get_object();
  }
  json::Object leave() {
    context.reason = CancelReason::kClientGone;
    group.cancel();
    return end();
  }

  net::Shard& server;
  net::TaskGroup group{server.executor()};
  FakeContext context;
  std::optional<Result<ToolResult>> result;
};

TEST_F(CodingTest, a_call_that_waits_for_a_slot_is_told_so_and_may_leave) {
  engine_options_.limits.concurrency = 1;
  backend_.on("caller http", call_then_hang);
  auto environment = make();
  Call first(*this, *environment);
  first.wait_until_told("agent");
  Call second(*this, *environment);
  second.wait_until_told("waiting for a free slot");
  const json::Object left = second.leave();
  EXPECT_EQ(left.at("error"), "RuntimeError: the call ended while the rollout waited for a slot");
  EXPECT_EQ(left.at("error_kind"), "cancelled");
  EXPECT_EQ(second.context.messages.size(), 1u);
  EXPECT_EQ(board_.list("", 10).size(), 1u) << "what never began is on no board";
  EXPECT_EQ(first.leave().at("error_kind"), "cancelled");
}

TEST_F(CodingTest, a_rollout_is_cancelled_beside_the_wire) {
  backend_.on("caller http", call_then_hang);
  auto environment = make();
  Call one(*this, *environment);
  one.wait_until_told("agent");
  const json::Array running = board_.list("running", 10);
  ASSERT_EQ(running.size(), 1u);
  const std::string id(running[0].at("rollout_id").as_string());
  EXPECT_TRUE(board_.cancel(id));
  const json::Object result = one.end();
  EXPECT_EQ(result.at("error_kind"), "cancelled");
  EXPECT_THAT(std::string(result.at("error").as_string()), HasSubstr("cancelled over /rollouts"));
  EXPECT_EQ(result.at("rollout_id"), json::Value(id));
  EXPECT_FALSE(board_.list("ended", 10)[0].as_object().contains("call_cancelled"));
}

TEST_F(CodingTest, a_call_that_waits_for_a_trainer_may_leave) {
  TrainerAccess access;
  access.attached = [] {
    return false;
  };
  access.patience = 1h;
  options_.trainer = std::move(access);
  arguments_["mode"] = "interception_gate";
  auto environment = make();
  Call one(*this, *environment);
  one.wait_until_told("waiting for a trainer");
  const json::Object left = one.leave();
  EXPECT_EQ(left.at("error"),
            "RuntimeError: the call ended while the rollout waited for a trainer");
  EXPECT_EQ(left.at("error_kind"), "cancelled");
  EXPECT_TRUE(board_.list("", 10).empty());
}

TEST_F(CodingTest, further_attempts_are_made_where_they_are_asked_for) {
  engine_options_.retries = 1;
  engine_options_.retry_pause = 1ms;
  backend_.fail_next_create(Error(ErrorCode::kUnavailable, "no room", ErrorOrigin::kSandbox));
  const json::Object result = run();
  EXPECT_EQ(result.at("reward"), 1.0);
  const json::Array ended = board_.list("ended", 10);  // the newest first
  ASSERT_EQ(ended.size(), 2u);
  EXPECT_EQ(ended[0].at("rollout_id"), result.at("rollout_id"));
  EXPECT_EQ(ended[1].at("error_kind"), "infrastructure");
}

TEST_F(CodingTest, a_sandbox_that_cannot_be_had_is_infrastructure) {
  backend_.fail_next_create(Error(ErrorCode::kUnavailable, "no room", ErrorOrigin::kSandbox));
  const json::Object result = run();
  EXPECT_EQ(result.at("error"), "RuntimeError: create: no room");
  EXPECT_EQ(result.at("error_kind"), "infrastructure");
  EXPECT_EQ(result.at("sandbox_id"), "");
}

TEST_F(CodingTest, an_upstream_that_cannot_be_is_the_callers_mistake) {
  options_.upstream = [](net::Shard*, const Upstream&) {
    return Result<std::shared_ptr<gate::Policy>>(Error(ErrorCode::kInvalidArgument, "no URL"));
  };
  const json::Object result = run();
  EXPECT_EQ(result.at("error"), "ValueError: base_url: no URL");
  EXPECT_EQ(result.at("reward"), nullptr);
}

TEST_F(CodingTest, a_template_names_the_sandboxes_image) {
  const std::string place = directory_ + "/templates";
  std::filesystem::create_directories(place + "/my-root");
  CHECK(write_file_atomically(place + "/my-image.tar", "an image"));
  CHECK(write_file_atomically(place + "/.hidden.tar", "an image"));
  options_.templates_directory = place;
  for (const auto& [name, path] :
       {std::pair("my-root", "/my-root"), {"my-image", "/my-image.tar"}}) {
    arguments_["template"] = name;
    run();
    EXPECT_EQ(backend_.last().options().image, place + path);
  }
  // Names and no paths, or a client could have any file of this machine in its sandbox.
  const size_t made = backend_.machines().size();
  for (const char* name : {"nope", "/", "../templates/my-root", ".hidden", "..", "my-root/"}) {
    arguments_["template"] = name;
    const std::string said = fmt::format(
        "ValueError: unknown template '{}'; this server has ['my-image', 'my-root']", name);
    EXPECT_EQ(run().at("error"), json::Value(said));
  }
  EXPECT_EQ(backend_.machines().size(), made);
}

TEST_F(CodingTest, commands_that_no_shell_can_be_given_are_refused_before_there_is_a_sandbox) {
  for (const char* name : {"setup", "verify"}) {
    json::Object was = arguments_;
    arguments_[name] = json::Array{"true", std::string(131072, 'x')};
    const json::Object result = run();
    EXPECT_EQ(result.at("error_kind"), "task");
    EXPECT_THAT(std::string(result.at("error").as_string()),
                HasSubstr(std::string(name) + ": command 2 has 131072 bytes"));
    arguments_ = was;
  }
  EXPECT_TRUE(backend_.machines().empty());
}

TEST_F(CodingTest, times_are_openenvs_unless_the_server_says_otherwise) {
  EXPECT_EQ(factory().info().step_timeout, 900s);
  arguments_["setup"] = json::Array({json::Value("prepare")});
  run();
  const auto left_for = [&](std::string_view script) {
    for (const auto& command : backend_.last().history()) {
      if (command.argv.back() == script) return command.deadline.remaining();
    }
    return Duration::zero();
  };
  // What is left of it by now: a rollout of the fake takes no minute.
  EXPECT_LE(left_for("prepare"), 300s);
  EXPECT_GT(left_for("prepare"), 240s);
  EXPECT_LE(left_for("check"), 120s);
  EXPECT_GT(left_for("check"), 60s);
}

TEST_F(CodingTest, an_agents_time_may_be_left_to_its_spec_and_is_never_negative) {
  arguments_["agent_timeout_s"] = 0.0;
  EXPECT_EQ(run().at("reward"), 1.0);
  const size_t made = backend_.machines().size();
  arguments_["agent_timeout_s"] = -1.0;
  const json::Object result = run();
  EXPECT_EQ(result.at("error"), "ValueError: agent_timeout_s must not be negative");
  EXPECT_EQ(result.at("reward"), nullptr);
  EXPECT_EQ(backend_.machines().size(), made);
}

TEST_F(CodingTest, books_tell_of_rollouts_that_failed) {
  auto environment = make();
  run(*environment);
  EXPECT_EQ(environment->state()->at("last_reward"), 1.0);
  // A rollout without a sandbox, and one whose task has no name.
  arguments_["mode"] = "zzz";
  arguments_["task_id"] = "";
  run(*environment);
  auto state = environment->state();
  EXPECT_EQ(state->at("rollouts_completed"), 2);
  for (const char* name : {"last_reward", "last_task_id", "last_sandbox_id"}) {
    EXPECT_EQ(state->at(name), nullptr) << name;
  }
  // Mistakes that are told before there is a rollout leave the books alone.
  arguments_["instruction"] = "";
  const auto refused =
      net::testing::run(server_, environment->call_tool("run_rollout", arguments_, &context_));
  EXPECT_FALSE(refused);
  EXPECT_EQ(environment->state()->at("rollouts_completed"), 2);
}

TEST_F(CodingTest, a_reset_begins_new_books) {
  auto environment = make();
  run(*environment);
  EXPECT_EQ(environment->state()->at("last_task_id"), "t1");
  json::Object given;
  given["episode_id"] = "e2";
  const auto first = net::testing::run(server_, environment->reset(given, &context_));
  ASSERT_TRUE(first);
  EXPECT_EQ(first->metadata.at("status"), "ready");
  const auto state = environment->state();
  EXPECT_EQ(state->at("episode_id"), "e2");
  EXPECT_EQ(state->at("rollouts_completed"), 0);
  EXPECT_EQ(state->at("last_reward"), nullptr);
}

TEST_F(CodingTest, tools_are_made_anew_when_agents_come) {
  const auto before = factory().tools();
  EXPECT_EQ(factory().tools(), before);
  std::string spec = kCallerSpec;
  spec.replace(spec.find("\"caller\""), 8, "\"second\"");
  CHECK(write_file_atomically(directory_ + "/second.toml", spec));
  const auto after = factory().tools();
  EXPECT_NE(after, before);
  EXPECT_THAT(after->front().description, HasSubstr("second"));
}

}  // namespace
}  // namespace sluice::env::coding
