#include "sluice/sandbox/local/helper/construct.h"

#include <fcntl.h>
#include <linux/keyctl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "sluice/base/core/syscalls.h"
#include "sluice/sandbox/local/helper/privileges.h"
#include "sluice/sandbox/local/helper/root.h"

namespace sluice::sandbox::local {
namespace {

// What is to be made, and what comes with it.
struct Told {
  Create create;
  Fd link, image;
};

// Until the helper says so.
Told wait_at(int gate, Report report) {
  Bytes buffer(kMaxMessage, '\0');
  std::vector<Fd> fds;
  const ssize_t n = receive_with_fds(gate, as_writable_byte_span(buffer), &fds, 0);
  if (n <= 0) ::_exit(1);  // the helper is gone, or has no use for this one
  ::close(gate);
  auto create = decode<Create>(ByteView(buffer).substr(0, static_cast<size_t>(n)));
  if (!create || fds.empty()) report.fail("understand what is to be made", EPROTO);
  fds.resize(2);
  return {std::move(*create), std::move(fds[0]), std::move(fds[1])};
}

// This process may wait for long: what belongs to other sandboxes must not live on in it.
void close_all_but(std::vector<int> kept) {
  std::sort(kept.begin(), kept.end());
  unsigned from = 3;
  for (const int fd : kept) {
    const auto number = static_cast<unsigned>(fd);
    if (number > from) ::close_range(from, number - 1, 0);
    from = number + 1;
  }
  ::close_range(from, ~0u, 0);
}

void join_groups(const std::vector<Fd>& groups, Report report) {
  // The kernel may take its time (it waits for all CPUs to notice), which is why this process joins
  // and is not joined: the helper goes on.
  for (const Fd& group : groups) {
    if (::write(group.get(), "0", 1) != 1) report.fail("join a control group", errno);
  }
}

void bring_loopback_up(Report report) {
  const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (!socket || ::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) {
    report.fail("bring the loopback interface up", errno);
  }
}

}  // namespace

void construct(const Setup& setup, const std::vector<Fd>& groups, int gate, Report report,
               int guest) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::vector<int> kept = {gate, report.fd, guest};
  for (const Fd& group : groups) kept.push_back(group.get());
  close_all_but(std::move(kept));
  join_groups(groups, report);
  ::setsid();
  // A keyring of its own instead of the engine's; where there are none, none is inherited.
  ::syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr);
  ::umask(0);

  // Its control groups are joined: what the sandbox sees begins there.
  if (::unshare(CLONE_NEWCGROUP) != 0) report.fail("make a cgroup namespace", errno);
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    report.fail("make the mounts private", errno);
  }
  Root root(setup, report);
  root.take_common_sources();
  Told told = wait_at(gate, report);
  const bool own_network = told.create.own_network;
  const int link = told.link.get();
  root.take_sources(std::move(told.create), std::move(told.image));

  become_first_user(setup, report);
  root.make();
  root.build();
  root.enter();
  if (own_network) bring_loopback_up(report);
  const char name[] = "sandbox";
  if (::sethostname(name, sizeof name - 1) != 0) report.fail("set the host's name", errno);

  // The programs stand at fixed numbers; nothing else of the helper's goes in.
  report.fd = ::fcntl(report.fd, F_DUPFD_CLOEXEC, 20);
  const int kept_guest = ::fcntl(guest, F_DUPFD_CLOEXEC, 20);
  const int kept_link = ::fcntl(link, F_DUPFD_CLOEXEC, 20);
  for (int fd = 0; fd < 3; ++fd) ::close(fd);
  for (int fd = 0; fd < 3; ++fd) {
    if (::open("/dev/null", O_RDWR) != fd) report.fail("open /dev/null", errno);
  }
  if (::dup2(kept_link, 3) != 3) report.fail("hand over the link", errno);
  ::close_range(4, 19, 0);
  if (::dup3(report.fd, 4, O_CLOEXEC) != 4 || ::dup3(kept_guest, 5, O_CLOEXEC) != 5) {
    report.fail("hand over the guest", errno);
  }
  ::close_range(6, ~0u, 0);
  report.fd = 4;

  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  ::umask(022);
  for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  drop_capabilities(setup, report);
  // Last of what a change of user would clear: with the helper goes the sandbox.
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) report.fail("PR_SET_PDEATHSIG", errno);
  pollfd helper{report.fd, 0, 0};  // an error: nobody reads the report any more
  if (::poll(&helper, 1, 0) != 0) ::_exit(1);
  install_filter(setup, report);
  char program[] = "sluice-guest";
  char* argv[] = {program, nullptr};
  char* envp[] = {nullptr};
  ::syscall(SYS_execveat, 5, "", argv, envp, AT_EMPTY_PATH);
  report.fail("run the guest", errno);
}

}  // namespace sluice::sandbox::local
