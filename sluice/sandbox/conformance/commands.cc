// Commands: how they end, what they get and what they give.
#include <algorithm>
#include <csignal>

#include "sluice/sandbox/conformance/case.h"

namespace sluice::sandbox::conformance {

Area commands{"commands", {}};

namespace {

using Reason = Exit::Reason;

SLUICE_CASE(commands, exit_codes_are_as_they_are) {
  for (const int code : {0, 1, 2, 3, 77, 124, 126, 127, 128, 129, 137, 143, 254, 255}) {
    const Output output = t.sh(t.shared(), "exit " + std::to_string(code));
    SLUICE_EXPECT_EQ(t, output.exit.reason, Reason::kExited);
    SLUICE_EXPECT_EQ(t, output.exit.status, code);
    SLUICE_EXPECT_EQ(t, output.exit.signal, 0);
  }
}

SLUICE_CASE(commands, signals_are_told_as_signals) {
  for (const int number : {SIGHUP, SIGINT, SIGABRT, SIGKILL, SIGSEGV, SIGTERM, SIGUSR1}) {
    const Output output = t.sh(t.shared(), "kill -" + std::to_string(number) + " $$");
    SLUICE_EXPECT_EQ(t, output.exit.reason, Reason::kSignaled);
    SLUICE_EXPECT_EQ(t, output.exit.signal, number);
    SLUICE_EXPECT_EQ(t, output.exit.status, -1);
  }
}

SLUICE_CASE(commands, a_childs_signal_is_the_shells_code) {
  const Output output = t.sh(t.shared(), "sh -c 'kill -9 $$'; exit $?");
  SLUICE_EXPECT_EQ(t, output.exit.reason, Reason::kExited);
  SLUICE_EXPECT_EQ(t, output.exit.status, 137);
}

SLUICE_CASE(commands, a_time_out_is_no_exit_code) {
  Command command = t.shell("echo before; echo problem >&2; sleep 600");
  command.deadline = Deadline::in(1s);
  const Output output = t.exec(t.shared(), std::move(command));
  SLUICE_EXPECT_EQ(t, output.exit.reason, Reason::kTimedOut);
  SLUICE_EXPECT_EQ(t, output.exit.status, -1);
  SLUICE_EXPECT_EQ(t, output.out, "before\n");
  SLUICE_EXPECT_EQ(t, output.err, "problem\n");
  // What says 124 by itself has not timed out.
  SLUICE_EXPECT_EQ(t, t.sh(t.shared(), "exit 124").exit.reason, Reason::kExited);
}

SLUICE_CASE(commands, a_time_out_kills_the_whole_tree) {
  Sandbox& sandbox = t.shared();
  Command command = t.shell(
      "(setsid sh -c 'while :; do echo x >> beat; sleep 0.02; done' &); "
      "trap '' TERM HUP; sh -c 'sleep 600; :'");
  command.deadline = Deadline::in(1s);
  SLUICE_EXPECT_EQ(t, t.exec(sandbox, std::move(command)).exit.reason, Reason::kTimedOut);
  SLUICE_EXPECT(t, t.out(sandbox, "wc -c < beat") != "0\n");
  t.expect_still(sandbox, "beat");
}

SLUICE_CASE(commands, a_deadline_that_is_over_ends_at_once) {
  Command command = t.shell("sleep 600");
  command.deadline = Deadline::in(0s);
  SLUICE_EXPECT_EQ(t, t.exec(t.shared(), std::move(command)).exit.reason, Reason::kTimedOut);
}

SLUICE_CASE(commands, output_is_bytes) {
  std::string all;
  for (int i = 0; i < 256; ++i) all.push_back(static_cast<char>(i));
  Command command = t.program({"cat"});
  command.input = all;
  SLUICE_EXPECT(t, t.exec(t.shared(), std::move(command)).out == all);
}

SLUICE_CASE(commands, output_that_is_no_text_stays_as_it_is) {
  // Half a character, a lone surrogate, escapes of terminals: nothing is mended on the way.
  SLUICE_EXPECT(
      t,
      t.out(t.shared(), R"(printf '\303'; sleep 0.1; printf '\251\355\240\200\033[31m\r\n\007')") ==
          "\303\251\355\240\200\033[31m\r\n\007");
}

SLUICE_CASE(commands, channels_stay_apart) {
  const Output output = t.sh(t.shared(), "for i in 1 2 3; do echo out$i; echo err$i >&2; done");
  SLUICE_EXPECT_EQ(t, output.out, "out1\nout2\nout3\n");
  SLUICE_EXPECT_EQ(t, output.err, "err1\nerr2\nerr3\n");
}

SLUICE_CASE(commands, no_output_is_empty) {
  const Output output = t.sh(t.shared(), ":");
  SLUICE_EXPECT(t, output.out.empty() && output.err.empty() && output.exit.ok());
}

SLUICE_CASE(commands, much_output_arrives_whole) {
  Command command = t.shell("head -c 12000000 /dev/zero; head -c 3000000 /dev/zero >&2");
  const Output output = t.exec(t.shared(), std::move(command));
  SLUICE_EXPECT_EQ(t, output.out.size(), size_t{12'000'000});
  SLUICE_EXPECT_EQ(t, output.err.size(), size_t{3'000'000});
  SLUICE_EXPECT(t, !output.exit.truncated);
}

struct Taken {
  Bytes out, err;
  size_t largest = 0;
};

// Takes its time for the first piece: what is printed meanwhile waits inside.
awaitable<void> take_piece(Taken* taken, Channel channel, Bytes piece) {
  taken->largest = std::max(taken->largest, piece.size());
  if (taken->out.empty() && taken->err.empty()) {
    const auto slept = co_await net::sleep_for(100ms);
    static_cast<void>(slept);
  }
  (channel == Channel::kOut ? taken->out : taken->err).append(piece);
}

SLUICE_CASE(commands, output_can_be_taken_as_it_comes) {
  Taken taken;
  Command command = t.shell("seq 500000; seq 100000 >&2; echo end; exit 3");
  command.take = [&taken](Channel channel, Bytes piece) {
    return take_piece(&taken, channel, std::move(piece));
  };
  Output output = t.exec(t.shared(), std::move(command));
  SLUICE_EXPECT_EQ(t, output.exit.status, 3);
  SLUICE_EXPECT(t, output.out.empty() && output.err.empty() && !output.exit.truncated);
  SLUICE_EXPECT(t, taken.out.starts_with("1\n2\n") && taken.out.ends_with("\n500000\nend\n"));
  SLUICE_EXPECT_EQ(t, taken.out.size(), size_t{3'388'899});
  SLUICE_EXPECT(t, taken.err.starts_with("1\n2\n") && taken.err.ends_with("\n100000\n"));
  SLUICE_EXPECT(t, taken.largest <= 1024 * 1024);
  // Up to the cap, its end included; and that of a command which is ended at its deadline.
  taken = Taken();
  command = t.shell("seq 1000000; echo reason; sleep 60");
  command.output_cap = 100'000;
  command.deadline = Deadline::in(1s);
  command.take = [&taken](Channel channel, Bytes piece) {
    return take_piece(&taken, channel, std::move(piece));
  };
  output = t.exec(t.shared(), std::move(command));
  SLUICE_EXPECT(t, output.exit.truncated && output.exit.reason == Reason::kTimedOut);
  SLUICE_EXPECT(t, taken.out.size() == 100'000 && taken.out.ends_with("\nreason\n"));
}

SLUICE_CASE(commands, output_over_the_cap_is_dropped_and_said_so) {
  const std::string amount = t.whole() ? "1073741824" : "100000000";
  Command command = t.shell("head -c " + amount + " /dev/zero; echo end >&2; exit 5");
  command.output_cap = 100'000;
  const Output output = t.exec(t.shared(), std::move(command));
  SLUICE_EXPECT_EQ(t, output.out.size(), size_t{100'000});
  SLUICE_EXPECT_EQ(t, output.err, "end\n");
  SLUICE_EXPECT(t, output.exit.truncated);
  SLUICE_EXPECT_EQ(t, output.exit.status, 5);
}

SLUICE_CASE(commands, the_end_of_long_output_is_kept) {
  Command command = t.shell("seq 1000000; echo 'FAILED: the reason'; seq 1000000 >&2");
  command.output_cap = 100'000;
  const Output output = t.exec(t.shared(), std::move(command));
  SLUICE_EXPECT(t, output.exit.truncated && output.out.size() == 100'000);
  SLUICE_EXPECT(t, output.out.starts_with("1\n2\n"));
  SLUICE_EXPECT(t, output.out.ends_with("1000000\nFAILED: the reason\n"));
  SLUICE_EXPECT(t, output.err.ends_with("\n1000000\n"));
}

SLUICE_CASE(commands, output_at_the_cap_is_whole) {
  Command command = t.shell("head -c 1000 /dev/zero");
  command.output_cap = 1000;
  const Output output = t.exec(t.shared(), std::move(command));
  SLUICE_EXPECT(t, output.out.size() == 1000 && !output.exit.truncated);
}

SLUICE_CASE(commands, an_endless_line_is_bounded) {
  Command command = t.shell("tr '\\0' x < /dev/zero");
  command.output_cap = 50'000;
  command.deadline = Deadline::in(1s);
  const Output output = t.exec(t.shared(), std::move(command));
  SLUICE_EXPECT_EQ(t, output.out, std::string(50'000, 'x'));
  SLUICE_EXPECT(t, output.exit.truncated && output.exit.reason == Reason::kTimedOut);
}

SLUICE_CASE(commands, input_arrives_whole) {
  Command command = t.program({"cksum"});
  command.input = Bytes(5'000'000, 'i');
  const std::string by_input = t.exec(t.shared(), std::move(command)).out;
  SLUICE_EXPECT_EQ(t, by_input,
                   t.out(t.shared(), "head -c 5000000 /dev/zero | tr '\\0' i | cksum"));
}

SLUICE_CASE(commands, without_input_stdin_is_at_its_end) {
  SLUICE_EXPECT_EQ(t, t.exec(t.shared(), t.program({"cat"})).out, "");
}

SLUICE_CASE(commands, input_that_is_not_read_does_not_hold_up) {
  Command command = t.program({"head", "-c", "5"});
  command.input = Bytes(10'000'000, 'y');
  const Output output = t.exec(t.shared(), std::move(command));
  SLUICE_EXPECT_EQ(t, output.out, "yyyyy");
  Command never = t.program({"true"});
  never.input = Bytes(10'000'000, 'y');
  SLUICE_EXPECT(t, t.exec(t.shared(), std::move(never)).exit.ok());
}

SLUICE_CASE(commands, the_environment_is_the_commands_alone) {
  Command command = t.program({"env"});
  command.env = {{"PATH", "/usr/bin:/bin"},
                 {"A", "b c"},
                 {"EMPTY", ""},
                 {"LINE", "one\ntwo=2"},
                 {"QUOTE", "'\"$(id)`id`\\"}};
  SLUICE_EXPECT_EQ(t, t.exec(t.shared(), std::move(command)).out,
                   "PATH=/usr/bin:/bin\nA=b c\nEMPTY=\nLINE=one\ntwo=2\nQUOTE='\"$(id)`id`\\\n");
}

SLUICE_CASE(commands, bad_environment_is_refused) {
  for (const auto& [name, value] : {std::pair<std::string, std::string>("", "x"),
                                    {"A=B", "x"},
                                    {"A", std::string("x\0y", 3)},
                                    {std::string("A\0", 2), "x"}}) {
    Command command = t.program({"true"});
    command.env = {{name, value}};
    SLUICE_EXPECT_ERROR(t, t.wait(t.shared().exec(std::move(command))),
                        ErrorCode::kInvalidArgument);
  }
}

SLUICE_CASE(commands, the_working_directory_is_as_told) {
  Sandbox& sandbox = t.shared();
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "pwd"), std::string(kWorkdir) + "\n");
  Command command = t.program({"pwd"});
  command.cwd = "/usr/bin";
  SLUICE_EXPECT_EQ(t, t.exec(sandbox, std::move(command)).out, "/usr/bin\n");
  Command missing = t.program({"pwd"});
  missing.cwd = "/no/such/place";
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.exec(std::move(missing))), ErrorCode::kNotFound);
}

SLUICE_CASE(commands, users_are_who_they_are) {
  Sandbox& sandbox = t.shared();
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "id -u; id -g; id -un"), "1000\n1000\nuser\n");
  if (!sandbox.capabilities().guest_isolated) return;
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "id -u; id -g", kVerifyUser), "1001\n1001\n");
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "id -u", kSetupUser), "0\n");
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "id -u", "user"), "1000\n");
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "id -G"), "1000\n");
}

SLUICE_CASE(commands, an_unknown_user_is_refused) {
  SLUICE_EXPECT_ERROR(t, t.wait(t.shared().exec(t.shell("true", "no-such-user"))),
                      ErrorCode::kNotFound);
}

SLUICE_CASE(commands, arguments_are_not_touched) {
  const std::vector<std::string> words = {"a b",      "",   "'", "\"", "$(id)",
                                          "`id`",     "\\", "*", "-n", "line\nbreak",
                                          "\xff\xfe", "#",  "&", "é"};
  std::vector<std::string> argv = {"printf", "%s|"};
  argv.insert(argv.end(), words.begin(), words.end());
  std::string expected;
  for (const std::string& word : words) expected += word + "|";
  SLUICE_EXPECT(t, t.exec(t.shared(), t.program(argv)).out == expected);
}

SLUICE_CASE(commands, many_arguments_work) {
  std::vector<std::string> argv = {"sh", "-c", "echo $#", "sh"};
  for (int i = 0; i < 1000; ++i) argv.emplace_back(1000, 'x');
  SLUICE_EXPECT_EQ(t, t.exec(t.shared(), t.program(argv)).out, "1000\n");
}

SLUICE_CASE(commands, too_long_arguments_are_refused) {
  SLUICE_EXPECT_ERROR(t, t.wait(t.shared().exec(t.program({"echo", Bytes(200'000, 'x')}))),
                      ErrorCode::kTooLarge);
  SLUICE_EXPECT_EQ(t, t.out(t.shared(), "echo on"), "on\n");
}

SLUICE_CASE(commands, bad_arguments_are_refused) {
  SLUICE_EXPECT_ERROR(t, t.wait(t.shared().exec(t.program({}))), ErrorCode::kInvalidArgument);
  SLUICE_EXPECT_ERROR(t, t.wait(t.shared().exec(t.program({""}))), ErrorCode::kInvalidArgument);
  SLUICE_EXPECT_ERROR(t, t.wait(t.shared().exec(t.program({"echo", std::string("a\0b", 3)}))),
                      ErrorCode::kInvalidArgument);
}

SLUICE_CASE(commands, a_missing_program_is_not_found) {
  const auto missing = t.wait(t.shared().exec(t.program({"no-such-program"})));
  SLUICE_EXPECT_ERROR(t, missing, ErrorCode::kNotFound);
  if (!missing)
    SLUICE_EXPECT(t, missing.error().message.find("no-such-program") != std::string::npos);
}

SLUICE_CASE(commands, what_is_no_program_is_refused) {
  Sandbox& sandbox = t.shared();
  t.sh(sandbox, "echo text > plain; printf '#!/no/such/interpreter\\n' > lost; chmod +x lost");
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.exec(t.program({"./plain"}))),
                      ErrorCode::kPermissionDenied);
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.exec(t.program({"./lost"}))), ErrorCode::kNotFound);
}

SLUICE_CASE(commands, a_program_is_found_in_the_commands_path) {
  Sandbox& sandbox = t.shared();
  t.sh(sandbox, "mkdir bin; printf '#!/bin/sh\\necho mine\\n' > bin/tool; chmod +x bin/tool");
  Command command = t.program({"tool"});
  command.env = {{"PATH", "/no/where:" + std::string(kWorkdir) + "/bin"}};
  SLUICE_EXPECT_EQ(t, t.exec(sandbox, std::move(command)).out, "mine\n");
}

SLUICE_CASE(commands, the_shell_reads_no_profile) {
  Sandbox& sandbox = t.shared();
  for (const char* name :
       {"/home/user/.bashrc", "/home/user/.profile", "/home/user/.bash_profile"}) {
    SLUICE_EXPECT_OK(t, t.wait(sandbox.write_file(name, "echo tampered\n", WriteOptions())));
  }
  Command command = t.shell("echo clean");
  command.env.emplace_back("BASH_ENV_NOT_SET", "1");
  SLUICE_EXPECT_EQ(t, t.exec(sandbox, std::move(command)).out, "clean\n");
  t.sh(sandbox, "rm ~/.bashrc ~/.profile ~/.bash_profile");
}

SLUICE_CASE(commands, descriptors_are_the_three) {
  SLUICE_EXPECT_EQ(t, t.out(t.shared(), "ls /proc/self/fd | tr '\\n' ' '"), "0 1 2 3 ");
}

SLUICE_CASE(commands, signals_and_umask_are_plain) {
  SLUICE_EXPECT_EQ(
      t, t.out(t.shared(), "umask; grep -E 'Sig(Blk|Ign)' /proc/self/status | tr -d '\\t'"),
      "0022\nSigBlk:0000000000000000\nSigIgn:0000000000000000\n");
}

SLUICE_CASE(commands, there_is_no_terminal) {
  SLUICE_EXPECT_EQ(t,
                   t.out(t.shared(),
                         "test -t 0 || test -t 1 || test -t 2 || echo none; "
                         "(: < /dev/tty) 2>/dev/null || echo none"),
                   "none\nnone\n");
}

SLUICE_CASE(commands, a_background_child_does_not_hold_up) {
  Sandbox& sandbox = t.shared();
  const Output output = t.sh(sandbox, "sleep 600 & echo $! > child; echo started");
  SLUICE_EXPECT(t, output.exit.ok());
  SLUICE_EXPECT_EQ(t, output.out, "started\n");
  SLUICE_EXPECT(t, t.sh(sandbox, "kill -0 $(cat child)").exit.ok());
  SLUICE_EXPECT_OK(t, t.wait(sandbox.kill_all()));
}

awaitable<void> count_answer(Sandbox* sandbox, int number, int* right, int* left) {
  auto output = co_await sandbox->exec(Try::shell("sleep 0.05; echo " + std::to_string(number)));
  if (output && output->out == std::to_string(number) + "\n") ++*right;
  --*left;
}

SLUICE_CASE(commands, fifty_at_once_keep_to_themselves) {
  Sandbox& sandbox = t.shared();
  int right = 0;
  int left = 50;
  for (int i = 0; i < 50; ++i) t.shard().spawn(count_answer(&sandbox, i, &right, &left));
  t.shard().run_until([&] { return left == 0; });
  SLUICE_EXPECT_EQ(t, right, 50);
}

SLUICE_CASE(commands, time_is_told) {
  const Output output = t.sh(t.shared(), "sleep 0.2");
  SLUICE_EXPECT(t, output.wall >= 200ms && output.wall < 60s);
}

SLUICE_CASE(commands, the_dead_are_buried) {
  Sandbox& sandbox = t.shared();
  t.sh(sandbox, "for i in 1 2 3 4 5; do (setsid sh -c 'sleep 0.05' &); done; sleep 0.3");
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '"), "0\n");
}

}  // namespace

}  // namespace sluice::sandbox::conformance
