#include "sluice/cli/shared_flags.h"

#include <fmt/format.h>

#include <algorithm>

#include <CLI/CLI.hpp>

namespace sluice::cli {

std::string flag_name(std::string_view key) {
  std::string name = "--" + std::string(key);
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

void add_limit_flags(CLI::App& command, GateLimitFlags& flags) {
  constexpr char kGroup[] = "Limits of all rollouts together [none] (docs/gate.md)";
  each_limit(flags, [&](const char* key, double most, auto& into, const char* help) {
    // The library takes "-1" for the largest of unsigned numbers, and "nan" for one in any range.
    const auto fits = [most](const std::string& text) {
      double number = -1;
      const bool is_number = CLI::detail::lexical_cast(text, number);
      return is_number && number >= 0 && number <= most
                 ? std::string()
                 : fmt::format("must be from 0 to {:.0f}", most);
    };
    command.add_option(flag_name(key), into, help)->check(fits)->group(kGroup);
  });
  command
      .add_option("--max-body-mb", flags.max_body_mb, "an agent's request, inflated, in MiB [32]")
      ->check(CLI::Range(uint32_t{1}, kMostBodyMb));
  command
      .add_option("--tool-names", flags.tool_names,
                  "the only tools that rollouts may have, as in lookup,search [any]")
      ->delimiter(',')
      ->allow_extra_args(false);
}

void add_rule_flags(CLI::App& command, GateRuleFlags& flags) {
  constexpr char kGroup[] = "Rules of rollouts that a trainer answers (docs/gate.md)";
  command
      .add_option("--accept", flags.accept, "answers: any, or sampled: by the policy alone [any]")
      ->check(CLI::IsMember({"any", "sampled"}))
      ->group(kGroup);
  command
      .add_option("--delivery", flags.delivery,
                  "answers go to agents whole, or incremental: as they are made [whole]")
      ->check(CLI::IsMember({"whole", "incremental"}))
      ->group(kGroup);
  command
      .add_option("--max-version-lag", flags.max_version_lag,
                  "cancel a rollout this many policy versions behind [never]")
      ->check(CLI::NonNegativeNumber)
      ->group(kGroup);
}

}  // namespace sluice::cli
