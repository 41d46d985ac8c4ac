// Control groups of one backend: a directory per hierarchy for the backend, named after the process
// that owns it, and one below it per sandbox. Hierarchies of version 1 (one per controller) and the
// unified one of version 2, whichever has a controller.
//
// Any thread, one at a time. Links only base/core: the helper uses it, and the engine when it
// cleans up after a dead helper.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "sluice/base/core/fd.h"
#include "sluice/base/core/result.h"
#include "sluice/sandbox/local/plan.h"

namespace sluice::sandbox::local {

// The name of a backend's directories: whoever finds them can tell whether their owner lives.
std::string owner_name(pid_t pid);
// In clock ticks since boot; 0 if there is no such process, or only a dead one.
uint64_t start_time(pid_t pid);

// What the kernel says of its hierarchies and of this process's place in them.
struct CgroupFacts {
  std::string mountinfo, own;  // /proc/self/mountinfo, /proc/self/cgroup
  bool root = false;
};
CgroupFacts read_cgroup_facts();

// Where a backend's directory may be made, in one hierarchy.
struct CgroupPlace {
  enum class Version : uint8_t { kOne, kTwo };
  Version version = Version::kOne;
  std::string base;
  Controllers has;  // version 1: mounted there
};
// Version 1: below our own group, so that its limits hold for our sandboxes too. Version 2: a group
// with processes in it cannot have groups with limits below it, so as root it is the top of what is
// mounted, and as an ordinary user our own group, if it was delegated to us.
std::vector<CgroupPlace> plan_cgroups(const CgroupFacts& facts);

class Cgroups {
 public:
  // Makes the backend's directories where this process may. What is missing is in problem().
  static Cgroups open();
  static Cgroups open_at(const std::vector<CgroupPlace>& places);

  const Controllers& controllers() const { return controllers_; }
  const std::string& problem() const { return problem_; }
  std::vector<std::string> directories() const;

  // The groups of one sandbox, empty of processes and without limits; then its limits.
  struct Group {
    std::vector<std::string> directories;
    std::string oom_file;
  };
  Result<Group> make(const std::string& name) const;
  Result<void> limit(Group* group, const std::string& name, const CgroupLimits& limits) const;
  static Result<void> add(const Group& group, pid_t pid);
  // To be written to by who is to join ("0" is the writer), with the rights of who opened them.
  static Result<std::vector<Fd>> doors(const Group& group);
  // False while the kernel still counts a process in it.
  static bool remove(const Group& group);

  // Removes the backend's directories, which must be empty by then.
  void remove_all() const;

 private:
  using Version = CgroupPlace::Version;
  struct Hierarchy {
    Version version = Version::kOne;
    std::string directory;
    Controllers has;
  };
  void try_place(const CgroupPlace& place, const std::string& name);
  bool enable(const std::string& directory, const char* controller);

  std::vector<Hierarchy> hierarchies_;
  Controllers controllers_;  // of any of them
  std::string problem_;
};

// Kills for memory so far, as a Group's oom_file has them; 0 if it cannot be read.
uint64_t count_oom_kills(const std::string& oom_file);

// Removes what dead owners left below the mounted hierarchies, killing what still runs there; how
// many sandboxes that were.
int remove_dead_cgroups();
// Removes a directory of a dead owner and the groups below it.
int remove_cgroup_tree(const std::string& directory);

}  // namespace sluice::sandbox::local
