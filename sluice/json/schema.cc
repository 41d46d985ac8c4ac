#include "sluice/json/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "sluice/base/core/bytes.h"

namespace sluice::json {
namespace {

constexpr size_t kMaxSchema = 256 * 1024;
constexpr int kMaxNesting = 32;  // of schemas within schemas

constexpr std::array<std::string_view, 11> kAnnotations{
    "title",    "description", "default", "examples", "format",  "deprecated",
    "readOnly", "writeOnly",   "$schema", "$id",      "$comment"};
constexpr std::array<std::string_view, 7> kTypes{"null",   "boolean", "object", "array",
                                                 "number", "integer", "string"};
constexpr std::array<std::string_view, 6> kCounts{"minProperties", "maxProperties", "minItems",
                                                  "maxItems",      "minLength",     "maxLength"};
constexpr std::array<std::string_view, 4> kBounds{"minimum", "maximum", "exclusiveMinimum",
                                                  "exclusiveMaximum"};
constexpr std::array<std::string_view, 3> kCombined{"anyOf", "oneOf", "allOf"};

template <class Names>
bool is_one_of(std::string_view name, const Names& names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Error mistake(std::string_view where, std::string_view what) {
  return Error(ErrorCode::kInvalidArgument,
               fmt::format("schema, at {}: {}", where.empty() ? "the top" : where, what),
               ErrorOrigin::kCaller);
}

// --- Is it a schema that is understood? ---------------------------------------------------------

Result<void> check(const Value& schema, const std::string& where, int depth);

Result<void> check_list(const Value& value, const std::string& where, int depth) {
  if (!value.is_array() || value.get_array().empty()) {
    return mistake(where, "must be a list of schemas");
  }
  size_t index = 0;
  for (const Value& each : value.get_array()) {
    SLUICE_TRY_VOID(check(each, fmt::format("{}/{}", where, index++), depth));
  }
  return {};
}

Result<void> check_properties(const Value& value, const std::string& where, int depth) {
  if (!value.is_object()) return mistake(where, "must be an object of schemas");
  for (const auto& [name, schema] : value.get_object()) {
    SLUICE_TRY_VOID(check(schema, fmt::format("{}/{}", where, std::string_view(name)), depth));
  }
  return {};
}

Result<void> check_type(const Value& value, const std::string& where) {
  const auto known = [](const Value& type) {
    return type.is_string() && is_one_of(std::string_view(type.get_string()), kTypes);
  };
  const bool fine = value.is_array()
                        ? std::all_of(value.get_array().begin(), value.get_array().end(), known)
                        : known(value);
  if (!fine) return mistake(where, "is no type of JSON Schema's");
  return {};
}

Result<void> check_keyword(std::string_view name, const Value& value, const std::string& where,
                           int depth) {
  if (is_one_of(name, kAnnotations) || name == "const") return {};
  if (name == "type") return check_type(value, where);
  if (name == "properties") return check_properties(value, where, depth);
  if (name == "items" || name == "additionalProperties") return check(value, where, depth);
  if (is_one_of(name, kCombined)) return check_list(value, where, depth);
  if (is_one_of(name, kBounds)) {
    if (!value.is_number()) return mistake(where, "must be a number");
    return {};
  }
  if (is_one_of(name, kCounts)) {
    if (!value.is_int64() || value.get_int64() < 0) return mistake(where, "must be a count");
    return {};
  }
  if (name == "enum") {
    if (!value.is_array()) return mistake(where, "must be a list");
    return {};
  }
  if (name == "required") {
    const auto is_text = [](const Value& each) {
      return each.is_string();
    };
    if (!value.is_array() ||
        !std::all_of(value.get_array().begin(), value.get_array().end(), is_text)) {
      return mistake(where, "must be a list of names");
    }
    return {};
  }
  return mistake(where, "is not understood here: leave it out, or check it in the tool");
}

Result<void> check(const Value& schema, const std::string& where, int depth) {
  if (depth > kMaxNesting) return mistake(where, "is too deep");
  if (schema.is_bool()) return {};
  if (!schema.is_object()) return mistake(where, "must be an object");
  for (const auto& [key, value] : schema.get_object()) {
    const std::string_view name = key;
    SLUICE_TRY_VOID(check_keyword(name, value, fmt::format("{}/{}", where, name), depth + 1));
  }
  return {};
}

// --- Does a value fit? --------------------------------------------------------------------------

bool is_type(const Value& value, std::string_view type) {
  if (type == "null") return value.is_null();
  if (type == "boolean") return value.is_bool();
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "number") return value.is_number();
  // 2.0 is an integer.
  return value.is_int64() || value.is_uint64() ||
         (value.is_double() && std::isfinite(value.get_double()) &&
          std::trunc(value.get_double()) == value.get_double());
}

// Equal as JSON is: 1 and 1.0 are one number.
bool same(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return a.to_number<double>() == b.to_number<double>();
  return a == b;
}

size_t characters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string at(const std::string& where, std::string_view what) {
  return fmt::format("{} {}", where.empty() ? "the arguments" : where, what);
}

using Mismatch = std::optional<std::string>;
Mismatch unfit(const Value& schema, const Value& value, const std::string& where);

Mismatch unfit_type(const Value& type, const Value& value, const std::string& where) {
  if (type.is_string()) {
    const std::string_view name = type.get_string();
    if (is_type(value, name)) return std::nullopt;
    return at(where, fmt::format("must be of type {}", name));
  }
  std::string names;
  for (const Value& each : type.get_array()) {
    const std::string_view name = each.get_string();
    if (is_type(value, name)) return std::nullopt;
    names += names.empty() ? "" : " or ";
    names += name;
  }
  return at(where, "must be of type " + names);
}

// A bound of a figure that a value has: its length, its size, itself.
Mismatch unfit_bounds(const Object& schema, double figure, std::string_view least,
                      std::string_view most, std::string_view what, const std::string& where) {
  if (const auto bound = get_number(schema, least); bound && figure < *bound) {
    return at(where, fmt::format("must {} at least {}", what, *bound));
  }
  if (const auto bound = get_number(schema, most); bound && figure > *bound) {
    return at(where, fmt::format("must {} at most {}", what, *bound));
  }
  return std::nullopt;
}

Mismatch unfit_object(const Object& schema, const Object& value, const std::string& where) {
  if (auto found = unfit_bounds(schema, static_cast<double>(value.size()), "minProperties",
                                "maxProperties", "have properties:", where)) {
    return found;
  }
  if (const Array* required = get_array(schema, "required")) {
    for (const Value& name : *required) {
      if (!value.contains(name.get_string())) {
        return at(where, fmt::format("must have \"{}\"", std::string_view(name.get_string())));
      }
    }
  }
  const Object* properties = get_object(schema, "properties");
  const Value* others = schema.if_contains("additionalProperties");
  for (const auto& [name, member] : value) {
    const std::string below = fmt::format("{}/{}", where, std::string_view(name));
    const Value* own = properties == nullptr ? nullptr : properties->if_contains(name);
    if (own == nullptr && others != nullptr && others->is_bool() && !others->get_bool()) {
      return at(below, "is not a parameter of this tool");
    }
    const Value* rule = own != nullptr ? own : others;
    if (rule == nullptr) continue;
    if (auto found = unfit(*rule, member, below)) return found;
  }
  return std::nullopt;
}

Mismatch unfit_array(const Object& schema, const Array& value, const std::string& where) {
  if (auto found = unfit_bounds(schema, static_cast<double>(value.size()), "minItems", "maxItems",
                                "have elements:", where)) {
    return found;
  }
  const Value* items = schema.if_contains("items");
  if (items == nullptr) return std::nullopt;
  size_t index = 0;
  for (const Value& each : value) {
    if (auto found = unfit(*items, each, fmt::format("{}/{}", where, index++))) return found;
  }
  return std::nullopt;
}

Mismatch unfit_number(const Object& schema, double value, const std::string& where) {
  if (auto found = unfit_bounds(schema, value, "minimum", "maximum", "be", where)) return found;
  if (const auto bound = get_number(schema, "exclusiveMinimum"); bound && value <= *bound) {
    return at(where, fmt::format("must be more than {}", *bound));
  }
  if (const auto bound = get_number(schema, "exclusiveMaximum"); bound && value >= *bound) {
    return at(where, fmt::format("must be less than {}", *bound));
  }
  return std::nullopt;
}

Mismatch unfit_combined(const Object& schema, const Value& value, const std::string& where) {
  if (const Array* all = get_array(schema, "allOf")) {
    for (const Value& each : *all) {
      if (auto found = unfit(each, value, where)) return found;
    }
  }
  const auto fitting = [&](const Array& schemas) {
    return std::count_if(schemas.begin(), schemas.end(),
                         [&](const Value& each) { return !unfit(each, value, where); });
  };
  if (const Array* any = get_array(schema, "anyOf"); any != nullptr && fitting(*any) == 0) {
    return at(where, "fits none of its forms");
  }
  if (const Array* one = get_array(schema, "oneOf"); one != nullptr && fitting(*one) != 1) {
    return at(where, "must fit exactly one of its forms");
  }
  return std::nullopt;
}

Mismatch unfit_choice(const Object& schema, const Value& value, const std::string& where) {
  if (const Value* constant = schema.if_contains("const");
      constant != nullptr && !same(*constant, value)) {
    return at(where, "must be " + serialize(*constant));
  }
  const Array* choices = get_array(schema, "enum");
  if (choices == nullptr) return std::nullopt;
  if (std::any_of(choices->begin(), choices->end(),
                  [&](const Value& choice) { return same(choice, value); })) {
    return std::nullopt;
  }
  return at(where, "must be one of " + serialize(*choices));
}

Mismatch unfit(const Value& schema, const Value& value, const std::string& where) {
  if (schema.is_bool()) {
    return schema.get_bool() ? Mismatch() : at(where, "is not a parameter of this tool");
  }
  const Object& rules = schema.get_object();
  if (const Value* type = rules.if_contains("type")) {
    if (auto found = unfit_type(*type, value, where)) return found;
  }
  if (auto found = unfit_choice(rules, value, where)) return found;
  Mismatch found;
  if (value.is_object()) {
    found = unfit_object(rules, value.get_object(), where);
  } else if (value.is_array()) {
    found = unfit_array(rules, value.get_array(), where);
  } else if (value.is_string()) {
    found = unfit_bounds(rules, static_cast<double>(characters(value.get_string())), "minLength",
                         "maxLength", "have characters:", where);
  } else if (value.is_number()) {
    found = unfit_number(rules, value.to_number<double>(), where);
  }
  return found ? found : unfit_combined(rules, value, where);
}

}  // namespace

Result<Schema> Schema::parse(std::string_view text) {
  ParseLimits limits;
  limits.bytes = kMaxSchema;
  SLUICE_TRY(Value schema, json::parse(text, limits));
  SLUICE_TRY_VOID(check(schema, "", 0));
  return Schema(std::move(schema));
}

std::optional<std::string> Schema::mismatch(const Value& value) const {
  return unfit(schema_, value, "");
}

}  // namespace sluice::json
