#include "sluice/base/id.h"

#include <sys/random.h>

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/check.h"

namespace sluice {
namespace {

void fill_random(void* data, size_t size) {
  // Up to 256 bytes are never cut short once the pool is initialised (getrandom(2)).
  CHECK(size <= 256);
  CHECK(::getrandom(data, size, 0) == static_cast<ssize_t>(size));
}

}  // namespace

std::string new_uuid() {
  unsigned char b[16];
  fill_random(b, sizeof b);
  const auto ms = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                            std::chrono::system_clock::now().time_since_epoch())
                                            .count());
  for (int i = 0; i < 6; ++i) b[i] = static_cast<unsigned char>(ms >> (40 - 8 * i));
  b[6] = static_cast<unsigned char>((b[6] & 0x0F) | 0x70);
  b[8] = static_cast<unsigned char>((b[8] & 0x3F) | 0x80);
  std::string text = to_hex({reinterpret_cast<const char*>(b), sizeof b});
  for (const size_t dash : {8, 13, 18, 23}) text.insert(dash, 1, '-');
  return text;
}

std::string random_hex(size_t bytes) {
  std::string raw(bytes, '\0');
  fill_random(raw.data(), raw.size());
  return to_hex(raw);
}

bool is_valid_id(std::string_view text) {
  auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || c == '-';
  };
  return !text.empty() && text.size() <= 64 && text.front() != '.' && text.front() != '-' &&
         std::all_of(text.begin(), text.end(), allowed);
}

}  // namespace sluice
