// Text from anywhere made fit for a terminal. What a terminal would obey (control characters, the
// escapes that begin with one) is shown as what it is, and so is what changes the order in which
// the text around it is read (Unicode's marks of direction) or ends a line.
//
// Any thread.
#pragma once

#include <string>
#include <string_view>

#include "sluice/base/core/bytes.h"

namespace sluice {

// On one line, whatever it holds: "\\n", "\\x1b", "\\u202e"; a tab is a blank.
std::string printable(std::string_view text);

// In JSON text, where all of that stands in strings, as JSON's own escapes: the same JSON. Line
// breaks between values stay.
void escape_unprintable(Bytes& json);

}  // namespace sluice
