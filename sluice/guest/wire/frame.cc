#include "sluice/guest/wire/frame.h"

#include <algorithm>
#include <cstring>

#include "sluice/base/core/check.h"

namespace sluice::guest::wire {
namespace {

template <class T>
void store(char* at, T value) {
  for (size_t i = 0; i < sizeof value; ++i) at[i] = static_cast<char>(value >> (8 * i));
}

template <class T>
T load(const char* at) {
  T value = 0;
  for (size_t i = 0; i < sizeof value; ++i) {
    value = static_cast<T>(value | static_cast<T>(static_cast<uint8_t>(at[i])) << (8 * i));
  }
  return value;
}

bool is_known(uint8_t type) {
  return (type >= static_cast<uint8_t>(FrameType::kHello) &&
          type <= static_cast<uint8_t>(FrameType::kResume)) ||
         (type >= static_cast<uint8_t>(FrameType::kOpen) &&
          type <= static_cast<uint8_t>(FrameType::kClose));
}

Error malformed(const char* what) {
  return Error(ErrorCode::kProtocol, std::string("guest link: malformed frame: ") + what);
}

}  // namespace

void append_frame(Bytes& out, FrameType type, uint32_t stream, uint64_t seq, ByteView payload) {
  CHECK(payload.size() <= kMaxPayload);
  char header[kHeaderBytes];
  store(header, static_cast<uint32_t>(payload.size()));
  header[4] = static_cast<char>(type);
  store(header + 5, stream);
  store(header + 9, seq);
  out.append(header, sizeof header).append(payload);
}

Decoder::Decoder() : buffer_(new char[kCapacity]) {}

std::span<std::byte> Decoder::space() {
  if (begin_ == end_) {
    begin_ = end_ = 0;
  } else if (kCapacity - end_ < kMaxFrame) {
    std::memmove(buffer_.get(), buffer_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  return {reinterpret_cast<std::byte*>(buffer_.get()) + end_, kCapacity - end_};
}

void Decoder::commit(size_t n) {
  CHECK(n <= kCapacity - end_);
  end_ += n;
}

size_t Decoder::feed(ByteView bytes) {
  const auto room = space();
  const size_t n = std::min(room.size(), bytes.size());
  std::memcpy(room.data(), bytes.data(), n);
  commit(n);
  return n;
}

Result<std::optional<Frame>> Decoder::next() {
  const size_t have = end_ - begin_;
  if (have < kHeaderBytes) return std::optional<Frame>();
  const char* header = buffer_.get() + begin_;
  const auto length = load<uint32_t>(header);
  const auto type = static_cast<uint8_t>(header[4]);
  Frame frame{
      static_cast<FrameType>(type), load<uint32_t>(header + 5), load<uint64_t>(header + 9), {}};
  if (length > kMaxPayload) return malformed("its payload is over 64 KiB");
  if (!is_known(type)) return malformed("its type is unknown");
  if (on_link(frame.type) != (frame.stream == 0)) {
    return malformed("its type does not belong on its stream");
  }
  if (on_link(frame.type) != (frame.seq == 0)) {
    return malformed("its sequence number does not fit its type");
  }
  if (have - kHeaderBytes < length) return std::optional<Frame>();
  frame.payload = ByteView(header + kHeaderBytes, length);
  begin_ += kHeaderBytes + length;
  return std::optional<Frame>(frame);
}

}  // namespace sluice::guest::wire
