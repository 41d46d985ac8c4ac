#include "sluice/agent/fresh.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/agent/driver.h"
#include "sluice/net/testing.h"
#include "sluice/sandbox/fake/fake.h"

namespace sluice::agent {
namespace {

using sandbox::Capabilities;
using sandbox::Exit;
using sandbox::fake::Answer;
using sandbox::fake::FakeBackend;
using sandbox::fake::FakeMachine;
using sandbox::fake::FakeProcess;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using ::testing::Not;

// --- Where ---------------------------------------------------------------------------------------

Capabilities capabilities(bool snapshots, bool guest_isolated) {
  Capabilities can;
  can.snapshots = snapshots;
  can.guest_isolated = guest_isolated;
  return can;
}

TEST(VerifyWhereTest, IsFreshWhereTheAgentCouldHaveHadAHandInIt) {
  const Capabilities good = capabilities(true, true), one_user = capabilities(true, false);
  Work work;
  EXPECT_FALSE(verifies_fresh(work, good));
  EXPECT_TRUE(verifies_fresh(work, one_user));
  work.verify.files = {{"t.py", "x", 0644}};
  EXPECT_TRUE(verifies_fresh(work, good));
  work.verify.files.clear();
  work.verify.where = VerifyWhere::kSame;
  EXPECT_FALSE(verifies_fresh(work, one_user));
  work.verify.where = VerifyWhere::kFresh;
  EXPECT_TRUE(verifies_fresh(work, good));
}

TEST(VerifyWhereTest, IsRefusedWhereNoSandboxCanBeCloned) {
  const Capabilities cannot = capabilities(false, false);
  Work work;
  EXPECT_TRUE(check_verify(work, cannot));
  EXPECT_FALSE(verifies_fresh(work, cannot));
  work.verify.where = VerifyWhere::kFresh;
  EXPECT_EQ(check_verify(work, cannot).error().code, ErrorCode::kUnsupported);
  EXPECT_TRUE(check_verify(work, capabilities(true, false)));
  work.verify.where = VerifyWhere::kDefault;
  work.verify.files = {{"t.py", "x", 0644}};
  EXPECT_EQ(check_verify(work, cannot).error().code, ErrorCode::kUnsupported);
}

TEST(WorkPlacesTest, AreTheWorkdirOrWhatTheTaskNames) {
  Work work;
  EXPECT_THAT(work_places(work).paths, ElementsAre("/home/user/workdir"));
  work.verify.paths = {"src/", "./src/a", "../out", "/srv/data/.", "src-more"};
  work.verify.exclude = {"*.pyc", "tests/", "/srv/data/x*"};
  EXPECT_THAT(work_places(work).paths, ElementsAre("/home/user/out", "/home/user/workdir/src",
                                                   "/home/user/workdir/src-more", "/srv/data"));
  EXPECT_THAT(work_places(work).exclude,
              ElementsAre("*.pyc", "/home/user/workdir/tests", "/srv/data/x*"));
}

TEST(WorkPlacesTest, WhatCannotBeMeantIsAMistake) {
  const auto mistake = [](const std::function<void(Verify&)>& change) {
    Work work;
    work.verify.where = VerifyWhere::kFresh;
    change(work.verify);
    const auto fine = check_places(work);
    return fine ? "none" : fine.error().message;
  };
  EXPECT_EQ(mistake([](Verify& v) { v.paths = {"a", "/b"}; }), "none");
  for (const std::string& bad :
       {std::string("/"), std::string("../../.."), std::string(), std::string("a\0b", 3)}) {
    EXPECT_THAT(mistake([&](Verify& v) { v.paths = {bad}; }), HasSubstr("paths")) << bad;
  }
  for (const char* bad : {"src/*.py", "a?", "[ab]", "~/workdir/src"}) {
    EXPECT_THAT(mistake([&](Verify& v) { v.paths = {bad}; }), HasSubstr("is a pattern")) << bad;
  }
  for (const char* bad : {"/proc", "/sys/fs", "/dev/shm", "../../../proc/self"}) {
    EXPECT_THAT(mistake([&](Verify& v) { v.paths = {bad}; }), HasSubstr("the kernel's")) << bad;
  }
  EXPECT_EQ(mistake([](Verify& v) { v.paths = {"/device", "a~"}; }), "none");
  EXPECT_THAT(mistake([](Verify& v) { v.files = {{"/proc/t.py", "x", 0644}}; }),
              HasSubstr("the kernel's"));
  EXPECT_THAT(mistake([](Verify& v) { v.paths = {std::string(5000, 'x')}; }), HasSubstr("paths"));
  EXPECT_THAT(mistake([](Verify& v) { v.exclude.assign(1001, "x"); }), HasSubstr("at most 1000"));
  EXPECT_THAT(mistake([](Verify& v) {
                v.where = VerifyWhere::kSame;
                v.files = {{"a", "x", 0644}};
              }),
              HasSubstr("\"same\""));
  EXPECT_THAT(mistake([](Verify& v) {
                v.where = VerifyWhere::kDefault;
                v.start = {"server"};
              }),
              HasSubstr("\"fresh\""));
}

// --- How -----------------------------------------------------------------------------------------

constexpr char kSpec[] = R"(
name = "worker"
version = "1"
[install]
commands = ["true"]
program = "worker"
[run]
command = ["worker", "now"]
timeout_s = 60
[dialects.chat]
path = "/v1"
[artifacts.log]
path = "{home}/log"
)";

constexpr char kWork[] = "/home/user/workdir/";

// Changes one file, removes another, makes a third, and forges what it can.
net::awaitable<Exit> work_on(FakeProcess* self) {
  FakeMachine& machine = self->machine();
  machine.put(std::string(kWork) + "changed", "by the agent");
  machine.remove(std::string(kWork) + "removed");
  machine.put(std::string(kWork) + "made", "by the agent");
  machine.put(std::string(kWork) + "cache/made", "by the agent");
  machine.put_directory(std::string(kWork) + "tests/hidden.py");
  machine.put("/home/user/.bashrc", "forged");
  machine.put("/home/user/log", "what it did");
  machine.put("/usr/bin/bash", "forged");
  co_return Exit{};
}

net::awaitable<Exit> remove_workdir(FakeProcess* self) {
  self->machine().remove("/home/user/workdir");
  co_return Exit{};
}

class NoEndpoint : public Hooks {
 public:
  void on_phase(std::string_view name) override { phases.emplace_back(name); }
  net::awaitable<Result<Endpoint>> open_endpoint(sandbox::Sandbox*) override {
    co_return Endpoint();
  }
  net::awaitable<Result<std::optional<double>>> verify(sandbox::Sandbox* sandbox) override {
    verified_in = sandbox->id();
    co_return std::optional<double>();
  }
  std::vector<std::string> phases;
  std::string verified_in;
};

class FreshTest : public ::testing::Test {
 protected:
  FreshTest() {
    auto spec = parse_spec(kSpec, "worker.toml");
    EXPECT_TRUE(spec) << spec.error().message;
    plan_.spec = std::make_shared<const Spec>(std::move(*spec));
    plan_.instruction = "do it";
    plan_.uploads = {{"changed", "prepared", 0644}, {"removed", "prepared", 0644}};
    plan_.setup = {"set up"};
    plan_.verify.commands = {"check"};
    plan_.verify.where = VerifyWhere::kFresh;
    plan_.verify.exclude = {"cache"};
    backend_.on("worker now", work_on);
  }

  Report run() {
    Driver driver(shard_, backend_, plan_, hooks_);
    return net::testing::run(shard_, driver.run());
  }
  FakeMachine& machine(size_t number) { return *backend_.machines().at(number); }
  std::string content(const std::string& path) {
    const auto file = backend_.last().file(path.starts_with('/') ? path : kWork + path);
    return file ? file->content : "(none)";
  }

  net::Shard shard_;
  FakeBackend backend_;
  Plan plan_;
  NoEndpoint hooks_;
};

TEST_F(FreshTest, TheWorkIsJudgedWhereTheAgentNeverWas) {
  plan_.verify.files = {{"tests/hidden.py", "honest", 0755}, {"/opt/judge/tool", "tool", 0644}};
  plan_.verify.start = {"serve"};
  plan_.sandbox.network = sandbox::Network::kOpen;
  const Report report = run();
  ASSERT_FALSE(report.error) << report.error->message;
  EXPECT_TRUE(report.verified);
  EXPECT_EQ(report.unjudged, "");
  EXPECT_EQ(report.verify_where, "fresh");
  EXPECT_THAT(hooks_.phases,
              ElementsAre("create", "install", "upload", "setup", "snapshot", "configure", "start",
                          "agent", "stop", "collect", "move", "verify", "files", "close"));
  ASSERT_EQ(backend_.machines().size(), 2u);
  EXPECT_EQ(report.sandbox_id, machine(0).id());
  EXPECT_EQ(hooks_.verified_in, machine(1).id());
  EXPECT_TRUE(machine(0).closed());
  EXPECT_EQ(machine(1).options().network, sandbox::Network::kNone);
  EXPECT_EQ(content("changed"), "by the agent");
  EXPECT_EQ(content("removed"), "(none)");
  EXPECT_EQ(content("made"), "by the agent");
  EXPECT_EQ(content("cache/made"), "(none)");
  EXPECT_EQ(content("tests/hidden.py"), "honest");
  EXPECT_EQ(content("/opt/judge/tool"), "tool");
  EXPECT_EQ(content("/home/user/.bashrc"), "(none)");
  EXPECT_EQ(content("/usr/bin/bash"), "(none)");
  // Hidden files were never where the agent was; its artifacts are its own sandbox's.
  EXPECT_FALSE(machine(0).file("/opt/judge/tool"));
  ASSERT_EQ(report.artifacts.size(), 1u);
  EXPECT_EQ(report.files.at("tests/hidden.py"), "honest");
  EXPECT_THAT(machine(0).commands(), Not(Contains("check")));
  EXPECT_THAT(machine(1).commands(), ElementsAre("serve", "check"));
  ASSERT_EQ(report.start.size(), 1u);
  EXPECT_EQ(machine(1).history().front().user, "0");
}

TEST_F(FreshTest, WhereNothingIsJudgedNothingIsMoved) {
  plan_.verify.commands.clear();
  EXPECT_EQ(run().verify_where, "same");
  EXPECT_EQ(backend_.machines().size(), 1u);
  plan_.own_verifier = true;
  EXPECT_EQ(run().verify_where, "fresh");
  EXPECT_EQ(backend_.machines().size(), 3u);
}

TEST_F(FreshTest, AGroupsSnapshotIsItsVerifiersToo) {
  Driver preparer(shard_, backend_, plan_, hooks_);
  auto prepared = net::testing::run(shard_, preparer.prepare());
  ASSERT_TRUE(prepared.snapshot);
  plan_.prepared = std::make_shared<const Report>(std::move(prepared));
  hooks_.phases.clear();
  for (int attempt = 0; attempt < 2; ++attempt) {
    const Report report = run();
    ASSERT_FALSE(report.error) << report.error->message;
    EXPECT_EQ(content("changed"), "by the agent");
  }
  EXPECT_THAT(hooks_.phases, Not(Contains("snapshot")));
  EXPECT_THAT(hooks_.phases, IsSupersetOf({"clone", "move", "verify"}));
  EXPECT_EQ(backend_.machines().size(), 5u);
}

const Error kTooMuch(ErrorCode::kTooLarge, "the work is over 9 bytes", ErrorOrigin::kSandbox);

TEST_F(FreshTest, AWorkThatCannotBeTakenIsNoErrorButNoVerdict) {
  backend_.on("worker now", [](FakeProcess* self) {
    self->machine().refuse_work(kTooMuch);
    return work_on(self);
  });
  const Report report = run();
  ASSERT_FALSE(report.error) << report.error->message;
  EXPECT_TRUE(report.verified);
  EXPECT_EQ(report.task_fault, "");
  EXPECT_EQ(report.unjudged, "the work cannot be taken: the work is over 9 bytes");
  ASSERT_EQ(report.verify.size(), 1u);
  EXPECT_THAT(report.verify[0].error, HasSubstr("not run: the work cannot be taken"));
  EXPECT_THAT(backend_.last().commands(), Not(Contains("check")));
  for (const auto& machine : backend_.machines()) EXPECT_TRUE(machine->closed());
}

// The same is tried where no agent was: its verdict is not worse for what the task made.
TEST_F(FreshTest, WhatCannotBeTakenWithoutAnAgentEitherIsTheTasksFault) {
  backend_.prepare([](FakeMachine& machine) { machine.refuse_work(kTooMuch); });
  const Report report = run();
  ASSERT_FALSE(report.error) << report.error->message;
  EXPECT_EQ(report.task_fault,
            "without any agent, too: the work cannot be taken: the work is over 9 bytes");
  EXPECT_EQ(backend_.machines().size(), 2u);
  for (const auto& machine : backend_.machines()) EXPECT_TRUE(machine->closed());
}

// That we cannot try is no excuse for the agent.
TEST_F(FreshTest, AnAgentsVerdictStandsWhereTheTaskCannotBeTried) {
  backend_.on("worker now", [this](FakeProcess* self) {
    self->machine().refuse_work(kTooMuch);
    backend_.fail_next_create(Error(ErrorCode::kUnavailable, "no more sandboxes"));
    return work_on(self);
  });
  const Report report = run();
  ASSERT_FALSE(report.error) << report.error->message;
  EXPECT_EQ(report.unjudged, "the work cannot be taken: the work is over 9 bytes");
  EXPECT_EQ(report.task_fault, "");
}

TEST_F(FreshTest, WhatIsOursWhileTheWorkMovesIsInfrastructure) {
  backend_.prepare([](FakeMachine& machine) {
    machine.refuse_work(Error(ErrorCode::kIo, "no space left in /var/tmp"));
  });
  const Report report = run();
  ASSERT_TRUE(report.error);
  EXPECT_EQ(report.error->origin, ErrorOrigin::kEngine);
  EXPECT_EQ(report.failed_phase, "move");
}

TEST_F(FreshTest, AStartCommandThatFailsIsARowAndNoVerdict) {
  plan_.verify.start = {"good", "bad", "never"};
  Answer failed;
  failed.status = 3;
  backend_.on("bad", failed);
  const Report report = run();
  ASSERT_FALSE(report.error) << report.error->message;
  EXPECT_EQ(report.unjudged, "start command failed: bad: exit code 3");
  EXPECT_EQ(report.task_fault, "");
  ASSERT_EQ(report.start.size(), 2u);
  EXPECT_EQ(report.start[1].output.exit.status, 3);
  EXPECT_THAT(machine(1).commands(), ElementsAre("good", "bad"));
}

TEST_F(FreshTest, AFileThatCannotBeWhereItIsToBeIsTheTasksMistake) {
  plan_.verify.files = {{"/usr/bin", "x", 0644}};
  EXPECT_THAT(run().task_fault, HasSubstr("[verify] file /usr/bin"));
}

TEST_F(FreshTest, AWorkdirThatIsGoneIsAnEmptyOne) {
  backend_.on("worker now", remove_workdir);
  const Report report = run();
  ASSERT_FALSE(report.error) << report.error->message;
  EXPECT_EQ(report.verify.at(0).output.exit.status, 0);
  EXPECT_TRUE(report.files.empty());
}

TEST_F(FreshTest, AFreshSandboxThatCannotBeMadeIsInfrastructure) {
  backend_.on("worker now", [this](FakeProcess* self) {
    backend_.fail_next_create(Error(ErrorCode::kUnavailable, "no more sandboxes"));
    return work_on(self);
  });
  const Report report = run();
  ASSERT_TRUE(report.error);
  EXPECT_EQ(report.error->message, "a fresh sandbox: no more sandboxes");
  EXPECT_TRUE(backend_.last().closed());
}

}  // namespace
}  // namespace sluice::agent
