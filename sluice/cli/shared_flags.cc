#include "sluice/cli/shared_flags.h"

#include <CLI/CLI.hpp>

namespace sluice::cli {

void add_limit_flags(CLI::App& command, GateLimitFlags& flags) {
  constexpr char kGroup[] = "Limits of all rollouts together [none] (docs/gate.md)";
  const auto limit = [&](const char* name, auto& value, const char* help) {
    // The library takes "-1" for the largest of unsigned numbers.
    command.add_option(name, value, help)->check(CLI::NonNegativeNumber)->group(kGroup);
  };
  limit("--total-calls", flags.total_calls, "LLM calls");
  limit("--total-open-calls", flags.total_open_calls, "calls open at once; more are put off");
  limit("--total-calls-per-second", flags.total_calls_per_second,
        "calls a second; more are put off");
  limit("--total-tokens", flags.total_tokens, "tokens of delivered answers, prompts included");
  limit("--total-bytes", flags.total_bytes, "bytes of requests and answers");
  limit("--total-time-s", flags.total_time_s, "seconds from the first agent's start on");
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
