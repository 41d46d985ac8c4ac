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
      {R"("a\nb\r\t\\\u0000\u001f\u007f")", R"('a\nb\r\t\\\x00\x1f\x7f')"},
      {R"("ü😀")", R"('ü😀')"},
      {"{}", "{}"}};
  for (const auto& [text, expected] : cases) EXPECT_EQ(repr(parse(text)), expected) << text;
  EXPECT_EQ(str(parse("\"as it is\"")), "as it is");
  EXPECT_EQ(str(parse("null")), "None");
}

TEST(PythonText, writes_compact_json) {
  const json::Value value = parse(R"({"a":[1,2.0,null,true],"ü":"x\"\n\u0001😀","e":{}})");
  EXPECT_EQ(compact(value), R"({"a":[1,2.0,null,true],"ü":"x\"\n\u0001😀","e":{}})");
  EXPECT_EQ(compact(json::Value(std::nan(""))), "null");
}

}  // namespace
}  // namespace sluice::env::python
