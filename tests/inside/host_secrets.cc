// host_secrets PATH MARKER: the host's files (PATH is one that every user of the host can read),
// its processes and their environments (one of which holds MARKER), by every way there is.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "attack.h"

namespace {

std::string contents(const std::string& path) {
  std::string text;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return text;
  char buffer[65536];
  ssize_t n = 0;
  while ((n = ::read(fd, buffer, sizeof buffer)) > 0 && text.size() < 1 << 20) {
    text.append(buffer, static_cast<size_t>(n));
  }
  ::close(fd);
  return text;
}

}  // namespace

int inside_host_secrets(int argc, char** argv) {
  if (argc != 3) return 77;
  const std::string path = argv[1];
  const std::string marker = argv[2];
  for (const char* prefix : {"", "/..", "/proc/1/root", "/proc/self/root", "/proc/self/root/..",
                             "/proc/self/cwd/../../../..", "/proc/1/cwd"}) {
    const std::string route = prefix + path;
    attack::must_not(route.c_str(), !contents(route).empty());
  }
  // Above the root by a directory that was opened before.
  const int top = ::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  struct stat root{}, above{};
  ::fstat(top, &root);
  ::fstatat(top, "..", &above, 0);
  attack::must_not("a directory above the root",
                   root.st_ino != above.st_ino || root.st_dev != above.st_dev);
  for (const char* file :
       {"/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssl/private", "/etc/ssh", "/root/.ssh",
        "/etc/machine-id", "/etc/npmrc", "/etc/pip.conf", "/etc/gitconfig", "/etc/environment",
        "/etc/profile.d", "/var/run/docker.sock", "/run/systemd", "/run/dbus", "/var/lib/docker",
        "/sys/class", "/boot/grub", "/home/user/.ssh"}) {
    attack::must_not(file, ::access(file, R_OK) == 0);
  }
  attack::must_not("/proc/1/environ", !contents("/proc/1/environ").empty());
  int processes = 0;
  if (DIR* proc = ::opendir("/proc")) {
    while (const dirent* entry = ::readdir(proc)) {
      if (std::atoi(entry->d_name) <= 0) continue;
      ++processes;
      const std::string own = std::string("/proc/") + entry->d_name;
      // (Not cmdline: this program's own arguments hold the marker.)
      attack::must_not("a process's environment",
                       contents(own + "/environ").find(marker) != std::string::npos);
    }
    ::closedir(proc);
  }
  attack::must_not("the host's processes", processes > 20);
  // The mounts' sources are named there; their contents are not to be had.
  attack::must_not("the host's mounts",
                   contents("/proc/self/mountinfo").find(path) != std::string::npos);
  return attack::broken;
}
