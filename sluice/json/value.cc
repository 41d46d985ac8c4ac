#include "sluice/json/value.h"

#include <boost/json/parser.hpp>
#include <boost/json/serialize.hpp>

namespace sluice::json {

Result<Value> parse(std::string_view text, ParseLimits limits) {
  if (text.size() > limits.bytes) {
    return Error(ErrorCode::kTooLarge, "JSON: more than " + std::to_string(limits.bytes) + " bytes",
                 ErrorOrigin::kCaller);
  }
  boost::json::parse_options options;
  options.max_depth = limits.depth;
  boost::json::parser parser({}, options);
  boost::json::error_code error;
  const size_t read = parser.write(text.data(), text.size(), error);
  if (error) {
    return Error(ErrorCode::kInvalidArgument,
                 "JSON: " + error.message() + " at byte " + std::to_string(read),
                 ErrorOrigin::kCaller);
  }
  return parser.release();
}

std::string serialize(const Value& value) {
  return boost::json::serialize(value);
}

std::optional<std::string_view> get_string(const Object& object, std::string_view name) {
  const Value* value = object.if_contains(name);
  if (value == nullptr || !value->is_string()) return std::nullopt;
  return std::string_view(value->get_string());
}

std::optional<int64_t> get_integer(const Object& object, std::string_view name) {
  const Value* value = object.if_contains(name);
  if (value == nullptr || !value->is_int64()) return std::nullopt;
  return value->get_int64();
}

std::optional<double> get_number(const Object& object, std::string_view name) {
  const Value* value = object.if_contains(name);
  if (value == nullptr || !value->is_number()) return std::nullopt;
  return value->to_number<double>();
}

std::optional<bool> get_bool(const Object& object, std::string_view name) {
  const Value* value = object.if_contains(name);
  if (value == nullptr || !value->is_bool()) return std::nullopt;
  return value->get_bool();
}

const Object* get_object(const Object& object, std::string_view name) {
  const Value* value = object.if_contains(name);
  return value == nullptr ? nullptr : value->if_object();
}

const Array* get_array(const Object& object, std::string_view name) {
  const Value* value = object.if_contains(name);
  return value == nullptr ? nullptr : value->if_array();
}

}  // namespace sluice::json
