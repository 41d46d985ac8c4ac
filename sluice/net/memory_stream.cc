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

// One end, and the bytes on their way to it.
struct MemoryStream::End {
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
  void take_all() {
    arrived.clear();
    taken = 0;
  }
  void wake() {
    readable.notify();
    writable.notify();
    acked.notify();
  }
};

struct MemoryStream::Pipe {
  Pipe(Shard& s, size_t c) : shard(s), credit(c) {}

  // By `end`, whose own unread bytes go; the other end keeps what has reached it.
  void break_off(End& end) {
    broken = true;
    end.take_all();
    for (End& each : ends) each.wake();
  }

  // Tells the watcher of `end` of an end that it can see now.
  static void tell(const std::shared_ptr<Pipe>& pipe, End& end) {
    if (!end.on_closed || (!end.finished && !pipe->broken)) return;
    if (end.unread() > 0) {
      end.on_closed = nullptr;
      return;
    }
    pipe->shard.post([pipe, &end] {
      if (!end.on_closed || end.closed || end.unread() > 0) return;
      const auto callback = std::exchange(end.on_closed, nullptr);
      callback(pipe->broken ? PeerClose::kReset : PeerClose::kFin);
    });
  }

  Shard& shard;
  const size_t credit;
  bool broken = false;
  std::array<End, 2> ends;
};

MemoryStream::MemoryStream(std::shared_ptr<Pipe> pipe, int side)
    : pipe_(std::move(pipe)),
      here_(pipe_->ends[static_cast<size_t>(side)]),
      there_(pipe_->ends[static_cast<size_t>(1 - side)]) {}

MemoryStream::~MemoryStream() {
  MemoryStream::close();
}

awaitable<Result<size_t>> MemoryStream::read_some(std::span<std::byte> into) {
  for (;;) {
    if (here_.closed) co_return closed_here();
    if (here_.unread() > 0) break;
    if (pipe_->broken) co_return was_reset();
    if (here_.finished) co_return size_t{0};
    SLUICE_CO_TRY_VOID(co_await wait_for(&here_.readable));
  }
  const size_t n = std::min(into.size(), here_.unread());
  std::memcpy(into.data(), here_.arrived.data() + here_.taken, n);
  here_.taken += n;
  if (here_.unread() == 0) here_.take_all();
  there_.writable.notify();
  co_return n;
}

awaitable<Result<void>> MemoryStream::write_all(std::span<const std::byte> bytes) {
  ByteView left = as_view(bytes);
  for (;;) {
    if (here_.closed) co_return closed_here();
    if (pipe_->broken || there_.closed) co_return was_reset();
    if (there_.finished) co_return Error(ErrorCode::kClosed, "this side was finished");
    if (left.empty()) co_return Result<void>();
    const size_t room = pipe_->credit - std::min(pipe_->credit, there_.unread());
    if (room == 0) {
      SLUICE_CO_TRY_VOID(co_await wait_for(&here_.writable));
      continue;
    }
    const ByteView now = left.substr(0, room);
    if (there_.taken > there_.arrived.size() / 2) {
      there_.arrived.erase(0, std::exchange(there_.taken, 0));
    }
    there_.arrived.append(now);
    if (there_.acknowledge == Acknowledge::kByHand) there_.unacknowledged += now.size();
    there_.on_closed = nullptr;  // bytes end a watch
    there_.readable.notify();
    left.remove_prefix(now.size());
  }
}

awaitable<Result<void>> MemoryStream::drained(Deadline deadline) {
  for (;;) {
    if (here_.closed) co_return closed_here();
    if (pipe_->broken) co_return was_reset();
    if (there_.unacknowledged == 0) co_return Result<void>();
    SLUICE_CO_TRY_VOID(co_await wait_for(&pipe_->shard, &here_.acked, deadline));
  }
}

void MemoryStream::on_peer_closed(std::function<void(PeerClose)> callback) {
  here_.on_closed = here_.unread() > 0 ? nullptr : std::move(callback);
  Pipe::tell(pipe_, here_);
}

void MemoryStream::close() {
  if (std::exchange(here_.closed, true)) return;
  here_.on_closed = nullptr;
  there_.finished = true;
  if (here_.unread() > 0) {
    pipe_->break_off(here_);
  } else {
    here_.wake();
    there_.wake();
  }
  Pipe::tell(pipe_, there_);
}

void MemoryStream::finish() {
  there_.finished = true;
  there_.readable.notify();
  Pipe::tell(pipe_, there_);
}

void MemoryStream::reset() {
  resetter()();
}

std::function<void()> MemoryStream::resetter() {
  return [pipe = pipe_, &here = here_, &there = there_] {
    if (here.closed) return;
    pipe->break_off(here);
    Pipe::tell(pipe, there);
  };
}

void MemoryStream::set_acknowledge(Acknowledge mode) {
  here_.acknowledge = mode;
}

void MemoryStream::acknowledge() {
  here_.unacknowledged = 0;
  there_.acked.notify();
}

size_t MemoryStream::unread() const {
  return here_.unread();
}

bool MemoryStream::peer_gone() const {
  return pipe_->broken || there_.closed;
}

Bytes MemoryStream::take_unread() {
  Bytes out = here_.arrived.substr(here_.taken);
  here_.take_all();
  there_.writable.notify();
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
    SLUICE_CO_TRY_VOID(co_await wait_for(&changed_));
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
