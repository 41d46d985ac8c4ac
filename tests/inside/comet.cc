// comet FILE: one process after the other, each of which makes the next and ends at once, so that a
// walk through /proc finds none of them. For six seconds, and behind the first of these they write
// to FILE, which the first opened.
#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "attack.h"

namespace {

constexpr int kStack = 64 * 1024;
alignas(16) char stacks[16][kStack];
int file = -1;
timespec began;

int fly(void* number) {
  const auto mine = reinterpret_cast<unsigned long>(number);
  timespec now{};
  if (mine % 256 == 0 && ::clock_gettime(CLOCK_MONOTONIC, &now) == 0) {
    const long seconds = now.tv_sec - began.tv_sec;
    if (seconds > 6) ::_exit(0);
    if (seconds >= 1) {
      [[maybe_unused]] const auto n = ::pwrite(file, "comet\n", 6, 0);
    }
  }
  ::syscall(SYS_setsid);
  for (int tries = 0; tries < 1000; ++tries) {
    // They share the memory, and nobody copies it; sixteen stacks later the first is free.
    if (::clone(fly, stacks[(mine + 1) % 16] + kStack, CLONE_VM | CLONE_FS | CLONE_FILES,
                reinterpret_cast<void*>(mine + 1)) > 0) {
      break;
    }
  }
  ::_exit(0);
}

}  // namespace

int inside_comet(int argc, char** argv) {
  if (argc != 2) return 77;
  file = ::open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  ::clock_gettime(CLOCK_MONOTONIC, &began);
  ::signal(SIGCHLD, SIG_IGN);
  std::puts("up");
  std::fflush(stdout);
  const int nowhere = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd < 3; ++fd) ::dup2(nowhere, fd);
  return fly(nullptr);
}
