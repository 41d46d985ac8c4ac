// Writing JSON text by hand on hot paths: strings and numbers appended to a buffer. Any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "sluice/base/core/bytes.h"

namespace sluice::json {

// `text` as a JSON string with its quotes. Ill-formed UTF-8 becomes U+FFFD.
void append_string(Bytes& out, std::string_view text);

// The shortest decimal that reads back as the same number; null if it is not finite.
void append_number(Bytes& out, double number);
void append_number(Bytes& out, float number);
void append_number(Bytes& out, int64_t number);

}  // namespace sluice::json
