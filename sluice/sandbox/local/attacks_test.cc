// What does not get out of a local sandbox, and what it does not get at.
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstddef>

#include "sluice/net/socket.h"
#include "sluice/sandbox/local/testing.h"

namespace sluice::sandbox::local {
namespace {

class AttacksTest : public LocalTest {};

TEST_F(AttacksTest, HostRootIsNobodyInside) {
  attack("host_identity");
}
TEST_F(AttacksTest, KernelSettingsAreOutOfReach) {
  attack("kernel_settings");
}
TEST_F(AttacksTest, TheFileTreeStaysAsItIs) {
  attack("mounts");
}
TEST_F(AttacksTest, NoNamespaceIsMadeOrEntered) {
  attack("namespaces");
}
TEST_F(AttacksTest, TheGuestIsLeftAlone) {
  attack("guest_intrusion");
}
TEST_F(AttacksTest, SystemCallsOfNoUseAreRefused) {
  attack("system_calls");
}
TEST_F(AttacksTest, TerminalsAreItsOwn) {
  attack("terminal");
}

TEST_F(AttacksTest, TheHostsSecretsAreNotSeen) {
  char name[] = "/var/tmp/sluice-secret-XXXXXX";
  const Fd file(::mkstemp(name));
  ASSERT_TRUE(file);
  ASSERT_TRUE(write_all(file.get(), "secret of the host"));
  ::fchmod(file.get(), 0644);
  const std::string marker = "marker-in-the-engines-environment-" + std::to_string(::getpid());
  ::setenv("SLUICE_TEST_SECRET", marker.c_str(), 1);
  auto other = Backend::start();  // whose helper was started with this environment
  ASSERT_TRUE(other);
  attack("host_secrets", {name, marker});
  ::unsetenv("SLUICE_TEST_SECRET");
  ::unlink(name);
}

TEST_F(AttacksTest, finding_50_the_network_is_its_own_loopback_and_nothing_else) {
  auto listener = net::listen_tcp(shard_, "127.0.0.1", 0);
  ASSERT_TRUE(listener);
  const std::string port = (*listener)->address().substr(10);
  const std::string name = "sluice-test-" + std::to_string(::getpid());
  const Fd abstract(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  ASSERT_EQ(::bind(abstract.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(::listen(abstract.get(), 5), 0);
  attack("network", {port, name});
  // Nor is another sandbox's port reached.
  auto other = create();
  auto theirs = run(shard_, other->listen(8080));
  ASSERT_TRUE(theirs);
  EXPECT_EQ(out_of("exec 3<>/dev/tcp/127.0.0.1/8080 && echo connected"), "");
  ASSERT_TRUE(run(shard_, other->close()));
}

TEST_F(AttacksTest, WhatACommandLeavesBehindDiesWithKillAll) {
  renew(with_programs());
  EXPECT_EQ(out_of("/opt/inside/daemons /tmp/heartbeat"), "left\n");
  auto beats = [&] {
    return out_of("cat /tmp/heartbeat | wc -l");
  };
  ASSERT_TRUE(eventually([&] { return beats() != "0\n"; }));
  ASSERT_TRUE(run(shard_, sandbox_->kill_all()));
  const std::string before = beats();
  exec(shell("sleep 0.2"));
  EXPECT_EQ(beats(), before);
  EXPECT_EQ(out_of("ps ax -o comm= | grep -c kworker"), "0\n");
}

TEST_F(AttacksTest, WhatATimedOutCommandLeftIsKilledWithIt) {
  renew(with_programs());
  Command command = shell("/opt/inside/daemons /tmp/heartbeat; sleep 4343.2");
  command.deadline = Deadline::in(500ms);
  EXPECT_EQ(exec(command).exit.reason, Exit::Reason::kTimedOut);
  const std::string before = out_of("cat /tmp/heartbeat | wc -l");
  EXPECT_NE(before, "0\n");
  exec(shell("sleep 0.2"));
  EXPECT_EQ(out_of("cat /tmp/heartbeat | wc -l"), before);
}

TEST_F(AttacksTest, LinksLeadFileVerbsNowhere) {
  exec(
      shell("ln -s /etc/passwd out; ln -s /etc etc; ln -s /proc/1/environ env; mkfifo pipe; "
            "ln -s /home/user/workdir/loop loop; mkdir d"));
  auto code_of = [&](const std::string& name, const char* user) {
    return run(shard_, sandbox_->read_file(kWorkdir + ("/" + name), 1000, user)).error().code;
  };
  for (const char* user : {kAgentUser, kVerifyUser, kSetupUser}) {
    for (const char* name : {"out", "out/", "etc", "etc/", "env", "pipe", "loop", "d"}) {
      EXPECT_EQ(code_of(name, user), ErrorCode::kInvalidArgument) << name;
    }
  }
  for (const char* name : {"out", "etc", "pipe", "loop"}) {
    WriteOptions as_root;
    as_root.user = kSetupUser;
    const std::string path = std::string(kWorkdir) + "/" + name;
    EXPECT_EQ(run(shard_, sandbox_->write_file(path, "x", as_root)).error().code,
              ErrorCode::kInvalidArgument)
        << name;
  }
  EXPECT_THAT(out_of("cat /etc/passwd"), HasSubstr("verifier"));
  // The directory of the verdict cannot be laid elsewhere.
  exec(shell("ln -s /tmp /home/user/logs"));
  EXPECT_EQ(run(shard_, sandbox_->reset_directory(kVerifierDir, kVerifyUser, 0700)).error().code,
            ErrorCode::kInvalidArgument);
  ASSERT_TRUE(run(shard_, sandbox_->reset_directory("/home/user/logs", kVerifyUser, 0755)));
  EXPECT_TRUE(run(shard_, sandbox_->reset_directory(kVerifierDir, kVerifyUser, 0700)));
}

TEST_F(AttacksTest, SetUserIdProgramsAreOrdinaryOnes) {
  EXPECT_THAT(out_of("cat /proc/self/mountinfo"), Not(HasSubstr(" suid")));
  std::string mounts = out_of("awk '{print $6}' /proc/self/mountinfo | grep -v nosuid | wc -l");
  EXPECT_EQ(mounts, "0\n");
  EXPECT_EQ(out_of("cp /bin/cat mycat; chmod u+s mycat; ./mycat /proc/self/status | grep -c "
                   "'CapEff:.*0000$'",
                   kSetupUser)
                .empty(),
            false);
}

TEST_F(AttacksTest, EachSandboxHasIdsOfItsOwn) {
  if (!is_root()) GTEST_SKIP() << "an ordinary user has one range for all";
  renew_without_ready_ones();
  auto other = create();
  std::set<std::string> maps;
  for (const int pid : descendants_of(backend_->helper_pid())) {
    maps.insert(read_text("/proc/" + std::to_string(pid) + "/uid_map"));
  }
  EXPECT_EQ(maps.size(), 2u);
  for (const std::string& map : maps) {
    unsigned inside = 1, outside = 0, count = 0;
    ASSERT_EQ(std::sscanf(map.c_str(), "%u %u %u", &inside, &outside, &count), 3);
    EXPECT_EQ(inside, 0u);
    EXPECT_GE(outside, 100'000u);
    EXPECT_EQ(count, 65'536u);
  }
  ASSERT_TRUE(run(shard_, other->close()));
}

}  // namespace
}  // namespace sluice::sandbox::local
