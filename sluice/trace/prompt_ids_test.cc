// The token ids of prompts in a trace: written once, and read back whole.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/llm/answer.h"
#include "sluice/trace/files_testing.h"
#include "sluice/trace/jsonl.h"

namespace sluice::trace {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class PromptIdsTest : public testing::TraceTest {
 protected:
  using Ids = std::vector<int32_t>;

  // A call that was answered with a prompt and a completion of these ids.
  std::shared_ptr<llm::Call> turn(Recorder& recorder, Ids prompt, Ids completion) {
    const auto made = call("{}");
    recorder.arrived(*made);
    llm::Answer answer = llm::text_answer("x", llm::Origin::kSampled);
    answer.choices[0].ids = std::move(completion);
    answer.prompt_ids = std::move(prompt);
    recorder.answered(*made, answer);
    return made;
  }
  static Ids ids_of(const Trace& trace, size_t call) {
    auto ids = trace.prompt_ids(trace.calls.at(call));
    EXPECT_TRUE(ids) << call << ": " << ids.error().message;
    return ids.value_or(Ids());
  }
  static Ids range(int32_t begin, int32_t end) {
    Ids out;
    for (int32_t id = begin; id < end; ++id) out.push_back(id);
    return out;
  }
};

TEST_F(PromptIdsTest, APromptIsWrittenOnce) {
  JsonlRecorder recorder(directory_, Logger());
  recorder.opened(rollout_, {});
  const auto first = turn(recorder, {1, 2, 3}, {4, 5});
  const auto second = turn(recorder, {1, 2, 3, 4, 5, 6}, {7});
  ASSERT_TRUE(testing::flush(recorder, rollout_));  // across batches as well
  const auto third = turn(recorder, {1, 2, 3, 4, 5, 6, 7}, {8});
  turn(recorder, {1, 2, 3, 9}, {});
  turn(recorder, {}, {8});
  const Bytes text = lines(recorder);
  EXPECT_THAT(text, HasSubstr("\"version\":3,"));
  EXPECT_THAT(text, HasSubstr(",\"prompt_ids\":[1,2,3]}}\n"));
  EXPECT_THAT(text,
              HasSubstr(",\"prompt_after\":\"" + first->id.value + "\",\"prompt_ids\":[6]}}\n"));
  EXPECT_THAT(text,
              HasSubstr(",\"prompt_after\":\"" + second->id.value + "\",\"prompt_ids\":[]}}\n"));
  EXPECT_THAT(text, HasSubstr(",\"prompt_ids\":[1,2,3,9]}}\n"));
  const Trace trace = load_trace();
  EXPECT_EQ(trace.broken_lines, 0u);
  EXPECT_EQ(ids_of(trace, 0), (Ids{1, 2, 3}));
  EXPECT_EQ(ids_of(trace, 1), (Ids{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(ids_of(trace, 2), (Ids{1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(ids_of(trace, 3), (Ids{1, 2, 3, 9}));
  EXPECT_EQ(ids_of(trace, 4), Ids());
  EXPECT_EQ(trace.calls[2].prompt_after, 1u);
  EXPECT_EQ(trace.calls[3].prompt_after, std::nullopt);
  EXPECT_EQ(trace.calls[2].answer->choices[0].ids, Ids{8});
}

TEST_F(PromptIdsTest, ATraceGrowsWithTheConversationAndNotWithItsSquare) {
  JsonlRecorder recorder(directory_, Logger());
  Ids prompt = range(0, 10'000);
  size_t told = 0;
  for (int i = 0; i < 50; ++i) {
    turn(recorder, prompt, {1, 2, 3});
    told += prompt.size();
    prompt.insert(prompt.end(), {1, 2, 3, i});
  }
  EXPECT_LT(lines(recorder).size(), told / 5);
  const Trace trace = load_trace();
  prompt.resize(prompt.size() - 4);
  EXPECT_EQ(ids_of(trace, 49), prompt);
}

// The disk is full for one line: what would be built on it is written whole, or is not there
// either, in whatever batch it comes.
TEST_F(PromptIdsTest, NothingIsBuiltOnAPromptThatCouldNotBeWritten) {
  const auto disk = std::make_shared<testing::FullDisk>();
  JsonlRecorder recorder(directory_, Logger(), {.files = disk});
  recorder.opened(rollout_, {});
  turn(recorder, {1, 2}, {3});
  ASSERT_TRUE(testing::flush(recorder, rollout_));
  Ids large = range(0, 5000);
  disk->set_limit(4096);
  turn(recorder, large, {7});
  large.push_back(7);
  turn(recorder, large, {8});        // as large without what it begins with
  turn(recorder, {1, 2, 3, 4}, {});  // begins with one that is there
  EXPECT_FALSE(testing::flush(recorder, rollout_));
  disk->set_limit(UINT64_MAX);
  large.push_back(8);
  turn(recorder, large, {9});
  EXPECT_TRUE(testing::flush(recorder, rollout_));
  const Trace trace = load_trace();
  EXPECT_EQ(trace.broken_lines, 0u);
  ASSERT_EQ(trace.calls.size(), 5u);
  EXPECT_FALSE(trace.calls[1].answer);
  EXPECT_FALSE(trace.calls[2].answer);
  EXPECT_EQ(trace.prompt_ids(trace.calls[2]).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(trace.calls[3].prompt_after, 0u);
  EXPECT_EQ(ids_of(trace, 3), (Ids{1, 2, 3, 4}));
  EXPECT_EQ(trace.calls[4].prompt_after, std::nullopt);
  EXPECT_EQ(ids_of(trace, 4), large);
}

TEST_F(PromptIdsTest, AnotherProcessBuildsOnNothingOfTheLast) {
  {
    JsonlRecorder recorder(directory_, Logger());
    turn(recorder, {1, 2}, {3});
  }
  JsonlRecorder recorder(directory_, Logger());
  turn(recorder, {1, 2, 3, 4}, {5});
  const Trace trace = load_trace(recorder);
  EXPECT_EQ(trace.calls.at(1).prompt_after, std::nullopt);
  EXPECT_EQ(ids_of(trace, 1), (Ids{1, 2, 3, 4}));
}

TEST(TraceReaderTest, VersionsOneToThreeAreRead) {
  const std::string arrived =
      R"({"type":"arrived","call":"c1","body":null}
{"type":"answered","call":"c1","answer":{"choices":[{"ids":[3]}],"prompt_ids":[1,2]}}
)";
  for (const char* version : {"1", "2", "3"}) {
    const auto trace =
        parse(R"({"type":"opened","version":)" + std::string(version) + "}\n" + arrived, "x.jsonl");
    ASSERT_TRUE(trace) << version;
    EXPECT_THAT(*trace->prompt_ids(trace->calls.at(0)), ElementsAre(1, 2));
  }
  EXPECT_TRUE(parse(arrived, "x.jsonl")) << "its first line is lost";
  const auto newer = parse(R"({"type":"opened","version":4})", "x.jsonl");
  ASSERT_FALSE(newer);
  EXPECT_EQ(newer.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(newer.error().message, HasSubstr("version 4; this program reads 1 to 3"));
}

TEST(TraceReaderTest, PromptsThatLeadNowhereAreRefused) {
  const auto line = [](std::string_view call, std::string_view answer) {
    return R"({"type":"arrived","call":")" + std::string(call) +
           R"("}
{"type":"answered","call":")" +
           std::string(call) + R"(","answer":{)" + std::string(answer) + "}}\n";
  };
  const std::string one = R"("choices":[{"ids":[2]}],"prompt_ids":[1])";
  const auto after = [&one](std::string_view call) {
    return R"("prompt_after":")" + std::string(call) + "\"," + one;
  };
  // Of a call that never arrived.
  auto trace = *parse(line("a", after("nobody")), "x.jsonl");
  EXPECT_EQ(trace.broken_lines, 1u);
  EXPECT_FALSE(trace.calls.at(0).answer);
  // Of itself, and in a ring.
  for (const std::string& text :
       {line("a", after("a")), line("a", one) + line("b", after("a")) + line("x", one) +
                                   R"({"type":"answered","call":"a","answer":{)" + after("b") +
                                   "}}\n"}) {
    trace = *parse(text, "x.jsonl");
    EXPECT_EQ(trace.prompt_ids(trace.calls.at(0)).error().code, ErrorCode::kProtocol) << text;
  }
  // Of one that was not answered, or with several choices.
  trace = *parse(R"({"type":"arrived","call":"a"})"
                 "\n" +
                     line("b", after("a")),
                 "x.jsonl");
  EXPECT_EQ(trace.prompt_ids(trace.calls.at(0)).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(trace.prompt_ids(trace.calls.at(1)).error().code, ErrorCode::kProtocol);
  trace = *parse(
      line("a", R"("choices":[{"ids":[2]},{"ids":[3]}],"prompt_ids":[1])") + line("b", after("a")),
      "x.jsonl");
  EXPECT_THAT(*trace.prompt_ids(trace.calls.at(0)), ElementsAre(1));
  EXPECT_EQ(trace.prompt_ids(trace.calls.at(1)).error().code, ErrorCode::kProtocol);
}

}  // namespace
}  // namespace sluice::trace
