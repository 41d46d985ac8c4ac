#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <csignal>
#include <cstdio>
#include <filesystem>

#include "sluice/agent/bundle.h"
#include "sluice/agent/registry.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/log.h"
#include "sluice/cli/backends.h"
#include "sluice/cli/commands.h"
#include "sluice/cli/display.h"
#include "sluice/cli/paths.h"
#include "sluice/gate/gate.h"
#include "sluice/gate/script_policy.h"
#include "sluice/net/shard.h"
#include "sluice/net/signals.h"
#include "sluice/rollout/rollout.h"
#include "sluice/trace/jsonl.h"
#include "sluice/upstream/passthrough.h"

namespace sluice::cli {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using rollout::ErrorKind;

// The parts of one `sluice run`, in the order in which they need each other.
class Run {
 public:
  explicit Run(const RunFlags& flags) : flags_(flags) {}

  Result<int> go() {
    SLUICE_TRY_VOID(read_input());
    SLUICE_TRY_VOID(make_directory());
    const Logger log = Logger::to_file(flags_.log.empty() ? directory_ + "/engine.log" : flags_.log,
                                       LogLevel::kInfo);
    SLUICE_TRY(options_.policy, choose_policy(log));
    SLUICE_TRY(auto backend, make_backend(flags_.backend, log));
    trace::JsonlRecorder recorder(directory_, log);
    gate::GateOptions gate_options;
    gate_options.log = log;
    gate::Handles gate = gate::make_gate(gate_options);

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
    SLUICE_TRY_VOID(store(*result));
    print(*result);
    return exit_code_of(*result);
  }

 private:
  static bool isatty_stderr() { return Display::style_for(stderr) == Display::Style::kTerminal; }

  static net::awaitable<void> run_into(rollout::Rollout* rollout,
                                       std::optional<rollout::RolloutResult>* result) {
    result->emplace(co_await rollout->run());
  }

  Result<void> read_input() {
    SLUICE_TRY(rollout::Task task, rollout::load_task(flags_.task));
    if (flags_.approvals == "bypass") task.approvals = agent::Approvals::kBypass;
    if (flags_.approvals == "default") task.approvals = agent::Approvals::kAgentDefault;
    for (const std::string& option : flags_.options) {
      const size_t equals = option.find('=');
      if (equals == std::string::npos) {
        return Error(ErrorCode::kInvalidArgument,
                     fmt::format("--option {}: must be NAME=VALUE", option));
      }
      task.options[option.substr(0, equals)] = option.substr(equals + 1);
    }
    SLUICE_TRY(agent::Spec spec, agent::Registry(flags_.agents_directory).find(flags_.agent));
    SLUICE_TRY(options_.dialect, choose_dialect(spec));
    if (spec.bundle) {
      const agent::Bundles bundles(agent::default_bundle_directory());
      SLUICE_TRY(options_.bundle_path, bundles.install(spec, [](std::string_view line) {
        fmt::print(stderr, "{}\n", printable(line));
      }));
    }
    options_.task = std::make_shared<const rollout::Task>(std::move(task));
    options_.spec = std::make_shared<const agent::Spec>(std::move(spec));
    options_.model = flags_.model;
    return {};
  }

  Result<llm::Dialect> choose_dialect(const agent::Spec& spec) const {
    if (flags_.dialect.empty()) return spec.dialects.front().dialect;
    std::vector<std::string_view> known;
    for (const agent::DialectSpec& row : spec.dialects) {
      known.push_back(llm::to_string(row.dialect));
      if (known.back() == flags_.dialect) return row.dialect;
    }
    return Error(ErrorCode::kUnsupported,
                 fmt::format("{} does not speak the dialect {}; it speaks: {}", spec.name,
                             flags_.dialect, fmt::join(known, ", ")));
  }

  Result<rollout::PolicyChoice> choose_policy(const Logger& log) {
    const size_t colon = flags_.policy.find(':');
    const std::string kind = flags_.policy.substr(0, colon);
    const std::string value = colon == std::string::npos ? "" : flags_.policy.substr(colon + 1);
    rollout::PolicyChoice choice;
    choice.name = kind;
    if (kind == "script" && !value.empty()) {
      SLUICE_TRY(choice.policy, gate::ScriptPolicy::load(value, shard_));
      return choice;
    }
    if (kind == "passthrough" && !value.empty()) {
      upstream::PassthroughOptions options;
      options.base_url = value;
      options.key = environment(flags_.key_env.c_str());
      log.redactor().add_secret(options.key);
      if (options.key.empty()) {
        fmt::print(stderr, "note: {} is not set; {} is asked without a key\n", flags_.key_env,
                   value);
      }
      choice.mode = "black_box";
      SLUICE_TRY(choice.policy, upstream::make_passthrough(shard_, names_, std::move(options)));
      return choice;
    }
    return Error(ErrorCode::kInvalidArgument,
                 fmt::format("--policy {}: must be script:FILE or passthrough:URL", flags_.policy));
  }

  Result<void> make_directory() {
    std::error_code error;
    directory_ = flags_.out;
    if (directory_.empty()) {
      directory_ = fmt::format("{}/rollouts/{:%Y%m%d-%H%M%S}-{}-{}", state_directory(),
                               fmt::localtime(std::time(nullptr)), options_.task->id,
                               options_.id.value.substr(options_.id.value.size() - 6));
    }
    directory_ = fs::absolute(directory_, error).lexically_normal().string();
    if (fs::exists(directory_, error) && !fs::is_empty(directory_, error)) {
      return Error(ErrorCode::kAlreadyExists,
                   directory_ + " exists and is not empty: name a new directory by --out");
    }
    fs::create_directories(directory_, error);
    if (error) return errno_error("create " + directory_, error.value());
    fs::permissions(directory_, fs::perms::owner_all, error);
    return {};
  }

  Result<void> store(const rollout::RolloutResult& result) const {
    SLUICE_TRY_VOID(
        write_file_atomically(directory_ + "/result.json", rollout::to_json(result) + "\n", 0600));
    if (result.report.agent) {
      SLUICE_TRY_VOID(
          write_file_atomically(directory_ + "/agent.stdout", result.report.agent->out, 0600));
      SLUICE_TRY_VOID(
          write_file_atomically(directory_ + "/agent.stderr", result.report.agent->err, 0600));
    }
    for (const agent::Artifact& artifact : result.report.artifacts) {
      std::error_code ignored;
      fs::create_directories(directory_ + "/artifacts", ignored);
      SLUICE_TRY_VOID(write_file_atomically(directory_ + "/artifacts/" + artifact.name,
                                            artifact.content, 0600));
    }
    return {};
  }

  void print(const rollout::RolloutResult& result) const {
    if (flags_.json) {
      fmt::print("{}\n", rollout::to_json(result));
      return;
    }
    auto rows = [](const char* name, const std::vector<agent::CommandRow>& commands) {
      for (const agent::CommandRow& row : commands) {
        fmt::print("{:<8} {}  {}  ({})\n", name, row.output.exit.ok() ? "ok  " : "FAIL",
                   printable(row.cmd), sandbox::describe(row.output.exit));
      }
    };
    rows("setup", result.report.setup);
    rows("verify", result.report.verify);
    for (const std::string& warning : result.report.warnings) {
      fmt::print("warning  {}\n", printable(warning));
    }
    if (result.error_kind != ErrorKind::kNone) {
      fmt::print("error    {}: {}\n", to_string(result.error_kind), printable(result.error));
    }
    fmt::print("agent    {}, {} calls, {} turns, {}\n", result.agent, result.calls.calls,
               result.calls.turns,
               result.report.agent ? describe(result.report.agent->exit) : "not started");
    fmt::print("reward   {}\n", result.reward ? fmt::format("{:.2f}", *result.reward) : "null");
    fmt::print("time     {}\n", duration_text(result.wall));
    fmt::print("result   {}/result.json\ntrace    {}\n", directory_, result.trace);
    if (!result.kept_files.empty()) {
      fmt::print("files    {}\n         look into them: sluice sandboxes shell {}\n",
                 result.kept_files, result.kept_files);
    }
  }

  static int exit_code_of(const rollout::RolloutResult& result) {
    switch (result.error_kind) {
      case ErrorKind::kNone:
        return 0;
      case ErrorKind::kInfrastructure:
        return exit_code(ErrorCode::kUnavailable);
      case ErrorKind::kCancelled:
        return exit_code(ErrorCode::kCancelled);
      default:
        return 1;
    }
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
