#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/gate/script_policy.h"
#include "sluice/gate/testing.h"

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

std::shared_ptr<llm::Call> call(std::string_view messages, std::string_view more = "") {
  auto out = std::make_shared<llm::Call>();
  out->model = "policy";
  out->body = llm::Body(std::make_shared<const Bytes>("{\"model\":\"policy\",\"messages\":[" +
                                                      std::string(messages) + "]" +
                                                      std::string(more) + "}"));
  return out;
}

constexpr std::string_view kTask = R"({"role":"system","content":"s"},)"
                                   R"({"role":"user","content":"Write primes.sh for N=5"})";
const std::string kAfterWrite =
    std::string(kTask) +
    R"(,{"role":"assistant","content":"","tool_calls":[{"id":"c1","function":{"name":"write","arguments":"{}"}}]},)"
    R"({"role":"tool","tool_call_id":"c1","content":"Wrote file to /home/user/primes.sh"})";

Script script(std::string_view text) {
  auto parsed = Script::parse(text, "rules.toml");
  if (!parsed) throw std::runtime_error(parsed.error().message);
  return std::move(*parsed);
}

std::string mistake(std::string_view text) {
  auto parsed = Script::parse(text, "rules.toml");
  return parsed ? "" : parsed.error().message;
}

llm::Choice answer(const Script& rules, const std::shared_ptr<llm::Call>& to) {
  const Script::Verdict verdict = rules.judge(*to);
  const auto* given = std::get_if<llm::Answer>(&verdict.reply);
  EXPECT_NE(given, nullptr);
  return given == nullptr ? llm::Choice() : given->choices.at(0);
}

std::string text(const Script& rules, const std::shared_ptr<llm::Call>& to) {
  return answer(rules, to).message.text;
}

constexpr std::string_view kThreeTurns = R"(
[[rules]]
when.turn = 1
text = "I will write it."
usage = { prompt_tokens = 100, completion_tokens = 20 }
[[rules.tool_calls]]
name = "write"
arguments = { filePath = "primes.sh", content = """
echo 2
echo 3
""" }

[[rules]]
when = { after_tool = "write", last_matches = 'Wrote file to (\S+)' }
[[rules.tool_calls]]
name = "bash"
arguments = { command = "sh {{match.1}} 5", n = 3, list = ["{{model}}"] }

[[rules]]
text = "Done: {{last}}"
)";

TEST(ScriptTest, AnswersByTurnAndByToolResult) {
  const Script rules = script(kThreeTurns);
  const llm::Choice first = answer(rules, call(kTask));
  EXPECT_EQ(first.message.text, "I will write it.");
  ASSERT_EQ(first.message.tool_calls.size(), 1u);
  EXPECT_EQ(first.message.tool_calls[0].name, "write");
  EXPECT_EQ(first.message.tool_calls[0].arguments,
            R"({"content":"echo 2\necho 3\n","filePath":"primes.sh"})");

  const llm::Choice second = answer(rules, call(kAfterWrite));
  EXPECT_EQ(second.message.tool_calls.at(0).arguments,
            R"({"command":"sh /home/user/primes.sh 5","list":["policy"],"n":3})");

  EXPECT_EQ(text(rules, call(kAfterWrite + R"(,{"role":"assistant","content":"x"},)"
                                           R"({"role":"user","content":"ok \"so\""})")),
            "Done: ok \"so\"");
}

TEST(ScriptTest, UsageAndOriginAreTold) {
  const Script rules = script(kThreeTurns);
  const auto verdict = rules.judge(*call(kTask));
  const auto& given = std::get<llm::Answer>(verdict.reply);
  EXPECT_EQ(given.usage, (llm::Usage{100, 20}));
  EXPECT_EQ(given.origin, llm::Origin::kCanned);
}

TEST(ScriptTest, EveryConditionNarrows) {
  const auto matches = [](std::string_view when, const std::shared_ptr<llm::Call>& to) {
    const Script rules = script("[[rules]]\n" + std::string(when) + "\ntext = \"yes\"\n");
    return std::holds_alternative<llm::Answer>(rules.judge(*to).reply);
  };
  const auto after = call(kAfterWrite, R"(,"tools":[{"function":{"name":"bash"}}])");
  const auto title = call(kTask);
  title->purpose = llm::Purpose::kTitle;
  EXPECT_TRUE(matches("when.turn = 2", after));
  EXPECT_FALSE(matches("when.turn = 1", after));
  EXPECT_TRUE(matches("when.purpose = 'title'", title));
  EXPECT_FALSE(matches("when.purpose = 'title'", after));
  EXPECT_TRUE(matches("when.has_tools = true", after));
  EXPECT_FALSE(matches("when.has_tools = true", title));
  EXPECT_TRUE(matches("when.offers_tool = 'bash'", after));
  EXPECT_FALSE(matches("when.offers_tool = 'edit'", after));
  EXPECT_TRUE(matches("when.last_role = 'tool'", after));
  EXPECT_FALSE(matches("when.last_role = 'tool'", title));
  EXPECT_TRUE(matches("when.after_tool = 'write'", after));
  EXPECT_FALSE(matches("when.after_tool = 'bash'", after));
  EXPECT_TRUE(matches("when.last_contains = 'Wrote'", after));
  EXPECT_FALSE(matches("when.last_contains = 'wrote'", after));
  EXPECT_TRUE(matches("when.task_contains = 'primes.sh'", after));
  EXPECT_FALSE(matches("when.task_contains = 'Wrote'", after));
  EXPECT_TRUE(matches("when.last_matches = '^Wrote'", after));
  EXPECT_FALSE(matches("when.last_matches = 'Wrote$'", after));
  EXPECT_FALSE(matches("when = { turn = 2, last_role = 'user' }", after));
}

TEST(ScriptTest, UnknownPlaceholdersStayAsTheyAre) {
  const Script rules = script(R"([[rules]]
text = "{{ x }} {{task}} {{match.0}} {{unknown}} {{"
)");
  EXPECT_EQ(text(rules, call(kTask)), "{{ x }} Write primes.sh for N=5  {{unknown}} {{");
}

TEST(ScriptTest, MalformedArgumentsCanBeSent) {
  const Script rules = script(R"([[rules]]
[[rules.tool_calls]]
id = "call_x"
name = "write"
arguments_text = '{"filePath": '
)");
  const llm::Choice choice = answer(rules, call(kTask));
  EXPECT_EQ(choice.message.tool_calls.at(0).arguments, "{\"filePath\": ");
  EXPECT_EQ(choice.message.tool_calls.at(0).id, "call_x");
}

TEST(ScriptTest, RefusesByRuleAndWhenNoRuleMatches) {
  const Script rules = script(R"([[rules]]
when.turn = 1
refuse = "not today"
[[rules]]
when.turn = 2
refuse = "later"
retryable = true
[[rules]]
when.turn = 9
text = ""
)");
  const auto refusal = [&](const std::shared_ptr<llm::Call>& to) {
    return std::get<llm::Refusal>(rules.judge(*to).reply);
  };
  EXPECT_EQ(refusal(call(kTask)).message, "not today");
  EXPECT_TRUE(refusal(call(kTask)).end_agent);
  EXPECT_FALSE(refusal(call(kAfterWrite)).end_agent);
  EXPECT_EQ(refusal(call(std::string(kTask) + R"(,{"role":"assistant","content":"a"})"
                                              R"(,{"role":"assistant","content":"b"})"))
                .message,
            "no rule of rules.toml matches turn 3 (purpose main, last message from assistant); "
            "add one");
}

TEST(ScriptTest, ABodyThatCannotBeReadIsRefused) {
  const Script rules = script("[[rules]]\ntext = \"x\"\n");
  const auto verdict = rules.judge(*call(R"({"role":"robot"})"));
  EXPECT_THAT(std::get<llm::Refusal>(verdict.reply).message, HasSubstr("no such role"));
}

TEST(ScriptTest, APatternThatTakesTooLongDoesNotMatch) {
  const Script rules = script(R"([[rules]]
when.last_matches = '(a+)+(b+)+(a+)+$'
text = "x"
)");
  const auto verdict =
      rules.judge(*call(R"({"role":"user","content":")" + std::string(5000, 'a') + R"(!"})"));
  EXPECT_TRUE(std::holds_alternative<llm::Refusal>(verdict.reply));
}

TEST(ScriptTest, MistakesNameTheirLine) {
  EXPECT_THAT(mistake(""), HasSubstr("at least one [[rules]] is required"));
  EXPECT_THAT(mistake("[[rules]]\n"), HasSubstr("rules.toml:1: rules[0].text: a rule needs text"));
  EXPECT_THAT(mistake("[[rules]]\ntext = 1\n"), HasSubstr("rules.toml:2: rules[0].text: must be"));
  EXPECT_THAT(mistake("[[rules]]\ntext = ''\nwhen.turns = 1\n"),
              HasSubstr("rules.toml:3: rules[0].when.turns: unknown key; known here: "));
  EXPECT_THAT(mistake("[[rules]]\ntext = ''\nwhen.turn = 0\n"), HasSubstr("rules.toml:3"));
  EXPECT_THAT(mistake("[[rules]]\ntext = ''\nwhen.purpose = 'x'\n"), HasSubstr("one of: main"));
  EXPECT_THAT(mistake("[[rules]]\ntext = ''\nwhen.last_matches = '('\n"),
              HasSubstr("is no regular expression"));
  EXPECT_THAT(mistake("[[rules]]\ntext = ''\nrefuse = ''\n"), HasSubstr("answers or refuses"));
  EXPECT_THAT(mistake("[[rules]]\n[[rules.tool_calls]]\narguments = {}\n"),
              HasSubstr("tool_calls[0].name: is required"));
  EXPECT_THAT(mistake("[[rules]]\n[[rules.tool_calls]]\nname = 'x'\narguments = '{}'\n"),
              HasSubstr("must be a table"));
  EXPECT_THAT(
      mistake("[[rules]]\n[[rules.tool_calls]]\nname = 'x'\narguments = {}\narguments_text = ''\n"),
      HasSubstr("give one"));
  EXPECT_THAT(mistake("[[rules]\n"), HasSubstr("rules.toml:1"));
  EXPECT_EQ(Script::load("/nonexistent/rules.toml").error().code, ErrorCode::kNotFound);
}

// A Reply that keeps what it was given.
struct Heard {
  std::optional<llm::Answer> answered;
  std::optional<llm::Refusal> refused;
  bool lost = false;
  void give(Reply::Given given) {
    if (auto* answer = std::get_if<llm::Answer>(&given)) answered = std::move(*answer);
    if (auto* refusal = std::get_if<llm::Refusal>(&given)) refused = std::move(*refusal);
    lost = std::holds_alternative<Reply::Dropped>(given);
  }
};

Reply reply_to(const std::shared_ptr<Heard>& heard) {
  return Reply([heard](Reply::Given given) { heard->give(std::move(given)); });
}

TEST(ScriptPolicyTest, AnswersAtOnceOrAfterItsDelay) {
  net::Shard shard;
  ScriptPolicy policy(script(R"([[rules]]
when.turn = 1
text = "now"
[[rules]]
text = "later"
delay_s = 0.02
)"),
                      shard);
  auto now = std::make_shared<Heard>();
  policy.submit(call(kTask), reply_to(now));
  ASSERT_TRUE(now->answered);
  EXPECT_EQ(now->answered->choices[0].message.text, "now");

  auto later = std::make_shared<Heard>();
  policy.submit(call(kAfterWrite), reply_to(later));
  EXPECT_FALSE(later->answered);
  testing::run_until(shard, [&] { return later->answered.has_value(); });
  EXPECT_EQ(later->answered->choices[0].message.text, "later");
}

TEST(ScriptPolicyTest, WhatIsStillDelayedWhenItGoesIsGivenUp) {
  net::Shard shard;
  auto heard = std::make_shared<Heard>();
  {
    ScriptPolicy policy(script("[[rules]]\ntext = \"x\"\ndelay_s = 3600\n"), shard);
    policy.submit(call(kTask), reply_to(heard));
  }
  EXPECT_TRUE(heard->lost);
  EXPECT_EQ(shard.wheel().armed(), 0u);
}

}  // namespace
}  // namespace sluice::gate
