// Link: what carries the frames between the host and one guest. A socket pair for local sandboxes;
// an attach stream or a provider's proxy for others.
//
// Lives on one shard and has one owner, the Client.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "sluice/base/core/fd.h"
#include "sluice/base/core/result.h"
#include "sluice/net/shard.h"

namespace sluice::guest {

using net::awaitable;

class Link {
 public:
  virtual ~Link() = default;

  // At least one byte, or 0 when the guest's side has ended. Descriptors that came along, which
  // only some links can carry, are appended to `fds`. One read at a time.
  virtual awaitable<Result<size_t>> read_some(std::span<std::byte> into, std::vector<Fd>* fds) = 0;
  // Returns when all is with the carrier. One write at a time; may run beside a read.
  virtual awaitable<Result<void>> write_all(ByteView bytes) = 0;
  // At once; what is suspended returns kClosed. Idempotent.
  virtual void close() = 0;
};

// Over a connected unix stream socket.
Result<std::unique_ptr<Link>> make_socket_link(net::Shard& shard, Fd socket);

// Closes a descriptor that a guest sent. A socket may have been told to wait in close(2) until its
// bytes are gone (SO_LINGER), which would hold up the whole shard.
void close_foreign(Fd fd);

}  // namespace sluice::guest
