#include "sluice/base/core/bytes.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

namespace sluice {
namespace {

// The length of the well-formed UTF-8 sequence at the start of `s`, 0 if ill-formed (Unicode 15,
// table 3-7).
size_t utf8_sequence(ByteView s) {
  auto byte = [&](size_t i) {
    return static_cast<unsigned char>(s[i]);
  };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  if (s.size() < length) return 0;
  unsigned char low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  if (byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if (byte(i) < 0x80 || byte(i) > 0xBF) return 0;
  }
  return length;
}

constexpr std::string_view kBase64 =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// memcmp() is as fast as memory, but does not say where the first difference is: blocks, then
// smaller ones, then bytes.
constexpr size_t kBlocks[] = {512, 32, 1};

}  // namespace

size_t common_prefix(ByteView a, ByteView b) {
  const size_t most = std::min(a.size(), b.size());
  size_t same = 0;
  for (const size_t block : kBlocks) {
    while (same + block <= most && std::memcmp(a.data() + same, b.data() + same, block) == 0) {
      same += block;
    }
  }
  return same;
}

size_t common_suffix(ByteView a, ByteView b) {
  const size_t most = std::min(a.size(), b.size());
  const char* a_end = a.data() + a.size();
  const char* b_end = b.data() + b.size();
  size_t same = 0;
  for (const size_t block : kBlocks) {
    while (same + block <= most && std::memcmp(a_end - block, b_end - block, block) == 0) {
      same += block;
      a_end -= block;
      b_end -= block;
    }
  }
  return same;
}

bool is_valid_utf8(ByteView bytes) {
  while (!bytes.empty()) {
    const size_t n = utf8_sequence(bytes);
    if (n == 0) return false;
    bytes.remove_prefix(n);
  }
  return true;
}

std::string to_valid_utf8(ByteView bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    const size_t n = utf8_sequence(bytes);
    if (n == 0) {
      out.append("\xEF\xBF\xBD");
      bytes.remove_prefix(1);
    } else {
      out.append(bytes.substr(0, n));
      bytes.remove_prefix(n);
    }
  }
  return out;
}

void append_hex(Bytes& out, ByteView bytes) {
  constexpr std::string_view digits = "0123456789abcdef";
  const size_t start = out.size();
  out.resize(start + bytes.size() * 2);
  char* to = out.data() + start;
  for (const unsigned char c : bytes) {
    *to++ = digits[c >> 4];
    *to++ = digits[c & 15];
  }
}

void escape_line_ends(Bytes& json) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kEnds{
      {{"\xC2\x85", "\\u0085"}, {"\xE2\x80\xA8", "\\u2028"}, {"\xE2\x80\xA9", "\\u2029"}}};
  for (const auto& [raw, escape] : kEnds) {
    size_t at = json.find(raw), copied = 0;
    if (at == Bytes::npos) continue;
    Bytes out;
    for (; at != Bytes::npos; at = json.find(raw, copied)) {
      out.append(json, copied, at - copied).append(escape);
      copied = at + raw.size();
    }
    json = std::move(out.append(json, copied));
  }
}

std::string to_hex(ByteView bytes) {
  std::string out;
  append_hex(out, bytes);
  return out;
}

void append_decimal(Bytes& out, uint64_t number) {
  std::array<char, 20> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), number).ptr;
  out.append(text.data(), static_cast<size_t>(end - text.data()));
}

std::string to_base64(ByteView bytes) {
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t left = bytes.size() - i;
    uint32_t group = static_cast<unsigned char>(bytes[i]) << 16;
    if (left > 1) group |= static_cast<unsigned char>(bytes[i + 1]) << 8;
    if (left > 2) group |= static_cast<unsigned char>(bytes[i + 2]);
    out.push_back(kBase64[group >> 18]);
    out.push_back(kBase64[group >> 12 & 63]);
    out.push_back(left > 1 ? kBase64[group >> 6 & 63] : '=');
    out.push_back(left > 2 ? kBase64[group & 63] : '=');
  }
  return out;
}

std::optional<Bytes> from_base64(std::string_view text) {
  static constexpr auto values = [] {
    std::array<int8_t, 256> table{};
    table.fill(-1);
    for (size_t i = 0; i < kBase64.size(); ++i) {
      table[static_cast<unsigned char>(kBase64[i])] = static_cast<int8_t>(i);
    }
    return table;
  }();
  if (text.size() % 4 == 0) {
    for (int i = 0; i < 2 && text.ends_with('='); ++i) text.remove_suffix(1);
  }
  if (text.size() % 4 == 1) return std::nullopt;
  Bytes out;
  out.reserve(text.size() * 3 / 4);
  uint32_t group = 0;
  int bits = 0;
  for (unsigned char c : text) {
    if (values[c] < 0) return std::nullopt;
    group = group << 6 | static_cast<uint32_t>(values[c]);
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      out.push_back(static_cast<char>(group >> bits & 0xFF));
    }
  }
  // Bits behind the last octet: somebody's other spelling of the same bytes.
  if ((group & ((1u << bits) - 1)) != 0) return std::nullopt;
  return out;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blanks = " \t\n\r\v\f";
  const size_t begin = text.find_first_not_of(blanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(blanks) - begin + 1);
}

std::optional<uint64_t> parse_decimal(std::string_view text) {
  if (text.empty() || text.front() == '-' || text.front() == '+') return std::nullopt;
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace sluice
