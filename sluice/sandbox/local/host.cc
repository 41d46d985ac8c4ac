#include "sluice/sandbox/local/host.h"

#include <fcntl.h>
#include <pwd.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/core/syscalls.h"
#include "sluice/sandbox/local/helper/cgroups.h"
#include "sluice/sandbox/local/helper/mounts.h"
#include "sluice/sandbox/local/helper/ranges.h"

namespace sluice::sandbox::local {
namespace {

// The users that a sandbox must have: 0, 1000, 1001; whole ranges also have "nobody".
constexpr uint32_t kWholeRange = 65'536;
constexpr uint32_t kSmallRange = 2048;
constexpr uint32_t kFirstId = 100'000;
constexpr uint32_t kAgent = 1000;

std::string_view next_line(std::string_view& rest) {
  const size_t at = rest.find('\n');
  const std::string_view line = rest.substr(0, at);
  rest = at == std::string_view::npos ? std::string_view() : rest.substr(at + 1);
  return line;
}

// "name:first:count" lines of /etc/subuid. Broken ones are skipped.
struct Subordinate {
  std::string owner;
  uint32_t first = 0, count = 0;
};
std::vector<Subordinate> subordinates(std::string_view text) {
  std::vector<Subordinate> all;
  while (!text.empty()) {
    const std::string_view line = next_line(text);
    const size_t one = line.find(':');
    const size_t two = line.find(':', one + 1);
    if (one == std::string_view::npos || two == std::string_view::npos) continue;
    const auto first = parse_decimal(line.substr(one + 1, two - one - 1));
    const auto count = parse_decimal(line.substr(two + 1));
    if (!first || !count || *first == 0 || *count == 0 || *first + *count > UINT32_MAX) continue;
    all.push_back({std::string(line.substr(0, one)), static_cast<uint32_t>(*first),
                   static_cast<uint32_t>(*count)});
  }
  return all;
}

// The longest run of ids that the namespace we are in has, from `lowest` up.
std::pair<uint32_t, uint32_t> available_ids(std::string_view map, uint32_t lowest) {
  uint32_t best = 0, best_count = 0;
  while (!map.empty()) {
    const std::string line(next_line(map));
    unsigned inside = 0, outside = 0, count = 0;
    if (std::sscanf(line.c_str(), "%u %u %u", &inside, &outside, &count) != 3) continue;
    const uint64_t end = uint64_t{inside} + count;
    const uint64_t begin = std::max<uint64_t>(inside, lowest);
    if (begin < end && end - begin > best_count) {
      best = static_cast<uint32_t>(begin);
      best_count = static_cast<uint32_t>(end - begin);
    }
  }
  return {best, best_count};
}

std::optional<std::vector<IdMap>> subordinate_map(std::string_view text, const IdFacts& facts) {
  for (const Subordinate& entry : subordinates(text)) {
    const bool ours = entry.owner == facts.user || entry.owner == std::to_string(facts.uid);
    if (!ours || entry.count < kSmallRange) continue;
    return std::vector<IdMap>{{0, entry.first, std::min(entry.count, kWholeRange)}};
  }
  return std::nullopt;
}

std::string read_or_empty(const char* path) {
  auto content = read_file(path, 1024 * 1024);
  return content ? std::move(*content) : std::string();
}

bool in_path(const char* name) {
  for (const char* directory : {"/usr/local/bin/", "/usr/bin/", "/bin/"}) {
    if (::access((std::string(directory) + name).c_str(), X_OK) == 0) return true;
  }
  return false;
}

}  // namespace

Result<IdPlan> plan_ids(const IdFacts& facts) {
  IdPlan plan;
  if (facts.uid == 0) {
    plan.mapping = Mapping::kDirect;
    auto [first, count] = available_ids(facts.uid_map, kFirstId);
    plan.range_size = kWholeRange;
    if (count < kWholeRange) {
      // Within somebody's user namespace: there are few ids, but no other sandboxes' either.
      std::tie(first, count) = available_ids(facts.uid_map, 1);
      plan.range_size = kSmallRange;
      plan.note = "this is a user namespace with few ids: sandboxes have " +
                  std::to_string(kSmallRange) + " each";
    }
    if (count < plan.range_size) {
      return Error(ErrorCode::kUnsupported,
                   "root of a user namespace that has no ids to give to a sandbox: run the engine "
                   "outside of it, as an ordinary user, or give the namespace more ids");
    }
    plan.range_first = first;
    for (const auto& text : {facts.subuid, facts.subgid}) {
      for (const Subordinate& entry : subordinates(text)) {
        plan.taken.emplace_back(entry.first, entry.count);
      }
    }
    // What lies behind the end.
    const uint64_t end = uint64_t{first} + count;
    if (end < UINT32_MAX) {
      plan.taken.emplace_back(static_cast<uint32_t>(end), static_cast<uint32_t>(UINT32_MAX - end));
    }
    return plan;
  }
  const std::string who = facts.user.empty() ? std::to_string(facts.uid) : facts.user;
  const auto uids = subordinate_map(facts.subuid, facts);
  const auto gids = subordinate_map(facts.subgid, facts);
  if (uids && gids && facts.tools) {
    plan.mapping = Mapping::kByTools;
    plan.uids = *uids;
    plan.gids = *gids;
    return plan;
  }
  plan.mapping = Mapping::kOwn;
  plan.uids = {{kAgent, facts.uid, 1}};
  plan.gids = {{kAgent, facts.gid, 1}};
  plan.note = !facts.tools
                  ? "newuidmap and newgidmap are missing (package uidmap): the sandbox has one user"
                  : "no ids for " + who +
                        " in /etc/subuid and /etc/subgid (usermod --add-subuids 100000-165535 "
                        "--add-subgids 100000-165535 " +
                        who + "): the sandbox has one user";
  if (facts.gid == 0) {
    return Error(ErrorCode::kUnsupported,
                 "the engine runs in group root, which is never mapped into a sandbox: run it with "
                 "another primary group");
  }
  return plan;
}

IdFacts read_id_facts() {
  IdFacts facts;
  facts.uid = ::geteuid();
  facts.gid = ::getegid();
  passwd entry{};
  passwd* found = nullptr;
  char buffer[16'384];
  if (::getpwuid_r(facts.uid, &entry, buffer, sizeof buffer, &found) == 0 && found != nullptr) {
    facts.user = found->pw_name;
  }
  facts.uid_map = read_or_empty("/proc/self/uid_map");
  facts.subuid = read_or_empty("/etc/subuid");
  facts.subgid = read_or_empty("/etc/subgid");
  facts.tools = in_path("newuidmap") && in_path("newgidmap");
  return facts;
}

namespace {

// Who has no id in a user namespace makes no file there: root of it is whoever we are.
void map_own_ids(uid_t uid, gid_t gid) {
  (void)write_kernel_file("/proc/self/setgroups", "deny");
  (void)write_kernel_file("/proc/self/uid_map", "0 " + std::to_string(uid) + " 1");
  (void)write_kernel_file("/proc/self/gid_map", "0 " + std::to_string(gid) + " 1");
}

// From within a user and a process namespace. Nothing is left of what it makes.
Trial walk_to_sandbox() {
  using Step = Trial::Step;
  const auto refused = [](Step step) {
    return Trial{step, errno};
  };
  if (::unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP) != 0) {
    return refused(Step::kOtherNamespaces);
  }
  const Fd memory = ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0
                        ? NewFilesystem("tmpfs").set("mode", "0755").mount(0)
                        : Fd();
  if (!memory || attach_mount(memory.get(), AT_FDCWD, "/usr") != 0 || ::fchdir(memory.get()) != 0) {
    return refused(Step::kMounts);
  }
  if (!NewFilesystem("proc").mount(0)) return refused(Step::kProc);
  for (const char* name : {"lower", "upper", "work"}) {
    if (::mkdir(name, 0755) != 0) return refused(Step::kOverlay);
  }
  NewFilesystem fs("overlay");
  fs.set("lowerdir", "lower").set("upperdir", "upper").set("workdir", "work").set("userxattr");
  const Fd overlay = fs.mount(0);
  return overlay ? Trial() : refused(Step::kOverlay);
}

}  // namespace

Trial try_namespaces() {
  auto pipe = make_pipe();
  if (!pipe) return {Trial::Step::kUserNamespace, errno};
  const pid_t child = ::fork();
  if (child < 0) return {Trial::Step::kUserNamespace, errno};
  if (child == 0) {
    // A process namespace begins with the next child, and only it sees a /proc of it.
    Trial trial;
    const uid_t uid = ::geteuid();
    const gid_t gid = ::getegid();
    if (::unshare(CLONE_NEWUSER) != 0) {
      trial = {Trial::Step::kUserNamespace, errno};
    } else if (map_own_ids(uid, gid); ::unshare(CLONE_NEWPID) != 0) {
      trial = {Trial::Step::kOtherNamespaces, errno};
    } else if (const pid_t inner = ::fork(); inner == 0) {
      trial = walk_to_sandbox();
    } else {
      int status = 0;
      if (inner > 0) ::waitpid(inner, &status, 0);
      ::_exit(0);
    }
    [[maybe_unused]] const auto ignored = ::write(pipe->write.get(), &trial, sizeof trial);
    ::_exit(0);
  }
  pipe->write.reset();
  Trial trial{Trial::Step::kUserNamespace, EIO};
  TEMP_FAILURE_RETRY(::read(pipe->read.get(), &trial, sizeof trial));
  int status = 0;
  TEMP_FAILURE_RETRY(::waitpid(child, &status, 0));
  return trial;
}

namespace {

// Apart from the kernel's own word: whose the image's files are.
std::string why_images_are_read_only() {
  if (::geteuid() == 0) {
    const Fd tree = clone_mount(AT_FDCWD, "/usr", 0);
    if (tree) return "";
    return std::string("mapping the owners of an image's files needs CAP_SYS_ADMIN (") +
           std::strerror(errno) + "): images are read-only here, and seen in part";
  }
  const auto plan = plan_ids(read_id_facts());
  if (!plan || plan->mapping != Mapping::kByTools) return "";
  return "with subordinate ids an image's files belong to nobody inside: images are read-only "
         "here, "
         "and seen in part";
}

}  // namespace

std::string explain_trial(const TrialFacts& facts) {
  using Step = Trial::Step;
  const Trial& trial = facts.trial;
  if (trial.refused == Step::kNone) return "";
  const std::string said = std::string(" (") + std::strerror(trial.failure) + ")";
  const bool filtered = facts.status.find("\nSeccomp:\t2") != std::string::npos;
  const std::string lost = "; without it there are no local sandboxes at all";
  if (trial.refused == Step::kOverlay) {
    return "the kernel lays nothing over an image" + said +
           ": images are read-only here, and seen in part (docs/sandboxes.md)";
  }
  if (trial.refused == Step::kProc) {
    return "this is a container whose /proc is covered in part, and then nobody in it gets a fresh "
           "one" +
           said +
           ": run it with --security-opt systempaths=unconfined (podman: --security-opt "
           "unmask=ALL)" +
           lost;
  }
  if (facts.max_user_namespaces.starts_with("0") || trial.failure == ENOSPC ||
      trial.failure == EUSERS) {
    return "user namespaces are forbidden or used up here or further out" + said +
           ": sysctl user.max_user_namespaces=10000" + lost;
  }
  if (!facts.root && facts.userns_clone.starts_with("0")) {
    return "user namespaces are for root only" + said +
           ": sysctl kernel.unprivileged_userns_clone=1, or run as root" + lost;
  }
  if (!facts.root && facts.apparmor_restricts.starts_with("1")) {
    return "AppArmor forbids what programs without a profile do in user namespaces" + said +
           ": sysctl kernel.apparmor_restrict_unprivileged_userns=0, a profile for sluice, or run "
           "as root" +
           lost;
  }
  if (filtered && trial.refused != Step::kMounts) {
    return "a system call filter forbids it" + said +
           ": in a container, run it with --security-opt seccomp=containers/seccomp.json" + lost;
  }
  if (filtered) {
    return "a system call filter or AppArmor forbids mounts" + said +
           ": in a container, run it with --security-opt seccomp=containers/seccomp.json "
           "--security-opt apparmor=unconfined" +
           lost;
  }
  return "the kernel refuses it" + said + lost;
}

std::vector<Need> inspect_host() {
  std::vector<Need> needs;
  utsname name{};
  ::uname(&name);
  int major = 0, minor = 0;
  std::sscanf(name.release, "%d.%d", &major, &minor);
  const bool recent = major > 5 || (major == 5 && minor >= 12);
  needs.push_back({"Linux 5.12 or newer", recent ? Need::State::kOk : Need::State::kMissing,
                   std::string("this is ") + name.release});

  TrialFacts facts;
  facts.trial = try_namespaces();
  facts.root = ::geteuid() == 0;
  facts.status = read_or_empty("/proc/self/status");
  facts.max_user_namespaces = read_or_empty("/proc/sys/user/max_user_namespaces");
  facts.userns_clone = read_or_empty("/proc/sys/kernel/unprivileged_userns_clone");
  facts.apparmor_restricts =
      read_or_empty("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
  const std::string why = explain_trial(facts);
  for (const auto& [step, name] : {std::pair(Trial::Step::kUserNamespace, "user namespaces"),
                                   {Trial::Step::kOtherNamespaces, "namespaces of other kinds"},
                                   {Trial::Step::kMounts, "mounts in a namespace"},
                                   {Trial::Step::kProc, "a /proc of its own"},
                                   {Trial::Step::kOverlay, "changeable container images"}}) {
    Need need{name, Need::State::kOk, ""};
    const bool only_images = step == Trial::Step::kOverlay;
    const std::string images = only_images ? why_images_are_read_only() : "";
    if (!images.empty()) {
      need.state = Need::State::kLess;
      need.detail = images;
    }
    if (facts.trial.refused == step) {
      need.state = only_images ? Need::State::kLess : Need::State::kMissing;
      need.detail = why;
    } else if (facts.trial.refused < step) {
      need.state = Need::State::kMissing;
      need.detail = "not tried: it comes after what is missing above";
    }
    needs.push_back(std::move(need));
  }

  Need ids{"a uid per user of the sandbox", Need::State::kOk, ""};
  const auto plan = plan_ids(read_id_facts());
  if (!plan) {
    ids.state = Need::State::kMissing;
    ids.detail = plan.error().message;
  } else {
    ids.detail = plan->note;
    if (plan->mapping == Mapping::kOwn) ids.state = Need::State::kLess;
  }
  needs.push_back(std::move(ids));
  if (plan && plan->mapping == Mapping::kDirect) {
    Need own{"ids that no other sandbox has", Need::State::kOk, ""};
    const std::string place = kIdsDirectory;
    if (const auto locks = open_id_locks(); locks) {
      own.detail = "held in " + place +
                   "; engines of containers that share this machine's uids have to be given that "
                   "directory (-v " +
                   place + ":" + place + "), or their sandboxes may have the same";
    } else {
      own.state = Need::State::kLess;
      own.detail = locks.error().message + ": sandboxes of two engines may have the same ids";
    }
    needs.push_back(std::move(own));
  }

  Need limits{"limits of memory, processes and CPU", Need::State::kOk, ""};
  Controllers found;
  const auto places = plan_cgroups(read_cgroup_facts());
  for (const CgroupPlace& place : places) {
    if (::access(place.base.c_str(), W_OK) != 0) continue;
    found |= place.has;
    limits.detail += (limits.detail.empty() ? "groups in " : ", ") + place.base;
  }
  if (!found.memory || !found.pids || !found.cpu) {
    limits.state = Need::State::kLess;
    limits.detail = std::string("not enforced:") + (found.memory ? "" : " memory") +
                    (found.pids ? "" : " processes") + (found.cpu ? "" : " CPU") + "; ";
    limits.detail +=
        places.empty()
            ? "no control groups with such controllers are mounted here (in a container: "
              "run it with --cgroupns=private and a writable /sys/fs/cgroup)"
        : ::geteuid() == 0
            ? "/sys/fs/cgroup is read-only: in a container, run it with a writable one"
            : "run as root, or in a delegated group: systemd-run --user --scope -p Delegate=yes "
              "sluice ...";
  }
  needs.push_back(std::move(limits));
  return needs;
}

}  // namespace sluice::sandbox::local
