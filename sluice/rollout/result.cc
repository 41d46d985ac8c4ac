#include "sluice/rollout/result.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "sluice/json/value.h"

namespace sluice::rollout {
namespace {

constexpr size_t kShownOutput = 16 * 1024;
constexpr size_t kShownLog = 16 * 1024;

// Output as text for JSON: its end, if it is long.
std::string shown(ByteView bytes, size_t max = kShownOutput) {
  return to_valid_utf8(bytes.size() > max ? bytes.substr(bytes.size() - max) : bytes);
}

double seconds(Duration duration) {
  return std::round(std::chrono::duration<double>(duration).count() * 1e6) / 1e6;
}

json::Value row_json(const agent::CommandRow& row) {
  const sandbox::Exit& exit = row.output.exit;
  json::Object out;
  out["cmd"] = row.cmd;
  // OpenEnv's field: null where there was no exit code.
  out["exit_code"] = exit.reason == sandbox::Exit::Reason::kExited ? json::Value(exit.status)
                                                                   : json::Value(nullptr);
  out["stdout"] = shown(row.output.out);
  out["stderr"] = shown(row.output.err);
  out["duration_s"] = seconds(row.output.wall);
  out["ended"] = sandbox::describe(exit);
  if (exit.truncated || row.output.out.size() > kShownOutput ||
      row.output.err.size() > kShownOutput) {
    out["truncated"] = true;
  }
  return out;
}

json::Value rows_json(const std::vector<agent::CommandRow>& rows) {
  json::Array out;
  for (const agent::CommandRow& row : rows) out.push_back(row_json(row));
  return out;
}

std::optional<double> parse_reward(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ' || text.back() == '\r')) {
    text.remove_suffix(1);
  }
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) {
    return std::nullopt;
  }
  return value;
}

}  // namespace

std::string_view to_string(ErrorKind kind) {
  constexpr std::string_view names[] = {"",          "infrastructure",    "task",
                                        "agent",     "gate_never_called", "budget",
                                        "timed_out", "cancelled"};
  return names[static_cast<size_t>(kind) % 8];
}

ErrorKind kind_of(const Error& error) {
  switch (error.code) {
    case ErrorCode::kCancelled:
      return ErrorKind::kCancelled;
    case ErrorCode::kTimedOut:
      if (error.origin == ErrorOrigin::kAgent) return ErrorKind::kTimedOut;
      break;
    default:
      break;
  }
  switch (error.origin) {
    case ErrorOrigin::kTask:
    case ErrorOrigin::kCaller:
      return ErrorKind::kTask;
    case ErrorOrigin::kAgent:
      return ErrorKind::kAgent;
    default:
      return ErrorKind::kInfrastructure;
  }
}

std::optional<double> reward_of(const agent::Report& report, std::vector<std::string>& warnings) {
  if (!report.verified) return std::nullopt;
  if (report.verifier_reward) return report.verifier_reward;
  if (report.verify.empty()) return std::nullopt;
  if (report.reward_file) {
    if (const auto reward = parse_reward(*report.reward_file)) return reward;
    warnings.push_back(fmt::format("reward.txt holds no finite number and was not used: \"{}\"",
                                   shown(*report.reward_file, 80)));
  }
  double passed = 0;
  for (const agent::CommandRow& row : report.verify) passed += row.output.exit.ok() ? 1 : 0;
  return passed / static_cast<double>(report.verify.size());
}

std::string to_json(const RolloutResult& result) {
  const agent::Report& report = result.report;
  json::Object out;
  out["rollout_id"] = result.rollout.value;
  out["task_id"] = result.task;
  if (!result.group.empty()) out["group_id"] = result.group;
  out["agent"] = result.agent;
  out["mode"] = result.mode;
  out["policy"] = result.policy;
  out["backend"] = result.backend;
  out["sandbox_id"] = report.sandbox_id;
  out["approvals"] = agent::to_string(result.approvals);
  out["guest_isolated"] = report.guest_isolated;
  out["reward"] = result.reward ? json::Value(*result.reward) : json::Value(nullptr);
  out["error_kind"] = result.error_kind == ErrorKind::kNone
                          ? json::Value(nullptr)
                          : json::Value(to_string(result.error_kind));
  out["error"] =
      result.error.empty() ? json::Value(nullptr) : json::Value(to_valid_utf8(result.error));
  out["agent_exit_code"] = nullptr;
  if (report.agent) {
    const sandbox::Exit& exit = report.agent->exit;
    if (exit.reason == sandbox::Exit::Reason::kExited) out["agent_exit_code"] = exit.status;
    out["agent_ended"] = sandbox::describe(exit);
    out["agent_ok"] = report.agent->ok;
    if (report.agent->error) out["agent_error"] = to_valid_utf8(*report.agent->error);
  }
  out["wall_s"] = seconds(result.wall);
  if (result.preparation) out["preparation_s"] = seconds(*result.preparation);
  json::Object calls;
  calls["calls"] = result.calls.calls;
  calls["turns"] = result.calls.turns;
  calls["resends"] = result.calls.resends;
  calls["refused"] = result.calls.refused;
  out["llm"] = std::move(calls);
  json::Array phases;
  for (const agent::PhaseTime& phase : report.phases) {
    json::Object row;
    row["phase"] = phase.name;
    row["began_s"] = seconds(phase.began);
    row["took_s"] = seconds(phase.took);
    phases.push_back(std::move(row));
  }
  out["phases"] = std::move(phases);
  out["setup_results"] = rows_json(report.setup);
  out["verify_results"] = rows_json(report.verify);
  json::Object files;
  for (const auto& [path, content] : report.files)
    files[to_valid_utf8(path)] = to_valid_utf8(content);
  out["files"] = std::move(files);
  json::Array extra;
  for (const std::string& path : report.files_extra) extra.emplace_back(to_valid_utf8(path));
  out["files_extra"] = std::move(extra);
  json::Array artifacts;
  for (const agent::Artifact& artifact : report.artifacts) {
    json::Object row;
    row["name"] = artifact.name;
    row["path"] = artifact.path;
    row["bytes"] = artifact.content.size();
    artifacts.push_back(std::move(row));
  }
  out["artifacts"] = std::move(artifacts);
  out["agent_log_tail"] = report.agent ? shown(report.agent->log_tail, kShownLog) : "";
  json::Array warnings;
  for (const std::string& warning : report.warnings) warnings.emplace_back(to_valid_utf8(warning));
  out["warnings"] = std::move(warnings);
  out["trace"] = result.trace;
  if (!result.kept_files.empty()) out["kept_files"] = result.kept_files;
  if (!result.metadata.empty()) {
    if (auto metadata = json::parse(result.metadata)) out["metadata"] = std::move(*metadata);
  }
  return json::serialize(json::Value(std::move(out)));
}

}  // namespace sluice::rollout
