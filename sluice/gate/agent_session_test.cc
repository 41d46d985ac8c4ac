#include "sluice/gate/agent_session.h"

#include <gtest/gtest.h>

#include "sluice/llm/answer.h"

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;

ResendMarks marks(uint64_t digest, std::string request_id = "", uint32_t retry_count = 0) {
  ResendMarks out;
  out.digest.low = digest;
  out.request_id = std::move(request_id);
  out.retry_count = retry_count;
  return out;
}

KeptAnswer delivered(uint64_t digest, Duration ago = 0s, std::string request_id = "") {
  KeptAnswer out;
  out.marks = marks(digest, std::move(request_id));
  out.call = {"call" + std::to_string(digest)};
  out.at = Clock::now() - ago;
  out.answer = std::make_shared<const llm::Answer>();
  return out;
}

KeptAnswer undelivered(uint64_t digest) {
  KeptAnswer out = delivered(digest, 1h);
  out.received = Received::kNever;
  return out;
}

TEST(AgentSessionTest, AnEqualBodyWithinTheWindowIsAResend) {
  AgentSession session;
  EXPECT_EQ(session.resend_of(marks(1), 60s), nullptr);
  session.keep(delivered(1));
  EXPECT_NE(session.resend_of(marks(1), 60s), nullptr);
  EXPECT_EQ(session.resend_of(marks(2), 60s), nullptr);
  ResendMarks other_dialect = marks(1);
  other_dialect.dialect = llm::Dialect::kMessages;
  EXPECT_EQ(session.resend_of(other_dialect, 60s), nullptr);
  EXPECT_EQ(session.resend_of(marks(1), 0s), nullptr) << "a window of 0 turns it off";
}

TEST(AgentSessionTest, ANewRequestIdWithoutARetryIsAnother) {
  AgentSession session;
  session.keep(delivered(1, 0s, "req-1"));
  EXPECT_EQ(session.resend_of(marks(1, "req-2"), 60s), nullptr);
  EXPECT_NE(session.resend_of(marks(1, "req-2", 1), 60s), nullptr);
  EXPECT_NE(session.resend_of(marks(1), 60s), nullptr) << "it says nothing";
  AgentSession nameless;
  nameless.keep(delivered(1));
  EXPECT_EQ(nameless.resend_of(marks(1, "req-2"), 60s), nullptr);
  // What was never received is not asked for twice.
  AgentSession lost;
  lost.keep(undelivered(1));
  EXPECT_NE(lost.resend_of(marks(1, "req-2"), 0s), nullptr);
}

TEST(AgentSessionTest, OfSeveralThatAskedTheSameTheOneThatIsNamed) {
  AgentSession session;
  const char* const ids[] = {"req-1", "req-2", "req-3"};
  for (const char* id : ids) {
    session.keep(delivered(1, 0s, id));
  }
  for (const char* id : ids) {
    EXPECT_EQ(session.resend_of(marks(1, id, 1), 0s)->marks.request_id, id);
  }
  EXPECT_EQ(session.resend_of(marks(1, "", 1), 0s)->marks.request_id, "req-3");
}

TEST(AgentSessionTest, ASubAgentIsASessionOfItsOwn) {
  EXPECT_EQ(name_of({"s", ""}), "s");
  EXPECT_NE(name_of({"s", "a"}), name_of({"s", "b"}));
  EXPECT_NE(name_of({"s", "a"}), name_of({"s", ""}));
  EXPECT_NE(name_of({"", "sa"}), name_of({"s", "a"}));
}

TEST(AgentSessionTest, BehindTheWindowOnlyWhatSaysItIsARetry) {
  AgentSession session;
  session.keep(delivered(1, 61s, "req-1"));
  EXPECT_EQ(session.resend_of(marks(1), 60s), nullptr);
  EXPECT_NE(session.resend_of(marks(1, "", 1), 60s), nullptr);
  EXPECT_NE(session.resend_of(marks(1, "req-1"), 0s), nullptr);
  EXPECT_EQ(session.resend_of(marks(1, "req-2"), 60s), nullptr);
  EXPECT_EQ(session.resend_of(marks(2, "req-1", 1), 60s), nullptr) << "another body";
}

TEST(AgentSessionTest, OnlyTheLastDeliveryCountsByTimeAlone) {
  AgentSession session;
  session.keep(delivered(1));
  session.keep(delivered(2));
  EXPECT_EQ(session.resend_of(marks(1), 60s), nullptr);
  EXPECT_NE(session.resend_of(marks(2), 60s), nullptr);
  EXPECT_EQ(session.resend_of(marks(1, "", 2), 60s)->call.value, "call1");
}

TEST(AgentSessionTest, RemembersAFewAnswers) {
  AgentSession session;
  for (uint64_t i = 1; i <= 10; ++i) session.keep(delivered(i));
  EXPECT_EQ(session.resend_of(marks(1, "", 1), 60s), nullptr);
  EXPECT_NE(session.resend_of(marks(10, "", 1), 60s), nullptr);
}

TEST(AgentSessionTest, WhatWasNeverReceivedIsForWhoeverAsksTheSame) {
  AgentSession session;
  session.keep(undelivered(1));
  session.keep(delivered(2));
  session.keep(undelivered(3));
  for (const Duration window : {Duration(0s), Duration(60s)}) {
    EXPECT_EQ(session.resend_of(marks(1), window)->call.value, "call1");
    EXPECT_EQ(session.resend_of(marks(3), window)->call.value, "call3");
  }
  EXPECT_EQ(session.resend_of(marks(4), 60s), nullptr);
  // It is no delivery, so another one stays the last.
  EXPECT_NE(session.resend_of(marks(2), 60s), nullptr);
}

TEST(AgentSessionTest, ReceivedLateItIsTheLastDelivery) {
  AgentSession session;
  session.keep(undelivered(1));
  session.keep(delivered(2));
  EXPECT_NE(session.received_late({"call1"}), nullptr);
  EXPECT_EQ(session.received_late({"call1"}), nullptr) << "that is known";
  EXPECT_EQ(session.received_late({"call2"}), nullptr) << "it was never late";
  EXPECT_EQ(session.received_late({"call3"}), nullptr) << "there is no such call";
  EXPECT_EQ(session.resend_of(marks(1), 60s)->call.value, "call1");
  EXPECT_EQ(session.resend_of(marks(1), 0s), nullptr);
  EXPECT_EQ(session.resend_of(marks(2), 60s), nullptr);
}

llm::Peek peek(const Bytes& body) {
  json::Peeker peeker;
  return *llm::find_codec(llm::Dialect::kChat)->peek(peeker, body, {});
}

class EchoTest : public ::testing::Test {
 protected:
  void expect(const char* id, const Bytes& body, const std::string& text) {
    auto call = std::make_shared<llm::Call>();
    call->id = {id};
    const llm::Peek seen = peek(body);
    PastCall past;
    past.call = std::move(call);
    past.mark = llm::mark_of(seen);
    past.conversation_size = seen.conversation.text.size();
    past.answer =
        std::make_shared<const llm::Answer>(llm::text_answer(text, llm::Origin::kSampled));
    session_.remember(std::move(past));
  }
  // The ids that are confirmed, and in the end that of the parent.
  std::vector<std::string> look(const Bytes& body) {
    std::vector<std::string> out;
    const auto found =
        session_.look_for_echoes(*llm::find_codec(llm::Dialect::kChat), peek(body),
                                 [&](const llm::Call& call) { out.push_back(call.id.value); });
    out.push_back(found.past == nullptr ? "none" : "of " + found.past->call->id.value);
    return out;
  }
  AgentSession session_;
};

const Bytes kAsked = R"({"model":"m","messages":[{"role":"user","content":"u"}]})";

TEST_F(EchoTest, AnAnswerIsConfirmedOnceAndIsAParentEachTime) {
  expect("main", kAsked, "yes");
  expect("title", kAsked, "A title");
  EXPECT_EQ(look(kAsked), std::vector<std::string>{"none"});
  const Bytes continued =
      R"({"model":"m","messages":[{"role":"user","content":"u"},{"role":"assistant",)"
      R"("content":"yes"},{"role":"user","content":"more"}]})";
  EXPECT_EQ(look(continued), (std::vector<std::string>{"main", "of main"}));
  EXPECT_EQ(look(continued), std::vector<std::string>{"of main"});
}

TEST_F(EchoTest, TheParentIsTheOneHeldLatestAndAllAreConfirmed) {
  const Bytes continued =
      R"({"model":"m","messages":[{"role":"user","content":"u"},{"role":"assistant",)"
      R"("content":"yes"},{"role":"user","content":"more"}]})";
  Bytes last = continued;
  last.replace(last.size() - 2, 2, R"(,{"role":"assistant","content":"no"}]})");
  expect("second", continued, "no");
  expect("first", kAsked, "yes");
  EXPECT_EQ(look(last), (std::vector<std::string>{"second", "first", "of second"}));
}

TEST_F(EchoTest, ARewrittenHistoryConfirmsNothing) {
  expect("main", kAsked, "yes");
  EXPECT_EQ(look(R"({"model":"m","messages":[{"role":"user","content":"u"},)"
                 R"({"role":"assistant","content":"no, something else was said here"}]})"),
            std::vector<std::string>{"none"});
}

TEST_F(EchoTest, ForgetsWhatIsNeverEchoed) {
  for (int i = 0; i < 100; ++i) expect("other", kAsked, "something else " + std::to_string(i));
  expect("last", kAsked, "yes");
  EXPECT_EQ(look(R"({"model":"m","messages":[{"role":"user","content":"u"},)"
                 R"({"role":"assistant","content":"yes"}]})"),
            (std::vector<std::string>{"last", "of last"}));
}

TEST(AgentSessionsTest, OnlyTheLastUsedAreRemembered) {
  AgentSessions sessions;
  EXPECT_EQ(sessions.find("first"), nullptr);
  sessions.open("first").keep(delivered(1));
  sessions.open("second");
  for (size_t i = 0; i < 10 * AgentSessions::kMost; ++i) {
    sessions.open("s" + std::to_string(i));
    ASSERT_NE(sessions.find("first"), nullptr) << i;
  }
  EXPECT_EQ(sessions.size(), AgentSessions::kMost);
  EXPECT_NE(sessions.find("first")->resend_of(marks(1), 60s), nullptr);
  EXPECT_EQ(sessions.find("second"), nullptr);
  EXPECT_EQ(sessions.find("s0"), nullptr);
  EXPECT_NE(sessions.find("s" + std::to_string(10 * AgentSessions::kMost - 1)), nullptr);
}

}  // namespace
}  // namespace sluice::gate
