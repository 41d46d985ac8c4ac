// What every dialect owes the clients of its answers: events that end where they should, and
// arguments that can be parsed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/llm/testing.h"

namespace sluice::llm {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::string_view kEnds = "a\u0085b\u2028c\u2029d";

class EventsTest : public ::testing::TestWithParam<Dialect> {
 protected:
  static const Codec& codec() { return *find_codec(GetParam()); }

  static Envelope envelope() {
    Envelope out = testing::test_envelope();
    out.model = kEnds;
    return out;
  }
};

INSTANTIATE_TEST_SUITE_P(All, EventsTest,
                         ::testing::Values(Dialect::kChat, Dialect::kResponses, Dialect::kMessages,
                                           Dialect::kGemini),
                         [](const auto& info) { return std::string(to_string(info.param)); });

void expect_no_ends(const std::string& stream) {
  for (const std::string_view end : {"\u0085", "\u2028", "\u2029"}) {
    EXPECT_THAT(stream, Not(HasSubstr(end)));
  }
}

// Clients that split at them (Python's splitlines()) would cut an event in two.
TEST_P(EventsTest, NoTextInAnEventEndsALine) {
  const std::string ends(kEnds);
  Answer answer = text_answer(ends, Origin::kSampled);
  Choice& choice = answer.choices[0];
  choice.message.reasoning = ends;
  choice.message.tool_calls = {{ends, ends, "{\"" + ends + "\":\"" + ends + "\"}"},
                               {ends, ends, "{oops" + ends}};
  choice.finish = Finish::kToolCalls;
  const std::string stream = codec().streamed(envelope(), answer);
  expect_no_ends(stream);
  for (const auto& event : testing::events(stream)) {
    if (event.data != "[DONE]") testing::parsed(event.data);
  }
  EXPECT_THAT(stream, HasSubstr(R"("a\u0085b\u2028c\u2029d")"));
  Envelope sent = envelope();
  expect_no_ends(codec().piece(sent, choice.message));
  expect_no_ends(codec().keep_alive(envelope()));
  for (const std::string& piece :
       codec().streamed_error(envelope(), Problem::of(ErrorCode::kInternal, ends))) {
    expect_no_ends(piece);
  }
}

TEST_P(EventsTest, AFunctionWithoutArgumentsHasAnEmptyObject) {
  for (const std::string_view blank : {"", " ", "\r\n\t "}) {
    Answer answer = text_answer("", Origin::kSampled);
    answer.choices[0].message.tool_calls = {{"c", "ls", std::string(blank)}};
    answer.choices[0].finish = Finish::kToolCalls;
    EXPECT_THAT(codec().plain(testing::test_envelope(), answer),
                AnyOf(HasSubstr(R"("arguments":"{}")"), HasSubstr(R"("input":{})"),
                      HasSubstr(R"("args":{})")));
    EXPECT_THAT(codec().streamed(testing::test_envelope(), answer),
                AnyOf(HasSubstr(R"("arguments":"{}")"), HasSubstr(R"("partial_json":"{}")"),
                      HasSubstr(R"("args":{})")));
    // What the model wrote is kept as it is.
    EXPECT_EQ(answer.choices[0].message.tool_calls[0].arguments, blank);
  }
}

}  // namespace
}  // namespace sluice::llm
