// File descriptors with an owner, and whole-buffer reads and writes on blocking ones.
#pragma once

#include <unistd.h>

#include <string>
#include <utility>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/result.h"

namespace sluice {

// Owns a file descriptor; -1 is none.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() { reset(); }
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

// All of `bytes`, whatever the number of write(2) calls; EINTR is retried.
Result<void> write_all(int fd, ByteView bytes);

// Until end of file. More than `max` bytes is kTooLarge.
Result<Bytes> read_to_end(int fd, size_t max);

// A regular file's content. `path` appears in the error.
Result<Bytes> read_file(const std::string& path, size_t max);

// Replaces `path` in one step: a reader sees the old file or the new one, never half of it.
Result<void> write_file_atomically(const std::string& path, ByteView bytes, unsigned mode = 0644);

// A memory file holding `content`, sealed against change, close-on-exec: for running an embedded
// program by fexecve or /proc/self/fd/N.
Result<Fd> sealed_memfd(const char* name, ByteView content);

}  // namespace sluice
