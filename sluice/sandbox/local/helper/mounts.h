// Mounts by descriptor (fsopen(2), open_tree(2), mount_setattr(2), move_mount(2)): made,
// restricted, and only then attached where somebody sees them.
//
// No state; any thread. Links only base/core.
#pragma once

#include <cstdint>
#include <string>

#include "sluice/base/core/fd.h"

namespace sluice::sandbox::local {

// A copy of the mount at `path`, attached nowhere yet; none, with errno, if that fails. `flags`:
// AT_RECURSIVE for all below it too, AT_EMPTY_PATH where `at` itself is meant.
Fd clone_mount(int at, const char* path, unsigned flags);

// 0, or -1 with errno. `flags` are those of a Step.
int restrict_mount(int tree, uint8_t flags);
int attach_mount(int tree, int at, const char* path);

// A filesystem that is being configured.
class NewFilesystem {
 public:
  explicit NewFilesystem(const char* type);
  NewFilesystem& set(const char* key, const std::string& value);
  NewFilesystem& set(const char* key);
  // Attached nowhere yet; none, with errno, if anything failed.
  Fd mount(unsigned attributes);

 private:
  Fd fs_;
  bool good_;
};

}  // namespace sluice::sandbox::local
