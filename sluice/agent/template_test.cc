#include "sluice/agent/template.h"

#include <gtest/gtest.h>

namespace sluice::agent {
namespace {

const TemplateValues kValues = {{"gate", "http://127.0.0.1:80/rollout/r1"}, {"model", "a \"b\"\n"}};

std::string expanded(std::string_view text) {
  auto result = expand(text, kValues);
  return result ? *result : "error: " + result.error().message;
}

TEST(TemplateTest, ReplacesNamesAndLeavesJsonAlone) {
  EXPECT_EQ(expanded("{gate}/v1"), "http://127.0.0.1:80/rollout/r1/v1");
  EXPECT_EQ(expanded(R"({"a": {"b": "{env:KEY}"}, "c": {}})"),
            R"({"a": {"b": "{env:KEY}"}, "c": {}})");
  EXPECT_EQ(expanded("{{gate}} {"), "{gate}} {");
}

TEST(TemplateTest, TheJsonFilterEscapes) {
  EXPECT_EQ(expanded(R"({"model": "{model|json}"})"), R"({"model": "a \"b\"\n"})");
}

TEST(TemplateTest, MistakesNameWhatIsKnown) {
  EXPECT_EQ(expanded("{gtae}"), "error: unknown placeholder {gtae}; known here: gate, model");
  EXPECT_EQ(expanded("{gate|xml}"), "error: unknown filter in {gate|xml}; known: json");
}

TEST(TemplateTest, ValuesAreNotExpandedAgain) {
  const TemplateValues values = {{"prompt", "{gate} {secret}"}};
  EXPECT_EQ(*expand("{prompt}", values), "{gate} {secret}");
}

TEST(TemplateTest, ListsTheNamesItUses) {
  EXPECT_EQ(names_in(R"({a} {"x": "{b|json}"} {{c}})"), (std::set<std::string>{"a", "b"}));
}

}  // namespace
}  // namespace sluice::agent
