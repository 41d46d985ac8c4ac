// Checking values from outside against JSON Schema, leniently and in the words of pydantic: "12" is
// an integer, "abc" is not, and what is said of it is what OpenEnv's server says.
//
// Understood of a schema: type, properties, required, additionalProperties, default, items, anyOf,
// const, enum, minimum, maximum, exclusiveMinimum, exclusiveMaximum, minLength, maxLength, minItems
// and maxItems. Whatever else it says is not checked here.
//
// Plain functions; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/json/value.h"

namespace sluice::env {

// One thing that is wrong with an input.
struct Mistake {
  std::string type;     // "missing"
  json::Array where;    // ["body", "seed"]
  std::string message;  // "Field required"
};
using Mistakes = std::vector<Mistake>;

// How an object's own mistakes are named: those of a model's fields, or of a function's arguments.
enum class Naming : uint8_t { kModel, kCall };

// `value` as the schema wants it, defaults filled in. What is wrong is added to `problems`; then
// the result means nothing. `where` is the place of `value` in what the caller sent.
json::Value check(const json::Object& schema, const json::Value& value, const json::Array& where,
                  Naming naming, Mistakes* problems);

// The list that stands under "detail" or "errors": of each its "type", "loc" and "msg".
json::Array to_json(const Mistakes& problems);

// "2 validation errors for call[echo]\nmessage\n  Field required [type=missing]\n ...".
std::string to_text(const Mistakes& problems, std::string_view model);

}  // namespace sluice::env
