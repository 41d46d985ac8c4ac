// set_user_id: becoming root by a program with the set-user-id bit, the system's or one's own.
#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "attack.h"

namespace {

// What a copy of this program with the bit says of itself.
int run(const char* path) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::execl(path, "set_user_id", "--who", nullptr);
    ::_exit(0);  // refused
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 0;
}

}  // namespace

int inside_set_user_id(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--who") == 0) return ::geteuid() != ::getuid() ? 1 : 0;
  for (const char* path : {"/", "/tmp", "/usr", "/home/user", "/dev/shm", "/etc"}) {
    struct statvfs info{};
    if (::statvfs(path, &info) != 0) continue;
    attack::must_not("a mount with set-user-id programs", (info.f_flag & ST_NOSUID) == 0);
    attack::must_not("a mount with devices",
                     (info.f_flag & ST_NODEV) == 0 && std::strcmp(path, "/dev") != 0);
  }
  const std::string copy = "/tmp/set-user-id-" + std::to_string(::getuid());
  const int from = ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  const int to = ::open(copy.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
  struct stat st{};
  if (from < 0 || to < 0 || ::fstat(from, &st) != 0) return 77;
  [[maybe_unused]] const auto n = ::sendfile(to, from, nullptr, static_cast<size_t>(st.st_size));
  ::close(to);
  ::chmod(copy.c_str(), 06755);
  attack::must_not("a set-user-id program's owner", run(copy.c_str()) == 1);
  // One that root of the sandbox left for the others.
  for (const char* other : {"/tmp/set-user-id-0", "/tmp/set-user-id-1000"}) {
    attack::must_not("another's set-user-id program", run(other) == 1);
  }
  return attack::broken;
}
