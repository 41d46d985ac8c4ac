// Fields of messages as bytes: little-endian integers and length-prefixed strings.
//
// Reader is for bytes from a hostile peer: every string has a limit, a count is only believed as
// far as the bytes that are there, and the first error sticks, so that a message is read field by
// field and judged once, by finish().
//
// Plain values; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/result.h"

namespace sluice::guest::wire {

class Writer {
 public:
  void u8(uint8_t value) { out_.push_back(static_cast<char>(value)); }
  void u16(uint16_t value) { integer(value); }
  void u32(uint32_t value) { integer(value); }
  void u64(uint64_t value) { integer(value); }
  void string(std::string_view value) {
    u32(static_cast<uint32_t>(value.size()));
    out_.append(value);
  }
  void strings(const std::vector<std::string>& values) {
    u32(static_cast<uint32_t>(values.size()));
    for (const auto& value : values) string(value);
  }

  Bytes take() { return std::move(out_); }
  size_t size() const { return out_.size(); }

 private:
  template <class T>
  void integer(T value) {
    for (size_t i = 0; i < sizeof value; ++i) u8(static_cast<uint8_t>(value >> (8 * i)));
  }
  Bytes out_;
};

class Reader {
 public:
  explicit Reader(ByteView bytes) : rest_(bytes) {}

  uint8_t u8() { return integer<uint8_t>(); }
  uint16_t u16() { return integer<uint16_t>(); }
  uint32_t u32() { return integer<uint32_t>(); }
  uint64_t u64() { return integer<uint64_t>(); }
  // A value of an enum whose last enumerator is `last`.
  template <class E>
  E enumerator(E last) {
    const uint8_t value = u8();
    if (value > static_cast<uint8_t>(last)) fail("an unknown value of an enumeration");
    return ok() ? static_cast<E>(value) : E{};
  }
  // Empty, and an error, if it is longer than `max` or than what is there.
  std::string_view view(size_t max);
  std::string string(size_t max) { return std::string(view(max)); }
  // Text that goes to the kernel as a C string: a NUL is an error.
  std::string text(size_t max);
  std::vector<std::string> texts(size_t max_count, size_t max_each);

  bool ok() const { return problem_ == nullptr; }
  void fail(const char* problem) {
    if (problem_ == nullptr) problem_ = problem;
    rest_ = {};
  }
  // kProtocol if a field was wrong or bytes are left over. `message` names it in the error.
  Result<void> finish(std::string_view message) const;

 private:
  template <class T>
  T integer() {
    if (rest_.size() < sizeof(T)) {
      fail("it is too short");
      return 0;
    }
    T value = 0;
    for (size_t i = 0; i < sizeof(T); ++i) {
      value = static_cast<T>(value | static_cast<T>(static_cast<uint8_t>(rest_[i])) << (8 * i));
    }
    rest_.remove_prefix(sizeof(T));
    return value;
  }

  ByteView rest_;
  const char* problem_ = nullptr;
};

}  // namespace sluice::guest::wire
