// Frames: what travels between the host and the guest, in both directions.
//
//   u32 payload length (at most 64 KiB), u8 type, u32 stream, u64 sequence number, payload
//
// all little-endian. Stream 0 is the link itself; its frames carry no sequence number (0). All
// others are numbered 1, 2, 3, ... per direction over all streams, so that a link that broke can be
// taken up again where it was (sequence.h).
//
// A stream is opened by either side with a request and carries one flow of bytes each way:
//
//   opener:  Open More*   Data* End    Close
//   other:   Reply | Fail   Data* End  Exit?   Close
//
// Each side sends Close exactly once and nothing behind it; a stream's number is free for neither
// side ever again. Data is limited by credit (credit.h). What a Close of the other side crossed on
// its way is dropped. Stop says that the sender reads no further data.
//
// Nothing here does I/O. Plain values; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/result.h"

namespace sluice::guest::wire {

inline constexpr size_t kMaxPayload = 64 * 1024;
inline constexpr size_t kHeaderBytes = 17;
inline constexpr size_t kMaxFrame = kHeaderBytes + kMaxPayload;

enum class FrameType : uint8_t {
  // On stream 0.
  kHello = 1,      // each side's first frame: messages.h
  kKeepAlive = 2,  // host: "I am here"; the guest answers with one
  kAck = 3,        // u64: every frame up to this number has arrived
  kResume = 4,     // first frame on a new link: Resume
  // On a stream.
  kOpen = 16,     // u8 verb, u32 size of the whole request, its first part
  kMore = 17,     // its next part; follows at once
  kReply = 18,    // the request has been carried out; what it returns
  kFail = 19,     // it has not: Failure
  kData = 20,     // a piece of the stream's bytes, at least one
  kEnd = 21,      // no more data: End
  kCredit = 22,   // u32: this many more bytes may be sent
  kStop = 23,     // the sender of this reads no more data
  kExit = 24,     // how the command ended: Exit
  kDrain = 25,    // say when the peer's kernel has acknowledged all data so far
  kDrained = 26,  // it has
  kClose = 27,    // Close: the sender is done with the stream
};
inline constexpr bool on_link(FrameType type) {
  return static_cast<uint8_t>(type) < static_cast<uint8_t>(FrameType::kOpen);
}

struct Frame {
  FrameType type = FrameType::kKeepAlive;
  uint32_t stream = 0;
  uint64_t seq = 0;
  ByteView payload;
};

// REQUIRES: payload.size() <= kMaxPayload.
void append_frame(Bytes& out, FrameType type, uint32_t stream, uint64_t seq, ByteView payload);

// Cuts a stream of bytes into frames. Its buffer has a fixed size; lengths, types and stream
// numbers are checked as soon as the header is there.
class Decoder {
 public:
  Decoder();

  // Where to read the next bytes into: never empty, as long as next() was called until it gave
  // nothing. What was read is said by commit().
  std::span<std::byte> space();
  void commit(size_t n);
  // Copies as much as fits, for bytes that are elsewhere; returns how much.
  size_t feed(ByteView bytes);

  // The next whole frame, nothing if it is not there yet, or kProtocol (for good). The payload is
  // valid until the next call of space() or feed().
  Result<std::optional<Frame>> next();

 private:
  static constexpr size_t kCapacity = 2 * kMaxFrame;
  std::unique_ptr<char[]> buffer_;  // not cleared: only what is touched becomes memory
  size_t begin_ = 0, end_ = 0;
};

}  // namespace sluice::guest::wire
