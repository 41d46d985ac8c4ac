// Any bytes as a body in each coding: refused, or no larger than may be, and the same for whoever
// may have more. The first byte says which coding.
#include <array>
#include <cstddef>
#include <cstdint>

#include "sluice/base/core/check.h"
#include "sluice/net/content_coding.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  constexpr size_t kMax = 4096;
  constexpr std::array<std::string_view, 3> kCodings{"gzip", "zstd", "br"};
  if (size == 0) return 0;
  const std::string_view coding = kCodings[data[0] % kCodings.size()];
  const ByteView coded(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto body = net::decode_content(coding, coded, kMax);
  const auto more = net::decode_content(coding, coded, 2 * kMax);
  if (body) {
    CHECK(!body->empty() && body->size() <= kMax);
    CHECK(more && *more == *body);
  } else if (more) {
    CHECK(more->size() > kMax && more->size() <= 2 * kMax);
  }
  return 0;
}
