#include "sluice/cli/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "sluice/base/printable.h"

namespace sluice::cli {
namespace {

using rollout::ResultLine;

constexpr size_t kBarWidth = 24;

// What the rollouts of one task, or of all, come to.
struct Row {
  size_t rollouts = 0, rewarded = 0, full = 0;
  double rewards = 0;
  uint64_t turns = 0;
  std::vector<double> walls;
  std::map<std::string, size_t> errors, failed_attempts;
  size_t unusable = 0, clamped = 0;
  std::map<std::string, const ResultLine*> first_errors;  // by their kind

  void add(const ResultLine& entry) {
    ++rollouts;
    for (const auto& [kind, count] : entry.failed_attempts) failed_attempts[kind] += count;
    if (!entry.has_result) {
      ++errors["not_run"];
      return;
    }
    if (!entry.error_kind.empty()) {
      ++errors[entry.error_kind];
      first_errors.try_emplace(entry.error_kind, &entry);
    }
    if (entry.reward_unusable) ++unusable;
    if (entry.reward_clamped) ++clamped;
    turns += entry.turns;
    walls.push_back(entry.wall_s);
    if (!entry.reward) return;
    ++rewarded;
    rewards += *entry.reward;
    if (*entry.reward >= 1) ++full;
  }

  std::string text(std::string_view name, size_t width) const {
    std::vector<double> sorted = walls;
    std::sort(sorted.begin(), sorted.end());
    std::string problems;
    for (const auto& [kind, count] : errors) {
      problems += fmt::format("{}{} {}", problems.empty() ? "" : ", ", count, kind);
    }
    return fmt::format(
        "{:<{}} {:>8} {:>7} {:>9} {:>7} {:>9}  {}\n", name, width, rollouts,
        rewarded == 0 ? "null" : fmt::format("{:.3f}", rewards / static_cast<double>(rewarded)),
        fmt::format("{}/{}", full, rewarded),
        walls.empty()
            ? "-"
            : fmt::format("{:.1f}", static_cast<double>(turns) / static_cast<double>(walls.size())),
        walls.empty() ? "-" : fmt::format("{:.2f} s", sorted[sorted.size() / 2]), problems);
  }
};

}  // namespace

std::string describe(const ResultLine& entry) {
  if (!entry.has_result) return "not run: " + printable(entry.why);
  std::string text =
      entry.reward ? fmt::format("reward {:.2f}", *entry.reward) : std::string("reward null");
  if (entry.reward_unusable) text += " (no usable verdict)";
  if (entry.reward_clamped) text += " (clamped)";
  if (!entry.error_kind.empty()) text += ", " + entry.error_kind;
  text += fmt::format(", {} turns, {:.2f} s", entry.turns, entry.wall_s);
  for (const auto& [kind, count] : entry.failed_attempts) {
    text += fmt::format(", {} failed attempts ({})", count, kind);
  }
  return text;
}

std::string batch_table(const std::vector<ResultLine>& entries) {
  std::map<std::string, Row> rows;
  Row all;
  size_t width = 5;
  for (const ResultLine& entry : entries) {
    rows[entry.task].add(entry);
    all.add(entry);
    width = std::max(width, entry.task.size());
  }
  std::string text = fmt::format("{:<{}} {:>8} {:>7} {:>9} {:>7} {:>9}  {}\n", "TASK", width,
                                 "ROLLOUTS", "REWARD", "FULL", "TURNS", "TIME", "ERRORS");
  for (const auto& [name, row] : rows) text += row.text(name, width);
  if (rows.size() > 1) text += all.text("all", width);
  for (const auto& [kind, count] : all.failed_attempts) {
    text +=
        fmt::format("{} failed attempts ({}), those that were made again included\n", count, kind);
  }
  if (all.unusable > 0) {
    text += fmt::format("{} rewards are the least there is, for want of a usable verdict\n",
                        all.unusable);
  }
  if (all.clamped > 0) {
    text += fmt::format("{} rewards were out of their task's bounds and clamped\n", all.clamped);
  }
  for (const auto& [kind, entry] : all.first_errors) {
    text += fmt::format("first {}: {}: {}\n", kind, entry->name, printable(entry->error));
  }
  return text;
}

void Progress::ended(const ResultLine& entry) {
  ++ended_;
  if (!entry.has_result || !entry.error_kind.empty()) ++errors_;
  if (entry.reward) {
    ++rewards_;
    reward_sum_ += *entry.reward;
  }
  if (line_.style() == StatusLine::Style::kPlain) {
    note(fmt::format("{}/{} {}  {}", ended_, total_, entry.name, describe(entry)));
  }
}

void Progress::tick(const rollout::Engine::Status& status) {
  if (line_.style() != StatusLine::Style::kTerminal) return;
  const size_t filled = total_ == 0 ? kBarWidth : kBarWidth * ended_ / total_;
  std::string text = fmt::format("{:#<{}}{:.<{}} {}/{}  {} running", "", filled, "",
                                 kBarWidth - filled, ended_, total_, status.running);
  if (status.retrying > 0) text += fmt::format(", {} to retry", status.retrying);
  if (rewards_ > 0) {
    text += fmt::format("  reward {:.2f}", reward_sum_ / static_cast<double>(rewards_));
  }
  if (errors_ > 0) text += fmt::format("  {} errors", errors_);
  if (const size_t here = ended_ - before_; here > 0 && ended_ < total_) {
    const double left =
        line_.seconds() / static_cast<double>(here) * static_cast<double>(total_ - ended_);
    text += fmt::format("  {} left", duration_text(from_seconds(left)));
  }
  line_.draw(text);
}

}  // namespace sluice::cli
