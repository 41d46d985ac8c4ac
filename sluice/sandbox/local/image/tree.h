// Tree: the files of an image while its layers are laid over each other, in a directory that is
// nobody else's.
//
// Entries come from a stranger: no path goes through a link, nothing is made but directories, plain
// files and links, and no file keeps a set-user-id bit, which would be root's on the host.
// Blocking; one thread.
#pragma once

#include <map>
#include <string>
#include <unordered_set>

#include "sluice/base/core/fd.h"
#include "sluice/base/core/result.h"
#include "sluice/sandbox/local/image/tarball.h"

namespace sluice::sandbox::local {

enum class Owners : uint8_t {
  kKept,  // as the image has them, by root
  kOurs,  // all is ours, and stays removable by us
};

class Tree {
 public:
  Tree(Fd root, Owners owners) : root_(std::move(root)), owners_(owners) {}

  void begin_layer() { fresh_.clear(); }
  Result<void> add(const LayerEntry& entry, const Content& content);
  // After the last layer: what directories are to be, which was to wait until they were filled.
  Result<void> finish();

 private:
  struct Directory {
    uint32_t mode = 0755, uid = 0, gid = 0;
    timespec changed{};
  };
  Result<void> hide(const std::string& path);
  Result<void> hide_below(const std::string& path);
  Result<Fd> directory(const std::string& path);
  Result<Fd> make_directory(const std::string& path);
  Result<void> add_directory(const Fd& parent, const std::string& name, const LayerEntry& entry);
  Result<void> add_file(const Fd& parent, const std::string& name, const LayerEntry& entry,
                        const Content& content);
  Result<void> add_symlink(const Fd& parent, const std::string& name, const LayerEntry& entry);
  Result<void> add_hard_link(const Fd& parent, const std::string& name, const LayerEntry& entry);
  // Removes what lower layers put there; the layer's own stays.
  Result<void> remove_lower(int parent, const std::string& name, const std::string& path);
  Result<void> own(int at, const std::string& name, const LayerEntry& entry);

  const Fd root_;
  const Owners owners_;
  // What this layer has brought, and the directories on the way to it.
  std::unordered_set<std::string> fresh_;
  std::map<std::string, Directory> directories_;
};

// Removes a directory's content and the directory, following no link. Missing is success.
Result<void> remove_tree(int at, const std::string& name);

}  // namespace sluice::sandbox::local
