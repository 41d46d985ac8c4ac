// Trees of files as the guest's verbs work on them: by descriptors, following no link, of any
// depth.
//
// Used by the processes of verbs.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/base/core/fd.h"
#include "sluice/base/core/passwd.h"
#include "sluice/base/core/result.h"

namespace sluice::guest::program {

// What the kernel says of a path. What is wrong with the path itself is the caller's argument.
Error path_error(const std::string& path, int failure);

// An absolute path without trailing slashes: with one, the kernel would follow a link in the last
// component whatever the flags say.
Result<std::string> checked(const std::string& path);
std::pair<std::string, std::string> split_last(const std::string& path);
inline bool is_dots(std::string_view name) {
  return name == "." || name == "..";
}

// For what is renamed to its own name when it is whole.
std::string random_name();

// A directory that is being walked: its descriptor and its entries' names, read at once so that the
// walk does not see what it changes.
struct OpenDirectory {
  Fd fd;
  std::vector<std::string> names;
  std::string path;  // relative to the walk's root
};
Result<OpenDirectory> read_directory(Fd fd, std::string path);

Fd open_directory_at(int at, const char* name);

// Gives what was made to `owner`, if there is one. False, with errno, if that fails.
bool own(const Fd& made, const User* owner);
// Opens `path` from the root down, following no link at all. With kMake, what is missing is made
// and given to `owner`.
enum class Missing : uint8_t { kError, kMake };
Result<Fd> open_plain(const std::string& path, Missing missing, const User* owner);

// With permission to read and change it, which a directory may deny its own owner.
Fd open_to_empty(int at, const std::string& name);

// Removes all that is in the directory `top`. A tree deeper than the descriptors go is taken apart:
// its lower part is moved up to `top` and removed from there.
Result<void> empty_directory(int top, const std::string& path);
// Removes whatever has the name, a link itself included. What cannot be removed whole (a mount
// point) is emptied and kept. `path` is for errors.
Result<void> remove_entry(int at, const std::string& name, const std::string& path);

// How deep a tree may be that is walked through.
size_t tree_depth_limit();
enum class TooDeep : uint8_t { kFail, kLeave };  // what is deeper: an error, or left out

// Calls `visit(directory, name, entry, stat)` for everything below `root`, a directory before what
// is in it; `directory` and `entry` are descriptors, the latter pins what is looked at. Follows
// nothing and stays on the root's filesystem. How many directories were too deep and left out.
template <class Visit>
Result<size_t> walk(Fd root, const std::string& path, TooDeep too_deep, Visit visit) {
  const size_t limit = tree_depth_limit();
  size_t left = 0;
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
    SLUICE_TRY_VOID(visit(here.fd.get(), name, entry.get(), st));
    if (!S_ISDIR(st.st_mode)) continue;
    if (stack.size() == limit) {
      ++left;
      if (too_deep == TooDeep::kLeave) continue;
      return Error(ErrorCode::kTooLarge,
                   path + ": more than " + std::to_string(limit) + " directories deep");
    }
    Fd below = open_directory_at(entry.get(), ".");
    if (!below) return path_error(path + ": " + name, errno);
    SLUICE_TRY(auto opened, read_directory(std::move(below), name));
    stack.push_back(std::move(opened));
  }
  return left;
}

}  // namespace sluice::guest::program
