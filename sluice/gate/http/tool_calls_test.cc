// What agents of each dialect get of an answer's tool calls, what is matched with what they send
// back, and what a trainer is given of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "sluice/gate/testing.h"

namespace sluice::gate {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// One answer as an agent sends it back, with the results of its calls.
struct Turn {
  std::string text;
  std::vector<std::string> calls;  // their ids
};

std::string joined(const std::vector<std::string>& parts) {
  std::string out;
  for (const std::string& part : parts) out.append(out.empty() ? "" : ",").append(part);
  return out;
}

std::string chat(const std::vector<Turn>& turns) {
  std::vector<std::string> messages{R"({"role":"user","content":"go"})"};
  for (const Turn& turn : turns) {
    std::vector<std::string> calls;
    for (const std::string& id : turn.calls) {
      calls.push_back(R"({"id":")" + id +
                      R"(","type":"function","function":{"name":"bash","arguments":"{}"}})");
    }
    const std::string list = calls.empty() ? "" : R"(,"tool_calls":[)" + joined(calls) + "]";
    messages.push_back(R"({"role":"assistant","content":")" + turn.text + "\"" + list + "}");
    for (const std::string& id : turn.calls) {
      messages.push_back(R"({"role":"tool","tool_call_id":")" + id + R"(","content":"done"})");
    }
  }
  return R"({"model":"m","max_tokens":7,"messages":[)" + joined(messages) + "]}";
}

std::string responses(const std::vector<Turn>& turns) {
  std::vector<std::string> items{R"({"type":"message","role":"user","content":"go"})"};
  for (const Turn& turn : turns) {
    items.push_back(
        R"({"type":"message","role":"assistant","content":[{"type":"output_text","text":")" +
        turn.text + "\"}]}");
    for (const std::string& id : turn.calls) {
      items.push_back(R"({"type":"function_call","call_id":")" + id +
                      R"(","name":"bash","arguments":"{}"})");
    }
    for (const std::string& id : turn.calls) {
      items.push_back(R"({"type":"function_call_output","call_id":")" + id +
                      R"(","output":"done"})");
    }
  }
  return R"({"model":"m","max_output_tokens":7,"input":[)" + joined(items) + "]}";
}

std::string messages(const std::vector<Turn>& turns) {
  std::vector<std::string> list{R"({"role":"user","content":"go"})"};
  for (const Turn& turn : turns) {
    std::vector<std::string> said{R"({"type":"text","text":")" + turn.text + "\"}"}, results;
    for (const std::string& id : turn.calls) {
      said.push_back(R"({"type":"tool_use","id":")" + id + R"(","name":"bash","input":{}})");
      results.push_back(R"({"type":"tool_result","tool_use_id":")" + id + R"(","content":"done"})");
    }
    if (results.empty()) results.push_back(R"({"type":"text","text":"on"})");
    list.push_back(R"({"role":"assistant","content":[)" + joined(said) + "]}");
    list.push_back(R"({"role":"user","content":[)" + joined(results) + "]}");
  }
  return R"({"model":"m","max_tokens":7,"messages":[)" + joined(list) + "]}";
}

std::string gemini(const std::vector<Turn>& turns) {
  std::vector<std::string> contents{R"({"role":"user","parts":[{"text":"go"}]})"};
  for (const Turn& turn : turns) {
    std::vector<std::string> said{R"({"text":")" + turn.text + "\"}"}, results;
    for (const std::string& id : turn.calls) {
      said.push_back(R"({"functionCall":{"id":")" + id + R"(","name":"bash","args":{}}})");
      results.push_back(R"({"functionResponse":{"id":")" + id +
                        R"(","name":"bash","response":{"output":"done"}}})");
    }
    if (results.empty()) results.push_back(R"({"text":"on"})");
    contents.push_back(R"({"role":"model","parts":[)" + joined(said) + "]}");
    contents.push_back(R"({"role":"user","parts":[)" + joined(results) + "]}");
  }
  return R"({"contents":[)" + joined(contents) + R"(],"generationConfig":{"maxOutputTokens":7}})";
}

struct Way {
  llm::Dialect dialect;
  std::string_view plain, streamed;  // paths
  // A request behind these turns.
  std::string (*body)(const std::vector<Turn>& turns);
  std::string_view cut;   // what says in an answer that it was
  std::string_view done;  // and that nothing more is to come
};

constexpr std::array kWays{
    Way{llm::Dialect::kChat, "/v1/chat/completions", "/v1/chat/completions", chat,
        R"("finish_reason":"length")", R"("finish_reason":"stop")"},
    Way{llm::Dialect::kResponses, "/v1/responses", "/v1/responses", responses,
        R"("reason":"max_output_tokens")", R"("status":"completed")"},
    Way{llm::Dialect::kMessages, "/v1/messages", "/v1/messages", messages,
        R"("stop_reason":"max_tokens")", R"("stop_reason":"end_turn")"},
    Way{llm::Dialect::kGemini, "/v1beta/models/m:generateContent",
        "/v1beta/models/m:streamGenerateContent?alt=sse", gemini, R"("finishReason":"MAX_TOKENS")",
        R"("finishReason":"STOP")"}};

// Keeps what answers were recorded.
class AnswerRecorder final : public trace::MemoryRecorder {
 public:
  void answered(const llm::Call& call, const llm::Answer& answer) override {
    MemoryRecorder::answered(call, answer);
    answers.push_back(answer);
  }
  std::vector<llm::Answer> answers;
};

llm::Answer calling(std::vector<llm::ToolCall> calls, llm::Finish finish) {
  llm::Answer answer = llm::text_answer("Well.", llm::Origin::kSampled);
  answer.choices[0].message.tool_calls = std::move(calls);
  answer.choices[0].finish = finish;
  return answer;
}

class ToolCallsTest : public testing::GateFixture, public ::testing::WithParamInterface<Way> {
 protected:
  void SetUp() override {
    registration_.dialects = {way().dialect};
    registration_.recorder = &answers_;
  }
  static const Way& way() { return GetParam(); }

  // What the agent gets for its next request, which is answered so; plain, and with `how` streamed.
  enum class How : uint8_t { kPlain, kStreamed };
  std::string turn(const std::vector<Turn>& history, llm::Answer answer, How how = How::kPlain) {
    auto agent = this->agent();
    std::string body = way().body(history);
    if (how == How::kStreamed && way().dialect != llm::Dialect::kGemini) {
      body.insert(body.size() - 1, R"(,"stream":true)");
    }
    agent.post(how == How::kStreamed ? way().streamed : way().plain, body);
    const auto call = next_call();
    EXPECT_EQ(outcome(gate_->for_trainer.reply(call->id, std::move(answer))),
              llm::Outcome::kDelivered);
    return agent.response().body;
  }
  const llm::Choice& recorded_choice() { return answers_.answers.back().choices[0]; }

  AnswerRecorder answers_;
};

INSTANTIATE_TEST_SUITE_P(All, ToolCallsTest, ::testing::ValuesIn(kWays), [](const auto& info) {
  return std::string(to_string(info.param.dialect));
});

// --- Finish reasons, and what was cut ------------------------------------------------------------

TEST_P(ToolCallsTest, AnAgentIsNotPromisedCallsThatDoNotCome) {
  open();
  for (const How how : {How::kPlain, How::kStreamed}) {
    const std::string got =
        turn({{how == How::kPlain ? "a" : "b", {}}}, calling({}, llm::Finish::kToolCalls), how);
    EXPECT_THAT(got, HasSubstr(way().done));
    EXPECT_EQ(recorded_choice().finish, llm::Finish::kStop);
  }
}

// Pi closes the JSON of half a call, and runs it.
TEST_P(ToolCallsTest, ACallThatWasCutIsNotSentAndWhatWasSentIsMatched) {
  open();
  std::vector<Turn> history;
  for (const How how : {How::kPlain, How::kStreamed}) {
    const std::string id = how == How::kPlain ? "whole1" : "whole2";
    const llm::Answer answer = calling(
        {{id, "bash", "{\"command\":\"ls\"}"}, {"half", "bash", "{\"command\":\"rm -rf /tmp"}},
        llm::Finish::kLength);
    const std::string got = turn(history, answer, how);
    EXPECT_THAT(got, HasSubstr(id));
    EXPECT_THAT(got, Not(HasSubstr("half")));
    EXPECT_THAT(got, Not(HasSubstr("rm -rf")));
    EXPECT_THAT(got, HasSubstr(way().cut));
    // It is sampled as it was, and says what its agent has not got.
    EXPECT_EQ(answers_.answers.back().origin, llm::Origin::kSampled);
    EXPECT_EQ(recorded_choice().message.tool_calls.size(), 1u);
    ASSERT_EQ(recorded_choice().withheld.size(), 1u);
    EXPECT_EQ(recorded_choice().withheld[0].arguments, "{\"command\":\"rm -rf /tmp");
    history.push_back({"Well.", {id}});
  }
  turn(history, calling({}, llm::Finish::kStop));
  EXPECT_EQ(answers_.count("confirmed"), 2u);
}

TEST_P(ToolCallsTest, WithNoOtherCallTheWordsAreWhatIsMatched) {
  open();
  // As vLLM says it, at the request's limit.
  llm::Answer answer = calling({{"half", "bash", "{\"command\":\"rm"}}, llm::Finish::kToolCalls);
  answer.usage = llm::Usage{9, 7};
  const std::string got = turn({}, answer);
  EXPECT_THAT(got, Not(HasSubstr("half")));
  EXPECT_THAT(got, HasSubstr(way().cut));
  turn({{"Well.", {}}}, calling({}, llm::Finish::kStop));
  EXPECT_EQ(answers_.count("confirmed"), 1u);
}

TEST_P(ToolCallsTest, ARolloutMayHaveCutCallsSent) {
  registration_.cut_calls = CutCalls::kSent;
  open();
  const std::string got =
      turn({}, calling({{"half", "bash", "{\"command\":\"rm -rf /tmp"}}, llm::Finish::kLength));
  EXPECT_THAT(got, HasSubstr("half"));
  EXPECT_THAT(got, HasSubstr("rm -rf /tmp"));
  EXPECT_TRUE(recorded_choice().withheld.empty());
  turn({{"Well.", {"half"}}}, calling({}, llm::Finish::kStop));
  EXPECT_EQ(answers_.count("confirmed"), 1u);
}

// --- Ids -----------------------------------------------------------------------------------------

TEST_P(ToolCallsTest, ARepeatedIdIsAnotherForItsAgentAndTheSameForItsTrainer) {
  open();
  const std::string args = "{\"command\":\"ls\"}";
  std::vector<Turn> history;
  std::vector<std::string> sent;
  // Two calls of one id, and the same again in the next turn; a form that clients refuse beside it.
  for (const char* second : {"x", "functions.bash:1"}) {
    auto agent = this->agent();
    agent.post(way().plain, way().body(history));
    const auto call = next_call();
    EXPECT_EQ(outcome(gate_->for_trainer.reply(
                  call->id,
                  calling({{"x", "bash", args}, {second, "bash", args}}, llm::Finish::kToolCalls))),
              llm::Outcome::kDelivered);
    const std::string got = agent.response().body;
    Turn& said = history.emplace_back(Turn{"Well.", {}});
    for (const llm::ToolCall& each : recorded_choice().message.tool_calls) {
      EXPECT_THAT(got, HasSubstr("\"" + each.id + "\""));
      said.calls.push_back(each.id);
      sent.push_back(each.id);
    }
  }
  EXPECT_EQ(sent[0], "x");
  for (size_t i = 1; i < sent.size(); ++i) {
    EXPECT_THAT(sent[i], ::testing::MatchesRegex("(call|toolu)_[0-9a-f]{24}"));
    EXPECT_EQ(std::count(sent.begin(), sent.end(), sent[i]), 1);
  }
  auto agent = this->agent();
  agent.post(way().plain, way().body(history));
  const auto call = next_call();
  // What the agent sent is what is recorded, and what is matched.
  EXPECT_EQ(**call->body.bytes(), way().body(history));
  if (way().dialect != llm::Dialect::kGemini) {  // whose digest is of its URL, too
    EXPECT_EQ(call->digest, xxh3_128(way().body(history)));
  }
  EXPECT_EQ(answers_.count("confirmed"), 2u);
  // What its trainer is given is as if nothing had been renamed.
  EXPECT_EQ(**call->asked(),
            way().body({{"Well.", {"x", "x"}}, {"Well.", {"x", "functions.bash:1"}}}));
  const auto request = call->request();
  ASSERT_TRUE(request);
  EXPECT_EQ((*request)->messages.at(1).tool_calls.at(1).id, "x");
  EXPECT_EQ((*request)->messages.back().tool_call_id, "functions.bash:1");
  // It is told once, with the answer.
  std::vector<std::string> told;
  for (const auto& entry : answers_.entries()) {
    if (entry.kind == "event:ids_renamed") told.push_back(entry.detail);
  }
  ASSERT_EQ(told.size(), 2u);
  EXPECT_THAT(told[0], HasSubstr(R"("ids":{")" + sent[1] + R"(":"x"}})"));
  EXPECT_THAT(told[1], HasSubstr(R"("ids":{")" + sent[2] + R"(":"x",")" + sent[3] +
                                 R"(":"functions.bash:1"}})"));
  agent.reset();
}

TEST_P(ToolCallsTest, AResendGetsTheSameIdsAgain) {
  open();
  auto agent = this->agent();
  agent.post(way().plain, way().body({}));
  EXPECT_EQ(
      outcome(gate_->for_trainer.reply(
          next_call()->id, calling({{"x", "bash", "{}"}, {"x", "bash", "{}"}, {"", "bash", "{}"}},
                                   llm::Finish::kToolCalls))),
      llm::Outcome::kDelivered);
  const std::string first = agent.response().body;
  agent.post(way().plain, way().body({}));
  EXPECT_EQ(agent.response().body, first);
  EXPECT_EQ(counters().resends, 1u);
}

TEST_P(ToolCallsTest, WithoutRenamesNoByteIsTouched) {
  open();
  const std::string got =
      turn({}, calling({{"x", "bash", "{}"}, {"", "bash", "{}"}}, llm::Finish::kToolCalls));
  const std::string made = recorded_choice().message.tool_calls[1].id;
  EXPECT_THAT(got, HasSubstr(made));
  auto agent = this->agent();
  agent.post(way().plain, way().body({{"Well.", {"x", made}}}));
  const auto call = next_call();
  // A blank id is not named back.
  EXPECT_EQ(*call->asked(), call->body.in_memory());
  EXPECT_EQ(answers_.count("event:ids_renamed"), 0u);
  agent.reset();
}

}  // namespace
}  // namespace sluice::gate
