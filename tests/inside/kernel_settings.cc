// Files of /proc and /sys by which the host's root changes the kernel, or makes it run programs.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attack.h"

int inside_kernel_settings(int, char**) {
  for (const char* path : {"/proc/sys/kernel/core_pattern",
                           "/proc/sys/kernel/modprobe",
                           "/proc/sys/kernel/hotplug",
                           "/proc/sys/kernel/sysrq",
                           "/proc/sys/kernel/randomize_va_space",
                           "/proc/sys/kernel/poweroff_cmd",
                           "/proc/sys/kernel/ns_last_pid",
                           "/proc/sys/vm/overcommit_memory",
                           "/proc/sys/fs/binfmt_misc/register",
                           "/proc/sys/net/ipv4/ip_forward",
                           "/proc/sys/user/max_user_namespaces",
                           "/proc/sysrq-trigger",
                           "/proc/irq/default_smp_affinity",
                           "/sys/kernel/uevent_helper",
                           "/sys/fs/cgroup/release_agent",
                           "/sys/power/state",
                           "/sys/kernel/security/apparmor/.load",
                           "/dev/mem",
                           "/dev/kmem",
                           "/dev/port",
                           "/dev/kmsg",
                           "/dev/sda",
                           "/dev/vda",
                           "/dev/kvm",
                           "/dev/fuse",
                           "/dev/net/tun",
                           "/dev/loop-control"}) {
    for (const int flags : {O_WRONLY, O_RDWR}) {
      const int fd = ::open(path, flags | O_CLOEXEC);
      attack::must_fail(path, fd);
      if (fd >= 0) ::close(fd);
    }
    attack::must_fail(path, ::chmod(path, 0666));
  }
  // What tells the kernel's memory or keys.
  for (const char* path : {"/proc/kcore", "/proc/kallsyms", "/proc/keys", "/proc/timer_list",
                           "/proc/kpagecount", "/proc/vmallocinfo"}) {
    const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
    char text[4096];
    const ssize_t n = fd < 0 ? -1 : ::read(fd, text, sizeof text - 1);
    if (n > 0) {
      text[n] = '\0';
      // Symbols without their addresses tell nothing.
      const bool harmless = std::strncmp(text, "0000000000000000 ", 17) == 0;
      attack::must_not(path, !harmless);
    }
    if (fd >= 0) ::close(fd);
  }
  struct stat st{};
  attack::must_not("a /sys with something in it", ::stat("/sys/kernel", &st) == 0);
  return attack::broken;
}
