// daemons FILE: leaves behind what tries to outlive its command: forked twice, in a session of its
// own, deaf to every signal that can be ignored, with another name, and each watching the others.
// They append to FILE while they live.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "attack.h"

int inside_daemons(int argc, char** argv) {
  if (argc != 2) return 77;
  for (int i = 0; i < 5; ++i) {
    if (::fork() != 0) continue;
    ::setsid();
    if (::fork() != 0) ::_exit(0);
    ::setsid();
    ::prctl(PR_SET_NAME, "kworker/0:1");
    ::prctl(PR_SET_PDEATHSIG, 0);
    for (int number = 1; number < 65; ++number) ::signal(number, SIG_IGN);
    for (int fd = 0; fd < 3; ++fd) ::close(fd);
    for (;;) {
      const int file = ::open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
      [[maybe_unused]] const auto n = ::write(file, "alive\n", 6);
      ::close(file);
      // And again, so that there is always a fresh process.
      if (::fork() != 0) ::_exit(0);
      ::setsid();
      ::usleep(2'000);
    }
  }
  while (::wait(nullptr) > 0) {
  }
  std::puts("left");
  return 0;
}
