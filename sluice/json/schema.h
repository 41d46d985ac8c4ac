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
// Immutable once made; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "sluice/base/core/result.h"
#include "sluice/json/value.h"

namespace sluice::json {

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
