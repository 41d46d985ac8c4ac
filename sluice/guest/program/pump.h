// Source and Sink: a descriptor's bytes to the stream's data frames and back, within credit.
//
// A Source reads only while the stream has credit and the link is not congested: a slow reader out
// there stops the program in here through its full pipe, and nobody else. A Sink takes at most a
// window of bytes that its descriptor does not take yet.
//
// Neither may be destroyed from within its own callbacks.
#pragma once

#include <cstdint>
#include <functional>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/fd.h"
#include "sluice/guest/program/loop.h"
#include "sluice/guest/wire/credit.h"

namespace sluice::guest::program {

class Source {
 public:
  // What it needs from the stream it feeds.
  struct Outlet {
    std::function<size_t()> room;            // bytes that may be sent now
    std::function<void(ByteView)> send;      // REQUIRES: within room()
    std::function<void(bool failed)> ended;  // once, when nothing will be sent any more
  };

  // `fd` must not block. At most `cap` bytes are sent: of more than that the beginning and, once
  // its end has come, the end (half of the cap, at most kMaxTail); what is between them is dropped.
  static constexpr size_t kMaxTail = 1024 * 1024;
  Source(Loop& loop, Fd fd, uint64_t cap, Outlet outlet);
  ~Source() { loop_.forget(fd_.get()); }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  // To be called when there is room again.
  void resume();
  // Sends what can be read now, as room allows, and ends: the writer that counted is gone. What
  // others still write is dropped, so that they do not die of a broken pipe.
  void finish();
  // Sends no more, reads on.
  void drop();

  bool truncated() const { return truncated_; }
  // Ends have been told; drop() counts as such.
  bool done() const { return done_; }
  // Nobody holds the other end any more.
  bool dead() const { return !fd_; }
  // Reading was stopped for want of room: what happens next is not up to the writer.
  bool waits_for_room() const { return !done_ && outlet_.room() == 0; }
  uint64_t moved() const { return moved_; }

 private:
  void update();
  void pump();
  void keep(ByteView bytes);
  void end(bool failed);
  void send_tail();

  Loop& loop_;
  Fd fd_;
  const size_t tail_size_;
  uint64_t left_;  // of the beginning
  Outlet outlet_;
  Bytes tail_;  // the last of what came behind the beginning
  size_t tail_sent_ = 0;
  bool at_end_ = false, failed_ = false;  // only the tail is still to be sent
  uint64_t moved_ = 0;
  bool truncated_ = false;
  bool finishing_ = false;
  // More than a pipe holds (pipe(7)): then somebody else is writing.
  size_t finish_left_ = 1024 * 1024 + 1;
  bool done_ = false;
};

class Sink {
 public:
  struct Inlet {
    std::function<void(size_t)> consumed;  // the descriptor took so many bytes
    std::function<void()> broken;          // once: its reader is gone
    std::function<void()> ended;           // once: every byte before end() is written; then closes
  };

  Sink(Loop& loop, Fd fd, Inlet inlet);
  ~Sink() { close(); }
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;

  void write(ByteView bytes);
  void end();
  void close();  // at once

  bool empty() const { return written_ == buffer_.size(); }
  bool open() const { return static_cast<bool>(fd_); }
  bool ending() const { return ending_; }
  int fd() const { return fd_.get(); }
  uint64_t moved() const { return moved_; }

 private:
  void flush();
  void watch();

  Loop& loop_;
  Fd fd_;
  Inlet inlet_;
  Bytes buffer_;
  size_t written_ = 0;
  uint64_t moved_ = 0;
  bool ending_ = false;
};

}  // namespace sluice::guest::program
