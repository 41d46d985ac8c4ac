#include "sluice/env/python_text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace sluice::env::python {
namespace {

json::Value parse(std::string_view text) {
  auto value = json::parse(text);
  EXPECT_TRUE(value) << text;
  return value ? *value : json::Value();
}

TEST(PythonText, writes_floats_as_repr_does) {
  const std::pair<double, const char*> cases[] = {
      {0, "0.0"},
      {-0.0, "-0.0"},
      {1, "1.0"},
      {0.3, "0.3"},
      {0.67, "0.67"},
      {1.5, "1.5"},
      {-12.25, "-12.25"},
      {100, "100.0"},
      {123456789, "123456789.0"},
      {1e15, "1000000000000000.0"},
      {1e16, "1e+16"},
      {1.5e300, "1.5e+300"},
      {0.0001, "0.0001"},
      {0.00012, "0.00012"},
      {1e-5, "1e-05"},
      {1e-7, "1e-07"},
      {2.5e-10, "2.5e-10"},
      {5e-324, "5e-324"},
      {1.7976931348623157e308, "1.7976931348623157e+308"},
      {9007199254740993.0, "9007199254740992.0"}};
  for (const auto& [number, text] : cases) EXPECT_EQ(float_repr(number), text);
  EXPECT_EQ(float_repr(std::nan("")), "nan");
  EXPECT_EQ(float_repr(-std::numeric_limits<double>::infinity()), "-inf");
}

TEST(PythonText, writes_values_as_repr_does) {
  const std::pair<const char*, const char*> cases[] = {
      {"null", "None"},
      {"true", "True"},
      {"[1,-2,18446744073709551615,1.5,\"a\",{\"k\":false}]",
       "[1, -2, 18446744073709551615, 1.5, 'a', {'k': False}]"},
      {"\"it's\"", "\"it's\""},
      {"\"both ' and \\\"\"", "'both \\' and \"'"},
      {R"("a\nb\t\\\u0000\u007f\u0085\u00a0\u00ad\u200b\u2028")",
       R"('a\nb\t\\\x00\x7f\x85\xa0\xad\u200b\u2028')"},
      {R"("ü\ue000😀\u3000")", R"('ü\ue000😀\u3000')"},
      {"{}", "{}"}};
  for (const auto& [text, expected] : cases) EXPECT_EQ(repr(parse(text)), expected) << text;
  EXPECT_EQ(str(parse("\"as it is\"")), "as it is");
  EXPECT_EQ(str(parse("null")), "None");
  EXPECT_EQ(type_name(parse("1.0")), "float");
  EXPECT_EQ(type_name(parse("null")), "NoneType");
}

TEST(PythonText, writes_json_in_both_styles) {
  const json::Value value = parse(R"({"a":[1,2.0,null,true],"ü":"x\"\n\u0001😀","e":{}})");
  EXPECT_EQ(compact(value), R"({"a":[1,2.0,null,true],"ü":"x\"\n\u0001😀","e":{}})");
  EXPECT_EQ(dumps(value),
            R"({"a": [1, 2.0, null, true], "\u00fc": "x\"\n\u0001\ud83d\ude00", "e": {}})");
  EXPECT_EQ(compact(json::Value(std::nan(""))), "null");
}

TEST(PythonText, finds_what_the_json_module_finds) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "Expecting value: line 1 column 1 (char 0)"},
      {" ", "Expecting value: line 1 column 2 (char 1)"},
      {"nope", "Expecting value: line 1 column 1 (char 0)"},
      {"NaN", "Expecting value: line 1 column 1 (char 0)"},
      {"{bad", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"},
      {"{\"a\":1,}", "Expecting property name enclosed in double quotes: line 1 column 8 (char 7)"},
      {"{\"a\":1,  }",
       "Expecting property name enclosed in double quotes: line 1 column 10 (char 9)"},
      {"{\"é\":\"ü\",x}",
       "Expecting property name enclosed in double quotes: line 1 column 10 (char 9)"},
      {"\n\n {\"a\"\n:1,\n b}",
       "Expecting property name enclosed in double quotes: line 5 column 2 (char 13)"},
      {"{\"a\" 1}", "Expecting ':' delimiter: line 1 column 6 (char 5)"},
      {"{\"a\":1 \"b\"}", "Expecting ',' delimiter: line 1 column 8 (char 7)"},
      {"{\"a\":-}", "Expecting value: line 1 column 6 (char 5)"},
      {"[1 2]", "Expecting ',' delimiter: line 1 column 4 (char 3)"},
      {"[1,]", "Expecting value: line 1 column 4 (char 3)"},
      {"[01]", "Expecting ',' delimiter: line 1 column 3 (char 2)"},
      {"{} x", "Extra data: line 1 column 4 (char 3)"},
      {"1.", "Extra data: line 1 column 2 (char 1)"},
      {"1e+", "Extra data: line 1 column 2 (char 1)"},
      {"{\"a\":\"b", "Unterminated string starting at: line 1 column 6 (char 5)"},
      {"\"a\\", "Unterminated string starting at: line 1 column 1 (char 0)"},
      {"\"\t\"", "Invalid control character at: line 1 column 2 (char 1)"},
      {"{\"a\":\"\\q\"}", "Invalid \\escape: line 1 column 7 (char 6)"},
      {"{\"a\":\"\\u12zz\"}", "Invalid \\uXXXX escape: line 1 column 8 (char 7)"},
      {"\xEF\xBB\xBF{}",
       "Unexpected UTF-8 BOM (decode using utf-8-sig): line 1 column 1 (char 0)"}};
  for (const auto& [text, expected] : cases) {
    EXPECT_FALSE(json::parse(text)) << text;
    EXPECT_EQ(find_json_fault(text).text(), expected) << text;
  }
  // Python takes these; JSON has no such values.
  EXPECT_EQ(find_json_fault("{\"a\":\"\\ud800\"}").message, "Invalid \\uXXXX escape");
  const std::string deep(100, '[');
  EXPECT_EQ(find_json_fault(deep).message, "Nested too deeply");
}

}  // namespace
}  // namespace sluice::env::python
