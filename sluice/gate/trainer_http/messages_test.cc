#include "sluice/gate/trainer_http/messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/json/value.h"
#include "sluice/llm/continuation.h"

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
  EXPECT_FALSE(nothing->request.closings);
  const auto all = take_from_json(
      R"({"max":16,"wait_s":2.5,"trainer":"t-1","lease_s":30,"afresh":true,"canonical":true,
          "rollouts":true})");
  ASSERT_TRUE(all);
  EXPECT_TRUE(all->request.closings);
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

// As Python's json module writes it: gate/05 of the reports.
TEST(TrainerMessagesTest, WhatIsNoNumberSpoilsItsReplyAlone) {
  const auto sampled = [](std::string_view call, std::string_view logprob,
                          std::string_view more = "") {
    return R"({"call":")" + std::string(call) +
           R"(","completion":{"choices":[{"message":{"content":"NaN"},"token_ids":[1],)" +
           R"("logprobs":{"content":[{"token":"a","logprob":)" + std::string(logprob) + "}]}}]" +
           std::string(more) + "}}";
  };
  for (const char* no_number : {"NaN", "Infinity", "-Infinity"}) {
    const auto batch =
        replies_from_json(R"({"trainer":"t","replies":[)" + sampled("a", "-0.5") + "," +
                          sampled("b", no_number) + "," + sampled("c", "-0.25") + "]}");
    ASSERT_TRUE(batch) << why(batch);
    EXPECT_EQ(batch->trainer, "t");
    ASSERT_EQ(batch->replies.size(), 3u);
    EXPECT_EQ(batch->replies[1].call, "b");
    EXPECT_THAT(why(batch->replies[1].reply), HasSubstr("NaN, Infinity and -Infinity"));
    for (const size_t i : {0, 2}) {
      ASSERT_TRUE(batch->replies[i].reply) << why(batch->replies[i].reply);
      const auto& answer = std::get<llm::Answer>(batch->replies[i].reply->what);
      EXPECT_EQ(answer.choices[0].message.text, "NaN");
    }
  }
  // Where nobody reads it, too: the reply is no JSON. One reply is all of its message.
  const auto one = replies_from_json(sampled("a", "-0.5", R"(,"metrics":{"x":[NaN]})"));
  ASSERT_TRUE(one) << why(one);
  EXPECT_EQ(one->replies.at(0).call, "a");
  EXPECT_FALSE(one->replies[0].reply);
  // Outside of the replies nobody can be told by a call's id.
  EXPECT_FALSE(replies_from_json(R"({"wait_s":NaN,"replies":[]})"));
  EXPECT_FALSE(replies_from_json(R"({"replies":[NaN],"wait_s":Infinity})"));
  EXPECT_THAT(why(replies_from_json(R"({"replies":[NaN})")), HasSubstr("at byte 12"));
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
      "models":["a","b"],"budget":{"calls":7,"tokens":100,"time_s":60,"host_disk_mb":3},
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
  EXPECT_EQ(r.budget.host_disk, 3u << 20);
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
  EXPECT_EQ(registration_from_json(R"({"cut_calls":"sent"})")->registration.cut_calls,
            CutCalls::kSent);
  EXPECT_THAT(why(registration_from_json(R"({"cut_calls":"run"})")), HasSubstr("cut_calls: must"));
  EXPECT_EQ(registration_from_json("{}")->registration.cut_calls, CutCalls::kWithheld);
  EXPECT_TRUE(registration_from_json("{}"));
  EXPECT_EQ(registration_from_json(R"({"budget":{}})")->registration.budget.host_disk, 2u << 30);
  EXPECT_EQ(
      registration_from_json(R"({"budget":{"host_disk_mb":0}})")->registration.budget.host_disk,
      0u);
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
    const auto said = rendered(call_item(broken), Canonical::kYes);
    EXPECT_THAT(said, HasSubstr("\"body_base64\":\"" + to_base64(broken) + "\""));
    // An item that lacks its request says so.
    EXPECT_THAT(said, HasSubstr("\"request_error\":\"JSON: "));
    EXPECT_THAT(rendered(call_item(broken), Canonical::kNo), Not(HasSubstr("request_error")));
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
  EXPECT_THAT(said, HasSubstr(R"("request_error":"the trace is gone")"));
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
  EXPECT_EQ(codex.at("tools").at(0).at("name").as_string(), "mcp__env__answer");
  EXPECT_EQ(codex.at("tools").at(0).at("namespace").as_string(), "mcp__env");
  EXPECT_EQ(called.at("raw").as_array().size(), 3u);
  EXPECT_EQ(called.at("raw").at(2).at("id").as_string(), "ws_1");
  EXPECT_EQ(codex.at("messages").at(1).at("raw").at("output").as_string(), "42");
}

TEST(TrainerMessagesTest, ToolsHaveOneFormInAllDialects) {
  const auto chat = canonical(llm::Dialect::kChat, R"({"model":"m","messages":[{"role":"user"}],
      "tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"a":1}}}]})");
  const auto responses = canonical(llm::Dialect::kResponses, R"({"model":"m","input":"x",
      "tools":[{"type":"function","name":"f","description":"d","parameters":{"a":1}}]})");
  const auto messages = canonical(llm::Dialect::kMessages, R"({"model":"m","messages":[
      {"role":"user"}],"tools":[{"name":"f","description":"d","input_schema":{"a":1}}]})");
  const auto gemini = canonical(llm::Dialect::kGemini, R"({"contents":[{}],"tools":[
      {"functionDeclarations":[{"name":"f","description":"d","parameters":{"a":1}}]}]})");
  for (const json::Value& request : {chat, responses, messages, gemini}) {
    json::Object tool = request.at("tools").at(0).as_object();
    EXPECT_TRUE(tool.erase("raw"));
    EXPECT_EQ(json::serialize(json::Value(tool)),
              R"({"name":"f","description":"d","parameters":{"a":1},"kind":"function"})");
  }
  EXPECT_EQ(messages.at("tools").at(0).at("raw").at("input_schema").at("a").as_int64(), 1);
}

TEST(TrainerMessagesTest, ACallsBodyIsTheOneThatTheGateChanged) {
  auto call = std::make_shared<llm::Call>();
  call->body = llm::Body(std::make_shared<const Bytes>("{}"));
  call->changed_body = std::make_shared<const Bytes>(R"({"tools":[]})");
  Item item;
  item.what = std::shared_ptr<const llm::Call>(std::move(call));
  EXPECT_THAT(rendered(item, Canonical::kNo), HasSubstr(R"("body":{"tools":[]})"));
}

TEST(TrainerMessagesTest, HowACallGoesOnIsUnknownOnlyIfItSaysSo) {
  using llm::Continuation;
  const auto said = [](std::shared_ptr<const llm::Parent> parent) {
    auto call = std::make_shared<llm::Call>();
    call->body = llm::Body(std::make_shared<const Bytes>("{}"));
    call->parent = std::move(parent);
    Item item;
    item.what = std::shared_ptr<const llm::Call>(std::move(call));
    return rendered(item, Canonical::kNo);
  };
  EXPECT_THAT(said(nullptr), Not(HasSubstr("parent")));
  EXPECT_THAT(said(std::make_shared<llm::Parent>(CallId{"p"}, Continuation{})),
              HasSubstr(R"("parent":"p","continues":"exact",)"));
  EXPECT_THAT(said(std::make_shared<llm::Parent>(CallId{"p"},
                                                 Continuation{Continuation::How::kRewritten, 3})),
              HasSubstr(R"("parent":"p","continues":"rewritten","rewritten_from":3,)"));
  EXPECT_THAT(said(std::make_shared<llm::Parent>(CallId{"p"}, std::nullopt, nullptr)),
              HasSubstr(R"("parent":"p","continues":"unknown",)"));
}

TEST(TrainerMessagesTest, CountersSayWhichLimitWasUsedUp) {
  Books books;
  Bytes out = books_json(books);
  EXPECT_EQ(out.find("budget_reason"), Bytes::npos);
  books.counters.budget_exhausted = true;
  books.counters.budget_reason = "more than 20 calls a second";
  out = books_json(books);
  EXPECT_THAT(out, HasSubstr(R"("budget_reason":"more than 20 calls a second")"));
}

TEST(TrainerMessagesTest, AnEndSaysOfWhat) {
  Item item;
  item.what = Ended{{"r"}, "the agent has ended", {}};
  EXPECT_EQ(rendered(item, Canonical::kNo),
            R"({"type":"ended","rollout":"r","reason":"the agent has ended"})");
  const About about{std::make_shared<const std::string>(R"({"id":"t1"})"), "t1@2", "b/t1"};
  item.what = Ended{{"r"}, "x", about};
  EXPECT_EQ(
      rendered(item, Canonical::kNo),
      R"({"type":"ended","rollout":"r","reason":"x","task":{"id":"t1"},"name":"t1@2","group":"b/t1"})");
}

TEST(TrainerMessagesTest, AClosingSaysWhatCameOfARollout) {
  Books books;
  books.rollout = {"r"};
  books.state = Books::State::kEnded;
  EXPECT_EQ(json::parse(books_json(books))->at("state").as_string(), "ended");
  EXPECT_EQ(books_json(books).find("reward"), Bytes::npos) << "it is not known yet";
  books.state = Books::State::kClosed;
  books.about = {nullptr, "t1@2", "b/t1"};
  books.counters.calls = books.counters.turns = 3;
  Item item;
  item.what = std::make_shared<const Books>(books);
  auto closed = *json::parse(rendered(item, Canonical::kNo));
  EXPECT_EQ(closed.at("type").as_string(), "closed");
  EXPECT_EQ(closed.at("rollout").as_string(), "r");
  EXPECT_EQ(closed.at("name").as_string(), "t1@2");
  EXPECT_EQ(closed.at("group").as_string(), "b/t1");
  // Nothing was verified: that is no 0.
  for (const char* name : {"reward", "error_kind", "error"}) {
    EXPECT_TRUE(closed.at(name).is_null()) << name;
  }
  EXPECT_EQ(closed.at("llm").at("turns").as_int64(), 3);
  books.result = {0.25, "agent", "exit code 1"};
  item.what = std::make_shared<const Books>(books);
  closed = *json::parse(rendered(item, Canonical::kNo));
  const auto asked = *json::parse(books_json(books));
  for (const auto& told : {closed, asked}) {
    EXPECT_EQ(told.at("reward").as_double(), 0.25);
    EXPECT_EQ(told.at("error_kind").as_string(), "agent");
    EXPECT_EQ(told.at("error").as_string(), "exit code 1");
  }
  EXPECT_EQ(asked.at("state").as_string(), "closed");
  EXPECT_EQ(asked.at("turns").as_int64(), 3);
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
