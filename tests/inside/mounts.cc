// Changing the file tree, by the old calls and the new, and making devices.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "attack.h"

int inside_mounts(int, char**) {
  using attack::must_fail;
  ::mkdir("/tmp/m", 0777);
  must_fail("mount tmpfs", ::mount("none", "/tmp/m", "tmpfs", 0, nullptr));
  must_fail("mount proc", ::mount("proc", "/tmp/m", "proc", 0, nullptr));
  must_fail("mount sysfs", ::mount("sysfs", "/tmp/m", "sysfs", 0, nullptr));
  must_fail("mount cgroup2", ::mount("cgroup2", "/tmp/m", "cgroup2", 0, nullptr));
  must_fail("bind", ::mount("/usr", "/tmp/m", nullptr, MS_BIND, nullptr));
  must_fail("remount /usr", ::mount(nullptr, "/usr", nullptr, MS_REMOUNT | MS_BIND, nullptr));
  must_fail("remount /", ::mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND, nullptr));
  must_fail("make shared", ::mount(nullptr, "/", nullptr, MS_SHARED | MS_REC, nullptr));
  must_fail("umount /proc/sys", ::umount2("/proc/sys", MNT_DETACH));
  must_fail("umount /proc/kcore", ::umount2("/proc/kcore", MNT_DETACH));
  must_fail("umount /", ::umount2("/", MNT_DETACH));
  must_fail("pivot_root", ::syscall(SYS_pivot_root, "/tmp", "/tmp"));
  must_fail("chroot", ::chroot("/tmp"));
  must_fail("open_tree", ::syscall(SYS_open_tree, AT_FDCWD, "/usr", 1));
  must_fail("fsopen", ::syscall(SYS_fsopen, "tmpfs", 0));
  must_fail("fspick", ::syscall(SYS_fspick, AT_FDCWD, "/", 0));
  must_fail("fsmount", ::syscall(SYS_fsmount, 0, 0, 0));
  must_fail("move_mount", ::syscall(SYS_move_mount, AT_FDCWD, "/usr", AT_FDCWD, "/tmp/m", 0));
  char attributes[32] = {};
  must_fail("mount_setattr", ::syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, attributes, 32));
  must_fail("mknod sda", ::mknod("/tmp/disk", S_IFBLK | 0666, makedev(8, 0)));
  must_fail("mknod vda", ::mknod("/home/user/disk", S_IFBLK | 0666, makedev(254, 0)));
  must_fail("mknod mem", ::mknod("/dev/shm/mem", S_IFCHR | 0666, makedev(1, 1)));
  for (const char* path :
       {"/usr/x", "/usr/bin/x", "/bin/sh", "/etc/ssl/certs/x", "/proc/x", "/etc/alternatives/x"}) {
    const int fd = ::open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    must_fail(path, fd);
    if (fd >= 0) ::close(fd);
  }
  return attack::broken;
}
