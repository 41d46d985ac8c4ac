#include "sluice/env/coding/result.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

namespace sluice::env::coding {
namespace {

using rollout::ErrorKind;
using sandbox::Exit;

// What OpenEnv's clients are used to get.
constexpr size_t kOutputTail = 2000;
constexpr size_t kFileHead = 8000;
constexpr size_t kLogTail = 2000;

std::string tail(ByteView text, size_t max) {
  return to_valid_utf8(text.size() > max ? text.substr(text.size() - max) : text);
}

double rounded(Duration duration) {
  return std::round(std::chrono::duration<double>(duration).count() * 1e3) / 1e3;
}

json::Value or_null(std::string_view text) {
  return text.empty() ? json::Value(nullptr) : json::Value(text);
}

json::Value code_of(const Exit& exit) {
  return exit.reason == Exit::Reason::kExited ? json::Value(exit.status) : json::Value(nullptr);
}

json::Array rows_json(const std::vector<agent::CommandRow>& rows) {
  json::Array out;
  for (const agent::CommandRow& row : rows) {
    json::Object one;
    one["cmd"] = row.cmd;
    one["exit_code"] = code_of(row.output.exit);
    one["stdout"] = tail(row.output.out, kOutputTail);
    one["stderr"] = tail(row.output.err, kOutputTail);
    one["duration_s"] = rounded(row.output.wall);
    one["ended"] = sandbox::describe(row.output.exit);
    if (row.output.exit.truncated || row.output.out.size() > kOutputTail ||
        row.output.err.size() > kOutputTail) {
      one["truncated"] = true;
    }
    out.push_back(std::move(one));
  }
  return out;
}

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
        tail(row.output.err, kOutputTail));
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
  json::Object out = base(result.task, result.mode, rounded(result.wall));
  out["sandbox_id"] = report.sandbox_id;
  if (result.reward) out["reward"] = *result.reward;
  if (report.agent) out["agent_exit_code"] = code_of(report.agent->exit);
  out["setup_results"] = rows_json(report.setup);
  out["verify_results"] = rows_json(report.verify);
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
  if (report.agent) out["agent_log_tail"] = tail(report.agent->log_tail, kLogTail);
  out["proxy_log_tail"] = turns.tail(kLogTail);
  out["error"] = or_null(to_valid_utf8(error_text(result)));

  out["error_kind"] = or_null(rollout::to_string(result.error_kind));
  out["rollout_id"] = result.rollout.value;
  out["agent"] = result.agent;
  out["agent_ended"] = report.agent ? sandbox::describe(report.agent->exit) : "";
  out["backend"] = result.backend;
  out["approvals"] = agent::to_string(result.approvals);
  out["guest_isolated"] = report.guest_isolated;
  json::Object calls;
  calls["calls"] = result.calls.calls;
  calls["turns"] = result.calls.turns;
  calls["resends"] = result.calls.resends;
  calls["refused"] = result.calls.refused;
  out["llm"] = std::move(calls);
  json::Object phases;
  for (const agent::PhaseTime& phase : report.phases) phases[phase.name] = rounded(phase.took);
  out["phases"] = std::move(phases);
  json::Array warnings;
  for (const std::string& warning : report.warnings) warnings.emplace_back(to_valid_utf8(warning));
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
