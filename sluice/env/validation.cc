#include "sluice/env/validation.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include "sluice/env/python_text.h"

namespace sluice::env {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

std::string_view strip(std::string_view text) {
  while (!text.empty() && std::string_view(" \t\n\r\f\v").find(text.front()) != text.npos) {
    text.remove_prefix(1);
  }
  while (!text.empty() && std::string_view(" \t\n\r\f\v").find(text.back()) != text.npos) {
    text.remove_suffix(1);
  }
  return text;
}

// Digits of a number without the single underscores that Python allows between them; nothing if
// they stand elsewhere.
std::optional<std::string> without_underscores(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out.push_back(text[i]);
      continue;
    }
    if (i == 0 || i + 1 == text.size() || !is_digit(text[i - 1]) || !is_digit(text[i + 1])) {
      return std::nullopt;
    }
  }
  return out;
}

enum class Parsed : uint8_t { kOk, kMalformed, kTooLarge };

// "12", " +1_000 ", "-3.00".
Parsed parse_integer(std::string_view text, int64_t* number) {
  text = strip(text);
  if (const size_t point = text.find('.'); point != text.npos) {
    const std::string_view zeros = text.substr(point + 1);
    if (zeros.empty() || zeros.find_first_not_of('0') != zeros.npos) return Parsed::kMalformed;
    text = text.substr(0, point);
  }
  auto digits = without_underscores(text);
  if (!digits || digits->empty()) return Parsed::kMalformed;
  if (digits->front() == '+') {
    digits->erase(0, 1);
    if (digits->empty() || !is_digit(digits->front())) return Parsed::kMalformed;
  }
  const char* const end = digits->data() + digits->size();
  const auto [at, error] = std::from_chars(digits->data(), end, *number);
  if (at != end) return Parsed::kMalformed;
  return error == std::errc::result_out_of_range ? Parsed::kTooLarge
         : error == std::errc()                  ? Parsed::kOk
                                                 : Parsed::kMalformed;
}

std::optional<double> parse_number(std::string_view text) {
  auto plain = without_underscores(strip(text));
  if (!plain || plain->empty()) return std::nullopt;
  if (plain->front() == '+') {
    plain->erase(0, 1);
    if (plain->empty() || plain->front() == '-') return std::nullopt;
  }
  double number = 0;
  const char* const end = plain->data() + plain->size();
  const auto [at, error] = std::from_chars(plain->data(), end, number);
  if (at != end) return std::nullopt;
  if (error == std::errc::result_out_of_range) return std::numeric_limits<double>::infinity();
  return error == std::errc() ? std::optional(number) : std::nullopt;
}

std::optional<bool> parse_bool(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  constexpr std::string_view yes[] = {"1", "on", "t", "true", "y", "yes"};
  constexpr std::string_view no[] = {"0", "off", "f", "false", "n", "no"};
  if (std::find(std::begin(yes), std::end(yes), lower) != std::end(yes)) return true;
  if (std::find(std::begin(no), std::end(no), lower) != std::end(no)) return false;
  return std::nullopt;
}

// "5", "0.5": a bound in a message, where 0.0 is "0".
std::string bound_text(const json::Value& bound) {
  std::string text = python::repr(bound);
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  return text;
}

size_t characters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

bool is_null_schema(const json::Value& schema) {
  const json::Object* object = schema.if_object();
  return object != nullptr && json::get_string(*object, "type") == "null";
}

// A value that is already what the schema asks for, without any coercion.
bool is_exactly(const json::Object& schema, const json::Value& value) {
  const std::string_view type = json::get_string(schema, "type").value_or("");
  return (type == "string" && value.is_string()) || (type == "boolean" && value.is_bool()) ||
         (type == "integer" && (value.is_int64() || value.is_uint64())) ||
         (type == "number" && value.is_number()) || (type == "array" && value.is_array()) ||
         (type == "object" && value.is_object()) || (type == "null" && value.is_null());
}

class Checker {
 public:
  Checker(json::Array where, Naming naming, Mistakes* problems)
      : where_(std::move(where)), naming_(naming), problems_(problems) {}

  json::Value check(const json::Object& schema, const json::Value& value) {
    if (const json::Value* expected = schema.if_contains("const")) {
      json::Array one;
      one.push_back(*expected);
      return check_literal(one, value);
    }
    if (const json::Array* expected = json::get_array(schema, "enum")) {
      return check_literal(*expected, value);
    }
    if (const json::Array* branches = json::get_array(schema, "anyOf")) {
      return check_union(*branches, value);
    }
    const std::string_view type = json::get_string(schema, "type").value_or("");
    if (type == "string") return check_string(schema, value);
    if (type == "integer") return check_bounds(schema, value, to_integer(schema, value));
    if (type == "number") return check_bounds(schema, value, to_number(value));
    if (type == "boolean") return check_bool(value);
    if (type == "array") return check_array(schema, value);
    if (type == "object") return check_object(schema, value);
    if (type == "null" && !value.is_null()) add("none_required", "Input should be None");
    return value;
  }

 private:
  void add(std::string type, std::string message) {
    problems_->push_back(Mistake{std::move(type), where_, std::move(message)});
  }

  json::Value check_literal(const json::Array& expected, const json::Value& value) {
    if (std::find(expected.begin(), expected.end(), value) != expected.end()) return value;
    std::string list;
    for (size_t i = 0; i < expected.size(); ++i) {
      if (i > 0) list.append(i + 1 == expected.size() ? " or " : ", ");
      list.append(python::repr(expected[i]));
    }
    add("literal_error", "Input should be " + list);
    return value;
  }

  json::Value check_union(const json::Array& branches, const json::Value& value) {
    const bool nullable = std::any_of(branches.begin(), branches.end(), is_null_schema);
    if (nullable && value.is_null()) return value;
    std::vector<const json::Object*> others;
    for (const json::Value& branch : branches) {
      if (!is_null_schema(branch) && branch.is_object()) others.push_back(&branch.get_object());
    }
    if (others.empty()) return value;
    if (others.size() == 1) return check(*others[0], value);
    Mistakes all;
    // A branch that the value already fits is taken before one that would convert it.
    for (const bool as_it_is : {true, false}) {
      for (const json::Object* branch : others) {
        if (is_exactly(*branch, value) != as_it_is) continue;
        Mistakes problems;
        json::Value checked = Checker(where_, Naming::kModel, &problems).check(*branch, value);
        if (problems.empty()) return checked;
        std::move(problems.begin(), problems.end(), std::back_inserter(all));
      }
    }
    std::move(all.begin(), all.end(), std::back_inserter(*problems_));
    return value;
  }

  json::Value check_string(const json::Object& schema, const json::Value& value) {
    if (!value.is_string()) {
      add("string_type", "Input should be a valid string");
      return value;
    }
    const auto size = static_cast<int64_t>(characters(std::string_view(value.get_string())));
    if (const auto least = json::get_integer(schema, "minLength"); least && size < *least) {
      add("string_too_short", fmt::format("String should have at least {} character{}", *least,
                                          *least == 1 ? "" : "s"));
    } else if (const auto most = json::get_integer(schema, "maxLength"); most && size > *most) {
      add("string_too_long",
          fmt::format("String should have at most {} character{}", *most, *most == 1 ? "" : "s"));
    }
    return value;
  }

  // Python's integers have no size; JSON's here come as floats from 2^64 on. A schema with
  // "x-any-size" takes those.
  std::optional<json::Value> to_integer(const json::Object& schema, const json::Value& value) {
    constexpr double limit = 9223372036854775808.0;  // 2^63
    constexpr const char* too_large =
        "Unable to parse input string as an integer, exceeded maximum size";
    if (value.is_int64() || value.is_uint64()) return value;
    if (value.is_bool()) return json::Value(int64_t{value.get_bool() ? 1 : 0});
    if (value.is_double()) {
      const double number = value.get_double();
      const bool fits = number >= -limit && number < limit;
      if (number != std::floor(number)) {
        add("int_from_float",
            "Input should be a valid integer, got a number with a fractional part");
      } else if (fits) {
        return json::Value(static_cast<int64_t>(number));
      } else if (json::get_bool(schema, "x-any-size").value_or(false)) {
        return value;
      } else {
        add("int_parsing_size", too_large);
      }
    } else if (value.is_string()) {
      int64_t number = 0;
      switch (parse_integer(std::string_view(value.get_string()), &number)) {
        case Parsed::kOk:
          return json::Value(number);
        case Parsed::kTooLarge:
          add("int_parsing_size", too_large);
          break;
        case Parsed::kMalformed:
          add("int_parsing",
              "Input should be a valid integer, unable to parse string as an integer");
      }
    } else {
      add("int_type", "Input should be a valid integer");
    }
    return std::nullopt;
  }

  std::optional<json::Value> to_number(const json::Value& value) {
    if (value.is_bool()) return json::Value(value.get_bool() ? 1.0 : 0.0);
    if (value.is_number()) return json::Value(value.to_number<double>());
    if (!value.is_string()) {
      add("float_type", "Input should be a valid number");
      return std::nullopt;
    }
    const auto number = parse_number(std::string_view(value.get_string()));
    if (!number) {
      add("float_parsing", "Input should be a valid number, unable to parse string as a number");
    } else if (!std::isfinite(*number)) {
      // No limit, time or count is infinite here.
      add("finite_number", "Input should be a finite number");
    } else {
      return json::Value(*number);
    }
    return std::nullopt;
  }

  // `number` is what `value` was taken for, if it is one.
  json::Value check_bounds(const json::Object& schema, const json::Value& value,
                           std::optional<json::Value> number) {
    if (!number) return value;
    struct Bound {
      const char *keyword, *type, *words;
      bool (*holds)(double number, double bound);
    };
    static constexpr Bound bounds[] = {
        {"minimum", "greater_than_equal", "greater than or equal to",
         [](double a, double b) {
           return a >= b;
         }},
        {"exclusiveMinimum", "greater_than", "greater than",
         [](double a, double b) {
           return a > b;
         }},
        {"maximum", "less_than_equal", "less than or equal to",
         [](double a, double b) {
           return a <= b;
         }},
        {"exclusiveMaximum", "less_than", "less than",
         [](double a, double b) {
           return a < b;
         }},
    };
    for (const Bound& bound : bounds) {
      const json::Value* limit = schema.if_contains(bound.keyword);
      if (limit == nullptr || !limit->is_number() ||
          bound.holds(number->to_number<double>(), limit->to_number<double>())) {
        continue;
      }
      add(bound.type, fmt::format("Input should be {} {}", bound.words, bound_text(*limit)));
      break;
    }
    return std::move(*number);
  }

  json::Value check_bool(const json::Value& value) {
    if (value.is_bool()) return value;
    std::optional<bool> result;
    bool readable = value.is_string();
    if (value.is_string()) {
      result = parse_bool(std::string_view(value.get_string()));
    } else if (value.is_number()) {
      const auto number = value.to_number<double>();
      readable = number == std::floor(number);
      if (number == 0 || number == 1) result = number == 1;
    }
    if (result) return json::Value(*result);
    if (readable) {
      add("bool_parsing", "Input should be a valid boolean, unable to interpret input");
    } else {
      add("bool_type", "Input should be a valid boolean");
    }
    return value;
  }

  json::Value check_array(const json::Object& schema, const json::Value& value) {
    if (!value.is_array()) {
      add("list_type", "Input should be a valid list");
      return value;
    }
    json::Array items = value.get_array();
    if (const json::Object* item_schema = json::get_object(schema, "items")) {
      for (size_t i = 0; i < items.size(); ++i) {
        where_.push_back(json::Value(static_cast<int64_t>(i)));
        items[i] = check(*item_schema, items[i]);
        where_.pop_back();
      }
    }
    const auto size = static_cast<int64_t>(items.size());
    const auto say = [&](const char* type, const char* side, int64_t bound) {
      add(type, fmt::format("List should have at {} {} item{} after validation, not {}", side,
                            bound, bound == 1 ? "" : "s", size));
    };
    if (const auto least = json::get_integer(schema, "minItems"); least && size < *least) {
      say("too_short", "least", *least);
    } else if (const auto most = json::get_integer(schema, "maxItems"); most && size > *most) {
      say("too_long", "most", *most);
    }
    return items;
  }

  json::Value check_object(const json::Object& schema, const json::Value& value) {
    const json::Object* object = value.if_object();
    if (object == nullptr) {
      add("dict_type", "Input should be a valid dictionary");
      return value;
    }
    const json::Object* properties = json::get_object(schema, "properties");
    if (properties == nullptr) return value;
    // What is inside an argument is a model's again.
    const bool call = std::exchange(naming_, Naming::kModel) == Naming::kCall;
    json::Object out;
    for (const auto& property : *properties) {
      if (!property.value().is_object()) continue;
      const json::Object& inner = property.value().get_object();
      where_.push_back(json::Value(property.key()));
      if (const json::Value* given = object->if_contains(property.key())) {
        out[property.key()] = check(inner, *given);
      } else if (is_required(schema, property.key())) {
        add(call ? "missing_argument" : "missing",
            call ? "Missing required argument" : "Field required");
      } else if (const json::Value* otherwise = inner.if_contains("default")) {
        out[property.key()] = *otherwise;
      }
      where_.pop_back();
    }
    const bool closed = json::get_bool(schema, "additionalProperties") == false;
    for (const auto& member : *object) {
      if (properties->contains(member.key())) continue;
      if (!closed) {
        out[member.key()] = member.value();
        continue;
      }
      where_.push_back(json::Value(member.key()));
      add(call ? "unexpected_keyword_argument" : "extra_forbidden",
          call ? "Unexpected keyword argument" : "Extra inputs are not permitted");
      where_.pop_back();
    }
    return out;
  }

  static bool is_required(const json::Object& schema, std::string_view name) {
    const json::Array* required = json::get_array(schema, "required");
    return required != nullptr &&
           std::any_of(required->begin(), required->end(), [&](const json::Value& one) {
             return one.is_string() && std::string_view(one.get_string()) == name;
           });
  }

  json::Array where_;
  Naming naming_;
  Mistakes* const problems_;
};

}  // namespace

json::Value check(const json::Object& schema, const json::Value& value, const json::Array& where,
                  Naming naming, Mistakes* problems) {
  return Checker(where, naming, problems).check(schema, value);
}

json::Array to_json(const Mistakes& problems) {
  json::Array list;
  for (const Mistake& problem : problems) {
    list.push_back(
        json::Object{{"type", problem.type}, {"loc", problem.where}, {"msg", problem.message}});
  }
  return list;
}

std::string to_text(const Mistakes& problems, std::string_view model) {
  std::string text = fmt::format("{} validation error{} for {}", problems.size(),
                                 problems.size() == 1 ? "" : "s", model);
  for (const Mistake& problem : problems) {
    std::string place;
    for (const json::Value& step : problem.where) {
      if (!place.empty()) place.push_back('.');
      place.append(python::str(step));
    }
    text.push_back('\n');
    if (!place.empty()) text.append(place).push_back('\n');
    text.append(fmt::format("  {} [type={}]", problem.message, problem.type));
  }
  return text;
}

}  // namespace sluice::env
