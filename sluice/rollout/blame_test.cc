// Whose doing an end was: the table of docs/results.md, row by row.
#include "sluice/rollout/blame.h"

#include <gtest/gtest.h>

namespace sluice::rollout {
namespace {

using sandbox::Exit;
using Kind = ErrorKind;
using From = ErrorOrigin;

// An agent that ran to an end of its own, and what came of it.
enum class Agent : uint8_t { kNone, kDone, kFailed, kLost };

struct Row {
  std::string what;
  ErrorKind kind;
  Agent agent = Agent::kDone;
  std::optional<Error> error = {};
  std::string phase = {};
  uint64_t calls = 1;
  bool budget = false;
  bool outage = false;
  std::string task_fault = {};
  bool cancelled = false;
};

Blame blamed(const Row& row) {
  agent::Report report;
  report.error = row.error;
  report.failed_phase = row.phase;
  report.task_fault = row.task_fault;
  if (row.agent != Agent::kNone) {
    agent::AgentRun& run = report.agent.emplace();
    run.ok = row.agent == Agent::kDone;
    run.exit.status = run.ok ? 0 : 1;
    if (row.agent == Agent::kLost) run.exit.reason = Exit::Reason::kLost;
  }
  gate::Counters calls;
  calls.calls = row.calls;
  calls.budget_exhausted = row.budget;
  calls.cancelled = row.cancelled;
  calls.cancel_reason = "stale";
  calls.budget_reason = "the budget of 3 calls is used up";
  const std::string outage = row.outage ? "no trainer" : "";
  return blame(report, calls, outage, "caller 1");
}

Error error(ErrorCode code, ErrorOrigin origin) {
  return {code, "what it was", origin};
}

std::vector<Row> table() {
  using Code = ErrorCode;
  const Error said = error(Code::kPermissionDenied, From::kSandbox);
  const Error lost = error(Code::kClosed, From::kEngine);
  const Error late = error(Code::kTimedOut, From::kAgent);
  std::vector<Row> rows = {
      {"a clean end", Kind::kNone},
      {"a failed agent", Kind::kAgent, Agent::kFailed},
      {"no call", Kind::kGateNeverCalled, Agent::kDone, {}, "", 0},
      {"a failed agent without a call", Kind::kGateNeverCalled, Agent::kFailed, {}, "", 0},
      {"a time-out without a call", Kind::kGateNeverCalled, Agent::kFailed, late, "agent", 0},
      {"a time-out", Kind::kTimedOut, Agent::kFailed, late, "agent"},
      {"a budget", Kind::kBudget, Agent::kFailed, {}, "", 3, true},
      {"a budget and a time-out", Kind::kBudget, Agent::kFailed, late, "agent", 3, true},
      // Ours.
      {"no sandbox", Kind::kInfrastructure, Agent::kNone, error(Code::kUnavailable, From::kEngine),
       "create"},
      {"what the sandbox says before it is the task's", Kind::kInfrastructure, Agent::kNone,
       error(Code::kUnavailable, From::kSandbox), "create"},
      {"an agent that cannot be installed", Kind::kInfrastructure, Agent::kNone,
       error(Code::kUnavailable, From::kSandbox), "install"},
      {"a bug", Kind::kInfrastructure, Agent::kNone, error(Code::kInternal, From::kEngine), ""},
      {"a link lost in set-up", Kind::kInfrastructure, Agent::kNone, lost, "setup"},
      {"a link lost under the agent", Kind::kInfrastructure, Agent::kLost, lost, "stop"},
      {"a link lost in verify", Kind::kInfrastructure, Agent::kDone, lost, "verify"},
      {"a link lost and a budget", Kind::kInfrastructure, Agent::kFailed, lost, "verify", 3, true},
      {"a guest that does not tell the end", Kind::kInfrastructure, Agent::kLost,
       error(Code::kTimedOut, From::kEngine), "agent"},
      // The task's.
      {"an image", Kind::kTask, Agent::kNone, error(Code::kNotFound, From::kTask), "create"},
      {"set-up", Kind::kTask, Agent::kNone, error(Code::kFailedPrecondition, From::kTask), "setup"},
      {"set-up that takes too long", Kind::kTask, Agent::kNone, error(Code::kTimedOut, From::kTask),
       "setup"},
      {"set-up that used up the memory", Kind::kTask, Agent::kNone,
       error(Code::kClosed, From::kTask), "setup"},
      {"what its caller asks for", Kind::kTask, Agent::kNone,
       error(Code::kUnsupported, From::kCaller), ""},
      // Cancelled.
      {"cancelled", Kind::kCancelled, Agent::kDone, error(Code::kCancelled, From::kCaller),
       "verify"},
      {"cancelled in an outage", Kind::kCancelled, Agent::kLost,
       error(Code::kCancelled, From::kCaller), "agent", 1, true, true},
      // The agent's, before it ran and behind it.
      {"a program that is not there", Kind::kAgent, Agent::kNone,
       error(Code::kNotFound, From::kAgent), "start"},
      {"a guest that died of the agent's memory", Kind::kAgent, Agent::kLost,
       error(Code::kClosed, From::kAgent), "stop"},
      {"a sandbox for verify that died of what it ran", Kind::kAgent, Agent::kDone,
       error(Code::kClosed, From::kTask), "verify"},
      {"what is read of it and is malformed", Kind::kAgent, Agent::kDone,
       error(Code::kInvalidArgument, From::kCaller), "verify"},
      {"an artifact that must be", Kind::kAgent, Agent::kDone, error(Code::kNotFound, From::kAgent),
       "collect"},
      // Outages.
      {"an outage, told by a failed agent", Kind::kPolicy, Agent::kFailed, {}, "", 1, false, true},
      {"an outage that an agent calls success",
       Kind::kPolicy,
       Agent::kDone,
       {},
       "",
       1,
       false,
       true},
      {"an outage and a time-out", Kind::kPolicy, Agent::kFailed, late, "agent", 1, false, true},
      {"an outage and a budget", Kind::kPolicy, Agent::kFailed, {}, "", 3, true, true},
      {"an outage, and a directory left without its mode", Kind::kPolicy, Agent::kFailed, said,
       "verify", 1, false, true},
      {"what no agent's work can be judged by", Kind::kTask, Agent::kFailed, std::nullopt, "", 1,
       true, true, "without any agent, too: what it was"},
      {"the trainer's wish", Kind::kCancelled, Agent::kFailed, std::nullopt, "", 1, true, false, "",
       true},
      {"that and a lost link", Kind::kInfrastructure, Agent::kLost, lost, "stop", 1, false, false,
       "without any agent, too: what it was"},
      {"an outage and a lost link", Kind::kInfrastructure, Agent::kLost, lost, "stop", 1, false,
       true},
  };
  // What the sandbox itself says: the task's before the agent, the agent's behind it.
  for (const char* phase : {"upload", "setup", "snapshot", "clone", "configure", "start"}) {
    rows.push_back({phase, Kind::kTask, Agent::kNone, said, phase});
  }
  for (const char* phase : {"stop", "collect", "verify", "files"}) {
    rows.push_back({phase, Kind::kAgent, Agent::kDone, said, phase});
    rows.push_back(
        {phase, Kind::kAgent, Agent::kDone, error(Code::kTooLarge, From::kSandbox), phase});
  }
  return rows;
}

TEST(BlameTest, whose_doing_every_end_is) {
  for (const Row& row : table()) {
    const Blame found = blamed(row);
    EXPECT_EQ(to_string(found.kind), to_string(row.kind)) << row.what;
    EXPECT_EQ(found.error.empty(), row.kind == ErrorKind::kNone) << row.what;
  }
}

TEST(BlameTest, the_error_says_what_it_was_in_words) {
  Row row{"", ErrorKind::kNone};
  row.agent = Agent::kFailed;
  EXPECT_EQ(blamed(row).error, "caller 1: exit code 1");
  row.budget = true;
  EXPECT_EQ(blamed(row).error, "refused by its budget: the budget of 3 calls is used up");
  row.outage = true;
  EXPECT_EQ(blamed(row).error, "no trainer");
  row.error = error(ErrorCode::kClosed, ErrorOrigin::kEngine);
  EXPECT_EQ(blamed(row).error, "what it was");
  row.phase = "verify";
  EXPECT_EQ(blamed(row).error, "verify: what it was");
}

TEST(BlameTest, what_counts_and_what_is_made_again) {
  for (const ErrorKind kind :
       {ErrorKind::kNone, ErrorKind::kAgent, ErrorKind::kBudget, ErrorKind::kTimedOut}) {
    EXPECT_TRUE(counts(kind)) << to_string(kind);
    EXPECT_FALSE(is_failed_attempt(kind)) << to_string(kind);
  }
  for (const ErrorKind kind :
       {ErrorKind::kTask, ErrorKind::kGateNeverCalled, ErrorKind::kCancelled}) {
    EXPECT_FALSE(counts(kind)) << to_string(kind);
    EXPECT_FALSE(is_failed_attempt(kind)) << to_string(kind);
  }
  for (const ErrorKind kind : {ErrorKind::kInfrastructure, ErrorKind::kPolicy}) {
    EXPECT_FALSE(counts(kind)) << to_string(kind);
    EXPECT_TRUE(is_failed_attempt(kind)) << to_string(kind);
  }
  EXPECT_EQ(to_string(ErrorKind::kPolicy), "policy");
  EXPECT_EQ(to_string(ErrorKind::kCancelled), "cancelled");
  EXPECT_EQ(to_string(ErrorKind::kNone), "");
}

}  // namespace
}  // namespace sluice::rollout
