#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/llm/codecs.h"
#include "sluice/llm/testing.h"

namespace sluice::llm {
namespace {

using testing::busy_answer;
using testing::continues;
using testing::echoed;
using ::testing::ElementsAre;
using testing::ending;
using testing::events;
using ::testing::HasSubstr;
using testing::names;
using testing::parsed;
using testing::status_of;
using testing::test_envelope;
using testing::text_at;

const Codec& codec() {
  return messages_codec();
}

std::string request(std::string_view messages, std::string_view more = "") {
  return R"({"model":"mock-model","max_tokens":32000,"stream":true,"messages":[)" +
         std::string(messages) + "]" + std::string(more) + "}";
}

// What Claude Code 2.1.328 sends in its first turn and in the next, shortened: the cache marks move
// to the end, and a message that loses one becomes a string.
const std::string kFirst = request(
    R"({"role":"user","content":[{"type":"text","text":"<system-reminder>"},{"type":"text","text":"Write hello.txt"}]},)"
    R"({"role":"system","content":[{"type":"text","text":"# Environment","cache_control":{"type":"ephemeral"}}]})",
    R"(,"system":[{"type":"text","text":"x-anthropic-billing-header: v"},{"type":"text","text":"You are a Claude agent.","cache_control":{"type":"ephemeral"}}])");
constexpr std::string_view kTurn =
    R"({"role":"assistant","content":[{"type":"thinking","thinking":"First a file.","signature":"c2VhbA=="},{"type":"text","text":"I will write.\n"},)"
    R"({"type":"tool_use","id":"call_1","name":"write","input":{"path":"aé","n":1}},{"type":"tool_use","id":"call_2","name":"bash","input":{"__unparsedToolInput":{"raw":"{broken","len":7}}}]})";
constexpr std::string_view kResults =
    R"({"role":"user","content":[{"tool_use_id":"call_2","type":"tool_result","content":"no","is_error":true},)"
    R"({"tool_use_id":"call_1","type":"tool_result","content":[{"type":"text","text":"ok"},{"type":"image","source":{"data":"AA"}}],"cache_control":{"type":"ephemeral"}}]})";
const std::string kSecond = request(
    R"({"role":"user","content":[{"type":"text","text":"<system-reminder>"},{"type":"text","text":"Write hello.txt"}]},)"
    R"({"role":"system","content":"# Environment"},)" +
        std::string(kTurn) + "," + std::string(kResults),
    R"(,"system":"You are a Claude agent.","tools":[{"name":"Bash","input_schema":{}},{"name":"Edit","input_schema":{}}],)"
    R"("tool_choice":{"type":"auto"},"temperature":0.5,"top_p":0.9,"top_k":40,"stop_sequences":["END"])");

TEST(MessagesPeekTest, ReadsWhatTheGateNeeds) {
  const Bytes body(kFirst);
  const auto result = testing::peek(codec(), body);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->model, "mock-model");
  EXPECT_TRUE(result->stream);
  EXPECT_FALSE(result->has_tools);
  EXPECT_EQ(result->n, 1u);
  EXPECT_EQ(result->messages, 2u);
  EXPECT_EQ(codec().system_text(*result), "x-anthropic-billing-header: v\nYou are a Claude agent.");
  const Bytes with_tools(kSecond);
  EXPECT_TRUE(testing::peek(codec(), with_tools)->has_tools);
}

TEST(MessagesPeekTest, NamesTheFieldThatIsMissingOrWrong) {
  const auto refused = [](const Bytes& body) {
    return testing::refused(codec(), body);
  };
  EXPECT_EQ(refused(R"({"messages":[{}],"max_tokens":1})"), "model: model: Field required");
  EXPECT_EQ(refused(R"({"model":"m","max_tokens":1})"), "messages: messages: Field required");
  EXPECT_EQ(refused(R"({"model":"m","messages":[{}]})"), "max_tokens: max_tokens: Field required");
  EXPECT_THAT(refused(R"({"model":"m","messages":[{}],"max_tokens":"1"})"),
              HasSubstr("max_tokens: Input should be"));
  EXPECT_THAT(refused(R"({"model":"m","messages":[],"max_tokens":1})"), HasSubstr("at least one"));
  EXPECT_THAT(refused(R"({"model":"m","messages":["x"],"max_tokens":1})"),
              HasSubstr("messages.0: "));
  EXPECT_THAT(refused(R"({"model":"","messages":[{}],"max_tokens":1})"), HasSubstr("model: "));
  EXPECT_THAT(refused(R"({"model":"m","messages":[{}],"max_tokens":1,"system":1})"),
              HasSubstr("system: "));
  EXPECT_THAT(refused(R"({"model":"m","messages":[{}],"max_tokens":1,"tools":{}})"),
              HasSubstr("tools: "));
  EXPECT_THAT(refused(R"({"model":"m","messages":[{}],"max_tokens":1,"stream":"yes"})"),
              HasSubstr("stream: "));
  EXPECT_THAT(refused("nonsense"), HasSubstr("not valid JSON"));
}

// As tool runners of the vendor's SDKs do unless they are told why not.
TEST(MessagesPeekTest, RefusesWhatLeansOnStoredState) {
  for (const std::string_view thread :
       {R"({"type":"create"})", R"({"type":"continue","previous_message_id":"msg_1"})"}) {
    const Bytes body =
        request(R"({"role":"user","content":"hi"})", R"(,"thread":)" + std::string(thread));
    const auto peeked = testing::peek(codec(), body);
    ASSERT_FALSE(peeked);
    EXPECT_THAT(peeked.error().message, HasSubstr("send the whole conversation"));
    const ErrorReply reply = codec().error(Problem::of(peeked.error()));
    EXPECT_EQ(reply.status, 400);
    EXPECT_EQ(text_at(parsed(reply.body), "/error/details/error_code"),
              "thread_unsupported_request");
  }
  const Bytes none = request(R"({"role":"user","content":"hi"})", R"(,"thread":null)");
  EXPECT_TRUE(testing::peek(codec(), none));
}

TEST(MessagesParseTest, GivesTheCanonicalForm) {
  const auto request = codec().parse(Bytes(kSecond));
  ASSERT_TRUE(request) << request.error().message;
  ASSERT_EQ(request->messages.size(), 6u);
  EXPECT_EQ(request->messages[0].role, Role::kSystem);
  EXPECT_EQ(request->messages[0].text, "You are a Claude agent.");
  EXPECT_EQ(request->messages[1].text, "<system-reminder>\nWrite hello.txt");
  EXPECT_EQ(request->messages[2].role, Role::kSystem);
  EXPECT_EQ(request->messages[2].text, "# Environment");
  const Message& turn = request->messages[3];
  EXPECT_EQ(turn.role, Role::kAssistant);
  EXPECT_EQ(turn.text, "I will write.\n");
  EXPECT_EQ(turn.reasoning, "First a file.");
  EXPECT_EQ(turn.reasoning_seal, "c2VhbA==");
  ASSERT_EQ(turn.tool_calls.size(), 2u);
  EXPECT_EQ(turn.tool_calls[0].arguments, R"({"path":"aé","n":1})");
  EXPECT_EQ(turn.raw, kTurn);
  // A message of results alone is these results.
  EXPECT_EQ(request->messages[4].role, Role::kTool);
  EXPECT_EQ(request->messages[4].tool_call_id, "call_2");
  EXPECT_EQ(request->messages[4].text, "no");
  EXPECT_THAT(request->messages[4].raw, HasSubstr("is_error"));
  EXPECT_EQ(request->messages[5].tool_call_id, "call_1");
  EXPECT_EQ(request->messages[5].text, "ok");
  EXPECT_THAT(request->messages[5].raw, HasSubstr("\"AA\""));
  EXPECT_THAT(testing::tool_names(*request), ElementsAre("Bash", "Edit"));
  EXPECT_EQ(request->tool_choice, R"({"type":"auto"})");
  EXPECT_EQ(request->temperature, 0.5);
  EXPECT_EQ(request->top_p, 0.9);
  EXPECT_EQ(request->top_k, 40);
  EXPECT_EQ(request->max_tokens, 32000);
  EXPECT_THAT(request->stop, ElementsAre("END"));
}

TEST(MessagesParseTest, ResultsAndWordsInOneMessageAreTakenApart) {
  const auto parsed = codec().parse(Bytes(request(
      R"({"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":"r"},{"type":"text","text":"and"}]},)"
      R"({"role":"assistant","content":[{"type":"redacted_thinking","data":"opaque"},{"type":"new_block"}]})")));
  ASSERT_TRUE(parsed) << parsed.error().message;
  ASSERT_EQ(parsed->messages.size(), 3u);
  EXPECT_EQ(parsed->messages[0].role, Role::kTool);
  EXPECT_EQ(parsed->messages[1].role, Role::kUser);
  EXPECT_EQ(parsed->messages[1].text, "and");
  EXPECT_EQ(parsed->messages[2].reasoning_seal, "opaque");
  EXPECT_THAT(parsed->messages[2].raw, HasSubstr("new_block"));
}

TEST(MessagesParseTest, ToolsHaveOneForm) {
  EXPECT_THAT(
      testing::tools_of(
          codec(),
          Bytes(request(R"({"role":"user","content":"x"})",
                        R"(,"tools":[{"name":"f","description":"d","input_schema":{"a": 1}},)"
                        R"({"type":"custom","name":"g"},)"
                        R"({"type":"bash_20250124","name":"bash"},{"type":"toolset"},{},7])"))),
      ElementsAre(
          R"(f|d|{"a": 1}|function||{"name":"f","description":"d","input_schema":{"a": 1}})",
          R"(g|||function||{"type":"custom","name":"g"})",
          R"(bash|||bash_20250124||{"type":"bash_20250124","name":"bash"})",
          R"(toolset|||toolset||{"type":"toolset"})"));
}

TEST(MessagesParseTest, BlocksOfNoKnownShapeStayRaw) {
  const auto read = codec().parse(Bytes(request(R"({"role":"user","content":[1]})")));
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->messages[0].text, "");
  EXPECT_EQ(read->messages[0].raw, R"({"role":"user","content":[1]})");
}

TEST(MessagesParseTest, RefusesWhatPeekDidNotLookInto) {
  EXPECT_FALSE(codec().parse(Bytes(request(R"({"role":"user","content":tru})"))));
  EXPECT_FALSE(codec().parse(Bytes(request(R"({"role":"robot","content":"x"})"))));
  EXPECT_FALSE(codec().parse(Bytes(request("1"))));
  EXPECT_FALSE(codec().parse(Bytes(R"({"model":"m"})")));
}

TEST(MessagesAnswerTest, StreamIsTheVendorsSequence) {
  const auto stream = events(codec().streamed(test_envelope(), busy_answer()));
  EXPECT_THAT(names(stream),
              ElementsAre("message_start",                               //
                          "content_block_start", "content_block_delta",  //
                          "content_block_delta", "content_block_stop",   // thinking
                          "content_block_start", "content_block_delta", "content_block_stop",
                          "content_block_start", "content_block_delta", "content_block_stop",
                          "content_block_start", "content_block_delta", "content_block_stop",
                          "message_delta", "message_stop"));
  for (const auto& event : stream) EXPECT_EQ(text_at(parsed(event.data), "/type"), event.name);
  EXPECT_EQ(stream[0].data,
            R"({"type":"message_start","message":{"id":"msg_0123","type":"message",)"
            R"("role":"assistant","model":"m\"x","content":[],"stop_reason":null,)"
            R"("stop_sequence":null,"usage":{"input_tokens":1000,"cache_creation_input_tokens":0,)"
            R"("cache_read_input_tokens":0,"output_tokens":0}}})");
  EXPECT_EQ(stream[1].data, R"({"type":"content_block_start","index":0,)"
                            R"("content_block":{"type":"thinking","thinking":"","signature":""}})");
  EXPECT_EQ(stream[3].data, R"({"type":"content_block_delta","index":0,)"
                            R"("delta":{"type":"signature_delta","signature":"c2VhbA=="}})");
  EXPECT_EQ(stream[6].data, R"({"type":"content_block_delta","index":1,)"
                            R"("delta":{"type":"text_delta","text":"I will write.\n"}})");
  EXPECT_EQ(stream[8].data,
            R"({"type":"content_block_start","index":2,)"
            R"("content_block":{"type":"tool_use","id":"call_1","name":"write","input":{}}})");
  // The arguments as the model wrote them, right or wrong.
  EXPECT_EQ(text_at(parsed(stream[9].data), "/delta/partial_json"),
            busy_answer().choices[0].message.tool_calls[0].arguments);
  EXPECT_EQ(text_at(parsed(stream[12].data), "/delta/partial_json"), "{broken");
  EXPECT_EQ(stream[14].data,
            R"({"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},)"
            R"("usage":{"input_tokens":1000,"cache_creation_input_tokens":0,)"
            R"("cache_read_input_tokens":0,"output_tokens":50}})");
  EXPECT_EQ(stream[15].data, R"({"type":"message_stop"})");
}

TEST(MessagesAnswerTest, PlainHasArgumentsAsObjects) {
  const auto message = parsed(codec().plain(test_envelope(), busy_answer()));
  EXPECT_EQ(text_at(message, "/id"), "msg_0123");
  EXPECT_EQ(text_at(message, "/stop_reason"), "tool_use");
  EXPECT_EQ(text_at(message, "/content/0/signature"), "c2VhbA==");
  EXPECT_EQ(text_at(message, "/content/2/input/path"), "aé");
  EXPECT_EQ(text_at(message, "/content/3/input/INVALID_JSON"), "{broken");
  EXPECT_EQ(message.at_pointer("/usage/output_tokens").get_int64(), 50);
}

TEST(MessagesAnswerTest, NoArgumentsAreAnEmptyObject) {
  Answer answer = text_answer("", Origin::kSampled);
  answer.choices[0].message.tool_calls = {{"t", "bash", ""}};
  EXPECT_THAT(codec().streamed(test_envelope(), answer), HasSubstr(R"("partial_json":"{}")"));
  EXPECT_THAT(codec().plain(test_envelope(), answer), HasSubstr(R"("input":{})"));
}

TEST(MessagesAnswerTest, ThinkingIsSignedAndWhatIsOnlySealedIsRedacted) {
  Answer answer = text_answer("x", Origin::kSampled);
  Message& message = answer.choices[0].message;
  message.reasoning = "hm";
  const auto block = [&] {
    return parsed(codec().plain(test_envelope(), answer)).at_pointer("/content/0");
  };
  EXPECT_EQ(text_at(block(), "/signature").size(), 32u);
  message.reasoning.clear();
  message.reasoning_seal = "opaque";
  EXPECT_EQ(text_at(block(), "/type"), "redacted_thinking");
  EXPECT_EQ(text_at(block(), "/data"), "opaque");
  const auto stream = events(codec().streamed(test_envelope(), answer));
  EXPECT_EQ(text_at(parsed(stream[1].data), "/content_block/data"), "opaque");
  EXPECT_EQ(stream[2].name, "content_block_stop");
}

TEST(MessagesAnswerTest, StopReasons) {
  const auto stop = [](Finish finish) {
    Answer answer = text_answer("x", Origin::kSampled);
    answer.choices[0].finish = finish;
    return std::string(text_at(parsed(codec().plain(test_envelope(), answer)), "/stop_reason"));
  };
  EXPECT_EQ(stop(Finish::kStop), "end_turn");
  EXPECT_EQ(stop(Finish::kLength), "max_tokens");
  EXPECT_EQ(stop(Finish::kToolCalls), "tool_use");
  EXPECT_EQ(stop(Finish::kContentFilter), "refusal");
}

TEST(MessagesAnswerTest, ARefusalIsTextAndEmptyIsEmpty) {
  Answer answer = text_answer("", Origin::kSampled);
  EXPECT_THAT(codec().plain(test_envelope(), answer), HasSubstr(R"("content":[])"));
  EXPECT_THAT(names(events(codec().streamed(test_envelope(), answer))),
              ElementsAre("message_start", "message_delta", "message_stop"));
  answer.choices[0].message.refusal = "I will not.";
  const auto message = parsed(codec().plain(test_envelope(), answer));
  EXPECT_EQ(text_at(message, "/content/0/text"), "I will not.");
  EXPECT_EQ(text_at(message, "/stop_reason"), "end_turn");
}

TEST(MessagesKeepAliveTest, IsAPing) {
  EXPECT_EQ(codec().keep_alive(test_envelope()), "event: ping\ndata: {\"type\":\"ping\"}\n\n");
}

TEST(MessagesErrorTest, HasTheVendorsShapesAndStatuses) {
  Problem problem;
  problem.kind = ErrorCode::kInvalidArgument;
  problem.message = "max_tokens: Field required";
  const ErrorReply reply = codec().error(problem);
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(reply.body, R"({"type":"error","error":{"type":"invalid_request_error",)"
                        R"("message":"max_tokens: Field required"}})");
  EXPECT_EQ(status_of(codec(), ErrorCode::kUnauthenticated), 401);
  EXPECT_EQ(status_of(codec(), ErrorCode::kPermissionDenied), 403);
  EXPECT_EQ(status_of(codec(), ErrorCode::kNotFound), 404);
  EXPECT_EQ(status_of(codec(), ErrorCode::kTooLarge), 413);
  EXPECT_EQ(status_of(codec(), ErrorCode::kExhausted), 429);
  EXPECT_EQ(status_of(codec(), ErrorCode::kInternal), 500);
  EXPECT_EQ(status_of(codec(), ErrorCode::kUnavailable), 529);
  for (int kind = 0; kind < kErrorCodes; ++kind) {
    problem.kind = static_cast<ErrorCode>(kind);
    const ErrorReply each = codec().error(problem);
    EXPECT_GE(each.status, 400) << kind;
    EXPECT_NE(text_at(parsed(each.body), "/error/type"), "") << kind;
  }
}

TEST(MessagesErrorTest, WhatEndsTheAgentIsA403) {
  const ErrorReply reply = codec().error(ending("overloaded"));
  EXPECT_EQ(reply.status, 403);
  EXPECT_EQ(text_at(parsed(reply.body), "/error/type"), "permission_error");
  EXPECT_THAT(reply.body, Not(HasSubstr("overloaded")));
}

TEST(MessagesErrorTest, InAStreamItComesBehindABeginning) {
  const auto pieces = codec().streamed_error(test_envelope(), ending("enough"));
  ASSERT_EQ(pieces.size(), 1u);
  const auto stream = events(pieces[0]);
  ASSERT_THAT(names(stream), ElementsAre("message_start", "error"));
  EXPECT_EQ(text_at(parsed(stream[1].data), "/error/message"), "enough");
}

TEST(MessagesCountTest, IsAnEstimateOfWhatIsPrompt) {
  json::Peeker peeker;
  const auto counted = codec().count_tokens(
      peeker, R"({"model":"m","messages":[{"role":"user","content":"hi"}],"system":"12"})", {});
  ASSERT_TRUE(counted) << counted.error().message;
  EXPECT_EQ(*counted, R"({"input_tokens":9})");
  EXPECT_EQ(codec().count_tokens(peeker, R"({"model":"m"})", {}).error().param, "messages");
}

TEST(MessagesHistoryTest, SeesThroughWhatClaudeCodeRewrites) {
  EXPECT_EQ(echoed(codec(), busy_answer(), kFirst, kSecond), 0u);
  EXPECT_TRUE(continues(codec(), kFirst, kSecond));
  EXPECT_FALSE(continues(codec(), kSecond, kFirst));
}

TEST(MessagesHistoryTest, OnlyMarksAndFormMayDiffer) {
  const auto same = [](std::string_view a, std::string_view b) {
    return codec().canonical({a, json::Type::kObject}) ==
           codec().canonical({b, json::Type::kObject});
  };
  EXPECT_TRUE(
      same(R"({"role":"user","content":"a\nb"})",
           R"({"role":"user","content":[{"type":"text","text":"a\nb","cache_control":1}]})"));
  EXPECT_FALSE(same(R"({"role":"user","content":"a"})", R"({"role":"user","content":"b"})"));
  EXPECT_FALSE(same(R"({"role":"user","content":"a"})", R"({"role":"assistant","content":"a"})"));
  // A tool's result is content again; a tool's input is not.
  EXPECT_TRUE(same(
      R"({"content":[{"type":"tool_result","content":[{"type":"text","text":"r","cache_control":1}]}]})",
      R"({"content":[{"type":"tool_result","content":"r"}]})"));
  EXPECT_FALSE(same(R"({"content":[{"type":"tool_use","input":{"cache_control":1}}]})",
                    R"({"content":[{"type":"tool_use","input":{}}]})"));
  EXPECT_EQ(codec().canonical({"[1", json::Type::kArray}), "[1");
}

TEST(MessagesHistoryTest, MessagesOfTheAssistantInARowAreOneTurn) {
  Answer answer = text_answer("one two", Origin::kSampled);
  const std::string first = request(R"({"role":"user","content":"u"})");
  EXPECT_EQ(echoed(codec(), answer, first,
                   request(R"({"role":"user","content":"u"},{"role":"assistant","content":"one"},)"
                           R"({"role":"assistant","content":[{"type":"text","text":"two"}]})")),
            0u);
  EXPECT_EQ(echoed(codec(), answer, first, first), std::nullopt);
}

TEST(MessagesModelsTest, AreListedAsAnthropicDoes) {
  const std::vector<std::string> two{"a", "b"};
  const auto list = parsed(codec().models(two));
  EXPECT_EQ(text_at(list, "/data/0/type"), "model");
  EXPECT_EQ(text_at(list, "/first_id"), "a");
  EXPECT_EQ(text_at(list, "/last_id"), "b");
  EXPECT_TRUE(parsed(codec().models({})).at("first_id").is_null());
  EXPECT_EQ(text_at(parsed(codec().model("a")), "/display_name"), "a");
}

TEST(MessagesToolsTest, ToolsArePutBehindTheAgentsOwnInTheDialectsShape) {
  const std::string lookup = R"({"name":"lookup","description":"Looks \"it\" up.",)"
                             R"("input_schema":{"type": "object", "x": 1.0}})";
  const std::string own = R"({"name":"write","input_schema":{},"cache_control":{}})";
  EXPECT_EQ(testing::with_tools(messages_codec(), R"({"tools":[)" + own + R"(],"max_tokens":9})"),
            R"({"tools":[)" + own + "," + lookup + R"(],"max_tokens":9})");
  EXPECT_EQ(testing::with_tools(messages_codec(), R"({"tools":[)" + own + "," + lookup + "]}"),
            "nothing");
}

}  // namespace
}  // namespace sluice::llm
