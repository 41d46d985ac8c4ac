#include "sluice/cli/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace sluice::cli {
namespace {

using rollout::JournalEntry;

constexpr size_t kBarWidth = 24;

double seconds_since(Clock::time_point began) {
  return std::chrono::duration<double>(Clock::now() - began).count();
}

// What the rollouts of one task, or of all, come to.
struct Row {
  size_t rollouts = 0, rewarded = 0, full = 0, failed_attempts = 0;
  double rewards = 0;
  uint64_t turns = 0;
  std::vector<double> walls;
  std::map<std::string, size_t> errors;

  void add(const JournalEntry& entry) {
    ++rollouts;
    failed_attempts += entry.failed_attempts;
    if (!entry.has_result) {
      ++errors["not_run"];
      return;
    }
    if (!entry.error_kind.empty()) ++errors[entry.error_kind];
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

std::string describe(const JournalEntry& entry) {
  if (!entry.has_result) return "not run: " + printable(entry.why);
  std::string text =
      entry.reward ? fmt::format("reward {:.2f}", *entry.reward) : std::string("reward null");
  if (!entry.error_kind.empty()) text += ", " + entry.error_kind;
  text += fmt::format(", {} turns, {:.2f} s", entry.turns, entry.wall_s);
  if (entry.failed_attempts > 0) {
    text += fmt::format(", {} failed attempts", entry.failed_attempts);
  }
  return text;
}

std::string batch_table(const std::vector<JournalEntry>& entries) {
  std::map<std::string, Row> rows;
  Row all;
  size_t width = 5;
  for (const JournalEntry& entry : entries) {
    rows[entry.task].add(entry);
    all.add(entry);
    width = std::max(width, entry.task.size());
  }
  std::string text = fmt::format("{:<{}} {:>8} {:>7} {:>9} {:>7} {:>9}  {}\n", "TASK", width,
                                 "ROLLOUTS", "REWARD", "FULL", "TURNS", "TIME", "ERRORS");
  for (const auto& [name, row] : rows) text += row.text(name, width);
  if (rows.size() > 1) text += all.text("all", width);
  if (all.failed_attempts > 0) {
    text += fmt::format("{} attempts failed for infrastructure reasons and are not counted above\n",
                        all.failed_attempts);
  }
  return text;
}

void Progress::ended(const JournalEntry& entry) {
  ++ended_;
  if (!entry.has_result || !entry.error_kind.empty()) ++errors_;
  if (entry.reward) {
    ++rewards_;
    reward_sum_ += *entry.reward;
  }
  if (style_ == Display::Style::kPlain) {
    note(fmt::format("{}/{} {}  {}", ended_, total_, entry.name, describe(entry)));
  }
}

void Progress::note(std::string_view text) {
  if (style_ == Display::Style::kSilent) return;
  if (style_ == Display::Style::kTerminal) fmt::print(out_, "\r\x1b[K");
  fmt::print(out_, "[{:8.3f} s] {}\n", seconds_since(began_), text);
  std::fflush(out_);
}

void Progress::tick(const rollout::Engine::Status& status) {
  if (style_ != Display::Style::kTerminal) return;
  const size_t filled = total_ == 0 ? kBarWidth : kBarWidth * ended_ / total_;
  std::string left;
  if (const size_t here = ended_ - before_; here > 0 && ended_ < total_) {
    const double each = seconds_since(began_) / static_cast<double>(here);
    left = "  " +
           duration_text(std::chrono::duration_cast<Duration>(
               std::chrono::duration<double>(each * static_cast<double>(total_ - ended_)))) +
           " left";
  }
  fmt::print(out_, "\r\x1b[K  {:#<{}}{:.<{}} {}/{}  {} running{}{}{}{}", "", filled, "",
             kBarWidth - filled, ended_, total_, status.running,
             status.retrying > 0 ? fmt::format(", {} to retry", status.retrying) : "",
             rewards_ > 0
                 ? fmt::format("  reward {:.2f}", reward_sum_ / static_cast<double>(rewards_))
                 : "",
             errors_ > 0 ? fmt::format("  {} errors", errors_) : "", left);
  std::fflush(out_);
  drawn_ = true;
}

void Progress::finish() {
  if (std::exchange(drawn_, false)) {
    fmt::print(out_, "\n");
    std::fflush(out_);
  }
}

}  // namespace sluice::cli
