#include "sluice/llm/continuation.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "sluice/llm/testing.h"

namespace sluice::llm {
namespace {

using How = Continuation::How;

// One dialect: how its conversations are written.
struct Way {
  Dialect dialect;
  std::string_view before, after;    // of the elements
  std::string_view user;             // a user's element, "{}" for its text
  std::string_view echo;             // of the answer, as it was sent
  std::string_view repaired, other;  // with its arguments written anew; of another answer
  std::string_view result;           // of the tool
  std::string_view rewritten, same;  // the first user's element: with other words, and written
                                     // otherwise with the same meaning ("" if agents never do)
  size_t first = 0;                  // canonical index of the first element
};

constexpr std::array kWays{
    Way{Dialect::kChat, R"({"model":"m","messages":[{"role":"system","content":"s"},)", "]}",
        R"({"role":"user","content":"{}"})",
        R"({"role":"assistant","content":"I look.","tool_calls":[{"id":"c1","type":"function",)"
        R"("function":{"name":"bash","arguments":"{\"a\": 1}"}}]})",
        R"({"role":"assistant","content":"I look.","tool_calls":[{"id":"c1","type":"function",)"
        R"("function":{"name":"bash","arguments":"{\"a\":1}"}}]})",
        R"({"role":"assistant","content":"Something else."})",
        R"({"role":"tool","tool_call_id":"c1","content":"ok"})", R"({"role":"user","content":"U"})",
        "", 1},
    Way{Dialect::kResponses, R"({"model":"m","instructions":"s","input":[)", "]}",
        R"({"role":"user","content":"{}"})",
        R"({"role":"assistant","content":[{"type":"output_text","text":"I look."}]},)"
        R"({"type":"function_call","call_id":"c1","name":"bash","arguments":"{\"a\": 1}"})",
        R"({"role":"assistant","content":[{"type":"output_text","text":"I look."}]},)"
        R"({"type":"function_call","call_id":"c1","name":"bash","arguments":"{\"a\":1}"})",
        R"({"role":"assistant","content":[{"type":"output_text","text":"Something else."}]})",
        R"({"type":"function_call_output","call_id":"c1","output":"ok"})",
        R"({"role":"user","content":"U"})",
        R"({"role":"user","content":[{"type":"input_text","text":"u"}]})", 1},
    Way{Dialect::kMessages, R"({"model":"m","max_tokens":9,"system":"s","messages":[)", "]}",
        R"({"role":"user","content":"{}"})",
        R"({"role":"assistant","content":[{"type":"text","text":"I look."},)"
        R"({"type":"tool_use","id":"c1","name":"bash","input":{"a": 1}}]})",
        R"({"role":"assistant","content":[{"type":"text","text":"I look."},)"
        R"({"type":"tool_use","id":"c1","name":"bash","input":{"a":1}}]})",
        R"({"role":"assistant","content":"Something else."})",
        R"({"role":"user","content":[{"type":"tool_result","tool_use_id":"c1","content":"ok"}]})",
        R"({"role":"user","content":"U"})",
        R"({"role":"user","content":[{"type":"text","text":"u","cache_control":{"type":"x"}}]})",
        1},
    Way{Dialect::kGemini, R"({"systemInstruction":{"parts":[{"text":"s"}]},"contents":[)", "]}",
        R"({"role":"user","parts":[{"text":"{}"}]})",
        R"({"role":"model","parts":[{"text":"I "}]},{"role":"model","parts":[{"text":"look."},)"
        R"({"functionCall":{"id":"c1","name":"bash","args":{"a": 1}}}]})",
        R"({"role":"model","parts":[{"text":"I look."},)"
        R"({"functionCall":{"id":"c1","name":"bash","args":{"a":1}}}]})",
        R"({"role":"model","parts":[{"text":"Something else."}]})",
        R"({"role":"user","parts":[{"functionResponse":{"id":"c1","name":"bash",)"
        R"("response":{"output":"ok"}}}]})",
        R"({"role":"user","parts":[{"text":"U"}]})", "", 1},
};

class ContinuationTest : public ::testing::TestWithParam<Way> {
 protected:
  static const Way& way() { return GetParam(); }
  static Body body(std::initializer_list<std::string_view> elements) {
    std::string out(way().before);
    for (const std::string_view element : elements) {
      if (out.back() != '[' && out.back() != ',') out.push_back(',');
      out.append(element);
    }
    return Body(std::make_shared<const Bytes>(out.append(way().after)));
  }
  static std::string user(std::string_view text) {
    return fmt::format(fmt::runtime(escaped(way().user)), text);
  }
  // The braces of JSON, but for the place of the text.
  static std::string escaped(std::string_view text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text.substr(i).starts_with("{}")) {
        out += "{}";
        ++i;
      } else {
        out.append(text[i] == '{' || text[i] == '}' ? 2 : 1, text[i]);
      }
    }
    return out;
  }
  static Answer answer() {
    Answer out = text_answer("I look.", Origin::kSampled);
    out.choices[0].message.tool_calls = {{"c1", "bash", R"({"a": 1})"}};
    return out;
  }
  static Continuation to(const Body& later, const Answer* answer) {
    const auto how = continuation(way().dialect, body({user("u")}), answer, later);
    EXPECT_TRUE(how) << (how ? "" : how.error().message);
    return how.value_or(Continuation{});
  }
  static Continuation to(const Body& later) {
    const Answer sent = answer();
    return to(later, &sent);
  }
};

INSTANTIATE_TEST_SUITE_P(All, ContinuationTest, ::testing::ValuesIn(kWays), [](const auto& info) {
  return std::string(to_string(info.param.dialect));
});

TEST_P(ContinuationTest, IsExactWhereEverythingStandsAsItWas) {
  EXPECT_EQ(to(body({user("u"), way().echo, way().result})).how, How::kExact);
  EXPECT_EQ(to(body({user("u"), way().echo, way().result, user("more")})).how, How::kExact);
  // The same request again says nothing of the answer.
  EXPECT_EQ(to(body({user("u")})).how, How::kExact);
  if (way().same.empty()) return;
  EXPECT_EQ(to(body({way().same, way().echo, way().result})).how, How::kExact);
}

TEST_P(ContinuationTest, IsRepairedWhereTheAnswerWasWrittenAnew) {
  EXPECT_EQ(to(body({user("u"), way().repaired, way().result})).how, How::kRepaired);
}

TEST_P(ContinuationTest, IsRewrittenFromTheFirstMessageThatIsAnother) {
  const auto rewritten = [](size_t from) {
    return Continuation{How::kRewritten, from};
  };
  EXPECT_EQ(to(body({way().rewritten, way().echo, way().result})), rewritten(way().first));
  // The answer's place.
  EXPECT_EQ(to(body({user("u"), way().other, user("more")})), rewritten(way().first + 1));
  EXPECT_EQ(to(body({user("u"), user("more")})), rewritten(way().first + 1));
  // Of an answer that nobody knows nothing is said.
  EXPECT_EQ(to(body({user("u"), way().other, user("more")}), nullptr).how, How::kExact);
  // The system prompt is a message as well.
  Bytes other = **body({user("u"), way().echo}).bytes();
  const bool inside = way().dialect == Dialect::kChat;
  const std::string system = inside ? R"("content":"s")" : R"("s")";
  other.replace(other.find(system) + system.size() - 2, 1, "S");
  EXPECT_EQ(to(Body(std::make_shared<const Bytes>(other))), rewritten(0));
}

TEST_P(ContinuationTest, AShorterHistoryIsRewrittenWhereItEnds) {
  const auto how = continuation(way().dialect, body({user("u"), way().echo, way().result}), nullptr,
                                body({user("u")}));
  EXPECT_EQ(how.value_or(Continuation{}), (Continuation{How::kRewritten, way().first + 1}));
}

TEST(ParentTest, IsFoundOutOnceAndLetsGoOfTheBody) {
  const auto body = [](std::string_view more) {
    return Body(std::make_shared<const Bytes>(
        fmt::format(R"({{"model":"m","messages":[{{"role":"user","content":"u"}}{}]}})", more)));
  };
  Call child;
  child.body = body(R"(,{"role":"assistant","content":" yes"},{"role":"user","content":"more"})");
  const auto answer = std::make_shared<const Answer>(text_answer("yes", Origin::kSampled));
  const Parent parent(CallId{"p"}, body(""), answer);
  EXPECT_FALSE(parent.how());
  EXPECT_TRUE(parent.is_open());
  EXPECT_EQ(parent.find_out(child)->how, How::kRepaired);  // white space
  EXPECT_FALSE(parent.is_open());
  EXPECT_EQ(parent.how()->how, How::kRepaired);
  EXPECT_EQ(answer.use_count(), 1);
}

TEST(ParentTest, WithoutABodyItIsNeverKnown) {
  Call child;
  const Parent parent(CallId{"p"}, std::nullopt, nullptr);
  EXPECT_FALSE(parent.is_open());
  EXPECT_FALSE(parent.find_out(child));
  struct Gone : Body::Store {
    Result<Bytes> read() const override { return Error(ErrorCode::kIo, "the trace is gone"); }
  };
  const Body gone(std::make_shared<const Bytes>("{}"));
  gone.kept_in(std::make_shared<Gone>());
  ASSERT_TRUE(gone.put_away());
  const Parent unreadable(CallId{"p"}, gone, nullptr);
  EXPECT_FALSE(unreadable.find_out(child));
  EXPECT_FALSE(unreadable.is_open());
}

}  // namespace
}  // namespace sluice::llm
