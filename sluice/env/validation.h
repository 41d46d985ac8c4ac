// Checking values from outside against JSON Schema, leniently (json/schema.h) and in the words of
// pydantic: what is said of an input is what OpenEnv's server says.
//
// Plain functions; any thread.
#pragma once

#include <string>
#include <string_view>

#include "sluice/json/schema.h"

namespace sluice::env {

using json::Mistake;
using json::Mistakes;

// How an object's own mistakes are named: those of a model's fields, or of a function's arguments.
enum class Naming : uint8_t { kModel, kCall };

// `value` as the schema wants it, defaults filled in. What is wrong is added to `problems`; then
// the result means nothing. `where` is the place of `value` in what the caller sent.
json::Value check(const json::Object& schema, json::Value value, const json::Array& where,
                  Naming naming, Mistakes* problems);

// The list that stands under "detail" or "errors": of each its "type", "loc" and "msg".
json::Array to_json(const Mistakes& problems);

// "2 validation errors for call[echo]\nmessage\n  Field required [type=missing]\n ...".
std::string to_text(const Mistakes& problems, std::string_view model);

}  // namespace sluice::env
