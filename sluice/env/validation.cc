#include "sluice/env/validation.h"

#include <fmt/format.h>

#include <algorithm>

#include "sluice/env/python_text.h"

namespace sluice::env {
namespace {

// {0}: the rule that was broken; {1}: its plural; {2}: what broke it.
struct Words {
  std::string_view type, text;
};
constexpr Words kWords[] = {
    {"missing", "Field required"},
    {"missing_argument", "Missing required argument"},
    {"extra_forbidden", "Extra inputs are not permitted"},
    {"unexpected_keyword_argument", "Unexpected keyword argument"},
    {"literal_error", "Input should be {0}"},
    {"none_required", "Input should be None"},
    {"string_type", "Input should be a valid string"},
    {"list_type", "Input should be a valid list"},
    {"dict_type", "Input should be a valid dictionary"},
    {"bool_type", "Input should be a valid boolean"},
    {"bool_parsing", "Input should be a valid boolean, unable to interpret input"},
    {"int_type", "Input should be a valid integer"},
    {"int_parsing", "Input should be a valid integer, unable to parse string as an integer"},
    {"int_parsing_size", "Unable to parse input string as an integer, exceeded maximum size"},
    {"int_from_float", "Input should be a valid integer, got a number with a fractional part"},
    {"float_type", "Input should be a valid number"},
    {"float_parsing", "Input should be a valid number, unable to parse string as a number"},
    {"finite_number", "Input should be a finite number"},
    {"greater_than_equal", "Input should be greater than or equal to {0}"},
    {"greater_than", "Input should be greater than {0}"},
    {"less_than_equal", "Input should be less than or equal to {0}"},
    {"less_than", "Input should be less than {0}"},
    {"string_too_short", "String should have at least {0} character{1}"},
    {"string_too_long", "String should have at most {0} character{1}"},
    {"too_short", "List should have at least {0} item{1} after validation, not {2}"},
    {"too_long", "List should have at most {0} item{1} after validation, not {2}"},
};

// "'a', 'b' or 'c'", or a bound, where 0.0 is "0".
std::string rule_text(const json::Value& rule) {
  if (rule.is_number()) return fmt::format("{}", rule.to_number<double>());
  std::string list;
  for (size_t i = 0; rule.is_array() && i < rule.get_array().size(); ++i) {
    if (i > 0) list.append(i + 1 == rule.get_array().size() ? " or " : ", ");
    list.append(python::repr(rule.at(i)));
  }
  return list;
}

std::string words_of(const Mistake& mistake) {
  const auto* found = std::find_if(std::begin(kWords), std::end(kWords),
                                   [&](const Words& words) { return words.type == mistake.type; });
  if (found == std::end(kWords)) return mistake.message;
  const std::string rule = rule_text(mistake.rule);
  return fmt::format(fmt::runtime(found->text), rule, rule == "1" ? "" : "s", mistake.figure);
}

}  // namespace

json::Value check(const json::Object& schema, json::Value value, const json::Array& where,
                  Naming naming, Mistakes* problems) {
  for (Mistake& found : json::convert(schema, where, &value)) {
    if (naming == Naming::kCall && found.where.size() == where.size() + 1) {
      if (found.type == "missing") found.type = "missing_argument";
      if (found.type == "extra_forbidden") found.type = "unexpected_keyword_argument";
    }
    found.message = words_of(found);
    problems->push_back(std::move(found));
  }
  return value;
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
