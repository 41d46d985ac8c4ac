// Schema: the part of JSON Schema that tools' parameters are described with, to check arguments
// before a tool sees them. A schema that asks for more than is understood here is refused when it
// is made: what is not checked should not look as if it were.
//
// Understood: type, enum, const, properties, required, additionalProperties, minProperties,
// maxProperties, items, minItems, maxItems, minLength, maxLength, minimum, maximum,
// exclusiveMinimum, exclusiveMaximum, anyOf, oneOf, allOf, and true and false for a schema. Passed
// over, as they promise nothing: title, description, default, examples, format, deprecated,
// readOnly, writeOnly, $schema, $id, $comment.
//
// convert() is the same checker for inputs of every kind, leniently: it takes "12" for an integer,
// 1 for true and so on, fills defaults in, passes over whatever of a schema it does not understand,
// and takes oneOf for anyOf.
//
// Immutable once made; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/base/core/result.h"
#include "sluice/json/value.h"

namespace sluice::json {

// One thing that is wrong with a value.
struct Mistake {
  std::string type;      // one word for each kind of mistake: "missing", "int_parsing"
  Array where;           // the way to it: ["body", "seed"]; where it should be, of what is missing
  std::string message;   // "must be at least 3"
  Value rule = nullptr;  // the bound that was missed, or the list of what would do
  double figure = 0;     // what the bound is for: a length, a size, the number itself
};
using Mistakes = std::vector<Mistake>;

// Makes `value` what the schema wants it to be. What does not fit is told, the first hundred; then
// the value means nothing. `where` is its place in what was sent.
Mistakes convert(const Object& schema, Array where, Value* value);

class Schema {
 public:
  // kInvalidArgument with the place of the mistake.
  static Result<Schema> parse(std::string_view text);

  // Why `value` does not fit, and where, for whoever wrote it; nothing if it does.
  std::optional<std::string> mismatch(const Value& value) const;

  const Value& value() const { return schema_; }

 private:
  explicit Schema(Value schema) : schema_(std::move(schema)) {}
  Value schema_;
};

}  // namespace sluice::json
