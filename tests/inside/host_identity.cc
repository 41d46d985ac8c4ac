// Host uid 0 behind an inside uid, or capabilities, are the silent failure of a sandbox that root
// made: everything else then only looks isolated.
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

#include "attack.h"

namespace {

void check_map(const char* path) {
  FILE* file = std::fopen(path, "r");
  unsigned inside = 0, outside = 0, count = 0;
  bool any = false;
  while (file != nullptr && std::fscanf(file, "%u %u %u", &inside, &outside, &count) == 3) {
    any = true;
    attack::must_not("an id map that holds host id 0", outside == 0);
    attack::must_not("an id map of the whole host", count > 65'536);
  }
  attack::must_not("no id map at all", !any);
  if (file != nullptr) std::fclose(file);
}

}  // namespace

int inside_host_identity(int, char**) {
  check_map("/proc/self/uid_map");
  check_map("/proc/self/gid_map");
  // CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID: what the guest needs.
  constexpr uint64_t kGuest = 0xeb;
  for (int capability = 0; capability < 64; ++capability) {
    if ((kGuest >> capability & 1) != 0) continue;
    attack::must_not("a capability in the bounding set", ::prctl(PR_CAPBSET_READ, capability) == 1);
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  ::syscall(SYS_capget, &header, data);
  const uint64_t permitted = data[0].permitted | uint64_t{data[1].permitted} << 32;
  const uint64_t inheritable = data[0].inheritable | uint64_t{data[1].inheritable} << 32;
  attack::must_not("inheritable capabilities", inheritable != 0);
  attack::must_not("capabilities of an ordinary user", ::getuid() != 0 && permitted != 0);
  attack::must_not("more capabilities than the guest's", (permitted & ~kGuest) != 0);
  attack::must_not("privileges by set-user-id programs",
                   ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1);
  if (::getuid() != 0) {
    attack::must_fail("setuid(0)", ::setuid(0));
    attack::must_fail("setgid(0)", ::setgid(0));
    const gid_t group = 0;
    attack::must_fail("setgroups", ::syscall(SYS_setgroups, 1, &group));
  }
  // A uid that the map does not hold, and host root by number.
  attack::must_fail("setuid(100000)", ::setuid(100'000));
  return attack::broken;
}
