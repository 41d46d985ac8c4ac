#include "sluice/agent/driver.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <span>
#include <utility>

#include "sluice/agent/fresh.h"
#include "sluice/agent/verify.h"
#include "sluice/base/core/check.h"
#include "sluice/net/shard.h"

namespace sluice::agent {
namespace {

using namespace std::chrono_literals;
using sandbox::Command;
using sandbox::Exit;
using sandbox::Job;

constexpr int kInstallAttempts = 3;
constexpr Duration kInstallTimeout = 4min;
constexpr Duration kQuickTimeout = 20s;  // for commands that only look
// The guest kills the agent at its deadline; this is for the news to arrive.
constexpr Duration kNewsTime = 10s;
constexpr size_t kOutputPiece = 64 * 1024;
constexpr size_t kAgentOutputCap = 64 * 1024 * 1024;
constexpr size_t kRowOutputCap = 1024 * 1024;
constexpr size_t kLogTail = 64 * 1024;
constexpr int kCollectDepth = 2;
constexpr size_t kCollectEntries = 10'000;

std::string absolute(const std::string& path, const std::string& workdir) {
  return path.starts_with('/') ? path : workdir + "/" + path;
}

std::string tail_of(ByteView text, size_t max) {
  return to_valid_utf8(text.size() > max ? text.substr(text.size() - max) : text);
}

Error bug(const std::exception& e) {
  return {ErrorCode::kInternal, fmt::format("a bug of Sluice's: {}", e.what())};
}

// What a failed command says of itself: its end, and the last of its output.
std::string tell(const sandbox::Output& output) {
  std::string text = sandbox::describe(output.exit);
  if (!output.err.empty()) text += ", stderr: " + tail_of(output.err, 500);
  if (!output.out.empty()) text += ", stdout: " + tail_of(output.out, 500);
  return text;
}

// Whether programs that find no network say such things.
bool wants_network(std::string_view output) {
  constexpr std::string_view kSayings[] = {"resolve host", "resolving", "name resolution",
                                           "nreachable",   "EAI_AGAIN", "ENOTFOUND",
                                           "no such host", "onnection", "o connect"};
  return std::ranges::any_of(
      kSayings, [&](std::string_view saying) { return output.find(saying) != output.npos; });
}

}  // namespace

awaitable<Result<std::optional<double>>> Hooks::verify(sandbox::Sandbox*) {
  co_return std::optional<double>();
}

class Driver::Impl {
 public:
  Impl(net::Shard& shard, sandbox::Backend& backend, Plan plan, Hooks& hooks)
      : shard_(shard), backend_(backend), plan_(std::move(plan)), hooks_(hooks) {}

  // A phase and what is done in it.
  struct Phase {
    std::string_view name;
    awaitable<Result<void>> (Impl::*run)();
  };

  awaitable<Report> run() {
    static constexpr Phase kCloning[] = {{"clone", &Impl::clone}};
    if (plan_.prepared) {
      co_return co_await run(kCloning, &Impl::attempt);
    }
    co_return co_await run(kPreparing, &Impl::attempt);
  }

  awaitable<Report> prepare() { return run(kPreparing, &Impl::share); }

  static std::vector<std::string_view> names() {
    std::vector<std::string_view> all;
    for (const Phase& phase : kPreparing) all.push_back(phase.name);
    for (const Phase& phase : kAttempting) all.push_back(phase.name);
    for (const Phase& phase : kJudging) all.push_back(phase.name);
    all.emplace_back("close");
    return all;
  }

  void cancel(std::string why) {
    if (cancelled_) return;
    cancelled_ = std::move(why);
    // Whatever the driver waits for ends with the sandbox.
    if (sandbox_) closing_.spawn(close_quietly(sandbox_.get()));
    rehearsal_.cancel();
  }

 private:
  awaitable<Result<void>> share() {
    static constexpr Phase kSharing[] = {{"snapshot", &Impl::snapshot}};
    co_return co_await go_through(kSharing);
  }

  awaitable<Result<void>> attempt() {
    static constexpr Phase kKeeping[] = {{"snapshot", &Impl::keep}};
    static constexpr Phase kMoving[] = {{"move", &Impl::move}};
    const bool something = !plan_.verify.commands.empty() || plan_.own_verifier;
    const bool fresh = something && verifies_fresh(plan_, sandbox_->capabilities());
    if (fresh) report_.verify_where = "fresh";
    if (fresh && !plan_.prepared) SLUICE_CO_TRY_VOID(co_await go_through(kKeeping));
    SLUICE_CO_TRY_VOID(co_await go_through(kAttempting));
    if (fresh) SLUICE_CO_TRY_VOID(co_await go_through(kMoving));
    co_return co_await go_through(kJudging);
  }

  awaitable<Report> run(std::span<const Phase> first, awaitable<Result<void>> (Impl::*then)()) {
    began_ = Clock::now();
    try {
      auto result = co_await go_through(first);
      if (result) result = co_await (this->*then)();
      // An agent that was late, say, is told of; but not if its sandbox, or the verifier's, was
      // lost behind that.
      const bool lost = !result && report_.agent &&
                        (is_end(result.error()) || result.error().origin == ErrorOrigin::kEngine);
      if (!result && (!report_.error || lost)) fail(std::move(result).error());
      if (cancelled_) {
        report_.error = Error(ErrorCode::kCancelled, *cancelled_, ErrorOrigin::kCaller);
      }
      if (sandbox_) begin_phase("close");
    } catch (const std::exception& e) {
      fail(bug(e));
    }
    // Whatever happened, the sandbox goes.
    if (sandbox_) co_await close();
    end_phase();
    co_return std::move(report_);
  }

  awaitable<Result<void>> go_through(std::span<const Phase> phases) {
    for (const Phase& phase : phases) {
      SLUICE_CO_TRY_VOID(go_on());
      begin_phase(phase.name);
      SLUICE_CO_TRY_VOID(co_await (this->*phase.run)());
    }
    co_return go_on();
  }

  void fail(Error error) {
    report_.error = std::move(error);
    report_.failed_phase = report_.phases.empty() ? "" : report_.phases.back().name;
  }

  awaitable<void> close() {
    auto closed = co_await sandbox_->close();
    if (!closed) report_.warnings.push_back("close: " + closed.error().message);
    // Their reads ended with the sandbox.
    co_await pumps_.join();
    co_await closing_.join();
    tell_printed();
    job_.reset();
    sandbox_.reset();
  }

  void begin_phase(std::string_view name) {
    end_phase();
    report_.phases.push_back({std::string(name), Clock::now() - began_, {}});
    in_phase_ = true;
    hooks_.on_phase(name);
  }

  void end_phase() {
    if (!std::exchange(in_phase_, false)) return;
    PhaseTime& phase = report_.phases.back();
    phase.took = Clock::now() - began_ - phase.began;
  }

  Result<void> go_on() {
    if (bug_) return *std::exchange(bug_, std::nullopt);
    if (cancelled_) return Error(ErrorCode::kCancelled, *cancelled_, ErrorOrigin::kCaller);
    return {};
  }

  awaitable<Result<void>> snapshot() {
    if (!sandbox_->capabilities().snapshots) {
      co_return Error(ErrorCode::kUnsupported,
                      "the backend " + backend_.name() +
                          " cannot clone sandboxes: attempts cannot share their preparation");
    }
    SLUICE_CO_TRY_VOID(co_await sandbox_->kill_all());
    SLUICE_CO_TRY(auto snapshot, co_await sandbox_->snapshot());
    report_.snapshot = std::move(snapshot);
    co_return Result<void>();
  }

  awaitable<Result<void>> keep() {
    SLUICE_CO_TRY(prepared_, co_await keep_prepared(sandbox_.get()));
    co_return Result<void>();
  }

  // Begins where a preparation ended.
  awaitable<Result<void>> clone() {
    const Report& prepared = *plan_.prepared;
    report_.setup = prepared.setup;
    report_.program = prepared.program;
    report_.warnings = prepared.warnings;
    report_.guest_isolated = prepared.guest_isolated;
    if (prepared.error) {
      report_.failed_phase = prepared.failed_phase;
      report_.error = prepared.error;
      co_return Error(*prepared.error);
    }
    CHECK(prepared.snapshot);
    prepared_ = *prepared.snapshot;
    add_bundle();
    // Set-up is over: nothing of its network is in a clone.
    if (plan_.sandbox.network == sandbox::Network::kSetup) {
      plan_.sandbox.network = sandbox::Network::kNone;
    }
    auto cloned = co_await backend_.clone(&shard_, *prepared.snapshot, plan_.sandbox);
    if (!cloned) co_return std::move(cloned).error();
    take_sandbox(std::move(*cloned));
    co_return Result<void>();
  }

  void add_bundle() {
    if (plan_.bundle_path.empty()) return;
    plan_.sandbox.bundles.push_back({plan_.bundle_path, bundle_mount(*plan_.spec)});
  }

  void take_sandbox(std::unique_ptr<sandbox::Sandbox> made) {
    sandbox_ = std::move(made);
    report_.sandbox_id = sandbox_->id();
    report_.guest_isolated = sandbox_->capabilities().guest_isolated;
    add_warnings();
  }

  void add_warnings() {
    for (const std::string& warning : sandbox_->warnings()) {
      // A clone is told of what its preparation was told of.
      auto& known = report_.warnings;
      if (std::find(known.begin(), known.end(), warning) == known.end()) known.push_back(warning);
    }
  }

  awaitable<Result<void>> create() {
    add_bundle();
    auto created = co_await backend_.create(&shard_, plan_.sandbox);
    if (!created) co_return std::move(created).error();
    take_sandbox(std::move(*created));
    co_return Result<void>();
  }

  awaitable<Result<sandbox::Output>> look(std::string script) {
    Command command = Command::shell(std::move(script));
    command.cwd = "/";
    command.env = shell_env(sandbox::kHome, "user");
    command.deadline = Deadline::in(kQuickTimeout);
    co_return co_await sandbox_->exec(std::move(command));
  }

  awaitable<Result<void>> install() {
    const Spec& spec = *plan_.spec;
    if (!spec.needs.empty()) {
      std::string script;
      for (const std::string& need : spec.needs) {
        script += fmt::format("command -v '{0}' >/dev/null || printf '%s ' '{0}'\n", need);
      }
      SLUICE_CO_TRY(const sandbox::Output found, co_await look(std::move(script)));
      if (!found.out.empty()) {
        co_return Error(ErrorCode::kFailedPrecondition,
                        fmt::format("{} needs these programs, which the sandbox does not have: {}",
                                    spec.name, found.out),
                        ErrorOrigin::kTask);
      }
    }
    if (!plan_.bundle_path.empty()) {
      SLUICE_CO_TRY(report_.program, program_in(spec, bundle_mount(spec)));
      auto info = co_await sandbox_->stat(report_.program, sandbox::kAgentUser);
      if (!info) {
        co_return std::move(info).error().within(spec.name + " is not where its bundle puts it");
      }
      co_return Result<void>();
    }
    if (!spec.install && !spec.bundle) co_return Result<void>();
    if (!spec.install) {
      co_return Error(ErrorCode::kFailedPrecondition,
                      fmt::format("the bundle of {} is not installed: sluice agents install {}",
                                  spec.name, spec.name));
    }
    report_.program = spec.install->program;
    co_return co_await install_inside();
  }

  awaitable<Result<bool>> is_installed(std::string program) {
    if (program.starts_with('/')) {
      // Looking at a file costs a tenth of what a shell does.
      const auto file = co_await sandbox_->stat(program, sandbox::kAgentUser);
      if (file && file->type == sandbox::FileInfo::Type::kFile && (file->mode & 0111) != 0) {
        co_return true;
      }
    }
    std::string check = fmt::format("command -v '{}'", program);
    SLUICE_CO_TRY(const sandbox::Output found, co_await look(std::move(check)));
    co_return found.exit.ok();
  }

  awaitable<Result<void>> install_inside() {
    const Spec& spec = *plan_.spec;
    SLUICE_CO_TRY(const bool there, co_await is_installed(spec.install->program));
    if (there) co_return Result<void>();
    if (spec.install->commands.empty()) {
      co_return Error(ErrorCode::kFailedPrecondition,
                      fmt::format("{} is not in the sandbox, and {} has no [install] commands",
                                  spec.install->program, spec.name),
                      ErrorOrigin::kTask);
    }
    for (const std::string& script : spec.install->commands) {
      SLUICE_CO_TRY(std::string expanded, expand(script, {{"version", spec.version}}));
      for (int attempt = 1;; ++attempt) {
        Command command = Command::shell(expanded);
        command.cwd = "/";
        command.user = plan_.setup_user;
        command.env = shell_env("/root", "root");
        add_setup_proxy(command.env);
        command.deadline = Deadline::in(kInstallTimeout);
        command.output_cap = kRowOutputCap;
        SLUICE_CO_TRY(const sandbox::Output output, co_await sandbox_->exec(std::move(command)));
        if (output.exit.ok()) break;
        if (attempt == kInstallAttempts) {
          co_return Error(ErrorCode::kUnavailable,
                          fmt::format("{} could not be installed in {} attempts: {}", spec.name,
                                      attempt, tell(output)),
                          ErrorOrigin::kSandbox);
        }
        SLUICE_CO_TRY_VOID(co_await net::sleep_for(plan_.install_pause * attempt));
        SLUICE_CO_TRY_VOID(go_on());
      }
    }
    co_return Result<void>();
  }

  awaitable<Result<void>> upload() {
    SLUICE_CO_TRY_VOID(
        co_await sandbox_->reset_directory(plan_.workdir, sandbox::kAgentUser, 0755));
    auto written = co_await write(&plan_.uploads);
    if (!written) co_return std::move(written).error();
    if (plan_.setup.empty()) co_return Result<void>();
    // Programs like git doubt what is another user's.
    auto given = co_await sandbox_->give_tree(plan_.workdir, plan_.setup_user);
    if (!given) co_return std::move(given).error().from(ErrorOrigin::kTask);
    co_return Result<void>();
  }

  awaitable<Result<void>> write(std::vector<Upload>* files) {
    for (Upload& file : *files) {
      const std::string path = absolute(file.path, plan_.workdir);
      sandbox::WriteOptions options;
      options.mode = file.mode;
      SLUICE_CO_TRY_VOID(co_await sandbox_->write_file(path, std::move(file.content), options));
    }
    co_return Result<void>();
  }

  awaitable<Result<void>> configure() {
    SLUICE_CO_TRY(const Endpoint endpoint, co_await hooks_.open_endpoint(sandbox_.get()));
    SLUICE_CO_TRY(launch_, make_launch(plan_, endpoint, report_.program));
    auto written = co_await write(&launch_.files);
    if (!written) co_return std::move(written).error().within("configure " + plan_.spec->name);
    co_return Result<void>();
  }

  // While set-up may reach hosts, its commands are told how.
  void add_setup_proxy(sandbox::Env& env) const {
    if (plan_.sandbox.network != sandbox::Network::kSetup) return;
    for (const char* name : {"https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY"}) {
      env.emplace_back(name, sandbox::kSetupProxy);
    }
    for (const char* name : {"no_proxy", "NO_PROXY"}) env.emplace_back(name, "localhost,127.0.0.1");
  }

  awaitable<Result<void>> setup() {
    for (const std::string& script : plan_.setup) {
      Command command = setup_command(plan_, script, plan_.setup_timeout);
      add_setup_proxy(command.env);
      auto ran = co_await run_row(sandbox_.get(), &report_.setup, script, std::move(command),
                                  &plan_.outputs);
      if (!ran) co_return std::move(ran).error().within(script);
      const Exit exit = report_.setup.back().output.exit;
      if (!exit.ok()) {
        std::string message =
            fmt::format("setup command failed: {}: {}", script, tell(report_.setup.back().output));
        if (plan_.sandbox.network == sandbox::Network::kNone && wants_network(message)) {
          message += " (the sandbox has no network; a task may ask for network = \"setup\")";
        }
        const auto code = exit.reason == Exit::Reason::kTimedOut ? ErrorCode::kTimedOut
                                                                 : ErrorCode::kFailedPrecondition;
        co_return Error(code, std::move(message), ErrorOrigin::kTask);
      }
      SLUICE_CO_TRY_VOID(go_on());
    }
    if (plan_.sandbox.network == sandbox::Network::kSetup) {
      SLUICE_CO_TRY_VOID(co_await sandbox_->end_setup());
    }
    auto given = co_await sandbox_->give_tree(plan_.workdir, sandbox::kAgentUser);
    if (!given) co_return std::move(given).error();
    co_return Result<void>();
  }

  Duration agent_timeout() const {
    return plan_.agent_timeout > Duration::zero() ? plan_.agent_timeout : plan_.spec->timeout;
  }

  awaitable<Result<void>> start() {
    Command command;
    command.argv = std::move(launch_.argv);
    command.env = std::move(launch_.env);
    command.cwd = plan_.workdir;
    command.deadline = Deadline::in(agent_timeout());
    command.output_cap = kAgentOutputCap;
    agent_deadline_ = Deadline::in(agent_timeout() + kNewsTime);
    agent_began_ = Clock::now();
    hooks_.agent_starts();
    auto job = co_await sandbox_->start(std::move(command));
    if (!job) {
      hooks_.agent_ended();
      Error error = std::move(job).error().within("start " + plan_.spec->name);
      // A program that is not there or may not be run; a sandbox that is gone is not the agent's.
      const bool its_own = error.code == ErrorCode::kNotFound ||
                           error.code == ErrorCode::kPermissionDenied ||
                           error.code == ErrorCode::kInvalidArgument;
      if (its_own) co_return std::move(error).from(ErrorOrigin::kAgent);
      co_return error;
    }
    job_ = std::move(*job);
    report_.agent.emplace();
    co_return Result<void>();
  }

  awaitable<void> give_input(Bytes input) {
    // An agent that ends or closes its stdin first does not want the rest.
    if (!input.empty()) {
      const auto written = co_await job_->write_stdin(std::move(input));
      if (!written) co_return;
    }
    const auto closed = co_await job_->close_stdin();
    static_cast<void>(closed);
  }

  awaitable<void> read_channel(Job::Channel channel, Printed* printed, EventReader* events) {
    for (;;) {
      auto piece = co_await job_->read_output(channel, kOutputPiece);
      if (!piece || piece->empty()) break;
      tail_.add(*piece);
      if (events != nullptr) show(events->feed(*piece));
      co_await printed->add(std::move(*piece));
    }
    if (events != nullptr) show(events->finish());
  }

  // The output is read to its end whatever the hook does: the agent would hang otherwise.
  void show(const std::vector<AgentEvent>& events) {
    try {
      for (const AgentEvent& event : events) hooks_.on_agent_event(event);
    } catch (const std::exception& e) {
      bug_ = bug(e);
    }
  }

  awaitable<Result<void>> attend() {
    AgentRun& run = *report_.agent;
    pumps_.spawn(give_input(std::move(launch_.input)));
    pumps_.spawn(read_channel(Job::Channel::kOut, &out_, &events_));
    pumps_.spawn(read_channel(Job::Channel::kErr, &err_, nullptr));
    auto exit = co_await job_->wait(agent_deadline_);
    hooks_.agent_ended();
    if (!exit) {
      run.exit.reason = Exit::Reason::kLost;
      co_return std::move(exit).error();
    }
    run.exit = *exit;
    if (exit->reason == Exit::Reason::kTimedOut) {
      // Not the end: what it did in time is verified all the same.
      report_.error = Error(ErrorCode::kTimedOut,
                            fmt::format("{} did not end within {:g} s", plan_.spec->name,
                                        std::chrono::duration<double>(agent_timeout()).count()),
                            ErrorOrigin::kAgent);
      report_.failed_phase = "agent";
    }
    co_return Result<void>();
  }

  // REQUIRES: it is read no more.
  void tell_printed() {
    if (!report_.agent || !job_) return;
    AgentRun& run = *report_.agent;
    run.log_tail = tail_.bytes();
    run.out = out_.tail();
    run.err = err_.tail();
    run.whole = {out_.whole(), err_.whole()};
  }

  awaitable<Result<void>> stop() {
    // What the agent left running may hold its output open: only then is the end of it certain.
    SLUICE_CO_TRY_VOID(co_await kill_agent(sandbox_.get(), &report_));
    co_await pumps_.join();
    tell_printed();
    for (const Printed* printed : {&out_, &err_}) {
      if (printed->lost().empty()) continue;
      report_.warnings.push_back("what the agent printed is kept in part: " + printed->lost());
    }
    AgentRun& run = *report_.agent;
    run.error = events_.error();
    const bool by_events = plan_.spec->success_from_events;
    run.ok = run.exit.ok() && (!by_events || events_.success());
    if (by_events && run.exit.ok() && !run.ok && !run.error) {
      run.error = "it ended without an event that says it is done";
    }
    co_return Result<void>();
  }

  awaitable<Result<void>> collect_artifacts() {
    const TemplateValues values = only({{"home", agent_home(plan_)}, {"workdir", plan_.workdir}});
    for (const ArtifactSpec& wanted : plan_.spec->artifacts) {
      SLUICE_CO_TRY(std::string path, expand(wanted.path, values));
      auto content = co_await sandbox_->read_file(path, wanted.max_bytes, sandbox::kAgentUser);
      if (content) {
        report_.artifacts.push_back({wanted.name, std::move(path), std::move(*content)});
      } else if (is_end(content.error())) {
        co_return std::move(content).error();
      } else if (wanted.required) {
        // Its work is verified all the same.
        if (!report_.error) {
          fail(std::move(content)
                   .error()
                   .within("artifact " + wanted.name)
                   .from(ErrorOrigin::kAgent));
        }
      } else if (content.error().code != ErrorCode::kNotFound) {
        report_.warnings.push_back("artifact " + wanted.name + ": " + content.error().message);
      }
    }
    co_return Result<void>();
  }

  // Into a sandbox in which the agent never was. What keeps the work from it and is the agent's
  // doing is no error, but the end of the verdict.
  awaitable<Result<void>> move() {
    if (!report_.unjudged.empty()) co_return Result<void>();
    auto moved = co_await move_work();
    if (!moved && moved.error().origin == ErrorOrigin::kAgent) {
      report_.unjudged = moved.error().message;
      report_.task_fault = co_await rehearsal_.fault_of(&plan_, prepared_);
      moved = go_on();
    }
    prepared_ = {};
    co_return moved;
  }

  awaitable<Result<void>> move_work() {
    const Duration ran = Clock::now() - agent_began_;
    SLUICE_CO_TRY(auto work, co_await take_work(sandbox_.get(), &plan_, ran, &report_));
    // First the one, then the other: both at once would need twice the memory.
    co_await close();
    SLUICE_CO_TRY_VOID(go_on());
    sandbox::Options options = for_verifier(plan_.sandbox);
    auto cloned = co_await backend_.clone(&shard_, prepared_, std::move(options));
    if (!cloned) co_return std::move(cloned).error().within("a fresh sandbox");
    sandbox_ = std::move(*cloned);
    add_warnings();
    SLUICE_CO_TRY_VOID(go_on());
    SLUICE_CO_TRY_VOID(co_await give_work(sandbox_.get(), &plan_, std::move(work)));
    SLUICE_CO_TRY_VOID(go_on());
    co_return co_await run_start(sandbox_.get(), &plan_, &report_, &plan_.outputs);
  }

  awaitable<Result<void>> verify() {
    VerifyParts parts;
    parts.sandbox = sandbox_.get();
    parts.work = &plan_;
    parts.report = &report_;
    parts.outputs = &plan_.outputs;
    parts.go_on = [this] {
      return go_on();
    };
    SLUICE_CO_TRY_VOID(co_await agent::verify(std::move(parts)));
    if (report_.unjudged.empty()) {
      auto own = co_await hooks_.verify(sandbox_.get());
      if (!own) co_return std::move(own).error().within("verifier");
      report_.verifier_reward = *own;
    }
    report_.verified = true;
    co_return Result<void>();
  }

  awaitable<Result<void>> collect_files() {
    auto entries = co_await sandbox_->list(plan_.workdir, kCollectDepth, kCollectEntries,
                                           sandbox::kVerifyUser);
    if (!entries) {
      if (is_end(entries.error())) co_return std::move(entries).error();
      report_.warnings.push_back("files: " + entries.error().message);
      co_return Result<void>();
    }
    std::sort(entries->begin(), entries->end(),
              [](const auto& a, const auto& b) { return a.path < b.path; });
    for (const sandbox::FileInfo& entry : *entries) {
      if (entry.type != sandbox::FileInfo::Type::kFile) continue;
      if (entry.size > plan_.collect_file_bytes || report_.files.size() >= plan_.collect_files) {
        report_.files_extra.push_back(entry.path);
        continue;
      }
      std::string path = plan_.workdir + "/" + entry.path;
      auto content = co_await sandbox_->read_file(std::move(path), plan_.collect_file_bytes,
                                                  sandbox::kVerifyUser);
      if (content) {
        report_.files.emplace(entry.path, std::move(*content));
      } else if (is_end(content.error())) {
        co_return std::move(content).error();
      } else {
        report_.files_extra.push_back(entry.path);
      }
    }
    co_return Result<void>();
  }

  net::Shard& shard_;
  sandbox::Backend& backend_;
  Plan plan_;
  Hooks& hooks_;
  Report report_;
  Clock::time_point began_;
  bool in_phase_ = false;
  std::unique_ptr<sandbox::Sandbox> sandbox_;
  std::unique_ptr<Job> job_;
  Launch launch_;
  Deadline agent_deadline_;
  Clock::time_point agent_began_;
  sandbox::Snapshot prepared_;  // for a verifier's fresh sandbox
  Rehearsal rehearsal_{shard_, backend_};
  EventReader events_{plan_.spec->events};
  Tail tail_{kLogTail};
  Printed out_{&plan_.outputs}, err_{&plan_.outputs};  // the agent's
  net::TaskGroup pumps_{shard_.executor()};
  std::optional<std::string> cancelled_;
  std::optional<Error> bug_;  // of a hook, in a coroutine of ours that goes on
  net::TaskGroup closing_{shard_.executor()};

  // Up to setup, the same for all attempts at a task.
  static constexpr Phase kPreparing[] = {{"create", &Impl::create},
                                         {"install", &Impl::install},
                                         {"upload", &Impl::upload},
                                         {"setup", &Impl::setup}};
  static constexpr Phase kAttempting[] = {{"configure", &Impl::configure},
                                          {"start", &Impl::start},
                                          {"agent", &Impl::attend},
                                          {"stop", &Impl::stop},
                                          {"collect", &Impl::collect_artifacts}};
  static constexpr Phase kJudging[] = {{"verify", &Impl::verify}, {"files", &Impl::collect_files}};
};

Driver::Driver(net::Shard& shard, sandbox::Backend& backend, Plan plan, Hooks& hooks)
    : impl_(std::make_unique<Impl>(shard, backend, std::move(plan), hooks)) {}
Driver::~Driver() = default;

awaitable<Report> Driver::run() {
  return impl_->run();
}
awaitable<Report> Driver::prepare() {
  return impl_->prepare();
}
std::vector<std::string_view> Driver::phases() {
  return Impl::names();
}
void Driver::cancel(std::string why) {
  impl_->cancel(std::move(why));
}

}  // namespace sluice::agent
