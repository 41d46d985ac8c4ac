// Text as Python writes it. OpenEnv's clients and their users know its server's messages, and those
// hold values as repr() writes them, and numbers that always look like the type they are.
//
// Plain functions; any thread.
#pragma once

#include <string>

#include "sluice/json/value.h"

namespace sluice::env::python {

// "1.0", "0.67", "1e-07": the shortest text that reads back as the same number and is a float.
// "nan", "inf" and "-inf" for the rest.
std::string float_repr(double number);

// repr(value), except that characters beyond ASCII stay, printable or not.
std::string repr(const json::Value& value);
// str(value): a string as it is, anything else as repr().
std::string str(const json::Value& value);

// JSON as pydantic and FastAPI write it: compact, UTF-8 as it is. A number that JSON cannot hold
// becomes null.
std::string compact(const json::Value& value);

}  // namespace sluice::env::python
