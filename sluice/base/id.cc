#include "sluice/base/id.h"

#include <pthread.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <atomic>
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

// How often this process came out of a fork: what its parent has drawn is not drawn again.
std::atomic<uint32_t> forks{0};

// A UUID's random bytes, drawn from the kernel for several at a time.
class RandomBytes {
 public:
  void take(unsigned char* to, size_t size) {
    const uint32_t now = forks.load(std::memory_order_relaxed);
    if (left_ < size || drawn_in_ != now) {
      fill_random(pool_.data(), pool_.size());
      left_ = pool_.size();
      drawn_in_ = now;
    }
    left_ -= size;
    std::copy_n(pool_.data() + left_, size, to);
  }

 private:
  std::array<unsigned char, 256> pool_;
  size_t left_ = 0;
  uint32_t drawn_in_ = 0;
};

void count_forks() {
  static const int registered =
      ::pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
  CHECK(registered == 0);
}

}  // namespace

std::string new_uuid() {
  count_forks();
  thread_local RandomBytes random;
  unsigned char b[16];
  random.take(b + 6, sizeof b - 6);
  const auto ms = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                            std::chrono::system_clock::now().time_since_epoch())
                                            .count());
  for (int i = 0; i < 6; ++i) b[i] = static_cast<unsigned char>(ms >> (40 - 8 * i));
  b[6] = static_cast<unsigned char>((b[6] & 0x0F) | 0x70);
  b[8] = static_cast<unsigned char>((b[8] & 0x3F) | 0x80);
  const ByteView raw(reinterpret_cast<const char*>(b), sizeof b);
  std::string text;
  text.reserve(36);
  append_hex(text, raw.substr(0, 4));
  for (const size_t at : {4, 6, 8}) append_hex(text.append("-"), raw.substr(at, 2));
  append_hex(text.append("-"), raw.substr(10));
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
