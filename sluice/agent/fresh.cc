#include "sluice/agent/fresh.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "sluice/agent/verify.h"
#include "sluice/base/core/glob.h"

namespace sluice::agent {
namespace {

constexpr int kSnapshotAttempts = 3;
constexpr size_t kMaxPlaces = 1000;
constexpr size_t kMaxPlace = 2048;

// The path of a task, whole and without dots.
std::string whole(const std::string& path, const std::string& workdir) {
  std::string normal = (std::filesystem::path(workdir) / path).lexically_normal().string();
  while (normal.size() > 1 && normal.ends_with('/')) normal.pop_back();
  return normal;
}

// Places in which no file can be put.
bool is_kernels(std::string_view path) {
  constexpr std::string_view kPlaces[] = {"/proc", "/sys", "/dev"};
  return std::ranges::any_of(kPlaces,
                             [&](std::string_view place) { return is_at_or_below(path, place); });
}

// The files that are the verifier's alone need one.
bool must_be_fresh(const Verify& verify) {
  return verify.where == VerifyWhere::kFresh ||
         (verify.where == VerifyWhere::kDefault && !verify.files.empty());
}

}  // namespace

Result<void> check_places(const Work& work) {
  const Verify& verify = work.verify;
  const auto wrong = [](std::string what) {
    return Error(ErrorCode::kInvalidArgument, std::move(what), ErrorOrigin::kCaller);
  };
  const bool says_how = !verify.paths.empty() || !verify.exclude.empty() || !verify.start.empty();
  if (verify.where == VerifyWhere::kSame && (says_how || !verify.files.empty())) {
    return wrong("where = \"same\" has no paths, exclude, files or start: they are of \"fresh\"");
  }
  if (says_how && !must_be_fresh(verify)) {
    return wrong("paths, exclude and start need where = \"fresh\"");
  }
  if (std::max(verify.paths.size(), verify.exclude.size()) > kMaxPlaces) {
    return wrong(fmt::format("at most {} paths, and as many to exclude", kMaxPlaces));
  }
  for (const auto* texts : {&verify.paths, &verify.exclude}) {
    for (const std::string& text : *texts) {
      if (text.empty() || text.size() > kMaxPlace || text.find('\0') != text.npos) {
        return wrong("paths and exclude hold whole paths or such from the workdir on");
      }
    }
  }
  for (const std::string& path : verify.paths) {
    if (path.find_first_of("*?[") != path.npos || path.starts_with('~')) {
      return wrong(fmt::format("paths: {} is a pattern; a path names one file or directory", path));
    }
  }
  for (const std::string& path : work_places(work).paths) {
    if (path == "/") return wrong("paths: the whole sandbox is no agent's work");
    if (is_kernels(path)) return wrong("paths: " + path + " is the kernel's");
  }
  for (const Upload& file : verify.files) {
    const std::string path = whole(file.path, work.workdir);
    if (is_kernels(path)) return wrong("files: " + path + " is the kernel's");
  }
  return {};
}

Result<void> check_verify(const Work& work, const sandbox::Capabilities& can) {
  if (!must_be_fresh(work.verify) || can.snapshots) return {};
  return Error(
      ErrorCode::kUnsupported,
      "verify cannot run in a fresh sandbox: the backend cannot clone sandboxes; use [verify] "
      "where = \"same\", without files",
      ErrorOrigin::kCaller);
}

bool verifies_fresh(const Work& work, const sandbox::Capabilities& can) {
  if (must_be_fresh(work.verify)) return true;
  // Where the agent may change anything, what verify runs is his word.
  return work.verify.where == VerifyWhere::kDefault && !can.guest_isolated && can.snapshots;
}

sandbox::WorkPlaces work_places(const Work& work) {
  std::vector<std::string> paths;
  for (const std::string& path : work.verify.paths) paths.push_back(whole(path, work.workdir));
  if (paths.empty()) paths.push_back(whole("", work.workdir));
  std::sort(paths.begin(), paths.end());
  sandbox::WorkPlaces places;
  for (std::string& path : paths) {
    const bool known = std::any_of(places.paths.begin(), places.paths.end(),
                                   [&](const auto& top) { return is_at_or_below(path, top); });
    if (!known) places.paths.push_back(std::move(path));
  }
  for (const std::string& pattern : work.verify.exclude) {
    const bool is_name = pattern.find('/') == pattern.npos;
    places.exclude.push_back(is_name ? pattern : whole(pattern, work.workdir));
  }
  return places;
}

Error of_agent(Error error, std::string_view context) {
  const bool theirs = error.origin == ErrorOrigin::kSandbox && error.code != ErrorCode::kClosed &&
                      error.code != ErrorCode::kCancelled;
  error = std::move(error).within(context);
  return theirs ? std::move(error).from(ErrorOrigin::kAgent) : error;
}

sandbox::Options for_verifier(sandbox::Options options) {
  options.network = sandbox::Network::kNone;
  options.keep_files_in.clear();
  return options;
}

awaitable<Result<sandbox::Snapshot>> keep_prepared(sandbox::Sandbox* sandbox) {
  for (int attempt = 1;; ++attempt) {
    auto snapshot = co_await sandbox->snapshot();
    if (snapshot) co_return snapshot;
    Error error = std::move(snapshot).error();
    if (error.code == ErrorCode::kFailedPrecondition && attempt < kSnapshotAttempts) continue;
    error = of_agent(std::move(error), "keep what was prepared");
    const bool its_files = error.origin == ErrorOrigin::kAgent;
    if (its_files) error.origin = ErrorOrigin::kTask;
    co_return error;
  }
}

awaitable<Result<sandbox::TakenWork>> take_work(sandbox::Sandbox* sandbox, const Work* work,
                                                Duration ran, Report* report) {
  // Whoever wrote to the files does so no more.
  auto killed = co_await sandbox->kill_all();
  if (!killed) co_return of_agent(std::move(killed).error(), "end what the agent started");
  // Who may change everything is told what was left behind.
  const bool counts = !sandbox->capabilities().guest_isolated && work->verify.paths.empty();
  const Duration within = counts ? ran : Duration{};
  sandbox::WorkPlaces places = work_places(*work);
  auto taken = co_await sandbox->take_work(std::move(places), within);
  if (!taken) co_return of_agent(std::move(taken).error(), "the work cannot be taken");
  for (const std::string& path : taken->missing) {
    report->warnings.push_back(fmt::format(
        "[verify] {} is not there when the agent has ended: nothing of it is judged", path));
  }
  if (taken->left_out > 0) {
    report->warnings.push_back(
        fmt::format("{} pipes, sockets and devices of the work were left behind", taken->left_out));
  }
  if (taken->changed_elsewhere > 0) {
    report->warnings.push_back(fmt::format(
        "{} files outside the workdir changed while the agent ran and were left behind: "
        "[verify] paths names more that is judged",
        taken->changed_elsewhere));
  }
  co_return taken;
}

awaitable<Result<void>> give_work(sandbox::Sandbox* sandbox, const Work* work,
                                  sandbox::TakenWork taken) {
  const std::vector<std::string> tops = taken.places.paths;
  auto put = co_await sandbox->put_work(std::move(taken), sandbox::kVerifyUser);
  if (!put) co_return of_agent(std::move(put).error(), "the work cannot be put");
  // Removed, or something else: there is a place to judge it in all the same.
  auto workdir = co_await sandbox->stat(work->workdir, sandbox::kSetupUser);
  if (!workdir || workdir->type != sandbox::FileInfo::Type::kDirectory) {
    auto made = co_await sandbox->reset_directory(work->workdir, sandbox::kVerifyUser, 0755);
    if (!made) co_return of_agent(std::move(made).error(), "make the workdir");
  }
  for (const Upload& file : work->verify.files) {
    std::string path = whole(file.path, work->workdir);
    const auto within = std::find_if(tops.begin(), tops.end(), [&](const std::string& top) {
      return is_at_or_below(path, top);
    });
    std::string below;
    if (within != tops.end()) below = *within;
    auto planted = co_await sandbox->plant_file(path, file.content, file.mode, below);
    if (!planted) co_return of_agent(std::move(planted).error(), "[verify] file " + path);
  }
  co_return Result<void>();
}

awaitable<Result<void>> run_start(sandbox::Sandbox* sandbox, const Work* work, Report* report,
                                  const OutputPlace* outputs) {
  for (const std::string& script : work->verify.start) {
    sandbox::Command command = setup_command(*work, script, work->verify.timeout);
    // Where nothing is the agent's, as programs load what lies there.
    command.cwd = "/";
    auto ran = co_await run_row(sandbox, &report->start, script, std::move(command), outputs);
    if (!ran) co_return of_agent(std::move(ran).error(), "start command " + script);
    const sandbox::Exit& exit = report->start.back().output.exit;
    // The agent's files may be the cause.
    if (!exit.ok()) {
      co_return Error(ErrorCode::kFailedPrecondition,
                      fmt::format("start command failed: {}: {}", script, describe(exit)),
                      ErrorOrigin::kAgent);
    }
  }
  co_return Result<void>();
}

awaitable<std::string> Rehearsal::fault_of(const Work* work, sandbox::Snapshot prepared) {
  const auto moved = co_await move(work, std::move(prepared));
  if (sandbox_) {
    co_await close_quietly(sandbox_.get());
    co_await closing_.join();
    sandbox_.reset();
  }
  if (moved || cancelled_ || moved.error().origin != ErrorOrigin::kAgent) co_return "";
  co_return "without any agent, too: " + moved.error().message;
}

awaitable<Result<void>> Rehearsal::move(const Work* work, sandbox::Snapshot prepared) {
  sandbox::Options options = for_verifier(work->sandbox);
  SLUICE_CO_TRY(sandbox_,
                co_await backend_.clone(&shard_, std::move(prepared), std::move(options)));
  Report aside;
  SLUICE_CO_TRY(auto taken, co_await take_work(sandbox_.get(), work, Duration(), &aside));
  co_return co_await give_work(sandbox_.get(), work, std::move(taken));
}

void Rehearsal::cancel() {
  if (std::exchange(cancelled_, true) || !sandbox_) return;
  closing_.spawn(close_quietly(sandbox_.get()));
}

sandbox::Command setup_command(const Work& work, const std::string& script, Duration timeout) {
  sandbox::Command command = sandbox::Command::shell(script);
  command.cwd = work.workdir;
  command.user = work.setup_user;
  const bool as_root = work.setup_user == "0" || work.setup_user == "root";
  command.env = as_root ? shell_env("/root", "root") : shell_env(sandbox::kHome, "user");
  command.deadline = Deadline::in(timeout);
  return command;
}

}  // namespace sluice::agent
