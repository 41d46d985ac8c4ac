#include "sluice/sandbox/fake/fake.h"

#include <gtest/gtest.h>

#include "sluice/net/testing.h"

namespace sluice::sandbox::fake {
namespace {

using namespace std::chrono_literals;
using net::testing::run;

constexpr auto kOut = Job::Channel::kOut;

awaitable<Exit> echo_stdin(FakeProcess* self) {
  Exit exit;
  for (;;) {
    auto piece = co_await self->read_input();
    if (!piece || piece->empty()) co_return exit;
    auto wrote = co_await self->write(kOut, std::move(*piece));
    if (!wrote) co_return exit;
  }
}

awaitable<Exit> endless(FakeProcess* self) {
  (void)co_await self->write(kOut, "started\n");
  (void)co_await self->sleep(1h);
  co_return Exit();
}

// What an agent does: one request to its endpoint, the answer to a file.
awaitable<Exit> ask_port(FakeProcess* self) {
  Exit exit;
  exit.status = 7;
  auto stream = self->connect(8080);
  if (!stream) co_return exit;
  (void)co_await net::write_all(stream->get(), "question");
  Bytes buffer(100, '\0');
  auto n = co_await (*stream)->read_some(as_writable_byte_span(buffer));
  if (!n) co_return exit;
  self->machine().put("/home/user/workdir/answer", buffer.substr(0, *n));
  exit.status = 0;
  co_return exit;
}

class FakeTest : public ::testing::Test {
 protected:
  Sandbox& create(Options options = {}) {
    auto made = run(shard_, backend_.create(&shard_, std::move(options)));
    EXPECT_TRUE(made);
    sandbox_ = std::move(*made);
    return *sandbox_;
  }
  Output exec(Command command) {
    auto output = run(shard_, sandbox_->exec(std::move(command)));
    EXPECT_TRUE(output) << output.error().message;
    return output ? *output : Output();
  }
  std::unique_ptr<Job> start(Command command) {
    auto job = run(shard_, sandbox_->start(std::move(command)));
    EXPECT_TRUE(job) << job.error().message;
    return std::move(*job);
  }
  void TearDown() override {
    if (sandbox_) EXPECT_TRUE(run(shard_, sandbox_->close()));
  }

  net::Shard shard_;
  FakeBackend backend_;
  std::unique_ptr<Sandbox> sandbox_;
};

TEST_F(FakeTest, AnswersByTheLastRuleThatMatches) {
  Answer failed;
  failed.status = 2;
  failed.out = "o";
  failed.err = "e";
  Answer killed;
  killed.signal = 11;
  backend_.on("make", failed).on("make crash", killed);
  create();
  const Output one = exec(Command::shell("cd x && make test"));
  EXPECT_EQ(one.exit.status, 2);
  EXPECT_EQ(one.out, "o");
  EXPECT_EQ(one.err, "e");
  const Output two = exec(Command::shell("make crash"));
  EXPECT_EQ(two.exit.reason, Exit::Reason::kSignaled);
  EXPECT_EQ(two.exit.status, -1);
  EXPECT_EQ(two.exit.signal, 11);
  EXPECT_TRUE(exec(Command::shell("anything else")).exit.ok());
  EXPECT_EQ(backend_.last().commands(),
            (std::vector<std::string>{"cd x && make test", "make crash", "anything else"}));
}

TEST_F(FakeTest, StdinOfExecAndOfAJob) {
  backend_.on("cat", echo_stdin);
  Sandbox& sandbox = create();
  Command command;
  command.argv = {"cat"};
  command.input = "given";
  EXPECT_EQ(exec(command).out, "given");

  command.input.clear();
  const auto job = start(command);
  ASSERT_TRUE(run(shard_, job->write_stdin("a")));
  EXPECT_EQ(*run(shard_, job->read_output(kOut, 100)), "a");
  EXPECT_EQ(run(shard_, job->wait(Deadline::in(5ms))).error().code, ErrorCode::kTimedOut);
  ASSERT_TRUE(run(shard_, job->close_stdin()));
  EXPECT_TRUE(run(shard_, job->wait(Deadline::never()))->ok());
  EXPECT_EQ(*run(shard_, job->read_output(kOut, 100)), "");
  EXPECT_EQ(run(shard_, job->write_stdin("b")).error().code, ErrorCode::kClosed);
  EXPECT_EQ(run(shard_, job->signal(15)).error().code, ErrorCode::kNotFound);
  EXPECT_TRUE(run(shard_, sandbox.close()));
}

TEST_F(FakeTest, ADeadlineKeepsTheOutputSoFar) {
  backend_.on("forever", endless);
  create();
  Command command = Command::shell("forever");
  command.deadline = Deadline::in(10ms);
  const Output output = exec(command);
  EXPECT_EQ(output.exit.reason, Exit::Reason::kTimedOut);
  EXPECT_EQ(output.out, "started\n");
}

TEST_F(FakeTest, OutputOverTheCapIsDroppedAndSaidSo) {
  Answer chatty;
  chatty.out = Bytes(100, 'x');
  backend_.on("chat", chatty);
  create();
  Command command = Command::shell("chat");
  command.output_cap = 10;
  const Output output = exec(command);
  EXPECT_EQ(output.out.size(), 10u);
  EXPECT_TRUE(output.exit.truncated);
}

TEST_F(FakeTest, OfMuchOutputTheBeginningAndTheEndAreKept) {
  Answer chatty;
  chatty.out = "begins and so on and ends";
  backend_.on("chat", chatty);
  create();
  Command command = Command::shell("chat", "/bin/bash");
  command.output_cap = 10;
  EXPECT_EQ(exec(command).out,
            "begin"
            " ends");
}

TEST_F(FakeTest, TheWorkIsHandedOver) {
  backend_.on("forever", endless);
  backend_.prepare([](FakeMachine& machine) {
    machine.put("/home/user/workdir/a", "x");
    machine.put("/home/user/logs/verifier/reward.txt", "1");
  });
  Sandbox& sandbox = create();
  const auto his = start(Command::shell("forever"));
  Command other = Command::shell("forever");
  other.user = kSetupUser;
  const auto service = start(std::move(other));
  ASSERT_TRUE(run(shard_, sandbox.kill_user(kAgentUser)));
  EXPECT_EQ(run(shard_, his->wait(Deadline::never()))->signal, 9);
  EXPECT_EQ(backend_.last().running(), 1u);
  const auto done = run(shard_, sandbox.hand_over(kWorkdir, Leftovers::kRemove));
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_TRUE(Command::shell("x", done->shell).is_shell());
  EXPECT_EQ(backend_.last().file("/home/user/workdir/a")->uid, 1001u);
  EXPECT_FALSE(backend_.last().file("/home/user/logs/verifier/reward.txt"));
}

TEST_F(FakeTest, KillAllEndsEverythingAndWaitsForIt) {
  backend_.on("forever", endless);
  Sandbox& sandbox = create();
  const auto job = start(Command::shell("forever"));
  EXPECT_EQ(backend_.last().running(), 1u);
  ASSERT_TRUE(run(shard_, sandbox.kill_all()));
  EXPECT_EQ(backend_.last().running(), 0u);
  const auto exit = run(shard_, job->wait(Deadline::never()));
  EXPECT_EQ(exit->reason, Exit::Reason::kSignaled);
  EXPECT_EQ(exit->signal, 9);
}

TEST_F(FakeTest, ACarriedPortReachesItsListener) {
  backend_.on("agent", ask_port);
  Sandbox& sandbox = create();
  auto listener = run(shard_, sandbox.listen(8080));
  ASSERT_TRUE(listener);
  EXPECT_EQ((*listener)->address(), "127.0.0.1:8080");
  EXPECT_EQ(run(shard_, sandbox.listen(8080)).error().code, ErrorCode::kAlreadyExists);
  const auto job = start(Command::shell("agent"));
  auto stream = run(shard_, (*listener)->accept());
  ASSERT_TRUE(stream);
  Bytes buffer(100, '\0');
  EXPECT_EQ(*run(shard_, (*stream)->read_some(as_writable_byte_span(buffer))), 8u);
  ASSERT_TRUE(run(shard_, net::write_all(stream->get(), "answer")));
  EXPECT_TRUE(run(shard_, job->wait(Deadline::never()))->ok());
  EXPECT_EQ(backend_.last().file("/home/user/workdir/answer")->content, "answer");
}

TEST_F(FakeTest, AKilledProcessBreaksItsConnections) {
  backend_.on("agent", ask_port);
  Sandbox& sandbox = create();
  auto listener = run(shard_, sandbox.listen(8080));
  const auto job = start(Command::shell("agent"));
  auto stream = run(shard_, (*listener)->accept());
  ASSERT_TRUE(stream);
  Bytes buffer(100, '\0');
  EXPECT_EQ(*run(shard_, (*stream)->read_some(as_writable_byte_span(buffer))), 8u);
  std::optional<net::PeerClose> how;
  (*stream)->on_peer_closed([&](net::PeerClose h) { how = h; });
  ASSERT_TRUE(run(shard_, job->kill_tree()));
  shard_.run_until([&] { return how.has_value(); });
  EXPECT_EQ(*how, net::PeerClose::kReset);
}

TEST_F(FakeTest, FilesKeepUsersApart) {
  backend_.prepare([](FakeMachine& machine) { machine.put("/home/user/a/b.txt", "hi"); });
  Sandbox& sandbox = create();
  EXPECT_EQ(*run(shard_, sandbox.read_file("/home/user/a/b.txt", 10, kAgentUser)), "hi");
  auto code_of = [&](const std::string& path, size_t max, const char* user) {
    return run(shard_, sandbox.read_file(path, max, user)).error().code;
  };
  EXPECT_EQ(code_of("/home/user/a/b.txt", 1, kAgentUser), ErrorCode::kTooLarge);
  EXPECT_EQ(code_of("/nope", 1, kAgentUser), ErrorCode::kNotFound);
  EXPECT_EQ(code_of("/home", 100, kAgentUser), ErrorCode::kInvalidArgument);

  ASSERT_TRUE(run(shard_, sandbox.reset_directory(kVerifierDir, kVerifyUser, 0700)));
  WriteOptions as_verifier;
  as_verifier.user = kVerifyUser;
  const std::string reward = std::string(kVerifierDir) + "/reward.txt";
  ASSERT_TRUE(run(shard_, sandbox.write_file(reward, "1", as_verifier)));
  EXPECT_EQ(code_of(reward, 10, kAgentUser), ErrorCode::kPermissionDenied);
  EXPECT_FALSE(run(shard_, sandbox.write_file(reward, "9", WriteOptions())));
  EXPECT_EQ(*run(shard_, sandbox.read_file(reward, 10, kVerifyUser)), "1");

  const auto entries = run(shard_, sandbox.list("/home/user/a", 1, 10, kAgentUser));
  ASSERT_EQ(entries->size(), 1u);
  EXPECT_EQ((*entries)[0].path, "b.txt");
  EXPECT_EQ(*run(shard_, sandbox.give_tree("/home/user", kVerifyUser)), 0u);
  EXPECT_EQ(run(shard_, sandbox.stat("/home/user/a/b.txt", "0"))->uid, 1001u);
}

TEST_F(FakeTest, AfterCloseEveryCallFailsAtOnce) {
  backend_.on("forever", endless);
  Sandbox& sandbox = create();
  auto listener = run(shard_, sandbox.listen(0));
  const auto job = start(Command::shell("forever"));
  ASSERT_TRUE(run(shard_, sandbox.close()));
  ASSERT_TRUE(run(shard_, sandbox.close()));
  EXPECT_EQ(run(shard_, sandbox.exec(Command::shell("x"))).error().code, ErrorCode::kClosed);
  EXPECT_EQ(run(shard_, sandbox.read_file("/x", 1, "0")).error().code, ErrorCode::kClosed);
  EXPECT_EQ(run(shard_, (*listener)->accept()).error().code, ErrorCode::kClosed);
  EXPECT_EQ(run(shard_, job->read_output(kOut, 1)).error().code, ErrorCode::kClosed);
  EXPECT_EQ(run(shard_, job->wait(Deadline::never()))->reason, Exit::Reason::kLost);
}

TEST_F(FakeTest, CreateFailsOnceWhenTold) {
  backend_.fail_next_create(Error(ErrorCode::kUnavailable, "no room"));
  EXPECT_EQ(run(shard_, backend_.create(&shard_, Options())).error().message, "no room");
  EXPECT_TRUE(run(shard_, backend_.create(&shard_, Options())));
}

TEST_F(FakeTest, ACloneStartsWithTheFilesOfItsSnapshot) {
  Sandbox& sandbox = create();
  ASSERT_TRUE(run(shard_, sandbox.write_file("/home/user/f", "1", WriteOptions())));
  auto snapshot = run(shard_, sandbox.snapshot());
  ASSERT_TRUE(snapshot);
  auto clone = run(shard_, backend_.clone(&shard_, *snapshot, Options()));
  ASSERT_TRUE(clone);
  EXPECT_EQ(*run(shard_, (*clone)->read_file("/home/user/f", 9, kAgentUser)), "1");
}

TEST_F(FakeTest, BadCommandsAreErrorsNotExits) {
  Sandbox& sandbox = create();
  EXPECT_EQ(run(shard_, sandbox.exec(Command())).error().code, ErrorCode::kInvalidArgument);
  Command lost = Command::shell("true");
  lost.cwd = "/nowhere";
  EXPECT_EQ(run(shard_, sandbox.exec(lost)).error().code, ErrorCode::kNotFound);
  Command nobody = Command::shell("true");
  nobody.user = "nobody-here";
  EXPECT_EQ(run(shard_, sandbox.exec(nobody)).error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace sluice::sandbox::fake
