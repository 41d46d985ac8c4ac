#include "sluice/base/printable.h"

#include <fmt/format.h>

#include <cstdint>
#include <iterator>
#include <utility>

namespace sluice {
namespace {

struct Character {
  uint32_t code;
  size_t size;
};

// REQUIRES: the text is valid UTF-8 and not empty.
Character first_of(std::string_view text) {
  const auto byte = [&](size_t i) {
    return static_cast<uint32_t>(static_cast<unsigned char>(text[i]));
  };
  const auto more = [&](size_t i) {
    return byte(i) & 0x3F;
  };
  const uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {(lead & 0x1F) << 6 | more(1), 2};
  if (lead < 0xF0) return {(lead & 0x0F) << 12 | more(1) << 6 | more(2), 3};
  return {(lead & 0x07) << 18 | more(1) << 12 | more(2) << 6 | more(3), 4};
}

bool is_unprintable(uint32_t c) {
  return c < 0x20 || (c >= 0x7F && c < 0xA0) ||        // controls
         c == 0x2028 || c == 0x2029 ||                 // line ends
         c == 0x061C || c == 0x200E || c == 0x200F ||  // directions
         (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

}  // namespace

std::string printable(std::string_view text) {
  const std::string valid = to_valid_utf8(text);
  std::string out;
  for (std::string_view rest = valid; !rest.empty();) {
    const auto [code, size] = first_of(rest);
    if (!is_unprintable(code)) {
      out.append(rest.substr(0, size));
    } else if (code == '\n') {
      out.append("\\n");
    } else if (code == '\t') {
      out.push_back(' ');
    } else if (code < 0x100) {
      fmt::format_to(std::back_inserter(out), "\\x{:02x}", code);
    } else {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", code);
    }
    rest.remove_prefix(size);
  }
  return out;
}

void escape_unprintable(Bytes& json) {
  // The first bytes of what is to be found, but for controls below 0x20, which JSON escapes itself.
  constexpr std::string_view kLeads = "\x7F\xC2\xD8\xE2";
  size_t copied = 0;
  Bytes out;
  for (size_t at = json.find_first_of(kLeads); at != Bytes::npos;
       at = json.find_first_of(kLeads, at)) {
    // What ends within a character is none.
    const size_t whole = static_cast<unsigned char>(json[at]) < 0xE0 ? 2 : 3;
    const auto [code, size] =
        at + whole > json.size() ? Character{0xFFFD, 1} : first_of(ByteView(json).substr(at));
    if (is_unprintable(code)) {
      out.append(json, copied, at - copied);
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", code);
      copied = at + size;
    }
    at += size;
  }
  if (copied > 0) json = std::move(out.append(json, copied));
}

}  // namespace sluice
