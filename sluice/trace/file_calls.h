// FileCalls: the system calls by which a recorder writes its files and reads them again, so that a
// test can put a disk in their place that is slow or full. Each is the call it is named after and
// sets errno as that does. read_at() from any thread, the others from the recorder's own.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/result.h"

namespace sluice::trace {

// Where a piece of a body lies in its file.
struct Part {
  uint64_t offset = 0, size = 0;
};
using Parts = std::vector<Part>;

class FileCalls {
 public:
  virtual ~FileCalls() = default;
  // open(2) for the owner alone, made if it is not there.
  virtual int open(const std::string& path, int flags);
  virtual ssize_t write(int fd, ByteView bytes);
  virtual ssize_t write_at(int fd, std::span<const iovec> pieces, uint64_t offset);
  virtual ssize_t read_at(int fd, std::span<char> to, uint64_t offset);
  // fallocate(2) that leaves the size as it is.
  virtual int reserve(int fd, uint64_t offset, uint64_t size);
  virtual int truncate(int fd, uint64_t size);
  // As fstat(2) tells it; -1 if it does not.
  virtual int64_t size(int fd);

  // The bytes of the parts, one behind the other. kProtocol if the file ends before them.
  Result<Bytes> read_parts(int fd, const Parts& parts);
};

}  // namespace sluice::trace
