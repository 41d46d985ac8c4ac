// Stream and Listener: bytes to and from one peer, whatever carries them (TCP, a unix socket, TLS,
// or a guest's channel). HTTP runs on these, never on a socket type.
//
// A stream has one owner and lives on one shard: every member is called from that shard's thread.
// It must outlive the coroutines suspended in it; close() makes those return kClosed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/deadline.h"
#include "sluice/base/core/result.h"
#include "sluice/net/executor.h"

namespace sluice::net {

enum class PeerClose : uint8_t {
  kFin,    // the peer ended its side in order; it may still read
  kReset,  // the connection is gone
};

class Stream {
 public:
  virtual ~Stream() = default;

  // At least one byte, or 0 at the end of the peer's side.
  // REQUIRES: no other read is under way, and `into` is not empty.
  virtual awaitable<Result<size_t>> read_some(std::span<std::byte> into) = 0;

  // Returns when every byte is with the carrier (the kernel, the guest's channel). May run beside a
  // read.
  // REQUIRES: no other write is under way, and `bytes` stay until it returns.
  virtual awaitable<Result<void>> write_all(std::span<const std::byte> bytes) = 0;

  // Returns when the peer's kernel has acknowledged every byte written so far. An Error if the
  // connection broke first or the deadline passed.
  // REQUIRES: neither a write nor another drained() is under way.
  virtual awaitable<Result<void>> drained(Deadline deadline) = 0;

  // Calls `callback` once, when the peer closes its side while nobody reads; never from inside this
  // call. A second call replaces the callback, an empty one stops the watch. Bytes that arrive
  // while watching end the watch (they are kept for the next read).
  virtual void on_peer_closed(std::function<void(PeerClose)> callback) = 0;

  // Ends this side in order, behind all that was written; reading goes on.
  // REQUIRES: no write is under way, and none follows.
  virtual void finish() = 0;

  // Ends both directions at once; what the carrier holds unsent may be lost. Idempotent.
  virtual void close() = 0;

  // "127.0.0.1:41234", for logs.
  virtual std::string peer() const = 0;
};

class Listener {
 public:
  virtual ~Listener() = default;
  // kClosed after close().
  virtual awaitable<Result<std::unique_ptr<Stream>>> accept() = 0;
  virtual void close() = 0;
  // "127.0.0.1:8080", for logs and for who must be told where to connect.
  virtual std::string address() const = 0;
};

inline awaitable<Result<void>> write_all(Stream* stream, ByteView bytes) {
  return stream->write_all(as_byte_span(bytes));
}

}  // namespace sluice::net
