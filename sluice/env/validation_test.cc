#include "sluice/env/validation.h"

#include <gtest/gtest.h>

#include "sluice/env/documents.h"
#include "sluice/env/python_text.h"

namespace sluice::env {
namespace {

constexpr const char* kEcho = R"({
  "type": "object", "additionalProperties": false, "required": ["message"],
  "properties": {
    "message": {"type": "string"},
    "times": {"type": "integer", "default": 1},
    "loud": {"anyOf": [{"type": "boolean"}, {"type": "null"}], "default": null},
    "tags": {"anyOf": [{"items": {"type": "string"}, "type": "array"}, {"type": "null"}],
             "default": null},
    "ratio": {"type": "number", "default": 1.0}}})";

json::Value parse(std::string_view text) {
  auto value = json::parse(text);
  EXPECT_TRUE(value) << text;
  return value ? *value : json::Value();
}

struct Checked {
  json::Value value;
  Mistakes problems;
};
Checked check_text(std::string_view schema, std::string_view input,
                   Naming naming = Naming::kModel) {
  Checked out;
  const json::Object parsed = parse_document(schema);
  out.value = check(parsed, parse(input), {}, naming, &out.problems);
  return out;
}

// The value that a field of this schema becomes, or the type of what is wrong with it.
std::string outcome(std::string_view schema, std::string_view input) {
  const Checked checked = check_text(schema, input);
  return checked.problems.empty() ? python::repr(checked.value)
                                  : "!" + checked.problems.front().type;
}

std::string with_id(const char* id) {
  return std::string(R"({"method":"m","id":)") + id + "}";
}

// As recorded of pydantic 2.14.
TEST(Validation, takes_integers_as_pydantic_does) {
  const std::pair<const char*, const char*> cases[] = {
      {"12", "12"},
      {"\"12\"", "12"},
      {"\" 12 \"", "12"},
      {"\"+5\"", "5"},
      {"\"-3\"", "-3"},
      {"\"1.00\"", "1"},
      {"\"-1.0\"", "-1"},
      {"\"5_0\"", "50"},
      {"\"1_0.0\"", "10"},
      {"\"00012\"", "12"},
      {"\"-0\"", "0"},
      {"2.0", "2"},
      {"-0.0", "0"},
      {"true", "1"},
      {"false", "0"},
      {"18446744073709551615", "18446744073709551615"},
      {"1.5", "!int_from_float"},
      {"1e30", "!int_parsing_size"},
      {"\"999999999999999999999\"", "!int_parsing_size"},
      {"null", "!int_type"},
      {"[1]", "!int_type"},
      {"{}", "!int_type"},
      {"\"\"", "!int_parsing"},
      {"\"abc\"", "!int_parsing"},
      {"\"1.\"", "!int_parsing"},
      {"\"1.5\"", "!int_parsing"},
      {"\".0\"", "!int_parsing"},
      {"\"1e3\"", "!int_parsing"},
      {"\"--5\"", "!int_parsing"},
      {"\"- 5\"", "!int_parsing"},
      {"\"+-5\"", "!int_parsing"},
      {"\"5_\"", "!int_parsing"},
      {"\"_5\"", "!int_parsing"},
      {"\"5__0\"", "!int_parsing"},
      {"\"0x1\"", "!int_parsing"},
      {"\"5 5\"", "!int_parsing"},
      {"\"٣\"", "!int_parsing"}};
  for (const auto& [input, expected] : cases) {
    EXPECT_EQ(outcome(R"({"type":"integer"})", input), expected) << input;
  }
}

TEST(Validation, takes_numbers_and_booleans_as_pydantic_does) {
  const std::pair<const char*, const char*> numbers[] = {
      {"5", "5.0"},
      {"\"1.5\"", "1.5"},
      {"\" 2 \"", "2.0"},
      {"\"1e3\"", "1000.0"},
      {"\"1.\"", "1.0"},
      {"\"+.5\"", "0.5"},
      {"\"1_000.5\"", "1000.5"},
      {"true", "1.0"},
      {"\"x\"", "!float_parsing"},
      {"\"\"", "!float_parsing"},
      {"\"1e\"", "!float_parsing"},
      {"\"0x1p3\"", "!float_parsing"},
      {"\"1__0\"", "!float_parsing"},
      {"\"++1\"", "!float_parsing"},
      {"null", "!float_type"},
      {"{}", "!float_type"},
      // pydantic takes these; no time or count is infinite here.
      {"\"nan\"", "!finite_number"},
      {"\"-Inf\"", "!finite_number"},
      {"\"1e400\"", "!finite_number"}};
  for (const auto& [input, expected] : numbers) {
    EXPECT_EQ(outcome(R"({"type":"number"})", input), expected) << input;
  }
  const std::pair<const char*, const char*> booleans[] = {{"true", "True"},
                                                          {"\"yes\"", "True"},
                                                          {"\"oFf\"", "False"},
                                                          {"1", "True"},
                                                          {"0", "False"},
                                                          {"1.0", "True"},
                                                          {"\"1\"", "True"},
                                                          {"\"n\"", "False"},
                                                          {"2", "!bool_parsing"},
                                                          {"-1", "!bool_parsing"},
                                                          {"2.0", "!bool_parsing"},
                                                          {"\"maybe\"", "!bool_parsing"},
                                                          {"\" on\"", "!bool_parsing"},
                                                          {"0.5", "!bool_type"},
                                                          {"null", "!bool_type"},
                                                          {"[1]", "!bool_type"}};
  for (const auto& [input, expected] : booleans) {
    EXPECT_EQ(outcome(R"({"type":"boolean"})", input), expected) << input;
  }
}

TEST(Validation, checks_bounds_and_says_so_in_pydantics_words) {
  struct Case {
    const char *schema, *input, *type, *message;
  };
  const Case cases[] = {
      {R"({"type":"integer","minimum":0})", "-1", "greater_than_equal",
       "Input should be greater than or equal to 0"},
      {R"({"type":"number","exclusiveMinimum":0.0})", "0", "greater_than",
       "Input should be greater than 0"},
      {R"({"type":"integer","maximum":10})", "11", "less_than_equal",
       "Input should be less than or equal to 10"},
      {R"({"type":"number","exclusiveMaximum":0.5})", "\"0.5\"", "less_than",
       "Input should be less than 0.5"},
      {R"({"type":"string","minLength":1})", "\"\"", "string_too_short",
       "String should have at least 1 character"},
      {R"({"type":"string","maxLength":2})", "\"üüü\"", "string_too_long",
       "String should have at most 2 characters"},
      {R"({"type":"array","minItems":1})", "[]", "too_short",
       "List should have at least 1 item after validation, not 0"},
      {R"({"type":"array","maxItems":1})", "[1,2]", "too_long",
       "List should have at most 1 item after validation, not 2"},
      {R"({"enum":["a","b","c"]})", "5", "literal_error", "Input should be 'a', 'b' or 'c'"},
      {R"({"type":"string"})", "5", "string_type", "Input should be a valid string"},
      {R"({"type":"object"})", "5", "dict_type", "Input should be a valid dictionary"},
      {R"({"type":"null"})", "5", "none_required", "Input should be None"},
  };
  for (const Case& c : cases) {
    const Checked checked = check_text(c.schema, c.input);
    ASSERT_EQ(checked.problems.size(), 1U) << c.schema;
    EXPECT_EQ(checked.problems[0].type, c.type);
    EXPECT_EQ(checked.problems[0].message, c.message);
  }
  EXPECT_EQ(outcome(R"({"type":"string","maxLength":3})", "\"üüü\""), "'üüü'");
}

TEST(Validation, fills_defaults_in_and_converts_inside_lists) {
  const Checked checked =
      check_text(kEcho, R"({"message":"a","times":"12","loud":"yes","tags":["x"]})", Naming::kCall);
  EXPECT_TRUE(checked.problems.empty());
  EXPECT_EQ(python::compact(checked.value),
            R"({"message":"a","times":12,"loud":true,"tags":["x"],"ratio":1.0})");
}

TEST(Validation, names_every_mistake_of_a_call_in_order) {
  const Checked checked = check_text(
      kEcho, R"({"times":"x","loud":"y","tags":"z","ratio":"w","b1":1,"b2":[1]})", Naming::kCall);
  EXPECT_EQ(to_text(checked.problems, "call[echo]"),
            "6 validation errors for call[echo]\nmessage\n  Missing required argument "
            "[type=missing_argument]\ntimes\n  Input should be a valid integer, "
            "unable to parse string as an integer [type=int_parsing]\ntags\n  Input "
            "should be a valid list [type=list_type]\nratio\n  Input should be a "
            "valid number, unable to parse string as a number "
            "[type=float_parsing]\nb1\n  Unexpected keyword argument "
            "[type=unexpected_keyword_argument]\nb2\n  Unexpected keyword argument "
            "[type=unexpected_keyword_argument]");
}

TEST(Validation, names_mistakes_of_models_and_of_unions) {
  constexpr const char* model = R"({
    "type": "object", "additionalProperties": false, "required": ["method"],
    "properties": {
      "method": {"type": "string"},
      "id": {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]}}})";
  Checked checked = check_text(model, R"({"id":[1],"x":1})");
  ASSERT_EQ(checked.problems.size(), 4U);
  EXPECT_EQ(python::compact(to_json(checked.problems)),
            R"([{"type":"missing","loc":["method"],"msg":"Field )"
            R"(required"},{"type":"string_type","loc":["id"],"msg":"Input should be a )"
            R"(valid string"},{"type":"int_type","loc":["id"],"msg":"Input should be a )"
            R"(valid integer"},{"type":"extra_forbidden","loc":["x"],"msg":"Extra )"
            R"(inputs are not permitted"}])");
  // What fits a branch as it is stays as it is; else the first that it can become.
  const auto id = [&](const char* value) {
    return python::repr(check_text(model, with_id(value)).value.get_object()["id"]);
  };
  EXPECT_EQ(id("\"7\""), "'7'");
  EXPECT_EQ(id("7"), "7");
  EXPECT_EQ(id("2.0"), "2");
  EXPECT_EQ(id("true"), "1");
  EXPECT_EQ(id("null"), "None");
}

TEST(Validation, takes_one_of_several_types_as_it_is) {
  constexpr const char* either = R"({"type":["integer","null"],"minimum":1})";
  EXPECT_EQ(outcome(either, "null"), "None");
  EXPECT_EQ(outcome(either, "2"), "2");
  EXPECT_EQ(outcome(either, "0"), "!greater_than_equal");
  EXPECT_EQ(outcome(either, "\"2\""), "!int_type");
}

TEST(Validation, checks_what_other_members_hold) {
  constexpr const char* counts = R"({"additionalProperties":{"type":"integer"}})";
  EXPECT_EQ(outcome(counts, R"({"a":"1","b":2})"), "{'a': 1, 'b': 2}");
  EXPECT_EQ(outcome(counts, R"({"a":"x"})"), "!int_parsing");
}

TEST(Validation, tells_a_bounded_number_of_mistakes) {
  std::string list = "[0";
  for (int i = 0; i < 1000; ++i) list += ",0";
  const Checked checked = check_text(R"({"type":"array","items":{"type":"string"}})", list + "]");
  EXPECT_EQ(checked.problems.size(), 100U);
}

}  // namespace
}  // namespace sluice::env
