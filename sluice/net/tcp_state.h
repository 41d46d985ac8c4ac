// What the kernel tells of a TCP connection beyond what Asio asks. Alone in its file, because the
// kernel's own header of TCP and the C library's, which Asio includes, do not go together.
#pragma once

#include "sluice/base/core/result.h"

namespace sluice::net {

enum class Unacknowledged : uint8_t { kNothing, kSome, kReset };

// Whether the peer's kernel has all that was written to the socket; kReset if the connection is
// gone, be it that the peer closed with some of it unread. Any thread.
Result<Unacknowledged> unacknowledged(int tcp_socket);

}  // namespace sluice::net
