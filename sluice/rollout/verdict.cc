#include "sluice/rollout/verdict.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "sluice/base/core/bytes.h"

namespace sluice::rollout {
namespace {

using agent::RewardFrom;

constexpr size_t kShown = 80;
constexpr std::string_view kWhiteSpace = " \t\n\v\f\r";

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kWhiteSpace);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(kWhiteSpace) + 1 - begin);
}

std::string shown(std::string_view text) {
  return to_valid_utf8(text.substr(0, kShown));
}

Verdict unusable(const agent::Verify& how, std::string why) {
  return {how.reward_min, std::move(why), ""};
}

Verdict within_bounds(const agent::Verify& how, double reward, std::string_view written) {
  const double bounded = std::clamp(reward, how.reward_min, how.reward_max);
  return {bounded, "", bounded == reward ? "" : shown(written)};
}

Verdict share_of(const std::vector<agent::CommandRow>& rows, const agent::Verify& how) {
  const auto passed = std::ranges::count_if(rows, &agent::CommandRow::ok);
  const double share = static_cast<double>(passed) / static_cast<double>(rows.size());
  return within_bounds(how, share, fmt::format("{}", share));
}

Verdict of_file(const std::string& text, const agent::Verify& how) {
  const auto reward = parse_reward(text);
  if (reward) return within_bounds(how, *reward, trimmed(text));
  if (trimmed(text).empty()) return unusable(how, "reward.txt is empty");
  return unusable(how,
                  fmt::format("reward.txt holds no finite number: \"{}\"", shown(trimmed(text))));
}

// What of the commands leaves no verdict; "" if nothing does.
std::string fault_of(const std::vector<agent::CommandRow>& rows, RewardFrom from) {
  for (const agent::CommandRow& row : rows) {
    // A command that was ended may have been about to write another number.
    const bool ended =
        from == RewardFrom::kAuto && row.output.exit.reason != sandbox::Exit::Reason::kExited;
    if (!row.error.empty() || ended) {
      return fmt::format("verify command {}: {}", row.ended(), shown(row.cmd));
    }
  }
  return "";
}

}  // namespace

std::optional<double> parse_reward(std::string_view text) {
  text = trimmed(text);
  // No "nan", no "inf".
  if (text.find_first_not_of("0123456789.eE+-") != text.npos) return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (end != text.data() + text.size()) return std::nullopt;
  if (error == std::errc::result_out_of_range) {
    // Out at which end it does not say.
    value = std::strtod(std::string(text).c_str(), nullptr);
    if (std::abs(value) < 1) return 0;
  }
  if (error != std::errc() || !std::isfinite(value)) return std::nullopt;
  return value;
}

Verdict verdict_of(const agent::Report& report, const agent::Verify& how) {
  if (report.verified && report.verifier_reward) {
    if (std::isfinite(*report.verifier_reward)) return {report.verifier_reward, "", ""};
    return unusable(how, "the embedding program's verifier returned no finite number");
  }
  if (how.commands.empty()) return {};
  if (!report.verified) {
    if (!report.agent) return {};
    return unusable(how, "verify did not come to its end");
  }
  if (!report.unjudged.empty()) return unusable(how, report.unjudged);
  if (how.reward == RewardFrom::kCommands || how.reward == RewardFrom::kAuto) {
    std::string fault = fault_of(report.verify, how.reward);
    if (!fault.empty()) return unusable(how, std::move(fault));
  }
  if (how.reward == RewardFrom::kCommands) return share_of(report.verify, how);
  if (!report.reward_file_error.empty()) {
    return unusable(how, "reward.txt cannot be read: " + report.reward_file_error);
  }
  if (report.reward_file) return of_file(*report.reward_file, how);
  if (how.reward == RewardFrom::kFile) return unusable(how, "verify left no reward.txt");
  return share_of(report.verify, how);
}

}  // namespace sluice::rollout
