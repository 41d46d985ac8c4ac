#include "sluice/sandbox/fake/memory_stream.h"

#include <algorithm>
#include <cstring>

#include "sluice/net/wait.h"

namespace sluice::sandbox::fake {

using net::awaitable;
using net::PeerClose;

// What each end knows: the bytes that came to it, and what it was told of the other's end.
struct MemoryStream::Connection {
  struct End {
    Bytes unread;
    bool ended = false;   // no more will come
    bool reset = false;   // the connection is broken
    bool closed = false;  // by its own side
    net::Signal readable, writable;
    std::function<void(PeerClose)> watch;
  };

  Connection(net::Shard& s, size_t c) : shard(&s), capacity(c) {}

  void tell(int side, PeerClose how) {
    End& end = ends[side];
    (how == PeerClose::kFin ? end.ended : end.reset) = true;
    end.readable.notify();
    end.writable.notify();
    call_watch(side, how);
  }

  // Later, and only if the watch is still there then.
  static void call_watch_later(std::shared_ptr<Connection> self, int side) {
    net::Shard* shard = self->shard;
    shard->post([self = std::move(self), side] {
      End& end = self->ends[side];
      if (end.reset) {
        self->call_watch(side, PeerClose::kReset);
      } else if (end.ended && end.unread.empty()) {
        self->call_watch(side, PeerClose::kFin);
      }
    });
  }

  void call_watch(int side, PeerClose how) {
    End& end = ends[side];
    if (!end.watch || (how == PeerClose::kFin && !end.unread.empty())) return;
    const auto watch = std::exchange(end.watch, nullptr);
    watch(how);
  }

  net::Shard* shard;
  size_t capacity;
  End ends[2];
};

MemoryStream::Ends MemoryStream::make_pair(net::Shard& shard, size_t capacity) {
  auto connection = std::make_shared<Connection>(shard, capacity);
  return {std::unique_ptr<MemoryStream>(new MemoryStream(connection, 0)),
          std::unique_ptr<MemoryStream>(new MemoryStream(connection, 1))};
}

awaitable<Result<size_t>> MemoryStream::read_some(std::span<std::byte> into) {
  const auto connection = connection_;
  auto& mine = connection->ends[side_];
  auto& theirs = connection->ends[1 - side_];
  for (;;) {
    if (mine.closed) co_return Error(ErrorCode::kClosed, "read: closed here");
    if (!mine.unread.empty()) {
      const size_t n = std::min(into.size(), mine.unread.size());
      std::memcpy(into.data(), mine.unread.data(), n);
      mine.unread.erase(0, n);
      theirs.writable.notify();
      co_return n;
    }
    if (mine.reset) co_return Error(ErrorCode::kClosed, "read: connection reset by peer");
    if (mine.ended) co_return size_t{0};
    SLUICE_CO_TRY_VOID(co_await net::wait_for(&mine.readable));
  }
}

awaitable<Result<void>> MemoryStream::write_all(std::span<const std::byte> bytes) {
  const auto connection = connection_;
  auto& mine = connection->ends[side_];
  auto& theirs = connection->ends[1 - side_];
  ByteView rest = as_view(bytes);
  while (!rest.empty()) {
    if (mine.closed) co_return Error(ErrorCode::kClosed, "write: closed here");
    if (mine.reset || theirs.closed) co_return Error(ErrorCode::kClosed, "write: broken pipe");
    const size_t room = connection->capacity - std::min(connection->capacity, theirs.unread.size());
    if (room == 0) {
      SLUICE_CO_TRY_VOID(co_await net::wait_for(&mine.writable));
      continue;
    }
    const size_t n = std::min(room, rest.size());
    theirs.unread.append(rest.substr(0, n));
    rest.remove_prefix(n);
    theirs.watch = nullptr;  // bytes end the watch
    theirs.readable.notify();
  }
  co_return Result<void>();
}

awaitable<Result<void>> MemoryStream::drained(Deadline) {
  // What was written is in the other end's buffer, as on loopback; a reset may have dropped it.
  const auto& mine = connection_->ends[side_];
  if (mine.closed) co_return Error(ErrorCode::kClosed, "drain: closed here");
  if (mine.reset) co_return Error(ErrorCode::kClosed, "drain: connection reset");
  co_return Result<void>();
}

void MemoryStream::on_peer_closed(std::function<void(PeerClose)> callback) {
  auto& mine = connection_->ends[side_];
  mine.watch = mine.unread.empty() ? std::move(callback) : nullptr;
  if (mine.watch && (mine.ended || mine.reset)) Connection::call_watch_later(connection_, side_);
}

void MemoryStream::close() {
  auto& mine = connection_->ends[side_];
  if (std::exchange(mine.closed, true)) return;
  mine.watch = nullptr;
  mine.readable.notify();
  mine.writable.notify();
  connection_->tell(1 - side_, mine.unread.empty() ? PeerClose::kFin : PeerClose::kReset);
}

void MemoryStream::end() {
  if (!connection_->ends[side_].closed) connection_->tell(1 - side_, PeerClose::kFin);
}

void MemoryStream::reset(Connection& connection, int side) {
  auto& mine = connection.ends[side];
  if (std::exchange(mine.closed, true)) return;
  mine.watch = nullptr;
  mine.readable.notify();
  mine.writable.notify();
  connection.ends[1 - side].unread.clear();
  connection.tell(1 - side, PeerClose::kReset);
}

void MemoryStream::reset() {
  reset(*connection_, side_);
}

std::function<void()> MemoryStream::breaker() const {
  return [weak = std::weak_ptr(connection_), side = side_] {
    if (const auto connection = weak.lock()) reset(*connection, side);
  };
}

bool MemoryStream::is_closed() const {
  return connection_->ends[side_].closed;
}

}  // namespace sluice::sandbox::fake
