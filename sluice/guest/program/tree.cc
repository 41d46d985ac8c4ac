#include "sluice/guest/program/tree.h"

#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>

#include "sluice/base/core/syscalls.h"

namespace sluice::guest::program {
namespace {

// Deeper than any tree that a tool can work on (PATH_MAX / 2), and few enough descriptors.
constexpr size_t kMaxTreeDepth = 2048;

}  // namespace

size_t tree_depth_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 200;
  return std::clamp<size_t>(limit.rlim_cur, 128, kMaxTreeDepth + 64) - 64;
}

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

std::string random_name() {
  unsigned char bytes[12];
  if (::getrandom(bytes, sizeof bytes, 0) != sizeof bytes) return ".sluice-new";
  return ".sluice-" + to_hex({reinterpret_cast<const char*>(bytes), sizeof bytes});
}

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

bool own(const Fd& made, const User* owner) {
  return owner == nullptr || ::fchown(made.get(), owner->uid, owner->gid) == 0;
}

Result<Fd> open_plain(const std::string& path, Missing missing, const User* owner) {
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
      if (next && !own(next, owner)) return path_error(path, errno);
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

Result<void> remove_entry(int at, const std::string& name, const std::string& path) {
  if (::unlinkat(at, name.c_str(), 0) == 0 || errno == ENOENT) return {};
  const Fd old = open_to_empty(at, name);
  if (!old) return path_error(path, errno);
  SLUICE_TRY_VOID(empty_directory(old.get(), path));
  if (::unlinkat(at, name.c_str(), AT_REMOVEDIR) != 0 && errno != EBUSY) {
    return path_error(path, errno);
  }
  return {};
}

}  // namespace sluice::guest::program
