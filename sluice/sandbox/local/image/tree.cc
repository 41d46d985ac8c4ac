#include "sluice/sandbox/local/image/tree.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "sluice/base/core/syscalls.h"
#include "sluice/sandbox/local/image/oci.h"

namespace sluice::sandbox::local {
namespace {

constexpr std::string_view kHide = ".wh.";
constexpr std::string_view kBookkeeping = ".wh..wh.";
constexpr std::string_view kOpaque = ".wh..wh..opq";

Error refused(const std::string& path, const char* why) {
  return Error(ErrorCode::kInvalidArgument, "image: entry " + shown_name(path) + " " + why);
}

std::string parent_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == path.npos ? std::string() : path.substr(0, slash);
}
std::string name_of(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}
std::string below(const std::string& path, const std::string& name) {
  return path.empty() ? name : path + "/" + name;
}

// What is beneath a directory, by a path without any link in it.
Fd open_beneath(int root, const std::string& path, int flags) {
  open_how how{};
  // Without O_NOFOLLOW, which would tell of a link at the end as of any other thing.
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  const char* name = path.empty() ? "." : path.c_str();
  return Fd(static_cast<int>(::syscall(SYS_openat2, root, name, &how, sizeof how)));
}

bool is_below(std::string_view path, std::string_view top) {
  return path == top || (path.starts_with(top) && path[top.size()] == '/');
}

}  // namespace

Result<void> remove_tree(int at, const std::string& name) {
  if (::unlinkat(at, name.c_str(), 0) == 0 || errno == ENOENT) return {};
  if (errno != EISDIR && errno != EPERM) return errno_error("remove an image's file", errno);
  {
    // Names in it are at most as deep as entries may be.
    const Fd directory(::openat(at, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!directory) return errno_error("remove an image's directory", errno);
    SLUICE_TRY(const auto names, names_in(directory.get()));
    for (const std::string& inner : names) SLUICE_TRY_VOID(remove_tree(directory.get(), inner));
  }
  if (::unlinkat(at, name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT) {
    return errno_error("remove an image's directory", errno);
  }
  return {};
}

Result<Fd> Tree::directory(const std::string& path) {
  Fd opened = open_beneath(root_.get(), path, O_PATH | O_DIRECTORY);
  if (opened) return opened;
  if (errno == ELOOP) return refused(path, "goes through a symbolic link");
  if (errno == ENOTDIR) return refused(path, "goes through what is no directory");
  return errno_error("open an image's directory", errno);
}

// The directory, made with those on the way to it where they are missing.
Result<Fd> Tree::make_directory(const std::string& path) {
  Fd opened = open_beneath(root_.get(), path, O_PATH | O_DIRECTORY);
  if (opened || errno != ENOENT) return opened ? Result<Fd>(std::move(opened)) : directory(path);
  SLUICE_TRY(const Fd parent, make_directory(parent_of(path)));
  const std::string name = name_of(path);
  if (::mkdirat(parent.get(), name.c_str(), 0755) != 0 && errno != EEXIST) {
    return errno_error("make an image's directory", errno);
  }
  directories_[path] = Directory();
  return directory(path);
}

Result<void> Tree::add(const LayerEntry& entry, const Content& content) {
  if (entry.path.empty()) {
    // The root is 0755 and root's whatever it says: others must get in.
    if (entry.kind != LayerEntry::Kind::kDirectory) return refused(entry.path, "is the root");
    return {};
  }
  const std::string name = name_of(entry.path);
  const std::string above = parent_of(entry.path);
  if (name == kOpaque) return hide_below(above);
  const bool kept_by_aufs =
      entry.path.starts_with(kBookkeeping) || entry.path.find("/.wh..wh.") != entry.path.npos;
  if (kept_by_aufs) return {};
  if (name.starts_with(kHide)) {
    const std::string hidden = name.substr(kHide.size());
    if (hidden.empty() || hidden == "." || hidden == "..") {
      return refused(entry.path, "hides nothing that could be there");
    }
    return hide(below(above, hidden));
  }
  using Kind = LayerEntry::Kind;
  if (entry.kind == Kind::kDevice || entry.kind == Kind::kPipe || entry.kind == Kind::kOther) {
    // A sandbox has its own of these.
    if (is_below(entry.path, "dev") || is_below(entry.path, "run")) return {};
    return refused(entry.path, "is a device, a pipe or something stranger");
  }
  SLUICE_TRY(const Fd parent, make_directory(above));
  struct stat st{};
  const bool there = ::fstatat(parent.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0;
  const bool stays = there && S_ISDIR(st.st_mode) && entry.kind == Kind::kDirectory;
  if (there && !stays) {
    if (fresh_.contains(entry.path)) return refused(entry.path, "comes twice in one layer");
    SLUICE_TRY_VOID(remove_tree(parent.get(), name));
  }
  for (std::string path = entry.path; !path.empty() && fresh_.insert(path).second;) {
    path = parent_of(path);
  }
  switch (entry.kind) {
    case Kind::kDirectory:
      return add_directory(parent, name, entry);
    case Kind::kFile:
      return add_file(parent, name, entry, content);
    case Kind::kSymlink:
      return add_symlink(parent, name, entry);
    default:
      return add_hard_link(parent, name, entry);
  }
}

Result<void> Tree::add_directory(const Fd& parent, const std::string& name,
                                 const LayerEntry& entry) {
  if (::mkdirat(parent.get(), name.c_str(), 0755) != 0 && errno != EEXIST) {
    return errno_error("make an image's directory", errno);
  }
  directories_[entry.path] = {entry.mode, entry.uid, entry.gid, entry.changed};
  return {};
}

Result<void> Tree::add_file(const Fd& parent, const std::string& name, const LayerEntry& entry,
                            const Content& content) {
  const Fd file(::openat(parent.get(), name.c_str(),
                         O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) return errno_error("make an image's file", errno);
  SLUICE_TRY_VOID(content(file.get()));
  if (owners_ == Owners::kKept && ::fchown(file.get(), entry.uid, entry.gid) != 0) {
    return errno_error("give an image's file to its owner", errno);
  }
  const uint32_t readable = owners_ == Owners::kOurs ? 0400 : 0;
  const timespec times[2] = {entry.changed, entry.changed};
  if (::fchmod(file.get(), (entry.mode & 0777) | readable) != 0 ||
      ::futimens(file.get(), times) != 0) {
    return errno_error("finish an image's file", errno);
  }
  return {};
}

Result<void> Tree::own(int at, const std::string& name, const LayerEntry& entry) {
  if (owners_ == Owners::kKept &&
      ::fchownat(at, name.c_str(), entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW) != 0) {
    return errno_error("give an image's file to its owner", errno);
  }
  return {};
}

Result<void> Tree::add_symlink(const Fd& parent, const std::string& name, const LayerEntry& entry) {
  // Where it leads is the sandbox's affair: nobody out here follows it.
  if (entry.link.empty() || entry.link.size() > 4095) {
    return refused(entry.path, "is a symbolic link to nothing, or too far");
  }
  if (::symlinkat(entry.link.c_str(), parent.get(), name.c_str()) != 0) {
    return errno_error("make an image's link", errno);
  }
  SLUICE_TRY_VOID(own(parent.get(), name, entry));
  const timespec times[2] = {entry.changed, entry.changed};
  ::utimensat(parent.get(), name.c_str(), times, AT_SYMLINK_NOFOLLOW);
  return {};
}

Result<void> Tree::add_hard_link(const Fd& parent, const std::string& name,
                                 const LayerEntry& entry) {
  if (entry.link.empty()) return refused(entry.path, "is a hard link to the root");
  const Fd source = open_beneath(root_.get(), parent_of(entry.link), O_PATH | O_DIRECTORY);
  struct stat st{};
  const bool there =
      source && ::fstatat(source.get(), name_of(entry.link).c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0;
  if (!there || (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))) {
    return refused(entry.path, "is a hard link to what is no file of the image");
  }
  if (::linkat(source.get(), name_of(entry.link).c_str(), parent.get(), name.c_str(), 0) != 0) {
    return errno_error("make an image's hard link", errno);
  }
  return {};
}

Result<void> Tree::remove_lower(int parent, const std::string& name, const std::string& path) {
  if (!fresh_.contains(path)) {
    directories_.erase(path);
    return remove_tree(parent, name);
  }
  const Fd directory(
      ::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!directory) return {};  // the layer's own file
  SLUICE_TRY(const auto names, names_in(directory.get()));
  for (const std::string& inner : names) {
    SLUICE_TRY_VOID(remove_lower(directory.get(), inner, below(path, inner)));
  }
  return {};
}

Result<void> Tree::hide(const std::string& path) {
  const Fd parent = open_beneath(root_.get(), parent_of(path), O_PATH | O_DIRECTORY);
  if (!parent && errno == ELOOP) return refused(path, "goes through a symbolic link");
  if (!parent) return {};  // nothing is there to hide
  return remove_lower(parent.get(), name_of(path), path);
}

Result<void> Tree::hide_below(const std::string& path) {
  const Fd directory = open_beneath(root_.get(), path, O_RDONLY | O_DIRECTORY);
  if (!directory && errno == ELOOP) return refused(path, "goes through a symbolic link");
  if (!directory) return {};
  SLUICE_TRY(const auto names, names_in(directory.get()));
  for (const std::string& name : names) {
    SLUICE_TRY_VOID(remove_lower(directory.get(), name, below(path, name)));
  }
  return {};
}

Result<void> Tree::finish() {
  // Deepest first: a time that was set stays only where nothing is made any more.
  for (auto it = directories_.rbegin(); it != directories_.rend(); ++it) {
    const auto& [path, want] = *it;
    const Fd opened = open_beneath(root_.get(), path, O_RDONLY | O_DIRECTORY);
    if (!opened) continue;  // a later layer put something else there
    if (owners_ == Owners::kKept && ::fchown(opened.get(), want.uid, want.gid) != 0) {
      return errno_error("give an image's directory to its owner", errno);
    }
    const uint32_t ours = owners_ == Owners::kOurs ? 0700 : 0;
    const timespec times[2] = {want.changed, want.changed};
    if (::fchmod(opened.get(), (want.mode & 01777) | ours) != 0 ||
        ::futimens(opened.get(), times) != 0) {
      return errno_error("finish an image's directory", errno);
    }
  }
  return {};
}

}  // namespace sluice::sandbox::local
