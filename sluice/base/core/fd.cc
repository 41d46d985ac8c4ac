#include "sluice/base/core/fd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>

namespace sluice {

Result<void> write_all(int fd, ByteView bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno_error("write", errno);
    }
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

Result<Bytes> read_to_end(int fd, size_t max) {
  Bytes out;
  char buffer[16384];
  for (;;) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno_error("read", errno);
    }
    if (n == 0) return out;
    if (out.size() + static_cast<size_t>(n) > max) {
      return Error(ErrorCode::kTooLarge, "more than " + std::to_string(max) + " bytes");
    }
    out.append(buffer, static_cast<size_t>(n));
  }
}

Result<Bytes> read_file(const std::string& path, size_t max) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) return errno_error(path, errno);
  struct stat st{};
  if (::fstat(fd.get(), &st) != 0) return errno_error(path, errno);
  if (!S_ISREG(st.st_mode)) {
    const bool directory = S_ISDIR(st.st_mode);
    return Error(ErrorCode::kInvalidArgument,
                 path + (directory ? " is a directory, not a file" : " is not a regular file"));
  }
  auto content = read_to_end(fd.get(), max);
  if (!content) return std::move(content).error().within(path);
  return content;
}

Result<void> write_file_atomically(const std::string& path, ByteView bytes, unsigned mode) {
  std::string temporary = path + ".XXXXXX";
  Fd fd(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!fd) return errno_error(path, errno);
  auto written = write_all(fd.get(), bytes);
  if (written && ::fchmod(fd.get(), mode) != 0) written = errno_error("fchmod", errno);
  if (written && ::rename(temporary.c_str(), path.c_str()) != 0) {
    written = errno_error("rename", errno);
  }
  if (!written) {
    ::unlink(temporary.c_str());
    return std::move(written).error().within(path);
  }
  return {};
}

Result<Fd> sealed_memfd(const char* name, ByteView content) {
  Fd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return errno_error("memfd_create", errno);
  SLUICE_TRY_VOID(write_all(fd.get(), content));
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) !=
      0) {
    return errno_error("fcntl(F_ADD_SEALS)", errno);
  }
  return fd;
}

}  // namespace sluice
