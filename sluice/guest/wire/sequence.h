// Sequence numbers, acknowledgement and resumption: a link whose carrier can break (a proxy's
// connection) loses nothing and repeats nothing.
//
// Outgoing numbers frames and, if it is to be able to resume, keeps them until the other side
// acknowledged them. Incoming checks the numbers and says when an acknowledgement is due. After a
// break both sides send Resume with the last number they got, on the new carrier, and each sends
// again what the other lacks. A carrier that cannot break (a socket pair) keeps nothing.
//
// Nothing here does I/O. Plain values; any thread.
#pragma once

#include <cstdint>
#include <deque>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/result.h"
#include "sluice/guest/wire/frame.h"

namespace sluice::guest::wire {

class Outgoing {
 public:
  enum class Keep : uint8_t { kNothing, kUntilAcknowledged };
  // Above this much kept, full() says to send no more data until an acknowledgement comes.
  static constexpr size_t kMaxKept = 8 * 1024 * 1024;

  explicit Outgoing(Keep keep = Keep::kNothing) : keep_(keep) {}

  // Appends the frame to `out`, numbered if it belongs to a stream.
  void append(Bytes& out, FrameType type, uint32_t stream, ByteView payload);

  // kProtocol for a number that was never sent, or one lower than acknowledged before.
  Result<void> acknowledged(uint64_t seq);
  // What the other side lacks when it has everything up to `received`. kProtocol if that number was
  // never sent; kFailedPrecondition if the frames behind it are no longer kept.
  Result<Bytes> resend_after(uint64_t received);

  bool full() const { return kept_bytes_ > kMaxKept; }
  uint64_t last() const { return last_; }
  size_t kept_bytes() const { return kept_bytes_; }

 private:
  Keep keep_;
  uint64_t last_ = 0;
  uint64_t acknowledged_ = 0;
  std::deque<Bytes> kept_;  // frames acknowledged_ + 1 ... last_
  size_t kept_bytes_ = 0;
};

class Incoming {
 public:
  enum class Verdict : uint8_t { kNew, kDuplicate };

  // kProtocol if a number was left out. A frame that came before (it crossed a resumption) is a
  // duplicate, to be dropped.
  Result<Verdict> accept(const Frame& frame);

  // The number to acknowledge now, or 0: when enough has come since the last one.
  uint64_t acknowledgement_due();
  uint64_t received() const { return received_; }

 private:
  static constexpr uint32_t kAckEveryFrames = 64;
  static constexpr uint32_t kAckEveryBytes = 256 * 1024;
  uint64_t received_ = 0;
  uint32_t frames_ = 0;
  uint32_t bytes_ = 0;
};

}  // namespace sluice::guest::wire
