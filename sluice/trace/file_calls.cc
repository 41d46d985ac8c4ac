#include "sluice/trace/file_calls.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace sluice::trace {

int FileCalls::open(const std::string& path, int flags) {
  return ::open(path.c_str(), flags | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
}

ssize_t FileCalls::write(int fd, ByteView bytes) {
  return ::write(fd, bytes.data(), bytes.size());
}

ssize_t FileCalls::write_at(int fd, std::span<const iovec> pieces, uint64_t offset) {
  return ::pwritev(fd, pieces.data(), static_cast<int>(pieces.size()), static_cast<off_t>(offset));
}

ssize_t FileCalls::read_at(int fd, std::span<char> to, uint64_t offset) {
  return ::pread(fd, to.data(), to.size(), static_cast<off_t>(offset));
}

int FileCalls::reserve(int fd, uint64_t offset, uint64_t size) {
  return ::fallocate(fd, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(size));
}

int FileCalls::truncate(int fd, uint64_t size) {
  return ::ftruncate(fd, static_cast<off_t>(size));
}

int64_t FileCalls::size(int fd) {
  struct stat status;
  return ::fstat(fd, &status) == 0 ? status.st_size : -1;
}

Result<Bytes> FileCalls::read_parts(int fd, const Parts& parts) {
  Bytes out;
  for (auto [offset, size] : parts) {
    const size_t start = out.size();
    out.resize(start + size);
    for (auto to = std::span(out).subspan(start); !to.empty();) {
      const ssize_t n = read_at(fd, to, offset);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return errno_error("read", errno);
      if (n == 0) return Error(ErrorCode::kProtocol, "the file has been cut short");
      to = to.subspan(static_cast<size_t>(n));
      offset += static_cast<uint64_t>(n);
    }
  }
  return out;
}

}  // namespace sluice::trace
