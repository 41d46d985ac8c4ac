// Report: the pipe on which a sandbox's first process says what failed before it became the guest.
// The helper reads it; a successful exec closes it, which says that all went well.
//
// A plain value; the first process's one thread.
#pragma once

#include <unistd.h>

#include <string>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/error.h"

namespace sluice::sandbox::local {

struct Report {
  int fd = -1;

  // Ends the process. `failure` is an errno.
  [[noreturn]] void fail(const std::string& what, int failure) const {
    const Error error = errno_error(what, failure);
    Bytes message(1, static_cast<char>(error.code));
    message.append(error.message);
    // Nobody else is to be told.
    [[maybe_unused]] const auto ignored = ::write(fd, message.data(), message.size());
    ::_exit(1);
  }
};

}  // namespace sluice::sandbox::local
