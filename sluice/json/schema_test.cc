#include "sluice/json/schema.h"

#include <gtest/gtest.h>

namespace sluice::json {
namespace {

Schema schema(std::string_view text) {
  auto parsed = Schema::parse(text);
  if (!parsed) throw std::runtime_error(parsed.error().message);
  return std::move(*parsed);
}

// Why `value` does not fit, or "".
std::string mismatch(std::string_view schema_text, std::string_view value) {
  return schema(schema_text).mismatch(*parse(value)).value_or("");
}

struct Case {
  const char* schema;
  const char* fits;
  const char* does_not;
  const char* why;
};

class SchemaTest : public ::testing::TestWithParam<Case> {};

TEST_P(SchemaTest, TellsWhatFitsFromWhatDoesNotAndWhy) {
  const Case& c = GetParam();
  EXPECT_EQ(mismatch(c.schema, c.fits), "");
  EXPECT_EQ(mismatch(c.schema, c.does_not), c.why);
}

INSTANTIATE_TEST_SUITE_P(
    Keywords, SchemaTest,
    ::testing::Values(
        Case{R"({"type":"integer"})", "2.0", "2.5", "the arguments must be of type integer"},
        Case{R"({"type":["string","null"]})", "null", "1",
             "the arguments must be of type string or null"},
        Case{R"({"enum":["a",1]})", "1.0", R"("b")", R"(the arguments must be one of ["a",1])"},
        Case{R"({"const":true})", "true", "false", "the arguments must be true"},
        Case{R"({"properties":{"a":{"type":"string"}}})", R"({"b":1})", R"({"a":1})",
             "/a must be of type string"},
        Case{R"({"required":["a"]})", R"({"a":null})", "{}", R"(the arguments must have "a")"},
        Case{R"({"properties":{"a":true},"additionalProperties":false})", R"({"a":1})",
             R"({"a":1,"b":2})", "/b is not a parameter of this tool"},
        Case{R"({"additionalProperties":{"type":"number"}})", R"({"b":1})", R"({"b":"x"})",
             "/b must be of type number"},
        Case{R"({"maxProperties":1})", R"({"a":1})", R"({"a":1,"b":1})",
             "the arguments must have properties: at most 1"},
        Case{R"({"items":{"type":"string"},"minItems":1})", R"(["a"])", R"(["a",2])",
             "/1 must be of type string"},
        Case{R"({"minItems":2})", "[1,2]", "[1]", "the arguments must have elements: at least 2"},
        // Characters, not bytes.
        Case{R"({"maxLength":2})", R"("äö")", R"("abc")",
             "the arguments must have characters: at most 2"},
        Case{R"({"minimum":1,"maximum":3})", "3", "3.5", "the arguments must be at most 3"},
        Case{R"({"exclusiveMinimum":1})", "1.1", "1", "the arguments must be more than 1"},
        Case{R"({"exclusiveMaximum":1})", "0", "1", "the arguments must be less than 1"},
        Case{R"({"anyOf":[{"type":"string"},{"minimum":5}]})", "6", "4",
             "the arguments fits none of its forms"},
        Case{R"({"oneOf":[{"minimum":2},{"maximum":3}]})", "4", "2.5",
             "the arguments must fit exactly one of its forms"},
        Case{R"({"allOf":[{"minimum":2},{"maximum":3}]})", "2.5", "4",
             "the arguments must be at most 3"},
        // A rule for other types says nothing.
        Case{R"({"minLength":3,"properties":{"deep":{"items":{"const":1}}}})", R"({"deep":[1,1]})",
             R"({"deep":[1,2]})", "/deep/1 must be 1"}));

std::string refused(std::string_view text) {
  const auto parsed = Schema::parse(text);
  return parsed ? "" : parsed.error().message;
}

// What is not checked should not look as if it were.
TEST(SchemaTest, ASchemaThatAsksForMoreThanIsUnderstoodIsRefused) {
  EXPECT_EQ(refused(R"({"type":"object","properties":{"a":{"pattern":"^x"}}})"),
            "schema, at /properties/a/pattern: is not understood here: leave it out, or check it "
            "in the tool");
  EXPECT_NE(refused(R"({"$ref":"#/x"})"), "");
  EXPECT_NE(refused(R"({"type":"text"})"), "");
  EXPECT_NE(refused(R"({"type":1})"), "");
  EXPECT_NE(refused(R"({"required":[1]})"), "");
  EXPECT_NE(refused(R"({"minLength":-1})"), "");
  EXPECT_NE(refused(R"({"minimum":"1"})"), "");
  EXPECT_NE(refused(R"({"anyOf":[]})"), "");
  EXPECT_NE(refused(R"({"enum":1})"), "");
  EXPECT_NE(refused("[]"), "");
  EXPECT_NE(refused("{"), "");
  EXPECT_EQ(refused(R"({"title":"t","description":"d","default":{},"format":"uri"})"), "");
}

TEST(SchemaTest, DepthAndSizeAreBounded) {
  std::string deep;
  for (int i = 0; i < 40; ++i) deep += R"({"items":)";
  deep += "true";
  deep.append(40, '}');
  EXPECT_NE(refused(deep), "");
  EXPECT_NE(refused("{\"title\":\"" + std::string(300'000, 'x') + "\"}"), "");
}

}  // namespace
}  // namespace sluice::json
