#include "sluice/json/text.h"

#include <charconv>
#include <cmath>

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

}  // namespace

void append_string(Bytes& out, std::string_view text) {
  bool ascii = true;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) {
      ascii = false;
      break;
    }
  }
  std::string repaired;
  if (!ascii && !is_valid_utf8(text)) {
    repaired = to_valid_utf8(text);
    text = repaired;
  }
  constexpr std::string_view digits = "0123456789abcdef";
  out.reserve(out.size() + text.size() + 2);
  out.push_back('"');
  size_t plain = 0;  // where the run of bytes that need no escape began
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c >= 0x20 && c != '"' && c != '\\') continue;
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
