#include "sluice/sandbox/local/seccomp.h"

#include <linux/netlink.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <utility>

#include "sluice/base/core/fd.h"

namespace sluice::sandbox::local {
namespace {

// Not in every kernel header of the machines this is built on.
constexpr uint64_t kTiocsti = 0x5412;
constexpr uint64_t kTioclinux = 0x541C;
constexpr uint64_t kTiocsetd = 0x5423;
// Arguments of int type arrive in 64-bit registers whose upper half the kernel ignores: a filter
// that compared it would be passed by setting a bit there.
constexpr uint64_t kInt = 0xffffffff;

struct Group {
  const char* reason;
  int error;
  std::initializer_list<const char*> calls;
};

const Group kDenied[] = {
    {"The file tree is made once, by the helper. With user namespaces refused too, nobody inside "
     "has a mount namespace of his own to change.",
     EPERM,
     {"mount", "umount", "umount2", "pivot_root", "open_tree", "move_mount", "fsopen", "fsconfig",
      "fsmount", "fspick", "mount_setattr", "open_tree_attr"}},
    {"Namespaces: within a new user namespace every capability is to be had again, and with it "
     "most of the kernel's code that has ever been exploited (nf_tables, overlayfs, ...).",
     EPERM,
     {"setns"}},
    {"Programs in the kernel and its probes.", EPERM, {"bpf", "perf_event_open"}},
    {"Keyrings know no namespaces of users or processes.",
     EPERM,
     {"add_key", "request_key", "keyctl"}},
    {"io_uring does what other system calls do, past this filter. ENOSYS, so that programs take "
     "their other way.",
     ENOSYS,
     {"io_uring_setup", "io_uring_enter", "io_uring_register"}},
    {"Page faults handled by a program stretch races in the kernel at will.",
     EPERM,
     {"userfaultfd"}},
    {"Files by inode number, past every directory's permissions and every mount.",
     EPERM,
     {"open_by_handle_at"}},
    {"The machine itself: kernels, modules, clocks, swap, accounting, its log and its power. All "
     "need capabilities that nobody inside has; their code need not be reachable either.",
     EPERM,
     {"kexec_load",   "kexec_file_load", "init_module",   "finit_module", "delete_module",
      "reboot",       "swapon",          "swapoff",       "acct",         "syslog",
      "settimeofday", "clock_settime",   "clock_adjtime", "adjtimex",     "stime",
      "iopl",         "ioperm",          "quotactl",      "quotactl_fd",  "vhangup",
      "nfsservctl",   "lookup_dcookie",  "fanotify_init"}},
    {"Other processes' memory placement: a timing tool and nothing that work needs.",
     EPERM,
     {"migrate_pages", "move_pages"}},
    {"Interfaces that only old programs ask for, and that have had holes.",
     ENOSYS,
     {"modify_ldt", "uselib", "ustat", "sysfs", "_sysctl", "create_module", "query_module",
      "get_kernel_syms", "vm86", "vm86old", "remap_file_pages"}},
    {"clone3 keeps its flags in memory, where no filter sees them. ENOSYS: the C library then "
     "takes clone, whose flags are checked below.",
     ENOSYS,
     {"clone3"}},
};

// The guest shares its uid with the commands: they must not reach into it.
const Group kDeniedWithOneUid = {
    "Other processes' memory and registers.",
    EPERM,
    {"ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd"}};

// Address families of the network that programs have a use for. All others (vsock to the
// hypervisor, the kernel's crypto, packets, Bluetooth, ...) are code that nobody needs to reach.
constexpr int kFamilies[] = {AF_UNSPEC, AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};
constexpr int kLastFamily = 63;  // beyond every family there is (AF_MAX is 46)

constexpr uint64_t kNamespaceFlags[] = {CLONE_NEWUSER,   CLONE_NEWNS,  CLONE_NEWPID,
                                        CLONE_NEWNET,    CLONE_NEWIPC, CLONE_NEWUTS,
                                        CLONE_NEWCGROUP, 0x80 /*time*/};

using Filter = std::unique_ptr<void, void (*)(scmp_filter_ctx)>;

int deny(const Filter& filter, const Group& group) {
  for (const char* name : group.calls) {
    const int call = ::seccomp_syscall_resolve_name(name);
    // Unknown here: then it is not among this library's names for any machine.
    if (call == __NR_SCMP_ERROR) continue;
    const int e = ::seccomp_rule_add(filter.get(),
                                     SCMP_ACT_ERRNO(static_cast<uint32_t>(group.error)), call, 0);
    // What this architecture never had cannot be called either.
    if (e < 0 && e != -EDOM) return e;
  }
  return 0;
}

int deny_if(const Filter& filter, int error, const char* name, const scmp_arg_cmp& condition) {
  return ::seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(static_cast<uint32_t>(error)),
                            ::seccomp_syscall_resolve_name(name), 1, condition);
}

// Whoever has its uid may make the guest, which is process 1, wait for the processor for ever.
int spare_guest(const Filter& filter) {
  const auto guest = SCMP_A0(SCMP_CMP_MASKED_EQ, kInt, 1);
  for (const char* call :
       {"sched_setscheduler", "sched_setparam", "sched_setattr", "sched_setaffinity"}) {
    if (const int e = deny_if(filter, EPERM, call, guest)) return e;
  }
  // By process, group or user: the last of these is always the guest's.
  constexpr int kIoprioWhoUser = 3;
  for (const auto& [call, user] :
       {std::pair("setpriority", int{PRIO_USER}), std::pair("ioprio_set", kIoprioWhoUser)}) {
    const auto whole_user = SCMP_A0(SCMP_CMP_MASKED_EQ, kInt, static_cast<scmp_datum_t>(user));
    if (const int e = deny_if(filter, EPERM, call, whole_user)) return e;
    if (const int e = deny_if(filter, EPERM, call, SCMP_A1(SCMP_CMP_MASKED_EQ, kInt, 1))) return e;
  }
  return 0;
}

int add_rules(const Filter& filter, Uids uids) {
  for (const Group& group : kDenied) {
    if (const int e = deny(filter, group)) return e;
  }
  if (uids == Uids::kOne) {
    if (const int e = deny(filter, kDeniedWithOneUid)) return e;
  }
  if (const int e = spare_guest(filter)) return e;
  for (const uint64_t flag : kNamespaceFlags) {
    // The first argument of both, here and on arm64. (Of clone the low byte is a signal: there the
    // bit of time namespaces means nothing.)
    if (flag != 0x80) {
      if (const int e = deny_if(filter, EPERM, "clone", SCMP_A0(SCMP_CMP_MASKED_EQ, flag, flag))) {
        return e;
      }
    }
    if (const int e = deny_if(filter, EPERM, "unshare", SCMP_A0(SCMP_CMP_MASKED_EQ, flag, flag))) {
      return e;
    }
  }
  // Typing into the terminal of whoever started us; pasting into it; line disciplines.
  for (const uint64_t request : {kTiocsti, kTioclinux, kTiocsetd}) {
    if (const int e = deny_if(filter, EPERM, "ioctl", SCMP_A1(SCMP_CMP_MASKED_EQ, kInt, request))) {
      return e;
    }
  }
  // Limits of other processes: where the uids are equal, no other check keeps them from the guest.
  if (const int e = deny_if(filter, EPERM, "prlimit64", SCMP_A0(SCMP_CMP_NE, 0, 0))) return e;
  for (int family = 0; family <= kLastFamily; ++family) {
    bool allowed = false;
    for (const int good : kFamilies) allowed = allowed || good == family;
    if (allowed) continue;
    const auto is_family = SCMP_A0(SCMP_CMP_MASKED_EQ, kInt, static_cast<scmp_datum_t>(family));
    if (const int e = deny_if(filter, EAFNOSUPPORT, "socket", is_family)) return e;
    if (const int e = deny_if(filter, EAFNOSUPPORT, "socketpair", is_family)) return e;
  }
  // Any higher bit of the family: no such family, whatever the kernel makes of it later.
  for (uint64_t bit = kLastFamily + 1; bit <= kInt; bit <<= 1) {
    if (const int e =
            deny_if(filter, EAFNOSUPPORT, "socket", SCMP_A0(SCMP_CMP_MASKED_EQ, bit, bit))) {
      return e;
    }
  }
  // Of netlink only the one that tells of interfaces and addresses (getifaddrs).
  for (uint64_t bit = 1; bit <= kInt; bit <<= 1) {
    const int e = ::seccomp_rule_add(
        filter.get(), SCMP_ACT_ERRNO(EAFNOSUPPORT), ::seccomp_syscall_resolve_name("socket"), 2,
        SCMP_A0(SCMP_CMP_MASKED_EQ, kInt, AF_NETLINK), SCMP_A2(SCMP_CMP_MASKED_EQ, bit, bit));
    if (e != 0) return e;
  }
  static_assert(NETLINK_ROUTE == 0);
  return 0;
}

Error filter_error(const char* what, int negative_errno) {
  return errno_error(std::string("seccomp filter: ") + what, -negative_errno);
}

}  // namespace

Result<Bytes> make_filter(Uids uids) {
  const Filter filter(::seccomp_init(SCMP_ACT_ALLOW),
                      [](scmp_filter_ctx f) { ::seccomp_release(f); });
  if (!filter) return Error(ErrorCode::kInternal, "seccomp filter: out of memory");
  // 32-bit calls and x32 come in by other numbers than those listed: none of them.
  if (const int e =
          ::seccomp_attr_set(filter.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(ENOSYS))) {
    return filter_error("other architectures", e);
  }
  if (const int e = add_rules(filter, uids)) return filter_error("rules", e);
  // A tree instead of a list: every system call walks it.
  if (const int e = ::seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2)) {
    return filter_error("optimisation", e);
  }
  const Fd output(::memfd_create("sluice-seccomp", MFD_CLOEXEC));
  if (!output) return errno_error("memfd_create", errno);
  if (const int e = ::seccomp_export_bpf(filter.get(), output.get()))
    return filter_error("export", e);
  if (::lseek(output.get(), 0, SEEK_SET) != 0) return errno_error("seccomp filter", errno);
  return read_to_end(output.get(), 64 * 1024);
}

}  // namespace sluice::sandbox::local
