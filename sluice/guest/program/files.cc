#include "sluice/guest/program/files.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/base/core/defer.h"
#include "sluice/base/core/syscalls.h"
#include "sluice/guest/program/tree.h"

namespace sluice::guest::program {
namespace {

using wire::FileStat;

constexpr size_t kPiece = 64 * 1024;
constexpr int kMaxListDepth = 256;

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
  const User* owner = process.users == Users::kSingle ? nullptr : &process.user;
  SLUICE_TRY(const Fd parent, open_plain(parent_path, Missing::kMake, owner));
  SLUICE_TRY_VOID(remove_entry(parent.get(), name, path));
  if (::mkdirat(parent.get(), name.c_str(), 0700) != 0 && errno != EEXIST) {
    return path_error(path, errno);
  }
  const Fd fresh = open_directory_at(parent.get(), name.c_str());
  if (!fresh) return path_error(path, errno);
  if (!own(fresh, owner)) return path_error(path, errno);
  if (::fchmod(fresh.get(), request.mode) != 0) return path_error(path, errno);
  return Bytes();
}

}  // namespace sluice::guest::program
