#include "sluice/agent/driver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/net/testing.h"
#include "sluice/sandbox/fake/fake.h"

namespace sluice::agent {
namespace {

using namespace std::chrono_literals;
using sandbox::Exit;
using sandbox::Job;
using sandbox::fake::Answer;
using sandbox::fake::FakeBackend;
using sandbox::fake::FakeMachine;
using sandbox::fake::FakeProcess;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kSpec[] = R"(
name = "echo"
version = "1.0"
[bundle]
npm = ["echo@1.0"]
program = "{bundle}/agent"
[run]
command = ["{program}", "{base_url}"]
timeout_s = 5
[run.env]
KEY = "{key}"
[[files]]
path = "{home}/.echo.json"
content = '{"url": "{base_url}"}'
[dialects.chat]
path = "/v1"
[[events]]
match = { "/type" = "tool" }
kind = "tool"
tool = "/name"
[[events]]
match = { "/type" = "error" }
kind = "error"
text = "/message"
[artifacts.log]
path = "{home}/log"
)";

Answer failing(int status, std::string out, std::string err) {
  Answer answer;
  answer.status = status;
  answer.out = std::move(out);
  answer.err = std::move(err);
  return answer;
}

// The agent of these tests: reads its prompt, prints an event, leaves a file.
net::awaitable<Exit> work(FakeProcess* self) {
  Bytes prompt;
  for (;;) {
    auto piece = co_await self->read_input();
    if (!piece || piece->empty()) break;
    prompt += *piece;
  }
  self->machine().put("/home/user/workdir/prompt.txt", prompt);
  self->machine().put("/home/user/log", "what it did");
  const auto wrote =
      co_await self->write(Job::Channel::kOut, "{\"type\":\"tool\",\"name\":\"bash\"}\nnot json\n");
  const auto erred = co_await self->write(Job::Channel::kErr, "to stderr\n");
  static_cast<void>(wrote);
  static_cast<void>(erred);
  co_return Exit{};
}

net::awaitable<Exit> succeed(FakeProcess*) {
  co_return Exit();
}

net::awaitable<void> run_service(sandbox::Sandbox* sandbox, sandbox::Command command) {
  const auto ignored = co_await sandbox->start(std::move(command));
  static_cast<void>(ignored);
}

net::awaitable<Exit> never_end(FakeProcess* self) {
  const auto slept = co_await self->sleep(1h);
  static_cast<void>(slept);
  co_return Exit{};
}

net::awaitable<Exit> fail_with_event(FakeProcess* self) {
  const auto wrote = co_await self->write(Job::Channel::kOut,
                                          "{\"type\":\"error\",\"message\":\"model not found\"}");
  static_cast<void>(wrote);
  Exit exit;
  exit.status = 0;
  co_return exit;
}

class Watcher : public Hooks {
 public:
  void on_phase(std::string_view name) override { phases.emplace_back(name); }
  void on_agent_event(const AgentEvent& event) override { tools.push_back(event.tool); }
  net::awaitable<Result<Endpoint>> open_endpoint(sandbox::Sandbox* of) override {
    box = of;
    Endpoint endpoint;
    endpoint.url = "http://127.0.0.1:81/rollout/r1";
    endpoint.key = "placeholder";
    co_return endpoint;
  }
  void agent_starts() override {
    phases.emplace_back("(admitted)");
    if (at_start) at_start();
  }
  void agent_ended() override { phases.emplace_back("(shut)"); }

  std::vector<std::string> phases;
  std::vector<std::string> tools;
  std::function<void()> at_start;
  sandbox::Sandbox* box = nullptr;
};

class DriverTest : public ::testing::Test {
 protected:
  DriverTest() {
    auto spec = parse_spec(kSpec, "echo.toml");
    EXPECT_TRUE(spec) << spec.error().message;
    spec_ = std::move(*spec);
    plan_.instruction = "do it";
    plan_.bundle_path = "/cache/echo";
    backend_.prepare(
        [](FakeMachine& machine) { machine.put("/opt/echo/agent", "binary", 0, 0755); });
    backend_.on("/opt/echo/agent", work);
  }

  Report run() {
    plan_.spec = std::make_shared<const Spec>(spec_);
    Driver driver(shard_, backend_, plan_, watcher_);
    return net::testing::run(shard_, driver.run());
  }

  net::Shard shard_;
  FakeBackend backend_;
  Spec spec_;
  Plan plan_;
  Watcher watcher_;
};

TEST_F(DriverTest, TakesAnAgentThroughItsLife) {
  plan_.uploads = {{"in.txt", "input", 0644}, {"/home/user/abs.txt", "x", 0600}};
  plan_.setup = {"make ready"};
  plan_.verify.commands = {"check one", "check two"};
  backend_.on("check two", failing(1, "", "wrong"));
  const Report report = run();

  ASSERT_FALSE(report.error) << report.error->message;
  EXPECT_THAT(watcher_.phases, ElementsAre("create", "install", "upload", "setup", "configure",
                                           "start", "(admitted)", "agent", "(shut)", "stop",
                                           "collect", "verify", "files", "close"));
  EXPECT_EQ(report.phases.size(), 12u);
  ASSERT_TRUE(report.agent);
  EXPECT_TRUE(report.agent->ok);
  EXPECT_THAT(watcher_.tools, ElementsAre("bash"));
  EXPECT_EQ(report.agent->err, "to stderr\n");
  EXPECT_THAT(report.agent->log_tail, AllOf(HasSubstr("not json"), HasSubstr("to stderr")));
  ASSERT_EQ(report.artifacts.size(), 1u);
  EXPECT_EQ(report.artifacts[0].content, "what it did");
  EXPECT_EQ(report.files.at("prompt.txt"), "do it");
  EXPECT_EQ(report.files.at("in.txt"), "input");
  ASSERT_EQ(report.verify.size(), 2u);
  EXPECT_EQ(report.verify[1].output.exit.status, 1);
  EXPECT_EQ(report.verify[1].output.err, "wrong");
  EXPECT_TRUE(report.verified);
  EXPECT_TRUE(backend_.last().closed());
  EXPECT_EQ(backend_.last().file("/home/user/.echo.json")->content,
            R"({"url": "http://127.0.0.1:81/rollout/r1/v1"})");
}

// Setup runs to its end before the agent starts, each command once and by itself.
TEST_F(DriverTest, finding_23_finding_24_setup_runs_once_and_before_the_agent) {
  plan_.setup = {"first step", "second step"};
  run();
  const auto commands = backend_.last().commands();
  EXPECT_EQ(std::count(commands.begin(), commands.end(), "first step"), 1);
  EXPECT_EQ(std::count(commands.begin(), commands.end(), "second step"), 1);
  const auto position = [&](std::string_view text) {
    return std::find_if(commands.begin(), commands.end(),
                        [&](const std::string& c) { return c.find(text) != std::string::npos; }) -
           commands.begin();
  };
  EXPECT_LT(position("second step"), position("/opt/echo/agent"));
}

TEST_F(DriverTest, finding_27_a_failed_setup_keeps_its_results_and_starts_no_agent) {
  plan_.setup = {"good", "bad", "never"};
  plan_.verify.commands = {"check"};
  backend_.on("bad", failing(3, "some output", "Could not resolve host: no such package"));
  const Report report = run();
  ASSERT_TRUE(report.error);
  EXPECT_EQ(report.error->origin, ErrorOrigin::kTask);
  EXPECT_EQ(report.failed_phase, "setup");
  EXPECT_THAT(report.error->message, AllOf(HasSubstr("bad"), HasSubstr("exit code 3"),
                                           HasSubstr("no such package"), HasSubstr("no network")));
  ASSERT_EQ(report.setup.size(), 2u);
  EXPECT_EQ(report.setup[1].output.exit.status, 3);
  EXPECT_EQ(report.setup[1].output.out, "some output");
  EXPECT_FALSE(report.agent);
  EXPECT_TRUE(report.verify.empty());
  EXPECT_FALSE(report.verified);
  EXPECT_TRUE(backend_.last().closed());
}

// A lead that is wrong is worse than none.
TEST_F(DriverTest, TheNetworkIsSpokenOfOnlyWhereSetupMissesIt) {
  plan_.setup = {"bad"};
  const auto told = [this](std::string err) {
    backend_.on("bad", failing(1, "", std::move(err)));
    return run().error->message;
  };
  for (const char* plain : {"", "no such package", "bash: foo: command not found"}) {
    EXPECT_THAT(told(plain), Not(HasSubstr("no network"))) << plain;
  }
  for (const char* lacking :
       {"fatal: unable to access: Could not resolve host: github.com",
        "npm ERR! getaddrinfo EAI_AGAIN registry", "connect: Network is unreachable",
        "Temporary failure in name resolution", "dial tcp: lookup proxy: no such host",
        "Failed to establish a new connection: [Errno 101]", "curl: (7) Failed to connect to x"}) {
    EXPECT_THAT(told(lacking), HasSubstr("no network")) << lacking;
  }
}

TEST_F(DriverTest, AnEndlessAgentIsKilledAndItsWorkVerified) {
  backend_.on("/opt/echo/agent", never_end);
  plan_.agent_timeout = 50ms;
  plan_.verify.commands = {"check"};
  const Report report = run();
  ASSERT_TRUE(report.error);
  EXPECT_EQ(report.error->code, ErrorCode::kTimedOut);
  EXPECT_EQ(report.error->origin, ErrorOrigin::kAgent);
  EXPECT_EQ(report.agent->exit.reason, Exit::Reason::kTimedOut);
  EXPECT_FALSE(report.agent->ok);
  EXPECT_EQ(report.verify.size(), 1u);
  EXPECT_TRUE(report.verified);
  EXPECT_EQ(backend_.last().running(), 0u);
}

TEST_F(DriverTest, finding_12_the_agents_own_time_out_ends_the_wait) {
  backend_.on("/opt/echo/agent", never_end);
  spec_.timeout = 50ms;
  EXPECT_EQ(run().agent->exit.reason, Exit::Reason::kTimedOut);
}

TEST_F(DriverTest, SuccessIsReadFromEventsWhereTheSpecSaysSo) {
  backend_.on("/opt/echo/agent", fail_with_event);
  EXPECT_TRUE(run().agent->ok);
  spec_.success_from_events = true;
  const Report report = run();
  EXPECT_FALSE(report.agent->ok);
  EXPECT_EQ(report.agent->error, "model not found");
}

// What the agent owes is told, and its work is verified all the same.
TEST_F(DriverTest, AnArtifactThatIsMissingDoesNotVoidTheVerdict) {
  spec_.artifacts.push_back({"trajectory", "{home}/none.json", true, 100});
  plan_.verify.commands = {"check"};
  const Report report = run();
  ASSERT_TRUE(report.error);
  EXPECT_EQ(report.error->origin, ErrorOrigin::kAgent);
  EXPECT_EQ(report.failed_phase, "collect");
  EXPECT_EQ(report.verify.size(), 1u);
  EXPECT_TRUE(report.verified);
}

TEST_F(DriverTest, WhatSetUpStartedLivesUntilTheEnd) {
  backend_.on("service", never_end);
  plan_.setup = {"start"};
  watcher_.at_start = [this] {
    // As what a setup command left running.
    sandbox::Command command = sandbox::Command::shell("service");
    command.user = sandbox::kSetupUser;
    shard_.spawn(run_service(watcher_.box, std::move(command)));
  };
  plan_.verify.commands = {"check"};
  size_t running = 0;
  backend_.on("check", [&running](FakeProcess* self) {
    running = self->machine().running();
    return succeed(self);
  });
  const Report report = run();
  EXPECT_TRUE(report.verified);
  EXPECT_EQ(running, 2u);  // the service, and the command that looks
  EXPECT_EQ(backend_.last().running(), 0u);
}

TEST_F(DriverTest, SetUpOwnsItsWorkdirAndTheAgentThen) {
  plan_.uploads = {{"in.txt", "input", 0644}};
  plan_.setup = {"make ready"};
  uint32_t owner = 1, owner_then = 1;
  backend_.on("make ready", [&owner](FakeProcess* self) {
    owner = self->machine().file("/home/user/workdir/in.txt")->uid;
    return succeed(self);
  });
  watcher_.at_start = [&] {
    owner_then = backend_.last().file("/home/user/workdir/in.txt")->uid;
  };
  EXPECT_FALSE(run().error);
  EXPECT_EQ(owner, 0u);
  EXPECT_EQ(owner_then, 1000u);
  plan_.setup_user = "nobody-of-that-name";
  const Report report = run();
  ASSERT_TRUE(report.error);
  EXPECT_EQ(report.error->origin, ErrorOrigin::kTask);
}

TEST_F(DriverTest, AMissingBundleSaysHowToGetIt) {
  plan_.bundle_path.clear();
  const Report report = run();
  ASSERT_TRUE(report.error);
  EXPECT_THAT(report.error->message, HasSubstr("sluice agents install echo"));
  EXPECT_TRUE(backend_.last().closed());
}

TEST_F(DriverTest, AnAgentMayBeAProgramOfTheSandboxes) {
  plan_.bundle_path.clear();
  spec_.bundle.reset();
  spec_.command = {"echo-agent", "{base_url}"};
  backend_.on("echo-agent http", work);
  const Report report = run();
  EXPECT_FALSE(report.error) << report.error->message;
  EXPECT_TRUE(report.agent->ok);
}

TEST_F(DriverTest, AProgramThatNobodyInstallsIsNamed) {
  plan_.bundle_path.clear();
  spec_.bundle.reset();
  spec_.install = InstallSpec{{}, "echo-agent"};
  backend_.on("command -v 'echo-agent'", failing(1, "", ""));
  const Report report = run();
  ASSERT_TRUE(report.error);
  EXPECT_EQ(report.error->origin, ErrorOrigin::kTask);
  EXPECT_EQ(report.error->message,
            "echo-agent is not in the sandbox, and echo has no [install] commands");
}

TEST_F(DriverTest, NeedsAreLookedFor) {
  spec_.needs = {"git", "bash"};
  backend_.on("command -v 'git'", failing(0, "git ", ""));
  const Report report = run();
  ASSERT_TRUE(report.error);
  EXPECT_EQ(report.error->origin, ErrorOrigin::kTask);
  EXPECT_THAT(report.error->message, HasSubstr("does not have: git"));
}

// An install command is judged by its exit code alone: what it prints to stderr is no failure.
TEST_F(DriverTest, finding_13_installing_inside_is_judged_by_its_exit_code) {
  plan_.bundle_path.clear();
  spec_.install = InstallSpec{{"fetch echo"}, "echo-agent"};
  backend_.on("command -v 'echo-agent'", failing(1, "", ""));
  backend_.on("fetch echo", failing(0, "", "npm WARN deprecated"));
  backend_.on("echo-agent http", work);
  EXPECT_FALSE(run().error);
}

TEST_F(DriverTest, finding_13_a_failed_install_is_tried_again_and_says_why) {
  plan_.bundle_path.clear();
  plan_.install_pause = 1ms;
  spec_.install = InstallSpec{{"fetch echo"}, "echo-agent"};
  backend_.on("command -v 'echo-agent'", failing(1, "", ""));
  backend_.on("fetch echo", failing(7, "", "registry unreachable"));
  const Report report = run();
  ASSERT_TRUE(report.error);
  EXPECT_EQ(report.error->origin, ErrorOrigin::kSandbox);
  EXPECT_THAT(report.error->message, AllOf(HasSubstr("3 attempts"), HasSubstr("exit code 7"),
                                           HasSubstr("registry unreachable")));
  const auto commands = backend_.last().commands();
  EXPECT_EQ(std::count(commands.begin(), commands.end(), "fetch echo"), 3);
}

TEST_F(DriverTest, finding_10_finding_60_a_lost_sandbox_ends_everything_with_an_error) {
  backend_.on("/opt/echo/agent", never_end);
  plan_.spec = std::make_shared<const Spec>(spec_);
  Driver driver(shard_, backend_, plan_, watcher_);
  net::Wheel::Timer timer(shard_.wheel());
  timer.arm(Deadline::in(30ms), [&] { backend_.last().lose(); });
  const Report report = net::testing::run(shard_, driver.run());
  ASSERT_TRUE(report.error);
  EXPECT_NE(report.error->origin, ErrorOrigin::kAgent);
  EXPECT_FALSE(report.verified);
}

TEST_F(DriverTest, CancelEndsItSoonAndClosesTheSandbox) {
  backend_.on("/opt/echo/agent", never_end);
  plan_.spec = std::make_shared<const Spec>(spec_);
  Driver driver(shard_, backend_, plan_, watcher_);
  net::Wheel::Timer timer(shard_.wheel());
  timer.arm(Deadline::in(30ms), [&] {
    driver.cancel("interrupted");
    driver.cancel("again");
  });
  const Report report = net::testing::run(shard_, driver.run());
  ASSERT_TRUE(report.error);
  EXPECT_EQ(report.error->code, ErrorCode::kCancelled);
  EXPECT_EQ(report.error->message, "interrupted");
  EXPECT_TRUE(backend_.last().closed());
}

TEST_F(DriverTest, CancelBeforeTheStartEndsItAtTheFirstPhase) {
  plan_.spec = std::make_shared<const Spec>(spec_);
  Driver driver(shard_, backend_, plan_, watcher_);
  driver.cancel("not wanted any more");
  const Report report = net::testing::run(shard_, driver.run());
  EXPECT_EQ(report.error->code, ErrorCode::kCancelled);
  EXPECT_FALSE(report.agent);
}

TEST_F(DriverTest, ASandboxThatCannotBeMadeIsInfrastructure) {
  backend_.fail_next_create(Error(ErrorCode::kUnavailable, "no room", ErrorOrigin::kSandbox));
  const Report report = run();
  ASSERT_TRUE(report.error);
  EXPECT_EQ(report.error->message, "no room");
  EXPECT_EQ(report.failed_phase, "create");
}

// The verifier's directory is emptied after the agent is dead: what the agent put there is gone.
TEST_F(DriverTest, ASandboxThatIsLostAtTheStartIsNotTheAgentsFault) {
  watcher_.at_start = [this] {
    backend_.last().lose();
  };
  const Report report = run();
  EXPECT_EQ(report.failed_phase, "start");
  ASSERT_TRUE(report.error);
  EXPECT_EQ(report.error->code, ErrorCode::kClosed);
  EXPECT_NE(report.error->origin, ErrorOrigin::kAgent);
  EXPECT_FALSE(report.agent);
}

// What set-up made is cloned, and set-up is not run again.
TEST_F(DriverTest, APreparedPlanBeginsWithAClone) {
  plan_.uploads = {{"in.txt", "input", 0644}};
  plan_.setup = {"make ready"};
  plan_.sandbox.network = sandbox::Network::kSetup;
  plan_.spec = std::make_shared<const Spec>(spec_);
  Driver preparer(shard_, backend_, plan_, watcher_);
  auto prepared = net::testing::run(shard_, preparer.prepare());
  ASSERT_FALSE(prepared.error) << prepared.error->message;
  ASSERT_TRUE(prepared.snapshot);
  EXPECT_THAT(watcher_.phases,
              ElementsAre("create", "install", "upload", "setup", "snapshot", "close"));
  EXPECT_TRUE(backend_.last().closed());

  watcher_.phases.clear();
  plan_.prepared = std::make_shared<const Report>(std::move(prepared));
  const Report report = run();
  ASSERT_FALSE(report.error) << report.error->message;
  EXPECT_THAT(watcher_.phases,
              ElementsAre("clone", "configure", "start", "(admitted)", "agent", "(shut)", "stop",
                          "collect", "verify", "files", "close"));
  EXPECT_EQ(report.setup.size(), 1u);
  EXPECT_EQ(report.files.at("in.txt"), "input");
  EXPECT_THAT(backend_.last().commands(), Not(Contains("make ready")));
  EXPECT_EQ(backend_.last().options().network, sandbox::Network::kNone) << "set-up is over";
}

TEST_F(DriverTest, TheAgentCannotForgeTheRewardFile) {
  plan_.verify.commands = {"check"};
  backend_.prepare([](FakeMachine& machine) {
    machine.put("/opt/echo/agent", "binary", 0, 0755);
    machine.put("/home/user/logs/verifier/reward.txt", "1.0");
  });
  const Report report = run();
  EXPECT_TRUE(report.verified);
  EXPECT_FALSE(report.reward_file);
}

TEST_F(DriverTest, VerifyRunsAsItsOwnUserWithoutTheAgentsHome) {
  plan_.verify.commands = {"check"};
  run();
  for (const auto& command : backend_.last().history()) {
    if (command.argv.back() != "check") continue;
    EXPECT_EQ(command.user, sandbox::kVerifyUser);
    EXPECT_TRUE(command.is_shell());
    for (const auto& [name, value] : command.env) {
      if (name == "HOME") EXPECT_EQ(value, sandbox::kVerifierDir);
      EXPECT_NE(name, "KEY");
    }
    return;
  }
  FAIL() << "verify did not run";
}

TEST_F(DriverTest, TheSandboxesWarningsAreReported) {
  backend_.with_warning("memory is not limited");
  EXPECT_THAT(run().warnings, ElementsAre("memory is not limited"));
}

}  // namespace
}  // namespace sluice::agent
