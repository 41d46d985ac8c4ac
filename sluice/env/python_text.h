// Text as Python writes it. OpenEnv's clients and their users know its server's messages, and those
// hold what Python's json module and pydantic print: positions in broken JSON, values as repr()
// writes them, numbers that always look like the type they are.
//
// Plain functions; any thread.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "sluice/json/value.h"

namespace sluice::env::python {

// "1.0", "0.67", "1e-07": the shortest text that reads back as the same number and is a float.
// "nan", "inf" and "-inf" for the rest.
std::string float_repr(double number);

// What type(value).__name__ and repr(value) give.
std::string_view type_name(const json::Value& value);
std::string repr(const json::Value& value);
// str(value): a string as it is, anything else as repr().
std::string str(const json::Value& value);

// JSON as pydantic and FastAPI write it: compact, UTF-8 as it is. A number that JSON cannot hold
// becomes null.
std::string compact(const json::Value& value);
void append_compact(std::string& out, const json::Value& value);

// JSON as json.dumps() writes it: ", " and ": ", everything beyond ASCII escaped.
std::string dumps(const json::Value& value);

// Where json.loads() stops at broken JSON, and what it says.
struct JsonFault {
  std::string message;  // "Expecting value"
  size_t line = 1;
  size_t column = 1;
  size_t position = 0;  // in characters, like the column

  // "Expecting value: line 1 column 1 (char 0)".
  std::string text() const;
};

// The first fault of a text that json::parse() refused. What Python takes and JSON does not (NaN,
// half a surrogate pair), and nesting that is too deep, is a fault here.
// REQUIRES: `text` is UTF-8.
JsonFault find_json_fault(std::string_view text);

}  // namespace sluice::env::python
