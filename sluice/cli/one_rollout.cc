// `sluice run` for one rollout.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <cstdio>
#include <ctime>

#include "sluice/base/id.h"
#include "sluice/base/printable.h"
#include "sluice/cli/display.h"
#include "sluice/cli/output.h"
#include "sluice/cli/paths.h"
#include "sluice/cli/run_report.h"

namespace sluice::cli {
namespace {

class OneRollout final : public RunReport {
 public:
  OneRollout(const RunFlags& flags, const RunInput& input, std::string directory)
      : flags_(flags), display_(stderr, status_style(flags)) {
    directory_ = std::move(directory);
    const auto& task = input.tasks.front();
    wanted_.push_back({task->id, task, ""});
  }

  void watch(rollout::RolloutOptions& options) override {
    options.on_phase = [this](std::string_view name) {
      display_.phase(name);
    };
    options.on_agent_event = [this](const agent::AgentEvent& event) {
      display_.event(event);
    };
  }

  Result<void> ended(const rollout::Finished& finished, const rollout::Engine&) override {
    display_.finish();
    if (!finished.result) return Error(ErrorCode::kInternal, finished.why);
    const rollout::RolloutResult& result = *finished.result;
    for (const rollout::FailedAttempt& attempt : finished.failed_attempts) {
      if (attempt.rollout == result.rollout) continue;
      say(fmt::format("attempt {} failed and was made again: {}\n", attempt.rollout.value,
                      printable(attempt.error)));
    }
    SLUICE_TRY_VOID(store_result(directory_, result));
    if (flags_.json) {
      put_json(rollout::to_json(result));
    } else {
      print_result(directory_, result);
    }
    // Between two attempts there is none that could be cancelled.
    code_ = finished.why == kInterrupted ? exit_code(ErrorCode::kCancelled)
                                         : exit_code_of(result.error_kind);
    return {};
  }

  void interrupted(rollout::Engine& engine, int) override {
    display_.finish();
    say("cancelling: cleaning up\n");
    engine.cancel_all(kInterrupted);
  }

  void tick(const rollout::Engine&) override { display_.tick(); }
  Result<int> conclude(const rollout::Engine&) override { return code_; }

 private:
  const RunFlags& flags_;
  Display display_;
  int code_ = 0;
};

}  // namespace

Result<std::unique_ptr<RunReport>> report_one(const RunFlags& flags, const RunInput& input) {
  std::string wanted = flags.out;
  if (wanted.empty()) {
    wanted =
        fmt::format("{}/rollouts/{:%Y%m%d-%H%M%S}-{}-{}", state_directory(),
                    fmt::localtime(std::time(nullptr)), input.tasks.front()->id, random_hex(3));
  }
  SLUICE_TRY(std::string directory, make_output_directory(wanted));
  return std::unique_ptr<RunReport>(
      std::make_unique<OneRollout>(flags, input, std::move(directory)));
}

}  // namespace sluice::cli
