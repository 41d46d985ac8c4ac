// Calls that reach into parts of the kernel nobody inside needs, and ways to call them by other
// names (x32, 32-bit).
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <unistd.h>

#include <cstdint>
#include <ctime>

#include "attack.h"

int inside_system_calls(int, char**) {
  using attack::must_fail_with;
  bpf_attr program{};
  must_fail_with("bpf", ::syscall(SYS_bpf, BPF_PROG_LOAD, &program, sizeof program), EPERM);
  perf_event_attr event{};
  event.size = sizeof event;
  must_fail_with("perf_event_open", ::syscall(SYS_perf_event_open, &event, 0, -1, -1, 0), EPERM);
  io_uring_params ring{};
  must_fail_with("io_uring_setup", ::syscall(SYS_io_uring_setup, 8, &ring), ENOSYS);
  must_fail_with("io_uring_enter", ::syscall(SYS_io_uring_enter, 3, 1, 0, 0, nullptr, 0), ENOSYS);
  must_fail_with("userfaultfd", ::syscall(SYS_userfaultfd, 1), EPERM);
  must_fail_with("add_key", ::syscall(SYS_add_key, "user", "x", "y", 1, -3), EPERM);
  must_fail_with("keyctl", ::syscall(SYS_keyctl, 0, -3, 0, 0, 0), EPERM);
  must_fail_with("request_key", ::syscall(SYS_request_key, "user", "x", nullptr, -3), EPERM);
  char handle[64] = {};
  must_fail_with("open_by_handle_at", ::syscall(SYS_open_by_handle_at, AT_FDCWD, handle, O_RDONLY),
                 EPERM);
  must_fail_with("kexec_load", ::syscall(SYS_kexec_load, 0, 0, nullptr, 0), EPERM);
  must_fail_with("kexec_file_load", ::syscall(SYS_kexec_file_load, -1, -1, 0, nullptr, 0), EPERM);
  must_fail_with("init_module", ::syscall(SYS_init_module, nullptr, 0, ""), EPERM);
  must_fail_with("finit_module", ::syscall(SYS_finit_module, -1, "", 0), EPERM);
  must_fail_with("delete_module", ::syscall(SYS_delete_module, "x", 0), EPERM);
  must_fail_with("reboot", ::syscall(SYS_reboot, 0xfee1dead, 672274793, 0, nullptr), EPERM);
  must_fail_with("swapon", ::syscall(SYS_swapon, "/tmp/x", 0), EPERM);
  must_fail_with("acct", ::syscall(SYS_acct, nullptr), EPERM);
  must_fail_with("syslog", ::syscall(SYS_syslog, 3, handle, 64), EPERM);
  const timeval now{};
  must_fail_with("settimeofday", ::syscall(SYS_settimeofday, &now, nullptr), EPERM);
  const timespec then{};
  must_fail_with("clock_settime", ::syscall(SYS_clock_settime, CLOCK_REALTIME, &then), EPERM);
  must_fail_with("fanotify_init", ::syscall(SYS_fanotify_init, 0, 0), EPERM);
  must_fail_with("quotactl", ::syscall(SYS_quotactl, 0, nullptr, 0, nullptr), EPERM);
#ifdef __x86_64__
  must_fail_with("iopl", ::syscall(SYS_iopl, 3), EPERM);
  must_fail_with("ioperm", ::syscall(SYS_ioperm, 0, 1, 1), EPERM);
  must_fail_with("modify_ldt", ::syscall(SYS_modify_ldt, 0, nullptr, 0), ENOSYS);
  // x32: the same calls by numbers with a bit more.
  constexpr long kX32 = 0x40000000;
  must_fail_with("x32 getpid", ::syscall(kX32 | SYS_getpid), ENOSYS);
  must_fail_with("x32 bpf", ::syscall(kX32 | SYS_bpf, BPF_PROG_LOAD, &program, sizeof program),
                 ENOSYS);
  // The 32-bit gate: getpid is 20 there, bpf 357.
  for (const long number : {20L, 357L}) {
    long result = 0;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(number), "b"(0), "c"(0), "d"(0)
                     : "memory", "r8", "r9", "r10", "r11");
    attack::must_not("a 32-bit system call", static_cast<int32_t>(result) != -ENOSYS);
  }
#endif
  return attack::broken;
}
