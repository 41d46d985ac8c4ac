// Processes: becoming a user, starting a command under a keeper, and finding and killing a tree.
//
// Every command has a keeper: a process of the guest's own user that is the command's parent and
// adopts what the command leaves behind (PR_SET_CHILD_SUBREAPER). So a daemon that forked twice and
// made its own session is still below the keeper of the command that started it, and nobody else's
// orphans are. The keeper reports the command's end and goes when its last child is gone.
//
// Used by the guest's one thread and by what it forked.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "sluice/base/core/fd.h"
#include "sluice/base/core/passwd.h"
#include "sluice/base/core/result.h"
#include "sluice/guest/wire/messages.h"

namespace sluice::guest::program {

// Whether there are users to become: not where the sandbox has a single uid.
enum class Users : uint8_t { kMany, kSingle };

// Looks `spec` up in /etc/passwd and /etc/group.
Result<User> look_up_user(const std::string& spec);

// Makes this process `user`, for good, without any capability unless `user` is root. Returns an
// errno, 0 if all went well. Async-signal-safe.
// Sends a signal to all processes of a user in the caller's own process namespace, in one step: no
// fork escapes it (kill(2) and fork(2) take the same lock). The caller is its first process, whom
// none of them can signal, and has one thread.
void signal_user(uid_t uid, int signal);

int become(const User& user, Users users);

// Lays `fds` down from 3 on, in their order, and closes everything else above 2; -1 stays -1. What
// other commands and verbs have open must not live on in a process that was forked.
void keep_only(std::span<int> fds);

// What the keeper tells the guest, in one write each.
struct KeeperReport {
  enum class Kind : uint32_t { kStarted, kFailed, kExited };
  // What failed; told apart because each has another remedy.
  enum class Stage : uint32_t { kFork, kUser, kDirectory, kExec, kSession };
  Kind kind = Kind::kStarted;
  Stage stage = Stage::kFork;
  int32_t value = 0;  // pid, errno, or the status of wait(2)
};

struct CommandPlan {
  wire::Exec request;
  User user;
  Users users = Users::kMany;
  uint64_t open_files = 0;  // RLIMIT_NOFILE, 0: as it is
};

// Runs the keeper and its command. REQUIRES: this is a fresh child of the guest. `in`, `out` and
// `err` become the command's; `in` < 0 is /dev/null. Reports go to `report`. Everything else is
// closed.
[[noreturn]] void keep_command(const CommandPlan& plan, int in, int out, int err, int report);

// The Error of a command that did not start.
Error start_error(const CommandPlan& plan, const KeeperReport& report);

// The processes below one ancestor, as /proc tells: its descendants, and who shares a session with
// one of them. (A parent that dies while /proc is read leaves a child that seems to be nobody's;
// its session still says where it belongs.)
class Tree {
 public:
  explicit Tree(pid_t ancestor);

  // Those that are alive now, the ancestor left out.
  std::vector<pid_t> members();
  // Sends SIGKILL to all, or to those of one uid; how many were found. All are stopped first, walk
  // after walk until none is new: killing would make room for what a fork bomb cannot start at its
  // limit.
  size_t kill(std::optional<uid_t> of = std::nullopt);

 private:
  pid_t ancestor_;
  pid_t own_session_;
  std::set<pid_t> sessions_;  // in which a member was seen
};

}  // namespace sluice::guest::program
