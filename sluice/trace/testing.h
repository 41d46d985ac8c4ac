// For tests and benchmarks: disks that do not behave, and waiting for a recorder.
#pragma once

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "sluice/net/testing.h"
#include "sluice/trace/file_calls.h"
#include "sluice/trace/memory.h"
#include "sluice/trace/recorder.h"

namespace sluice::trace::testing {

// Until all that was told of the rollout is recorded; what flush() says.
inline Result<void> flush(Recorder& recorder, const RolloutId& rollout) {
  net::Shard shard;
  return net::testing::run(shard, flushed(&recorder, &shard, rollout));
}

// Acknowledges nothing between stall() and resume().
class StallingRecorder final : public MemoryRecorder {
 public:
  void stall() {
    const std::lock_guard lock(mutex_);
    stalled_ = true;
  }
  void resume() {
    const std::lock_guard lock(mutex_);
    stalled_ = false;
    for (auto& [shard, work] : std::exchange(waiting_, {})) shard->post(std::move(work));
  }
  // Flushes that wait for that.
  size_t waiting() const {
    const std::lock_guard lock(mutex_);
    return waiting_.size();
  }
  void flush(const RolloutId& rollout, net::Shard& shard, Flushed told) override {
    const std::lock_guard lock(mutex_);
    if (!stalled_) return MemoryRecorder::flush(rollout, shard, std::move(told));
    waiting_.emplace_back(&shard, [told = std::move(told)] { told({}); });
  }

 private:
  mutable std::mutex mutex_;
  bool stalled_ = false;
  std::vector<std::pair<net::Shard*, std::function<void()>>> waiting_;
};

// Between stall() and resume() whoever writes waits. Resume it before its recorder goes.
class StallingDisk final : public FileCalls {
 public:
  void stall() {
    const std::lock_guard lock(mutex_);
    stalled_ = true;
  }
  void resume() {
    const std::lock_guard lock(mutex_);
    stalled_ = false;
    changed_.notify_all();
  }
  bool is_waited_for() {
    const std::lock_guard lock(mutex_);
    return stalled_ && waiting_ > 0;
  }
  // Until somebody waits to write.
  void wait_for_a_writer() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return waiting_ > 0; });
  }
  // Calls that write, so far.
  int writes() const { return writes_; }

  ssize_t write(int fd, ByteView bytes) override {
    pass();
    return FileCalls::write(fd, bytes);
  }
  ssize_t write_at(int fd, std::span<const iovec> pieces, uint64_t offset) override {
    pass();
    return FileCalls::write_at(fd, pieces, offset);
  }

 private:
  void pass() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !stalled_; });
    --waiting_;
    ++writes_;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stalled_ = false;
  int waiting_ = 0;
  std::atomic<int> writes_ = 0;
};

// Of which no file gets over `limit` bytes: a write is cut short there, and the next fails.
class FullDisk final : public FileCalls {
 public:
  void set_limit(uint64_t limit) { limit_ = limit; }

  ssize_t write(int fd, ByteView bytes) override {
    const size_t fits = room(static_cast<uint64_t>(size(fd)));
    if (fits == 0) return full();
    return FileCalls::write(fd, bytes.substr(0, fits));
  }
  ssize_t write_at(int fd, std::span<const iovec> pieces, uint64_t offset) override {
    const size_t fits = room(offset);
    if (fits == 0) return full();
    iovec first = pieces.front();
    first.iov_len = std::min(first.iov_len, fits);
    return FileCalls::write_at(fd, {&first, 1}, offset);
  }

 private:
  size_t room(uint64_t end) const {
    const uint64_t limit = limit_;
    return limit > end ? limit - end : 0;
  }
  static ssize_t full() {
    errno = ENOSPC;
    return -1;
  }

  std::atomic<uint64_t> limit_ = UINT64_MAX;
};

// Counts where bodies are read again: on the thread that made it, which is a loop's, or elsewhere.
class WatchedDisk final : public FileCalls {
 public:
  ssize_t read_at(int fd, std::span<char> to, uint64_t offset) override {
    ++(std::this_thread::get_id() == loop_ ? on_loop : elsewhere);
    return FileCalls::read_at(fd, to, offset);
  }
  std::atomic<int> on_loop = 0, elsewhere = 0;

 private:
  const std::thread::id loop_ = std::this_thread::get_id();
};

}  // namespace sluice::trace::testing
