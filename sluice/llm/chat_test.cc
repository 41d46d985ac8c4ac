#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/json/value.h"
#include "sluice/llm/answer.h"
#include "sluice/llm/codecs.h"
#include "sluice/llm/testing.h"

namespace sluice::llm {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

const Codec& chat() {
  return chat_codec();
}

tl::expected<Peek, BadRequest> peek(const Bytes& body) {
  json::Peeker peeker;
  return chat().peek(peeker, body, {});
}

std::string refused(const Bytes& body) {
  const auto result = peek(body);
  return result ? "" : result.error().param + ": " + result.error().message;
}

json::Value parsed(const std::string& text) {
  auto value = json::parse(text);
  EXPECT_TRUE(value) << text;
  return value.value_or(json::Value());
}

// The data of each event of a stream.
std::vector<std::string> events(std::string_view stream) {
  std::vector<std::string> out;
  while (!stream.empty()) {
    EXPECT_TRUE(stream.starts_with("data: "));
    const size_t end = stream.find("\n\n");
    EXPECT_NE(end, std::string_view::npos);
    out.emplace_back(stream.substr(6, end - 6));
    stream.remove_prefix(end + 2);
  }
  return out;
}

Envelope test_envelope() {
  Envelope out;
  out.id = "0123";
  out.model = "m\"x";
  out.created = 1700000000;
  out.stream_usage = true;
  return out;
}

// What OpenCode 1.18.33 sends in its second turn.
constexpr std::string_view kSecondTurn = R"({"model":"mock-model","max_tokens":8192,"messages":[
 {"role":"system","content":"You are opencode"},
 {"role":"user","content":"Create hello.py"},
 {"role":"assistant","content":"I will write the file.","tool_calls":[{"id":"call_1","type":"function","function":{"name":"write","arguments":"{\"filePath\":\"hello.py\"}"}}]},
 {"role":"tool","tool_call_id":"call_1","content":"Wrote file successfully."}],
 "tools":[{"type":"function","function":{"name":"bash","parameters":{}}},{"type":"function","function":{"name":"write","parameters":{}}}],
 "tool_choice":"auto","temperature":0.7,"top_p":0.9,"stream":true,"stream_options":{"include_usage":true}})";

TEST(ChatPeekTest, ReadsWhatTheGateNeeds) {
  const Bytes body(kSecondTurn);
  const auto result = peek(body);
  ASSERT_TRUE(result);
  EXPECT_EQ(result->model, "mock-model");
  EXPECT_TRUE(result->stream);
  EXPECT_TRUE(result->stream_usage);
  EXPECT_TRUE(result->has_tools);
  EXPECT_EQ(result->n, 1u);
  EXPECT_EQ(result->messages, 4u);
  EXPECT_EQ(result->conversation.text.front(), '[');
  EXPECT_EQ(chat().system_text(*result), "You are opencode");
}

TEST(ChatPeekTest, LeavesDefaultsForWhatIsAbsentOrNull) {
  const Bytes body = R"({"model":"m","messages":[{"role":"user"}],"stream":null,"n":null,)"
                     R"("stream_options":null,"tools":null})";
  const auto result = peek(body);
  ASSERT_TRUE(result);
  EXPECT_FALSE(result->stream);
  EXPECT_FALSE(result->has_tools);
  EXPECT_EQ(result->n, 1u);
}

TEST(ChatPeekTest, NamesTheFieldThatIsMissingOrWrong) {
  EXPECT_EQ(refused(R"({"messages":[{}]})"), "model: Missing required parameter: 'model'.");
  EXPECT_EQ(refused(R"({"model":"m"})"), "messages: Missing required parameter: 'messages'.");
  EXPECT_THAT(refused(R"({"model":1,"messages":[{}]})"), HasSubstr("expected a string, but got"));
  EXPECT_THAT(refused(R"({"model":"","messages":[{}]})"), HasSubstr("model: Invalid"));
  EXPECT_THAT(refused(R"({"model":"m","messages":"hi"})"), HasSubstr("messages: Invalid type"));
  EXPECT_THAT(refused(R"({"model":"m","messages":[]})"), HasSubstr("empty array"));
  EXPECT_THAT(refused(R"({"model":"m","messages":["hi"]})"), HasSubstr("messages[0]"));
  EXPECT_THAT(refused(R"({"model":"m","messages":[{}],"stream":"yes"})"), HasSubstr("stream: "));
  EXPECT_THAT(refused(R"({"model":"m","messages":[{}],"n":0})"), HasSubstr("n: Invalid"));
  EXPECT_THAT(refused(R"({"model":"m","messages":[{}],"n":1000})"), HasSubstr("n: Invalid"));
  EXPECT_THAT(refused(R"({"model":"m","messages":[{}],"tools":{}})"), HasSubstr("tools: "));
  EXPECT_THAT(refused(R"({"model":"m","messages":[{}],"stream_options":1})"),
              HasSubstr("stream_options: "));
  EXPECT_THAT(refused("hello"), HasSubstr("could not parse the JSON body"));
  EXPECT_THAT(refused(R"({"model":"m","messages":[{}],"messages":[{"role":"user"}]})"),
              HasSubstr("twice"));
}

TEST(ChatParseTest, GivesTheCanonicalForm) {
  const auto request = chat().parse(Bytes(kSecondTurn));
  ASSERT_TRUE(request);
  EXPECT_EQ(request->model, "mock-model");
  ASSERT_EQ(request->messages.size(), 4u);
  EXPECT_EQ(request->messages[0].role, Role::kSystem);
  EXPECT_EQ(request->messages[1].text, "Create hello.py");
  const Message& turn = request->messages[2];
  EXPECT_EQ(turn.role, Role::kAssistant);
  EXPECT_EQ(turn.text, "I will write the file.");
  ASSERT_EQ(turn.tool_calls.size(), 1u);
  EXPECT_EQ(turn.tool_calls[0].id, "call_1");
  EXPECT_EQ(turn.tool_calls[0].name, "write");
  EXPECT_EQ(turn.tool_calls[0].arguments, R"({"filePath":"hello.py"})");
  EXPECT_EQ(request->messages[3].role, Role::kTool);
  EXPECT_EQ(request->messages[3].tool_call_id, "call_1");
  EXPECT_EQ(request->messages[3].raw,
            R"({"role":"tool","tool_call_id":"call_1","content":"Wrote file successfully."})");
  EXPECT_THAT(testing::tool_names(*request), ::testing::ElementsAre("bash", "write"));
  EXPECT_EQ(request->temperature, 0.7);
  EXPECT_EQ(request->top_p, 0.9);
  EXPECT_EQ(request->max_tokens, 8192);
}

TEST(ChatParseTest, JoinsTextPartsAndKeepsOtherPartsRaw) {
  const Bytes body =
      R"({"model":"m","messages":[{"role":"user","content":[)"
      R"({"type":"text","text":"look"},)"
      R"({"type":"image_url","image_url":{"url":"data:image/png;base64,AA"}},)"
      R"({"type":"text","text":"here"}]},)"
      R"({"role":"assistant","content":null,"reasoning_content":"hm","refusal":"no"},)"
      R"({"role":"developer","content":"d"}]})";
  const auto request = chat().parse(body);
  ASSERT_TRUE(request) << request.error().message;
  EXPECT_EQ(request->messages[0].text, "look\nhere");
  EXPECT_THAT(request->messages[0].raw, HasSubstr("data:image/png;base64,AA"));
  EXPECT_EQ(request->messages[1].text, "");
  EXPECT_EQ(request->messages[1].reasoning, "hm");
  EXPECT_EQ(request->messages[1].refusal, "no");
  EXPECT_EQ(request->messages[2].role, Role::kSystem);
}

TEST(ChatParseTest, ToolsHaveOneForm) {
  EXPECT_THAT(
      testing::tools_of(
          chat(), Bytes(R"({"model":"m","messages":[{"role":"user"}],"tools":[)"
                        R"({"type":"function","function":{"name":"f","description":"d",)"
                        R"("parameters":{"a": 1}}},{"type":"custom","custom":{"name":"patch"}},)"
                        R"({"type":"web_search"},{},7]})")),
      ::testing::ElementsAre(
          R"(f|d|{"a": 1}|function||)"
          R"({"type":"function","function":{"name":"f","description":"d","parameters":{"a": 1}}})",
          R"(patch|||custom||{"type":"custom","custom":{"name":"patch"}})",
          R"(web_search|||web_search||{"type":"web_search"})"));
}

TEST(ChatParseTest, MalformedArgumentsAreTextLikeAnyOther) {
  const Bytes body = R"({"model":"m","messages":[{"role":"assistant","tool_calls":[)"
                     R"({"id":"c","function":{"name":"f","arguments":"{\"a\": oops"}}]}]})";
  const auto request = chat().parse(body);
  ASSERT_TRUE(request);
  EXPECT_EQ(request->messages[0].tool_calls[0].arguments, "{\"a\": oops");
}

TEST(ChatParseTest, RefusesWhatPeekDidNotLookInto) {
  // Malformed behind the fields that peek reads: found when somebody reads the messages.
  EXPECT_FALSE(chat().parse(Bytes(R"({"model":"m","messages":[{"role":"user","content":tru}]})")));
  EXPECT_FALSE(chat().parse(Bytes(R"({"model":"m","messages":[{"role":"robot"}]})")));
  EXPECT_FALSE(chat().parse(Bytes(R"({"model":"m","messages":[1]})")));
  EXPECT_FALSE(chat().parse(Bytes(R"({"model":"m"})")));
}

TEST(ChatAnswerTest, PlainIsAChatCompletion) {
  Answer answer = text_answer("I am \"done\"", Origin::kSampled);
  answer.usage = Usage{10, 5};
  const auto body = parsed(chat().plain(test_envelope(), answer)).get_object();
  EXPECT_EQ(json::get_string(body, "id"), "chatcmpl-0123");
  EXPECT_EQ(json::get_string(body, "object"), "chat.completion");
  EXPECT_EQ(json::get_integer(body, "created"), 1700000000);
  EXPECT_EQ(json::get_string(body, "model"), "m\"x");
  const auto& choice = json::get_array(body, "choices")->at(0).get_object();
  EXPECT_EQ(json::get_integer(choice, "index"), 0);
  EXPECT_EQ(json::get_string(choice, "finish_reason"), "stop");
  EXPECT_EQ(json::get_string(*json::get_object(choice, "message"), "content"), "I am \"done\"");
  const auto& usage = *json::get_object(body, "usage");
  EXPECT_EQ(json::get_integer(usage, "total_tokens"), 15);
}

TEST(ChatAnswerTest, PlainWithToolCallsReasoningAndSeveralChoices) {
  Answer answer;
  answer.choices.resize(2);
  Choice& first = answer.choices[0];
  first.message.reasoning = "think";
  first.message.tool_calls = {{"call_a", "write", "{\"x\":1}"}, {"call_b", "bash", "{oops"}};
  first.finish = Finish::kToolCalls;
  Choice& second = answer.choices[1];
  second.message.refusal = "I will not";
  second.finish = Finish::kContentFilter;
  const auto body = parsed(chat().plain(test_envelope(), answer)).get_object();
  EXPECT_FALSE(body.contains("usage"));
  const auto& choices = *json::get_array(body, "choices");
  ASSERT_EQ(choices.size(), 2u);
  const auto& message = *json::get_object(choices[0].get_object(), "message");
  EXPECT_TRUE(message.at("content").is_null());
  EXPECT_EQ(json::get_string(message, "reasoning_content"), "think");
  const auto& calls = *json::get_array(message, "tool_calls");
  ASSERT_EQ(calls.size(), 2u);
  EXPECT_EQ(calls[1].at_pointer("/function/arguments").get_string(), "{oops");
  EXPECT_FALSE(calls[1].get_object().contains("index"));
  EXPECT_EQ(choices[1].at_pointer("/message/refusal").get_string(), "I will not");
  EXPECT_EQ(choices[1].at_pointer("/finish_reason").get_string(), "content_filter");
}

TEST(ChatAnswerTest, StreamHasRoleContentFinishUsageAndDone) {
  Answer answer = text_answer("hi\nthere", Origin::kSampled);
  answer.usage = Usage{1000, 50};
  const auto frames = events(chat().streamed(test_envelope(), answer));
  ASSERT_EQ(frames.size(), 5u);
  for (size_t i = 0; i < 4; ++i) {
    const auto chunk = parsed(frames[i]);
    EXPECT_EQ(chunk.at_pointer("/object").get_string(), "chat.completion.chunk");
    EXPECT_EQ(chunk.at_pointer("/id").get_string(), "chatcmpl-0123");
  }
  EXPECT_EQ(parsed(frames[0]).at_pointer("/choices/0/delta/role").get_string(), "assistant");
  EXPECT_EQ(parsed(frames[1]).at_pointer("/choices/0/delta/content").get_string(), "hi\nthere");
  EXPECT_TRUE(parsed(frames[1]).at_pointer("/choices/0/finish_reason").is_null());
  EXPECT_EQ(parsed(frames[2]).at_pointer("/choices/0/finish_reason").get_string(), "stop");
  EXPECT_TRUE(parsed(frames[3]).at_pointer("/choices").get_array().empty());
  EXPECT_EQ(parsed(frames[3]).at_pointer("/usage/total_tokens").get_int64(), 1050);
  EXPECT_EQ(frames[4], "[DONE]");
}

TEST(ChatAnswerTest, UsageIsStreamedOnlyWhenAskedForAndKnown) {
  Answer answer = text_answer("x", Origin::kSampled);
  EXPECT_THAT(chat().streamed(test_envelope(), answer), Not(HasSubstr("usage")));
  answer.usage = Usage{1, 1};
  Envelope not_asked = test_envelope();
  not_asked.stream_usage = false;
  EXPECT_THAT(chat().streamed(not_asked, answer), Not(HasSubstr("usage")));
}

TEST(ChatAnswerTest, StreamedToolCallsCarryTheirIndex) {
  Answer answer;
  Choice& choice = answer.choices.emplace_back();
  choice.message.text = "Both.";
  choice.message.tool_calls = {{"call_a", "write", "{}"}, {"call_b", "bash", "{bad"}};
  choice.finish = Finish::kToolCalls;
  const auto frames = events(chat().streamed(test_envelope(), answer));
  ASSERT_EQ(frames.size(), 6u);  // role, text, two calls, finish, [DONE]
  for (size_t i = 0; i < 2; ++i) {
    const auto chunk = parsed(frames[2 + i]);
    const auto& call = chunk.at_pointer("/choices/0/delta/tool_calls/0");
    EXPECT_EQ(call.at("index").get_int64(), static_cast<int64_t>(i));
    EXPECT_EQ(call.at("id").get_string(), answer.choices[0].message.tool_calls[i].id);
    EXPECT_EQ(call.at("type").get_string(), "function");
  }
  EXPECT_EQ(
      parsed(frames[3]).at_pointer("/choices/0/delta/tool_calls/0/function/arguments").get_string(),
      "{bad");
  EXPECT_EQ(parsed(frames[4]).at_pointer("/choices/0/finish_reason").get_string(), "tool_calls");
}

TEST(ChatAnswerTest, CustomToolsHaveInputInsteadOfArguments) {
  const Bytes body = R"({"model":"m","messages":[{"role":"assistant","tool_calls":[)"
                     R"({"id":"c","type":"custom","custom":{"name":"patch","input":"text"}}]}],)"
                     R"("tool_choice":"auto","stop":"END"})";
  const auto request = chat().parse(body);
  ASSERT_TRUE(request) << request.error().message;
  EXPECT_EQ(request->tool_choice, "\"auto\"");
  EXPECT_THAT(request->stop, ::testing::ElementsAre("END"));
  Answer answer;
  answer.choices.emplace_back().message = request->messages[0];
  EXPECT_THAT(chat().plain(test_envelope(), answer),
              HasSubstr(R"({"id":"c","type":"custom","custom":{"name":"patch","input":"text"}})"));
}

TEST(ChatAnswerTest, ToolsAreOfTheKindThatTheRequestDeclares) {
  Call call;
  call.dialect = Dialect::kChat;
  call.body = Body(std::make_shared<const Bytes>(
      R"({"model":"m","messages":[{"role":"user","content":"hi"}],"tools":[)"
      R"({"type":"custom","custom":{"name":"patch"}},{"type":"function","function":{"name":"read"}}]})"));
  Answer answer = text_answer("", Origin::kSampled);
  answer.choices[0].message.tool_calls = {{"c1", "patch", "*** Begin Patch"}, {"c2", "read", "{}"}};
  ASSERT_TRUE(complete(answer, call));
  EXPECT_THAT(
      chat().plain(test_envelope(), answer),
      HasSubstr(
          R"([{"id":"c1","type":"custom","custom":{"name":"patch","input":"*** Begin Patch"}},)"
          R"({"id":"c2","type":"function","function":{"name":"read","arguments":"{}"}}])"));
}

TEST(ChatAnswerTest, AnEmptyAnswerStillFinishes) {
  const auto frames = events(chat().streamed(test_envelope(), text_answer("", Origin::kSampled)));
  ASSERT_EQ(frames.size(), 3u);
  EXPECT_EQ(parsed(frames[1]).at_pointer("/choices/0/finish_reason").get_string(), "stop");
  const auto plain = parsed(chat().plain(test_envelope(), text_answer("", Origin::kSampled)));
  EXPECT_EQ(plain.at_pointer("/choices/0/message/content").get_string(), "");
}

TEST(ChatAnswerTest, RenderingTwiceGivesTheSameBytes) {
  Call call;
  call.id = CallId::fresh();
  call.model = "m";
  const Answer answer = text_answer("x", Origin::kSampled);
  EXPECT_EQ(chat().streamed(envelope(call), answer), chat().streamed(envelope(call), answer));
  EXPECT_THAT(chat().plain(envelope(call), answer), Not(HasSubstr(call.id.value)));
}

// Clients look at a chunk's first choice without asking whether there is one.
TEST(ChatAnswerTest, KeepAliveIsAChunkThatSaysNothing) {
  const auto frames = events(chat().keep_alive(test_envelope()));
  ASSERT_EQ(frames.size(), 1u);
  const auto chunk = parsed(frames[0]);
  EXPECT_EQ(chunk.at_pointer("/object").get_string(), "chat.completion.chunk");
  ASSERT_EQ(chunk.at_pointer("/choices").get_array().size(), 1u);
  EXPECT_EQ(chunk.at_pointer("/choices/0/index").get_int64(), 0);
  EXPECT_THAT(chunk.at_pointer("/choices/0/delta").get_object(), IsEmpty());
  EXPECT_TRUE(chunk.at_pointer("/choices/0/finish_reason").is_null());
}

TEST(ChatErrorTest, HasTheVendorsShape) {
  Problem problem;
  problem.kind = ErrorCode::kInvalidArgument;
  problem.message = "Missing required parameter: 'model'.";
  problem.param = "model";
  problem.code = "missing_required_parameter";
  const ErrorReply reply = chat().error(problem);
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(
      reply.body,
      R"({"error":{"message":"Missing required parameter: 'model'.",)"
      R"("type":"invalid_request_error","param":"model","code":"missing_required_parameter"}})");
}

TEST(ChatErrorTest, StatusFollowsTheKind) {
  const auto status = [](ErrorCode kind) {
    Problem problem;
    problem.kind = kind;
    return chat().error(problem).status;
  };
  EXPECT_EQ(status(ErrorCode::kNotFound), 404);
  EXPECT_EQ(status(ErrorCode::kTooLarge), 413);
  EXPECT_EQ(status(ErrorCode::kExhausted), 429);
  EXPECT_EQ(status(ErrorCode::kUnavailable), 503);
  EXPECT_EQ(status(ErrorCode::kCancelled), 503);
  EXPECT_EQ(status(ErrorCode::kInternal), 500);
}

TEST(ChatErrorTest, WhatEndsTheAgentIsAPlain400WithoutWordsThatMakeItRetry) {
  const auto ending = [](std::string message) {
    Problem problem;
    problem.kind = ErrorCode::kExhausted;
    problem.message = std::move(message);
    problem.end_agent = true;
    return chat().error(problem);
  };
  EXPECT_EQ(ending("no rule matches").status, 400);
  EXPECT_THAT(ending("no rule matches").body, HasSubstr("no rule matches"));
  EXPECT_THAT(ending("x").body, HasSubstr("invalid_request_error"));
  for (const char* word : {"Server is Overloaded", "429", "rate limit", "got 503", "server_error",
                           "maximum context length"}) {
    EXPECT_THAT(ending(word).body, Not(HasSubstr(word))) << word;
    EXPECT_THAT(ending(word).body, HasSubstr("has ended")) << word;
  }
}

TEST(ChatErrorTest, InAStreamItIsAnEvent) {
  Problem problem;
  problem.message = "internal error";
  const auto frames = events(chat().streamed_error({}, problem).front());
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_EQ(parsed(frames[0]).at_pointer("/error/message").get_string(), "internal error");
  EXPECT_EQ(frames[1], "[DONE]");
}

TEST(ChatModelsTest, ListsModels) {
  const std::vector<std::string> names{"a", "b"};
  const auto list = parsed(chat().models(names));
  EXPECT_EQ(list.at_pointer("/object").get_string(), "list");
  EXPECT_EQ(list.at_pointer("/data/1/id").get_string(), "b");
  EXPECT_EQ(parsed(chat().model("a")).at_pointer("/object").get_string(), "model");
}

TEST(ChatSystemTest, ManyLeadingSystemMessagesAreReadOnceEach) {
  Bytes body = R"({"model":"m","messages":[)";
  for (int i = 0; i < 100'000; ++i) body += R"({"role":"system","content":"s"},)";
  body += R"({"role":"user","content":"u"}]})";
  const auto result = peek(body);
  ASSERT_TRUE(result);
  EXPECT_EQ(chat().system_text(*result), "s\ns\ns\ns\ns\ns\ns\ns");
}

TEST(ChatToolsTest, ToolsArePutBehindTheAgentsOwnAndAllElseStays) {
  const std::string lookup =
      R"({"type":"function","function":{"name":"lookup","description":"Looks \"it\" up.",)"
      R"("parameters":{"type": "object", "x": 1.0}}})";
  const std::string write =
      R"({"type":"function","function":{"name":"write","parameters":{"type":"object"}}})";
  const auto with = [](std::string_view body) {
    return testing::with_tools(chat_codec(), Bytes(body));
  };
  EXPECT_EQ(with(R"({ "model":"m",	"n": 1.50 })"),
            R"({ "model":"m",	"n": 1.50 ,"tools":[)" + lookup + "," + write + "]}");
  EXPECT_EQ(with(R"({"tools":null,"a":1})"),
            R"({"tools":[)" + lookup + "," + write + R"(],"a":1})");
  EXPECT_EQ(with(R"({"tools":[ ]})"), R"({"tools":[)" + lookup + "," + write + R"( ]})");
  // By the names of functions and of custom tools, whatever else stands there.
  EXPECT_EQ(
      with(R"({"tools":[{"type":"custom","custom":{"name":"write"}}, 7,{"name":"lookup"}],"a":1})"),
      R"({"tools":[{"type":"custom","custom":{"name":"write"}}, 7,{"name":"lookup"},)" + lookup +
          R"(],"a":1})");
  EXPECT_EQ(with(R"({"tools":[)" + lookup + "," + write + "]}"), "nothing");
  EXPECT_EQ(with(R"({"tools":[{]})"), "invalid_argument");
  EXPECT_EQ(with(R"({"tools":[{"function":{"name":}}]})"), "invalid_argument");
}

}  // namespace
}  // namespace sluice::llm
