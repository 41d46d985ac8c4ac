// Commands: how they start, what they get and what they give.
#include "sluice/guest/testing.h"

namespace sluice::guest {
namespace {

class CommandTest : public GuestTest {};
INSTANTIATE_TEST_SUITE_P(Forms, CommandTest, ::testing::Values(Form::kLibrary, Form::kProgram),
                         form_name);

TEST_P(CommandTest, ExitCodesAndSignalsComeAsTheyAre) {
  for (const int code : {0, 1, 3, 127, 128, 137, 255}) {
    const auto output = exec(shell("exit " + std::to_string(code)));
    EXPECT_EQ(output.exit.exit.reason, Reason::kExited);
    EXPECT_EQ(output.exit.exit.status, code);
  }
  const auto killed = exec(shell("kill -SEGV $$"));
  EXPECT_EQ(killed.exit.exit.reason, Reason::kSignaled);
  EXPECT_EQ(killed.exit.exit.signal, SIGSEGV);
}

TEST_P(CommandTest, OutputIsBytesAndTheChannelsStayApart) {
  const auto output = exec(shell(R"(printf '\000\377out'; printf '\200err' >&2)"));
  EXPECT_EQ(output.out, std::string("\0\xffout", 5));
  EXPECT_EQ(output.err,
            "\x80"
            "err");
}

TEST_P(CommandTest, InputIsStreamedBothWaysAtOnce) {
  Bytes input;
  for (int i = 0; input.size() < 3 * kMiB; ++i) input += std::to_string(i) + "\n";
  auto request = command({"cat"});
  request.input = input;
  EXPECT_EQ(exec(request).out, input);
  // A command that does not want it all ends all the same.
  auto head = command({"head", "-c", "3"});
  head.input = input;
  EXPECT_EQ(exec(head).out, input.substr(0, 3));
}

TEST_P(CommandTest, WithoutInputStdinIsAtItsEnd) {
  EXPECT_EQ(exec(command({"cat"})).out, "");
}

TEST_P(CommandTest, TheEnvironmentIsTheCommandsOwn) {
  auto request = command({"env"});
  request.env = {"PATH=/usr/bin:/bin", "A=b c", "ODD=\xff"};
  EXPECT_EQ(exec(request).out, "PATH=/usr/bin:/bin\nA=b c\nODD=\xff\n");
}

TEST_P(CommandTest, AProgramIsLookedUpInTheCommandsPath) {
  ASSERT_TRUE(write(path("tool"), "#!/bin/sh\necho mine\n", 0755));
  auto request = command({"tool"});
  EXPECT_EQ(exec_error(request).code, ErrorCode::kNotFound);
  request.env = {"PATH=/nowhere:" + directory_};
  EXPECT_EQ(exec(request).out, "mine\n");
  request.argv = {"./tool"};
  request.cwd = directory_;
  EXPECT_EQ(exec(request).out, "mine\n");
}

TEST_P(CommandTest, WhatCannotStartSaysWhyAndWhatToDo) {
  const Error missing = exec_error(command({"no-such-program"}));
  EXPECT_EQ(missing.code, ErrorCode::kNotFound);
  EXPECT_THAT(missing.message, HasSubstr("no-such-program"));
  EXPECT_THAT(missing.message, HasSubstr("PATH"));

  ASSERT_TRUE(write(path("plain"), "text", 0644));
  const Error plain = exec_error(command({path("plain")}));
  EXPECT_EQ(plain.code, ErrorCode::kPermissionDenied);
  EXPECT_THAT(plain.message, HasSubstr("chmod +x"));

  ASSERT_TRUE(write(path("noformat"), "text", 0755));
  EXPECT_EQ(exec_error(command({path("noformat")})).code, ErrorCode::kInvalidArgument);

  ASSERT_TRUE(write(path("lost"), "#!/no/such/interpreter\n", 0755));
  const Error lost = exec_error(command({path("lost")}));
  EXPECT_EQ(lost.code, ErrorCode::kNotFound);
  EXPECT_THAT(lost.message, HasSubstr("interpreter"));

  auto nowhere = command({"true"});
  nowhere.cwd = "/no/such/directory";
  const Error cwd = exec_error(nowhere);
  EXPECT_EQ(cwd.code, ErrorCode::kNotFound);
  EXPECT_THAT(cwd.message, HasSubstr("working directory /no/such/directory"));

  auto nobody = command({"true"});
  nobody.user = "no-such-user";
  EXPECT_EQ(exec_error(nobody).code, ErrorCode::kNotFound);

  EXPECT_EQ(exec_error(command({"echo", Bytes(200'000, 'x')})).code, ErrorCode::kTooLarge);
  EXPECT_EQ(exec_error(command(std::vector<std::string>(70'000, "x"))).code, ErrorCode::kTooLarge);
  EXPECT_EQ(exec_error(command({std::string("a\0b", 3)})).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(exec_error(command({})).code, ErrorCode::kInvalidArgument);
  // The guest is well.
  EXPECT_EQ(exec(shell("echo on")).out, "on\n");
}

TEST_P(CommandTest, LongArgumentListsWork) {
  std::vector<std::string> argv = {"sh", "-c", "echo $#", "sh"};
  for (int i = 0; i < 1000; ++i) argv.emplace_back(1000, 'x');
  EXPECT_EQ(exec(command(argv)).out, "1000\n");
}

TEST_P(CommandTest, AShellThatIsMissingIsReplacedBySh) {
  auto request = command({"bash", "--noprofile", "--norc", "-c", "echo $0"});
  request.shell_prefix = 4;
  EXPECT_EQ(exec(request).out, "bash\n");
  // Only sh is in this PATH.
  std::filesystem::create_directory(path("bin"));
  std::filesystem::create_symlink("/bin/sh", path("bin/sh"));
  request.env = {"PATH=" + path("bin")};
  EXPECT_EQ(exec(request).out, "sh\n");
}

TEST_P(CommandTest, ADeadlineKillsTheTreeAndKeepsTheOutput) {
  auto request = shell("echo before; (setsid sleep 4242.1 &) ; sleep 4242.1");
  request.deadline = Deadline::in(300ms);
  const auto output = exec(request);
  EXPECT_EQ(output.exit.exit.reason, Reason::kTimedOut);
  EXPECT_EQ(output.exit.exit.signal, SIGKILL);
  EXPECT_EQ(output.out, "before\n");
  EXPECT_EQ(count_processes("4242.1"), 0);
}

TEST_P(CommandTest, OutputOverTheCapIsDroppedAndSaidSo) {
  auto request = shell("head -c 3000000 /dev/zero; echo done >&2");
  request.output_cap = 1000;
  const auto output = exec(request);
  EXPECT_EQ(output.exit.exit.status, 0);
  EXPECT_EQ(output.out, Bytes(1000, '\0'));
  EXPECT_EQ(output.err, "done\n");
  EXPECT_TRUE(output.exit.truncated);
  request.output_cap = 0;
  EXPECT_EQ(exec(request).out, "");
  // The end is kept, however much there is.
  for (const char* script : {"seq 1000000", "seq 1000000; sleep 0.1; echo late"}) {
    auto counting = shell(script);
    counting.output_cap = 1000;
    const auto counted = exec(counting);
    EXPECT_TRUE(counted.exit.truncated);
    EXPECT_EQ(counted.out.size(), 1000u);
    EXPECT_TRUE(counted.out.starts_with("1\n2\n3\n"));
    EXPECT_TRUE(counted.out.ends_with("999999\n1000000\n") ||
                counted.out.ends_with("999999\n1000000\nlate\n"));
  }
  auto near = shell("seq 150");
  near.output_cap = 500;  // it has 492 bytes: the beginning and the end meet
  const auto whole = exec(near);
  EXPECT_FALSE(whole.exit.truncated);
  EXPECT_EQ(whole.out.size(), 492u);
  EXPECT_THAT(whole.out, HasSubstr("\n67\n68\n69\n70\n71\n"));
  auto fits = shell("head -c 1000 /dev/zero");
  fits.output_cap = 1000;
  EXPECT_FALSE(exec(fits).exit.truncated);
}

TEST_P(CommandTest, ABackgroundChildDoesNotHoldUpItsCommand) {
  const auto output = exec(shell("sleep 4242.2 & echo started"));
  EXPECT_EQ(output.out, "started\n");
  EXPECT_EQ(count_processes("4242.2"), 1);
  ASSERT_TRUE(run(shard_, client_->kill_all()));
  EXPECT_EQ(count_processes("4242.2"), 0);
}

TEST_P(CommandTest, ABackgroundChildMayGoOnWriting) {
  // Its first command's pipe stays readable: no SIGPIPE, no full pipe.
  exec(shell("(while :; do echo noise || exit; sleep 0.01; done; ) & echo $! > " + path("pid")));
  const std::string pid = *read(path("pid"));
  EXPECT_EQ(exec(shell("sleep 0.1; kill -0 " + pid)).exit.exit.status, 0);
  ASSERT_TRUE(run(shard_, client_->kill_all()));
}

TEST_P(CommandTest, ManyCommandsAtOnce) {
  std::vector<std::unique_ptr<Process>> all;
  for (int i = 0; i < 40; ++i) all.push_back(start(shell("exit " + std::to_string(i))));
  for (int i = 0; i < 40; ++i) {
    const auto exit = run(shard_, all[static_cast<size_t>(i)]->wait(Deadline::in(20s)));
    ASSERT_TRUE(exit);
    EXPECT_EQ(exit->exit.status, i);
  }
}

TEST_P(CommandTest, CommandsHaveNoDescriptorsOfTheGuest) {
  const auto output = exec(shell("ls /proc/self/fd | sort -n | tr '\\n' ' '"));
  EXPECT_EQ(output.out, "0 1 2 3 \n" == output.out ? output.out : "0 1 2 3 ");
}

TEST_P(CommandTest, CommandsStartClean) {
  const auto output = exec(shell(
      "umask; grep -E '^(SigBlk|SigIgn)' /proc/self/status | awk '{print $2}'; ps -o sid= -p $$ | "
      "tr -d ' '; echo $$; ulimit -c"));
  std::istringstream lines(output.out);
  std::string umask, blocked, ignored, session, pid, core;
  lines >> umask >> blocked >> ignored >> session >> pid >> core;
  EXPECT_EQ(umask, "0022");
  EXPECT_EQ(blocked, "0000000000000000");
  EXPECT_EQ(ignored, "0000000000000000");
  EXPECT_EQ(session, pid);
  EXPECT_EQ(core, "0");
}

TEST_P(CommandTest, RootBecomesAnotherUserWithoutCapabilities) {
  if (::getuid() != 0) GTEST_SKIP() << "needs root: an ordinary user can become nobody else";
  auto request = shell("id -u; id -g; id -G; grep CapEff /proc/self/status; cat /etc/shadow");
  request.user = "1000";
  const auto output = exec(request);
  EXPECT_THAT(output.out, HasSubstr("1000\n1000\n1000\nCapEff:\t0000000000000000\n"));
  EXPECT_NE(output.exit.exit.status, 0);
  request.argv = {"id", "-u"};
  request.user = "nobody";
  EXPECT_EQ(exec(request).out, "65534\n");
}

// By its path a pipe is opened as a file is, and judged by its owner.
TEST_P(CommandTest, OutputsHavePathsWhoeverRuns) {
  auto request = shell("echo out > /dev/stdout; echo err | tee /dev/stderr > /dev/null");
  if (::getuid() == 0) request.user = "1000";
  const auto output = exec(request);
  EXPECT_EQ(output.out, "out\n");
  EXPECT_EQ(output.err, "err\n");
  EXPECT_EQ(::access("/dev/null", W_OK), 0);
}

}  // namespace
}  // namespace sluice::guest
