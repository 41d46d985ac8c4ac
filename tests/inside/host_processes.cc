// host_processes PID: signalling, tracing, reading or slowing processes outside, of which PID is
// one.
#include <fcntl.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <string>

#include "attack.h"

int inside_host_processes(int argc, char** argv) {
  if (argc != 2) return 77;
  using attack::must_fail;
  const pid_t outside = std::atoi(argv[1]);
  // A number that is also one of ours would prove nothing.
  if (outside < 1000) return 77;
  must_fail("signal it", ::kill(outside, 0));
  must_fail("signal its group", ::kill(-outside, 0));
  must_fail("tgkill", ::syscall(SYS_tgkill, outside, outside, 0));
  must_fail("ptrace", ::ptrace(PTRACE_ATTACH, outside, nullptr, nullptr));
  must_fail("a handle", ::syscall(SYS_pidfd_open, outside, 0));
  struct stat st{};
  must_fail("/proc/PID", ::stat(("/proc/" + std::string(argv[1])).c_str(), &st));
  char memory[16];
  iovec here{memory, sizeof memory};
  iovec there{reinterpret_cast<void*>(0x400000), sizeof memory};
  must_fail("its memory", ::process_vm_readv(outside, &here, 1, &there, 1, 0));
  rlimit limit{};
  must_fail("its limits", ::prlimit(outside, RLIMIT_NOFILE, nullptr, &limit));
  must_fail("its priority", ::setpriority(PRIO_PROCESS, static_cast<id_t>(outside), 19));
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(0, &one);
  must_fail("its processors", ::sched_setaffinity(outside, sizeof one, &one));
  // Real-time scheduling starves everybody else; so does a higher priority.
  sched_param first{};
  first.sched_priority = 99;
  must_fail("real-time scheduling", ::sched_setscheduler(0, SCHED_FIFO, &first));
  must_fail("a higher priority", ::setpriority(PRIO_PROCESS, 0, -20));
  return attack::broken;
}
