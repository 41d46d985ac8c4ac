// Link: what carries the frames between the host and one guest. A socket pair for local sandboxes;
// any stream (an attach stream, a provider's proxy) for others.
//
// Lives on one shard and has one owner, the Client. Frames are none of its business: a write may
// arrive in any pieces.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "sluice/base/core/fd.h"
#include "sluice/base/core/result.h"
#include "sluice/net/shard.h"
#include "sluice/net/stream.h"

namespace sluice::guest {

using net::awaitable;

class Link {
 public:
  virtual ~Link() = default;

  // Whether the guest can hand over sockets. Over a link that cannot, it carries connections.
  virtual bool passes_descriptors() const = 0;
  // At least one byte, or 0 when the guest's side has ended. Descriptors that came along are
  // appended to `fds`. One read at a time.
  virtual awaitable<Result<size_t>> read_some(std::span<std::byte> into, std::vector<Fd>* fds) = 0;
  // Returns when all is with the carrier. One write at a time; may run beside a read.
  virtual awaitable<Result<void>> write_all(ByteView bytes) = 0;
  // At once; what is suspended returns kClosed. Idempotent.
  virtual void close() = 0;
};

// Over a connected unix stream socket: the one that passes descriptors.
Result<std::unique_ptr<Link>> make_socket_link(net::Shard& shard, Fd socket);
// Over whatever carries bytes to the guest and back, in order.
std::unique_ptr<Link> make_stream_link(std::unique_ptr<net::Stream> stream);

// Closes a descriptor that a guest sent. A socket may have been told to wait in close(2) until its
// bytes are gone (SO_LINGER), which would hold up the whole shard.
void close_foreign(Fd fd);

}  // namespace sluice::guest
