#include "sluice/guest/program/files.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/base/core/defer.h"
#include "sluice/base/core/syscalls.h"

namespace sluice::guest::program {
namespace {

using wire::FileStat;

constexpr size_t kPiece = 64 * 1024;
constexpr int kMaxListDepth = 256;
// Deeper than any tree that a tool can work on (PATH_MAX / 2), and few enough descriptors.
constexpr size_t kMaxTreeDepth = 2048;

size_t tree_depth_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 200;
  return std::clamp<size_t>(limit.rlim_cur, 128, kMaxTreeDepth + 64) - 64;
}

FileStat::Type type_of(mode_t mode) {
  if (S_ISREG(mode)) return FileStat::Type::kFile;
  if (S_ISDIR(mode)) return FileStat::Type::kDirectory;
  if (S_ISLNK(mode)) return FileStat::Type::kSymlink;
  return FileStat::Type::kOther;
}

const char* describe(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISLNK(mode)) return "a symbolic link";
  if (S_ISFIFO(mode)) return "a named pipe";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISBLK(mode) || S_ISCHR(mode)) return "a device";
  return "not a regular file";
}

// What the kernel says of a path. What is wrong with the path itself is the caller's argument.
Error path_error(const std::string& path, int failure) {
  Error error = errno_error(path, failure);
  switch (failure) {
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
      error.code = ErrorCode::kInvalidArgument;
      break;
    case EROFS:
      error.code = ErrorCode::kPermissionDenied;
      break;
    default:
      break;
  }
  return error;
}

Error not_a_file(const std::string& path, mode_t mode) {
  return Error(ErrorCode::kInvalidArgument, path + " is " + describe(mode) + ", not a file");
}

FileStat to_file_stat(std::string path, const struct stat& st) {
  FileStat out;
  out.path = std::move(path);
  out.type = type_of(st.st_mode);
  out.size = static_cast<uint64_t>(st.st_size);
  out.mode = st.st_mode & 07777;
  out.uid = st.st_uid;
  out.gid = st.st_gid;
  return out;
}

// An absolute path without trailing slashes: with one, the kernel would follow a link in the last
// component whatever the flags say.
Result<std::string> checked(const std::string& path) {
  if (!path.starts_with('/')) {
    return Error(ErrorCode::kInvalidArgument, "the path must be absolute: \"" + path + "\"");
  }
  std::string clean = path;
  while (clean.size() > 1 && clean.back() == '/') clean.pop_back();
  return clean;
}

std::pair<std::string, std::string> split_last(const std::string& path) {
  const size_t slash = path.rfind('/');
  return {slash == 0 ? "/" : path.substr(0, slash), path.substr(slash + 1)};
}

bool is_dots(std::string_view name) {
  return name == "." || name == "..";
}

Result<void> make_parents(const std::string& directory) {
  // From the deepest that is there downwards: most often all are.
  struct stat st{};
  if (::stat(directory.c_str(), &st) == 0) return {};
  if (errno != ENOENT) return path_error(directory, errno);
  if (directory == "/") return {};
  SLUICE_TRY_VOID(make_parents(split_last(directory).first));
  if (::mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST) {
    return path_error(directory, errno);
  }
  return {};
}

// A directory that is being walked: its descriptor and its entries' names, read at once so that the
// walk does not see what it changes.
struct OpenDirectory {
  Fd fd;
  std::vector<std::string> names;
  std::string path;  // relative to the walk's root
};

Result<OpenDirectory> read_directory(Fd fd, std::string path) {
  OpenDirectory out{std::move(fd), {}, std::move(path)};
  auto names = names_in(out.fd.get());
  if (!names) return std::move(names).error().within(out.path);
  out.names = std::move(*names);
  return out;
}

Fd open_directory_at(int at, const char* name) {
  return Fd(::openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
}

// Gives what was made to the verb's user. False, with errno, if that fails.
bool own(const Fd& made, const VerbProcess& process) {
  return process.users == Users::kSingle ||
         ::fchown(made.get(), process.user.uid, process.user.gid) == 0;
}

// Opens `path` from the root down, following no link at all. With `make`, what is missing is made
// and given to the verb's user.
enum class Missing : uint8_t { kError, kMake };
Result<Fd> open_plain(const std::string& path, Missing missing, const VerbProcess& process) {
  Fd at(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!at) return path_error("/", errno);
  std::string_view rest = path;
  while (!rest.empty()) {
    const size_t slash = rest.find('/');
    const std::string name(rest.substr(0, slash));
    rest = slash == std::string_view::npos ? std::string_view() : rest.substr(slash + 1);
    if (name.empty() || name == ".") continue;
    if (name == "..") return Error(ErrorCode::kInvalidArgument, path + ": \"..\" in a path");
    Fd next = open_directory_at(at.get(), name.c_str());
    if (!next && errno == ENOENT && missing == Missing::kMake) {
      if (::mkdirat(at.get(), name.c_str(), 0755) != 0) return path_error(path, errno);
      next = open_directory_at(at.get(), name.c_str());
      if (next && !own(next, process)) return path_error(path, errno);
    }
    if (!next) {
      if (errno == ENOTDIR || errno == ELOOP) {
        return Error(ErrorCode::kInvalidArgument,
                     path + ": " + name + " is a symbolic link or no directory: remove it");
      }
      return path_error(path, errno);
    }
    at = std::move(next);
  }
  return at;
}

// With permission to read and change it, which a directory may deny its own owner.
Fd open_to_empty(int at, const std::string& name) {
  Fd directory = open_directory_at(at, name.c_str());
  if (!directory && errno == EACCES) {
    const Fd pinned(::openat(at, name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!pinned) return directory;
    const std::string itself = "/proc/self/fd/" + std::to_string(pinned.get());
    if (::chmod(itself.c_str(), 0700) == 0) directory = open_directory_at(pinned.get(), ".");
  } else if (directory) {
    ::fchmod(directory.get(), 0700);
  }
  return directory;
}

// Removes all that is in the directory `top`. A tree deeper than the descriptors go is taken apart:
// its lower part is moved up to `top` and removed from there.
Result<void> empty_directory(int top, const std::string& path) {
  const size_t limit = tree_depth_limit();
  uint64_t moved = 0;
  for (bool again = true; again;) {
    again = false;
    std::vector<OpenDirectory> stack;
    std::vector<std::string> entered;  // the names by which the stack's directories are reached
    Fd first = open_directory_at(top, ".");  // anew: a copy would go on where the last ended
    if (!first) return path_error(path, errno);
    SLUICE_TRY(auto root, read_directory(std::move(first), path));
    stack.push_back(std::move(root));
    while (!stack.empty()) {
      OpenDirectory& here = stack.back();
      if (here.names.empty()) {
        stack.pop_back();
        if (stack.empty()) break;
        const std::string name = std::move(entered.back());
        entered.pop_back();
        if (::unlinkat(stack.back().fd.get(), name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT) {
          return path_error(path + ": remove " + name, errno);
        }
        continue;
      }
      std::string name = std::move(here.names.back());
      here.names.pop_back();
      if (::unlinkat(here.fd.get(), name.c_str(), 0) == 0 || errno == ENOENT) continue;
      if (errno != EISDIR && errno != EPERM) return path_error(path + ": remove " + name, errno);
      if (stack.size() == limit) {
        const std::string up = ".sluice-removed-" + std::to_string(++moved);
        if (::renameat(here.fd.get(), name.c_str(), top, up.c_str()) != 0) {
          return path_error(path + ": move " + name, errno);
        }
        again = true;
        continue;
      }
      Fd below = open_to_empty(here.fd.get(), name);
      if (!below) return path_error(path + ": open " + name, errno);
      SLUICE_TRY(auto opened, read_directory(std::move(below), name));
      entered.push_back(std::move(name));
      stack.push_back(std::move(opened));
    }
  }
  return {};
}

using Inode = std::pair<dev_t, ino_t>;

// Calls `visit(directory fd, name, stat)` for everything below `root`, a directory before what is
// in it. Follows nothing and stays on the root's filesystem.
template <class Visit>
Result<void> walk(Fd root, const std::string& path, Visit visit) {
  const size_t limit = tree_depth_limit();
  struct stat top{};
  if (::fstat(root.get(), &top) != 0) return path_error(path, errno);
  std::vector<OpenDirectory> stack;
  SLUICE_TRY(auto first, read_directory(std::move(root), path));
  stack.push_back(std::move(first));
  while (!stack.empty()) {
    OpenDirectory& here = stack.back();
    if (here.names.empty()) {
      stack.pop_back();
      continue;
    }
    const std::string name = std::move(here.names.back());
    here.names.pop_back();
    // Pinned: whatever happens to the name, this is what is looked at and changed.
    const Fd entry(::openat(here.fd.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!entry && errno == ENOENT) continue;
    struct stat st{};
    if (!entry || ::fstat(entry.get(), &st) != 0) return path_error(path + ": " + name, errno);
    // Another mount's directory is somebody else's.
    if (S_ISDIR(st.st_mode) && st.st_dev != top.st_dev) continue;
    SLUICE_TRY_VOID(visit(entry.get(), st));
    if (!S_ISDIR(st.st_mode)) continue;
    if (stack.size() == limit) {
      return Error(ErrorCode::kTooLarge,
                   path + ": more than " + std::to_string(limit) + " directories deep");
    }
    Fd below = open_directory_at(entry.get(), ".");
    if (!below) return path_error(path + ": " + name, errno);
    SLUICE_TRY(auto opened, read_directory(std::move(below), name));
    stack.push_back(std::move(opened));
  }
  return {};
}

// False for what is on a read-only mount.
Result<bool> give(int entry, const User& owner, const std::string& path) {
  if (::fchownat(entry, "", owner.uid, owner.gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0) {
    return true;
  }
  if (errno == EROFS) return false;
  return path_error("chown in " + path, errno);
}

std::string random_name() {
  unsigned char bytes[12];
  if (::getrandom(bytes, sizeof bytes, 0) != sizeof bytes) return ".sluice-new";
  return ".sluice-" + to_hex({reinterpret_cast<const char*>(bytes), sizeof bytes});
}

// From the pipe to the file until the pipe's end.
Result<void> copy_in(int from, int to) {
  std::vector<char> buffer(kPiece);
  for (;;) {
    const ssize_t n = TEMP_FAILURE_RETRY(::read(from, buffer.data(), buffer.size()));
    if (n < 0) return errno_error("read", errno);
    if (n == 0) return {};
    SLUICE_TRY_VOID(write_all(to, {buffer.data(), static_cast<size_t>(n)}));
  }
}

bool input_was_complete(int control) {
  char said = 0;
  return TEMP_FAILURE_RETRY(::read(control, &said, 1)) == 1 && said == kInputComplete;
}

}  // namespace

Result<void> send_record(int control, wire::FrameType type, ByteView payload) {
  VerbRecord head;
  head.type = static_cast<uint8_t>(type);
  head.size = static_cast<uint32_t>(payload.size());
  Bytes record(reinterpret_cast<const char*>(&head), sizeof head);
  return write_all(control, record.append(payload));
}

Result<VerbReply> carry_out(const wire::Read& request, const VerbProcess& process) {
  SLUICE_TRY(const std::string path, checked(request.path));
  // Without O_NONBLOCK a named pipe would hold us here.
  const Fd file(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat st{};
  if (!file) {
    const int failure = errno;
    // A link, a socket: say so rather than what the kernel calls it.
    if ((failure == ELOOP || failure == ENXIO) && ::lstat(path.c_str(), &st) == 0) {
      return not_a_file(path, st.st_mode);
    }
    return path_error(path, failure);
  }
  if (::fstat(file.get(), &st) != 0) return path_error(path, errno);
  if (!S_ISREG(st.st_mode)) return not_a_file(path, st.st_mode);
  auto too_large = [&] {
    return Error(ErrorCode::kTooLarge,
                 path + " is larger than " + std::to_string(request.max) + " bytes");
  };
  if (static_cast<uint64_t>(st.st_size) > request.max) return too_large();
  SLUICE_TRY_VOID(send_record(process.control, wire::FrameType::kReply,
                              wire::encode(to_file_stat(request.path, st))));
  // The size is only a hint: the file may grow, and those of /proc say 0.
  std::vector<char> buffer(kPiece);
  uint64_t sent = 0;
  for (;;) {
    const ssize_t n = TEMP_FAILURE_RETRY(::read(file.get(), buffer.data(), buffer.size()));
    if (n < 0) return path_error(path, errno);
    if (n == 0) return VerbReply();
    sent += static_cast<uint64_t>(n);
    if (sent > request.max) return too_large();
    SLUICE_TRY_VOID(write_all(process.out, {buffer.data(), static_cast<size_t>(n)}));
  }
}

Result<VerbReply> carry_out(const wire::Write& request, const VerbProcess& process) {
  SLUICE_TRY(const std::string path, checked(request.path));
  const auto [directory, name] = split_last(path);
  if (name.empty() || is_dots(name)) {
    return Error(ErrorCode::kInvalidArgument, request.path + " is a directory, not a file");
  }
  SLUICE_TRY_VOID(make_parents(directory));
  const Fd parent(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!parent) return path_error(directory, errno);
  struct stat st{};
  if (::fstatat(parent.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) {
    if (!S_ISREG(st.st_mode)) return not_a_file(path, st.st_mode);
  } else if (errno != ENOENT) {
    return path_error(path, errno);
  }
  // Beside the target and renamed over it: whoever reads sees the old file or the new one, and a
  // link that appears meanwhile is replaced, not followed.
  const std::string temporary = random_name();
  const Fd file(::openat(parent.get(), temporary.c_str(),
                         O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) return path_error(path, errno);
  Defer remove([&] { ::unlinkat(parent.get(), temporary.c_str(), 0); });
  auto copied = copy_in(process.in, file.get());
  if (!copied) return std::move(copied).error().within(path);
  if (!input_was_complete(process.control)) {
    return Error(ErrorCode::kCancelled, path + ": the writer gave up");
  }
  if (::fchmod(file.get(), request.mode) != 0) return path_error(path, errno);
  if (::renameat(parent.get(), temporary.c_str(), parent.get(), name.c_str()) != 0) {
    return path_error(path, errno);
  }
  remove.cancel();
  return Bytes();
}

Result<VerbReply> carry_out(const wire::Stat& request, const VerbProcess&) {
  SLUICE_TRY(const std::string path, checked(request.path));
  struct stat st{};
  if (::lstat(path.c_str(), &st) != 0) return path_error(path, errno);
  return wire::encode(to_file_stat(request.path, st));
}

Result<VerbReply> carry_out(const wire::List& request, const VerbProcess& process) {
  SLUICE_TRY(const std::string path, checked(request.path));
  Fd root = open_directory_at(AT_FDCWD, path.c_str());
  if (!root) {
    if (errno == ENOTDIR || errno == ELOOP) {
      return Error(ErrorCode::kInvalidArgument, path + " is not a directory");
    }
    return path_error(path, errno);
  }
  const size_t max_depth = std::min<uint32_t>(request.depth, kMaxListDepth);
  std::vector<OpenDirectory> stack;
  if (max_depth > 0) {
    SLUICE_TRY(auto first, read_directory(std::move(root), ""));
    stack.push_back(std::move(first));
  }
  uint64_t sent = 0;
  Bytes batch;
  while (!stack.empty() && sent < request.max) {
    OpenDirectory& here = stack.back();
    if (here.names.empty()) {
      stack.pop_back();
      continue;
    }
    const std::string name = std::move(here.names.back());
    here.names.pop_back();
    std::string relative = here.path.empty() ? name : here.path + "/" + name;
    struct stat st{};
    // What is gone meanwhile, or too deep to be named, is not there.
    if (relative.size() > wire::kMaxPath ||
        ::fstatat(here.fd.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      continue;
    }
    batch += wire::encode_list_entry(to_file_stat(relative, st));
    ++sent;
    if (batch.size() >= kPiece) {
      SLUICE_TRY_VOID(write_all(process.out, batch));
      batch.clear();
    }
    if (!S_ISDIR(st.st_mode) || stack.size() == max_depth) continue;
    Fd below = open_directory_at(here.fd.get(), name.c_str());
    if (!below) continue;  // not ours to read
    auto opened = read_directory(std::move(below), std::move(relative));
    if (opened) stack.push_back(std::move(*opened));
  }
  SLUICE_TRY_VOID(write_all(process.out, batch));
  return Bytes();
}

Result<VerbReply> carry_out(const wire::ResetDirectory& request, const VerbProcess& process) {
  SLUICE_TRY(const std::string path, checked(request.path));
  const auto [parent_path, name] = split_last(path);
  if (name.empty() || is_dots(name)) {
    return Error(ErrorCode::kInvalidArgument, path + " cannot be reset");
  }
  SLUICE_TRY(const Fd parent, open_plain(parent_path, Missing::kMake, process));
  // Whatever has the name goes, a link itself included. What cannot be removed whole (a mount
  // point) is emptied and kept.
  if (::unlinkat(parent.get(), name.c_str(), 0) != 0 && errno != ENOENT) {
    const Fd old = open_to_empty(parent.get(), name);
    if (!old) return path_error(path, errno);
    SLUICE_TRY_VOID(empty_directory(old.get(), path));
    if (::unlinkat(parent.get(), name.c_str(), AT_REMOVEDIR) != 0 && errno != EBUSY) {
      return path_error(path, errno);
    }
  }
  if (::mkdirat(parent.get(), name.c_str(), 0700) != 0 && errno != EEXIST) {
    return path_error(path, errno);
  }
  const Fd fresh = open_directory_at(parent.get(), name.c_str());
  if (!fresh) return path_error(path, errno);
  if (!own(fresh, process)) return path_error(path, errno);
  if (::fchmod(fresh.get(), request.mode) != 0) return path_error(path, errno);
  return Bytes();
}

Result<VerbReply> carry_out(const wire::GiveTree& request, const VerbProcess& process) {
  SLUICE_TRY(const std::string path, checked(request.path));
  // With a single user there is nobody to give anything to.
  SLUICE_TRY(const Fd top, open_plain(path, Missing::kError, process));
  if (process.users == Users::kSingle) return wire::encode(wire::Count{0});
  auto root = [&] {
    return open_directory_at(top.get(), ".");
  };

  // How many names each file with several has within the tree. One with more names than that has a
  // name outside, perhaps a place its owner must not get at: it stays as it is.
  std::map<Inode, nlink_t> names;
  SLUICE_TRY_VOID(walk(root(), path, [&](int, const struct stat& st) -> Result<void> {
    if (!S_ISDIR(st.st_mode) && st.st_nlink > 1) ++names[{st.st_dev, st.st_ino}];
    return {};
  }));
  std::set<Inode> left;
  SLUICE_TRY_VOID(walk(root(), path, [&](int entry, const struct stat& st) -> Result<void> {
    if (!S_ISDIR(st.st_mode) && st.st_nlink > 1) {
      const auto found = names.find({st.st_dev, st.st_ino});
      if (found == names.end() || found->second < st.st_nlink) {
        left.emplace(st.st_dev, st.st_ino);
        return {};
      }
    }
    SLUICE_TRY(const bool given, give(entry, process.user, path));
    if (!given) left.emplace(st.st_dev, st.st_ino);
    return {};
  }));
  SLUICE_TRY(const bool given, give(top.get(), process.user, path));
  if (!given) return path_error(path, EROFS);
  return wire::encode(wire::Count{left.size()});
}

}  // namespace sluice::guest::program
