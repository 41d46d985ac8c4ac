// What a malicious or reward-hacking agent may try, by the programs of tests/inside and by what any
// shell can do. A row fails when the attack works.
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "sluice/base/core/fd.h"
#include "sluice/net/socket.h"
#include "sluice/sandbox/conformance/case.h"

namespace sluice::sandbox::conformance {

Area attacks{"attacks", {}};

namespace {

// As each user to whom it may be worth something, in a sandbox of its own.
void attack(Try& t, const std::string& name, const std::vector<std::string>& arguments = {}) {
  Sandbox& sandbox = t.fresh();
  const std::string attacks = t.carry_attacks(sandbox);
  for (const char* user : {kSetupUser, kAgentUser, kVerifyUser}) {
    Command command = Try::program({attacks, name});
    command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
    command.user = user;
    command.cwd = "/";
    const Output output = t.exec(sandbox, std::move(command));
    if (!output.exit.ok()) {
      t.fail(name.c_str(), 0,
             fmt::format("as {}: {}: {}{}", user, describe(output.exit), output.out, output.err));
    }
  }
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "echo well"), "well\n");
}

SLUICE_CASE(attacks, a01_host_secrets_are_not_seen) {
  char name[] = "/var/tmp/sluice-secret-XXXXXX";
  const Fd file(::mkstemp(name));
  if (!file || !write_all(file.get(), "secret of the host")) return t.skip("no temporary file");
  ::fchmod(file.get(), 0644);
  const std::string marker = "marker-of-the-engine-" + std::to_string(::getpid());
  ::setenv("SLUICE_CONFORMANCE_SECRET", marker.c_str(), 1);
  attack(t, "host_secrets", {name, marker});
  ::unsetenv("SLUICE_CONFORMANCE_SECRET");
  ::unlink(name);
}

SLUICE_CASE(attacks, a02_host_processes_are_out_of_reach) {
  attack(t, "host_processes", {std::to_string(std::max(::getpid(), 1000))});
}

SLUICE_CASE(attacks, a02_siblings_are_out_of_reach) {
  Sandbox& victim = t.fresh();
  const auto job = t.start(victim, "echo up; sleep 600");
  SLUICE_EXPECT_OK(t, t.wait(job->read_output(Job::Channel::kOut, 3)));
  Sandbox& attacker = t.fresh();
  // It may take the attacker's own command with it.
  (void)t.wait(attacker.exec(Try::shell("kill -9 -1", kSetupUser)));
  SLUICE_EXPECT_EQ(t, t.out(attacker, "echo well"), "well\n");
  SLUICE_EXPECT_ERROR(t, t.wait(job->wait(Deadline::in(50ms))), ErrorCode::kTimedOut);
}

// For this case alone. Null, and the case is skipped, where the limits cannot be enforced: `what`.
Sandbox* limited(Try& t, const sandbox::Limits& limits, const char* what) {
  sandbox::Options options;
  options.limits = limits;
  auto made = t.create(options);
  if (!made && made.error().code == ErrorCode::kUnsupported) {
    t.skip(fmt::format("{} here: {}", what, made.error().message));
    return nullptr;
  }
  return &t.keep(std::move(made));
}

SLUICE_CASE(attacks, a03_a_fork_bomb_is_contained) {
  sandbox::Limits limits = sandbox::Limits::defaults();
  limits.pids = Limit{100, Strictness::kRequire};
  Sandbox* sandbox = limited(t, limits, "processes are not limited here");
  if (sandbox == nullptr) return;
  Command bomb = Try::shell("f() { f | f & }; f; sleep 600");
  bomb.deadline = Deadline::in(700ms);
  SLUICE_EXPECT_EQ(t, t.exec(*sandbox, std::move(bomb)).exit.reason, Exit::Reason::kTimedOut);
  SLUICE_EXPECT_OK(t, t.wait(sandbox->kill_all()));
  SLUICE_EXPECT_EQ(t, t.out(*sandbox, "echo well"), "well\n");
}

SLUICE_CASE(attacks, a03_a_fork_bomb_ends_with_its_user) {
  sandbox::Limits limits = sandbox::Limits::defaults();
  limits.pids = Limit{400, Strictness::kRequire};
  Sandbox* sandbox = limited(t, limits, "processes are not limited here");
  if (sandbox == nullptr) return;
  const auto service = t.start(*sandbox, "echo up; sleep 600", kSetupUser);
  SLUICE_EXPECT_OK(t, t.wait(service->read_output(Job::Channel::kOut, 3)));
  const auto bomb = t.start(*sandbox, "f() { f | f & }; f; echo up; sleep 600");
  SLUICE_EXPECT_OK(t, t.wait(bomb->read_output(Job::Channel::kOut, 3)));
  SLUICE_EXPECT_OK(t, t.wait(sandbox->kill_user(kAgentUser)));
  SLUICE_EXPECT_OK(t, t.wait(sandbox->hand_over(kWorkdir, Leftovers::kRemove)));
  SLUICE_EXPECT_EQ(
      t, t.out(*sandbox, "grep -l '^Uid:.1000' /proc/[0-9]*/status | wc -l", kVerifyUser), "0\n");
  SLUICE_EXPECT(t, !t.wait(service->wait(Deadline::in(50ms))).has_value());
}

SLUICE_CASE(attacks, a03_what_no_walk_finds_ends_with_its_user) {
  Sandbox& sandbox = t.fresh();
  const std::string attacks = t.carry_attacks(sandbox);
  const std::string file = std::string(kWorkdir) + "/comet";
  for (int round = 0; round < 3; ++round) {
    const auto comet = t.start(sandbox, "exec " + attacks + " comet " + file);
    SLUICE_EXPECT_OK(t, t.wait(comet->read_output(Job::Channel::kOut, 3)));
    SLUICE_EXPECT_OK(t, t.wait(sandbox.kill_user(kAgentUser)));
    SLUICE_EXPECT_OK(t, t.wait(sandbox.hand_over(kWorkdir, Leftovers::kRemove)));
    const std::string judge = "echo judged > " + file + "; sleep 1.5; cat " + file;
    SLUICE_EXPECT_EQ(t, t.out(sandbox, judge, kVerifyUser), "judged\n");
  }
}

SLUICE_CASE(attacks, a04_a_memory_bomb_is_contained) {
  sandbox::Limits limits = sandbox::Limits::defaults();
  limits.memory_bytes = Limit{96 * kMiB, Strictness::kRequire};
  Sandbox* sandbox = limited(t, limits, "memory is not limited here");
  if (sandbox == nullptr) return;
  const std::string attacks = t.carry_attacks(*sandbox);
  const Output output = t.sh(*sandbox, "exec " + attacks + " eat memory 2000");
  SLUICE_EXPECT_EQ(t, output.exit.signal, SIGKILL);
  SLUICE_EXPECT(t, output.exit.oom);
  SLUICE_EXPECT_EQ(t, t.out(*sandbox, "echo well"), "well\n");
}

SLUICE_CASE(attacks, a05_disk_and_inodes_are_bounded) {
  sandbox::Limits limits = sandbox::Limits::defaults();
  limits.disk_bytes = Limit{64 * kMiB, Strictness::kRequire};
  limits.disk_inodes = Limit{5000, Strictness::kRequire};
  Sandbox* sandbox = limited(t, limits, "the disk is not limited here");
  if (sandbox == nullptr) return;
  const std::string attacks = t.carry_attacks(*sandbox);
  for (const char* place : {"/tmp", "/home/user", "/dev/shm", "/var/tmp"}) {
    SLUICE_EXPECT(t, std::atoi(t.out(*sandbox, attacks + " eat disk 1000 " + place).c_str()) < 65);
  }
  SLUICE_EXPECT(t, std::atoi(t.out(*sandbox, attacks + " eat inodes 20000").c_str()) < 5000);
  SLUICE_EXPECT_EQ(t, t.out(*sandbox, "echo well"), "well\n");
}

SLUICE_CASE(attacks, a06_the_network_is_its_own) {
  if (!t.shared().capabilities().network_none) return t.skip("the backend does not claim it");
  auto listener = net::listen_tcp(t.shard(), "127.0.0.1", 0);
  SLUICE_EXPECT_OK(t, listener);
  if (!listener) return;
  const std::string port = (*listener)->address().substr(10);
  const std::string name = "sluice-conformance-" + std::to_string(::getpid());
  const Fd abstract(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  SLUICE_EXPECT(t, ::bind(abstract.get(), reinterpret_cast<sockaddr*>(&address), length) == 0 &&
                       ::listen(abstract.get(), 5) == 0);
  attack(t, "network", {port, name});
}

SLUICE_CASE(attacks, a07_no_socket_of_the_host_is_there) {
  SLUICE_EXPECT_EQ(t,
                   t.out(t.shared(),
                         "find / -xdev -type s 2>/dev/null; ls /run /var/run 2>/dev/null | "
                         "grep -v -e : -e lock -e '^$'; cat /proc/net/unix | tail -n +2 | "
                         "grep '@' | wc -l",
                         kSetupUser),
                   "0\n");
}

SLUICE_CASE(attacks, a08_host_root_is_not_inside) {
  attack(t, "host_identity");
}
SLUICE_CASE(attacks, a08_kernel_settings_are_out_of_reach) {
  attack(t, "kernel_settings");
}
SLUICE_CASE(attacks, a08_the_file_tree_stays_as_it_is) {
  attack(t, "mounts");
}
SLUICE_CASE(attacks, a08_no_namespace_is_made_or_entered) {
  attack(t, "namespaces");
}
SLUICE_CASE(attacks, a09_calls_of_no_use_are_refused) {
  attack(t, "system_calls");
}

SLUICE_CASE(attacks, a10_links_lead_file_verbs_nowhere) {
  Sandbox& sandbox = t.shared();
  t.sh(sandbox,
       "mkdir out; ln -s /etc/passwd out/reward; ln -s /etc/shadow out/shadow; "
       "ln -s /proc/1/environ out/env; ln -s / out/root");
  for (const char* user : {kAgentUser, kSetupUser}) {
    for (const char* name : {"out/reward", "out/shadow", "out/env", "out/root"}) {
      const std::string path = std::string(kWorkdir) + "/" + name;
      SLUICE_EXPECT_ERROR(t, t.wait(sandbox.read_file(path, 1000, user)),
                          ErrorCode::kInvalidArgument);
      WriteOptions options;
      options.user = user;
      SLUICE_EXPECT_ERROR(t, t.wait(sandbox.write_file(path, "x", options)),
                          ErrorCode::kInvalidArgument);
    }
  }
  SLUICE_EXPECT(t, t.out(sandbox, "cat /etc/passwd").find("root") != std::string::npos);
}

SLUICE_CASE(attacks, a11_deep_and_many_files_are_bounded_when_listed) {
  Sandbox& sandbox = t.shared();
  t.sh(sandbox,
       "mkdir -p $(printf 'd/%.0s' $(seq 300)); "
       "seq 5000 | xargs touch");
  const auto entries = t.wait(sandbox.list(kWorkdir, 100'000, 1000, kAgentUser));
  SLUICE_EXPECT_OK(t, entries);
  if (entries) SLUICE_EXPECT(t, entries->size() <= 1000);
}

SLUICE_CASE(attacks, a12_output_does_not_fill_the_engine) {
  Command command = Try::shell("yes & yes >&2 & wait");
  command.output_cap = 1000;
  command.deadline = Deadline::in(500ms);
  const Output output = t.exec(t.shared(), std::move(command));
  SLUICE_EXPECT(t, output.out.size() <= 1000 && output.err.size() <= 1000 && output.exit.truncated);
}

SLUICE_CASE(attacks, a13_escapes_are_kept_as_bytes) {
  SLUICE_EXPECT(t, t.out(t.shared(), R"(printf '\033]0;title\007\302\233\000\342\200\256\377')") ==
                       std::string("\033]0;title\007\302\233\000\342\200\256\377", 17));
}

SLUICE_CASE(attacks, a14_the_verdict_is_out_of_reach) {
  Sandbox& sandbox = t.fresh();
  // What an agent may leave lying: a reward, a shell's files, a search path, a preloaded library.
  t.sh(sandbox,
       "mkdir -p ~/logs/verifier; echo 1 > ~/logs/verifier/reward.txt; echo 'echo 1' > ~/.bashrc; "
       "cp ~/.bashrc ~/.profile; mkdir -p bin; printf '#!/bin/sh\\necho forged\\n' > bin/cat; "
       "chmod +x bin/cat; export PATH=$PWD/bin:$PATH BASH_ENV=$HOME/.bashrc "
       "LD_PRELOAD=/tmp/evil.so; "
       "(setsid sh -c 'while :; do echo 1 > ~/logs/verifier/reward.txt; sleep 0.01; done' "
       ">/dev/null 2>&1 &)");
  SLUICE_EXPECT_OK(t, t.wait(sandbox.kill_user(kAgentUser)));
  SLUICE_EXPECT_OK(t, t.wait(sandbox.hand_over(kWorkdir, Leftovers::kRemove)));
  SLUICE_EXPECT_EQ(t,
                   t.out(sandbox,
                         "ls -A " + std::string(kVerifierDir) +
                             "; echo x | cat; echo ${LD_PRELOAD-none} ${BASH_ENV-none}",
                         kVerifyUser),
                   "tmp\nx\nnone none\n");
  WriteOptions as_verifier;
  as_verifier.user = kVerifyUser;
  as_verifier.mode = 0600;
  const std::string reward = std::string(kVerifierDir) + "/reward.txt";
  SLUICE_EXPECT_OK(t, t.wait(sandbox.write_file(reward, "0.25", as_verifier)));
  if (sandbox.capabilities().guest_isolated) {
    SLUICE_EXPECT_EQ(t,
                     t.out(sandbox, "(echo 1 > " + reward +
                                        ") 2>/dev/null || echo refused; "
                                        "rm -rf " +
                                        std::string(kVerifierDir) + " 2>/dev/null || echo refused"),
                     "refused\nrefused\n");
  }
  const auto back = t.wait(sandbox.read_file(reward, 100, kVerifyUser));
  SLUICE_EXPECT(t, back && *back == "0.25");
}

// What an agent may do to the places that a verifier needs.
SLUICE_CASE(attacks, a14_the_work_is_handed_over_whatever_is_in_the_way) {
  for (const char* trick :
       {"chmod 0 .", "chmod 0 ~", "chmod 700 ~", "cd; rm -rf workdir",
        "cd; rm -rf workdir; echo > workdir", "cd; rm -rf workdir; ln -s /etc workdir",
        "rm -rf ~/logs; echo > ~/logs", "rm -rf ~/logs; ln -s /etc ~/logs",
        "mkdir -p ~/logs; rm -f ~/logs/verifier; echo > ~/logs/verifier",
        "mkdir -p ~/logs; rm -f ~/logs/verifier; ln -s / ~/logs/verifier",
        "mkdir -p ~/logs; chmod 0 ~/logs", "chmod 0 . ~",
        "python3 -c 'import os\nfor _ in range(2200): os.mkdir(\"d\"); os.chdir(\"d\")'",
        "cat /dev/zero > fill 2>/dev/null"}) {
    sandbox::Options options;
    options.limits.disk_bytes = Limit{16 * kMiB};
    auto made = t.create(options);
    Sandbox& sandbox = t.keep(std::move(made));
    t.sh(sandbox, trick);
    SLUICE_EXPECT_OK(t, t.wait(sandbox.kill_user(kAgentUser)));
    auto handed = t.wait(sandbox.hand_over(kWorkdir, Leftovers::kRemove));
    SLUICE_EXPECT_OK(t, handed);
    if (!handed) continue;
    Command command = Command::shell(
        "touch made && head -c 100000 /dev/zero > $HOME/tmp/x && echo 1 > $HOME/reward.txt",
        handed->shell);
    command.env = {{"PATH", handed->path}, {"HOME", kVerifierDir}};
    command.user = kVerifyUser;
    command.image_path = Command::ImagePath::kLeftOut;
    const Output output = t.exec(sandbox, std::move(command));
    if (!output.exit.ok()) t.fail(trick, 0, describe(output.exit) + ": " + output.err);
    const auto reward =
        t.wait(sandbox.read_file(std::string(kVerifierDir) + "/reward.txt", 10, kVerifyUser));
    SLUICE_EXPECT(t, reward && *reward == "1\n");
  }
}

// With no inode left there may be no room for the verifier's name; that is told, and nothing hangs.
SLUICE_CASE(attacks, a14_without_inodes_the_hand_over_is_made_or_refused) {
  sandbox::Options options;
  options.limits.disk_inodes = Limit{2000};
  Sandbox& sandbox = t.keep(t.create(options));
  t.sh(sandbox, "seq 3000 | xargs touch 2>/dev/null; mkdir -p /tmp/x; :");
  SLUICE_EXPECT_OK(t, t.wait(sandbox.kill_user(kAgentUser)));
  const auto handed = t.wait(sandbox.hand_over(kWorkdir, Leftovers::kRemove));
  if (!handed) SLUICE_EXPECT_EQ(t, handed.error().code, ErrorCode::kExhausted);
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "echo well"), "well\n");
}

SLUICE_CASE(attacks, a14_what_the_agent_left_for_everybody_is_gone) {
  Sandbox& sandbox = t.fresh();
  const bool many = sandbox.capabilities().guest_isolated;
  t.sh(sandbox, "mkdir /tmp/service; echo data > /tmp/service/mine; chmod 777 /tmp/service",
       kSetupUser);
  t.sh(sandbox,
       "for d in /tmp /var/tmp /dev/shm /run/lock /tmp/service; do mkdir $d/cache; "
       "echo forged > $d/cache/x; ln -s /etc $d/link; done; ipcmk -M 4096 -S 1 -Q >/dev/null; "
       "touch /dev/mqueue/his 2>/dev/null; :");
  const auto service = t.start(sandbox, "echo up; sleep 600", kSetupUser);
  SLUICE_EXPECT_OK(t, t.wait(service->read_output(Job::Channel::kOut, 3)));
  SLUICE_EXPECT_OK(t, t.wait(sandbox.kill_user(kAgentUser)));
  SLUICE_EXPECT_OK(t, t.wait(sandbox.hand_over(kWorkdir, Leftovers::kRemove)));
  SLUICE_EXPECT_EQ(t,
                   t.out(sandbox,
                         "ls -A /tmp /var/tmp /dev/shm /run/lock /dev/mqueue 2>/dev/null | "
                         "grep -v -e : -e '^$'; ls -A /tmp/service 2>/dev/null; "
                         "tail -n +2 -q /proc/sysvipc/*",
                         kVerifyUser),
                   many ? "service\nmine\n" : "");
  // What set-up started lives on where it has a user of its own.
  const auto lives = t.wait(service->wait(Deadline::in(50ms)));
  SLUICE_EXPECT(t, lives.has_value() != many);
}

SLUICE_CASE(attacks, a15_nothing_works_on_behind_the_end) {
  Sandbox& sandbox = t.fresh();
  const std::string attacks = t.carry_attacks(sandbox);
  Command command = Try::shell(attacks + " daemons /tmp/beat; sleep 600");
  command.deadline = Deadline::in(500ms);
  SLUICE_EXPECT_EQ(t, t.exec(sandbox, std::move(command)).exit.reason, Exit::Reason::kTimedOut);
  t.expect_still(sandbox, "/tmp/beat");
}

SLUICE_CASE(attacks, a16_the_guest_is_left_alone) {
  attack(t, "guest_intrusion");
}

SLUICE_CASE(attacks, a16_an_end_is_not_forged) {
  Sandbox& sandbox = t.shared();
  // Bytes that look like the guest's own, on every descriptor there is.
  const Output output = t.sh(sandbox,
                             "for fd in 0 1 2 3 4 5 6 7 8 9; do printf 'SLIC\\0\\0\\0\\1exit 0\\0' "
                             ">&$fd; done 2>/dev/null; "
                             "exit 3");
  SLUICE_EXPECT_EQ(t, output.exit.status, 3);
  // Killing one's own keeper is no success.
  const Output killed = t.sh(sandbox, "kill -9 $PPID; sleep 0.1; exit 0");
  SLUICE_EXPECT(t, killed.exit.reason != Exit::Reason::kLost);
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "echo well"), "well\n");
}

SLUICE_CASE(attacks, a17_a_number_used_again_is_not_signalled) {
  Sandbox& sandbox = t.shared();
  const auto job = t.start(sandbox, "echo $$");
  SLUICE_EXPECT(t, !t.read(*job, Job::Channel::kOut).empty());
  SLUICE_EXPECT_OK(t, t.wait(job->wait(Deadline::in(kPatience))));
  SLUICE_EXPECT_ERROR(t, t.wait(job->signal(SIGKILL)), ErrorCode::kNotFound);
  SLUICE_EXPECT_OK(t, t.wait(job->kill_tree()));
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "echo well"), "well\n");
}

SLUICE_CASE(attacks, a18_nothing_is_injected_by_names) {
  Sandbox& sandbox = t.shared();
  Command command = Try::program({"sh", "-c", "echo \"$0\"", "x; id"});
  command.env.emplace_back("EVIL", "1\nLD_PRELOAD=/tmp/evil.so");
  SLUICE_EXPECT_EQ(t, t.exec(sandbox, std::move(command)).out, "x; id\n");
  sandbox::Options options;
  options.labels = {{"a\nb", "c"}, {"x", std::string("y\0z", 3)}, {"../up", "/"}};
  auto made = t.create(options);
  // Refused, or kept to itself; never another sandbox's trouble.
  if (made) SLUICE_EXPECT_OK(t, t.wait((*made)->close()));
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "echo well"), "well\n");
}

SLUICE_CASE(attacks, a22_the_engine_is_not_starved) {
  Sandbox& busy = t.fresh();
  Command spin = Try::shell("for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; wait");
  auto job = t.wait(busy.start(std::move(spin)));
  SLUICE_EXPECT_OK(t, job);
  const Output output = t.sh(t.shared(), "echo well");
  SLUICE_EXPECT_EQ(t, output.out, "well\n");
  SLUICE_EXPECT(t, output.wall < 10s);
}

SLUICE_CASE(attacks, a23_set_user_id_is_worth_nothing) {
  attack(t, "set_user_id");
}

SLUICE_CASE(attacks, a24_devices_are_the_harmless_ones) {
  SLUICE_EXPECT_EQ(t,
                   t.out(t.shared(),
                         "find / -xdev \\( -type b -o -type c \\) 2>/dev/null | wc -l; "
                         "for f in /dev/*; do test -c $f -a ! -L $f && echo $f; done | sort | "
                         "tr '\\n' ' '",
                         kSetupUser),
                   "0\n/dev/full /dev/null /dev/random /dev/tty /dev/urandom /dev/zero ");
}

SLUICE_CASE(attacks, a25_terminals_are_its_own) {
  attack(t, "terminal");
}

}  // namespace

}  // namespace sluice::sandbox::conformance
