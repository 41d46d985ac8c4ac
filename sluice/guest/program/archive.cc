#include "sluice/guest/program/archive.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/core/syscalls.h"
#include "sluice/guest/program/files.h"
#include "sluice/guest/program/records.h"

namespace sluice::guest::program {
namespace {

// Where a sandbox that began as a container image has the image itself (a mount, read-only).
constexpr char kImagePlace[] = ".image";
// Where a home that is kept on the host is mounted. It is the sandbox's own all the same.
constexpr char kHomePlace[] = "home/user";

Result<Fd> open_top() {
  Fd top(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!top) return errno_error("/", errno);
  return top;
}

bool is_dots(std::string_view name) {
  return name == "." || name == "..";
}

// Whether something is mounted there.
bool is_mount(int at, const std::string& name) {
  struct statx info{};
  if (::syscall(SYS_statx, at, name.c_str(), AT_SYMLINK_NOFOLLOW, 0, &info) != 0) return false;
  return (info.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

// The image that the files began as, seen without the changes; none in a sandbox without one.
Fd open_image(int top) {
  if (!is_mount(top, kImagePlace)) return Fd();
  return Fd(::openat(top, kImagePlace, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

// Whether the file is the image's, unchanged. The time of its last change of any kind, which nobody
// can set, tells: what was changed was copied, and is younger.
bool is_of_image(int image, const std::string& path, const struct stat& st) {
  struct stat was{};
  if (::fstatat(image, path.c_str(), &was, AT_SYMLINK_NOFOLLOW) != 0) return false;
  return was.st_mode == st.st_mode && was.st_uid == st.st_uid && was.st_gid == st.st_gid &&
         (was.st_size == st.st_size || S_ISDIR(st.st_mode)) &&
         was.st_ctim.tv_sec == st.st_ctim.tv_sec && was.st_ctim.tv_nsec == st.st_ctim.tv_nsec;
}

class Packer {
 public:
  Packer(int out, uint64_t max)
      : out_(out, max,
             "the sandbox's files are over " + std::to_string(max) +
                 " bytes: put what is large into a bundle, or prepare each rollout by itself") {}

  Result<void> pack(int top) {
    struct stat st{};
    if (::fstat(top, &st) != 0) return at_path("", errno);
    device_ = home_device_ = st.st_dev;
    image_ = open_image(top);
    // A directory comes before what is in it. Paths, not descriptors, wait: a tree may be deep.
    std::vector<std::string> waiting = {"."};
    SLUICE_TRY_VOID(out_.put(entry_of(EntryKind::kDirectory, ".", st)));
    while (!waiting.empty()) {
      const std::string path = std::move(waiting.back());
      waiting.pop_back();
      const Fd directory(
          ::openat(top, path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (!directory) return at_path(path, errno);
      SLUICE_TRY(auto names, names_in(directory.get()));
      std::sort(names.begin(), names.end());
      for (const std::string& name : names) {
        SLUICE_TRY_VOID(add(directory.get(), name, below(path, name), &waiting));
      }
    }
    return out_.finish();
  }

 private:
  static Entry entry_of(EntryKind kind, std::string path, const struct stat& st) {
    Entry entry;
    entry.kind = kind;
    entry.path = std::move(path);
    entry.mode = st.st_mode & 07777;
    entry.uid = st.st_uid;
    entry.gid = st.st_gid;
    entry.seconds = static_cast<uint64_t>(st.st_mtim.tv_sec);
    entry.nanoseconds = static_cast<uint32_t>(st.st_mtim.tv_nsec);
    return entry;
  }

  Result<void> add(int directory, const std::string& name, std::string path,
                   std::vector<std::string>* waiting) {
    struct stat st{};
    if (::fstatat(directory, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      return errno == ENOENT ? Result<void>() : at_path(path, errno);
    }
    // Of an image's files each layer has a number of its own.
    const bool is_home = path == kHomePlace;
    if (is_home) home_device_ = st.st_dev;
    const bool foreign = st.st_dev != device_ && st.st_dev != home_device_ && !image_;
    if (!is_home && (foreign || is_mount(directory, name))) return {};
    if (path.size() >= wire::kMaxPath) {
      return Error(ErrorCode::kTooLarge, "/" + path.substr(0, 200) + "...: too deep to snapshot");
    }
    const bool unchanged = image_ && is_of_image(image_.get(), path, st);
    if (S_ISDIR(st.st_mode)) {
      waiting->push_back(path);
      if (unchanged) return out_.put(entry_of(EntryKind::kImage, std::move(path), st));
      return out_.put(entry_of(EntryKind::kDirectory, std::move(path), st));
    }
    if (unchanged) return out_.put(entry_of(EntryKind::kImage, std::move(path), st));
    if (st.st_nlink > 1 && (S_ISREG(st.st_mode) || S_ISFIFO(st.st_mode))) {
      const auto [known, fresh] = links_.emplace(std::pair(st.st_dev, st.st_ino), path);
      if (!fresh) {
        Entry entry = entry_of(EntryKind::kHardLink, std::move(path), st);
        entry.link = known->second;
        return out_.put(entry);
      }
    }
    if (S_ISREG(st.st_mode)) return add_file(directory, name, std::move(path));
    if (S_ISFIFO(st.st_mode)) return out_.put(entry_of(EntryKind::kPipe, std::move(path), st));
    if (!S_ISLNK(st.st_mode)) return {};  // a socket: nobody listens on it in the clone
    char target[PATH_MAX];
    const ssize_t n = ::readlinkat(directory, name.c_str(), target, sizeof target);
    if (n < 0) return at_path(path, errno);
    Entry entry = entry_of(EntryKind::kSymlink, std::move(path), st);
    entry.link.assign(target, static_cast<size_t>(n));
    return out_.put(entry);
  }

  Result<void> add_file(int directory, const std::string& name, std::string path) {
    const Fd file(::openat(directory, name.c_str(),
                           O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    struct stat st{};
    if (!file || ::fstat(file.get(), &st) != 0) return at_path(path, errno);
    if (!S_ISREG(st.st_mode)) return {};
    Entry entry = entry_of(EntryKind::kFile, path, st);
    entry.size = static_cast<uint64_t>(st.st_size);
    SLUICE_TRY_VOID(out_.put(entry));
    return out_.put_content(file.get(), entry.size, path);
  }

  EntryWriter out_;
  dev_t device_ = 0, home_device_ = 0;
  Fd image_;
  std::map<std::pair<dev_t, ino_t>, std::string> links_;
};

class Unpacker {
 public:
  Unpacker(int top, int in, Users users) : in_(in), top_(top), users_(users) {}

  Result<void> unpack() {
    SLUICE_TRY_VOID(note_what_is_there());
    for (;;) {
      SLUICE_TRY(const Entry entry, in_.next());
      if (entry.kind == EntryKind::kEnd) break;
      auto made = make(entry);
      if (!made) return std::move(made).error().within("restore /" + entry.path);
      there_.erase(entry.path);
    }
    remove_the_rest();
    // Directories at the end: making what is in them changes their times, and needs a permission
    // that they may deny.
    for (auto entry = directories_.rbegin(); entry != directories_.rend(); ++entry) {
      SLUICE_TRY_VOID(finish(*entry));
    }
    return {};
  }

 private:
  // A fresh sandbox holds little: what the layout made.
  Result<void> note_what_is_there() {
    struct stat st{};
    if (::fstat(top_, &st) != 0) return at_path("", errno);
    image_ = open_image(top_);
    std::vector<std::string> waiting = {"."};
    while (!waiting.empty()) {
      const std::string path = std::move(waiting.back());
      waiting.pop_back();
      const Fd directory(
          ::openat(top_, path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (!directory) continue;
      SLUICE_TRY(const auto names, names_in(directory.get()));
      for (const std::string& name : names) {
        struct stat entry{};
        if (::fstatat(directory.get(), name.c_str(), &entry, AT_SYMLINK_NOFOLLOW) != 0) continue;
        if ((entry.st_dev != st.st_dev && !image_) || is_mount(directory.get(), name)) continue;
        there_.insert(below(path, name));
        if (S_ISDIR(entry.st_mode)) waiting.push_back(below(path, name));
      }
    }
    return {};
  }

  void remove_the_rest() {
    // What is in a directory sorts behind it. One that holds a mount stays.
    for (auto path = there_.rbegin(); path != there_.rend(); ++path) {
      const auto place = parent_of(*path);
      if (!place) continue;
      const std::string name = path->substr(path->rfind('/') + 1);
      if (::unlinkat(place->get(), name.c_str(), 0) != 0) {
        ::unlinkat(place->get(), name.c_str(), AT_REMOVEDIR);
      }
    }
  }

  // The directory that holds `path`, reached through no link and no mount.
  Result<Fd> parent_of(const std::string& path) const {
    const size_t slash = path.rfind('/');
    const std::string parent = slash == std::string::npos ? "." : path.substr(0, slash);
    const std::string name = path.substr(slash + 1);
    if (path.empty() || path.front() == '/' || name.empty() || is_dots(name)) {
      return Error(ErrorCode::kProtocol, "a snapshot holds a path that is none");
    }
    return open_below(parent, O_RDONLY | O_DIRECTORY);
  }
  Result<Fd> open_below(const std::string& path, uint64_t flags) const {
    open_how how{};
    how.flags = flags | O_CLOEXEC | O_NOFOLLOW;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
    const auto fd = ::syscall(SYS_openat2, top_, path.c_str(), &how, sizeof how);
    if (fd < 0) return at_path(path, errno);
    return Fd(static_cast<int>(fd));
  }

  Result<void> make(const Entry& entry) {
    if (entry.kind == EntryKind::kDirectory) return make_directory(entry);
    // There already, as the clone begins with the same image.
    if (entry.kind == EntryKind::kImage && image_) return {};
    SLUICE_TRY(const Fd parent, parent_of(entry.path));
    const std::string name = entry.path.substr(entry.path.rfind('/') + 1);
    // The clone has another thing there.
    if (is_mount(parent.get(), name)) {
      return entry.kind == EntryKind::kFile ? in_.take_content(entry, -1) : Result<void>();
    }
    // Whatever the layout put there.
    if (::unlinkat(parent.get(), name.c_str(), 0) != 0 && errno == EISDIR) {
      ::unlinkat(parent.get(), name.c_str(), AT_REMOVEDIR);
    }
    switch (entry.kind) {
      case EntryKind::kFile:
        return make_file(parent.get(), name, entry);
      case EntryKind::kSymlink:
        if (::symlinkat(entry.link.c_str(), parent.get(), name.c_str()) != 0) {
          return at_path(entry.path, errno);
        }
        break;
      case EntryKind::kPipe:
        if (::mkfifoat(parent.get(), name.c_str(), entry.mode & 0777) != 0) {
          return at_path(entry.path, errno);
        }
        break;
      case EntryKind::kHardLink: {
        SLUICE_TRY(const Fd other, parent_of(entry.link));
        const std::string other_name = entry.link.substr(entry.link.rfind('/') + 1);
        if (::linkat(other.get(), other_name.c_str(), parent.get(), name.c_str(), 0) != 0) {
          return at_path(entry.path, errno);
        }
        return {};
      }
      default:
        return Error(ErrorCode::kProtocol, "a snapshot holds what it cannot");
    }
    SLUICE_TRY_VOID(set_owner(parent.get(), name.c_str(), AT_SYMLINK_NOFOLLOW, entry));
    ::utimensat(parent.get(), name.c_str(), times_of(entry).data(), AT_SYMLINK_NOFOLLOW);
    return {};
  }

  Result<void> make_directory(const Entry& entry) {
    if (entry.path != ".") {
      SLUICE_TRY(const Fd parent, parent_of(entry.path));
      const std::string name = entry.path.substr(entry.path.rfind('/') + 1);
      if (::mkdirat(parent.get(), name.c_str(), 0700) != 0) {
        if (errno != EEXIST) return at_path(entry.path, errno);
        struct stat st{};
        if (::fstatat(parent.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0 ||
            (!S_ISDIR(st.st_mode) && (::unlinkat(parent.get(), name.c_str(), 0) != 0 ||
                                      ::mkdirat(parent.get(), name.c_str(), 0700) != 0))) {
          return at_path(entry.path, errno);
        }
      }
    }
    SLUICE_TRY(const Fd made, open_below(entry.path, O_RDONLY | O_DIRECTORY));
    SLUICE_TRY_VOID(set_owner(made.get(), "", AT_EMPTY_PATH, entry));
    if (::fchmod(made.get(), entry.mode | 0700) != 0) return at_path(entry.path, errno);
    directories_.push_back(entry);
    return {};
  }

  Result<void> make_file(int parent, const std::string& name, const Entry& entry) {
    const Fd file(
        ::openat(parent, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file) return at_path(entry.path, errno);
    SLUICE_TRY_VOID(in_.take_content(entry, file.get()));
    SLUICE_TRY_VOID(set_owner(file.get(), "", AT_EMPTY_PATH, entry));
    if (::fchmod(file.get(), entry.mode) != 0) return at_path(entry.path, errno);
    ::futimens(file.get(), times_of(entry).data());
    return {};
  }

  Result<void> set_owner(int at, const char* name, int flags, const Entry& entry) const {
    if (users_ == Users::kSingle) return {};
    if (::fchownat(at, name, entry.uid, entry.gid, flags) == 0) return {};
    return at_path(entry.path, errno);
  }
  Result<void> finish(const Entry& entry) const {
    SLUICE_TRY(const Fd made, open_below(entry.path, O_RDONLY | O_DIRECTORY));
    ::futimens(made.get(), times_of(entry).data());
    if (::fchmod(made.get(), entry.mode) != 0) return at_path(entry.path, errno);
    return {};
  }

  EntryReader in_;
  const int top_;
  const Users users_;
  Fd image_;
  std::set<std::string> there_;
  std::vector<Entry> directories_;
};

}  // namespace

Result<VerbReply> carry_out(const wire::Pack& request, const VerbProcess& process) {
  SLUICE_TRY(const Fd top, open_top());
  SLUICE_TRY_VOID(pack_tree(top.get(), process.out, request.max));
  return Bytes();
}

Result<VerbReply> carry_out(const wire::Unpack&, const VerbProcess& process) {
  SLUICE_TRY(const Fd top, open_top());
  SLUICE_TRY_VOID(unpack_tree(top.get(), process.in, process.users));
  return Bytes();
}

Result<void> pack_tree(int top, int out, uint64_t max) {
  return Packer(out, max).pack(top);
}

Result<void> unpack_tree(int top, int in, Users users) {
  return Unpacker(top, in, users).unpack();
}

}  // namespace sluice::guest::program
