// Value: JSON as a tree, for what we build and for small messages. A request's body is never
// parsed into one on the hot path (peek.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/string.hpp>
#include <boost/json/value.hpp>

#include "sluice/base/core/result.h"

namespace sluice::json {

using Value = boost::json::value;
using Object = boost::json::object;
using Array = boost::json::array;

struct ParseLimits {
  size_t bytes = 1 << 20;
  size_t depth = 64;
};

// Strict JSON, UTF-8 included. kTooLarge over the size; else kInvalidArgument with the offset.
Result<Value> parse(std::string_view text, ParseLimits limits = {});

std::string serialize(const Value& value);

// Fields of small control messages: the member if it is there and of the type, else nothing.
std::optional<std::string_view> get_string(const Object& object, std::string_view name);
std::optional<int64_t> get_integer(const Object& object, std::string_view name);
std::optional<double> get_number(const Object& object, std::string_view name);
std::optional<bool> get_bool(const Object& object, std::string_view name);
const Object* get_object(const Object& object, std::string_view name);
const Array* get_array(const Object& object, std::string_view name);

}  // namespace sluice::json
