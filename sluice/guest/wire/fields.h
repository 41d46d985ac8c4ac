// Fields of messages as bytes: little-endian integers and length-prefixed strings.
//
// A message names its fields once, for both directions:
//
//   struct Signal {
//     static constexpr char kName[] = "signal";
//     uint32_t command = 0;
//     uint8_t number = 0;
//     static void fields(auto& v, auto& m) {
//       v.numbers(m.command, m.number);
//       if (m.number < 1 || m.number > 64) v.fail("no such signal");
//     }
//   };
//
// encode() visits them with a Writer, decode() with a Reader. The Writer is for values of our own:
// it ignores limits and fail(). The Reader is for bytes from a hostile peer: every string has a
// limit, a count is only believed as far as the bytes that are there, and the first error sticks,
// so that a message is read field by field and judged once, at its end.
//
// Plain values; any thread.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/result.h"

namespace sluice::guest::wire {

template <class T>
concept Number = std::integral<T> && !std::same_as<T, bool>;

class Writer {
 public:
  template <Number... T>
  void numbers(T... values) {
    (number(values), ...);
  }
  template <std::same_as<bool>... T>
  void flags(T... values) {
    (number(static_cast<uint8_t>(values)), ...);
  }
  template <class E>
  void enumerator(E value, E /*last*/) {
    number(static_cast<uint8_t>(value));
  }
  void string(std::string_view value, size_t /*max*/) {
    number(static_cast<uint32_t>(value.size()));
    out_.append(value);
  }
  void text(std::string_view value, size_t max) { string(value, max); }
  void texts(const std::vector<std::string>& values, size_t /*max_count*/, size_t max_each) {
    number(static_cast<uint32_t>(values.size()));
    for (const auto& value : values) string(value, max_each);
  }
  template <class M>
  void list(const std::vector<M>& values, size_t /*max*/) {
    number(static_cast<uint32_t>(values.size()));
    for (const M& value : values) M::fields(*this, value);
  }
  // Its message is cut at `max`.
  void error(const Error& error, size_t max);
  void fail(std::string_view /*problem*/) {}

  Bytes take() { return std::move(out_); }

 private:
  template <class T>
  void number(T value) {
    for (size_t i = 0; i < sizeof value; ++i) {
      out_.push_back(static_cast<char>(static_cast<std::make_unsigned_t<T>>(value) >> (8 * i)));
    }
  }
  Bytes out_;
};

class Reader {
 public:
  explicit Reader(ByteView bytes) : rest_(bytes) {}

  template <Number... T>
  void numbers(T&... values) {
    ((values = number<T>()), ...);
  }
  template <std::same_as<bool>... T>
  void flags(T&... values) {
    ((values = flag()), ...);
  }
  // A value of an enum whose last enumerator is `last`.
  template <class E>
  void enumerator(E& value, E last) {
    const auto number = this->number<uint8_t>();
    if (number > static_cast<uint8_t>(last)) fail("an unknown value of an enumeration");
    value = ok() ? static_cast<E>(number) : E{};
  }
  // Empty, and an error, if it is longer than `max` or than what is there.
  void string(std::string& value, size_t max) { value = view(max); }
  // Text that goes to the kernel as a C string: a NUL is an error.
  void text(std::string& value, size_t max);
  void texts(std::vector<std::string>& values, size_t max_count, size_t max_each);
  template <class M>
  void list(std::vector<M>& values, size_t max) {
    const auto count = number<uint32_t>();
    if (count > max) fail("too many entries");
    for (uint32_t i = 0; ok() && i < count; ++i) M::fields(*this, values.emplace_back());
  }
  // A sandbox's; its message is made valid UTF-8.
  void error(Error& error, size_t max);

  bool ok() const { return problem_.empty(); }
  void fail(std::string_view problem) {
    if (ok()) problem_ = problem;
    rest_ = {};
  }
  // kProtocol if a field was wrong or bytes are left over. `message` names it in the error.
  Result<void> finish(std::string_view message) const;

 private:
  std::string_view view(size_t max);
  bool flag();
  template <class T>
  T number() {
    using Unsigned = std::make_unsigned_t<T>;
    if (rest_.size() < sizeof(T)) {
      fail("it is too short");
      return 0;
    }
    Unsigned value = 0;
    for (size_t i = 0; i < sizeof(T); ++i) {
      const auto byte = static_cast<Unsigned>(static_cast<uint8_t>(rest_[i]));
      value = static_cast<Unsigned>(value | static_cast<Unsigned>(byte << (8 * i)));
    }
    rest_.remove_prefix(sizeof(T));
    return static_cast<T>(value);
  }

  ByteView rest_;
  std::string problem_;
};

template <class M>
Bytes encode(const M& message) {
  Writer out;
  M::fields(out, message);
  return out.take();
}

// kProtocol on anything that encode() would not have written.
template <class M>
Result<M> decode(ByteView bytes) {
  Reader in(bytes);
  M message;
  M::fields(in, message);
  SLUICE_TRY_VOID(in.finish(M::kName));
  return message;
}

}  // namespace sluice::guest::wire
