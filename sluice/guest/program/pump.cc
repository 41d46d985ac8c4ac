#include "sluice/guest/program/pump.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "sluice/guest/wire/frame.h"

namespace sluice::guest::program {
namespace {

// Per wake-up, so that one that never runs dry does not keep the others waiting.
constexpr int kReadsAtOnce = 4;

}  // namespace

Source::Source(Loop& loop, Fd fd, uint64_t cap, Outlet outlet)
    : loop_(loop),
      fd_(std::move(fd)),
      tail_size_(static_cast<size_t>(std::min<uint64_t>(cap / 2, kMaxTail))),
      left_(cap - tail_size_),
      outlet_(std::move(outlet)) {
  update();
}

void Source::update() {
  if (!fd_) return;
  const bool reads = at_end_ || done_ || left_ == 0 || outlet_.room() > 0;
  if (reads && finishing_ && !at_end_ && !done_) {
    pump();
    return;
  }
  loop_.watch(fd_.get(), reads ? EPOLLIN : 0, [this](uint32_t) { pump(); });
}

void Source::resume() {
  if (at_end_) send_tail();
  update();
}

void Source::pump() {
  static char buffer[wire::kMaxPayload];  // one thread, and nothing is kept in it
  for (int i = 0; fd_; ++i) {
    const bool over = at_end_ || done_;
    if (i >= kReadsAtOnce && (!finishing_ || over)) break;
    size_t most = sizeof buffer;
    if (!over && left_ > 0) most = std::min<size_t>({most, outlet_.room(), left_});
    if (most == 0) break;
    const ssize_t n = TEMP_FAILURE_RETRY(::read(fd_.get(), buffer, most));
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      if (finishing_) end(false);
      break;
    }
    if (n <= 0) {
      loop_.forget(fd_.get());
      fd_.reset();
      end(n < 0);
      return;
    }
    const ByteView bytes(buffer, static_cast<size_t>(n));
    moved_ += bytes.size();
    if (over) continue;
    if (left_ > 0) {
      left_ -= bytes.size();
      outlet_.send(bytes);
    } else {
      keep(bytes);
    }
    if (finishing_) {
      finish_left_ -= std::min(finish_left_, bytes.size());
      if (finish_left_ == 0) end(false);
    }
  }
  update();
}

void Source::keep(ByteView bytes) {
  tail_.append(bytes);
  // Twice the room, so that not every piece moves all of it.
  if (tail_.size() <= tail_size_) return;
  truncated_ = true;
  if (tail_.size() > 2 * tail_size_) tail_.erase(0, tail_.size() - tail_size_);
}

void Source::end(bool failed) {
  if (at_end_ || done_) return;
  at_end_ = true;
  failed_ = failed;
  if (tail_.size() > tail_size_) tail_.erase(0, tail_.size() - tail_size_);
  send_tail();
}

void Source::send_tail() {
  while (!done_) {
    const ByteView rest = ByteView(tail_).substr(tail_sent_);
    const ByteView piece = rest.substr(0, std::min<size_t>(outlet_.room(), wire::kMaxPayload));
    if (!rest.empty() && piece.empty()) return;  // resume() goes on
    tail_sent_ += piece.size();
    if (!piece.empty()) outlet_.send(piece);
    if (piece.size() < rest.size()) continue;
    done_ = true;
    outlet_.ended(failed_);
  }
}

void Source::finish() {
  if (at_end_ || done_) return;
  finishing_ = true;
  pump();
}

void Source::drop() {
  done_ = true;
  update();
}

Sink::Sink(Loop& loop, Fd fd, Inlet inlet)
    : loop_(loop), fd_(std::move(fd)), inlet_(std::move(inlet)) {
  watch();
}

void Sink::watch() {
  if (!fd_) return;
  // With nothing to write, errors alone: they tell that the reader is gone.
  const uint32_t events = empty() ? static_cast<uint32_t>(EPOLLERR) : EPOLLOUT;
  loop_.watch(fd_.get(), events, [this](uint32_t told) {
    if (empty() && (told & (EPOLLERR | EPOLLHUP)) != 0) {
      close();
      inlet_.broken();
      return;
    }
    flush();
  });
}

void Sink::write(ByteView bytes) {
  if (!fd_ || ending_) return;
  buffer_.append(bytes);
  flush();
}

void Sink::end() {
  if (std::exchange(ending_, true)) return;
  flush();
}

void Sink::close() {
  if (!fd_) return;
  loop_.forget(fd_.get());
  fd_.reset();
  buffer_.clear();
  written_ = 0;
}

void Sink::flush() {
  size_t taken = 0;
  while (fd_ && !empty()) {
    const ssize_t n = TEMP_FAILURE_RETRY(
        ::write(fd_.get(), buffer_.data() + written_, buffer_.size() - written_));
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (n < 0) {
      close();
      inlet_.broken();
      return;
    }
    written_ += static_cast<size_t>(n);
    taken += static_cast<size_t>(n);
  }
  moved_ += taken;
  if (empty()) {
    buffer_.clear();
    written_ = 0;
  } else if (written_ > buffer_.size() / 2) {
    buffer_.erase(0, written_);
    written_ = 0;
  }
  watch();
  if (taken > 0) inlet_.consumed(taken);
  if (ending_ && empty() && fd_) {
    inlet_.ended();
    close();
  }
}

}  // namespace sluice::guest::program
