// Bytes: octets that may be anything. A std::string, so that a body can be handed to parsers and
// sockets without a copy; whether it is text is decided by whoever reads it as text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace sluice {

using Bytes = std::string;
using ByteView = std::string_view;

inline std::span<const std::byte> as_byte_span(ByteView bytes) {
  return {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()};
}
inline std::span<std::byte> as_writable_byte_span(Bytes& bytes) {
  return {reinterpret_cast<std::byte*>(bytes.data()), bytes.size()};
}
inline ByteView as_view(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// resize(), where the caller writes over what is new before it reads it: that is not set to 0
// first.
void resize_unfilled(Bytes& bytes, size_t size);

// How many bytes the two have in common at their beginnings, and at their ends.
size_t common_prefix(ByteView a, ByteView b);
size_t common_suffix(ByteView a, ByteView b);

bool is_valid_utf8(ByteView bytes);

// `bytes` with every ill-formed sequence replaced by U+FFFD: for showing and for JSON, never for
// keeping.
std::string to_valid_utf8(ByteView bytes);

// JSON text with what ends a line for Unicode and not for JSON (U+0085, U+2028, U+2029), and so for
// some readers of files of a text a line, as escapes.
void escape_line_ends(Bytes& json);

std::string to_hex(ByteView bytes);
void append_hex(Bytes& out, ByteView bytes);
// In decimal.
void append_decimal(Bytes& out, uint64_t number);
std::string to_base64(ByteView bytes);
// The standard alphabet, padded or not. Nothing is skipped: not a space, not a line break.
std::optional<Bytes> from_base64(std::string_view text);

// `text` without the blanks and line ends around it.
std::string_view trimmed(std::string_view text);

// A decimal number that fills the whole of `text`; no sign, no space.
std::optional<uint64_t> parse_decimal(std::string_view text);

}  // namespace sluice
