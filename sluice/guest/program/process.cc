#include "sluice/guest/program/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <unordered_map>
#include <unordered_set>

namespace sluice::guest::program {
namespace {

constexpr size_t kMaxPasswd = 4 * 1024 * 1024;
constexpr char kDefaultPath[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// A missing file is an empty one: an image need not have users.
Bytes read_or_empty(const char* path) {
  auto content = read_file(path, kMaxPasswd);
  return content ? std::move(*content) : Bytes();
}

bool has_no_capability() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (::syscall(SYS_capget, &header, data) != 0) return false;
  return (data[0].effective | data[0].permitted | data[1].effective | data[1].permitted) == 0;
}

void report_to(int fd, const KeeperReport& report) {
  // If nobody reads any more, nobody wants to know.
  [[maybe_unused]] const auto ignored = ::write(fd, &report, sizeof report);
}

// The programs to try, in order: argv[0] itself if it holds a slash, else below each entry of the
// command's own PATH.
std::vector<std::string> candidates(const std::string& name, const std::vector<std::string>& env) {
  if (name.find('/') != std::string::npos) return {name};
  std::string_view path = kDefaultPath;
  for (const std::string& variable : env) {
    if (variable.starts_with("PATH=")) path = std::string_view(variable).substr(5);
  }
  std::vector<std::string> paths;
  for (;;) {
    const size_t colon = path.find(':');
    const std::string_view directory = path.substr(0, colon);
    // An empty entry is the working directory (environ(7)).
    paths.push_back((directory.empty() ? "." : std::string(directory)) + "/" + name);
    if (colon == std::string_view::npos) return paths;
    path.remove_prefix(colon + 1);
  }
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> all;
  for (const std::string& string : strings) all.push_back(const_cast<char*>(string.c_str()));
  all.push_back(nullptr);
  return all;
}

// One way to run the command; prepared before vfork(2), whose child may not allocate.
struct Attempt {
  std::vector<std::string> paths;
  std::vector<std::string> words;
  std::vector<char*> argv;

  Attempt(std::vector<std::string> w, const std::vector<std::string>& env)
      : paths(candidates(w[0], env)), words(std::move(w)), argv(pointers(words)) {}
  Attempt(Attempt&&) = delete;
};

struct Prepared {
  const CommandPlan* plan;
  const Attempt* first;
  const Attempt* second;  // a plain sh, or nullptr
  char* const* envp;
  int in, out, err;
};

int try_exec(const Attempt& attempt, char* const* envp) {
  int failure = ENOENT;
  for (const std::string& path : attempt.paths) {
    ::execve(path.c_str(), attempt.argv.data(), envp);
    // As execvp(3): look on, but tell of a program that is there and may not be run.
    if (errno == EACCES) {
      failure = EACCES;
    } else if (errno != ENOENT && errno != ENOTDIR) {
      return errno;
    }
  }
  return failure;
}

// The child's way to its program. Shares the keeper's memory (vfork): what it writes to `failure`
// the keeper reads. Only system calls from here on.
[[noreturn]] void start_in_child(const Prepared& p, KeeperReport* failure) {
  auto fail = [&](KeeperReport::Stage stage, int value) {
    failure->kind = KeeperReport::Kind::kFailed;
    failure->stage = stage;
    failure->value = value;
    ::_exit(127);
  };
  // Its own session: no terminal, and a process group of its own.
  if (::setsid() < 0) fail(KeeperReport::Stage::kSession, errno);
  const int in = p.in >= 0 ? p.in : ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  // The descriptors stand above 2, so that none overwrites another.
  if (in < 0 || ::dup2(in, 0) < 0 || ::dup2(p.out, 1) < 0 || ::dup2(p.err, 2) < 0) {
    fail(KeeperReport::Stage::kSession, errno);
  }
  ::closefrom(3);
  // By its path (/dev/stderr) a pipe is opened as a file is: by its owner.
  for (int fd = 0; fd <= 2; ++fd) {
    struct stat st{};
    if (::fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode)) {
      (void)::fchown(fd, p.plan->user.uid, p.plan->user.gid);
    }
  }
  if (p.plan->open_files != 0) {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_max = std::min<rlim_t>(limit.rlim_max, p.plan->open_files);
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  ::umask(022);
  if (const int e = become(p.plan->user, p.plan->users)) fail(KeeperReport::Stage::kUser, e);
  if (::chdir(p.plan->request.cwd.c_str()) != 0) fail(KeeperReport::Stage::kDirectory, errno);
  // Changing the user cleared it. Without its keeper a command would be nobody's.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The raw call: glibc keeps two signals to itself, which a parent may have left ignored.
  const struct {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)();
    uint64_t mask;
  } standard{};
  for (int n = 1; n <= 64; ++n) ::syscall(SYS_rt_sigaction, n, &standard, nullptr, 8);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  int e = try_exec(*p.first, p.envp);
  if (e == ENOENT && p.second != nullptr) e = try_exec(*p.second, p.envp);
  fail(KeeperReport::Stage::kExec, e);
  __builtin_unreachable();
}

struct Kin {
  pid_t pid = 0, parent = 0, session = 0;
};

// From /proc/<pid>/stat: "pid (name) state ppid pgrp session ...". The name may hold anything, so
// what follows is found from its last parenthesis. Nothing for what is gone or a zombie; one whose
// first thread alone has ended looks like that, and runs on.
std::optional<Kin> kin_of(pid_t pid) {
  char path[32], text[512];
  std::snprintf(path, sizeof path, "/proc/%d/stat", pid);
  const Fd file(::open(path, O_RDONLY | O_CLOEXEC));
  if (!file) return std::nullopt;
  const ssize_t n = ::read(file.get(), text, sizeof text - 1);
  if (n <= 0) return std::nullopt;
  text[n] = '\0';
  char* at = std::strrchr(text, ')');
  if (at == nullptr || std::strlen(at) < 5) return std::nullopt;
  const char state = at[2];
  Kin kin;
  kin.pid = pid;
  kin.parent = static_cast<pid_t>(std::strtol(at + 4, &at, 10));
  std::strtol(at, &at, 10);  // the process group
  kin.session = static_cast<pid_t>(std::strtol(at, &at, 10));
  constexpr int kToThreads = 13;  // from the terminal to the nice value
  for (int i = 0; i < kToThreads; ++i) std::strtol(at, &at, 10);
  const long threads = std::strtol(at, &at, 10);
  if (state == 'X' || (state == 'Z' && threads < 2)) return std::nullopt;
  return kin;
}

// From /proc/<pid>/status: who owns the directory is not always who runs there (PR_SET_DUMPABLE).
bool runs_as(pid_t pid, uid_t uid) {
  char path[32], text[1024];
  std::snprintf(path, sizeof path, "/proc/%d/status", pid);
  const Fd file(::open(path, O_RDONLY | O_CLOEXEC));
  const ssize_t n = file ? ::read(file.get(), text, sizeof text - 1) : -1;
  if (n <= 0) return false;
  text[n] = '\0';
  const char* at = std::strstr(text, "\nUid:");
  return at != nullptr && std::strtoul(at + 5, nullptr, 10) == uid;
}

}  // namespace

Result<User> look_up_user(const std::string& spec) {
  return find_user(spec, read_or_empty("/etc/passwd"), read_or_empty("/etc/group"));
}

int become(const User& user, Users users) {
  if (users == Users::kSingle) return 0;
  // The raw system calls: glibc's wrappers tell other threads, and a child of vfork has none.
  if (::syscall(SYS_setgroups, user.groups.size(), user.groups.data()) != 0) return errno;
  if (::syscall(SYS_setresgid, user.gid, user.gid, user.gid) != 0) return errno;
  if (::syscall(SYS_setresuid, user.uid, user.uid, user.uid) != 0) return errno;
  uid_t real = 0, effective = 0, saved = 0;
  if (::getresuid(&real, &effective, &saved) != 0) return errno;
  if (real != user.uid || effective != user.uid || saved != user.uid) return EPERM;
  if (user.uid != 0 && !has_no_capability()) return EPERM;
  return 0;
}

void signal_user(uid_t uid, int signal) {
  const int dumpable = ::prctl(PR_GET_DUMPABLE);
  // Whoever is that user may signal his processes and nobody else's. The way back is the saved id.
  if (::syscall(SYS_setresuid, uid, uid, 0) != 0) return;
  ::kill(-1, signal);
  if (::syscall(SYS_setresuid, 0, 0, 0) != 0) std::abort();
  ::prctl(PR_SET_DUMPABLE, dumpable);
}

void keep_only(std::span<int> fds) {
  // Lifted above where they go, so that none overwrites another.
  for (int& fd : fds) {
    if (fd >= 0) fd = ::fcntl(fd, F_DUPFD_CLOEXEC, 16);
  }
  int next = 3;
  for (int& fd : fds) {
    if (fd >= 0) fd = ::dup3(fd, next++, O_CLOEXEC);
  }
  ::closefrom(next);
}

void keep_command(const CommandPlan& plan, int in, int out, int err, int report) {
  // If the guest dies, so does this (and with it the command).
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  ::prctl(PR_SET_NAME, "sluice-keeper");

  int kept[] = {report, out, err, in};
  keep_only(kept);

  const Attempt first(plan.request.argv, plan.request.env);
  std::optional<Attempt> second;
  if (plan.request.shell_prefix > 0) {
    std::vector<std::string> words = {"sh", "-c"};
    words.insert(words.end(), plan.request.argv.begin() + plan.request.shell_prefix,
                 plan.request.argv.end());
    second.emplace(std::move(words), plan.request.env);
  }
  const auto envp = pointers(plan.request.env);
  const Prepared prepared{&plan,   &first, second ? &*second : nullptr, envp.data(), kept[3],
                          kept[1], kept[2]};
  KeeperReport answer;
  KeeperReport* volatile failure = &answer;
  // This waits until the child runs its program, which somebody of the child's user may delay: the
  // keeper only, whom the guest can kill. Nothing is copied, and the child tells its failure here.
  const pid_t child = ::vfork();  // NOLINT(bugprone-unsafe-functions)
  if (child == 0) start_in_child(prepared, failure);
  if (child < 0) {
    answer = {KeeperReport::Kind::kFailed, KeeperReport::Stage::kFork, errno};
  } else if (answer.kind != KeeperReport::Kind::kFailed) {
    answer.value = child;
  }
  // The command alone holds its ends: their readers see its end of file.
  for (const int fd : {kept[1], kept[2], kept[3]}) {
    if (fd >= 0) ::close(fd);
  }
  for (int fd = 0; fd < 3; ++fd) ::close(fd);
  report_to(kept[0], answer);
  if (answer.kind == KeeperReport::Kind::kFailed) ::_exit(127);
  for (;;) {
    int status = 0;
    const pid_t ended = TEMP_FAILURE_RETRY(::waitpid(-1, &status, 0));
    if (ended < 0) ::_exit(0);  // no child is left
    if (ended == child) report_to(kept[0], {KeeperReport::Kind::kExited, {}, status});
  }
}

Error start_error(const CommandPlan& plan, const KeeperReport& report) {
  const std::string& program = plan.request.argv[0];
  switch (report.stage) {
    case KeeperReport::Stage::kUser:
      return errno_error("become user " + plan.request.user, report.value);
    case KeeperReport::Stage::kDirectory:
      return errno_error("working directory " + plan.request.cwd, report.value);
    case KeeperReport::Stage::kFork:
    case KeeperReport::Stage::kSession:
      return errno_error("start " + program, report.value == EAGAIN ? ENOMEM : report.value);
    case KeeperReport::Stage::kExec:
      break;
  }
  switch (report.value) {
    case ENOENT:
      if (program.find('/') == std::string::npos) {
        return Error(ErrorCode::kNotFound,
                     program +
                         ": command not found in the command's PATH: install it, or give its "
                         "whole path");
      }
      return Error(ErrorCode::kNotFound,
                   program +
                       ": no such program, or its interpreter (the #! line, the dynamic "
                       "loader) is missing");
    case EACCES:
      return Error(ErrorCode::kPermissionDenied,
                   program + ": not executable for user " + plan.request.user + " (chmod +x?)");
    case ENOEXEC:
      return Error(ErrorCode::kInvalidArgument,
                   program + ": not a program of this machine, and without a #! line");
    case E2BIG:
      return Error(ErrorCode::kTooLarge,
                   program +
                       ": arguments and environment are too long for the kernel (128 KiB "
                       "each): pass large input through stdin or a file");
    default:
      return errno_error("start " + program, report.value);
  }
}

Tree::Tree(pid_t ancestor) : ancestor_(ancestor), own_session_(::getsid(ancestor)) {}

std::vector<pid_t> Tree::members() {
  std::unordered_map<pid_t, std::vector<Kin>> children;
  std::vector<Kin> all;
  DIR* proc = ::opendir("/proc");
  if (proc == nullptr) return {};
  while (const dirent* entry = ::readdir(proc)) {
    const auto pid = static_cast<pid_t>(std::strtol(entry->d_name, nullptr, 10));
    if (pid <= 0 || pid == ancestor_) continue;
    if (const auto kin = kin_of(pid)) {
      children[kin->parent].push_back(*kin);
      all.push_back(*kin);
    }
  }
  ::closedir(proc);
  std::set<pid_t> found;
  std::vector<pid_t> next = {ancestor_};
  auto take = [&](const Kin& kin) {
    if (!found.insert(kin.pid).second) return;
    next.push_back(kin.pid);
    if (kin.session != own_session_ && kin.session > 0) sessions_.insert(kin.session);
  };
  auto follow = [&] {
    while (!next.empty()) {
      const auto below = children.find(next.back());
      next.pop_back();
      if (below == children.end()) continue;
      for (const Kin& kin : below->second) take(kin);
    }
  };
  follow();
  for (const Kin& kin : all) {
    if (sessions_.contains(kin.session)) take(kin);
  }
  follow();
  return {found.begin(), found.end()};
}

size_t Tree::kill(std::optional<uid_t> of) {
  constexpr int kWalks = 32;
  std::vector<pid_t> all;
  std::unordered_set<pid_t> stopped;
  for (int walk = 0; walk < kWalks; ++walk) {
    all = members();
    if (of) std::erase_if(all, [&](pid_t pid) { return !runs_as(pid, *of); });
    bool found_more = false;
    for (const pid_t pid : all) {
      if (!stopped.insert(pid).second) continue;
      found_more = true;
      ::kill(pid, SIGSTOP);
    }
    if (!found_more) break;
  }
  for (const pid_t pid : all) ::kill(pid, SIGKILL);
  return all.size();
}

}  // namespace sluice::guest::program
