#include "sluice/net/memory_stream.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "sluice/net/wait.h"

namespace sluice::net {
namespace {

Error closed_here() {
  return Error(ErrorCode::kClosed, "closed here");
}
Error was_reset() {
  return Error(ErrorCode::kClosed, "connection reset by the peer");
}

}  // namespace

struct MemoryStream::Pipe {
  // One end, and the bytes on their way to it.
  struct End {
    Bytes arrived;
    size_t taken = 0;  // of `arrived`, already read
    size_t unacknowledged = 0;
    Acknowledge acknowledge = Acknowledge::kOnArrival;
    bool finished = false;  // the other end will send no more
    bool closed = false;    // this end was closed
    std::function<void(PeerClose)> on_closed;
    Signal readable;  // wakes this end's reader
    Signal writable;  // wakes this end's writer
    Signal acked;     // wakes this end's drained()

    size_t unread() const { return arrived.size() - taken; }
    void wake() {
      readable.notify();
      writable.notify();
      acked.notify();
    }
  };

  Pipe(Shard& s, size_t c) : shard(s), credit(c) {}

  // By the end `side`, whose own unread bytes go; the other end keeps what has reached it.
  void break_off(int side) {
    broken = true;
    End& end = ends[static_cast<size_t>(side)];
    end.arrived.clear();
    end.taken = 0;
    for (End& each : ends) each.wake();
  }

  // Tells the watcher of `side` of an end that it can see now.
  static void tell(const std::shared_ptr<Pipe>& pipe, int side) {
    End& end = pipe->ends[static_cast<size_t>(side)];
    if (!end.on_closed || (!end.finished && !pipe->broken)) return;
    if (end.unread() > 0) {
      end.on_closed = nullptr;
      return;
    }
    pipe->shard.post([pipe, side] {
      End& e = pipe->ends[static_cast<size_t>(side)];
      if (!e.on_closed || e.closed || e.unread() > 0) return;
      const auto callback = std::exchange(e.on_closed, nullptr);
      callback(pipe->broken ? PeerClose::kReset : PeerClose::kFin);
    });
  }

  Shard& shard;
  const size_t credit;
  bool broken = false;
  std::array<End, 2> ends;
};

namespace {

MemoryStream::Pipe::End& end_of(MemoryStream::Pipe& pipe, int side) {
  return pipe.ends[static_cast<size_t>(side)];
}

}  // namespace

MemoryStream::~MemoryStream() {
  MemoryStream::close();
}

awaitable<Result<size_t>> MemoryStream::read_some(std::span<std::byte> into) {
  Pipe::End& here = end_of(*pipe_, side_);
  for (;;) {
    if (here.closed) co_return closed_here();
    if (here.unread() > 0) break;
    if (pipe_->broken) co_return was_reset();
    if (here.finished) co_return size_t{0};
    const auto waited = co_await wait_for(&here.readable);
    if (!waited) co_return waited.error();
  }
  const size_t n = std::min(into.size(), here.unread());
  std::memcpy(into.data(), here.arrived.data() + here.taken, n);
  here.taken += n;
  if (here.unread() == 0) {
    here.arrived.clear();
    here.taken = 0;
  }
  end_of(*pipe_, 1 - side_).writable.notify();
  co_return n;
}

awaitable<Result<void>> MemoryStream::write_all(std::span<const std::byte> bytes) {
  Pipe::End& here = end_of(*pipe_, side_);
  Pipe::End& there = end_of(*pipe_, 1 - side_);
  ByteView left = as_view(bytes);
  for (;;) {
    if (here.closed) co_return closed_here();
    if (pipe_->broken || there.closed) co_return was_reset();
    if (there.finished) co_return Error(ErrorCode::kClosed, "this side was finished");
    if (left.empty()) co_return Result<void>();
    const size_t room = pipe_->credit - std::min(pipe_->credit, there.unread());
    if (room == 0) {
      const auto waited = co_await wait_for(&here.writable);
      if (!waited) co_return waited.error();
      continue;
    }
    const ByteView now = left.substr(0, room);
    if (there.taken > there.arrived.size() / 2) {
      there.arrived.erase(0, std::exchange(there.taken, 0));
    }
    there.arrived.append(now);
    if (there.acknowledge == Acknowledge::kByHand) there.unacknowledged += now.size();
    there.on_closed = nullptr;  // bytes end a watch
    there.readable.notify();
    left.remove_prefix(now.size());
  }
}

awaitable<Result<void>> MemoryStream::drained(Deadline deadline) {
  Pipe::End& here = end_of(*pipe_, side_);
  Pipe::End& there = end_of(*pipe_, 1 - side_);
  for (;;) {
    if (here.closed) co_return closed_here();
    if (pipe_->broken) co_return was_reset();
    if (there.unacknowledged == 0) co_return Result<void>();
    const auto waited = co_await wait_for(&pipe_->shard, &here.acked, deadline);
    if (!waited) co_return waited.error();
  }
}

void MemoryStream::on_peer_closed(std::function<void(PeerClose)> callback) {
  Pipe::End& here = end_of(*pipe_, side_);
  here.on_closed = here.unread() > 0 ? nullptr : std::move(callback);
  Pipe::tell(pipe_, side_);
}

void MemoryStream::close() {
  Pipe::End& here = end_of(*pipe_, side_);
  if (std::exchange(here.closed, true)) return;
  here.on_closed = nullptr;
  Pipe::End& there = end_of(*pipe_, 1 - side_);
  there.finished = true;
  if (here.unread() > 0) {
    pipe_->break_off(side_);
  } else {
    here.wake();
    there.wake();
  }
  Pipe::tell(pipe_, 1 - side_);
}

void MemoryStream::finish() {
  Pipe::End& there = end_of(*pipe_, 1 - side_);
  there.finished = true;
  there.readable.notify();
  Pipe::tell(pipe_, 1 - side_);
}

void MemoryStream::reset() {
  pipe_->break_off(side_);
  Pipe::tell(pipe_, 1 - side_);
}

void MemoryStream::set_acknowledge(Acknowledge mode) {
  end_of(*pipe_, side_).acknowledge = mode;
}

void MemoryStream::acknowledge() {
  end_of(*pipe_, side_).unacknowledged = 0;
  end_of(*pipe_, 1 - side_).acked.notify();
}

size_t MemoryStream::unread() const {
  return end_of(*pipe_, side_).unread();
}

bool MemoryStream::peer_gone() const {
  return pipe_->broken || end_of(*pipe_, 1 - side_).closed;
}

Bytes MemoryStream::take_unread() {
  Pipe::End& here = end_of(*pipe_, side_);
  Bytes out = here.arrived.substr(here.taken);
  here.arrived.clear();
  here.taken = 0;
  end_of(*pipe_, 1 - side_).writable.notify();
  return out;
}

MemoryPair memory_pair(Shard& shard, size_t credit) {
  auto pipe = std::make_shared<MemoryStream::Pipe>(shard, credit);
  return {std::make_unique<MemoryStream>(pipe, 0), std::make_unique<MemoryStream>(pipe, 1)};
}

MemoryListener::MemoryListener(Shard& shard) : shard_(shard) {}
MemoryListener::~MemoryListener() = default;

awaitable<Result<std::unique_ptr<Stream>>> MemoryListener::accept() {
  for (;;) {
    if (closed_) co_return closed_here();
    if (!waiting_.empty()) {
      auto stream = std::move(waiting_.front());
      waiting_.pop_front();
      co_return stream;
    }
    const auto waited = co_await wait_for(&changed_);
    if (!waited) co_return waited.error();
  }
}

void MemoryListener::close() {
  closed_ = true;
  waiting_.clear();
  changed_.notify();
}

std::unique_ptr<MemoryStream> MemoryListener::connect(size_t credit) {
  MemoryPair pair = memory_pair(shard_, credit);
  if (closed_) {
    pair.second->close();
  } else {
    waiting_.push_back(std::move(pair.second));
    changed_.notify();
  }
  return std::move(pair.first);
}

}  // namespace sluice::net
