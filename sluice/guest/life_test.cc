// The life of a guest: leases, deadlines, ends.
#include "sluice/guest/testing.h"

namespace sluice::guest {
namespace {

class LifeTest : public GuestTest {};
INSTANTIATE_TEST_SUITE_P(Forms, LifeTest,
                         ::testing::Values(Form::kLibrary, Form::kProgram, Form::kStream),
                         form_name);

TEST_P(LifeTest, ASilentHostIsAGoneHost) {
  client_->close();
  EXPECT_EQ(guest_ended(), static_cast<int>(program::End::kHostGone));
  ClientOptions options;
  options.lease = 1s;
  options.keep_alive = 1h;
  connect(options);
  const auto job = start(shell("(setsid sleep 4242.7 &) ; exec sleep 4242.7"));
  const auto exit = run(shard_, job->wait(Deadline::in(20s)));
  ASSERT_TRUE(exit);
  EXPECT_TRUE(exit->lost);
  EXPECT_EQ(guest_ended(), static_cast<int>(program::End::kLease));
  EXPECT_EQ(count_processes("4242.7"), 0);
}

TEST_P(LifeTest, KeepAlivesKeepAnIdleSandbox) {
  client_->close();
  guest_ended();
  ClientOptions options;
  options.lease = 1s;
  options.keep_alive = 300ms;
  connect(options);
  (void)run(shard_, net::sleep_for(2500ms));
  EXPECT_EQ(exec(shell("echo on")).out, "on\n");
}

TEST_P(LifeTest, TheSandboxesDeadlineEndsIt) {
  client_->close();
  guest_ended();
  ClientOptions options;
  options.deadline = Deadline::in(300ms);
  connect(options);
  const auto output = run(shard_, client_->exec(shell("sleep 4242.8")));
  ASSERT_FALSE(output);
  EXPECT_EQ(output.error().code, ErrorCode::kClosed);
  EXPECT_EQ(guest_ended(), static_cast<int>(program::End::kDeadline));
  EXPECT_EQ(count_processes("4242.8"), 0);
}

TEST_P(LifeTest, AGuestThatDiesIsNoticedAtOnce) {
  const auto job = start(shell("sleep 30"));
  ::kill(guest_, SIGKILL);
  EXPECT_EQ(guest_ended(), -SIGKILL);
  EXPECT_TRUE(run(shard_, job->wait(Deadline::in(20s)))->lost);
  EXPECT_EQ(run(shard_, client_->kill_all()).error().code, ErrorCode::kClosed);
  EXPECT_EQ(run(shard_, client_->stat("/", user())).error().code, ErrorCode::kClosed);
  EXPECT_FALSE(client_->why_closed().message.empty());
  EXPECT_EQ(client_->why_closed().origin, ErrorOrigin::kEngine);
}

TEST_P(LifeTest, WhoseDoingItsEndIsSaysWhoIsAsked) {
  // What the guest says is the sandbox's.
  EXPECT_EQ(run(shard_, client_->stat("/nowhere", user())).error().origin, ErrorOrigin::kSandbox);
  int asked = 0;
  client_->on_end([&asked] {
    ++asked;
    return ErrorOrigin::kAgent;
  });
  ::kill(guest_, SIGKILL);
  EXPECT_EQ(guest_ended(), -SIGKILL);
  EXPECT_EQ(run(shard_, client_->stat("/", user())).error().origin, ErrorOrigin::kAgent);
  EXPECT_EQ(run(shard_, client_->kill_all()).error().origin, ErrorOrigin::kAgent);
  EXPECT_EQ(asked, 1);
}

TEST_P(LifeTest, ABrokenProtocolEndsTheGuest) {
  client_->close();
  guest_ended();
  for (const Bytes& garbage : {Bytes("GET / HTTP/1.1\r\n\r\n"), Bytes(1000, '\xff')}) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    start_guest(ends[1]);
    ::close(ends[1]);
    const Fd ours(ends[0]);
    ASSERT_TRUE(sluice::write_all(ours.get(), garbage));
    EXPECT_EQ(guest_ended(), static_cast<int>(program::End::kProtocol));
  }
}

awaitable<void> exec_into(Client* client, CommandRequest request, std::string* outcome) {
  auto output = co_await client->exec(std::move(request));
  *outcome = output ? "ended" : std::string(to_string(output.error().code));
}

TEST_P(LifeTest, ACancelledCommandIsKilled) {
  net::TaskGroup group(shard_.executor());
  std::string outcome;
  group.spawn(
      exec_into(client_.get(), shell("touch " + path("up") + "; exec sleep 4242.9"), &outcome));
  for (int i = 0; i < 200 && !std::filesystem::exists(path("up")); ++i) {
    (void)run(shard_, net::sleep_for(10ms));
  }
  group.cancel();
  run(shard_, group.join());
  EXPECT_EQ(outcome, "cancelled");
  for (int i = 0; i < 2000 && count_processes("4242.9") > 0; ++i) {
    (void)run(shard_, net::sleep_for(10ms));
  }
  EXPECT_EQ(count_processes("4242.9"), 0);
}

}  // namespace
}  // namespace sluice::guest
