// A pair of connected streams in memory, and a listener of such: for tests of whatever runs on a
// Stream, without sockets and with the peer's kernel under the test's control (when it
// acknowledges, and how the connection ends).
//
// Like a Linux socket: each direction holds at most `credit` unread bytes, a writer waits beyond
// that; closing with unread bytes resets the connection; what had arrived before a reset can still
// be read, and then the error comes. Both ends live on one shard.
#pragma once

#include <deque>
#include <memory>
#include <string>

#include "sluice/net/shard.h"
#include "sluice/net/stream.h"

namespace sluice::net {

class MemoryStream final : public Stream {
 public:
  // What drained() of the other end waits for.
  enum class Acknowledge : uint8_t { kOnArrival, kByHand };

  struct Pipe;
  MemoryStream(std::shared_ptr<Pipe> pipe, int side);
  ~MemoryStream() override;

  awaitable<Result<size_t>> read_some(std::span<std::byte> into) override;
  awaitable<Result<void>> write_all(std::span<const std::byte> bytes) override;
  awaitable<Result<void>> drained(Deadline deadline) override;
  void on_peer_closed(std::function<void(PeerClose)> callback) override;
  void finish() override;
  void close() override;
  std::string peer() const override { return "memory"; }

  // Breaks the connection from this end: what has arrived here and is unread is lost.
  void reset();
  // Does that later, unless this end was closed by then; may outlive the stream.
  std::function<void()> resetter();
  // How bytes that arrive at this end are acknowledged from now on.
  void set_acknowledge(Acknowledge mode);
  // Acknowledges all that has arrived at this end.
  void acknowledge();

  // Bytes that have arrived at this end and were not read yet.
  size_t unread() const;
  // The other end was closed or has reset the connection.
  bool peer_gone() const;
  // The same without waiting: takes what has arrived, nothing if nothing has.
  Bytes take_unread();

 private:
  struct End;

  const std::shared_ptr<Pipe> pipe_;
  End& here_;
  End& there_;
};

struct MemoryPair {
  std::unique_ptr<MemoryStream> first, second;
};
MemoryPair memory_pair(Shard& shard, size_t credit = 256 * 1024);

class MemoryListener final : public Listener {
 public:
  explicit MemoryListener(Shard& shard);
  ~MemoryListener() override;

  awaitable<Result<std::unique_ptr<Stream>>> accept() override;
  void close() override;
  std::string address() const override { return "memory"; }

  // A connection whose other end accept() returns.
  std::unique_ptr<MemoryStream> connect(size_t credit = 256 * 1024);

 private:
  Shard& shard_;
  std::deque<std::unique_ptr<Stream>> waiting_;
  Signal changed_;
  bool closed_ = false;
};

}  // namespace sluice::net
