// Typing into somebody's terminal (TIOCSTI and its kin): as a sandbox that shares one would let.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#include "attack.h"

int inside_terminal(int, char**) {
  attack::must_fail("open the controlling terminal", ::open("/dev/tty", O_RDWR | O_CLOEXEC));
  // A terminal of our own is to be had, and is ours alone.
  const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  attack::must_not("no terminals at all",
                   terminal < 0 || ::grantpt(terminal) != 0 || ::unlockpt(terminal) != 0);
  const char* name = terminal < 0 ? nullptr : ::ptsname(terminal);
  const int line = name == nullptr ? -1 : ::open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
  attack::must_not("the terminal's other end is missing", line < 0);
  char letter = 'x';
  for (const int fd : {0, 1, 2, line}) {
    if (fd < 0) continue;
    attack::must_fail("TIOCSTI", ::ioctl(fd, TIOCSTI, &letter));
    // Beyond 32 bits the kernel does not look.
    attack::must_fail("TIOCSTI in disguise",
                      ::syscall(SYS_ioctl, fd, uint64_t{TIOCSTI} | uint64_t{1} << 32, &letter));
    attack::must_fail("TIOCLINUX", ::ioctl(fd, TIOCLINUX, &letter));
  }
  for (const char* path : {"/dev/tty0", "/dev/tty1", "/dev/console", "/dev/vcs", "/dev/pts/1"}) {
    attack::must_fail(path, ::open(path, O_RDWR | O_NOCTTY | O_CLOEXEC));
  }
  return attack::broken;
}
