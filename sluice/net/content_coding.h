// Content codings: a body that a client compressed (RFC 9110, section 8.4), made what it was.
//
// Plain functions; any thread. Inflating takes its time (32 MiB a tenth of a second): on a thread
// of a BlockingPool.
#pragma once

#include <cstddef>
#include <string_view>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/result.h"

namespace sluice::net {

// What Accept-Encoding says of it.
inline constexpr std::string_view kContentCodings = "zstd, gzip, br";

// Whether decode_content() knows the coding. Names compare without case.
bool is_content_coding(std::string_view name);

// The body, with simdjson's padding of spare capacity behind it. kTooLarge if it is over `max`
// bytes, of which no more are made than that; kInvalidArgument if `coded` is not of that coding, or
// not whole. REQUIRES: is_content_coding(coding).
Result<Bytes> decode_content(std::string_view coding, ByteView coded, size_t max);

}  // namespace sluice::net
