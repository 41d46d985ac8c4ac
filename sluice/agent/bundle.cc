#include "sluice/agent/bundle.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "sluice/base/core/defer.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/core/passwd.h"
#include "sluice/base/digest.h"

extern char** environ;

namespace sluice::agent {
namespace {

namespace fs = std::filesystem;

constexpr char kComplete[] = ".sluice-complete";
constexpr size_t kMaxNpmOutput = 1 << 20;

std::string machine() {
  utsname name{};
  ::uname(&name);
  return name.machine;
}

struct Ran {
  int status = 0;
  std::string output;  // stdout and stderr together
};

// Runs a program of PATH in `directory` with our own environment and no stdin.
Result<Ran> run(std::vector<std::string> argv, const std::string& directory) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno_error("pipe", errno);
  Fd reading(ends[0]);
  Fd writing(ends[1]);
  std::vector<char*> words;
  for (std::string& word : argv) words.push_back(word.data());
  words.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  const Defer destroy([&] { ::posix_spawn_file_actions_destroy(&actions); });
  ::posix_spawn_file_actions_addchdir_np(&actions, directory.c_str());
  ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, writing.get(), 1);
  ::posix_spawn_file_actions_adddup2(&actions, writing.get(), 2);
  pid_t pid = -1;
  const int failure = ::posix_spawnp(&pid, words[0], &actions, nullptr, words.data(), environ);
  if (failure != 0) return errno_error("start " + argv[0], failure);
  writing.reset();
  auto output = read_to_end(reading.get(), kMaxNpmOutput);
  reading.reset();
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!output) return std::move(output).error().within(argv[0]);
  return Ran{WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), std::move(*output)};
}

std::string last_lines(std::string_view text, size_t max) {
  return std::string(text.size() > max ? text.substr(text.size() - max) : text);
}

// Removes from `root` all but the kept paths and what leads to them.
void prune(const fs::path& root, const std::vector<std::string>& keep) {
  if (keep.empty()) return;
  auto wanted = [&](const fs::path& relative) {
    return std::any_of(keep.begin(), keep.end(), [&](const std::string& kept) {
      const std::string path = relative.string() + "/";
      return path.starts_with(kept + "/") || (kept + "/").starts_with(path);
    });
  };
  std::vector<fs::path> unwanted;
  for (auto it = fs::recursive_directory_iterator(root); it != fs::recursive_directory_iterator();
       ++it) {
    if (wanted(it->path().lexically_relative(root))) continue;
    unwanted.push_back(it->path());
    if (it->is_directory() && !it->is_symlink()) it.disable_recursion_pending();
  }
  for (const fs::path& path : unwanted) fs::remove_all(path);
}

// Sandboxes see the bundle as another user: everybody may read it, nobody may write it.
void make_readable(const fs::path& root) {
  auto open_up = [](const fs::path& path, fs::file_status status) {
    if (status.type() == fs::file_type::symlink) return;
    const bool runs = status.type() == fs::file_type::directory ||
                      (status.permissions() & fs::perms::owner_exec) != fs::perms::none;
    fs::permissions(path, runs ? fs::perms(0755) : fs::perms(0644));
  };
  open_up(root, fs::symlink_status(root));
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    open_up(entry.path(), entry.symlink_status());
  }
}

Result<void> install_packages(const Spec& spec, const std::string& partial,
                              const std::function<void(std::string_view)>& progress) {
  progress(fmt::format("npm install {}", fmt::join(spec.bundle->npm, " ")));
  // Newer npm runs a dependency's install script only if package.json names it; older ones run
  // all unless told otherwise.
  std::vector<std::string> allowed;
  for (const std::string& name : spec.bundle->install_scripts) {
    allowed.push_back(fmt::format("\"{}\": true", name));
  }
  SLUICE_TRY_VOID(write_file_atomically(
      partial + "/package.json",
      fmt::format("{{\"private\": true, \"allowScripts\": {{{}}}}}\n", fmt::join(allowed, ", "))));
  std::vector<std::string> argv = {"npm",  "install",  "--no-audit", "--no-fund",   "--loglevel",
                                   "warn", "--prefix", partial,      "--save-exact"};
  if (allowed.empty()) argv.emplace_back("--ignore-scripts");
  argv.insert(argv.end(), spec.bundle->npm.begin(), spec.bundle->npm.end());
  auto ran = run(argv, partial);
  if (!ran) {
    return Error(ErrorCode::kUnavailable,
                 fmt::format("cannot run npm to install {} ({}); install Node.js with npm",
                             spec.title(), ran.error().message));
  }
  if (ran->status != 0) {
    return Error(ErrorCode::kUnavailable,
                 fmt::format("npm could not install {} (exit code {}):\n{}", spec.title(),
                             ran->status, last_lines(ran->output, 2000)));
  }
  return {};
}

}  // namespace

std::string bundle_mount(const Spec& spec) {
  return "/opt/" + spec.name;
}

Result<std::string> program_in(const Spec& spec, const std::string& bundle) {
  return expand(spec.program, only({{"bundle", bundle}, {"version", spec.version}}));
}

std::string Bundles::path_of(const Spec& spec) const {
  const BundleSpec bundle = spec.bundle.value_or(BundleSpec{});
  std::string made_from = fmt::format(
      "1\n{}\n{}\n{}\n{}\n{}", machine(), fmt::join(bundle.npm, " "),
      fmt::join(bundle.install_scripts, " "), fmt::join(bundle.keep, " "), spec.program);
  for (const auto& [file, content] : bundle.files) {
    made_from += fmt::format("\n{} {} {}", file, content.size(), content);
  }
  return fmt::format("{}/{}-{}-{}-{}", directory_, spec.name, spec.version, machine(),
                     sha256_hex(made_from).substr(0, 12));
}

std::optional<std::string> Bundles::find(const Spec& spec) const {
  std::string path = path_of(spec);
  std::error_code ignored;
  if (!spec.bundle || !fs::exists(path + "/" + kComplete, ignored)) return std::nullopt;
  return path;
}

Result<std::string> Bundles::install(const Spec& spec,
                                     const std::function<void(std::string_view)>& progress) const {
  if (!spec.bundle) {
    return Error(ErrorCode::kUnsupported, spec.name + " has no bundle: its spec has no [bundle]",
                 ErrorOrigin::kCaller);
  }
  if (auto found = find(spec)) return std::move(*found);
  std::string path = path_of(spec);
  try {
    fs::create_directories(directory_);
    const Fd lock(::open((path + ".lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644));
    if (!lock) return errno_error(path + ".lock", errno);
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
      progress("waiting for another process that installs " + spec.title());
      if (::flock(lock.get(), LOCK_EX) != 0) return errno_error(path + ".lock", errno);
    }
    if (auto found = find(spec)) return std::move(*found);

    std::string partial = path + ".partial";  // the lock makes it ours alone
    fs::remove_all(partial);
    fs::create_directories(partial);
    const Defer sweep([&] {
      std::error_code ignored;
      fs::remove_all(partial, ignored);
    });
    if (!spec.bundle->npm.empty()) {
      SLUICE_TRY_VOID(install_packages(spec, partial, progress));
    }
    prune(partial, spec.bundle->keep);
    for (const auto& [file, content] : spec.bundle->files) {
      const fs::path place = fs::path(partial) / file;
      fs::create_directories(place.parent_path());
      SLUICE_TRY_VOID(write_file_atomically(place.string(), content, 0755));
    }
    make_readable(partial);
    SLUICE_TRY(std::string program, program_in(spec, partial));
    if (::access(program.c_str(), X_OK) != 0) {
      return Error(ErrorCode::kUnavailable,
                   fmt::format("the bundle of {} has no program {}; see bundle.program in {}",
                               spec.title(), program.substr(partial.size() + 1), spec.source));
    }
    SLUICE_TRY_VOID(write_file_atomically(partial + "/" + kComplete,
                                          fmt::format("{}\n", fmt::join(spec.bundle->npm, "\n"))));
    fs::remove_all(path);  // a complete one was not there: find() said so
    fs::rename(partial, path);
    progress(fmt::format("installed {} in {}", spec.title(), path));
    return path;
  } catch (const fs::filesystem_error& e) {
    return Error(ErrorCode::kIo, fmt::format("install {}: {}", spec.title(), e.what()));
  }
}

std::string cache_directory() {
  for (const char* name : {"SLUICE_CACHE_DIR", "XDG_CACHE_HOME"}) {
    // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing changes the environment once there are
    // threads.
    const char* path = std::getenv(name);
    if (path != nullptr && *path == '/') return *name == 'S' ? path : std::string(path) + "/sluice";
  }
  return home_directory() + "/.cache/sluice";
}

std::string default_bundle_directory() {
  return cache_directory() + "/bundles";
}

}  // namespace sluice::agent
