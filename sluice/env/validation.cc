#include "sluice/env/validation.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "sluice/env/python_text.h"

namespace sluice::env {
namespace {

// pydantic's pages are versioned; this is the version whose messages are spoken here.
constexpr std::string_view kPages = "https://errors.pydantic.dev/2.14/v/";
constexpr size_t kMaxShownInput = 50;  // bytes of a repr() in a text

enum class Into : uint8_t { kInteger, kNumber };

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

// What pydantic calls the branch of a union.
std::string branch_name(const json::Object& schema) {
  const std::string_view type = json::get_string(schema, "type").value_or("any");
  if (type == "string") return "str";
  if (type == "integer") return "int";
  if (type == "number") return "float";
  if (type == "boolean") return "bool";
  if (type == "array") {
    const json::Object* items = json::get_object(schema, "items");
    return fmt::format("list[{}]", items == nullptr ? "any" : branch_name(*items));
  }
  if (type == "object") return "dict[str,any]";
  return std::string(type);
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
  Checker(Naming naming, Problems* problems) : naming_(naming), problems_(problems) {}

  json::Value check(const json::Object& schema, const json::Value& value, json::Array& where) {
    if (const json::Value* expected = schema.if_contains("const")) {
      json::Array one;
      one.push_back(*expected);
      return check_literal(one, value, where);
    }
    if (const json::Array* expected = json::get_array(schema, "enum")) {
      return check_literal(*expected, value, where);
    }
    if (const json::Array* branches = json::get_array(schema, "anyOf")) {
      return check_union(*branches, value, where);
    }
    const std::string_view type = json::get_string(schema, "type").value_or("");
    if (type == "string") return check_string(schema, value, where);
    if (type == "integer" || type == "number") {
      return check_number(schema, value, where, type == "integer" ? Into::kInteger : Into::kNumber);
    }
    if (type == "boolean") return check_bool(value, where);
    if (type == "array") return check_array(schema, value, where);
    if (type == "object") return check_object(schema, value, where);
    if (type == "null" && !value.is_null()) {
      add("none_required", where, "Input should be None", value);
    }
    return value;
  }

 private:
  void add(std::string type, const json::Array& where, std::string message,
           const json::Value& input, json::Object context = {}) {
    problems_->push_back(
        Problem{std::move(type), where, std::move(message), input, std::move(context)});
  }

  json::Value check_literal(const json::Array& expected, const json::Value& value,
                            const json::Array& where) {
    if (std::find(expected.begin(), expected.end(), value) != expected.end()) return value;
    std::string list;
    for (size_t i = 0; i < expected.size(); ++i) {
      if (i > 0) list.append(i + 1 == expected.size() ? " or " : ", ");
      list.append(python::repr(expected[i]));
    }
    json::Object context;
    context["expected"] = list;
    add("literal_error", where, "Input should be " + list, value, std::move(context));
    return value;
  }

  json::Value check_union(const json::Array& branches, const json::Value& value,
                          json::Array& where) {
    const bool nullable = std::any_of(branches.begin(), branches.end(), is_null_schema);
    if (nullable && value.is_null()) return value;
    std::vector<const json::Object*> others;
    for (const json::Value& branch : branches) {
      if (!is_null_schema(branch) && branch.is_object()) others.push_back(&branch.get_object());
    }
    if (others.empty()) return value;
    if (others.size() == 1) return check(*others[0], value, where);
    // A branch that the value already fits is taken before one that would convert it.
    for (const json::Object* branch : others) {
      Problems problems;
      if (!is_exactly(*branch, value)) continue;
      json::Value checked = Checker(Naming::kModel, &problems).check(*branch, value, where);
      if (problems.empty()) return checked;
    }
    Problems all;
    for (const json::Object* branch : others) {
      Problems problems;
      Checker inner(Naming::kModel, &problems);
      where.push_back(json::Value(branch_name(*branch)));
      json::Value checked = inner.check(*branch, value, where);
      where.pop_back();
      if (problems.empty()) return checked;
      std::move(problems.begin(), problems.end(), std::back_inserter(all));
    }
    std::move(all.begin(), all.end(), std::back_inserter(*problems_));
    return value;
  }

  json::Value check_string(const json::Object& schema, const json::Value& value,
                           const json::Array& where) {
    if (!value.is_string()) {
      add("string_type", where, "Input should be a valid string", value);
      return value;
    }
    const size_t size = characters(std::string_view(value.get_string()));
    const auto limit = [&](const char* name) {
      return json::get_integer(schema, name);
    };
    const auto context = [](const char* name, int64_t bound) {
      json::Object object;
      object[name] = bound;
      return object;
    };
    if (const auto least = limit("minLength"); least && size < static_cast<size_t>(*least)) {
      add("string_too_short", where,
          fmt::format("String should have at least {} character{}", *least, *least == 1 ? "" : "s"),
          value, context("min_length", *least));
    } else if (const auto most = limit("maxLength"); most && size > static_cast<size_t>(*most)) {
      add("string_too_long", where,
          fmt::format("String should have at most {} character{}", *most, *most == 1 ? "" : "s"),
          value, context("max_length", *most));
    }
    return value;
  }

  // Python's integers have no size; JSON's here come as floats from 2^64 on. A schema with
  // "x-any-size" takes those.
  std::optional<json::Value> to_integer(const json::Object& schema, const json::Value& value,
                                        const json::Array& where) {
    const bool any_size = json::get_bool(schema, "x-any-size").value_or(false);
    constexpr double limit = 9223372036854775808.0;  // 2^63
    constexpr std::string_view too_large =
        "Unable to parse input string as an integer, exceeded maximum size";
    if (value.is_int64() || value.is_uint64()) return value;
    if (value.is_bool()) return json::Value(int64_t{value.get_bool() ? 1 : 0});
    if (value.is_double()) {
      const double number = value.get_double();
      if (number != std::floor(number)) {
        add("int_from_float", where,
            "Input should be a valid integer, got a number with a fractional part", value);
      } else if (any_size && (number < -limit || number >= limit)) {
        return value;
      } else if (number < -limit || number >= limit) {
        add("int_parsing_size", where, std::string(too_large), value);
      } else {
        return json::Value(static_cast<int64_t>(number));
      }
    } else if (value.is_string()) {
      int64_t number = 0;
      switch (parse_integer(std::string_view(value.get_string()), &number)) {
        case Parsed::kOk:
          return json::Value(number);
        case Parsed::kTooLarge:
          add("int_parsing_size", where, std::string(too_large), value);
          break;
        case Parsed::kMalformed:
          add("int_parsing", where,
              "Input should be a valid integer, unable to parse string as an integer", value);
      }
    } else {
      add("int_type", where, "Input should be a valid integer", value);
    }
    return std::nullopt;
  }

  std::optional<json::Value> to_number(const json::Value& value, const json::Array& where) {
    if (value.is_bool()) return json::Value(value.get_bool() ? 1.0 : 0.0);
    if (value.is_number()) return json::Value(value.to_number<double>());
    if (!value.is_string()) {
      add("float_type", where, "Input should be a valid number", value);
      return std::nullopt;
    }
    const auto number = parse_number(std::string_view(value.get_string()));
    if (!number) {
      add("float_parsing", where,
          "Input should be a valid number, unable to parse string as a number", value);
    } else if (!std::isfinite(*number)) {
      // No limit, time or count is infinite here.
      add("finite_number", where, "Input should be a finite number", value);
    } else {
      return json::Value(*number);
    }
    return std::nullopt;
  }

  json::Value check_number(const json::Object& schema, const json::Value& value,
                           const json::Array& where, Into into) {
    auto number =
        into == Into::kInteger ? to_integer(schema, value, where) : to_number(value, where);
    if (!number) return value;
    struct Bound {
      const char *keyword, *name, *type, *words;
      bool (*holds)(double, double);
    };
    constexpr Bound bounds[] = {
        {"minimum", "ge", "greater_than_equal", "greater than or equal to",
         [](double a, double b) {
           return a >= b;
         }},
        {"exclusiveMinimum", "gt", "greater_than", "greater than",
         [](double a, double b) {
           return a > b;
         }},
        {"maximum", "le", "less_than_equal", "less than or equal to",
         [](double a, double b) {
           return a <= b;
         }},
        {"exclusiveMaximum", "lt", "less_than", "less than",
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
      json::Object context;
      context[bound.name] = *limit;
      add(bound.type, where, fmt::format("Input should be {} {}", bound.words, bound_text(*limit)),
          value, std::move(context));
      break;
    }
    return std::move(*number);
  }

  json::Value check_bool(const json::Value& value, const json::Array& where) {
    constexpr std::string_view unclear =
        "Input should be a valid boolean, unable to interpret input";
    if (value.is_bool()) return value;
    std::optional<bool> result;
    if (value.is_string()) {
      result = parse_bool(std::string_view(value.get_string()));
    } else if (value.is_number()) {
      const auto number = value.to_number<double>();
      if (number != std::floor(number)) {
        add("bool_type", where, "Input should be a valid boolean", value);
        return value;
      }
      if (number == 0 || number == 1) result = number == 1;
    } else {
      add("bool_type", where, "Input should be a valid boolean", value);
      return value;
    }
    if (!result) {
      add("bool_parsing", where, std::string(unclear), value);
      return value;
    }
    return json::Value(*result);
  }

  json::Value check_array(const json::Object& schema, const json::Value& value,
                          json::Array& where) {
    if (!value.is_array()) {
      add("list_type", where, "Input should be a valid list", value);
      return value;
    }
    const json::Array& items = value.get_array();
    json::Array out;
    const json::Object* item_schema = json::get_object(schema, "items");
    for (size_t i = 0; i < items.size(); ++i) {
      if (item_schema == nullptr) {
        out.push_back(items[i]);
        continue;
      }
      where.push_back(json::Value(static_cast<int64_t>(i)));
      out.push_back(check(*item_schema, items[i], where));
      where.pop_back();
    }
    check_size(schema, value, where);
    return out;
  }

  void check_size(const json::Object& schema, const json::Value& value, const json::Array& where) {
    const auto size = static_cast<int64_t>(value.get_array().size());
    const auto least = json::get_integer(schema, "minItems");
    const auto most = json::get_integer(schema, "maxItems");
    const bool too_short = least && size < *least;
    if (!too_short && !(most && size > *most)) return;
    const int64_t bound = too_short ? *least : *most;
    json::Object context;
    context["field_type"] = "List";
    context[too_short ? "min_length" : "max_length"] = bound;
    context["actual_length"] = size;
    add(too_short ? "too_short" : "too_long", where,
        fmt::format("List should have at {} {} item{} after validation, not {}",
                    too_short ? "least" : "most", bound, bound == 1 ? "" : "s", size),
        value, std::move(context));
  }

  json::Value check_object(const json::Object& schema, const json::Value& value,
                           json::Array& where) {
    const json::Object* object = value.if_object();
    if (object == nullptr) {
      add("dict_type", where, "Input should be a valid dictionary", value);
      return value;
    }
    const json::Object* properties = json::get_object(schema, "properties");
    if (properties == nullptr) return value;
    const bool call = naming_ == Naming::kCall;
    // What is inside an argument is a model's again.
    naming_ = Naming::kModel;
    json::Object out;
    for (const auto& property : *properties) {
      if (!property.value().is_object()) continue;
      const json::Object& inner = property.value().get_object();
      where.push_back(json::Value(property.key()));
      if (const json::Value* given = object->if_contains(property.key())) {
        out[property.key()] = check(inner, *given, where);
      } else if (is_required(schema, property.key())) {
        add(call ? "missing_argument" : "missing", where,
            call ? "Missing required argument" : "Field required", value);
      } else if (const json::Value* otherwise = inner.if_contains("default")) {
        out[property.key()] = *otherwise;
      }
      where.pop_back();
    }
    const bool closed = json::get_bool(schema, "additionalProperties") == false;
    for (const auto& member : *object) {
      if (properties->contains(member.key())) continue;
      if (!closed) {
        out[member.key()] = member.value();
        continue;
      }
      where.push_back(json::Value(member.key()));
      add(call ? "unexpected_keyword_argument" : "extra_forbidden", where,
          call ? "Unexpected keyword argument" : "Extra inputs are not permitted", member.value());
      where.pop_back();
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

  Naming naming_;
  Problems* const problems_;
};

// A repr() shortened in the middle, between characters.
std::string shown(const json::Value& input) {
  std::string text = python::repr(input);
  if (text.size() <= kMaxShownInput) return text;
  const auto inside = [&](size_t at) {
    return (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;
  };
  size_t head = kMaxShownInput / 2;
  while (inside(head)) --head;
  size_t tail = text.size() - (kMaxShownInput / 2 - 1);
  while (tail < text.size() && inside(tail)) ++tail;
  return text.substr(0, head) + "..." + text.substr(tail);
}

}  // namespace

json::Value check(const json::Object& schema, const json::Value& value, const json::Array& where,
                  Naming naming, Problems* problems) {
  json::Array at = where;
  return Checker(naming, problems).check(schema, value, at);
}

json::Array to_json(const Problems& problems, Urls urls) {
  json::Array list;
  for (const Problem& problem : problems) {
    json::Object row;
    row["type"] = problem.type;
    row["loc"] = problem.where;
    row["msg"] = problem.message;
    row["input"] = problem.input;
    if (!problem.context.empty()) row["ctx"] = problem.context;
    if (urls == Urls::kWithUrls) row["url"] = std::string(kPages) + problem.type;
    list.push_back(std::move(row));
  }
  return list;
}

std::string to_text(const Problems& problems, std::string_view model) {
  std::string text = fmt::format("{} validation error{} for {}", problems.size(),
                                 problems.size() == 1 ? "" : "s", model);
  for (const Problem& problem : problems) {
    std::string place;
    for (const json::Value& step : problem.where) {
      if (!place.empty()) place.push_back('.');
      place.append(python::str(step));
    }
    text.push_back('\n');
    if (!place.empty()) text.append(place).push_back('\n');
    text.append(fmt::format("  {} [type={}, input_value={}, input_type={}]\n", problem.message,
                            problem.type, shown(problem.input), python::type_name(problem.input)));
    text.append(fmt::format("    For further information visit {}{}", kPages, problem.type));
  }
  return text;
}

}  // namespace sluice::env
