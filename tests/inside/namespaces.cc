// New namespaces (a user namespace gives every capability again) and entering others'.
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <string>

#include "attack.h"

int inside_namespaces(int, char**) {
  struct Kind {
    const char* name;
    uint64_t flag;
  };
  for (const Kind& kind :
       {Kind{"user", CLONE_NEWUSER}, Kind{"mnt", CLONE_NEWNS}, Kind{"pid", CLONE_NEWPID},
        Kind{"net", CLONE_NEWNET}, Kind{"ipc", CLONE_NEWIPC}, Kind{"uts", CLONE_NEWUTS},
        Kind{"cgroup", CLONE_NEWCGROUP}, Kind{"time", 0x80}}) {
    attack::must_fail_with(kind.name, ::syscall(SYS_unshare, kind.flag), EPERM);
    // The upper half of the register is nobody's business, and no way round a filter.
    attack::must_fail_with(kind.name, ::syscall(SYS_unshare, kind.flag | uint64_t{1} << 40), EPERM);
    if (kind.flag != 0x80) {
      const long child = ::syscall(SYS_clone, kind.flag | SIGCHLD, 0, 0, 0, 0);
      if (child == 0) ::_exit(0);
      attack::must_fail_with(kind.name, child, EPERM);
    }
    const std::string path = std::string("/proc/1/ns/") + kind.name;
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd >= 0) attack::must_fail(path.c_str(), ::setns(fd, 0));
    const std::string own = std::string("/proc/self/ns/") + kind.name;
    const int mine = ::open(own.c_str(), O_RDONLY | O_CLOEXEC);
    if (mine >= 0) attack::must_fail_with(own.c_str(), ::setns(mine, 0), EPERM);
  }
  const int guest = static_cast<int>(::syscall(SYS_pidfd_open, 1, 0));
  if (guest >= 0) attack::must_fail("setns by pidfd", ::setns(guest, CLONE_NEWNS | CLONE_NEWNET));
  clone_args arguments{};
  arguments.flags = CLONE_NEWUSER;
  arguments.exit_signal = SIGCHLD;
  const long child = ::syscall(SYS_clone3, &arguments, sizeof arguments);
  if (child == 0) ::_exit(0);
  attack::must_fail_with("clone3", child, ENOSYS);
  // Ordinary processes and threads are not touched by all this.
  const pid_t plain = ::fork();
  if (plain == 0) ::_exit(0);
  attack::must_not("fork does not work any more", plain < 0 || ::waitpid(plain, nullptr, 0) < 0);
  return attack::broken;
}
