#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/llm/codecs.h"
#include "sluice/llm/testing.h"

namespace sluice::llm {
namespace {

using testing::busy_answer;
using testing::continues;
using testing::Conversation;
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
  return responses_codec();
}

// What Codex 0.169.0 sends, shortened.
constexpr std::string_view kFirstItems =
    R"({"type":"message","id":"msg_1","role":"developer","content":[{"type":"input_text","text":"You are a coding agent."}]},)"
    R"({"type":"message","id":"msg_2","role":"user","content":[{"type":"input_text","text":"<environment_context>"}]},)"
    R"({"type":"message","id":"msg_3","role":"user","content":[{"type":"input_text","text":"Write hello.txt"}]})";
constexpr std::string_view kEcho =
    R"({"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"First a file."}],"content":null,"encrypted_content":"c2VhbA=="},)"
    R"({"type":"message","status":"completed","id":"msg_4","role":"assistant","content":[{"type":"output_text","text":"I will write.\n","annotations":[],"logprobs":[]}]},)"
    R"({"type":"function_call","status":"completed","id":"fc_1","name":"write","arguments":"{\"path\": \"a\\u00e9\",\n\"n\": 1.0}","call_id":"call_1"},)"
    R"({"type":"function_call","status":"completed","id":"fc_2","name":"bash","arguments":"{broken","call_id":"call_2"})";
constexpr std::string_view kOutputs =
    R"({"type":"function_call_output","call_id":"call_1","output":"Chunk ID: b7c919\nok"},)"
    R"({"type":"function_call_output","call_id":"call_2","output":"failed to parse"})";
constexpr std::string_view kTools =
    R"([{"type":"function","name":"exec_command","strict":false,"parameters":{"type":"object"}},)"
    R"({"type":"custom","name":"apply_patch","format":{"type":"grammar","syntax":"lark","definition":"start: x"}},)"
    R"({"type":"namespace","name":"mcp__env","description":"d","tools":[{"type":"function","name":"answer","parameters":{}},{"type":"custom","name":"note"}]},)"
    R"({"type":"web_search"}])";

std::string request(std::string_view items, std::string_view more = "") {
  return R"({"model":"mock-model","stream":true,"input":[)" + std::string(items) + "]" +
         std::string(more) + "}";
}
std::string golden() {
  return request(std::string(kFirstItems) + "," + std::string(kEcho) + "," + std::string(kOutputs),
                 R"(,"tools":)" + std::string(kTools) +
                     R"(,"tool_choice":"auto","parallel_tool_calls":true,"store":false,)"
                     R"("include":["reasoning.encrypted_content"],"client_metadata":{"a":"b"})");
}

TEST(ResponsesPeekTest, ReadsWhatTheGateNeeds) {
  const Bytes body = request(kFirstItems, R"(,"instructions":"Be brief.","tools":[{}])");
  const auto result = testing::peek(codec(), body);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->model, "mock-model");
  EXPECT_TRUE(result->stream);
  EXPECT_TRUE(result->has_tools);
  EXPECT_EQ(result->n, 1u);
  EXPECT_EQ(result->messages, 3u);
  EXPECT_EQ(codec().system_text(*result), "Be brief.\nYou are a coding agent.");
}

TEST(ResponsesPeekTest, InputMayBeAString) {
  const Bytes body = R"({"model":"m","input":"hi there"})";
  const auto result = testing::peek(codec(), body);
  ASSERT_TRUE(result);
  EXPECT_EQ(result->messages, 1u);
  EXPECT_FALSE(result->stream);
  EXPECT_EQ(mark_of(*result).bytes, 0u);
  EXPECT_EQ(codec().system_text(*result), "");
  EXPECT_EQ(codec().parse(body)->messages[0].text, "hi there");
}

TEST(ResponsesPeekTest, NamesTheFieldThatIsMissingOrWrong) {
  const auto refused = [](const Bytes& body) {
    return testing::refused(codec(), body);
  };
  EXPECT_EQ(refused(R"({"input":"x"})"), "model: Missing required parameter: 'model'.");
  EXPECT_EQ(refused(R"({"model":"m"})"), "input: Missing required parameter: 'input'.");
  EXPECT_THAT(refused(R"({"model":"m","input":1})"), HasSubstr("input: Invalid type"));
  EXPECT_THAT(refused(R"({"model":"m","input":[]})"), HasSubstr("input: Invalid 'input': empty"));
  EXPECT_THAT(refused(R"({"model":"m","input":["x"]})"), HasSubstr("input[0]: "));
  EXPECT_THAT(refused(R"({"model":"m","input":"x","stream":1})"), HasSubstr("stream: "));
  EXPECT_THAT(refused(R"({"model":"m","input":"x","tools":1})"), HasSubstr("tools: "));
  EXPECT_THAT(refused(R"({"model":"m","input":"x","instructions":[]})"),
              HasSubstr("instructions: "));
  EXPECT_THAT(refused("[]"), HasSubstr("could not parse the JSON body"));
}

TEST(ResponsesPeekTest, RefusesWhatLeansOnStoredState) {
  const auto refused = [](std::string_view more) {
    const auto result =
        testing::peek(codec(), R"({"model":"m","input":"x",)" + std::string(more) + "}");
    return result ? "" : result.error().code + " " + result.error().message;
  };
  EXPECT_THAT(refused(R"("previous_response_id":"resp_7")"),
              HasSubstr("previous_response_not_found Previous response with id 'resp_7'"));
  EXPECT_THAT(refused(R"("conversation":{"id":"c"})"), HasSubstr("whole conversation"));
  EXPECT_THAT(refused(R"("prompt":{"id":"p"})"), HasSubstr("whole conversation"));
  EXPECT_THAT(refused(R"("background":true)"), HasSubstr("whole conversation"));
  EXPECT_EQ(refused(R"("background":false,"previous_response_id":null,"conversation":null)"), "");
  EXPECT_EQ(testing::refused(codec(), request(R"({"role":"user","content":"x"},)"
                                              R"({"type":"item_reference","id":"msg_9"})")),
            "input[1]: Item with id 'msg_9' not found. Nothing is stored here: send the whole "
            "conversation as 'input'.");
  // A text about it is none.
  EXPECT_TRUE(
      testing::peek(codec(), request(R"({"role":"user","content":"what is item_reference?"})")));
}

TEST(ResponsesParseTest, GivesTheCanonicalForm) {
  const auto request = codec().parse(Bytes(golden()));
  ASSERT_TRUE(request) << request.error().message;
  ASSERT_EQ(request->messages.size(), 6u);
  EXPECT_EQ(request->messages[0].role, Role::kSystem);
  EXPECT_EQ(request->messages[2].text, "Write hello.txt");
  const Message& turn = request->messages[3];
  EXPECT_EQ(turn.role, Role::kAssistant);
  EXPECT_EQ(turn.text, "I will write.\n");
  EXPECT_EQ(turn.reasoning, "First a file.");
  EXPECT_EQ(turn.reasoning_seal, "c2VhbA==");
  ASSERT_EQ(turn.tool_calls.size(), 2u);
  EXPECT_EQ(turn.tool_calls[0].id, "call_1");
  EXPECT_EQ(turn.tool_calls[0].arguments, "{\"path\": \"a\\u00e9\",\n\"n\": 1.0}");
  EXPECT_EQ(turn.tool_calls[1].arguments, "{broken");
  EXPECT_EQ(turn.raw, "[" + std::string(kEcho) + "]");
  EXPECT_EQ(request->messages[4].role, Role::kTool);
  EXPECT_EQ(request->messages[4].tool_call_id, "call_1");
  EXPECT_EQ(request->messages[4].text, "Chunk ID: b7c919\nok");
  EXPECT_THAT(testing::tool_names(*request),
              ElementsAre("exec_command", "apply_patch", "mcp__env__answer", "mcp__env__note",
                          "web_search"));
  EXPECT_EQ(request->tool_choice, "\"auto\"");
}

TEST(ResponsesParseTest, ToolsHaveOneForm) {
  EXPECT_THAT(
      testing::tools_of(
          codec(),
          Bytes(request(
              R"({"role":"user","content":"x"})",
              R"(,"tools":[{"type":"function","name":"f","description":"d","parameters":{"a": 1}},)"
              R"({"type":"custom","name":"patch","format":{"type":"grammar"}},)"
              R"({"type":"namespace","name":"mcp__env","tools":[{"type":"function","name":"a"}]},)"
              R"({"type":"web_search"},{},7])"))),
      ElementsAre(R"(f|d|{"a": 1}|function||)"
                  R"({"type":"function","name":"f","description":"d","parameters":{"a": 1}})",
                  R"(patch|||custom||{"type":"custom","name":"patch","format":{"type":"grammar"}})",
                  R"(mcp__env__a|||function|mcp__env|{"type":"function","name":"a"})",
                  R"(web_search|||web_search||{"type":"web_search"})"));
}

TEST(ResponsesParseTest, ReadsItemsOfOtherKinds) {
  const auto parsed = codec().parse(Bytes(request(
      R"({"role":"user","content":[{"type":"input_image","image_url":"data:AA"},{"type":"input_text","text":"look"}]},)"
      R"({"type":"custom_tool_call","call_id":"c1","name":"apply_patch","input":"*** Begin Patch"},)"
      R"({"type":"function_call","call_id":"c2","namespace":"mcp__env","name":"answer","arguments":"{}"},)"
      R"({"type":"web_search_call","id":"ws_1","status":"completed"},)"
      R"({"type":"custom_tool_call_output","call_id":"c1","output":[{"type":"input_text","text":"done"}]},)"
      R"({"type":"reasoning","summary":[],"content":[{"type":"reasoning_text","text":"raw"}]},)"
      R"({"role":"assistant","content":[{"type":"refusal","refusal":"no"}]},)"
      R"({"type":"something_new","x":1})",
      R"(,"temperature":0.5,"top_p":0.9,"max_output_tokens":7)")));
  ASSERT_TRUE(parsed) << parsed.error().message;
  ASSERT_EQ(parsed->messages.size(), 5u);
  EXPECT_EQ(parsed->messages[0].text, "look");
  EXPECT_THAT(parsed->messages[0].raw, HasSubstr("data:AA"));
  const Message& calls = parsed->messages[1];
  ASSERT_EQ(calls.tool_calls.size(), 2u);
  EXPECT_EQ(calls.tool_calls[0].kind, ToolCall::Kind::kCustom);
  EXPECT_EQ(calls.tool_calls[0].arguments, "*** Begin Patch");
  EXPECT_EQ(calls.tool_calls[1].name, "mcp__env__answer");
  EXPECT_EQ(calls.tool_calls[1].space, "mcp__env");
  EXPECT_THAT(calls.raw, HasSubstr("web_search_call"));
  EXPECT_EQ(parsed->messages[2].text, "done");
  EXPECT_EQ(parsed->messages[3].reasoning, "raw");
  EXPECT_EQ(parsed->messages[3].refusal, "no");
  EXPECT_EQ(parsed->messages[4].role, Role::kUser);
  EXPECT_EQ(parsed->temperature, 0.5);
  EXPECT_EQ(parsed->top_p, 0.9);
  EXPECT_EQ(parsed->max_tokens, 7);
}

TEST(ResponsesParseTest, RefusesWhatPeekDidNotLookInto) {
  EXPECT_FALSE(codec().parse(Bytes(request(R"({"role":"user","content":tru})"))));
  EXPECT_FALSE(codec().parse(Bytes(request(R"({"role":"robot","content":"x"})"))));
  EXPECT_FALSE(codec().parse(Bytes(request("1"))));
  EXPECT_FALSE(codec().parse(Bytes(R"({"model":"m"})")));
}

TEST(ResponsesAnswerTest, StreamIsTheVendorsSequence) {
  const auto stream = events(codec().streamed(test_envelope(), busy_answer()));
  EXPECT_THAT(
      names(stream),
      ElementsAre("response.created", "response.in_progress",  //
                  "response.output_item.added", "response.reasoning_summary_part.added",
                  "response.reasoning_summary_text.delta", "response.reasoning_summary_text.done",
                  "response.reasoning_summary_part.done", "response.output_item.done",  //
                  "response.output_item.added", "response.content_part.added",
                  "response.output_text.delta", "response.output_text.done",
                  "response.content_part.done", "response.output_item.done",  //
                  "response.output_item.added", "response.function_call_arguments.delta",
                  "response.function_call_arguments.done", "response.output_item.done",  //
                  "response.output_item.added", "response.function_call_arguments.delta",
                  "response.function_call_arguments.done", "response.output_item.done",  //
                  "response.completed"));
  for (size_t i = 0; i < stream.size(); ++i) {
    const auto event = parsed(stream[i].data);
    EXPECT_EQ(text_at(event, "/type"), stream[i].name);
    EXPECT_EQ(event.at("sequence_number").get_int64(), static_cast<int64_t>(i));
  }
  const auto created = parsed(stream[0].data);
  EXPECT_EQ(text_at(created, "/response/id"), "resp_0123");
  EXPECT_EQ(text_at(created, "/response/status"), "in_progress");
  EXPECT_EQ(text_at(created, "/response/model"), "m\"x");
  EXPECT_EQ(text_at(parsed(stream[10].data), "/delta"), "I will write.\n");
  EXPECT_EQ(text_at(parsed(stream[15].data), "/delta"),
            busy_answer().choices[0].message.tool_calls[0].arguments);

  // What an item was done with is what the whole response holds of it.
  const auto completed = parsed(stream.back().data);
  const auto& output = completed.at_pointer("/response/output").get_array();
  ASSERT_EQ(output.size(), 4u);
  for (size_t i = 0; const size_t at : {7, 13, 17, 21}) {
    const auto done = parsed(stream[at].data);
    EXPECT_EQ(done.at("output_index").get_int64(), static_cast<int64_t>(i));
    EXPECT_EQ(done.at("item"), output[i++]);
  }
  EXPECT_EQ(text_at(output[0], "/encrypted_content"), "c2VhbA==");
  EXPECT_EQ(text_at(output[0], "/summary/0/text"), "First a file.");
  EXPECT_EQ(text_at(output[3], "/call_id"), "call_2");
  EXPECT_EQ(text_at(output[3], "/arguments"), "{broken");
  EXPECT_EQ(completed.at_pointer("/response/usage/total_tokens").get_int64(), 1050);
}

TEST(ResponsesAnswerTest, PlainIsTheResponseOfTheLastEvent) {
  const auto stream = events(codec().streamed(test_envelope(), busy_answer()));
  EXPECT_EQ(parsed(codec().plain(test_envelope(), busy_answer())),
            parsed(stream.back().data).at("response"));
}

TEST(ResponsesAnswerTest, ToolsAreOfTheKindThatTheRequestDeclares) {
  Call call;
  call.dialect = Dialect::kResponses;
  call.body = Body(std::make_shared<const Bytes>(R"({"model":"m","input":"hi","tools":)" +
                                                 std::string(kTools) + "}"));
  Answer answer = text_answer("", Origin::kSampled);
  answer.choices[0].message.tool_calls = {{"c1", "apply_patch", "*** Begin Patch"},
                                          {"c2", "mcp__env__answer", "{}"},
                                          {"c3", "mcp__env__note", "text"},
                                          {"c4", "exec_command", "{}"},
                                          {"c5", "no_such_tool", "{}"}};
  ASSERT_TRUE(complete(answer, call));
  const auto output = parsed(codec().plain(test_envelope(), answer)).at("output").get_array();
  ASSERT_EQ(output.size(), 5u);
  EXPECT_EQ(text_at(output[0], "/type"), "custom_tool_call");
  EXPECT_EQ(text_at(output[0], "/input"), "*** Begin Patch");
  EXPECT_EQ(text_at(output[1], "/namespace"), "mcp__env");
  EXPECT_EQ(text_at(output[1], "/name"), "answer");
  EXPECT_EQ(text_at(output[2], "/type"), "custom_tool_call");
  EXPECT_EQ(text_at(output[2], "/name"), "note");
  EXPECT_EQ(text_at(output[3], "/type"), "function_call");
  EXPECT_EQ(text_at(output[4], "/name"), "no_such_tool");

  const auto stream = events(codec().streamed(test_envelope(), answer));
  EXPECT_EQ(stream[3].name, "response.custom_tool_call_input.delta");
  EXPECT_EQ(text_at(parsed(stream[4].data), "/input"), "*** Begin Patch");
}

TEST(ResponsesAnswerTest, ARefusalIsAPartOfItsOwn) {
  Answer answer = text_answer("", Origin::kSampled);
  answer.choices[0].message.refusal = "I will not.";
  const auto stream = events(codec().streamed(test_envelope(), answer));
  EXPECT_THAT(names(stream),
              ::testing::IsSupersetOf({"response.refusal.delta", "response.refusal.done"}));
  const auto plain = parsed(codec().plain(test_envelope(), answer));
  EXPECT_EQ(plain.at_pointer("/output/0/content").get_array().size(), 1u);
  EXPECT_EQ(text_at(plain, "/output/0/content/0/refusal"), "I will not.");
  EXPECT_EQ(text_at(plain, "/status"), "completed");
}

TEST(ResponsesAnswerTest, WhatWasCutIsIncomplete) {
  Answer answer = text_answer("cut", Origin::kSampled);
  answer.choices[0].finish = Finish::kLength;
  const auto stream = events(codec().streamed(test_envelope(), answer));
  EXPECT_EQ(stream.back().name, "response.incomplete");
  const auto response = parsed(stream.back().data).at("response");
  EXPECT_EQ(text_at(response, "/incomplete_details/reason"), "max_output_tokens");
  EXPECT_EQ(text_at(response, "/output/0/status"), "incomplete");
  answer.choices[0].finish = Finish::kContentFilter;
  EXPECT_EQ(text_at(parsed(codec().plain(test_envelope(), answer)), "/incomplete_details/reason"),
            "content_filter");
}

TEST(ResponsesAnswerTest, AnEmptyAnswerIsAnEmptyMessage) {
  const auto plain = parsed(codec().plain(test_envelope(), text_answer("", Origin::kSampled)));
  EXPECT_EQ(text_at(plain, "/output/0/content/0/text"), "");
  EXPECT_EQ(plain.at("usage").at("total_tokens").as_int64(), 0);
  const auto stream = events(codec().streamed(test_envelope(), text_answer("", Origin::kSampled)));
  EXPECT_THAT(names(stream), ::testing::Not(::testing::Contains("response.output_text.delta")));
}

TEST(ResponsesAnswerTest, ReasoningIsSealedWhateverTheAnswerBrings) {
  Answer answer = text_answer("x", Origin::kSampled);
  answer.choices[0].message.reasoning = "hm";
  const auto seal = [&] {
    return std::string(
        text_at(parsed(codec().plain(test_envelope(), answer)), "/output/0/encrypted_content"));
  };
  EXPECT_EQ(seal().size(), 32u);
  EXPECT_EQ(seal(), seal());
  answer.choices[0].message.reasoning.clear();
  answer.choices[0].message.reasoning_seal = "opaque";
  EXPECT_EQ(seal(), "opaque");
}

TEST(ResponsesKeepAliveTest, EventsAreNumberedOnAndCreatedComesOnce) {
  Envelope envelope = test_envelope();
  std::string stream;
  for (; envelope.keep_alives < 3; ++envelope.keep_alives) stream += codec().keep_alive(envelope);
  stream += codec().streamed(envelope, text_answer("x", Origin::kSampled));
  const auto all = events(stream);
  EXPECT_EQ(all[0].name, "response.created");
  for (size_t i = 1; i < 4; ++i) EXPECT_EQ(all[i].name, "response.in_progress");
  EXPECT_EQ(all[4].name, "response.output_item.added");
  for (size_t i = 0; i < all.size(); ++i) {
    const auto event = parsed(all[i].data);
    EXPECT_EQ(event.at("sequence_number").get_int64(), static_cast<int64_t>(i));
    if (i < 4) EXPECT_EQ(text_at(event, "/response/id"), "resp_0123");
  }
}

TEST(ResponsesErrorTest, HasTheVendorsShapeAndEndsAgentsWith400) {
  EXPECT_EQ(status_of(codec(), ErrorCode::kNotFound), 404);
  EXPECT_EQ(status_of(codec(), ErrorCode::kExhausted), 429);
  EXPECT_EQ(status_of(codec(), ErrorCode::kCancelled), 503);
  const ErrorReply reply = codec().error(ending("rate limit"));
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(text_at(parsed(reply.body), "/error/type"), "invalid_request_error");
  EXPECT_THAT(reply.body, Not(HasSubstr("rate limit")));
}

TEST(ResponsesErrorTest, InAStreamItIsAnErrorAndAFailedResponse) {
  Envelope envelope = test_envelope();
  const auto joined = [&](const Problem& problem) {
    std::string out;
    for (const std::string& piece : codec().streamed_error(envelope, problem)) out += piece;
    return events(out);
  };
  const auto first = joined(ending("enough"));
  EXPECT_THAT(names(first),
              ElementsAre("response.created", "response.in_progress", "error", "response.failed"));
  envelope.keep_alives = 2;
  const auto later = joined(ending("enough"));
  ASSERT_THAT(names(later), ElementsAre("error", "response.failed"));
  EXPECT_EQ(parsed(later[0].data).at("sequence_number").get_int64(), 3);
  EXPECT_EQ(text_at(parsed(later[0].data), "/error/message"), "enough");
  // The code by which Codex gives up.
  const auto failed = parsed(later[1].data);
  EXPECT_EQ(text_at(failed, "/response/error/code"), "invalid_prompt");
  EXPECT_EQ(text_at(failed, "/response/id"), "resp_0123");
  Problem problem;
  problem.kind = ErrorCode::kUnavailable;
  EXPECT_EQ(text_at(parsed(joined(problem)[1].data), "/response/error/code"), "server_error");
  problem.kind = ErrorCode::kExhausted;
  EXPECT_EQ(text_at(parsed(joined(problem)[1].data), "/response/error/code"),
            "rate_limit_exceeded");
}

TEST(ResponsesCountTest, IsAnEstimate) {
  json::Peeker peeker;
  const auto counted =
      codec().count_tokens(peeker, R"({"input":"12345678","instructions":"1234"})", {});
  ASSERT_TRUE(counted);
  EXPECT_EQ(*counted, R"({"object":"response.input_tokens","input_tokens":4})");
  EXPECT_FALSE(codec().count_tokens(peeker, "nonsense", {}));
}

TEST(ResponsesHistoryTest, ATurnIsARunOfItems) {
  const std::string first = request(kFirstItems);
  EXPECT_EQ(echoed(codec(), busy_answer(), first, golden()), 0u);
  EXPECT_TRUE(continues(codec(), first, golden()));
  EXPECT_FALSE(continues(codec(), golden(), first));
  // Without its reasoning and its text, it is still the same calls.
  const std::string calls = std::string(kEcho.substr(kEcho.find(R"({"type":"function_call")")));
  EXPECT_EQ(echoed(codec(), busy_answer(), first,
                   request(std::string(kFirstItems) + "," + calls + "," + std::string(kOutputs))),
            0u);
  // One call less is another turn.
  EXPECT_EQ(echoed(codec(), busy_answer(), first,
                   request(std::string(kFirstItems) + "," +
                           calls.substr(0, calls.find(R"(,{"type":"function_call")")))),
            std::nullopt);
}

TEST(ResponsesHistoryTest, AStringIsTheFirstMessage) {
  const std::string first = R"({"model":"m","input":"hi \u00e9"})";
  const std::string later = request(
      R"({"role":"user","content":"hi é"},{"role":"assistant","content":"yes"},{"role":"user","content":"go on"})");
  EXPECT_EQ(echoed(codec(), text_answer("yes", Origin::kSampled), first, later), 0u);
  EXPECT_TRUE(continues(codec(), first, later));
  EXPECT_TRUE(continues(
      codec(), first,
      request(
          R"({"type":"message","role":"user","content":[{"type":"input_text","text":"hi é"}]})")));
  EXPECT_FALSE(continues(codec(), first, request(R"({"role":"user","content":"ho é"})")));
  EXPECT_FALSE(continues(
      codec(), first,
      request(
          R"({"role":"user","content":[{"type":"input_text","text":"hi é"},{"type":"input_image"}]})")));
}

TEST(ResponsesHistoryTest, AMalformedContinuationIsNone) {
  const Conversation first(codec(), request(kFirstItems));
  for (const char* more : {",oops]", ",{\"role\":\"assistant\",\"content\":oops}]", ",", ""}) {
    std::string later(first.peek.conversation.text);
    later.pop_back();
    later += more;
    EXPECT_EQ(echoed_choice(codec(), mark_of(first.peek), text_answer("", Origin::kSampled),
                            json::Raw{later, json::Type::kArray}),
              std::nullopt);
  }
}

TEST(ResponsesModelsTest, AreOpenAIs) {
  const std::vector<std::string> two{"a", "b"};
  EXPECT_EQ(text_at(parsed(codec().models(two)), "/data/1/id"), "b");
  EXPECT_EQ(text_at(parsed(codec().model("a")), "/object"), "model");
}

TEST(ResponsesToolsTest, ToolsArePutBehindTheAgentsOwnInTheDialectsShape) {
  const std::string lookup =
      R"({"type":"function","name":"lookup","description":"Looks \"it\" up.",)"
      R"("parameters":{"type": "object", "x": 1.0},"strict":false})";
  const std::string own = R"({"type":"web_search"},{"type":"custom","name":"write"})";
  EXPECT_EQ(testing::with_tools(responses_codec(), R"({"tools":[)" + own + R"(],"input":"hi"})"),
            R"({"tools":[)" + own + "," + lookup + R"(],"input":"hi"})");
  EXPECT_EQ(testing::with_tools(responses_codec(), R"({"tools":[)" + own + "," + lookup + "]}"),
            "nothing");
}

}  // namespace
}  // namespace sluice::llm
