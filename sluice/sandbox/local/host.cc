#include "sluice/sandbox/local/host.h"

#include <pwd.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <optional>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/fd.h"
#include "sluice/sandbox/local/helper/cgroups.h"

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

std::vector<Need> inspect_host() {
  std::vector<Need> needs;
  utsname name{};
  ::uname(&name);
  int major = 0, minor = 0;
  std::sscanf(name.release, "%d.%d", &major, &minor);
  const bool recent = major > 5 || (major == 5 && minor >= 12);
  needs.push_back({"Linux 5.12 or newer", recent ? Need::State::kOk : Need::State::kMissing,
                   std::string("this is ") + name.release});

  auto sysctl = [](const char* path) {
    return parse_decimal(read_or_empty(path).substr(0, 1));
  };
  Need spaces{"user namespaces", Need::State::kOk, ""};
  const std::string most = read_or_empty("/proc/sys/user/max_user_namespaces");
  if (most.starts_with("0")) {
    spaces.state = Need::State::kMissing;
    spaces.detail = "none are allowed: sysctl user.max_user_namespaces=10000";
  } else if (::geteuid() != 0 &&
             sysctl("/proc/sys/kernel/unprivileged_userns_clone").value_or(1) == 0) {
    spaces.state = Need::State::kMissing;
    spaces.detail = "only for root: sysctl kernel.unprivileged_userns_clone=1, or run as root";
  } else if (::geteuid() != 0 &&
             sysctl("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").value_or(0) == 1) {
    spaces.state = Need::State::kMissing;
    spaces.detail =
        "AppArmor forbids them to programs without a profile: sysctl "
        "kernel.apparmor_restrict_unprivileged_userns=0, a profile for sluice, or run as root";
  }
  needs.push_back(std::move(spaces));

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

  Need limits{"limits of memory, processes and CPU", Need::State::kOk, ""};
  bool memory = false, pids = false, cpu = false;
  const auto places = plan_cgroups(read_cgroup_facts());
  for (const CgroupPlace& place : places) {
    if (::access(place.base.c_str(), W_OK) != 0) continue;
    memory = memory || place.memory;
    pids = pids || place.pids;
    cpu = cpu || place.cpu;
    limits.detail += (limits.detail.empty() ? "groups in " : ", ") + place.base;
  }
  if (!memory || !pids || !cpu) {
    limits.state = Need::State::kLess;
    limits.detail = std::string("not enforced:") + (memory ? "" : " memory") +
                    (pids ? "" : " processes") + (cpu ? "" : " CPU") + "; ";
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
