#include "sluice/cli/output.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "sluice/base/core/error.h"
#include "sluice/base/printable.h"

namespace sluice::cli {
namespace {

// Of a pipe or a terminal.
bool nobody_reads(int fd) {
  pollfd end{fd, POLLOUT, 0};
  return ::poll(&end, 1, 0) > 0 && (end.revents & (POLLERR | POLLHUP)) != 0;
}

}  // namespace

void write(std::FILE* to, std::string_view text) {
  // What could not be written is known to `to`.
  [[maybe_unused]] const size_t written = std::fwrite(text.data(), 1, text.size(), to);
}

void put_json(std::string json) {
  escape_unprintable(json);
  json.push_back('\n');
  put(json);
  std::fflush(stdout);
}

void hold_standard_descriptors() {
  // The lowest number is taken that is free. Not for writing: that fails as it would have.
  int fd = 0;
  do {
    fd = ::open("/dev/null", O_RDONLY);
  } while (fd >= 0 && fd <= 2);
  if (fd > 2) ::close(fd);
}

int finish_output(int code) {
  const bool failed = std::fflush(stdout) != 0 || std::ferror(stdout) != 0;
  if (!failed || nobody_reads(STDOUT_FILENO)) return code;
  say("sluice: not all of the output could be written to stdout: is its disk full, or was it "
      "closed?\n");
  return code != 0 ? code : exit_code(ErrorCode::kIo);
}

}  // namespace sluice::cli
