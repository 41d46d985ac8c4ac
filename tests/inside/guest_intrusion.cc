// Reading, stopping, ending or changing the guest, which reports how the others end.
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <string>

#include "attack.h"

int inside_guest_intrusion(int, char**) {
  using attack::must_fail;
  const pid_t guest = 1;
  must_fail("ptrace attach", ::ptrace(PTRACE_ATTACH, guest, nullptr, nullptr));
  must_fail("ptrace seize", ::ptrace(PTRACE_SEIZE, guest, nullptr, nullptr));
  for (const char* file : {"environ", "mem", "maps", "auxv", "syscall", "stack", "personality",
                           "pagemap", "io", "clear_refs", "timerslack_ns"}) {
    const std::string path = std::string("/proc/1/") + file;
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    char byte = 0;
    // Some files are opened by anyone and refuse the reading, or are empty to them.
    const long n = fd < 0 ? -1 : ::read(fd, &byte, 1);
    if (n != 0) must_fail(path.c_str(), n);
    if (fd >= 0) ::close(fd);
  }
  char target[256];
  for (const char* link : {"exe", "cwd", "root", "ns/user", "ns/net"}) {
    const std::string path = std::string("/proc/1/") + link;
    must_fail(path.c_str(), ::readlink(path.c_str(), target, sizeof target));
    struct stat st{};
    must_fail(path.c_str(), ::stat(path.c_str(), &st));
  }
  if (::getuid() != 0) {
    // The sandbox's root owns these. It may see how many there are and offer the guest to the
    // kernel as the first to be killed for memory: it only ends itself.
    must_fail("/proc/1/fd", ::open("/proc/1/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    must_fail("/proc/1/oom_score_adj", ::open("/proc/1/oom_score_adj", O_WRONLY | O_CLOEXEC));
  }
  must_fail("/proc/1/fd/3", ::open("/proc/1/fd/3", O_RDWR | O_CLOEXEC));

  char memory[16];
  iovec here{memory, sizeof memory};
  iovec there{reinterpret_cast<void*>(0x400000), sizeof memory};
  must_fail("process_vm_readv", ::process_vm_readv(guest, &here, 1, &there, 1, 0));
  must_fail("process_vm_writev", ::process_vm_writev(guest, &here, 1, &there, 1, 0));
  must_fail("kcmp", ::syscall(SYS_kcmp, guest, ::getpid(), KCMP_FILE, 0, 0));
  const int handle = static_cast<int>(::syscall(SYS_pidfd_open, guest, 0));
  if (handle >= 0) {
    must_fail("pidfd_getfd", ::syscall(SYS_pidfd_getfd, handle, 3, 0));
    const iovec range{reinterpret_cast<void*>(0x400000), 4096};
    must_fail("process_madvise", ::syscall(SYS_process_madvise, handle, &range, 1, 4, 0));
  }
  rlimit none{0, 0};
  must_fail("prlimit", ::prlimit(guest, RLIMIT_NOFILE, &none, nullptr));
  // To make it wait for the processor for ever.
  const sched_param idle{};
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(0, &one);
  must_fail("sched_setscheduler", ::sched_setscheduler(guest, SCHED_IDLE, &idle));
  must_fail("sched_setaffinity", ::sched_setaffinity(guest, sizeof one, &one));
  must_fail("setpriority", ::setpriority(PRIO_PROCESS, static_cast<id_t>(guest), 19));
  must_fail("ioprio_set", static_cast<int>(::syscall(SYS_ioprio_set, 1, guest, 3 << 13)));
  if (guest == 1) {
    must_fail("setpriority of a group", ::setpriority(PRIO_PGRP, 1, 19));
  }
  // Signals may be sent where the uid is the same; none may have an effect. Whoever runs this asks
  // the guest afterwards.
  for (int number = 1; number <= 64; ++number) {
    ::kill(guest, number);
    ::syscall(SYS_tgkill, guest, guest, number);
  }
  ::usleep(20'000);
  FILE* status = std::fopen("/proc/1/stat", "r");
  char state = 0;
  attack::must_not("the guest is gone",
                   status == nullptr || std::fscanf(status, "%*d (%*[^)]) %c", &state) != 1);
  attack::must_not("the guest was stopped", state == 'T' || state == 't' || state == 'Z');
  return attack::broken;
}
