#include "sluice/sandbox/local/helper/cgroups.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/core/syscalls.h"

namespace sluice::sandbox::local {
namespace {

constexpr size_t kMaxFile = 1024 * 1024;
constexpr char kPrefix[] = "sluice-";
// Where the engine goes in a group that was delegated to it.
constexpr char kEngineGroup[] = "sluice-engine";

constexpr std::pair<const char*, bool Controllers::*> kControllers[] = {
    {"memory", &Controllers::memory}, {"pids", &Controllers::pids}, {"cpu", &Controllers::cpu}};

std::vector<std::string> split(std::string_view text, std::string_view separators) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const size_t at = text.find_first_of(separators);
    if (at != 0) parts.emplace_back(text.substr(0, at));
    text = at == std::string_view::npos ? std::string_view() : text.substr(at + 1);
  }
  return parts;
}

bool contains(const std::vector<std::string>& list, std::string_view item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

Bytes contents(const std::string& path) {
  auto content = read_file(path, kMaxFile);
  return content ? std::move(*content) : Bytes();
}

struct Mount {
  std::string point;
  std::string root;  // which directory of the hierarchy is mounted there
  bool unified = false;
  std::vector<std::string> options;  // version 1: its controllers are among them
};

// Octal escapes of mountinfo: space, tab, newline, backslash.
std::string unescape(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out.push_back(static_cast<char>(std::strtol(text.substr(i + 1, 3).c_str(), nullptr, 8)));
      i += 3;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

std::vector<Mount> cgroup_mounts(std::string_view mountinfo) {
  std::vector<Mount> mounts;
  for (const std::string& line : split(mountinfo, "\n")) {
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    const auto left = split(std::string_view(line).substr(0, dash), " ");
    const auto right = split(std::string_view(line).substr(dash + 3), " ");
    if (left.size() < 5 || right.size() < 3) continue;
    if (right[0] != "cgroup" && right[0] != "cgroup2") continue;
    Mount mount;
    mount.point = unescape(left[4]);
    mount.root = unescape(left[3]);
    mount.unified = right[0] == "cgroup2";
    mount.options = split(right[2], ",");
    mounts.push_back(std::move(mount));
  }
  return mounts;
}

// Where this process is in the hierarchy with that controller; "" for version 2.
std::string own_cgroup(std::string_view own, std::string_view controller) {
  for (const std::string& line : split(own, "\n")) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string_view names = std::string_view(line).substr(first + 1, second - first - 1);
    if (controller.empty() ? names.empty() : contains(split(names, ","), controller)) {
      return line.substr(second + 1);
    }
  }
  return "/";
}

// The directory of `own` below a mount that shows `root` at `point`.
std::string directory_of(const Mount& mount, const std::string& own) {
  std::string below = own;
  if (mount.root != "/" && own.starts_with(mount.root)) below = own.substr(mount.root.size());
  while (below.ends_with('/')) below.pop_back();
  const std::string path = mount.point + below;
  struct stat st{};
  return ::stat(path.c_str(), &st) == 0 ? path : mount.point;
}

std::vector<std::string> subdirectories(const std::string& directory) {
  std::vector<std::string> names;
  DIR* stream = ::opendir(directory.c_str());
  if (stream == nullptr) return names;
  while (const dirent* entry = ::readdir(stream)) {
    if (entry->d_type == DT_DIR && entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  ::closedir(stream);
  return names;
}

}  // namespace

uint64_t start_time(pid_t pid) {
  const Bytes stat = contents("/proc/" + std::to_string(pid) + "/stat");
  const size_t end = stat.rfind(')');
  if (end == Bytes::npos) return 0;
  // The 22nd field; the third stands behind the parenthesis.
  const auto fields = split(std::string_view(stat).substr(end + 1), " ");
  if (fields.size() < 20 || fields[0] == "Z" || fields[0] == "X") return 0;  // dead, not reaped
  return parse_decimal(fields[19]).value_or(0);
}

std::string owner_name(pid_t pid) {
  // Process ids say nothing outside their namespace: its number comes first.
  struct stat st{};
  const uint64_t space = ::stat("/proc/self/ns/pid", &st) == 0 ? st.st_ino : 0;
  return kPrefix + std::to_string(space) + "-" + std::to_string(pid) + "-" +
         std::to_string(start_time(pid));
}

CgroupFacts read_cgroup_facts() {
  return {contents("/proc/self/mountinfo"), contents("/proc/self/cgroup"), ::geteuid() == 0};
}

std::vector<CgroupPlace> plan_cgroups(const CgroupFacts& facts) {
  std::vector<CgroupPlace> places;
  for (const Mount& mount : cgroup_mounts(facts.mountinfo)) {
    CgroupPlace place;
    std::vector<std::string> available = mount.options;
    if (mount.unified) {
      place.version = CgroupPlace::Version::kTwo;
      place.base = facts.root ? mount.point : directory_of(mount, own_cgroup(facts.own, ""));
      // An earlier backend of this process moved it there.
      const std::string leaf = std::string("/") + kEngineGroup;
      if (place.base.ends_with(leaf)) place.base.resize(place.base.size() - leaf.size());
      available = split(contents(place.base + "/cgroup.controllers"), " \n");
    }
    const char* first = nullptr;
    for (const auto& [name, has] : kControllers) {
      place.has.*has = contains(available, name);
      if (place.has.*has && first == nullptr) first = name;
    }
    if (first == nullptr) continue;
    if (!mount.unified) place.base = directory_of(mount, own_cgroup(facts.own, first));
    places.push_back(std::move(place));
  }
  return places;
}

// Lets groups below `directory` have the controller. Processes in a group stand in the way of that
// (cgroups(7), "no internal processes"): we and the engine go to a group of our own below it.
bool Cgroups::enable(const std::string& directory, const char* controller) {
  const std::string switches = directory + "/cgroup.subtree_control";
  const std::string on = std::string("+") + controller;
  if (contains(split(contents(switches), " \n"), controller)) return true;
  auto done = write_kernel_file(switches, on);
  if (!done) {
    const std::string leaf = directory + "/" + kEngineGroup;
    if (::mkdir(leaf.c_str(), 0755) == 0 || errno == EEXIST) {
      for (const pid_t pid : {::getppid(), ::getpid()}) {
        (void)write_kernel_file(leaf + "/cgroup.procs", std::to_string(pid));
      }
      done = write_kernel_file(switches, on);
    }
  }
  if (!done) {
    problem_ =
        done.error().message +
        " (control groups of version 2 are used where this process may make groups: as root, "
        "or in a group of its own, as by: systemd-run --user --scope -p Delegate=yes sluice "
        "...)";
  }
  return done.has_value();
}

void Cgroups::try_place(const CgroupPlace& place, const std::string& name) {
  Hierarchy hierarchy{place.version, place.base + "/" + name, place.has};
  Controllers& has = hierarchy.has;
  const bool two = place.version == Version::kTwo;
  const auto enable_below = [&](const std::string& directory) {
    for (const auto& [controller, wanted] : kControllers) {
      has.*wanted = has.*wanted && (!two || enable(directory, controller));
    }
  };
  enable_below(place.base);
  if (!has.memory && !has.pids && !has.cpu) return;
  if (::mkdir(hierarchy.directory.c_str(), 0755) != 0 && errno != EEXIST) {
    problem_ = "no control group may be made in " + place.base + ": " + ::strerror(errno);
    return;
  }
  enable_below(hierarchy.directory);
  const char* file = two ? "/memory.swap.max" : "/memory.memsw.limit_in_bytes";
  has.swap = has.memory && ::access((hierarchy.directory + file).c_str(), W_OK) == 0;
  controllers_ |= has;
  hierarchies_.push_back(std::move(hierarchy));
}

Cgroups Cgroups::open() {
  return open_at(plan_cgroups(read_cgroup_facts()));
}

Cgroups Cgroups::open_at(const std::vector<CgroupPlace>& places) {
  Cgroups groups;
  if (places.empty()) groups.problem_ = "no control groups with a controller are mounted";
  const std::string name = owner_name(::getpid());
  for (const CgroupPlace& place : places) groups.try_place(place, name);
  return groups;
}

std::vector<std::string> Cgroups::directories() const {
  std::vector<std::string> all;
  for (const Hierarchy& hierarchy : hierarchies_) all.push_back(hierarchy.directory);
  return all;
}

Result<Cgroups::Group> Cgroups::make(const std::string& name) const {
  Group group;
  for (const Hierarchy& hierarchy : hierarchies_) {
    // Also where nothing will be limited: so that each has an equal share.
    const std::string directory = hierarchy.directory + "/" + name;
    if (::mkdir(directory.c_str(), 0755) != 0) {
      Error error = errno_error(directory, errno);
      remove(group);
      return error;
    }
    group.directories.push_back(directory);
  }
  return group;
}

Result<void> Cgroups::limit(Group* group, const std::string& name,
                            const CgroupLimits& limits) const {
  Result<void> done;
  auto set = [&](const std::string& file, const std::string& value) {
    if (done) done = write_kernel_file(file, value);
  };
  for (const Hierarchy& hierarchy : hierarchies_) {
    const std::string directory = hierarchy.directory + "/" + name;
    const bool two = hierarchy.version == Version::kTwo;
    if (hierarchy.has.memory && limits.memory_bytes != 0) {
      set(directory + (two ? "/memory.max" : "/memory.limit_in_bytes"),
          std::to_string(limits.memory_bytes));
      if (hierarchy.has.swap && limits.swap_bytes != kUnlimited) {
        // Version 1 counts memory and swap together.
        const uint64_t most = two ? limits.swap_bytes : limits.memory_bytes + limits.swap_bytes;
        set(directory + (two ? "/memory.swap.max" : "/memory.memsw.limit_in_bytes"),
            std::to_string(most));
      }
      group->oom_file = directory + (two ? "/memory.events" : "/memory.oom_control");
    }
    if (hierarchy.has.pids && limits.pids != 0) {
      set(directory + "/pids.max", std::to_string(limits.pids));
    }
    if (hierarchy.has.cpu && limits.cpu_millis != 0) {
      const std::string quota = std::to_string(limits.cpu_millis * 100);  // of 100 ms
      if (two) {
        set(directory + "/cpu.max", quota + " 100000");
      } else {
        set(directory + "/cpu.cfs_period_us", "100000");
        set(directory + "/cpu.cfs_quota_us", quota);
      }
    }
  }
  return done;
}

uint64_t count_oom_kills(const std::string& oom_file) {
  const auto content = read_file(oom_file, 4096);
  if (!content) return 0;
  const size_t at = content->find("oom_kill ");
  if (at == std::string::npos) return 0;
  const size_t begin = at + 9;
  return parse_decimal(std::string_view(*content).substr(begin, content->find('\n', begin) - begin))
      .value_or(0);
}

Result<std::vector<Fd>> Cgroups::doors(const Group& group) {
  std::vector<Fd> all;
  for (const std::string& directory : group.directories) {
    const std::string path = directory + "/cgroup.procs";
    if (!all.emplace_back(::open(path.c_str(), O_WRONLY | O_CLOEXEC))) {
      return errno_error(path, errno);
    }
  }
  return all;
}

Result<void> Cgroups::add(const Group& group, pid_t pid) {
  for (const std::string& directory : group.directories) {
    SLUICE_TRY_VOID(write_kernel_file(directory + "/cgroup.procs", std::to_string(pid)));
  }
  return {};
}

bool Cgroups::remove(const Group& group) {
  bool gone = true;
  for (const std::string& directory : group.directories) {
    if (::rmdir(directory.c_str()) != 0 && errno != ENOENT) gone = false;
  }
  return gone;
}

void Cgroups::remove_all() const {
  for (const Hierarchy& hierarchy : hierarchies_) remove_cgroup_tree(hierarchy.directory);
}

int remove_cgroup_tree(const std::string& directory) {
  int removed = 0;
  // A process that was just killed counts for a moment yet.
  for (int attempt = 0; attempt < 200; ++attempt) {
    for (const std::string& name : subdirectories(directory)) {
      const std::string below = directory + "/" + name;
      for (const std::string& pid : split(contents(below + "/cgroup.procs"), "\n")) {
        if (const auto number = parse_decimal(pid)) ::kill(static_cast<pid_t>(*number), SIGKILL);
      }
      if (::rmdir(below.c_str()) == 0) ++removed;
    }
    if (::rmdir(directory.c_str()) == 0 || errno == ENOENT) return removed;
    ::usleep(10'000);
  }
  return removed;
}

int remove_dead_cgroups() {
  int most = 0;
  const CgroupFacts facts = read_cgroup_facts();
  std::vector<std::string> places;
  for (const CgroupPlace& place : plan_cgroups(facts)) places.push_back(place.base);
  // An engine that ran in another group left them there: the top is looked at, too.
  for (const Mount& mount : cgroup_mounts(facts.mountinfo)) {
    if (!contains(places, mount.point)) places.push_back(mount.point);
  }
  for (const std::string& place : places) {
    int removed = 0;
    for (const std::string& name : subdirectories(place)) {
      // sluice-NAMESPACE-PID-START. Of another process namespace nothing can be said.
      const auto parts = split(name, "-");
      if (parts.size() != 4 || parts[0] + "-" != kPrefix) continue;
      const auto pid = parse_decimal(parts[2]);
      if (!pid || !owner_name(::getpid()).starts_with(kPrefix + parts[1] + "-")) continue;
      if (owner_name(static_cast<pid_t>(*pid)) == name) continue;  // it lives
      removed += remove_cgroup_tree(place + "/" + name);
    }
    most = std::max(most, removed);
  }
  return most;
}

}  // namespace sluice::sandbox::local
