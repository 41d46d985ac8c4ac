#include "sluice/sandbox/local/helper/mounts.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sluice/sandbox/local/plan.h"

namespace sluice::sandbox::local {

Fd clone_mount(int at, const char* path, unsigned flags) {
  return Fd(static_cast<int>(
      ::syscall(SYS_open_tree, at, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags)));
}

int restrict_mount(int tree, uint8_t flags) {
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_NOSUID;
  if ((flags & Step::kReadOnly) != 0) attributes.attr_set |= MOUNT_ATTR_RDONLY;
  if ((flags & Step::kNoExec) != 0) attributes.attr_set |= MOUNT_ATTR_NOEXEC;
  if ((flags & Step::kDevices) == 0) attributes.attr_set |= MOUNT_ATTR_NODEV;
  return static_cast<int>(::syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE,
                                    &attributes, sizeof attributes));
}

int attach_mount(int tree, int at, const char* path) {
  return static_cast<int>(::syscall(SYS_move_mount, tree, "", at, path, MOVE_MOUNT_F_EMPTY_PATH));
}

NewFilesystem::NewFilesystem(const char* type)
    : fs_(static_cast<int>(::syscall(SYS_fsopen, type, FSOPEN_CLOEXEC))),
      good_(static_cast<bool>(fs_)) {}

NewFilesystem& NewFilesystem::set(const char* key, const std::string& value) {
  good_ =
      good_ && ::syscall(SYS_fsconfig, fs_.get(), FSCONFIG_SET_STRING, key, value.c_str(), 0) == 0;
  return *this;
}

NewFilesystem& NewFilesystem::set(const char* key) {
  good_ = good_ && ::syscall(SYS_fsconfig, fs_.get(), FSCONFIG_SET_FLAG, key, nullptr, 0) == 0;
  return *this;
}

Fd NewFilesystem::mount(unsigned attributes) {
  if (!good_ || ::syscall(SYS_fsconfig, fs_.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return Fd();
  }
  return Fd(static_cast<int>(::syscall(SYS_fsmount, fs_.get(), FSMOUNT_CLOEXEC, attributes)));
}

}  // namespace sluice::sandbox::local
