#include "sluice/sandbox/local/helper/privileges.h"

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>

namespace sluice::sandbox::local {
namespace {

// What the guest keeps.
constexpr int kKept[] = {CAP_SETUID, CAP_SETGID, CAP_KILL, CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER};

bool is_kept(int capability) {
  return std::find(std::begin(kKept), std::end(kKept), capability) != std::end(kKept);
}

}  // namespace

void become_first_user(const Setup& setup, Report report) {
  const uid_t uid = setup.mapping == Mapping::kOwn ? setup.uids[0].inside : 0;
  const gid_t gid = setup.mapping == Mapping::kOwn ? setup.gids[0].inside : 0;
  if (setup.mapping != Mapping::kOwn && ::syscall(SYS_setgroups, 0, nullptr) != 0) {
    report.fail("leave the host's groups", errno);
  }
  if (::syscall(SYS_setresgid, gid, gid, gid) != 0 ||
      ::syscall(SYS_setresuid, uid, uid, uid) != 0) {
    report.fail("become the sandbox's first user", errno);
  }
}

void drop_capabilities(const Setup& setup, Report report) {
  // With a single uid the guest is not root inside and needs none.
  const bool keeps = setup.mapping != Mapping::kOwn;
  for (int capability = 0; capability <= 63; ++capability) {
    if (keeps && is_kept(capability)) continue;
    // EINVAL: the kernel knows no more.
    if (::prctl(PR_CAPBSET_DROP, capability) != 0 && errno != EINVAL) {
      report.fail("drop a capability", errno);
    }
  }
  ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (keeps) {
    for (const int kept : kKept) data[kept / 32].permitted |= 1u << (kept % 32);
    for (auto& half : data) half.effective = half.permitted;
  }
  if (::syscall(SYS_capset, &header, data) != 0) report.fail("drop capabilities", errno);
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) report.fail("no_new_privs", errno);
}

void install_filter(const Setup& setup, Report report) {
  sock_fprog program{};
  program.len = static_cast<unsigned short>(setup.seccomp.size() / sizeof(sock_filter));
  // The kernel copies it; it asks for a pointer to non-const all the same.
  program.filter = reinterpret_cast<sock_filter*>(const_cast<char*>(setup.seccomp.data()));
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0) {
    report.fail("install the system call filter", errno);
  }
}

}  // namespace sluice::sandbox::local
