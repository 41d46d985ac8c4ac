#include "sluice/rollout/blame.h"

#include <fmt/format.h>

#include "sluice/base/core/bytes.h"

namespace sluice::rollout {

std::string_view to_string(ErrorKind kind) {
  constexpr std::string_view names[] = {"",          "infrastructure",    "task",
                                        "agent",     "gate_never_called", "budget",
                                        "timed_out", "cancelled",         "policy"};
  return names[static_cast<size_t>(kind) % std::size(names)];
}

bool counts(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kNone:
    case ErrorKind::kAgent:
    case ErrorKind::kBudget:
    case ErrorKind::kTimedOut:
      return true;
    case ErrorKind::kInfrastructure:
    case ErrorKind::kTask:
    case ErrorKind::kGateNeverCalled:
    case ErrorKind::kCancelled:
    case ErrorKind::kPolicy:
      break;
  }
  return false;
}

bool is_failed_attempt(ErrorKind kind) {
  return kind == ErrorKind::kInfrastructure || kind == ErrorKind::kPolicy;
}

ErrorKind kind_of(const agent::Report& report) {
  if (!report.error) return ErrorKind::kNone;
  const Error& error = *report.error;
  const std::string& phase = report.failed_phase;
  if (error.code == ErrorCode::kCancelled) return ErrorKind::kCancelled;
  switch (error.origin) {
    case ErrorOrigin::kAgent:
      return error.code == ErrorCode::kTimedOut ? ErrorKind::kTimedOut : ErrorKind::kAgent;
    case ErrorOrigin::kCaller:
    case ErrorOrigin::kTask:
      // Once the agent ran, nobody can tell what the task made from what the agent made of it.
      return report.agent ? ErrorKind::kAgent : ErrorKind::kTask;
    case ErrorOrigin::kSandbox:
      // What a guest that lives says of its sandbox. Before anything of the task's is in it, that
      // is ours.
      if (report.agent) return ErrorKind::kAgent;
      if (phase.empty() || phase == "create" || phase == "install") break;
      return ErrorKind::kTask;
    case ErrorOrigin::kUpstream:
    case ErrorOrigin::kEngine:
      break;
  }
  return ErrorKind::kInfrastructure;
}

Blame blame(const agent::Report& report, const gate::Counters& calls, const std::string& outage,
            std::string_view agent) {
  const ErrorKind kind = kind_of(report);
  const auto told = [&] {
    return report.failed_phase.empty()
               ? report.error->message
               : fmt::format("{}: {}", report.failed_phase, report.error->message);
  };
  switch (kind) {
    case ErrorKind::kCancelled:
    case ErrorKind::kInfrastructure:
    case ErrorKind::kTask:
      return {kind, told()};
    default:
      break;
  }
  if (calls.cancelled) {
    return {ErrorKind::kCancelled,
            fmt::format("the trainer cancelled it: {}", to_valid_utf8(calls.cancel_reason))};
  }
  if (!report.task_fault.empty()) return {ErrorKind::kTask, report.task_fault};
  // Whatever the agent made of it, and whichever limit it met meanwhile.
  if (!outage.empty()) return {ErrorKind::kPolicy, outage};
  if (calls.budget_exhausted && report.agent) {
    return {ErrorKind::kBudget, "refused by its budget: " + calls.budget_reason};
  }
  if (report.agent && calls.calls == 0) {
    return {ErrorKind::kGateNeverCalled,
            fmt::format("{} made no LLM call ({}): it is not configured to reach the gate, "
                        "or failed before",
                        agent, sandbox::describe(report.agent->exit))};
  }
  if (report.error) return {kind, told()};
  if (report.agent && !report.agent->ok) {
    return {
        ErrorKind::kAgent,
        fmt::format("{}: {}", agent, report.agent->error.value_or(describe(report.agent->exit)))};
  }
  return {};
}

}  // namespace sluice::rollout
