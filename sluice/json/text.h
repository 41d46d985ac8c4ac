// Writing JSON text by hand on hot paths: strings and numbers appended to a buffer. Any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "sluice/base/core/bytes.h"

namespace sluice::json {

// The first byte from `at` on that cannot stand in a JSON string as it is (a quote, a backslash, a
// control character); the size of the text if there is none.
size_t next_escape(std::string_view text, size_t at);

// `text` as a JSON string with its quotes. Ill-formed UTF-8 becomes U+FFFD. What ends a line for
// Unicode alone (escape_line_ends()) is escaped: clients split events there.
void append_string(Bytes& out, std::string_view text);

// The shortest decimal that reads back as the same number; null if it is not finite.
void append_number(Bytes& out, double number);
void append_number(Bytes& out, float number);
void append_number(Bytes& out, int64_t number);

}  // namespace sluice::json
