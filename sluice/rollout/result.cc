#include "sluice/rollout/result.h"

#include <cmath>

#include "sluice/json/value.h"

namespace sluice::rollout {
namespace {

constexpr size_t kShownLog = 16 * 1024;
constexpr double kTicks = 1e6;

}  // namespace

double rounded(Duration duration, double ticks) {
  return std::round(to_seconds(duration) * ticks) / ticks;
}

std::string tail_of(ByteView text, size_t max) {
  return to_valid_utf8(text.size() > max ? text.substr(text.size() - max) : text);
}

json::Value or_null(std::string_view text) {
  return text.empty() ? json::Value(nullptr) : json::Value(text);
}

json::Value code_of(const sandbox::Exit& exit) {
  return exit.reason == sandbox::Exit::Reason::kExited ? json::Value(exit.status)
                                                       : json::Value(nullptr);
}

json::Array rows_json(const std::vector<agent::CommandRow>& rows, size_t output, double ticks) {
  json::Array out;
  for (const agent::CommandRow& command : rows) {
    const sandbox::Output& ran = command.output;
    json::Object row;
    row["cmd"] = command.cmd;
    row["exit_code"] = command.error.empty() ? code_of(ran.exit) : json::Value(nullptr);
    row["stdout"] = tail_of(ran.out, output);
    row["stderr"] = tail_of(ran.err, output);
    row["duration_s"] = rounded(ran.wall, ticks);
    row["ended"] = to_valid_utf8(command.ended());
    if (ran.exit.truncated || ran.out.size() > output || ran.err.size() > output) {
      row["truncated"] = true;
    }
    out.push_back(std::move(row));
  }
  return out;
}

json::Object calls_json(const gate::Counters& calls) {
  json::Object out;
  out["calls"] = calls.calls;
  out["turns"] = calls.turns;
  out["resends"] = calls.resends;
  out["refused"] = calls.refused;
  out["rejected"] = calls.rejected;
  out["failed"] = calls.ended(llm::Outcome::kFailed);
  out["rewrites"] = calls.rewrites;
  return out;
}

json::Array texts_json(const std::vector<std::string>& texts) {
  json::Array out;
  for (const std::string& text : texts) out.emplace_back(to_valid_utf8(text));
  return out;
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
  if (result.reward_if_counted) out["reward_if_counted"] = *result.reward_if_counted;
  if (!result.reward_error.empty()) out["reward_error"] = to_valid_utf8(result.reward_error);
  if (!result.reward_clamped.empty()) out["reward_clamped"] = result.reward_clamped;
  if (report.verified) out["verify_where"] = report.verify_where;
  out["error_kind"] = or_null(to_string(result.error_kind));
  out["error"] = or_null(to_valid_utf8(result.error));
  out["agent_exit_code"] = nullptr;
  if (report.agent) {
    out["agent_exit_code"] = code_of(report.agent->exit);
    out["agent_ended"] = sandbox::describe(report.agent->exit);
    out["agent_ok"] = report.agent->ok;
    if (report.agent->error) out["agent_error"] = to_valid_utf8(*report.agent->error);
  }
  out["wall_s"] = rounded(result.wall, kTicks);
  if (result.preparation) out["preparation_s"] = rounded(*result.preparation, kTicks);
  out["llm"] = calls_json(result.calls);
  json::Array phases;
  for (const agent::PhaseTime& phase : report.phases) {
    json::Object row;
    row["phase"] = phase.name;
    row["began_s"] = rounded(phase.began, kTicks);
    row["took_s"] = rounded(phase.took, kTicks);
    phases.push_back(std::move(row));
  }
  out["phases"] = std::move(phases);
  out["setup_results"] = rows_json(report.setup, kShownOutput, kTicks);
  if (!report.start.empty()) {
    out["verify_start_results"] = rows_json(report.start, kShownOutput, kTicks);
  }
  out["verify_results"] = rows_json(report.verify, kShownOutput, kTicks);
  json::Object files;
  json::Array extra = texts_json(report.files_extra);
  for (const auto& [path, content] : report.files) {
    // Of two names that no JSON can hold one could hide the other.
    if (is_valid_utf8(path)) {
      files[path] = to_valid_utf8(content);
    } else {
      extra.emplace_back(to_valid_utf8(path));
    }
  }
  out["files"] = std::move(files);
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
  out["agent_log_tail"] = report.agent ? tail_of(report.agent->log_tail, kShownLog) : "";
  out["warnings"] = texts_json(report.warnings);
  out["trace"] = result.trace;
  if (!result.kept_files.empty()) out["kept_files"] = result.kept_files;
  if (!result.metadata.empty()) {
    if (auto metadata = json::parse(result.metadata)) out["metadata"] = std::move(*metadata);
  }
  return json::serialize(json::Value(std::move(out)));
}

}  // namespace sluice::rollout
