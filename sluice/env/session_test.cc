#include "sluice/env/session.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "sluice/env/testing.h"
#include "sluice/net/testing.h"

namespace sluice::env {
namespace {

using namespace std::chrono_literals;
using Opened = EnvSessions::Opened;
using Answer = std::optional<Result<ToolResult>>;
using Work = std::function<awaitable<Result<ToolResult>>(Environment*, CallContext*)>;

json::Object seconds(double number) {
  json::Object out;
  out["seconds"] = number;
  return out;
}

Work wait_for(double number) {
  return [number](Environment* environment, CallContext* context) {
    return environment->call_tool("wait", seconds(number), context);
  };
}

awaitable<void> run_into(std::shared_ptr<EnvSession> session, CallOptions options, Work work,
                         std::optional<Answer>* into) {
  into->emplace(co_await session->run<ToolResult>(std::move(options), std::move(work)));
}

// Returns when it is told to.
awaitable<Result<ToolResult>> held(net::Signal* go) {
  co_await go->wait();
  ToolResult result;
  result.text = "let go";
  co_return result;
}

Work wait_for(net::Signal& go) {
  return [&go](Environment*, CallContext*) {
    return held(&go);
  };
}

awaitable<void> stop_into(EnvSessions* sessions, Deadline deadline, bool* done) {
  co_await sessions->stop(deadline);
  *done = true;
}

awaitable<void> open_into(EnvSessions* sessions, std::optional<Opened>* into) {
  into->emplace(co_await sessions->open(EnvSession::Kind::kHttp, ""));
}

class SessionsTest : public ::testing::Test {
 protected:
  ~SessionsTest() override {
    if (sessions_) net::testing::run(shard_, sessions_->stop(Deadline::in(0s)));
    EXPECT_EQ(factory().log.created, factory().log.closed);
  }
  testing::ToolEnvironmentFactory& factory() {
    if (!factory_) factory_.emplace(environment_);
    return *factory_;
  }
  EnvSessions& sessions() {
    if (!sessions_) sessions_.emplace(shard_, factory(), limits_, Logger(), metrics_);
    return *sessions_;
  }
  std::shared_ptr<EnvSession> open(EnvSession::Kind kind = EnvSession::Kind::kHttp) {
    auto opened = net::testing::run(shard_, sessions().open(kind, ""));
    EXPECT_TRUE(opened) << opened.error().message;
    return opened ? *opened : nullptr;
  }
  SessionRefusal refused(EnvSession::Kind kind = EnvSession::Kind::kHttp) {
    auto opened = net::testing::run(shard_, sessions().open(kind, ""));
    EXPECT_FALSE(opened);
    return opened ? SessionRefusal() : opened.error();
  }
  Answer run(const std::shared_ptr<EnvSession>& session, CallOptions options, Work work) {
    return net::testing::run(shard_, session->run<ToolResult>(std::move(options), std::move(work)));
  }

  net::Shard shard_;
  Metrics metrics_;
  testing::ToolEnvironmentOptions environment_;
  SessionLimits limits_;
  std::optional<testing::ToolEnvironmentFactory> factory_;
  std::optional<EnvSessions> sessions_;
};

TEST_F(SessionsTest, gives_slots_and_takes_them_back) {
  limits_.sessions = 2;
  const auto first = open(EnvSession::Kind::kWebSocket);
  const auto second = open();
  EXPECT_NE(first->id(), second->id());
  EXPECT_EQ(sessions().find(second->id(), ""), second);
  EXPECT_EQ(sessions().find(second->id(), "key 1"), nullptr) << "it is another client's";
  const SessionRefusal refusal = refused();
  EXPECT_EQ(refusal.message,
            "Server at capacity: 2/2 sessions active. Cannot accept new connections.");
  EXPECT_EQ(refusal.data.at("max_sessions"), 2);
  // What has no session has its own limit.
  net::testing::run(shard_,
                    sessions().close(open(EnvSession::Kind::kStateless), CancelReason::kNone));
  net::testing::run(shard_, sessions().close(first, CancelReason::kClientGone));
  EXPECT_EQ(sessions().active(), 1U);
  EXPECT_FALSE(sessions().find(first->id(), ""));
  open();
}

TEST_F(SessionsTest, bounds_calls_without_a_session) {
  limits_.stateless = 1;
  const auto one = open(EnvSession::Kind::kStateless);
  EXPECT_EQ(refused(EnvSession::Kind::kStateless).kind, SessionRefusal::Kind::kCapacity);
  net::testing::run(shard_, sessions().close(one, CancelReason::kNone));
  net::testing::run(shard_,
                    sessions().close(open(EnvSession::Kind::kStateless), CancelReason::kNone));
}

TEST_F(SessionsTest, an_environment_that_cannot_be_made_frees_its_slot) {
  limits_.sessions = 1;
  factory().log.create_fails_with = "no sandbox to be had";
  const SessionRefusal refusal = refused();
  EXPECT_EQ(refusal.kind, SessionRefusal::Kind::kFactory);
  EXPECT_EQ(refusal.message, "Environment factory 'ToolEnv' failed to create instance.");
  EXPECT_EQ(refusal.data.at("factory_name"), "ToolEnv");
  factory().log.create_fails_with.clear();
  open();
}

TEST_F(SessionsTest, a_slot_is_reserved_while_its_environment_is_made) {
  limits_.sessions = 1;
  factory().log.hold_create = true;
  std::optional<Opened> opened;
  shard_.spawn(open_into(&sessions(), &opened));
  shard_.run_until([&] { return sessions().active() == 1; });
  EXPECT_EQ(refused().kind, SessionRefusal::Kind::kCapacity);
  factory().log.hold_create = false;
  shard_.run_until([&] { return opened.has_value(); });
  EXPECT_TRUE(*opened);
}

TEST_F(SessionsTest, calls_overlap_only_where_the_environment_allows_it) {
  for (const auto calls : {EnvironmentInfo::Calls::kInTurn, EnvironmentInfo::Calls::kOverlapping}) {
    SCOPED_TRACE(static_cast<int>(calls));
    environment_.calls = calls;
    factory_.emplace(environment_);
    sessions_.emplace(shard_, *factory_, limits_, Logger(), metrics_);
    const auto session = open();
    std::optional<Answer> first, second;
    int most = 0;
    shard_.spawn(run_into(session, {}, wait_for(0.05), &first));
    shard_.spawn(run_into(session, {}, wait_for(0.05), &second));
    shard_.run_until([&] {
      most = std::max(most, factory_->log.waiting);
      return first && second;
    });
    EXPECT_EQ(most, calls == EnvironmentInfo::Calls::kInTurn ? 1 : 2);
    EXPECT_EQ((*first)->value().text, "waited");
    EXPECT_EQ((*second)->value().text, "waited");
    net::testing::run(shard_, sessions_->stop(Deadline::in(0s)));
    sessions_.reset();
  }
}

TEST_F(SessionsTest, a_deadline_answers_at_once_and_the_next_call_waits_for_the_clean_up) {
  environment_.calls = EnvironmentInfo::Calls::kInTurn;
  factory().log.cancel_takes = 50ms;
  const auto session = open();
  CallOptions options;
  options.deadline = Deadline::in(20ms);
  EXPECT_FALSE(run(session, options, wait_for(60)));
  shard_.run_until([&] { return factory().log.cancelled == 1; });
  EXPECT_EQ(factory().log.last_reason, CancelReason::kTimedOut);
  EXPECT_EQ(factory().log.waiting, 1);  // still cleaning up
  const Answer next = run(session, {}, [this](Environment* environment, CallContext* context) {
    EXPECT_EQ(factory().log.waiting, 0);
    return environment->call_tool("object", {}, context);
  });
  EXPECT_TRUE(next && *next);
}

TEST_F(SessionsTest, a_call_is_cancelled_with_its_reason_whether_it_began_or_not) {
  environment_.calls = EnvironmentInfo::Calls::kInTurn;
  const auto session = open();
  CallHandle running, waiting, early;
  early.cancel(CancelReason::kClientGone);
  std::optional<Answer> first, second, third;
  CallOptions options;
  options.handle = &running;
  shard_.spawn(run_into(session, options, wait_for(60), &first));
  options.handle = &waiting;
  shard_.spawn(run_into(session, options, wait_for(60), &second));
  options.handle = &early;
  shard_.spawn(run_into(session, options, wait_for(60), &third));
  shard_.run_until([&] { return factory().log.waiting == 1; });
  waiting.cancel(CancelReason::kClientGone);
  shard_.run_until([&] { return second && third; });
  EXPECT_FALSE(*second);
  EXPECT_FALSE(*third);
  EXPECT_FALSE(first);
  running.cancel(CancelReason::kClientGone);
  shard_.run_until([&] { return first.has_value(); });
  EXPECT_EQ((*first)->error().code, ErrorCode::kCancelled);
  EXPECT_EQ(factory().log.last_reason, CancelReason::kClientGone);
  EXPECT_EQ(factory().log.cancelled, 1);
  EXPECT_FALSE(session->busy());
}

TEST_F(SessionsTest, reports_progress_to_whoever_asked_for_it) {
  const auto session = open();
  std::vector<std::string> notes;
  CallOptions options;
  options.sink = [&](ProgressNote note) {
    EXPECT_EQ(note.total, 10);
    notes.push_back(note.message);
  };
  run(session, options, wait_for(0.001));
  ASSERT_EQ(notes.size(), 10U);
  EXPECT_EQ(notes.front(), "part 0");
}

TEST_F(SessionsTest, an_exception_ends_its_call_and_nothing_else) {
  const auto session = open();
  const Answer broken =
      run(session, {}, [](Environment*, CallContext*) -> awaitable<Result<ToolResult>> {
        throw std::runtime_error("secret detail");
      });
  ASSERT_TRUE(broken);
  EXPECT_EQ(broken->error().code, ErrorCode::kInternal);
  EXPECT_EQ(broken->error().message, "internal error");
  EXPECT_TRUE(run(session, {}, wait_for(0)));
}

TEST_F(SessionsTest, http_sessions_that_nobody_uses_end_but_not_in_mid_call) {
  limits_.sessions = 4;
  limits_.http_ttl = 300ms;  // the call begins before that, even on a busy machine
  net::Signal go;
  const auto idle = open();
  const auto busy = open();
  const auto connected = open(EnvSession::Kind::kWebSocket);
  std::optional<Answer> answer;
  shard_.spawn(run_into(busy, {}, wait_for(go), &answer));
  shard_.run_until([&] { return !sessions().find(idle->id(), ""); });
  EXPECT_FALSE(answer);
  EXPECT_TRUE(sessions().find(busy->id(), ""));
  go.notify();
  shard_.run_until([&] { return answer.has_value(); });
  EXPECT_TRUE(**answer);
  shard_.run_until([&] { return !sessions().find(busy->id(), ""); });
  EXPECT_TRUE(sessions().find(connected->id(), ""));  // its end would be seen
}

TEST_F(SessionsTest, an_idle_timeout_is_for_sessions_of_every_kind) {
  limits_.sessions = 2;
  limits_.idle_timeout = 60ms;
  const auto connected = open(EnvSession::Kind::kWebSocket);
  CancelReason told = CancelReason::kNone;
  connected->on_end = [&](CancelReason reason) {
    told = reason;
  };
  shard_.run_until([&] { return told != CancelReason::kNone; });
  EXPECT_EQ(told, CancelReason::kRequested);
  EXPECT_TRUE(sessions().find(connected->id(), ""));  // its connection ends it
  connected->on_end = nullptr;
}

TEST_F(SessionsTest, closing_cancels_what_runs_and_frees_the_slot_when_it_has_ended) {
  limits_.sessions = 1;
  const auto session = open();
  std::optional<Answer> answer;
  shard_.spawn(run_into(session, {}, wait_for(60), &answer));
  shard_.run_until([&] { return factory().log.waiting == 1; });
  net::testing::run(shard_, sessions().close(session, CancelReason::kRequested));
  EXPECT_EQ(sessions().active(), 0U);
  EXPECT_EQ(factory().log.closed, 1);
  shard_.run_until([&] { return answer.has_value(); });
  net::testing::run(shard_, sessions().close(session, CancelReason::kRequested));  // again
}

TEST_F(SessionsTest, stopping_lets_calls_end_until_the_deadline) {
  limits_.sessions = 3;
  const auto idle = open();
  const auto quick = open();
  const auto slow = open();
  std::optional<Answer> quick_answer, slow_answer;
  net::Signal go;
  shard_.spawn(run_into(quick, {}, wait_for(go), &quick_answer));
  shard_.spawn(run_into(slow, {}, wait_for(60), &slow_answer));
  shard_.run_until([&] { return factory().log.waiting == 1 && quick->busy(); });
  bool stopped = false;
  shard_.spawn(stop_into(&sessions(), Deadline::in(500ms), &stopped));
  shard_.run_until([&] { return factory().log.closed == 1; });  // the idle one
  go.notify();
  shard_.run_until([&] { return quick_answer.has_value(); });
  EXPECT_EQ((*quick_answer)->value().text, "let go");
  EXPECT_FALSE(stopped);
  EXPECT_EQ(refused().kind, SessionRefusal::Kind::kStopping);
  shard_.run_until([&] { return stopped; });
  EXPECT_EQ((*slow_answer)->error().code, ErrorCode::kCancelled);
  EXPECT_EQ(factory().log.last_reason, CancelReason::kStopping);
  EXPECT_EQ(factory().log.closed, 3);
}

}  // namespace
}  // namespace sluice::env
