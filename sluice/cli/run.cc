#include <fmt/chrono.h>
#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <filesystem>

#include "sluice/base/log.h"
#include "sluice/cli/backends.h"
#include "sluice/cli/commands.h"
#include "sluice/cli/display.h"
#include "sluice/cli/paths.h"
#include "sluice/cli/run_parts.h"
#include "sluice/gate/gate.h"
#include "sluice/net/shard.h"
#include "sluice/net/signals.h"
#include "sluice/rollout/rollout.h"
#include "sluice/trace/jsonl.h"

namespace sluice::cli {
namespace {

using namespace std::chrono_literals;

// The parts of one `sluice run`, in the order in which they need each other.
class Run {
 public:
  explicit Run(const RunFlags& flags) : flags_(flags) {}

  Result<int> go() {
    SLUICE_TRY_VOID(read_input());
    SLUICE_TRY_VOID(make_directory());
    const Logger log = Logger::to_file(flags_.log.empty() ? directory_ + "/engine.log" : flags_.log,
                                       LogLevel::kInfo);
    SLUICE_TRY(options_.policy, choose_policy(flags_, shard_, names_, log));
    SLUICE_TRY(auto backend, make_backend(flags_.backend, log));
    trace::JsonlRecorder recorder(directory_, log);
    SLUICE_TRY(gate::GateOptions options, gate_options(flags_, log));
    gate::Handles gate = gate::make_gate(std::move(options));
    SLUICE_TRY(const auto trainer, start_trainer_side(flags_, gate, directory_, log));

    Display display(stderr, flags_.json && !isatty_stderr() ? Display::Style::kSilent
                                                            : Display::style_for(stderr));
    options_.on_phase = [&](std::string_view name) {
      display.phase(name);
    };
    options_.on_agent_event = [&](const agent::AgentEvent& event) {
      display.event(event);
    };
    if (flags_.keep) options_.keep_files_in = directory_ + "/files";

    rollout::Rollout rollout({shard_, *backend, gate.for_operator, recorder, log}, options_);
    const net::Signals signals(shard_, {SIGINT, SIGTERM}, [&](int) {
      display.finish();
      fmt::print(stderr, "cancelling: cleaning up\n");
      rollout.cancel("interrupted");
    });
    net::Wheel::Timer ticker(shard_.wheel());
    std::function<void()> tick = [&] {
      display.tick();
      ticker.arm(Deadline::in(100ms), tick);
    };
    tick();

    std::optional<rollout::RolloutResult> result;
    shard_.spawn(run_into(&rollout, &result));
    shard_.run_until([&] { return result.has_value(); });
    ticker.disarm();
    display.finish();
    SLUICE_TRY_VOID(store_result(directory_, *result));
    if (flags_.json) {
      fmt::print("{}\n", rollout::to_json(*result));
    } else {
      print_result(directory_, *result);
    }
    return exit_code_of(result->error_kind);
  }

 private:
  static bool isatty_stderr() { return Display::style_for(stderr) == Display::Style::kTerminal; }

  static net::awaitable<void> run_into(rollout::Rollout* rollout,
                                       std::optional<rollout::RolloutResult>* result) {
    result->emplace(co_await rollout->run());
  }

  Result<void> read_input() {
    SLUICE_TRY(rollout::Task task, read_task(flags_, flags_.task));
    SLUICE_TRY(AgentChoice agent, choose_agent(flags_, {&task}));
    options_.task = std::make_shared<const rollout::Task>(std::move(task));
    options_.spec = std::move(agent.spec);
    options_.bundle_path = std::move(agent.bundle_path);
    options_.dialect = agent.dialect;
    options_.model = flags_.model;
    options_.max_output = flags_.max_tokens_cap;
    return {};
  }

  Result<void> make_directory() {
    std::string wanted = flags_.out;
    if (wanted.empty()) {
      wanted = fmt::format("{}/rollouts/{:%Y%m%d-%H%M%S}-{}-{}", state_directory(),
                           fmt::localtime(std::time(nullptr)), options_.task->id,
                           options_.id.value.substr(options_.id.value.size() - 6));
    }
    SLUICE_TRY(directory_, make_output_directory(wanted));
    return {};
  }

  const RunFlags& flags_;
  net::Shard shard_;
  net::BlockingPool names_{1};
  rollout::RolloutOptions options_;
  std::string directory_;
};

}  // namespace

int run_command(const RunFlags& flags) {
  // Whoever reads our output may go first; the rollout still ends in order.
  std::signal(SIGPIPE, SIG_IGN);
  auto code = Run(flags).go();
  if (code) return *code;
  fmt::print(stderr, "sluice: {}\n", printable(code.error().message));
  return exit_code(code.error().code);
}

}  // namespace sluice::cli
