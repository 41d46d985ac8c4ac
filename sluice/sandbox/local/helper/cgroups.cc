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

namespace sluice::sandbox::local {
namespace {

constexpr size_t kMaxFile = 1024 * 1024;
constexpr char kPrefix[] = "sluice-";

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const size_t at = text.find(separator);
    if (at != 0) parts.emplace_back(text.substr(0, at));
    text = at == std::string_view::npos ? std::string_view() : text.substr(at + 1);
  }
  return parts;
}

bool contains(const std::vector<std::string>& list, std::string_view item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

Result<void> put(const std::string& path, const std::string& text) {
  const Fd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file) return errno_error(path, errno);
  if (::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return errno_error("write " + text + " to " + path, errno);
  }
  return {};
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

std::vector<Mount> cgroup_mounts() {
  std::vector<Mount> mounts;
  for (const std::string& line : split(contents("/proc/self/mountinfo"), '\n')) {
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    const auto left = split(std::string_view(line).substr(0, dash), ' ');
    const auto right = split(std::string_view(line).substr(dash + 3), ' ');
    if (left.size() < 5 || right.size() < 3) continue;
    if (right[0] != "cgroup" && right[0] != "cgroup2") continue;
    Mount mount;
    mount.point = unescape(left[4]);
    mount.root = unescape(left[3]);
    mount.unified = right[0] == "cgroup2";
    mount.options = split(right[2], ',');
    mounts.push_back(std::move(mount));
  }
  return mounts;
}

// Where this process is in the hierarchy with that controller (of version 1).
std::string own_cgroup(std::string_view controller) {
  for (const std::string& line : split(contents("/proc/self/cgroup"), '\n')) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const auto controllers =
        split(std::string_view(line).substr(first + 1, second - first - 1), ',');
    if (contains(controllers, controller)) return line.substr(second + 1);
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
  const auto fields = split(std::string_view(stat).substr(end + 1), ' ');
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

void Cgroups::try_hierarchy(Hierarchy hierarchy) {
  if (::mkdir(hierarchy.directory.c_str(), 0755) != 0 && errno != EEXIST) {
    problem_ = hierarchy.directory + ": " + ::strerror(errno);
    return;
  }
  if (hierarchy.version == Version::kTwo) {
    for (bool* wanted : {&hierarchy.memory, &hierarchy.pids, &hierarchy.cpu}) {
      if (!*wanted) continue;
      const char* name = wanted == &hierarchy.memory ? "+memory"
                         : wanted == &hierarchy.pids ? "+pids"
                                                     : "+cpu";
      auto enabled = put(hierarchy.directory + "/cgroup.subtree_control", name);
      if (enabled) continue;
      *wanted = false;
      problem_ = enabled.error().message;
    }
  }
  if (!hierarchy.memory && !hierarchy.pids && !hierarchy.cpu) {
    ::rmdir(hierarchy.directory.c_str());
    return;
  }
  has_memory_ = has_memory_ || hierarchy.memory;
  has_pids_ = has_pids_ || hierarchy.pids;
  has_cpu_ = has_cpu_ || hierarchy.cpu;
  hierarchies_.push_back(std::move(hierarchy));
}

Cgroups Cgroups::open() {
  Cgroups groups;
  const auto mounts = cgroup_mounts();
  if (mounts.empty()) groups.problem_ = "no control groups are mounted";
  if (::geteuid() != 0) {
    groups.problem_ =
        "limits by control groups need root (or a delegated group, which is not used)";
    return groups;
  }
  const std::string name = owner_name(::getpid());
  for (const Mount& mount : mounts) {
    Hierarchy hierarchy;
    if (mount.unified) {
      hierarchy.version = Version::kTwo;
      const auto available = split(contents(mount.point + "/cgroup.controllers"), ' ');
      auto has = [&](const char* controller) {
        return std::any_of(available.begin(), available.end(), [&](const std::string& found) {
          return found == controller || found == std::string(controller) + "\n";
        });
      };
      hierarchy.memory = has("memory");
      hierarchy.pids = has("pids");
      hierarchy.cpu = has("cpu");
      // At the top: a group with processes of its own, as ours is, cannot have groups with limits
      // below it.
      hierarchy.directory = mount.point + "/" + name;
      if (!hierarchy.memory && !hierarchy.pids && !hierarchy.cpu) continue;
      for (const char* enable : {"+memory", "+pids", "+cpu"}) {
        (void)put(mount.point + "/cgroup.subtree_control", enable);  // most often they are
      }
    } else {
      hierarchy.memory = contains(mount.options, "memory");
      hierarchy.pids = contains(mount.options, "pids");
      hierarchy.cpu = contains(mount.options, "cpu");
      const char* any = hierarchy.memory ? "memory" : hierarchy.pids ? "pids" : "cpu";
      if (!hierarchy.memory && !hierarchy.pids && !hierarchy.cpu) continue;
      // Below our own group, so that its limits hold for our sandboxes too.
      hierarchy.directory = directory_of(mount, own_cgroup(any)) + "/" + name;
    }
    groups.try_hierarchy(std::move(hierarchy));
  }
  return groups;
}

std::vector<std::string> Cgroups::directories() const {
  std::vector<std::string> all;
  for (const Hierarchy& hierarchy : hierarchies_) all.push_back(hierarchy.directory);
  return all;
}

Result<Cgroups::Group> Cgroups::make(const std::string& name, const CgroupLimits& limits) const {
  Group group;
  Result<void> done;
  auto set = [&](const std::string& file, const std::string& value) {
    if (done) done = put(file, value);
  };
  for (const Hierarchy& hierarchy : hierarchies_) {
    const bool wanted = (hierarchy.memory && limits.memory_bytes != 0) ||
                        (hierarchy.pids && limits.pids != 0) ||
                        (hierarchy.cpu && limits.cpu_millis != 0);
    if (!wanted) continue;
    const std::string directory = hierarchy.directory + "/" + name;
    if (::mkdir(directory.c_str(), 0755) != 0) {
      done = errno_error(directory, errno);
      break;
    }
    group.directories.push_back(directory);
    const bool two = hierarchy.version == Version::kTwo;
    if (hierarchy.memory && limits.memory_bytes != 0) {
      const std::string bytes = std::to_string(limits.memory_bytes);
      set(directory + (two ? "/memory.max" : "/memory.limit_in_bytes"), bytes);
      // No swap on top, where the kernel counts it.
      if (two) {
        (void)put(directory + "/memory.swap.max", "0");
      } else {
        (void)put(directory + "/memory.memsw.limit_in_bytes", bytes);
      }
      group.oom_file = directory + (two ? "/memory.events" : "/memory.oom_control");
    }
    if (hierarchy.pids && limits.pids != 0) {
      set(directory + "/pids.max", std::to_string(limits.pids));
    }
    if (hierarchy.cpu && limits.cpu_millis != 0) {
      const std::string quota = std::to_string(limits.cpu_millis * 100);  // of 100 ms
      if (two) {
        set(directory + "/cpu.max", quota + " 100000");
      } else {
        set(directory + "/cpu.cfs_period_us", "100000");
        set(directory + "/cpu.cfs_quota_us", quota);
      }
    }
  }
  if (!done) {
    remove(group);
    return std::move(done).error();
  }
  return group;
}

Result<void> Cgroups::add(const Group& group, pid_t pid) {
  for (const std::string& directory : group.directories) {
    SLUICE_TRY_VOID(put(directory + "/cgroup.procs", std::to_string(pid)));
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
      for (const std::string& pid : split(contents(below + "/cgroup.procs"), '\n')) {
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
  for (const Mount& mount : cgroup_mounts()) {
    std::vector<std::string> places = {mount.point};
    if (!mount.unified && !mount.options.empty()) {
      for (const std::string& option : mount.options) {
        const std::string own = directory_of(mount, own_cgroup(option));
        if (own != mount.point) places.push_back(own);
      }
    }
    int removed = 0;
    for (const std::string& place : places) {
      for (const std::string& name : subdirectories(place)) {
        // sluice-NAMESPACE-PID-START. Of another process namespace nothing can be said.
        const auto parts = split(name, '-');
        if (parts.size() != 4 || parts[0] + "-" != kPrefix) continue;
        const auto pid = parse_decimal(parts[2]);
        if (!pid || !owner_name(::getpid()).starts_with(kPrefix + parts[1] + "-")) continue;
        if (owner_name(static_cast<pid_t>(*pid)) == name) continue;  // it lives
        removed += remove_cgroup_tree(place + "/" + name);
      }
    }
    most = std::max(most, removed);
  }
  return most;
}

}  // namespace sluice::sandbox::local
