#include "sluice/gate/trainer_http/messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/json/value.h"

namespace sluice::gate::trainer_http {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

template <class T>
std::string why(const Result<T>& result) {
  return result ? "taken" : result.error().message;
}

TEST(TrainerMessagesTest, ATakeHasDefaultsAndLimits) {
  const auto nothing = take_from_json("");
  ASSERT_TRUE(nothing);
  EXPECT_EQ(nothing->request.max, 1u);
  EXPECT_EQ(nothing->request.taker.name, "default");
  EXPECT_EQ(nothing->wait, 0s);
  const auto all = take_from_json(
      R"({"max":16,"wait_s":2.5,"trainer":"t-1","lease_s":30,"afresh":true,"canonical":true})");
  ASSERT_TRUE(all);
  EXPECT_EQ(all->request.max, 16u);
  EXPECT_EQ(all->wait, 2500ms);
  EXPECT_EQ(all->request.taker.lease, 30s);
  EXPECT_EQ(all->request.taker.start, Taker::Start::kAfresh);
  EXPECT_EQ(why(take_from_json(R"({"max":-1})")), "max: must be a number from 0 to 4096");
  EXPECT_EQ(why(take_from_json(R"({"max":1.5})")), "max: must be a whole number");
  EXPECT_EQ(why(take_from_json(R"({"max":0})")), "max: must be at least 1");
  EXPECT_EQ(why(take_from_json(R"({"wait_s":1e9})")), "wait_s: must be a number from 0 to 300");
  EXPECT_EQ(why(take_from_json(R"({"waits":1})")), "waits: is not known here");
  EXPECT_THAT(why(take_from_json(R"({"trainer":"a b"})")), HasSubstr("trainer: must be a name"));
  EXPECT_EQ(why(take_from_json("[]")), "the message: must be an object");
  EXPECT_THAT(why(take_from_json("{")), HasSubstr("JSON"));
}

TEST(TrainerMessagesTest, AReplyIsAnAnswerACompletionARefusalOrAToolResult) {
  const auto one = replies_from_json(R"({"call":"c","answer":{"origin":"edited",
      "choices":[{"text":"x"}]},"version":"v1","trainer":"t","wait_s":5})");
  ASSERT_TRUE(one) << why(one);
  EXPECT_EQ(one->trainer, "t");
  EXPECT_EQ(one->for_outcome, Duration(5s));
  ASSERT_EQ(one->replies.size(), 1u);
  const auto& answer = std::get<llm::Answer>(one->replies[0].reply->what);
  EXPECT_EQ(answer.origin, llm::Origin::kEdited);
  EXPECT_EQ(answer.choices[0].versions[0].version, "v1");

  const auto several = replies_from_json(R"({"replies":[
      {"call":"a","completion":{"choices":[{"message":{"content":"x"},"token_ids":[1],
        "logprobs":{"content":[{"logprob":-1}]}}]}},
      {"call":"b","refusal":{"message":"no","kind":"unavailable","end_agent":false}},
      {"call":"c","tool_result":{"text":"42"}},
      {"call":"d","completion":{},"origin":"sampled"},
      {"call":"e"},
      {"answer":{"choices":[]}},
      7]})");
  ASSERT_TRUE(several) << why(several);
  EXPECT_FALSE(several->for_outcome);
  const auto& replies = several->replies;
  ASSERT_EQ(replies.size(), 7u);
  EXPECT_EQ(std::get<llm::Answer>(replies[0].reply->what).origin, llm::Origin::kSampled);
  EXPECT_THAT(std::get<llm::Answer>(replies[0].reply->what).choices[0].ids, ElementsAre(1));
  const auto& refusal = std::get<llm::Refusal>(replies[1].reply->what);
  EXPECT_EQ(refusal.kind, ErrorCode::kUnavailable);
  EXPECT_FALSE(refusal.end_agent);
  EXPECT_EQ(std::get<ToolResult>(replies[2].reply->what).text, "42");
  // One mistake spoils no other's.
  EXPECT_EQ(replies[3].call, "d");
  EXPECT_EQ(why(replies[3].reply), "answer: completion.choices: is missing");
  EXPECT_THAT(why(replies[4].reply), HasSubstr("must hold one of"));
  EXPECT_THAT(why(replies[5].reply), HasSubstr("call: must be the id"));
  EXPECT_FALSE(replies[6].reply);
}

// What is passed over in silence would be an answer that says something else, or nothing.
TEST(TrainerMessagesTest, AMemberThatAnAnswerDoesNotHaveIsRefusedByName) {
  const auto told = [](std::string_view reply) {
    const auto message = replies_from_json(R"({"call":"c",)" + std::string(reply) + "}");
    return why(message->replies.at(0).reply);
  };
  EXPECT_EQ(told(R"("answer":{"choices":[{"content":"x"}]})"),
            "answer: choices[0].content: is not known here");
  EXPECT_EQ(told(R"("answer":{"choices":[],"orgin":"sampled"})"),
            "answer: orgin: is not known here");
  EXPECT_EQ(told(R"("answer":{"choices":[{"tool_calls":[{"function":{}}]}]})"),
            "answer: choices[0].tool_calls.function: is not known here");
  EXPECT_EQ(told(R"("answer":{"choices":[]},"origin":"sampled")"),
            "origin: stands beside a completion; an answer holds its own");
  EXPECT_EQ(told(R"("refusal":{},"version":"v")"),
            "version: stands beside a completion or an answer");
  EXPECT_THAT(why(replies_from_json(R"({"replies":[],"trainer":"a b"})")),
              HasSubstr("trainer: must be a name"));
}

// What is injected cannot pass for what was sampled, and nothing here sets a reward or a state.
TEST(TrainerMessagesTest, finding_62_a_reply_has_no_way_to_set_anything_but_the_answer) {
  const auto own = replies_from_json(R"({"call":"c","answer":{"choices":[{"text":"x"}]}})");
  EXPECT_EQ(std::get<llm::Answer>(own->replies[0].reply->what).origin, llm::Origin::kInjected);
  for (const char* name : {"reward", "state", "done"}) {
    const auto more =
        replies_from_json(R"({"call":"c","refusal":{},")" + std::string(name) + R"(":1})");
    EXPECT_EQ(why(more->replies[0].reply), std::string(name) + ": is not known here");
  }
  EXPECT_THAT(why(replies_from_json(R"({"call":"c","completion":{"choices":[]},"origin":"mine"})")
                      ->replies[0]
                      .reply),
              HasSubstr("origin: must be"));
}

TEST(TrainerMessagesTest, ARegistrationIsReadWhole) {
  const auto message = registration_from_json(R"({"id":"r1","dialects":["chat","gemini"],
      "models":["a","b"],"budget":{"calls":7,"tokens":100,"time_s":60},
      "resend":{"window_s":1,"grace_s":0,"ignore_fields":["user"]},
      "session_headers":{"session":"x-session"},"origins":{"tokens":"waived","accept":"sampled"},
      "purposes":[{"purpose":"title","has_tools":false,"canned":"Title"}],
      "tools":[{"name":"search","parameters":{"type":"object"},"timeout_s":5}],
      "tools_in_requests":true,"max_version_lag":2,"lifetime_s":3600})");
  ASSERT_TRUE(message) << why(message);
  const Registration& r = message->registration;
  EXPECT_EQ(r.id.value, "r1");
  EXPECT_EQ(r.dialects.size(), 2u);
  EXPECT_EQ(r.budget.calls, 7u);
  EXPECT_EQ(r.budget.open_calls, 16u);
  EXPECT_EQ(r.budget.time, 60s);
  EXPECT_EQ(r.resend.grace, 0s);
  EXPECT_EQ(r.origins.accept, OriginRule::Accept::kSampledOnly);
  EXPECT_EQ(r.purposes.at(0).canned, "Title");
  EXPECT_EQ(r.tools.at(0).timeout, 5s);
  EXPECT_EQ(r.tools_in_requests, ToolsInRequests::kAdded);
  EXPECT_EQ(r.max_version_lag, 2u);
  EXPECT_EQ(message->lifetime, 3600s);
  EXPECT_EQ(why(registration_from_json(R"({"budget":{"call":1}})")),
            "budget.call: is not known here");
  EXPECT_THAT(why(registration_from_json(R"({"dialects":["smoke"]})")), HasSubstr("dialects"));
  EXPECT_THAT(why(registration_from_json(R"({"lifetime_s":0})")), HasSubstr("lifetime_s"));
  EXPECT_EQ(registration_from_json(R"({"delivery":"incremental"})")->registration.delivery,
            AnswerDelivery::kIncremental);
  EXPECT_THAT(why(registration_from_json(R"({"delivery":"slow"})")), HasSubstr("delivery: must"));
  EXPECT_TRUE(registration_from_json("{}"));
}

Item call_item(std::string body) {
  auto call = std::make_shared<llm::Call>();
  call->id = {"id"};
  call->rollout = {"r"};
  call->body = llm::Body(std::make_shared<const Bytes>(std::move(body)));
  Item item;
  item.what = std::shared_ptr<const llm::Call>(std::move(call));
  return item;
}

std::string rendered(const Item& item, Canonical canonical) {
  Bytes out;
  append_item(out, item, canonical);
  EXPECT_TRUE(json::parse(out)) << out;
  return out;
}

TEST(TrainerMessagesTest, ACallsBodyIsHandedOnAsItCameWhateverItIs) {
  const std::string body =
      "{ \"model\":\"m\",\n \"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}";
  EXPECT_THAT(rendered(call_item(body), Canonical::kNo), HasSubstr("\"body\":" + body));
  EXPECT_THAT(rendered(call_item(body), Canonical::kYes),
              HasSubstr(R"("request":{"model":"m","messages":[{"role":"user","text":"x","raw":)"
                        R"({"role":"user","content":"x"}}])"));
  for (const char* broken : {"{\"a\":}", "\"\xff\"", "{\"a\":1}}", ""}) {
    EXPECT_THAT(rendered(call_item(broken), Canonical::kYes),
                HasSubstr("\"body_base64\":\"" + to_base64(broken) + "\""));
  }
}

TEST(TrainerMessagesTest, ABodyThatCannotBeReadAgainIsSaidToBeMissing) {
  struct Gone : llm::Body::Store {
    Result<Bytes> read() const override { return Error(ErrorCode::kIo, "the trace is gone"); }
  };
  const Item item = call_item(R"({"model":"m","messages":[]})");
  item.call()->body.kept_in(std::make_shared<Gone>());
  ASSERT_TRUE(item.call()->body.put_away());
  const auto said = rendered(item, Canonical::kYes);
  EXPECT_THAT(said, HasSubstr(R"("body_error":"the trace is gone")"));
  EXPECT_THAT(said, Not(HasSubstr("\"body\":")));
  EXPECT_THAT(said, Not(HasSubstr("\"request\":")));
}

// The call's `request`, written and read.
json::Value canonical(llm::Dialect dialect, std::string body) {
  Item item = call_item(std::move(body));
  std::const_pointer_cast<llm::Call>(std::get<0>(item.what))->dialect = dialect;
  const auto value = json::parse(rendered(item, Canonical::kYes));
  return value->at("request");
}

TEST(TrainerMessagesTest, TheCanonicalFormKeepsWhatItHasNoWordsFor) {
  // An image, in `raw` alone; reasoning with what seals it.
  const auto claude = canonical(llm::Dialect::kMessages, R"({"model":"m","max_tokens":1,"messages":[
      {"role":"user","content":[{"type":"text","text":"look"},
        {"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]},
      {"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"sealed"},
        {"type":"text","text":"I see"}]}]})");
  const auto& looked = claude.at("messages").at(0);
  EXPECT_EQ(looked.at("text").as_string(), "look");
  EXPECT_EQ(looked.at("raw").at("content").at(1).at("source").at("data").as_string(), "AAAA");
  const auto& thought = claude.at("messages").at(1);
  EXPECT_EQ(thought.at("reasoning").as_string(), "hm");
  EXPECT_EQ(thought.at("reasoning_seal").as_string(), "sealed");

  // Several items that are one message; a call of a tool in a namespace; an item of another kind.
  const auto codex = canonical(llm::Dialect::kResponses, R"({"model":"m","input":[
      {"type":"reasoning","summary":[],"encrypted_content":"gAAA"},
      {"type":"function_call","call_id":"c1","name":"answer","namespace":"mcp__env",
       "arguments":"{}"},
      {"type":"web_search_call","id":"ws_1","status":"completed"},
      {"type":"function_call_output","call_id":"c1","output":"42"}],
      "tools":[{"type":"namespace","name":"mcp__env","tools":[
        {"type":"function","name":"answer","parameters":{"type":"object"}}]}]})");
  const auto& called = codex.at("messages").at(0);
  EXPECT_EQ(called.at("reasoning_seal").as_string(), "gAAA");
  EXPECT_EQ(called.at("tool_calls").at(0).at("name").as_string(), "mcp__env__answer");
  EXPECT_EQ(called.at("tool_calls").at(0).at("namespace").as_string(), "mcp__env");
  EXPECT_EQ(called.at("raw").as_array().size(), 3u);
  EXPECT_EQ(called.at("raw").at(2).at("id").as_string(), "ws_1");
  EXPECT_EQ(codex.at("messages").at(1).at("raw").at("output").as_string(), "42");
}

TEST(TrainerMessagesTest, ACallsBodyIsTheOneThatTheGateChanged) {
  auto call = std::make_shared<llm::Call>();
  call->body = llm::Body(std::make_shared<const Bytes>("{}"));
  call->changed_body = std::make_shared<const Bytes>(R"({"tools":[]})");
  Item item;
  item.what = std::shared_ptr<const llm::Call>(std::move(call));
  EXPECT_THAT(rendered(item, Canonical::kNo), HasSubstr(R"("body":{"tools":[]})"));
}

TEST(TrainerMessagesTest, CountersSayWhichLimitWasUsedUp) {
  Counters counters;
  Bytes out = counters_json(counters);
  EXPECT_EQ(out.find("budget_reason"), Bytes::npos);
  counters.budget_exhausted = true;
  counters.budget_reason = "more than 20 calls a second";
  out = counters_json(counters);
  EXPECT_THAT(out, HasSubstr(R"("budget_reason":"more than 20 calls a second")"));
}

TEST(TrainerMessagesTest, ACallSaysWhatItsRolloutIsFor) {
  Item item = call_item("{}");
  EXPECT_EQ(rendered(item, Canonical::kNo).find("\"task\""), Bytes::npos);
  auto call = std::make_shared<llm::Call>();
  call->body = llm::Body(std::make_shared<const Bytes>("{}"));
  call->task = std::make_shared<const std::string>(R"({"id":"t1","metadata":{"session":"s"}})");
  item.what = std::shared_ptr<const llm::Call>(std::move(call));
  EXPECT_THAT(rendered(item, Canonical::kNo),
              HasSubstr(R"("task":{"id":"t1","metadata":{"session":"s"}},)"));
}

TEST(TrainerMessagesTest, MetricsAreInPrometheussForm) {
  Totals totals;
  totals.calls = 3;
  totals.outcomes[0] = 2;
  const Bytes text = metrics_text({}, totals, {.waiting_bytes = 7, .incomplete_traces = 2});
  EXPECT_THAT(text, HasSubstr("\nsluice_gate_recorder_waiting_bytes 7\n"));
  EXPECT_THAT(text, HasSubstr("\nsluice_gate_incomplete_traces_total 2\n"));
  EXPECT_THAT(text,
              HasSubstr("# TYPE sluice_gate_calls_total counter\nsluice_gate_calls_total 3\n"));
  EXPECT_THAT(text, HasSubstr("sluice_gate_outcomes_total{outcome=\"delivered\"} 2\n"));
}

}  // namespace
}  // namespace sluice::gate::trainer_http
