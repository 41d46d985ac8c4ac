#include "sluice/llm/wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sluice::llm::wire {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<std::string> rest(Elements elements) {
  std::vector<std::string> out;
  while (const auto element = elements.next()) out.emplace_back(element->text);
  return out;
}
json::Raw array(std::string_view text) {
  return {text, json::Type::kArray};
}

TEST(ElementsTest, StepsThroughAnArray) {
  EXPECT_THAT(rest(Elements::of(array("[ 1 , [2,3] ,{\"a\":4} ]"))),
              ElementsAre("1", "[2,3]", "{\"a\":4}"));
  EXPECT_THAT(rest(Elements::of(array("[]"))), IsEmpty());
  EXPECT_THAT(rest(Elements::of(array("[ ]"))), IsEmpty());
  EXPECT_THAT(rest(Elements::behind_count(array("[1,2,3]"), 2)), ElementsAre("3"));
  EXPECT_THAT(rest(Elements::behind_count(array("[1,2,3]"), 3)), IsEmpty());
  EXPECT_THAT(rest(Elements::behind_count(array("[1,2,3]"), 9)), IsEmpty());
  EXPECT_THAT(rest(Elements::of({"\"text\"", json::Type::kString})), IsEmpty());
}

TEST(ElementsTest, BeginsBehindBytesOnlyWhereAnElementDoes) {
  const auto behind = [](size_t bytes) {
    HistoryMark mark;
    mark.bytes = bytes;
    return rest(Elements::behind_bytes(array("[10 , 20]"), mark));
  };
  EXPECT_THAT(behind(3), ElementsAre("20"));
  EXPECT_THAT(behind(4), ElementsAre("20"));
  EXPECT_THAT(behind(2), IsEmpty());
  EXPECT_THAT(behind(8), IsEmpty());
  EXPECT_THAT(behind(0), IsEmpty());
  EXPECT_THAT(behind(100), IsEmpty());
}

TEST(ElementsTest, EndsAtWhatIsNoJson) {
  EXPECT_THAT(rest(Elements::of(array("[1,oops,3]"))), ElementsAre("1"));
  EXPECT_THAT(rest(Elements::of(array("[1"))), ElementsAre("1"));
  EXPECT_THAT(rest(Elements::of(array("["))), IsEmpty());
}

TEST(MembersTest, PutsCommasWhereTheyBelong) {
  Bytes out;
  Members members(out);
  members.text("a", "{");
  Members inner(members["b"]);
  inner.close();
  members.number("c", -1);
  members.text_or_null("d", "");
  members.raw("e", "[]");
  members.close();
  EXPECT_EQ(out, R"({"a":"{","b":{},"c":-1,"d":null,"e":[]})");
}

TEST(ArgumentsTest, AreAnObjectWhateverTheModelWrote) {
  const auto written = [](std::string_view arguments) {
    Bytes out;
    append_arguments(out, arguments);
    return out;
  };
  EXPECT_EQ(written(R"({"a": 1.0})"), R"({"a": 1.0})");
  EXPECT_EQ(written(" {\"a\":\n1}\n"), "{\"a\": 1}");
  EXPECT_EQ(written(""), "{}");
  EXPECT_EQ(written(" \n"), "{}");
  EXPECT_EQ(written("{oops"), R"({"INVALID_JSON":"{oops"})");
  EXPECT_EQ(written("[1]"), R"({"INVALID_JSON":"[1]"})");
  EXPECT_EQ(written("{} {}"), R"({"INVALID_JSON":"{} {}"})");
  EXPECT_EQ(written("\xff"), "{\"INVALID_JSON\":\"\xEF\xBF\xBD\"}");
  EXPECT_EQ(written("{\"a\":\"\u2028\"}"), R"({"a":"\u2028"})");
}

TEST(ArgumentsTest, OfACustomToolAreWhatTheyAre) {
  EXPECT_EQ(sent_text({"c", "ls", " \n"}), "{}");
  EXPECT_EQ(sent_text({"c", "ls", " {oops"}), " {oops");
  EXPECT_EQ(sent_text({"c", "patch", " \n", ToolCall::Kind::kCustom}), " \n");
}

TEST(EventTest, IsOneFrame) {
  Bytes out;
  append_event(out, "ping", [](Members&) {});
  EXPECT_EQ(out, "event: ping\ndata: {}\n\n");
}

TEST(StringsTest, OfOneOrOfAList) {
  EXPECT_THAT(*strings_of({"\"a\"", json::Type::kString}), ElementsAre("a"));
  EXPECT_THAT(*strings_of(array(R"(["a",1,"b"])")), ElementsAre("a", "b"));
  EXPECT_THAT(*strings_of({"1", json::Type::kNumber}), IsEmpty());
}

}  // namespace
}  // namespace sluice::llm::wire
