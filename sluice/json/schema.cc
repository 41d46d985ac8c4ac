#include "sluice/json/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <functional>
#include <span>

#include "sluice/base/core/bytes.h"

namespace sluice::json {
namespace {

constexpr size_t kMaxSchema = 256 * 1024;
constexpr int kMaxNesting = 32;  // of schemas within schemas
constexpr size_t kMostMistakes = 100;

// What is understood of a schema, as a schema. Only here "$ref" stands for the whole of it.
constexpr std::string_view kUnderstood = R"({
  "type": ["object", "boolean"], "additionalProperties": false,
  "properties": {
    "title": true, "description": true, "default": true, "examples": true, "format": true,
    "deprecated": true, "readOnly": true, "writeOnly": true, "$schema": true, "$id": true,
    "$comment": true, "const": true, "enum": {"type": "array"},
    "type": {"anyOf": [
      {"enum": ["null", "boolean", "object", "array", "number", "integer", "string"]},
      {"type": "array", "items": {
        "enum": ["null", "boolean", "object", "array", "number", "integer", "string"]}}]},
    "properties": {"type": "object", "additionalProperties": {"$ref": "#"}},
    "required": {"type": "array", "items": {"type": "string"}},
    "additionalProperties": {"$ref": "#"}, "items": {"$ref": "#"},
    "anyOf": {"type": "array", "minItems": 1, "items": {"$ref": "#"}},
    "oneOf": {"type": "array", "minItems": 1, "items": {"$ref": "#"}},
    "allOf": {"type": "array", "minItems": 1, "items": {"$ref": "#"}},
    "minimum": {"type": "number"}, "exclusiveMinimum": {"type": "number"},
    "maximum": {"type": "number"}, "exclusiveMaximum": {"type": "number"},
    "minLength": {"type": "integer", "minimum": 0}, "maxLength": {"type": "integer", "minimum": 0},
    "minItems": {"type": "integer", "minimum": 0}, "maxItems": {"type": "integer", "minimum": 0},
    "minProperties": {"type": "integer", "minimum": 0},
    "maxProperties": {"type": "integer", "minimum": 0}}})";

struct Type {
  std::string_view name, mistake;
  bool (Value::*holds)() const noexcept;
};
constexpr Type kTypes[] = {
    {"null", "none_required", &Value::is_null},   {"boolean", "bool_type", &Value::is_bool},
    {"object", "dict_type", &Value::is_object},   {"array", "list_type", &Value::is_array},
    {"number", "float_type", &Value::is_number},  {"integer", "int_type", &Value::is_number},
    {"string", "string_type", &Value::is_string},
};

// What a bound is for: a number itself, or how many characters, elements or properties there are.
enum class Figure : uint8_t { kNumber, kLength, kElements, kProperties };
using enum Figure;
template <class Order>
bool holds(double figure, double bound) {
  return Order()(figure, bound);
}
constexpr auto* kLeast = holds<std::greater_equal<>>;
constexpr auto* kMost = holds<std::less_equal<>>;
constexpr auto* kOver = holds<std::greater<>>;
constexpr auto* kUnder = holds<std::less<>>;
constexpr struct {
  std::string_view keyword;
  Figure of;
  std::string_view mistake, words;
  bool (*holds)(double figure, double bound);
} kBounds[] = {
    {"minimum", kNumber, "greater_than_equal", "must be at least {}", kLeast},
    {"exclusiveMinimum", kNumber, "greater_than", "must be more than {}", kOver},
    {"maximum", kNumber, "less_than_equal", "must be at most {}", kMost},
    {"exclusiveMaximum", kNumber, "less_than", "must be less than {}", kUnder},
    {"minLength", kLength, "string_too_short", "must have characters: at least {}", kLeast},
    {"maxLength", kLength, "string_too_long", "must have characters: at most {}", kMost},
    {"minItems", kElements, "too_short", "must have elements: at least {}", kLeast},
    {"maxItems", kElements, "too_long", "must have elements: at most {}", kMost},
    {"minProperties", kProperties, "too_few", "must have properties: at least {}", kLeast},
    {"maxProperties", kProperties, "too_many", "must have properties: at most {}", kMost},
};

// --- What a value can be taken for --------------------------------------------------------------

bool is(const Type& type, const Value& value) {
  if (!(value.*type.holds)()) return false;
  // 2.0 is an integer.
  return type.name != "integer" || !value.is_double() ||
         (std::isfinite(value.get_double()) &&
          std::trunc(value.get_double()) == value.get_double());
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// A number's text without the spaces around it, a plus, and the single underscores that Python
// allows between digits; nothing if they stand elsewhere.
std::string plain_number(std::string_view text) {
  text = trimmed(text);
  if (text.starts_with('+')) text.remove_prefix(text.starts_with("+-") ? text.size() : 1);
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out.push_back(text[i]);
    } else if (i == 0 || i + 1 == text.size() || !is_digit(text[i - 1]) || !is_digit(text[i + 1])) {
      return "";
    }
  }
  return out;
}

template <class Names>
bool is_one_of(std::string_view name, const Names& names) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

template <class Number>
std::errc read_number(std::string_view text, Number* number) {
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, *number);
  return at == end ? error : std::errc::invalid_argument;
}

// Each makes of a value what is asked for, or says what is wrong.
using Converted = std::string_view;

// Python's integers have no size; JSON's here come as floats from 2^64 on. A schema with
// "x-any-size" takes those.
Converted make_integer(const Object& rules, Value& value) {
  constexpr double limit = 9223372036854775808.0;  // 2^63
  if (value.is_bool()) {
    value = int64_t{value.get_bool()};
  } else if (value.is_double()) {
    const double number = value.get_double();
    if (number != std::floor(number)) return "int_from_float";
    if (number >= -limit && number < limit) {
      value = static_cast<int64_t>(number);
    } else if (!get_bool(rules, "x-any-size").value_or(false)) {
      return "int_parsing_size";
    }
  } else if (value.is_string()) {
    const std::string text = plain_number(std::string_view(value.get_string()));
    const std::string_view digits = std::string_view(text).substr(0, text.find('.'));
    const bool whole = digits.size() == text.size() ||
                       (text.ends_with('0') &&
                        text.find_first_not_of('0', digits.size() + 1) == std::string::npos);
    int64_t number = 0;
    const std::errc error = read_number(digits, &number);
    if (whole && error == std::errc::result_out_of_range) return "int_parsing_size";
    if (!whole || error != std::errc()) return "int_parsing";
    value = number;
  } else if (!value.is_number()) {
    return "int_type";
  }
  return {};
}

Converted make_number(Value& value) {
  double number = 0;
  if (value.is_bool()) {
    number = value.get_bool() ? 1 : 0;
  } else if (value.is_number()) {
    number = value.to_number<double>();
  } else if (value.is_string()) {
    const std::errc error =
        read_number(plain_number(std::string_view(value.get_string())), &number);
    if (error == std::errc::invalid_argument) return "float_parsing";
    // No limit, time or count is infinite here.
    if (error != std::errc() || !std::isfinite(number)) return "finite_number";
  } else {
    return "float_type";
  }
  value = number;
  return {};
}

Converted make_bool(Value& value) {
  constexpr std::string_view yes[] = {"1", "on", "t", "true", "y", "yes"};
  constexpr std::string_view no[] = {"0", "off", "f", "false", "n", "no"};
  if (value.is_bool()) return {};
  std::string text;
  if (value.is_string()) {
    text = value.get_string();
    for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  } else if (value.is_number()) {
    const auto number = value.to_number<double>();
    if (number != std::floor(number)) return "bool_type";
    text = fmt::format("{}", number);
  } else {
    return "bool_type";
  }
  if (!is_one_of(text, yes) && !is_one_of(text, no)) return "bool_parsing";
  value = is_one_of(text, yes);
  return {};
}

Converted convert(const Type& type, const Object& rules, Value& value) {
  if (type.name == "integer") return make_integer(rules, value);
  if (type.name == "number") return make_number(value);
  if (type.name == "boolean") return make_bool(value);
  return is(type, value) ? "" : type.mistake;
}

// --- Does a value fit? --------------------------------------------------------------------------

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

enum class Manner : uint8_t { kStrict, kLenient };

class Checker {
 public:
  // `whole` is what "$ref" stands for, if it may.
  Checker(Manner manner, Array where, Mistakes* found, const Value* whole = nullptr)
      : manner_(manner), where_(std::move(where)), found_(found), whole_(whole) {}

  static Mistakes strictly(const Value& schema, Value value, const Value* whole = nullptr) {
    Mistakes found;
    Checker(Manner::kStrict, {}, &found, whole).check(schema, value);
    return found;
  }

  void check(const Value& schema, Value& value) {
    if (schema == Value(false)) add("extra_forbidden", "is not a parameter of this tool");
    if (schema.is_object()) check(schema.get_object(), value);
  }

  void check(const Object& rules, Value& value) {
    if (!fits_choice(rules, value) || !fits_type(rules, value)) return;
    if (value.is_object()) {
      check_bounds(rules, kProperties, static_cast<double>(value.get_object().size()));
      check_members(rules, value.get_object());
    } else if (value.is_array()) {
      check_bounds(rules, kElements, static_cast<double>(value.get_array().size()));
      check_elements(rules, value.get_array());
    } else if (value.is_string()) {
      check_bounds(rules, kLength, static_cast<double>(characters(value.get_string())));
    } else if (value.is_number()) {
      check_bounds(rules, kNumber, value.to_number<double>());
    }
    check_forms(rules, value);
    if (whole_ == nullptr || !rules.contains("$ref")) return;
    if (++nesting_ > kMaxNesting) return add("too_deep", "is too deep");
    check(*whole_, value);
    --nesting_;
  }

 private:
  bool is_lenient() const { return manner_ == Manner::kLenient; }

  void add(Mistake mistake) {
    if (found_->size() < (is_lenient() ? kMostMistakes : 1)) found_->push_back(std::move(mistake));
  }
  void add(std::string_view type, std::string message, Value rule = nullptr, double figure = 0) {
    add(Mistake{std::string(type), where_, std::move(message), std::move(rule), figure});
  }

  bool fits_choice(const Object& rules, const Value& value) {
    if (const Value* constant = rules.if_contains("const");
        constant != nullptr && !same(*constant, value)) {
      add("literal_error", "must be " + serialize(*constant), Array(1, *constant));
      return false;
    }
    const Array* choices = get_array(rules, "enum");
    const auto is_value = [&](const Value& choice) {
      return same(choice, value);
    };
    if (choices == nullptr || std::any_of(choices->begin(), choices->end(), is_value)) return true;
    add("literal_error", "must be one of " + serialize(*choices), *choices);
    return false;
  }

  bool fits_type(const Object& rules, Value& value) {
    const Value* type = rules.if_contains("type");
    if (type == nullptr) return true;
    std::string_view first;
    std::string names;
    const Array* several = type->if_array();
    const auto listed =
        several == nullptr ? std::span(type, 1) : std::span(several->data(), several->size());
    for (const Value& name : listed) {
      const std::string_view wanted = name.is_string() ? std::string_view(name.get_string()) : "";
      const auto* each = std::find_if(std::begin(kTypes), std::end(kTypes),
                                      [&](const Type& one) { return one.name == wanted; });
      if (each == std::end(kTypes)) return true;
      std::string_view wrong = is(*each, value) ? "" : each->mistake;
      if (is_lenient() && type->is_string()) wrong = convert(*each, rules, value);
      if (wrong.empty()) return true;
      if (names.empty()) first = wrong;
      names.append(names.empty() ? "" : " or ").append(each->name);
    }
    add(first, "must be of type " + names);
    return false;
  }

  void check_bounds(const Object& rules, Figure of, double figure) {
    for (const auto& bound : kBounds) {
      const auto limit = bound.of == of ? get_number(rules, bound.keyword) : std::nullopt;
      if (!limit || bound.holds(figure, *limit)) continue;
      return add(bound.mistake, fmt::format(fmt::runtime(bound.words), *limit), *limit, figure);
    }
  }

  // A part of the value, by its name or number.
  void check_part(Value step, const Value& schema, Value& part) {
    where_.push_back(std::move(step));
    check(schema, part);
    where_.pop_back();
  }

  void check_members(const Object& rules, Object& object) {
    static const Object kNone;
    static const Array kNothing;
    const Object* stated = get_object(rules, "properties");
    const Object& properties = stated == nullptr ? kNone : *stated;
    const Array* names = get_array(rules, "required");
    const Array& required = names == nullptr ? kNothing : *names;
    const auto miss = [&](const Value& name) {
      where_.push_back(name);
      add("missing", "must have " + serialize(name));
      where_.pop_back();
    };
    Object out;
    for (const auto& [name, schema] : properties) {
      if (Value* member = object.if_contains(name)) {
        check_part(Value(name), schema, *member);
        out[name] = std::move(*member);
      } else if (std::find(required.begin(), required.end(), Value(name)) != required.end()) {
        miss(Value(name));
      } else if (is_lenient() && schema.is_object() && schema.get_object().contains("default")) {
        out[name] = schema.at("default");
      }
    }
    for (const Value& name : required) {
      const std::string_view text = name.is_string() ? std::string_view(name.get_string()) : "";
      if (name.is_string() && !properties.contains(text) && !object.contains(text)) miss(name);
    }
    const Value* others = rules.if_contains("additionalProperties");
    for (auto& member : object) {
      if (out.contains(member.key())) continue;
      if (others != nullptr) check_part(Value(member.key()), *others, member.value());
      out[member.key()] = std::move(member.value());
    }
    object = std::move(out);
  }

  void check_elements(const Object& rules, Array& elements) {
    const Value* items = rules.if_contains("items");
    if (items == nullptr) return;
    for (size_t i = 0; i < elements.size(); ++i) check_part(Value(i), *items, elements[i]);
  }

  void check_forms(const Object& rules, Value& value) {
    if (const Array* all = get_array(rules, "allOf")) {
      for (const Value& form : *all) check(form, value);
    }
    if (const Array* any = get_array(rules, "anyOf")) take_form(*any, value);
    const Array* one = get_array(rules, "oneOf");
    if (one == nullptr) return;
    if (is_lenient()) return take_form(*one, value);
    const auto fits = [&](const Value& form) {
      return strictly(form, value).empty();
    };
    if (std::count_if(one->begin(), one->end(), fits) != 1) {
      add("one_of", "must fit exactly one of its forms");
    }
  }

  // A form that leaves the value as it is comes before one that converts it.
  void take_form(const Array& forms, Value& value) {
    std::optional<Value> converted;
    Mistakes all;
    for (const Value& form : forms) {
      Mistakes found;
      Value changed = value;
      Checker(manner_, where_, &found).check(form, changed);
      if (found.empty() && changed == value) return;
      if (found.empty() && !converted) converted = std::move(changed);
      // That null would do as well is not told.
      const bool is_null = form.is_object() && get_string(form.get_object(), "type") == "null";
      if (!is_null) std::move(found.begin(), found.end(), std::back_inserter(all));
    }
    if (converted) {
      value = std::move(*converted);
    } else if (is_lenient()) {
      for (Mistake& each : all) add(std::move(each));
    } else {
      add("any_of", "fits none of its forms");
    }
  }

  const Manner manner_;
  Array where_;
  Mistakes* const found_;
  const Value* const whole_;
  int nesting_ = 0;
};

// "/a/1"; of what is missing, the object that lacks it.
std::string place_of(const Mistake& mistake, std::string_view top) {
  const size_t steps = mistake.where.size() - (mistake.type == "missing" ? 1 : 0);
  std::string place;
  for (size_t i = 0; i < steps; ++i) {
    const Value& step = mistake.where[i];
    place += '/';
    place += step.is_string() ? std::string(step.get_string()) : serialize(step);
  }
  return place.empty() ? std::string(top) : place;
}

}  // namespace

Mistakes convert(const Object& schema, Array where, Value* value) {
  Mistakes found;
  Checker(Manner::kLenient, std::move(where), &found).check(schema, *value);
  return found;
}

Result<Schema> Schema::parse(std::string_view text) {
  static const Value understood = *json::parse(kUnderstood);
  ParseLimits limits;
  limits.bytes = kMaxSchema;
  SLUICE_TRY(Value schema, json::parse(text, limits));
  const Mistakes found = Checker::strictly(understood, schema, &understood);
  if (found.empty()) return Schema(std::move(schema));
  const bool unknown = found[0].type == "extra_forbidden";
  return Error(ErrorCode::kInvalidArgument,
               fmt::format("schema, at {}: {}", place_of(found[0], "the top"),
                           unknown ? "is not understood here: leave it out, or check it in the tool"
                                   : found[0].message),
               ErrorOrigin::kCaller);
}

std::optional<std::string> Schema::mismatch(const Value& value) const {
  const Mistakes found = Checker::strictly(schema_, value);
  if (found.empty()) return std::nullopt;
  return place_of(found[0], "the arguments") + " " + found[0].message;
}

}  // namespace sluice::json
