#include "sluice/env/coding/result.h"

#include <fmt/format.h>

#include <utility>

namespace sluice::env::coding {
namespace {

using rollout::ErrorKind;
using sandbox::Exit;

// What OpenEnv's clients are used to get.
constexpr size_t kOutputTail = 2000;
constexpr size_t kFileHead = 8000;
constexpr size_t kLogTail = 2000;
constexpr double kTicks = 1e3;

// In the words that users of OpenEnv's environment look for, where there are such.
std::string error_text(const rollout::RolloutResult& result) {
  const agent::Report& report = result.report;
  if (result.error_kind == ErrorKind::kNone) return "";
  if (report.agent && report.agent->exit.reason == Exit::Reason::kTimedOut) {
    return "agent timeout: " + result.error;
  }
  if (result.error_kind == ErrorKind::kTask && report.failed_phase == "setup" &&
      !report.setup.empty() && !report.setup.back().output.exit.ok()) {
    const agent::CommandRow& row = report.setup.back();
    const bool exited = row.output.exit.reason == Exit::Reason::kExited;
    std::string text = fmt::format(
        "RuntimeError: task.setup_shell failed ({}): {}",
        exited ? std::to_string(row.output.exit.status) : sandbox::describe(row.output.exit),
        rollout::tail_of(row.output.err, kOutputTail));
    const size_t hint = result.error.rfind(" (the sandbox has no network");
    return hint == std::string::npos ? text : text + result.error.substr(hint);
  }
  return "RuntimeError: " + result.error;
}

json::Object base(std::string_view task_id, std::string_view mode, double wall_s) {
  json::Object out;
  out["task_id"] = task_id;
  out["sandbox_id"] = "";
  out["reward"] = nullptr;
  out["agent_exit_code"] = nullptr;
  out["wall_s"] = wall_s;
  out["mode"] = mode;
  out["setup_results"] = json::Array();
  out["verify_results"] = json::Array();
  out["proxy_turns"] = json::Array();
  out["files"] = json::Object();
  out["files_extra"] = json::Array();
  out["agent_log_tail"] = "";
  out["proxy_log_tail"] = "";
  out["error"] = nullptr;
  return out;
}

}  // namespace

json::Object result_json(const rollout::RolloutResult& result, const std::string& workdir,
                         const TurnLog& turns) {
  const agent::Report& report = result.report;
  json::Object out = base(result.task, result.mode, rollout::rounded(result.wall, kTicks));
  out["sandbox_id"] = report.sandbox_id;
  if (result.reward) out["reward"] = *result.reward;
  if (!result.reward_error.empty()) out["reward_error"] = to_valid_utf8(result.reward_error);
  if (report.agent) out["agent_exit_code"] = rollout::code_of(report.agent->exit);
  out["setup_results"] = rollout::rows_json(report.setup, kOutputTail, kTicks);
  out["verify_results"] = rollout::rows_json(report.verify, kOutputTail, kTicks);
  out["proxy_turns"] = turns.turns();
  json::Object files;
  for (const auto& [path, content] : report.files) {
    files[to_valid_utf8(workdir + "/" + path)] =
        to_valid_utf8(ByteView(content).substr(0, kFileHead));
  }
  out["files"] = std::move(files);
  json::Array extra;
  for (const std::string& path : report.files_extra) {
    extra.emplace_back(to_valid_utf8(workdir + "/" + path));
  }
  out["files_extra"] = std::move(extra);
  if (report.agent) out["agent_log_tail"] = rollout::tail_of(report.agent->log_tail, kLogTail);
  out["proxy_log_tail"] = turns.tail(kLogTail);
  out["error"] = rollout::or_null(to_valid_utf8(error_text(result)));

  out["error_kind"] = rollout::or_null(rollout::to_string(result.error_kind));
  if (result.reward_if_counted) out["reward_if_counted"] = *result.reward_if_counted;
  out["rollout_id"] = result.rollout.value;
  out["agent"] = result.agent;
  out["agent_ended"] = report.agent ? sandbox::describe(report.agent->exit) : "";
  out["backend"] = result.backend;
  out["approvals"] = agent::to_string(result.approvals);
  out["guest_isolated"] = report.guest_isolated;
  out["llm"] = rollout::calls_json(result.calls);
  json::Object phases;
  for (const agent::PhaseTime& phase : report.phases)
    phases[phase.name] = rollout::rounded(phase.took, kTicks);
  out["phases"] = std::move(phases);
  json::Array warnings = rollout::texts_json(report.warnings);
  if (turns.tokens_left_out()) {
    warnings.emplace_back(
        "proxy_turns: the tokens of later turns are left out; the trace has them");
  }
  out["warnings"] = std::move(warnings);
  return out;
}

json::Object refused_result(std::string_view task_id, std::string_view mode,
                            std::string_view error_kind, std::string_view error, double wall_s) {
  json::Object out = base(task_id, mode, wall_s);
  out["error"] = error;
  out["error_kind"] = error_kind;
  out["warnings"] = json::Array();
  return out;
}

}  // namespace sluice::env::coding
