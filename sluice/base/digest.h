// Digests: XXH3-128 to recognise equal bytes quickly (not a security boundary), SHA-256 to name
// content, HMAC-SHA-256 to sign. Any thread.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "sluice/base/core/bytes.h"

namespace sluice {

struct Digest {
  uint64_t high = 0, low = 0;
  auto operator<=>(const Digest&) const = default;
  std::string hex() const;
};

Digest xxh3_128(ByteView bytes);

std::string sha256_hex(ByteView bytes);

// The same of bytes that come piece by piece.
class Sha256 {
 public:
  Sha256();
  void add(ByteView bytes);
  std::string hex();  // once, at the end

 private:
  std::unique_ptr<void, void (*)(void*)> context_;
};

// HMAC-SHA-256 (RFC 2104) under one key, which is worked in once: a tenth of the price of
// hmac_sha256() for a short message. Any thread.
class HmacSha256 {
 public:
  using Signature = std::array<char, 32>;  // raw bytes

  explicit HmacSha256(ByteView key);
  Signature sign(ByteView message) const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

// 32 raw bytes.
Bytes hmac_sha256(ByteView key, ByteView message);

// Takes the same time wherever the first difference is, so that a key cannot be guessed byte by
// byte.
bool equal_in_constant_time(ByteView a, ByteView b);

}  // namespace sluice

template <>
struct std::hash<sluice::Digest> {
  size_t operator()(const sluice::Digest& d) const { return d.low ^ d.high; }
};
