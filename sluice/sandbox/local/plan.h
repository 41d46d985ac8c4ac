// Plan: all that is to be done to make one sandbox, as a value. The engine decides (layout.h,
// local.cc), the helper and the sandbox's first process carry out; neither takes a decision.
//
// Each message says its fields once (guest/wire/fields.h).
//
// Plain values; any thread. Links only base/core and guest/wire: the static helper uses it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/result.h"
#include "sluice/guest/wire/fields.h"

namespace sluice::sandbox::local {

using guest::wire::decode;
using guest::wire::encode;

// Limits of what a message may hold.
inline constexpr size_t kMaxSteps = 1024;
inline constexpr size_t kMaxPath = 4096;
inline constexpr size_t kMaxText = 64 * 1024;

// One step of building the root. Paths are relative to the new root, without a leading slash.
struct Step {
  enum class Kind : uint8_t {
    kDirectory,  // path, mode, uid, gid; one that exists stays as it is
    kFile,       // path, mode, text = its content
    kSymlink,    // path, text = its target
    kBind,       // path, text = what is bound there; see the flags
    kProc,       // a fresh /proc of the new process namespace
    kTerminals,  // a fresh devpts; gid = that of the terminals, or 0 for none
    kQueues,     // the POSIX message queues of the new IPC namespace, where the kernel has them
    kApart,      // a fresh filesystem in memory as large as the root may be, 0700
  };
  enum Flag : uint8_t {
    kReadOnly = 1,
    kNoExec = 2,
    kDevices = 4,    // device files work below it
    kInside = 8,     // `text` is a path within the new root
    kOptional = 16,  // what is not there is left out
    kReplace = 32,   // kFile, kSymlink: whatever is there goes. kDirectory: what is there and is
                     // none goes, and one that is there gets mode and owner
  };

  Kind kind = Kind::kDirectory;
  uint8_t flags = 0;
  uint32_t mode = 0755;
  uint32_t uid = 0, gid = 0;
  std::string path;
  std::string text;

  static void fields(auto& v, auto& m) {
    v.enumerator(m.kind, Kind::kApart);
    v.numbers(m.flags, m.mode, m.uid, m.gid);
    v.text(m.path, kMaxPath);
    v.string(m.text, kMaxText);
    if (m.path.empty() || m.path.starts_with('/')) v.fail("a step's path is not relative");
  }
};

struct IdMap {
  uint32_t inside = 0, outside = 0, count = 0;

  static void fields(auto& v, auto& m) {
    v.numbers(m.inside, m.outside, m.count);
    // The rule that everything else rests on.
    if (m.outside == 0 || m.count == 0 || m.outside > UINT32_MAX - m.count) {
      v.fail("an id map holds host id 0, or no ids");
    }
  }
};

struct IdRange {
  uint32_t first = 0, count = 0;

  static void fields(auto& v, auto& m) { v.numbers(m.first, m.count); }
};

// How uids are mapped. Host uid 0 is never among them.
enum class Mapping : uint8_t {
  kDirect,   // by root: the helper writes the maps
  kByTools,  // by an ordinary user: newuidmap and newgidmap with the user's subordinate ids
  kOwn,      // by an ordinary user: the own uid and gid alone
};

struct Ids {
  Mapping mapping = Mapping::kOwn;
  // With kDirect: ids from `first` on are given out in ranges of `size`; `taken` are left out.
  uint32_t range_first = 0, range_size = 0;
  std::vector<IdRange> taken;
  // With the others: the maps.
  std::vector<IdMap> uids, gids;

  static void fields(auto& v, auto& m) {
    v.enumerator(m.mapping, Mapping::kOwn);
    v.numbers(m.range_first, m.range_size);
    v.list(m.taken, 4096);
    v.list(m.uids, 16);
    v.list(m.gids, 16);
    if (m.mapping == Mapping::kDirect) {
      if (m.range_first == 0 || m.range_size < 2000) v.fail("no range of ids");
    } else if (m.uids.empty() || m.gids.empty()) {
      v.fail("no id maps");
    }
  }
};

inline constexpr uint64_t kUnlimited = UINT64_MAX;

// What the kernel's control groups can limit.
struct Controllers {
  bool memory = false, pids = false, cpu = false, swap = false;

  Controllers& operator|=(const Controllers& other) {
    memory = memory || other.memory;
    pids = pids || other.pids;
    cpu = cpu || other.cpu;
    swap = swap || other.swap;
    return *this;
  }

  static void fields(auto& v, auto& m) { v.flags(m.memory, m.pids, m.cpu, m.swap); }
};

// A control group's limits; what is 0 is not limited.
struct CgroupLimits {
  uint64_t memory_bytes = 0;
  uint64_t pids = 0;
  uint64_t cpu_millis = 0;
  uint64_t swap_bytes = kUnlimited;  // with a limit of memory only

  static void fields(auto& v, auto& m) {
    v.numbers(m.memory_bytes, m.pids, m.cpu_millis, m.swap_bytes);
  }
};

// What all sandboxes of one backend share; sent once.
struct Setup : Ids {
  static constexpr char kName[] = "setup";
  // The program to run as a sandbox's first process comes as a descriptor.
  Bytes seccomp;  // an array of sock_filter
  std::vector<Step> root;
  uint32_t ready = 0;  // how many sandboxes to have begun before they are asked for

  static void fields(auto& v, auto& m) {
    v.string(m.seccomp, kMaxText);
    if (m.seccomp.empty() || m.seccomp.size() % 8 != 0) v.fail("no filter");
    v.list(m.root, kMaxSteps);
    Ids::fields(v, m);
    v.numbers(m.ready);
    if (m.ready > 64) v.fail("too many to be ready");
  }
};

struct SetupDone {
  static constexpr char kName[] = "answer to setup";
  std::vector<std::string> cgroups;  // the directories below which sandboxes get theirs
  Controllers controllers;
  std::string cgroup_problem;  // why some are missing

  static void fields(auto& v, auto& m) {
    v.texts(m.cgroups, 16, kMaxPath);
    Controllers::fields(v, m.controllers);
    v.text(m.cgroup_problem, kMaxText);
  }
};

struct Create {
  static constexpr char kName[] = "create";
  uint64_t id = 0;
  std::string name;         // of its control group
  std::vector<Step> extra;  // after Setup::root
  std::string kept_home;    // a directory of the host to become /home/user, or empty
  uint64_t disk_bytes = 0;  // of the root filesystem; 0: the kernel's default (half the memory)
  uint64_t disk_inodes = 0;
  CgroupLimits limits;
  bool own_network = true;
  bool whole_root = false;  // `extra` is all of it: Setup::root is left out
  // A directory of the host whose files the root begins with; what changes lies over them. Where
  // the kernel cannot do that, the answer is an error that is_no_overlay() knows.
  std::string image_root;
  // The link's descriptor comes along.

  static void fields(auto& v, auto& m) {
    v.numbers(m.id);
    v.text(m.name, 128);
    if (m.name.empty() || m.name.find('/') != std::string::npos || m.name[0] == '.') {
      v.fail("its name is no name of a directory");
    }
    v.list(m.extra, kMaxSteps);
    v.text(m.kept_home, kMaxPath);
    v.numbers(m.disk_bytes, m.disk_inodes);
    CgroupLimits::fields(v, m.limits);
    v.flags(m.own_network, m.whole_root);
    v.text(m.image_root, kMaxPath);
  }
};

struct Created {
  static constexpr char kName[] = "answer to create";
  uint64_t id = 0;
  bool ok = false;
  Error error;           // if not
  int32_t pid = 0;       // of its first process, in the helper's process namespace
  std::string oom_file;  // where the kernel counts kills for memory, or empty

  static void fields(auto& v, auto& m) {
    v.numbers(m.id);
    v.flags(m.ok);
    v.error(m.error, kMaxText);
    v.numbers(m.pid);
    v.text(m.oom_file, kMaxPath);
  }
};
inline constexpr char kNoOverlay[] = "lay a writable layer over the image";
bool is_no_overlay(const Error& error);

struct Destroy {
  static constexpr char kName[] = "destroy";
  uint64_t id = 0;

  static void fields(auto& v, auto& m) { v.numbers(m.id); }
};

// A sandbox is gone and everything of it, asked for or not.
struct Gone {
  static constexpr char kName[] = "gone";
  uint64_t id = 0;
  int32_t wait_status = 0;

  static void fields(auto& v, auto& m) { v.numbers(m.id, m.wait_status); }
};

// One message of the helper's socket.
struct Message {
  enum class Kind : uint8_t { kSetup, kSetupDone, kCreate, kCreated, kDestroy, kGone, kFailed };
  Kind kind = Kind::kSetup;
  Bytes body;

  Bytes encode() const;
  static Result<Message> decode(ByteView bytes);
};
inline constexpr size_t kMaxMessage = 128 * 1024;

}  // namespace sluice::sandbox::local
