#include "sluice/gate/http/heard.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sluice::gate::http {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const llm::Codec& kCodec = *llm::find_codec(llm::Dialect::kChat);

std::string chunk(std::string_view token, std::string_view finish = "null") {
  return fmt::format(
      "data: {{\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":{},\"logprobs\":"
      "{{\"content\":[{{\"token\":\"{}\",\"logprob\":-0.5}}]}}}}]}}\n\n",
      finish, token);
}

TEST(HeardTest, a_stream_in_any_pieces) {
  const std::string stream =
      chunk("a") + ": a comment\n\n" + chunk("b", "\"length\"") + "data: [DONE]\n\n";
  for (const size_t size : {size_t{1}, size_t{7}, stream.size()}) {
    Heard heard;
    for (size_t at = 0; at < stream.size(); at += size) heard.pass(stream.substr(at, size));
    const llm::Said said = heard.said(kCodec);
    EXPECT_EQ(said.finish, "length");
    EXPECT_THAT(said.tokens, ElementsAre("a", "b"));
    EXPECT_THAT(said.logprobs, ElementsAre(-0.5f, -0.5f));
  }
}

TEST(HeardTest, an_answer_that_is_no_stream) {
  Heard heard;
  heard.pass("\n {\"choices\":[{\"message\":{},\"finish_");
  heard.pass("reason\":\"stop\"}]}");
  EXPECT_EQ(heard.said(kCodec).finish, "stop");
}

TEST(HeardTest, of_what_is_too_long_only_its_end) {
  Heard heard;
  for (int i = 0; i < 6000; ++i) heard.pass(chunk("token"));
  heard.pass(chunk("last", "\"stop\""));
  const llm::Said said = heard.said(kCodec);
  EXPECT_EQ(said.finish, "stop");
  EXPECT_THAT(said.tokens, IsEmpty());
}

bool finished(const Heard& heard, const llm::Codec& codec) {
  return heard.finished(heard.said(codec));
}

TEST(HeardTest, a_stream_is_finished_when_it_says_why_it_ended) {
  Heard cut, whole;
  cut.pass(chunk("a") + "data: [DONE]\n\n");
  EXPECT_FALSE(finished(cut, kCodec));
  whole.pass(chunk("a") + chunk("b", "\"stop\""));
  EXPECT_TRUE(finished(whole, kCodec));
  EXPECT_FALSE(finished(Heard(), kCodec));
}

// The whole answer stands in the last event of the dialect `responses`.
TEST(HeardTest, a_last_event_longer_than_what_is_kept_is_finished_by_its_end) {
  const llm::Codec& codec = *llm::find_codec(llm::Dialect::kResponses);
  const std::string begin = "event: x\ndata: {\"type\":\"x\"}\n\n";
  for (const size_t size : {size_t{100}, size_t{250'000}, size_t{300'000}, size_t{5'000'000}}) {
    const std::string last =
        R"(data: {"type":"response.completed","response":{"status":"completed","output":[],"x":")" +
        std::string(size, 'x') + "\"}}";
    Heard whole, cut;
    for (int i = 0; i < 20'000; ++i) whole.pass(begin);
    whole.pass(last + "\n\n");
    EXPECT_TRUE(finished(whole, codec)) << size;
    for (int i = 0; i < 20'000; ++i) cut.pass(begin);
    cut.pass(last);
    EXPECT_FALSE(finished(cut, codec)) << size;
  }
}

TEST(HeardTest, what_is_no_answer_says_nothing) {
  for (const std::string_view text : {"", "   ", "{", "<html>", "data: x\n\n", "{}"}) {
    Heard heard;
    heard.pass(text);
    EXPECT_EQ(heard.said(kCodec).finish, "") << text;
  }
}

TEST(HeardTest, is_told_as_members_of_an_object) {
  Bytes out;
  append_said(out, {});
  EXPECT_EQ(out, "");
  llm::Said said;
  said.finish = "stop";
  said.tokens = {"a\"", "b"};
  said.logprobs = {-0.5f, 0};
  append_said(out, said);
  EXPECT_EQ(out, R"(,"finish_reason":"stop","tokens":["a\"","b"],"logprobs":[-0.5,0])");
}

}  // namespace
}  // namespace sluice::gate::http
