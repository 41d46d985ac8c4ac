// Splice: changes fields at the top of a JSON object by cutting at byte offsets. What is not
// named stays byte for byte as it was, which a parse and a re-serialisation would not keep.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "sluice/json/peek.h"

namespace sluice::json {

struct Edit {
  std::string_view name;
  // The field's new value as JSON text; nothing removes the field. A field that is absent is
  // appended, or stays absent.
  std::optional<std::string_view> value;
};

// `document` after all `edits`, which name different fields. Errors as Peeker::fields(), and
// kInvalidArgument if a new value is no JSON value.
Result<Bytes> splice(Peeker& peeker, const Bytes& document, std::span<const Edit> edits);

}  // namespace sluice::json
