// Two ends of a connection in memory, behaving as two ends of a TCP connection on loopback do:
// buffered, with an end of file per direction, and a reset where a side closes with bytes unread.
//
// Both ends live on one shard.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "sluice/net/shard.h"
#include "sluice/net/stream.h"

namespace sluice::sandbox::fake {

class MemoryStream final : public net::Stream {
 public:
  using Ends = std::pair<std::unique_ptr<MemoryStream>, std::unique_ptr<MemoryStream>>;
  // A writer waits while `capacity` bytes are unread.
  static Ends make_pair(net::Shard& shard, size_t capacity = 256 * 1024);
  ~MemoryStream() override { MemoryStream::close(); }

  net::awaitable<Result<size_t>> read_some(std::span<std::byte> into) override;
  net::awaitable<Result<void>> write_all(std::span<const std::byte> bytes) override;
  net::awaitable<Result<void>> drained(Deadline deadline) override;
  void on_peer_closed(std::function<void(net::PeerClose)> callback) override;
  void close() override;
  std::string peer() const override { return "memory"; }

  // Ends this side's direction in order; the other one stays (shutdown(SHUT_WR)).
  void end();
  // Closes so that the other side sees a broken connection; what it has not read is lost.
  void reset();
  // Resets the connection, if there still is one; may be called when the stream is gone.
  std::function<void()> breaker() const;
  // Closed from this side.
  bool is_closed() const;

 private:
  struct Connection;
  static void reset(Connection& connection, int side);
  MemoryStream(std::shared_ptr<Connection> connection, int side)
      : connection_(std::move(connection)), side_(side) {}

  std::shared_ptr<Connection> connection_;
  const int side_;  // 0 or 1
};

}  // namespace sluice::sandbox::fake
