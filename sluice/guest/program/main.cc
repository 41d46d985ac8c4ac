// The guest as a program of its own: static, started by the sandbox's backend with the link's
// descriptors as arguments (`sluice-guest IN OUT`, by default 3 3) and nothing else of the host's.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "sluice/base/core/bytes.h"
#include "sluice/guest/program/guest.h"

namespace {

void prepare_process() {
  // Nobody of our own user may look into this process or stop it with a debugger.
  ::prctl(PR_SET_DUMPABLE, 0);
  // Where it is not pid 1 it adopts what its commands leave behind all the same.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  ::signal(SIGPIPE, SIG_IGN);
  // The standard descriptors exist, so that no pipe of a command ever gets their numbers.
  int fd = ::open("/dev/null", O_RDWR);
  while (fd >= 0 && fd <= 2) fd = ::open("/dev/null", O_RDWR);
  if (fd > 2) ::close(fd);
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
}

}  // namespace

int main(int argc, char** argv) {
  sluice::guest::program::GuestOptions options;
  if (argc == 3) {
    const auto in = sluice::parse_decimal(argv[1]);
    const auto out = sluice::parse_decimal(argv[2]);
    if (!in || !out || *in > 1024 || *out > 1024) return 2;
    options.link_in = static_cast<int>(*in);
    options.link_out = static_cast<int>(*out);
  } else if (argc != 1) {
    return 2;
  }
  ::fcntl(options.link_in, F_SETFD, FD_CLOEXEC);
  ::fcntl(options.link_out, F_SETFD, FD_CLOEXEC);
  prepare_process();
  sluice::guest::program::Guest guest(options);
  return static_cast<int>(guest.run());
}
