#include "sluice/agent/spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/agent/registry.h"

namespace sluice::agent {
namespace {

constexpr char kMinimal[] = R"(
name = "echo"
version = "1.0"
[install]
commands = ["true"]
program = "sh"
[run]
command = ["{program}", "-c", "cat"]
[dialects.chat]
path = "/v1"
)";

std::string mistake(const std::string& text) {
  const auto spec = parse_spec(text, "my.toml");
  return spec ? "none" : spec.error().message;
}

std::string with(const std::string& replaced, const std::string& by) {
  std::string text = kMinimal;
  text.replace(text.find(replaced), replaced.size(), by);
  return text;
}

TEST(SpecTest, ReadsAMinimalSpec) {
  const auto spec = parse_spec(kMinimal, "my.toml");
  ASSERT_TRUE(spec) << spec.error().message;
  EXPECT_EQ(spec->title(), "echo 1.0");
  EXPECT_EQ(spec->command.size(), 3u);
  EXPECT_EQ(spec->prompt, PromptBy::kStdin);
  EXPECT_EQ(spec->dialects.at(0).dialect, llm::Dialect::kChat);
  EXPECT_FALSE(spec->bundle);
}

TEST(SpecTest, EveryBuiltInSpecIsValid) {
  ASSERT_FALSE(builtin_specs().empty());
  for (const auto& [name, text] : builtin_specs()) {
    const auto spec = parse_spec(text, std::string(name));
    ASSERT_TRUE(spec) << spec.error().message;
    EXPECT_EQ(spec->name, name);
    EXPECT_FALSE(spec->description.empty());
  }
}

TEST(SpecTest, KnowsWhatUsesAPlaceholder) {
  const auto uses_max = [](const std::string& text, std::map<std::string, std::string> options) {
    const auto spec = parse_spec(text, "my.toml");
    EXPECT_TRUE(spec) << spec.error().message;
    return uses(*spec, "max_output", options);
  };
  EXPECT_FALSE(uses_max(kMinimal, {}));
  EXPECT_TRUE(uses_max(with("-c\", \"cat", "-c\", \"{max_output}"), {}));
  EXPECT_TRUE(uses_max(with("[dialects", "env = { MAX = \"{max_output}\" }\n[dialects"), {}));
  EXPECT_TRUE(uses_max(
      with("[dialects", "[[files]]\npath = \"x\"\ncontent = \"{max_output}\"\n[dialects"), {}));
  // Braces that only look like it, a path, and what takes an option that is not given.
  EXPECT_FALSE(uses_max(with("-c\", \"cat", "-c\", \"{{max_output}"), {}));
  const std::string optional =
      with("[dialects", "[options.limit]\nargs = [\"{max_output}\"]\n[dialects");
  EXPECT_FALSE(uses_max(optional, {}));
  EXPECT_TRUE(uses_max(optional, {{"limit", "1"}}));
}

TEST(SpecTest, MistakesNameFileLineAndWhatToDo) {
  EXPECT_EQ(mistake(with("name = \"echo\"", "")), "my.toml:1: name: is required (a string)");
  EXPECT_EQ(mistake(with("name = \"echo\"", "name = \"a b\"")),
            "my.toml:2: name: must be 1 to 64 letters, digits, '.', '-' or '_'");
  EXPECT_EQ(mistake(with("version", "nmae = 1\nversion")).substr(0, 22), "my.toml:3: nmae: unkno");
  EXPECT_EQ(mistake(with("{program}\", \"-c", "{porgram}\", \"-c")).substr(0, 70),
            "my.toml:8: run.command: uses the unknown placeholder {porgram}; known:");
  EXPECT_EQ(mistake(with("[dialects.chat]", "[dialects.chats]")),
            "my.toml:9: dialects.chats: unknown dialect; known: chat, responses, messages, gemini");
  EXPECT_EQ(mistake(with("command = [\"{program}\", \"-c\", \"cat\"]", "command = \"cat\"")),
            "my.toml:8: run.command: must be an array of strings, is a string");
  EXPECT_EQ(mistake("name = \n"), mistake("name = \n"));
  EXPECT_NE(mistake("name = \n").find("my.toml:1"), std::string::npos);
}

TEST(SpecTest, finding_22_a_switch_is_a_switch_and_may_be_absent) {
  const std::string purpose = "[[gate.purposes]]\npurpose = \"title\"\nsystem_contains = \"t\"\n";
  EXPECT_EQ(mistake(kMinimal + purpose), "none");
  EXPECT_EQ(mistake(kMinimal + purpose + "has_tools = false\n"), "none");
  for (const char* wrong : {"0", "\"false\"", "[]", "{}"}) {
    EXPECT_THAT(mistake(kMinimal + purpose + "has_tools = " + wrong + "\n"),
                ::testing::HasSubstr("has_tools: must be true or false"))
        << wrong;
  }
}

TEST(SpecTest, BundlesMustBePinned) {
  auto bundle = [](const std::string& package) {
    return with("[install]\ncommands = [\"true\"]\nprogram = \"sh\"",
                "[bundle]\nnpm = [\"" + package + "\"]\nprogram = \"{bundle}/x\"");
  };
  EXPECT_EQ(mistake(bundle("some-agent@{version}")), "none");
  EXPECT_EQ(mistake(bundle("@scope/agent@1.2.3")), "none");
  for (const char* loose :
       {"some-agent", "@scope/agent", "agent@", "--registry=x@1", "agent@latest", "agent@^1.2.3",
        "agent@>=1", "agent@1.x", "agent@1 - 2"}) {
    EXPECT_NE(mistake(bundle(loose)).find("must be pinned"), std::string::npos) << loose;
  }
}

TEST(SpecTest, AnAgentIsHadByABundleByInstallingItOrIsThereAlready) {
  const auto had = [](const std::string& by) {
    return with("[install]\ncommands = [\"true\"]\nprogram = \"sh\"", by);
  };
  const std::string program = "program = \"{bundle}/x\"";
  EXPECT_EQ(mistake(had("[bundle]\n" + program + "\nfiles = { x = \"#!/bin/sh\" }")), "none");
  EXPECT_EQ(
      mistake(had("[bundle]\n" + program)),
      "my.toml:4: bundle.npm: is required: the npm packages to install; or files, for programs "
      "of your own");
  EXPECT_EQ(mistake(had("[install]\nprogram = \"sh\"")), "none");
  EXPECT_EQ(mistake(had("[install]\ncommands = []\nprogram = \"sh\"")), "none");
  EXPECT_EQ(mistake(had("")),
            "my.toml:6: run.command: uses {program}, and neither [bundle] nor [install] says what "
            "that is");
  std::string neither = had("");
  neither.replace(neither.find("{program}"), 9, "sh");
  EXPECT_EQ(mistake(neither), "none");
}

TEST(SpecTest, ItsDigestIsOfItsText) {
  const std::string text = kMinimal;
  EXPECT_EQ(parse_spec(text, "a")->digest, parse_spec(text, "b")->digest);
  EXPECT_NE(parse_spec(text, "a")->digest, parse_spec(text + "#", "a")->digest);
}

TEST(SpecTest, OptionsMustPointAtAFileOfTheSpec) {
  const std::string option = "[options.system]\nfile = \"{home}/c.json\"\npointer = \"/a\"\n";
  EXPECT_NE(mistake(std::string(kMinimal) + option).find("is the path of none of the [[files]]"),
            std::string::npos);
  EXPECT_EQ(mistake(std::string(kMinimal) + option +
                    "[[files]]\npath = \"{home}/c.json\"\ncontent = \"{}\"\n"),
            "none");
}

TEST(SpecTest, PurposesAndEventsAreChecked) {
  EXPECT_NE(mistake(std::string(kMinimal) + "[[gate.purposes]]\npurpose = \"titel\"\n")
                .find("must be one of: main, title, summary, subagent, probe"),
            std::string::npos);
  EXPECT_NE(mistake(std::string(kMinimal) + "[[events]]\nkind = \"text\"\n").find("match"),
            std::string::npos);
  EXPECT_NE(
      mistake(std::string(kMinimal) + "[[events]]\nkind = \"txt\"\nmatch = { \"/type\" = \"a\" }\n")
          .find("must be one of: text, reasoning, tool, step, error, done"),
      std::string::npos);
}

}  // namespace
}  // namespace sluice::agent
