// What each call goes on from, and whether its agent rewrote what was said before.
#include "sluice/gate/lineage.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/gate/testing.h"
#include "sluice/json/value.h"

namespace sluice::gate {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using How = llm::Continuation::How;

// Long enough for what two bodies have in common to be worth telling.
const std::string kLong(2000, 'x');

std::string system(std::string_view text = "You are an agent.") {
  return fmt::format(R"({{"role":"system","content":"{}"}})", text);
}
std::string user(std::string_view text) {
  return fmt::format(R"({{"role":"user","content":"{}"}})", text);
}
std::string said(std::string_view text) {
  return fmt::format(R"({{"role":"assistant","content":"{}"}})", text);
}
std::string called(std::string_view arguments) {
  return R"({"role":"assistant","content":"","tool_calls":[{"id":"c1","type":"function",)"
         R"("function":{"name":"bash","arguments":")" +
         std::string(arguments) + "\"}}]}";
}

class LineageTest : public testing::GateFixture {
 protected:
  void SetUp() override { registration_.session_headers = {"x-session-id", "x-parent-id"}; }

  static std::string request(std::initializer_list<std::string> messages,
                             std::string_view more = "") {
    std::string list;
    for (const std::string& message : messages) list += (list.empty() ? "" : ",") + message;
    return fmt::format(R"({{"model":"m","messages":[{}]{}}})", list, more);
  }

  // One call of an agent's, answered.
  std::shared_ptr<const llm::Call> ask(const std::string& body, llm::Answer answer,
                                       std::string_view headers = "") {
    auto agent = this->agent();
    agent.post(kPath, body, headers);
    const auto call = next_call();
    gate_->for_trainer.reply(call->id, std::move(answer));
    EXPECT_EQ(agent.response().status, 200);
    testing::settle(shard_);
    return call;
  }
  std::shared_ptr<const llm::Call> ask(const std::string& body, std::string answer,
                                       std::string_view headers = "") {
    return ask(body, llm::text_answer(std::move(answer), llm::Origin::kSampled), headers);
  }
  static llm::Answer calling(std::string arguments) {
    llm::Answer out = llm::text_answer("", llm::Origin::kSampled);
    out.choices[0].message.tool_calls = {{"c1", "bash", std::move(arguments)}};
    return out;
  }

  // "exact", "rewritten 2", of the parent; "none" without one.
  static std::string how(const llm::Call& call, const llm::Call* parent) {
    if (!call.parent) return "none";
    if (parent != nullptr) EXPECT_EQ(call.parent->id().value, parent->id.value);
    const auto how = call.parent->find_out(call);
    if (!how) return "unknown";
    const std::string word(to_string(how->how));
    return how->how == How::kRewritten ? fmt::format("{} {}", word, how->from) : word;
  }
  // What the trace says of such.
  std::vector<std::string> events(std::string_view kind) {
    net::testing::run(shard_, gate_->for_operator.settled(id_));
    std::vector<std::string> out;
    for (const auto& entry : recorder_.entries()) {
      if (entry.kind == "event:" + std::string(kind)) out.push_back(entry.detail);
    }
    return out;
  }
};

TEST_F(LineageTest, ACallSaysItsParentWhichIsTheAnswerHeldLatest) {
  open();
  const auto first = ask(request({system(), user(kLong)}), "one");
  EXPECT_EQ(how(*first, nullptr), "none");
  const auto second = ask(request({system(), user(kLong), said("one"), user("more")}), "two");
  // Told by its arrival alone, as its history is byte for byte what it was.
  ASSERT_TRUE(second->parent);
  EXPECT_EQ(second->parent->how()->how, How::kExact);
  EXPECT_EQ(how(*second, first.get()), "exact");
  const auto third = ask(
      request({system(), user(kLong), said("one"), user("more"), said("two"), user("and more")}),
      "three");
  EXPECT_EQ(how(*third, second.get()), "exact");
  EXPECT_THAT(events("repaired"), IsEmpty());
  EXPECT_THAT(events("rewritten"), IsEmpty());
  EXPECT_EQ(counters().rewrites, 0u);
}

TEST_F(LineageTest, BranchesHaveTheirCommonParent) {
  open();
  const auto first = ask(request({system(), user(kLong)}), "one");
  for (const char* branch : {"left", "right", "middle"}) {
    const auto call = ask(request({system(), user(kLong), said("one"), user(branch)}), branch);
    EXPECT_EQ(how(*call, first.get()), "exact") << branch;
  }
  EXPECT_EQ(recorder_.count("confirmed"), 1u);
  EXPECT_EQ(counters().rewrites, 0u);
}

TEST_F(LineageTest, AParentMayBeOfAnotherSession) {
  open();
  const auto first = ask(request({system(), user(kLong)}), "one", "x-session-id: a\r\n");
  const auto other = ask(request({system("Another."), user("x")}), "two", "x-session-id: b\r\n");
  const auto forked = ask(request({system(), user(kLong), said("one"), user("more")}), "three",
                          "x-session-id: c\r\n");
  EXPECT_EQ(how(*other, nullptr), "none");
  EXPECT_EQ(how(*forked, first.get()), "exact");
  // In its own session the answer that stands later counts.
  const auto next =
      ask(request({system(), user(kLong), said("one"), user("more"), said("three"), user("again")}),
          "four", "x-session-id: c\r\n");
  EXPECT_EQ(how(*next, forked.get()), "exact");
}

TEST_F(LineageTest, ArgumentsThatWereSerialisedAgainAreARepair) {
  open();
  const auto first = ask(request({system(), user(kLong)}), calling(R"({"a": 1})"));
  const auto second = ask(request({system(), user(kLong), called(R"({\"a\":1})")}), "done");
  EXPECT_EQ(second->parent->how()->how, How::kRepaired);  // told by its arrival
  EXPECT_THAT(events("repaired"), ElementsAre(fmt::format(R"({{"call":"{}","parent":"{}"}})",
                                                          second->id.value, first->id.value)));
  EXPECT_EQ(counters().rewrites, 0u);
}

TEST_F(LineageTest, ARewrittenHistorySaysFromWhichMessageOn) {
  open();
  const auto first = ask(request({system(), user(kLong), user("b")}), "one");
  const auto second =
      ask(request({system(), user(kLong), user("B"), said("one"), user("more")}), "two");
  ASSERT_TRUE(second->parent);
  EXPECT_THAT(events("rewritten"),
              ElementsAre(fmt::format(R"({{"call":"{}","parent":"{}","from":2}})", second->id.value,
                                      first->id.value)));
  EXPECT_EQ(how(*second, first.get()), "rewritten 2");
  EXPECT_EQ(counters().rewrites, 1u);
  EXPECT_EQ(gate_->for_trainer.totals().rewrites, 1u);
}

TEST_F(LineageTest, AHistoryThatWasSummedUpIsRewrittenThoughItHoldsNoAnswer) {
  open();
  const std::string tools = R"(,"tools":[{"type":"function","function":{"name":"x"}}])";
  ask(request({system(), user(kLong)}, tools), "one");
  const auto second =
      ask(request({system(), user(kLong), said("one"), user("more")}, tools), "two");
  // To sum up it asks without its tools: that is no part of the trajectory.
  const auto summary =
      ask(request({system(), user(kLong), said("one"), user("more"), said("two"), user("Sum up.")}),
          "the sum");
  EXPECT_EQ(summary->purpose, llm::Purpose::kSummary);
  EXPECT_EQ(how(*summary, second.get()), "exact");
  EXPECT_EQ(counters().rewrites, 0u);
  const auto compacted = ask(request({system(), user("So far: the sum")}, tools), "three");
  EXPECT_EQ(compacted->purpose, llm::Purpose::kMain);
  EXPECT_EQ(how(*compacted, nullptr), "none");
  EXPECT_THAT(events("rewritten"),
              ElementsAre(fmt::format(R"({{"call":"{}","from":1}})", compacted->id.value)));
  EXPECT_EQ(counters().rewrites, 1u);
  // It goes on from there.
  const auto next =
      ask(request({system(), user("So far: the sum"), said("three"), user("well")}, tools), "four");
  EXPECT_EQ(how(*next, compacted.get()), "exact");
  net::testing::run(shard_, gate_->for_operator.settled(id_));
  EXPECT_EQ(counters().rewrites, 1u);
}

TEST_F(LineageTest, AnAnswerThatWasWrittenOverIsARewriting) {
  open();
  ask(request({system(), user(kLong)}), "one");
  ask(request({system(), user(kLong), said("never said"), user("more")}), "two");
  EXPECT_THAT(events("rewritten"), ElementsAre(HasSubstr(R"("from":2)")));
}

TEST_F(LineageTest, OtherConversationsAreNoRewriting) {
  open();
  ask(request({system(), user(kLong)}), "one");
  ask(request({system("Another."), user("x")}), "two");                        // another agent's
  ask(request({system(), user("y")}), "three", "x-parent-id: sub\r\n");        // of a sub-agent
  ask(request({system(), user("z")}), "four", "x-session-id: elsewhere\r\n");  // of a session
  ask(request({system(), user(kLong)}, R"(,"max_tokens":9)"), "one");          // the same again
  EXPECT_THAT(events("rewritten"), IsEmpty());
  EXPECT_EQ(counters().rewrites, 0u);
}

TEST_F(LineageTest, WhereNobodyKnowsTheAnswersTheHistoryStillTells) {
  registration_.policy = std::make_shared<testing::FunctionPolicy>(
      [](const std::shared_ptr<const llm::Call>&, Reply reply) {
        reply.relay(std::make_unique<testing::FakeRelay>(
            200, std::vector<Result<Bytes>>{Bytes("data: {}\n\n")}));
      });
  open();
  const auto pass = [&](const std::string& body) {
    auto agent = this->agent();
    agent.post(kPath, body);
    EXPECT_EQ(agent.response().status, 200);
    testing::settle(shard_);
  };
  pass(request({system(), user(kLong)}));
  pass(request({system(), user(kLong), said("whatever"), user("more")}));
  EXPECT_THAT(events("rewritten"), IsEmpty());
  pass(request({system(), user("summed up")}));
  EXPECT_THAT(events("rewritten"), ElementsAre(HasSubstr(R"("from":1)")));
  EXPECT_EQ(counters().rewrites, 1u);
}

TEST_F(LineageTest, CallsWithoutToolsAreSummariesOnlyOfAgentsThatOfferSome) {
  PurposeRule rule;
  rule.purpose = llm::Purpose::kTitle;
  rule.has_tools = false;
  rule.system_contains = "title";
  registration_.purposes = {rule};
  open();
  const std::string tools = R"(,"tools":[{"type":"function","function":{"name":"x"}}])";
  EXPECT_EQ(ask(request({user("a")}), "x")->purpose, llm::Purpose::kMain);
  EXPECT_EQ(ask(request({user("b")}, tools), "x")->purpose, llm::Purpose::kMain);
  EXPECT_EQ(ask(request({user("c")}), "x")->purpose, llm::Purpose::kSummary);
  EXPECT_EQ(ask(request({user("d")}, R"(,"tools":[])"), "x")->purpose, llm::Purpose::kSummary);
  EXPECT_EQ(ask(request({system("a title"), user("e")}), "x")->purpose, llm::Purpose::kTitle);
}

TEST_F(LineageTest, ARuleOfTheRegistrationGoesBeforeThat) {
  PurposeRule rule;
  rule.purpose = llm::Purpose::kMain;
  rule.has_tools = false;
  registration_.purposes = {rule};
  open();
  const std::string tools = R"(,"tools":[{"type":"function","function":{"name":"x"}}])";
  ask(request({user("b")}, tools), "x");
  EXPECT_EQ(ask(request({user("c")}), "x")->purpose, llm::Purpose::kMain);
}

TEST_F(LineageTest, OldBodiesAreHeldForALittleWhileOnly) {
  AgentSession session;
  std::vector<std::weak_ptr<const Bytes>> bodies;
  for (uint64_t i = 1; i <= 20; ++i) {
    auto bytes = std::make_shared<const Bytes>("{}");
    bodies.push_back(bytes);
    PastCall past;
    auto call = std::make_shared<llm::Call>();
    call->ordinal = i;
    past.call = std::move(call);
    past.body = llm::Body(std::move(bytes));
    session.remember(std::move(past));
  }
  const auto held =
      std::count_if(bodies.begin(), bodies.end(), [](const auto& body) { return !body.expired(); });
  EXPECT_EQ(held, 4);
  EXPECT_FALSE(bodies.back().expired());
}

}  // namespace
}  // namespace sluice::gate
