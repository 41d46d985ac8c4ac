// System calls as the guest, the sandbox helper and the engine use them alike: pipes, files of the
// kernel's, directories, and descriptors that travel with bytes over a unix socket (SCM_RIGHTS).
//
// No state; any thread.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/core/result.h"

namespace sluice {

// Close-on-exec.
struct Pipe {
  Fd read, write;
};
Result<Pipe> make_pipe();

// To a file that is there, in one write(2), as those of /proc and of control groups want it.
Result<void> write_kernel_file(const std::string& path, ByteView text);

// What is in a directory but "." and "..", in no order.
Result<std::vector<std::string>> names_in(int directory);

inline constexpr size_t kMaxPassedFds = 4;

// As send(2), never with SIGPIPE; EINTR is retried. `fds` go with the first byte that is taken.
// REQUIRES: fds.size() <= kMaxPassedFds; with any, bytes is not empty.
ssize_t send_with_fds(int socket, ByteView bytes, std::span<const int> fds, int flags);

// As recv(2); EINTR is retried. What came along is appended to `fds`, close-on-exec. A message that
// was cut, or came with more than kMaxPassedFds, is EMSGSIZE.
ssize_t receive_with_fds(int socket, std::span<std::byte> into, std::vector<Fd>* fds, int flags);

}  // namespace sluice
