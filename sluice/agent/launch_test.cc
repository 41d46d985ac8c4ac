#include <gtest/gtest.h>

#include <algorithm>

#include "sluice/agent/driver.h"
#include "sluice/agent/registry.h"
#include "sluice/json/value.h"

namespace sluice::agent {
namespace {

std::shared_ptr<const Spec> spec_of(const std::string& text) {
  auto spec = parse_spec(text, "test.toml");
  EXPECT_TRUE(spec) << spec.error().message;
  return std::make_shared<const Spec>(std::move(*spec));
}

constexpr char kSpec[] = R"(
name = "echo"
version = "1.0"
[install]
commands = ["true"]
program = "sh"
[run]
command = ["{program}", "--model", "{model}"]
approvals_bypass = ["--yes"]
[run.env]
BASE = "{base_url}"
[[files]]
path = "{home}/c.json"
content = '{"url": "{base_url}", "model": "{model|json}", "deep": {}}'
[options.system]
file = "{home}/c.json"
pointer = "/deep/er/prompt"
[options.steps]
file = "{home}/c.json"
pointer = "/steps"
type = "json"
[options.flag]
args = ["--flag={value}"]
env = { FLAG = "{value}" }
[dialects.chat]
path = "/v1"
[dialects.messages]
)";

Plan plan_for(const std::string& spec) {
  Plan plan;
  plan.spec = spec_of(spec);
  plan.instruction = "do \"it\" '$(now)'";
  return plan;
}

const Endpoint kEndpoint = {"http://127.0.0.1:81/rollout/r1", "key"};

std::string env_of(const Launch& launch, const std::string& name) {
  for (const auto& [key, value] : launch.env) {
    if (key == name) return value;
  }
  return "(unset)";
}

TEST(LaunchTest, FillsArgumentsEnvironmentAndFiles) {
  const auto launch = make_launch(plan_for(kSpec), kEndpoint, "/opt/x/bin");
  ASSERT_TRUE(launch) << launch.error().message;
  EXPECT_EQ(launch->argv, (std::vector<std::string>{"/opt/x/bin", "--model", "policy"}));
  EXPECT_EQ(env_of(*launch, "BASE"), "http://127.0.0.1:81/rollout/r1/v1");
  EXPECT_EQ(env_of(*launch, "HOME"), "/home/user");
  ASSERT_EQ(launch->files.size(), 1u);
  EXPECT_EQ(launch->files[0].path, "/home/user/c.json");
  EXPECT_EQ(launch->files[0].mode, 0600u);
  EXPECT_EQ(launch->files[0].content,
            R"({"url": "http://127.0.0.1:81/rollout/r1/v1", "model": "policy", "deep": {}})");
}

TEST(LaunchTest, ModelsLimitsAreToldAsTheTaskSaysThem) {
  std::string spec = kSpec;
  spec.replace(spec.find("\"--model\", \"{model}\""), 20, "\"{context_window}\", \"{max_output}\"");
  Plan plan = plan_for(spec);
  const auto told = [&] {
    const auto launch = make_launch(plan, kEndpoint, "sh");
    EXPECT_TRUE(launch) << launch.error().message;
    return launch->argv.at(1) + " " + launch->argv.at(2);
  };
  EXPECT_EQ(told(), "131072 8192");
  plan.context_window = 32768;
  plan.max_output = 2048;
  EXPECT_EQ(told(), "32768 2048");
  // No answer is longer than the window.
  plan.max_output.reset();
  plan.context_window = 4096;
  EXPECT_EQ(told(), "4096 4096");
}

// A task's own home is the agent's everywhere: what it reads its configuration from is what it is
// told is its home, and nothing goes to another one.
TEST(LaunchTest, finding_15_configuration_goes_into_the_effective_home_only) {
  Plan plan = plan_for(kSpec);
  plan.env["HOME"] = "/home/user/own";
  const auto launch = make_launch(plan, kEndpoint, "sh");
  ASSERT_TRUE(launch) << launch.error().message;
  EXPECT_EQ(env_of(*launch, "HOME"), "/home/user/own");
  ASSERT_EQ(launch->files.size(), 1u);
  EXPECT_EQ(launch->files[0].path, "/home/user/own/c.json");
  // Not a path: the usual one, for both.
  plan.env["HOME"] = "own";
  const auto usual = make_launch(plan, kEndpoint, "sh");
  ASSERT_TRUE(usual) << usual.error().message;
  EXPECT_EQ(env_of(*usual, "HOME"), "/home/user");
  EXPECT_EQ(usual->files[0].path, "/home/user/c.json");
}

TEST(LaunchTest, finding_77_pi_is_refused_host_tools_by_name_and_version) {
  const auto pi = Registry("/nonexistent").find("pi");
  ASSERT_TRUE(pi) << pi.error().message;
  EXPECT_TRUE(check_host_tools(*pi, HostTools::kNone));
  const auto refused = check_host_tools(*pi, HostTools::kOffered);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(refused.error().message.find("pi 0.74.2 has no MCP"), 0u) << refused.error().message;
}

TEST(LaunchTest, AnAgentIsToldOfHostToolsWhereItsSpecSays) {
  const std::string mcp =
      "[mcp]\nfile = \"{home}/c.json\"\npointer = \"/mcp/gate\"\n"
      "value = '{\"type\": \"remote\", \"url\": \"{gate}/mcp\"}'\n";
  Plan plan = plan_for(std::string(kSpec) + mcp);
  const auto without = make_launch(plan, kEndpoint, "sh");
  EXPECT_EQ(without->files[0].content.find("mcp"), std::string::npos);
  plan.host_tools = HostTools::kOffered;
  const auto with = make_launch(plan, kEndpoint, "sh");
  ASSERT_TRUE(with) << with.error().message;
  EXPECT_NE(with->files[0].content.find(
                R"("mcp":{"gate":{"type":"remote","url":"http://127.0.0.1:81/rollout/r1/mcp"}})"),
            std::string::npos)
      << with->files[0].content;
  Plan none = plan_for(kSpec);
  none.host_tools = HostTools::kOffered;
  const auto refused = make_launch(none, kEndpoint, "sh");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
  EXPECT_NE(refused.error().message.find("has no MCP"), std::string::npos);
}

// The prompt is bytes on stdin: no shell, no quoting, no length limit, no leading dash.
TEST(LaunchTest, finding_16_finding_38_the_instruction_is_never_shell_text) {
  Plan plan = plan_for(kSpec);
  plan.instruction = "-x '; rm -rf / #\n$(cat /etc/passwd) `id` \"quoted\"";
  const auto launch = make_launch(plan, kEndpoint, "sh");
  ASSERT_TRUE(launch);
  EXPECT_EQ(launch->input, plan.instruction);
  for (const std::string& word : launch->argv) EXPECT_EQ(word.find("rm -rf"), std::string::npos);
}

// No real key is in the plan at all, and the placeholder is in no argument: neither of an agent of
// ours, whatever it is asked to do, nor of one that its user writes.
TEST(LaunchTest, finding_43_keys_are_not_in_arguments) {
  const Endpoint endpoint = {kEndpoint.url, "sk-test '$(leak)"};
  for (const auto& [name, text] : builtin_specs()) {
    Plan plan = plan_for(std::string(text));
    plan.approvals = Approvals::kBypass;
    for (const auto& [option, how] : plan.spec->options) {
      if (!how.args.empty()) plan.options[option] = how.values.empty() ? "x" : how.values.front();
    }
    bool given = false;
    for (const DialectSpec& dialect : plan.spec->dialects) {
      plan.dialect = dialect.dialect;
      const auto launch = make_launch(plan, endpoint, "sh");
      ASSERT_TRUE(launch) << launch.error().message;
      for (const std::string& word : launch->argv) {
        EXPECT_EQ(word.find("leak"), std::string::npos) << name << ": " << word;
      }
      for (const auto& [variable, value] : launch->env) given |= value == endpoint.key;
    }
    // Some agents want one, and have it where arguments are not.
    if (text.find("{key}") != std::string_view::npos) EXPECT_TRUE(given) << name;
  }
  const std::string spec(kSpec);
  for (const std::string_view argument : {"\"--model\"", "\"--flag={value}\""}) {
    std::string with_key = spec;
    with_key.insert(with_key.find(argument) + 1, "{key}");
    const auto refused = parse_spec(with_key, "test.toml");
    ASSERT_FALSE(refused) << argument;
    EXPECT_NE(refused.error().message.find("must not hold {key}"), std::string::npos)
        << refused.error().message;
  }
}

TEST(LaunchTest, finding_46_approvals_are_bypassed_only_when_asked) {
  Plan plan = plan_for(kSpec);
  EXPECT_EQ(make_launch(plan, kEndpoint, "sh")->argv.back(), "policy");
  plan.approvals = Approvals::kBypass;
  EXPECT_EQ(make_launch(plan, kEndpoint, "sh")->argv.back(), "--yes");
  // Nor do our agents' own words ask for it: what skips approvals is in none of them.
  for (const auto& [name, text] : builtin_specs()) {
    plan = plan_for(std::string(text));
    plan.dialect = plan.spec->dialects.front().dialect;
    const auto launch = make_launch(plan, kEndpoint, "sh");
    ASSERT_TRUE(launch) << launch.error().message;
    for (const std::string& word : launch->argv) {
      for (const std::string_view skips : {"dangerous", "bypass", "yolo", "skip-permissions"}) {
        EXPECT_EQ(word.find(skips), std::string::npos) << name << ": " << word;
      }
      EXPECT_EQ(std::ranges::count(plan.spec->approvals_bypass, word), 0) << name << ": " << word;
    }
  }
}

TEST(LaunchTest, OptionsChangeFilesArgumentsAndEnvironment) {
  Plan plan = plan_for(kSpec);
  plan.options = {{"system", "be \"terse\""}, {"steps", "7"}, {"flag", "on"}};
  const auto launch = make_launch(plan, kEndpoint, "sh");
  ASSERT_TRUE(launch) << launch.error().message;
  const auto file = json::parse(launch->files[0].content);
  ASSERT_TRUE(file);
  EXPECT_EQ(file->at("deep").at("er").at("prompt").as_string(), "be \"terse\"");
  EXPECT_EQ(file->at("steps").as_int64(), 7);
  EXPECT_EQ(launch->argv.back(), "--flag=on");
  EXPECT_EQ(env_of(*launch, "FLAG"), "on");

  plan.options = {{"steps", "seven"}};
  EXPECT_FALSE(make_launch(plan, kEndpoint, "sh"));
  plan.options = {{"stepz", "7"}};
  EXPECT_EQ(make_launch(plan, kEndpoint, "sh").error().message,
            "echo has no option \"stepz\"; known: flag, steps, system");
}

TEST(LaunchTest, OptionsAreCheckedBeforeThereIsASandbox) {
  Spec spec = *plan_for(kSpec).spec;
  const auto told = [&](std::map<std::string, std::string> options) {
    const auto fine = check_options(spec, options);
    return fine ? "fine" : fine.error().message;
  };
  EXPECT_EQ(told({{"steps", "7"}, {"flag", "any"}}), "fine");
  EXPECT_EQ(told({{"steps", "seven"}}),
            "echo's option \"steps\": its value must be JSON, is: seven");
  spec.options["flag"].values = {"on", "off"};
  EXPECT_EQ(told({{"flag", "on"}}), "fine");
  EXPECT_EQ(told({{"flag", "any"}}), "echo's option \"flag\" must be one of: on, off; is \"any\"");
  spec.options.clear();
  EXPECT_EQ(told({{"flag", "on"}}), "echo has no option \"flag\"; it has none");
}

// What help lists as all there is, is all that is taken.
TEST(LaunchTest, OptionsOfOurAgentsTakeWhatTheirHelpLists) {
  const auto fine = [](const std::string& agent, const std::string& name,
                       const std::string& value) {
    return check_options(*Registry("/nonexistent").find(agent), {{name, value}}).has_value();
  };
  EXPECT_TRUE(fine("pi", "thinking", "xhigh"));
  EXPECT_FALSE(fine("pi", "thinking", "yes"));
  EXPECT_TRUE(fine("codex", "reasoning_effort", "none"));
  EXPECT_FALSE(fine("codex", "reasoning_effort", "off"));
  EXPECT_TRUE(fine("claude_code", "disable_thinking", "0"));
  EXPECT_FALSE(fine("claude_code", "disable_thinking", "no"));
  EXPECT_FALSE(fine("claude_code", "bare", "0"));
}

TEST(LaunchTest, AnUnknownDialectIsRefusedByName) {
  Plan plan = plan_for(kSpec);
  plan.dialect = llm::Dialect::kGemini;
  const auto launch = make_launch(plan, kEndpoint, "sh");
  ASSERT_FALSE(launch);
  EXPECT_EQ(launch.error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(launch.error().message,
            "echo does not speak the dialect gemini; it speaks: chat, messages");
}

TEST(LaunchTest, AnInstructionAsAnArgumentHasTheKernelsLimit) {
  std::string spec = kSpec;
  spec.replace(spec.find("approvals_bypass"), 0, "prompt = \"argument\"\n");
  Plan plan = plan_for(spec);
  plan.instruction = std::string(131071, 'x');
  EXPECT_EQ(make_launch(plan, kEndpoint, "sh")->argv.back().size(), 131071u);
  plan.instruction += 'x';
  EXPECT_EQ(make_launch(plan, kEndpoint, "sh").error().code, ErrorCode::kTooLarge);
}

// Some agents take an argument that begins so for an option or a file.
TEST(LaunchTest, finding_74_what_may_not_lead_an_argument_goes_by_stdin) {
  std::string spec = kSpec;
  spec.replace(spec.find("approvals_bypass"), 0, "prompt = \"argument\"\nprompt_lead = \"-@\"\n");
  Plan plan = plan_for(spec);
  const auto parts = [&](std::string instruction) {
    plan.instruction = std::move(instruction);
    const auto launch = make_launch(plan, kEndpoint, "sh");
    EXPECT_TRUE(launch);
    std::string out = launch->input + "|";
    for (size_t i = 3; i < launch->argv.size(); ++i) out += launch->argv[i];
    return out;
  };
  EXPECT_EQ(parts("do it - now"), "|do it - now");
  EXPECT_EQ(parts("- one\n- two"), "-| one\n- two");
  EXPECT_EQ(parts("@-@file --x"), "@-@|file --x");
  EXPECT_EQ(parts("--"), "--|");
  plan.instruction = "";
  EXPECT_EQ(make_launch(plan, kEndpoint, "sh")->argv.size(), 4u);
}

// The file that OpenCode really reads names the gate; the original left the user's own URL in it.
TEST(LaunchTest, finding_17_opencodes_own_configuration_names_the_gate) {
  for (const auto& [name, text] : builtin_specs()) {
    Plan plan = plan_for(std::string(text));
    plan.model = "a/model \"x\"";
    plan.dialect = plan.spec->dialects.front().dialect;
    const auto launch = make_launch(plan, kEndpoint, "program");
    ASSERT_TRUE(launch) << launch.error().message;
    bool in_file = false, in_env = false;
    for (const Upload& file : launch->files)
      in_file |= file.content.find(kEndpoint.url) != std::string::npos;
    for (const auto& [key, value] : launch->env)
      in_env |= value.find(kEndpoint.url) != std::string::npos;
    EXPECT_TRUE(in_file || in_env) << name;
    // It reads no URL from its environment.
    if (name == "opencode") EXPECT_TRUE(in_file);
    for (const Upload& file : launch->files) {
      if (file.path.ends_with(".json")) EXPECT_TRUE(json::parse(file.content)) << file.path;
    }
  }
}

}  // namespace
}  // namespace sluice::agent
