#include "sluice/json/text.h"

#include <charconv>
#include <cmath>
#include <cstring>

namespace sluice::json {
namespace {

template <class Number>
void append_chars(Bytes& out, Number number) {
  char text[32];
  const auto [end, error] = std::to_chars(text, text + sizeof text, number);
  out.append(text, static_cast<size_t>(end - text));
}

template <class Number>
void append_real(Bytes& out, Number number) {
  if (!std::isfinite(number)) {
    out.append("null");
  } else {
    append_chars(out, number);
  }
}

constexpr uint64_t kOnes = 0x0101010101010101, kHigh = kOnes * 0x80;

uint64_t eight_bytes(std::string_view text, size_t at) {
  uint64_t word;
  std::memcpy(&word, text.data() + at, 8);
  return word;
}

bool is_ascii(std::string_view text) {
  uint64_t seen = 0;
  size_t at = 0;
  for (; at + 8 <= text.size(); at += 8) seen |= eight_bytes(text, at);
  for (; at < text.size(); ++at) seen |= static_cast<unsigned char>(text[at]);
  return (seen & kHigh) == 0;
}

bool needs_escape(unsigned char c) {
  return c < 0x20 || c == '"' || c == '\\';
}

}  // namespace

// Most text has hardly any, so eight at a time.
size_t next_escape(std::string_view text, size_t at) {
  for (; at + 8 <= text.size(); at += 8) {
    const uint64_t word = eight_bytes(text, at);
    const uint64_t quote = word ^ (kOnes * '"'), backslash = word ^ (kOnes * '\\');
    // A byte below what is subtracted from it gets its high bit. So may one behind it, by the
    // borrow: what is found here is looked at again.
    const uint64_t found = (word - kOnes * 0x20) | (quote - kOnes) | (backslash - kOnes);
    if ((found & ~word & kHigh) == 0) continue;
    for (size_t i = at; i < at + 8; ++i) {
      if (needs_escape(static_cast<unsigned char>(text[i]))) return i;
    }
  }
  while (at < text.size() && !needs_escape(static_cast<unsigned char>(text[at]))) ++at;
  return at;
}

namespace {

// `text`, which is UTF-8, as JSON wants it.
void append_valid(Bytes& out, std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  out.reserve(out.size() + text.size() + 2);
  out.push_back('"');
  size_t plain = 0;  // where the run of bytes that need no escape began
  for (size_t i = next_escape(text, 0); i < text.size(); i = next_escape(text, i + 1)) {
    const auto c = static_cast<unsigned char>(text[i]);
    out.append(text.substr(plain, i - plain));
    plain = i + 1;
    out.push_back('\\');
    switch (c) {
      case '"':
      case '\\':
        out.push_back(static_cast<char>(c));
        break;
      case '\n':
        out.push_back('n');
        break;
      case '\r':
        out.push_back('r');
        break;
      case '\t':
        out.push_back('t');
        break;
      default:
        out.append("u00");
        out.push_back(digits[c >> 4]);
        out.push_back(digits[c & 15]);
    }
  }
  out.append(text.substr(plain));
  out.push_back('"');
}

}  // namespace

void append_string(Bytes& out, std::string_view text) {
  if (is_ascii(text)) return append_valid(out, text);
  std::string repaired;
  if (!is_valid_utf8(text)) text = repaired = to_valid_utf8(text);
  Bytes string;
  append_valid(string, text);
  escape_line_ends(string);
  out.append(string);
}

void append_number(Bytes& out, double number) {
  append_real(out, number);
}
void append_number(Bytes& out, float number) {
  append_real(out, number);
}
void append_number(Bytes& out, int64_t number) {
  append_chars(out, number);
}

}  // namespace sluice::json
