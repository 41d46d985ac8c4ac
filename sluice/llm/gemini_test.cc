#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/llm/codecs.h"
#include "sluice/llm/gemini_url.h"
#include "sluice/llm/testing.h"

namespace sluice::llm {
namespace {

using testing::busy_answer;
using ::testing::ElementsAre;
using testing::ending;
using testing::events;
using ::testing::HasSubstr;
using testing::parsed;
using testing::status_of;
using testing::test_envelope;
using testing::text_at;

const Codec& codec() {
  return gemini_codec();
}

Target target() {
  return gemini_endpoint("mock-model:streamGenerateContent", "alt=sse")->target;
}

// What Gemini CLI 0.61.0 sends in its second turn, shortened.
constexpr std::string_view kFirst =
    R"({"contents":[{"parts":[{"text":"<session_context>"},{"text":"Write hello.txt"}],"role":"user"}]})";
constexpr std::string_view kSecond =
    R"({"contents":[{"parts":[{"text":"<session_context>"},{"text":"Write hello.txt"}],"role":"user"},)"
    R"({"parts":[{"text":"I will "},{"text":"write.\n"},{"functionCall":{"id":"call_1","args":{"path":"aé"},"name":"write"},"thoughtSignature":"skip_thought_signature_validator"},)"
    R"({"functionCall":{"id":"call_2","args":{"INVALID_JSON":"{broken"},"name":"bash"}}],"role":"model"},)"
    R"({"parts":[{"functionResponse":{"name":"write","response":{"output":"ok"},"id":"call_1"}},)"
    R"({"functionResponse":{"name":"bash","response":{"odd":[1]},"id":"call_2"}}],"role":"user"}],)"
    R"("systemInstruction":{"parts":[{"text":"You are Gemini CLI"}],"role":"user"},)"
    R"("tools":[{"functionDeclarations":[{"name":"read_file","parametersJsonSchema":{}},{"name":"bash"}]},{"googleSearch":{}}],)"
    R"("toolConfig":{"functionCallingConfig":{"mode":"AUTO"}},)"
    R"("generationConfig":{"temperature":1,"topP":0.95,"topK":64,"maxOutputTokens":9,"candidateCount":2,"stopSequences":["END"],"thinkingConfig":{"includeThoughts":true}}})";

std::optional<size_t> echoed(const Answer& answer, std::string_view earlier,
                             std::string_view later) {
  return testing::echoed(codec(), answer, earlier, later, target());
}

TEST(GeminiUrlTest, SaysModelVerbAndFraming) {
  using Kind = Endpoint::Kind;
  const auto stream = gemini_endpoint("m:streamGenerateContent", "key=x&alt=sse");
  ASSERT_TRUE(stream);
  EXPECT_EQ(stream->kind, Kind::kCall);
  EXPECT_EQ(stream->target.model, "m");
  EXPECT_EQ(stream->target.stream, true);
  EXPECT_EQ(stream->target.framing, Framing::kEvents);
  EXPECT_EQ(gemini_endpoint("m:streamGenerateContent", "")->target.framing, Framing::kArray);
  EXPECT_EQ(gemini_endpoint("m:streamGenerateContent", "alt=json&alt=sse")->target.framing,
            Framing::kEvents);
  EXPECT_EQ(gemini_endpoint("m:streamGenerateContent", "xalt=sse&")->target.framing,
            Framing::kArray);
  const auto plain = gemini_endpoint("tuned:v1:generateContent", "");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->target.model, "tuned:v1");
  EXPECT_EQ(plain->target.stream, false);
  EXPECT_EQ(gemini_endpoint("m:countTokens", "")->kind, Kind::kCount);
  EXPECT_EQ(gemini_endpoint("m:embedContent", "")->kind, Kind::kUnknown);
  EXPECT_FALSE(gemini_endpoint("m", ""));
}

TEST(GeminiPeekTest, ReadsWhatTheGateNeeds) {
  const Bytes body(kSecond);
  const auto result = testing::peek(codec(), body, target());
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->model, "mock-model");
  EXPECT_TRUE(result->stream);
  EXPECT_TRUE(result->has_tools);
  EXPECT_EQ(result->n, 2u);
  EXPECT_EQ(result->messages, 3u);
  EXPECT_EQ(result->framing, Framing::kEvents);
  EXPECT_EQ(codec().system_text(*result), "You are Gemini CLI");
}

TEST(GeminiPeekTest, KnowsBothSpellings) {
  const Bytes body =
      R"({"contents":[{"parts":{"text":"hi"}}],"system_instruction":{"parts":{"text":"s"}},)"
      R"("generation_config":{"candidate_count":3,"top_k":5,"max_output_tokens":7},)"
      R"("tools":{"function_declarations":[{"name":"f"}]}})";
  const auto result = testing::peek(codec(), body, target());
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->n, 3u);
  EXPECT_TRUE(result->has_tools);
  EXPECT_EQ(codec().system_text(*result), "s");
  const auto request = codec().parse(body);
  ASSERT_TRUE(request) << request.error().message;
  EXPECT_EQ(request->messages[1].text, "hi");
  EXPECT_EQ(request->top_k, 5);
  EXPECT_EQ(request->max_tokens, 7);
  EXPECT_THAT(testing::tool_names(*request), ElementsAre("f"));
}

TEST(GeminiPeekTest, NamesTheFieldThatIsMissingOrWrong) {
  const auto refused = [](const Bytes& body) {
    return testing::refused(codec(), body, target());
  };
  EXPECT_THAT(refused("{}"), HasSubstr("contents is not specified"));
  EXPECT_THAT(refused(R"({"contents":[]})"), HasSubstr("contents is not specified"));
  EXPECT_THAT(refused(R"({"contents":"hi"})"), HasSubstr("contents is not specified"));
  EXPECT_THAT(refused(R"({"contents":["hi"]})"), HasSubstr("contents[0]: "));
  EXPECT_THAT(refused(R"({"contents":[{}],"tools":1})"), HasSubstr("tools: "));
  EXPECT_THAT(refused(R"({"contents":[{}],"generationConfig":1})"),
              HasSubstr("generation_config: "));
  EXPECT_THAT(refused(R"({"contents":[{}],"generationConfig":{"candidateCount":0}})"),
              HasSubstr("candidate_count"));
  EXPECT_THAT(refused(R"({"contents":[{}],"cachedContent":"cachedContents/1"})"),
              HasSubstr("Nothing is cached here"));
  EXPECT_THAT(refused("nonsense"), HasSubstr("Invalid JSON payload"));
  EXPECT_THAT(testing::refused(codec(), R"({"contents":[{}]})", {}), HasSubstr("model: "));
}

TEST(GeminiParseTest, GivesTheCanonicalForm) {
  const auto request = codec().parse(Bytes(kSecond));
  ASSERT_TRUE(request) << request.error().message;
  ASSERT_EQ(request->messages.size(), 5u);
  EXPECT_EQ(request->messages[0].role, Role::kSystem);
  EXPECT_EQ(request->messages[0].text, "You are Gemini CLI");
  EXPECT_EQ(request->messages[1].text, "<session_context>\nWrite hello.txt");
  const Message& turn = request->messages[2];
  EXPECT_EQ(turn.role, Role::kAssistant);
  EXPECT_EQ(turn.text, "I will write.\n");
  EXPECT_EQ(turn.reasoning_seal, "skip_thought_signature_validator");
  ASSERT_EQ(turn.tool_calls.size(), 2u);
  EXPECT_EQ(turn.tool_calls[0].arguments, R"({"path":"aé"})");
  EXPECT_EQ(request->messages[3].role, Role::kTool);
  EXPECT_EQ(request->messages[3].tool_call_id, "call_1");
  EXPECT_EQ(request->messages[3].text, "ok");
  EXPECT_EQ(request->messages[4].text, R"({"odd":[1]})");
  EXPECT_THAT(testing::tool_names(*request), ElementsAre("read_file", "bash", "googleSearch"));
  EXPECT_EQ(request->tool_choice, R"({"functionCallingConfig":{"mode":"AUTO"}})");
  EXPECT_EQ(request->temperature, 1.0);
  EXPECT_EQ(request->top_p, 0.95);
  EXPECT_EQ(request->top_k, 64);
  EXPECT_EQ(request->max_tokens, 9);
  EXPECT_THAT(request->stop, ElementsAre("END"));
}

TEST(GeminiParseTest, ThoughtsAreReasoningAndOtherPartsStayRaw) {
  const auto request = codec().parse(Bytes(
      R"({"contents":[{"role":"user","parts":[{"inlineData":{"data":"AA"}},{"text":"look"}]},)"
      R"({"role":"model","parts":[{"text":"hm","thought":true},{"text":"yes","thought_signature":"c2VhbA=="}]}]})"));
  ASSERT_TRUE(request) << request.error().message;
  EXPECT_EQ(request->messages[0].text, "look");
  EXPECT_THAT(request->messages[0].raw, HasSubstr("\"AA\""));
  EXPECT_EQ(request->messages[1].reasoning, "hm");
  EXPECT_EQ(request->messages[1].text, "yes");
  EXPECT_EQ(request->messages[1].reasoning_seal, "c2VhbA==");
}

TEST(GeminiParseTest, CallsWithoutIdsAreNumberedAndTheirResultsFindThem) {
  const auto request = codec().parse(Bytes(
      R"({"contents":[{"role":"user","parts":[{"text":"u"}]},)"
      R"({"role":"model","parts":[{"functionCall":{"name":"bash"}},{"functionCall":{"name":"read","args":{}}},{"functionCall":{"name":"bash","args":{}}}]},)"
      R"({"role":"user","parts":[{"functionResponse":{"name":"read","response":{"result":"1"}}},)"
      R"({"functionResponse":{"name":"bash","response":{"error":"2"}}},{"functionResponse":{"name":"bash","response":{"content":"3"}}},)"
      R"({"functionResponse":{"name":"other","response":"4"}}]}]})"));
  ASSERT_TRUE(request) << request.error().message;
  const auto& calls = request->messages[1].tool_calls;
  EXPECT_EQ(calls[0].id, "call_1");
  EXPECT_EQ(calls[0].arguments, "{}");
  EXPECT_EQ(calls[2].id, "call_3");
  const auto result = [&](size_t i) {
    return request->messages[2 + i].tool_call_id + " " + request->messages[2 + i].text;
  };
  EXPECT_EQ(result(0), "call_2 1");
  EXPECT_EQ(result(1), "call_1 2");
  EXPECT_EQ(result(2), "call_3 3");
  EXPECT_EQ(result(3), " \"4\"");
}

TEST(GeminiParseTest, ToolsHaveOneForm) {
  EXPECT_THAT(
      testing::tools_of(
          codec(), Bytes(R"({"contents":[{}],"tools":[{"functionDeclarations":[)"
                         R"({"name":"f","description":"d","parameters":{"type":"OBJECT"}},)"
                         R"({"name":"g","parametersJsonSchema":{"type":"object"}},{"name":7}]},)"
                         R"({"google\"Search":{}}, 5]})")),
      ElementsAre(
          R"(f|d|{"type":"OBJECT"}|function||)"
          R"({"name":"f","description":"d","parameters":{"type":"OBJECT"}})",
          R"(g||{"type":"object"}|function||{"name":"g","parametersJsonSchema":{"type":"object"}})",
          R"(google"Search|||google"Search||{"google\"Search":{}})"));
}

TEST(GeminiParseTest, PartsOfNoKnownShapeStayRaw) {
  const auto request = codec().parse(Bytes(R"({"contents":[{"parts":["x"]},{"parts":7}]})"));
  ASSERT_TRUE(request) << request.error().message;
  EXPECT_EQ(request->messages[0].text, "");
  EXPECT_EQ(request->messages[0].raw, R"({"parts":["x"]})");
  EXPECT_EQ(request->messages[1].raw, R"({"parts":7})");
}

TEST(GeminiParseTest, RefusesWhatPeekDidNotLookInto) {
  EXPECT_FALSE(codec().parse(Bytes(R"({"contents":[{"parts":tru}]})")));
  EXPECT_FALSE(codec().parse(Bytes(R"({"contents":[{"role":"robot","parts":[]}]})")));
  EXPECT_FALSE(codec().parse(Bytes(R"({"contents":[1]})")));
  EXPECT_FALSE(codec().parse(Bytes("{}")));
}

TEST(GeminiAnswerTest, PlainIsAResponse) {
  EXPECT_EQ(
      codec().plain(test_envelope(), busy_answer()),
      R"({"candidates":[{"content":{"parts":[{"text":"First a file.","thought":true},)"
      R"({"text":"I will write.\n"},)"
      R"({"functionCall":{"id":"call_1","name":"write","args":{"path": "a\u00e9", "n": 1.0}},)"
      R"("thoughtSignature":"c2VhbA=="},)"
      R"({"functionCall":{"id":"call_2","name":"bash","args":{"INVALID_JSON":"{broken"}}}],)"
      R"("role":"model"},"finishReason":"STOP","index":0}],)"
      R"("usageMetadata":{"promptTokenCount":1000,"candidatesTokenCount":50,)"
      R"("totalTokenCount":1050},"modelVersion":"m\"x","responseId":"0123"})");
}

TEST(GeminiAnswerTest, StreamIsOneEventOrOneArray) {
  Envelope envelope = test_envelope();
  const auto stream = events(codec().streamed(envelope, busy_answer()));
  ASSERT_EQ(stream.size(), 1u);
  EXPECT_EQ(stream[0].data, codec().plain(envelope, busy_answer()));
  EXPECT_THAT(codec().stream_type(envelope), HasSubstr("text/event-stream"));
  envelope.framing = Framing::kArray;
  const auto array = parsed(codec().streamed(envelope, busy_answer()));
  EXPECT_EQ(array.get_array().at(0), parsed(stream[0].data));
  EXPECT_THAT(codec().stream_type(envelope), HasSubstr("application/json"));
}

TEST(GeminiAnswerTest, SeveralCandidatesFinishReasonsAndEmptyAnswers) {
  Answer answer = text_answer("", Origin::kSampled);
  answer.choices.resize(3);
  answer.choices[1].message.text = "b";
  answer.choices[1].finish = Finish::kLength;
  answer.choices[2].message.refusal = "no";
  answer.choices[2].finish = Finish::kContentFilter;
  const auto response = parsed(codec().plain(test_envelope(), answer));
  EXPECT_FALSE(response.get_object().contains("usageMetadata"));
  EXPECT_EQ(text_at(response, "/candidates/0/content/parts/0/text"), "");
  EXPECT_EQ(text_at(response, "/candidates/0/finishReason"), "STOP");
  EXPECT_EQ(text_at(response, "/candidates/1/finishReason"), "MAX_TOKENS");
  EXPECT_EQ(text_at(response, "/candidates/2/finishReason"), "SAFETY");
  EXPECT_EQ(text_at(response, "/candidates/2/content/parts/0/text"), "no");
  EXPECT_EQ(response.at_pointer("/candidates/2/index").get_int64(), 2);
}

TEST(GeminiAnswerTest, OnlyBase64IsASignature) {
  const auto signature = [](std::string seal) {
    Answer answer = text_answer("x", Origin::kSampled);
    answer.choices[0].message.reasoning_seal = std::move(seal);
    const auto part =
        parsed(codec().plain(test_envelope(), answer)).at_pointer("/candidates/0/content/parts/0");
    const auto* found = part.get_object().if_contains("thoughtSignature");
    return found == nullptr ? "" : std::string(found->get_string());
  };
  EXPECT_EQ(signature("c2VhbA=="), "c2VhbA==");
  EXPECT_EQ(signature("c2Vhb+/="), "c2Vhb+/=");
  for (const char* bad : {"", "=", "====", "a===", "abc", "ab=c", "not base64!", "c2VhbA==\n"}) {
    EXPECT_EQ(signature(bad), "") << bad;
  }
}

TEST(GeminiKeepAliveTest, IsALineThatSaysNothing) {
  // A comment makes Gemini CLI throw the reply away.
  EXPECT_EQ(codec().keep_alive(test_envelope()), "\n");
}

TEST(GeminiErrorTest, HasTheVendorsShapesAndStatuses) {
  Problem problem;
  problem.kind = ErrorCode::kNotFound;
  problem.message = "no such model";
  EXPECT_EQ(codec().error(problem).body,
            R"({"error":{"code":404,"message":"no such model","status":"NOT_FOUND"}})");
  EXPECT_EQ(status_of(codec(), ErrorCode::kExhausted), 429);
  EXPECT_EQ(status_of(codec(), ErrorCode::kCancelled), 503);
  for (int kind = 0; kind < kErrorCodes; ++kind) {
    problem.kind = static_cast<ErrorCode>(kind);
    const ErrorReply each = codec().error(problem);
    EXPECT_EQ(parsed(each.body).at_pointer("/error/code").get_int64(), each.status) << kind;
    EXPECT_NE(text_at(parsed(each.body), "/error/status"), "") << kind;
  }
  const ErrorReply reply = codec().error(ending("try again"));
  EXPECT_EQ(reply.status, 400);
  EXPECT_THAT(reply.body, Not(HasSubstr("try again")));
}

TEST(GeminiErrorTest, InAStreamItComesAloneAndThenAReasonToStop) {
  Envelope envelope = test_envelope();
  const auto pieces = codec().streamed_error(envelope, ending("enough"));
  ASSERT_EQ(pieces.size(), 2u);
  EXPECT_EQ(pieces[0], codec().error(ending("enough")).body + "\n");
  EXPECT_EQ(text_at(parsed(events(pieces[1])[0].data), "/candidates/0/finishReason"),
            "PROHIBITED_CONTENT");
  envelope.framing = Framing::kArray;
  const auto array = codec().streamed_error(envelope, ending("enough"));
  ASSERT_EQ(array.size(), 1u);
  EXPECT_EQ(parsed(array[0]).at_pointer("/0/error/code").get_int64(), 400);
}

TEST(GeminiCountTest, CountsAPromptOrARequestInside) {
  json::Peeker peeker;
  const std::string prompt = R"({"contents":[{"parts":[{"text":"hi"}]}]})";
  const auto counted = codec().count_tokens(peeker, prompt, target());
  ASSERT_TRUE(counted) << counted.error().message;
  EXPECT_EQ(*counted, R"({"totalTokens":7})");
  EXPECT_EQ(*codec().count_tokens(peeker, R"({"generateContentRequest":)" + prompt + "}", target()),
            *counted);
  EXPECT_EQ(codec().count_tokens(peeker, "{}", target()).error().param, "contents");
}

TEST(GeminiHistoryTest, MatchesByIdsAndWithoutThoughts) {
  EXPECT_EQ(echoed(busy_answer(), kFirst, kSecond), 0u);
  EXPECT_TRUE(testing::continues(codec(), kFirst, kSecond, target()));
  Answer other = busy_answer();
  other.choices[0].message.tool_calls[1].id = "call_9";
  EXPECT_EQ(echoed(other, kFirst, kSecond), std::nullopt);
}

TEST(GeminiHistoryTest, WhereIdsAreNotEchoedNamesCount) {
  const auto later = [](std::string_view second) {
    return R"({"contents":[{"parts":[{"text":"<session_context>"},{"text":"Write hello.txt"}],"role":"user"},)"
           R"({"role":"model","parts":[{"functionCall":{"name":"write","args":{}}},{"functionCall":{"name":")" +
           std::string(second) + R"(","args":{}}}]}]})";
  };
  EXPECT_EQ(echoed(busy_answer(), kFirst, later("bash")), 0u);
  EXPECT_EQ(echoed(busy_answer(), kFirst, later("read")), std::nullopt);
}

TEST(GeminiHistoryTest, ContentsOfTheModelInARowAreOneTurn) {
  EXPECT_EQ(
      echoed(
          text_answer("Hello", Origin::kSampled), kFirst,
          R"({"contents":[{"parts":[{"text":"<session_context>"},{"text":"Write hello.txt"}],"role":"user"},)"
          R"({"role":"model","parts":[{"text":"Hel"}]},{"role":"model","parts":[{"text":"lo"}]},)"
          R"({"role":"user","parts":[{"text":"more"}]}]})"),
      0u);
}

TEST(GeminiModelsTest, AreListedAsGoogleDoes) {
  const std::vector<std::string> two{"a", "b"};
  EXPECT_EQ(text_at(parsed(codec().models(two)), "/models/1/name"), "models/b");
  EXPECT_EQ(text_at(parsed(codec().model("a")), "/displayName"), "a");
}

// Into the list of functions that is there, in either spelling: servers may refuse a second one.
TEST(GeminiToolsTest, ToolsArePutBehindTheAgentsOwnInTheDialectsShape) {
  const std::string lookup = R"({"name":"lookup","description":"Looks \"it\" up.",)"
                             R"("parametersJsonSchema":{"type": "object", "x": 1.0}})";
  const std::string write = R"({"name":"write","parametersJsonSchema":{"type":"object"}})";
  const std::string both = R"({"functionDeclarations":[)" + lookup + "," + write + "]}";
  const auto with = [](std::string_view body) {
    return testing::with_tools(gemini_codec(), Bytes(body));
  };
  EXPECT_EQ(with(R"({"a":1})"), R"({"a":1,"tools":[)" + both + "]}");
  EXPECT_EQ(with(R"({"tools":[{"googleSearch":{}}]})"),
            R"({"tools":[{"googleSearch":{}},)" + both + "]}");
  EXPECT_EQ(
      with(R"({"tools":[{"googleSearch":{}},{"function_declarations":[{"name":"write"} ]}]})"),
      R"({"tools":[{"googleSearch":{}},{"function_declarations":[{"name":"write"},)" + lookup +
          " ]}]}");
  // A single tool, as protobuf's JSON allows.
  EXPECT_EQ(with(R"({"tools":{"functionDeclarations":[{"name":"write"}]},"a":1})"),
            R"({"tools":{"functionDeclarations":[{"name":"write"},)" + lookup + R"(]},"a":1})");
  EXPECT_EQ(with(R"({"tools":{"googleSearch":{}}})"),
            R"({"tools":[{"googleSearch":{}},)" + both + "]}");
  EXPECT_EQ(with(R"({"tools":[)" + both + "]}"), "nothing");
  EXPECT_EQ(with(R"({"tools":[7]})"), R"({"tools":[7,)" + both + "]}");
}

}  // namespace
}  // namespace sluice::llm
