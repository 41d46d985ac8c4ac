#include "sluice/rollout/task.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "sluice/base/core/fd.h"

namespace sluice::rollout {
namespace {

using namespace std::chrono_literals;

std::string mistake(const std::string& text) {
  const auto task = parse_task(text, "task.toml", "/nonexistent");
  return task ? "none" : task.error().message;
}

TEST(TaskTest, AnImageBesideTheTaskIsMeantByItsPath) {
  const std::string directory = ::testing::TempDir();
  std::ofstream(directory + "/task-image.tar") << "x";
  const auto image_of = [&](const std::string& name) {
    const auto task = parse_task("id = 'a'\ninstruction = 'i'\n[sandbox]\nimage = '" + name + "'\n",
                                 "task.toml", directory);
    return task ? task->sandbox.image : task.error().message;
  };
  EXPECT_EQ(image_of("./task-image.tar"),
            (std::filesystem::path(directory) / "task-image.tar").lexically_normal());
  EXPECT_EQ(image_of("debian"), "debian");
  EXPECT_EQ(image_of("/images/x.tar"), "/images/x.tar");
}

TEST(TaskTest, ReadsEverything) {
  const auto task = parse_task(R"(
id = "t1"
instruction = "do it"
setup = ["true"]
verify = ["test -f x", "true"]
[[files]]
path = "a/b.sh"
content = "echo"
executable = true
[sandbox]
image = "debian"
workdir = "/home/user/repo"
setup_user = "1000"
network = "setup"
setup_hosts = ["example.org"]
[agent]
approvals = "bypass"
env = { A = "1" }
options = { system_prompt = "short", steps = 5, tools = { task = false } }
context_window = 32768
max_output = 2048
[limits]
memory_mb = 512
cpus = 1.5
agent_timeout_s = 0.5
calls = 7
[metadata]
k = [1, "two"]
)",
                               "task.toml", "/");
  ASSERT_TRUE(task) << task.error().message;
  EXPECT_EQ(task->id, "t1");
  EXPECT_EQ(task->verify.commands.size(), 2u);
  EXPECT_EQ(task->uploads.at(0).mode, 0755u);
  EXPECT_EQ(task->workdir, "/home/user/repo");
  EXPECT_EQ(task->sandbox.network, sandbox::Network::kSetup);
  EXPECT_EQ(task->approvals, agent::Approvals::kBypass);
  EXPECT_EQ(task->options.at("system_prompt"), "short");
  EXPECT_EQ(task->options.at("steps"), "5");
  EXPECT_EQ(task->context_window, 32768);
  EXPECT_EQ(task->max_output, 2048);
  EXPECT_EQ(task->agent_timeout, 500ms);
  EXPECT_EQ(task->budget.calls, 7u);
  EXPECT_EQ(task->sandbox.limits.cpu_millis->value, 1500u);
  // A limit that a task names must hold.
  EXPECT_EQ(task->sandbox.limits.memory_bytes->value, 512u << 20);
  EXPECT_EQ(task->sandbox.limits.memory_bytes->strictness, sandbox::Strictness::kRequire);
  EXPECT_NE(task->metadata.find("two"), std::string::npos);
}

TEST(TaskTest, AnAnswerFitsIntoTheWindow) {
  const std::string agent = "instruction = \"x\"\n[agent]\n";
  EXPECT_TRUE(parse_task(agent + "max_output = 131072", "task.toml", "/"));
  EXPECT_TRUE(parse_task(agent + "context_window = 10", "task.toml", "/"));
  EXPECT_EQ(mistake(agent + "context_window = 0"),
            "task.toml:3: agent.context_window: is 0; must be from 1 to 1073741824");
  EXPECT_EQ(mistake(agent + "max_output = 131073"),
            "task.toml:3: agent.max_output: max_output, 131073, is more than the context window, "
            "131072: set context_window as well");
  EXPECT_NE(
      mistake(agent + "context_window = 100\nmax_output = 101").find("the context window, 100"),
      std::string::npos);
}

TEST(TaskTest, ABudgetAndTheGatesRules) {
  const auto plain = parse_task("instruction = 'x'", "task.toml", "/");
  EXPECT_EQ(plain->budget.calls, gate::Budget().calls);
  EXPECT_EQ(plain->budget.host_disk, 2u << 30);
  EXPECT_EQ(plain->gate.delivery, gate::AnswerDelivery::kWhole);
  EXPECT_EQ(plain->gate.cut_calls, gate::CutCalls::kWithheld);
  EXPECT_FALSE(plain->gate.max_version_lag);
  const auto task = parse_task(R"(
instruction = "x"
[limits]
calls = 3
[budget]
calls = 7
open_calls = 2
calls_per_second = 0.5
tokens = 1000
bytes = 0
time_s = 90.5
host_disk_mb = 5
[gate]
accept = "sampled"
delivery = "incremental"
cut_calls = "sent"
max_version_lag = 0
tools_in_requests = true
)",
                               "task.toml", "/");
  ASSERT_TRUE(task) << task.error().message;
  EXPECT_EQ(task->budget.calls, 7u);
  EXPECT_EQ(task->budget.open_calls, 2u);
  EXPECT_EQ(task->budget.calls_per_second, 0.5);
  EXPECT_EQ(task->budget.tokens, 1000u);
  EXPECT_EQ(task->budget.bytes, 0u);
  EXPECT_EQ(task->budget.time, 90500ms);
  EXPECT_EQ(task->budget.host_disk, 5u << 20);
  EXPECT_EQ(task->gate.accept, gate::OriginRule::Accept::kSampledOnly);
  EXPECT_EQ(task->gate.delivery, gate::AnswerDelivery::kIncremental);
  EXPECT_EQ(task->gate.cut_calls, gate::CutCalls::kSent);
  EXPECT_EQ(task->gate.max_version_lag, 0u);
  EXPECT_EQ(task->gate.tools_in_requests, gate::ToolsInRequests::kAdded);
  EXPECT_EQ(mistake("instruction = \"x\"\n[budget]\ntokens = -1"),
            "task.toml:3: budget.tokens: is -1; must be from 0 to 1125899906842624");
  EXPECT_EQ(mistake("instruction = \"x\"\n[budget]\nseconds = 1"),
            "task.toml:3: budget.seconds: unknown key; known here: bytes, calls, "
            "calls_per_second, host_disk_mb, open_calls, time_s, tokens");
  EXPECT_EQ(mistake("instruction = \"x\"\n[gate]\naccept = \"all\""),
            "task.toml:3: gate.accept: is \"all\"; must be one of: any, sampled");
}

TEST(TaskTest, SaysWhereItsWorkIsJudged) {
  const auto task = parse_task(R"(
instruction = "x"
[verify]
commands = ["pytest tests"]
where = "fresh"
paths = ["src"]
exclude = ["*.pyc", "src/tests"]
start = ["server &"]
[[verify.files]]
path = "tests/test_hidden.py"
content = "assert True"
[[verify.files]]
path = "/opt/judge/run"
content = "#!/bin/sh"
executable = true
)",
                               "task.toml", "/");
  ASSERT_TRUE(task) << task.error().message;
  const agent::Verify& verify = task->verify;
  EXPECT_EQ(verify.where, agent::VerifyWhere::kFresh);
  EXPECT_EQ(verify.commands, std::vector<std::string>{"pytest tests"});
  EXPECT_EQ(verify.paths, std::vector<std::string>{"src"});
  EXPECT_EQ(verify.exclude.size(), 2u);
  EXPECT_EQ(verify.start.size(), 1u);
  ASSERT_EQ(verify.files.size(), 2u);
  EXPECT_EQ(verify.files[1].mode, 0755u);
  EXPECT_TRUE(task->uploads.empty());

  const auto mistake_of = [](const std::string& table) {
    return mistake("instruction = \"x\"\n[verify]\n" + table);
  };
  EXPECT_EQ(mistake_of("where = \"here\""),
            "task.toml:3: verify.where: is \"here\"; must be one of: same, fresh");
  EXPECT_NE(mistake_of("start = [\"x\"]").find("need where = \"fresh\""), std::string::npos);
  EXPECT_NE(mistake_of("where = \"same\"\npaths = [\"x\"]").find("are of \"fresh\""),
            std::string::npos);
  EXPECT_NE(mistake_of("where = \"fresh\"\npaths = [\"/\"]").find("whole sandbox"),
            std::string::npos);
  EXPECT_NE(
      mistake_of("[[verify.files]]\npath = \"../x\"\ncontent = \"\"").find("below the workdir"),
      std::string::npos);
}

TEST(TaskTest, HowWorkIsJudged) {
  const auto plain = parse_task("instruction = 'x'\nverify = ['a']", "task.toml", "/");
  ASSERT_TRUE(plain) << plain.error().message;
  EXPECT_EQ(plain->verify.commands, std::vector<std::string>{"a"});
  EXPECT_EQ(plain->verify.reward, agent::RewardFrom::kAuto);
  EXPECT_EQ(plain->verify.reward_min, 0);
  EXPECT_GT(plain->verify.reward_max, 1e308);
  EXPECT_EQ(plain->verify.where, agent::VerifyWhere::kDefault);
  const auto task = parse_task(R"(
instruction = "x"
[limits]
verify_timeout_s = 7
[verify]
commands = ["a", "b"]
reward = "file"
reward_min = -1
reward_max = 2.5
where = "fresh"
paths = ["src"]
exclude = ["*.o"]
start = ["serve"]
[[verify.files]]
path = "tests/t.py"
content = "hidden"
)",
                               "task.toml", "/");
  ASSERT_TRUE(task) << task.error().message;
  EXPECT_EQ(task->verify.commands.size(), 2u);
  EXPECT_EQ(task->verify.timeout, 7s);
  EXPECT_EQ(task->verify.reward, agent::RewardFrom::kFile);
  EXPECT_EQ(task->verify.reward_min, -1);
  EXPECT_EQ(task->verify.reward_max, 2.5);
  EXPECT_EQ(task->verify.where, agent::VerifyWhere::kFresh);
  EXPECT_EQ(task->verify.paths, std::vector<std::string>{"src"});
  EXPECT_EQ(task->verify.exclude, std::vector<std::string>{"*.o"});
  EXPECT_EQ(task->verify.start, std::vector<std::string>{"serve"});
  EXPECT_EQ(task->verify.files.at(0).content, "hidden");
  EXPECT_TRUE(task->uploads.empty());
  EXPECT_EQ(parse_task("instruction = 'x'\n[verify]\nreward = 'commands'", "t", "/")->verify.reward,
            agent::RewardFrom::kCommands);
}

TEST(TaskTest, MistakesInHowWorkIsJudgedAreNamed) {
  const auto told = [](const std::string& text) {
    return mistake("instruction = \"x\"\n" + text);
  };
  EXPECT_EQ(told("verify = 'a'"), "task.toml:2: verify: must be an array of strings, is a string");
  EXPECT_EQ(told("[verify]\nreward = 'best'"),
            "task.toml:3: verify.reward: is \"best\"; must be one of: auto, file, commands");
  EXPECT_EQ(told("[verify]\nreward_min = 1\nreward_max = 0.5"),
            "task.toml:4: verify.reward_max: must not be below reward_min");
  EXPECT_NE(told("[verify]\nreward_min = nan").find("verify.reward_min: is nan"),
            std::string::npos);
  EXPECT_NE(told("[verify]\nreward_max = inf").find("verify.reward_max: is inf"),
            std::string::npos);
  EXPECT_EQ(told("[verify]\nverify = ['a']"),
            "task.toml:3: verify.verify: unknown key; known here: commands, exclude, files, paths, "
            "reward, reward_max, reward_min, start, where");
  EXPECT_EQ(told("[verify]\nwhere = 'there'"),
            "task.toml:3: verify.where: is \"there\"; must be one of: same, fresh");
  EXPECT_EQ(told("[[verify.files]]\npath = '../x'\ncontent = ''"),
            "task.toml:3: verify.files[0].path: must be a file's, below the workdir or absolute");
}

TEST(TaskTest, TwoToolsOfOneNameAreAMistake) {
  EXPECT_EQ(mistake("instruction = \"x\"\n[[tools]]\nname = \"a\"\n[[tools]]\nname = \"a\""),
            "task.toml:5: tools[1].name: there are two tools of this name");
}

TEST(TaskTest, TheIdDefaultsToTheFilesName) {
  const auto task = parse_task("instruction = \"x\"", "tasks/primes.toml", "tasks");
  ASSERT_TRUE(task);
  EXPECT_EQ(task->id, "primes");
  EXPECT_TRUE(task->verify.commands.empty());
}

TEST(TaskTest, MistakesNameFileLineAndWhatToDo) {
  EXPECT_EQ(
      mistake(""),
      "task.toml:1: instruction: is required: the text, or instruction_file with where it is");
  EXPECT_EQ(mistake("instruction = \"x\"\nverfy = []"),
            "task.toml:2: verfy: unknown key; known here: agent, budget, files, gate, id, "
            "instruction, instruction_file, limits, metadata, sandbox, setup, tools, verify");
  EXPECT_EQ(mistake("instruction = \"x\"\nsetup = \"ls\""),
            "task.toml:2: setup: must be an array of strings, is a string");
  EXPECT_EQ(mistake("instruction = \"x\"\n[limits]\nmemory_mb = 0"),
            "task.toml:3: limits.memory_mb: is 0; must be from 1 to 16777216");
  EXPECT_EQ(mistake("instruction = \"x\"\n[sandbox]\nnetwork = \"lan\""),
            "task.toml:3: sandbox.network: is \"lan\"; must be one of: none, setup, open");
  EXPECT_NE(mistake("instruction = \"x\"\n[sandbox]\nworkdir = \"/etc\"").find("must be below"),
            std::string::npos);
  EXPECT_NE(mistake("instruction = \"x\"\n[sandbox]\nworkdir = \"/home/user/../../etc\"")
                .find("must be below"),
            std::string::npos);
  EXPECT_NE(mistake("instruction = \"x\"\n[[files]]\npath = \"a\"").find("content"),
            std::string::npos);
  EXPECT_NE(mistake("instruction_file = \"none.md\"").find("No such file"), std::string::npos);
  EXPECT_NE(mistake("instruction = ").find("task.toml:1"), std::string::npos);
}

// As an argument the kernel takes 128 KiB, its closing NUL included.
TEST(TaskTest, CommandsThatNoShellCanBeGivenAreRefusedWithTheirNumber) {
  for (const std::string key : {"setup", "verify"}) {
    const auto with = [&](const std::string& command) {
      return mistake("instruction = \"x\"\n" + key + " = [\"true\", \"" + command + "\"]");
    };
    EXPECT_EQ(with(std::string(131071, 'x')), "none");
    EXPECT_EQ(with(std::string(131072, 'x')),
              "task.toml:2: " + key +
                  ": command 2 has 131072 bytes, and the kernel takes at most 131071: put what it "
                  "does into a file ([[files]]) and run that");
    EXPECT_EQ(with("a\\u0000b"),
              "task.toml:2: " + key + ": command 2 holds a NUL, which no command can");
  }
}

// What may be set of a sandbox is a closed list: nothing is handed on to whoever makes it.
TEST(TaskTest, finding_47_options_of_a_sandbox_that_are_not_on_the_list_are_refused_by_name) {
  constexpr char kTask[] = "instruction = \"x\"\n";
  for (const std::string name :
       {"args", "docker_args", "run_args", "extra_args", "privileged", "cap_add", "devices",
        "mounts", "volumes", "binds", "ports", "network_mode", "pid", "userns", "security_opt",
        "runtime", "entrypoint", "user", "env"}) {
    const std::string told = mistake(kTask + ("[sandbox]\n" + name) + " = \"x\"");
    EXPECT_EQ(told, "task.toml:3: sandbox." + name +
                        ": unknown key; known here: image, network, setup_hosts, setup_user, "
                        "workdir");
  }
  for (const std::string name : {"docker", "container", "podman", "backend", "options"}) {
    const std::string told = mistake(kTask + ("[" + name) + "]\nprivileged = true");
    EXPECT_TRUE(told.starts_with("task.toml:2: " + name + ": unknown key; known here: ")) << told;
  }
  EXPECT_TRUE(mistake(kTask + std::string("[sandbox.options]\nprivileged = true"))
                  .starts_with("task.toml:2: sandbox.options: unknown key; known here: "));
}

TEST(TaskTest, FilesAreFoundBesideTheTask) {
  const std::string directory =
      ::testing::TempDir() + "/sluice_task_test." + std::to_string(::getpid());
  std::filesystem::create_directories(directory);
  ASSERT_TRUE(write_file_atomically(directory + "/prompt.md", "from a file"));
  ASSERT_TRUE(write_file_atomically(directory + "/data.bin", std::string("\0\xff", 2)));
  ASSERT_TRUE(write_file_atomically(
      directory + "/task.toml",
      "instruction_file = \"prompt.md\"\n[[files]]\npath = \"d\"\nsource = \"data.bin\"\n"));
  const auto task = load_task(directory + "/task.toml");
  ASSERT_TRUE(task) << task.error().message;
  EXPECT_EQ(task->instruction, "from a file");
  EXPECT_EQ(task->uploads.at(0).content, std::string("\0\xff", 2));
  std::filesystem::remove_all(directory);
}

TEST(TaskTest, FilesStayBelowTheWorkdirOrAreAbsolute) {
  const auto with_path = [](const std::string& path) {
    return mistake("instruction = \"x\"\n[[files]]\npath = \"" + path + "\"\ncontent = \"\"");
  };
  for (const char* fine : {"a", "a/b", "./a", "a/../b", "..a", "a..", "/etc/x", "/home/user/x"}) {
    EXPECT_EQ(with_path(fine), "none") << fine;
  }
  EXPECT_EQ(with_path(""), "task.toml:3: files[0].path: must not be empty");
  for (const char* wrong : {".", "..", "../x", "../../../etc/z", "a/../../x", "./../x", "a/..",
                            "a/", "/", "/a/", "../workdir/x"}) {
    EXPECT_EQ(with_path(wrong),
              "task.toml:3: files[0].path: must be a file's, below the workdir or absolute")
        << wrong;
  }
}

TEST(TaskTest, AMissingFileIsNamed) {
  const auto task = load_task("/nonexistent/task.toml");
  ASSERT_FALSE(task);
  EXPECT_EQ(task.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(task.error().message, "task: /nonexistent/task.toml: No such file or directory");
}

}  // namespace
}  // namespace sluice::rollout
