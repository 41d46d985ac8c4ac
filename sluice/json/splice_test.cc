#include "sluice/json/splice.h"

#include <gtest/gtest.h>

namespace sluice::json {
namespace {

std::string after(const Bytes& document, std::vector<Edit> edits) {
  Peeker peeker;
  auto result = splice(peeker, document, edits);
  return result ? *result : result.error().message;
}

TEST(SpliceTest, ReplacesAValueAndKeepsTheRest) {
  EXPECT_EQ(after(R"({ "a" : 1,  "model":"old" , "z":[ 1 ] })", {{"model", R"("new")"}}),
            R"({ "a" : 1,  "model":"new" , "z":[ 1 ] })");
}

TEST(SpliceTest, AppendsWhatIsAbsent) {
  EXPECT_EQ(after(R"({"a":1})", {{"b", "[2]"}}), R"({"a":1,"b":[2]})");
  EXPECT_EQ(after("{}", {{"b", "2"}, {"c", "3"}}), R"({"b":2,"c":3})");
  EXPECT_EQ(after("{\"a\":1\n}\n", {{"b\"", "2"}}), "{\"a\":1\n,\"b\\\"\":2}\n");
}

TEST(SpliceTest, RemovesAFieldWithOneComma) {
  EXPECT_EQ(after(R"({"a":1, "b":2, "c":3})", {{"a", {}}}), R"({"b":2, "c":3})");
  EXPECT_EQ(after(R"({"a":1, "b":2, "c":3})", {{"b", {}}}), R"({"a":1, "c":3})");
  EXPECT_EQ(after(R"({"a":1, "b":2, "c":3})", {{"c", {}}}), R"({"a":1, "b":2 })");
  EXPECT_EQ(after(R"({"a":1, "b":2, "c":3})", {{"b", {}}, {"c", {}}}), R"({"a":1 })");
  EXPECT_EQ(after(R"({"a":1, "b":2, "c":3})", {{"a", {}}, {"b", {}}, {"c", {}}}), "{}");
  EXPECT_EQ(after(R"({"a":1})", {{"b", {}}}), R"({"a":1})");
}

TEST(SpliceTest, DoesSeveralEditsAtOnce) {
  EXPECT_EQ(after(R"({"a":1,"b":2})", {{"b", {}}, {"a", "10"}, {"c", "3"}}), R"({"a":10,"c":3})");
  EXPECT_EQ(after(R"({"b":2})", {{"b", {}}, {"c", "3"}}), R"({"c":3})");
}

TEST(SpliceTest, RefusesABrokenDocumentOrValue) {
  EXPECT_NE(after("[1]", {{"a", "1"}}).find("not an object"), std::string::npos);
  EXPECT_NE(after("{}", {{"a", "1,\"b\":2"}}).find("more than one value"), std::string::npos);
  EXPECT_NE(after(R"({"a":1,"a":2})", {{"a", "3"}}).find("twice"), std::string::npos);
}

}  // namespace
}  // namespace sluice::json
