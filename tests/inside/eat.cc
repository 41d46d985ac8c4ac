// eat memory|processes|disk|inodes|files [MOST]: takes as much as it gets, at most MOST (MiB, or
// pieces), and prints how much that was.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "attack.h"

namespace {

constexpr size_t kMiB = 1024 * 1024;

long eat_memory(long most) {
  long got = 0;
  for (; got < most; ++got) {
    void* piece = ::mmap(nullptr, kMiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (piece == MAP_FAILED) break;
    std::memset(piece, 1, kMiB);
  }
  return got;
}

long eat_processes(long most) {
  long got = 0;
  for (; got < most; ++got) {
    const pid_t child = ::fork();
    if (child < 0) break;
    if (child == 0) {
      ::pause();
      ::_exit(0);
    }
  }
  ::signal(SIGTERM, SIG_IGN);
  ::kill(0, SIGTERM);
  return got;
}

long eat_disk(long most, const char* directory) {
  static char piece[kMiB];
  std::memset(piece, 'd', sizeof piece);
  const std::string path = std::string(directory) + "/eaten";
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  long got = 0;
  while (got < most && ::write(file, piece, sizeof piece) == static_cast<ssize_t>(sizeof piece)) {
    ++got;
  }
  ::unlink(path.c_str());
  return got;
}

long eat_inodes(long most) {
  long got = 0;
  for (; got < most; ++got) {
    const std::string path = "/tmp/inode" + std::to_string(got);
    const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) break;
    ::close(file);
  }
  for (long i = 0; i < got; ++i) ::unlink(("/tmp/inode" + std::to_string(i)).c_str());
  return got;
}

long eat_files(long most) {
  long got = 0;
  while (got < most && ::open("/dev/null", O_RDONLY) >= 0) ++got;
  return got;
}

}  // namespace

int inside_eat(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const long most = argc > 2 ? std::atol(argv[2]) : 1'000'000;
  long got = -1;
  if (what == "memory") got = eat_memory(most);
  if (what == "processes") got = eat_processes(most);
  if (what == "disk") got = eat_disk(most, argc > 3 ? argv[3] : "/tmp");
  if (what == "inodes") got = eat_inodes(most);
  if (what == "files") got = eat_files(most);
  std::printf("%ld\n", got);
  return got < 0 ? 77 : 0;
}
