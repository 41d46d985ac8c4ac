#include "sluice/json/peek.h"

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

namespace sluice::json {
namespace {

constexpr std::array<std::string_view, 3> kNames{"model", "messages", "stream"};

struct Found {
  std::shared_ptr<const Bytes> document;  // what the fields point into
  std::vector<std::optional<Peeked>> fields;
  std::string error;
};

// Both ways in: with spare capacity behind the document, and with none.
Found peek(std::string_view text) {
  Peeker peeker;
  Bytes padded;
  padded.reserve(text.size() + 128);
  padded = text;
  const auto in_place = peeker.fields(padded, kNames);
  auto tight = std::make_shared<Bytes>(text);
  tight->shrink_to_fit();
  auto copied = peeker.fields(*tight, kNames);
  EXPECT_EQ(in_place.has_value(), copied.has_value());
  if (!copied) {
    EXPECT_EQ(in_place.error().message, copied.error().message);
    return {tight, {}, copied.error().message};
  }
  for (size_t i = 0; i < kNames.size(); ++i) {
    EXPECT_EQ((*in_place)[i].has_value(), (*copied)[i].has_value());
    if (!(*copied)[i]) continue;
    const Peeked& field = *(*copied)[i];
    EXPECT_EQ((*in_place)[i]->value.text, field.value.text);
    // The views and offsets are into the document, not into a copy of it.
    EXPECT_EQ(field.value.text.data(), tight->data() + field.value_offset);
    EXPECT_EQ((*tight)[field.name_offset], '"');
  }
  return {tight, std::move(*copied), ""};
}

TEST(PeekTest, FindsFieldsWithTheirExactBytes) {
  const Bytes document =
      R"( { "stream" : true , "x":{"model":"no"}, "messages": [ {"a":[1,2]} , 2 ,"]" ] ,"model":"m\u0041" } )";
  const Found found = peek(document);
  ASSERT_EQ(found.error, "");
  EXPECT_EQ(found.fields[0]->value.text, R"("m\u0041")");
  EXPECT_EQ(found.fields[0]->value.type, Type::kString);
  EXPECT_EQ(found.fields[1]->value.text, R"([ {"a":[1,2]} , 2 ,"]" ])");
  EXPECT_EQ(found.fields[1]->count, 3u);
  EXPECT_EQ(found.fields[2]->value.type, Type::kBool);
}

TEST(PeekTest, AbsentFieldsAreNothing) {
  const Found found = peek(R"({"other":1})");
  ASSERT_EQ(found.error, "");
  for (const auto& field : found.fields) EXPECT_FALSE(field);
  EXPECT_EQ(peek("{}").error, "");
}

TEST(PeekTest, NamesAreComparedUnescaped) {
  const Found found = peek(R"({"mod\u0065l":"a","model\"":"b"})");
  ASSERT_EQ(found.error, "");
  EXPECT_EQ(found.fields[0]->value.text, "\"a\"");
}

TEST(PeekTest, ContainersOfEveryShape) {
  const Bytes document = R"({"model":{},"messages":[],"stream":{"a":{"b":[{}]} }})";
  const Found found = peek(document);
  ASSERT_EQ(found.error, "");
  EXPECT_EQ(found.fields[0]->value.text, "{}");
  EXPECT_EQ(found.fields[1]->value.text, "[]");
  EXPECT_EQ(found.fields[1]->count, 0u);
  EXPECT_EQ(found.fields[2]->value.text, R"({"a":{"b":[{}]} })");
}

TEST(PeekTest, RefusesAFieldThatStandsTwice) {
  EXPECT_EQ(peek(R"({"model":"a","model":"b"})").error,
            "JSON: field 'model' stands here twice, at byte 13");
  EXPECT_NE(peek(R"({"model":"a","m\u006fdel":"b"})").error, "");
  EXPECT_EQ(peek(R"({"x":1,"x":2})").error, "");
}

TEST(PeekTest, RefusesWhatIsNoObject) {
  EXPECT_NE(peek("").error, "");
  EXPECT_NE(peek("   ").error, "");
  EXPECT_EQ(peek("[1]").error, "JSON: the document is not an object at byte 0");
  EXPECT_NE(peek("\"model\"").error, "");
  EXPECT_NE(peek("1").error, "");
  EXPECT_NE(peek("hello").error, "");
  EXPECT_NE(peek(R"({"model":"a")").error, "");
  EXPECT_NE(peek(R"({"model":"a"} {"model":"b"})").error, "");
  EXPECT_NE(peek(R"({"model":"a"}x)").error, "");
  EXPECT_NE(peek(R"({"model":tru})").error, "");
  EXPECT_NE(peek(R"({"model":01})").error, "");
  EXPECT_NE(peek(R"({"model":"a)").error, "");
  EXPECT_NE(peek(R"({"messages":[1,2})").error, "");
  EXPECT_NE(peek(R"({"messages":[1 2]})").error, "");
  EXPECT_NE(peek(R"({"model" "a"})").error, "");
  EXPECT_EQ(peek("{\"model\":\"\xC3\x28\"}").error, "JSON: the text is not UTF-8 at byte 0");
}

TEST(PeekTest, DeepNestingInASkippedFieldDoesNotRecurse) {
  const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
  const Found found = peek("{\"x\":" + deep + ",\"model\":\"a\"}");
  EXPECT_TRUE(found.error.empty() || found.error.starts_with("JSON: malformed"));
}

TEST(PeekTest, APeekerServesLargeAndSmallDocumentsInTurn) {
  Peeker peeker;
  const Bytes large = "{\"x\":\"" + std::string(3 << 20, 'a') + "\",\"model\":\"big\"}";
  const Bytes small = R"({"model":"small"})";
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ((*peeker.fields(large, kNames))[0]->value.text, "\"big\"");
    EXPECT_EQ((*peeker.fields(small, kNames))[0]->value.text, "\"small\"");
    EXPECT_FALSE(peeker.fields(Bytes("{"), kNames));
  }
}

// Peeks into `now` by what is known of `before`, which must come to what reading all of it comes
// to.
void expect_same_by_likeness(const Bytes& before, const Bytes& now) {
  SCOPED_TRACE(before.substr(0, 300) + "\n" + now.substr(0, 300));
  Peeker peeker;
  Outline outline;
  Document first(before);
  first.outline = &outline;
  ASSERT_TRUE(peeker.fields(first, kNames));
  Outline after;
  Document second(now);
  second.like = &outline;
  second.prefix = common_prefix(before, now);
  second.suffix =
      common_suffix(ByteView(before).substr(second.prefix), ByteView(now).substr(second.prefix));
  second.outline = &after;
  const auto found = peeker.fields(second, kNames);
  const auto expected = Peeker().fields(now, kNames);
  ASSERT_EQ(found.has_value(), expected.has_value());
  if (!found) {
    EXPECT_EQ(found.error().message, expected.error().message);
    return;
  }
  for (size_t i = 0; i < kNames.size(); ++i) {
    ASSERT_EQ((*found)[i].has_value(), (*expected)[i].has_value());
    if (!(*found)[i]) continue;
    const Peeked &one = *(*found)[i], &other = *(*expected)[i];
    EXPECT_EQ(one.value.text.data(), other.value.text.data()) << kNames[i];
    EXPECT_EQ(one.value.text.size(), other.value.text.size()) << kNames[i];
    EXPECT_EQ(one.value.type, other.value.type) << kNames[i];
    EXPECT_EQ(one.count, other.count) << kNames[i];
    EXPECT_EQ(one.name_offset, other.name_offset) << kNames[i];
    EXPECT_EQ(one.value_offset, other.value_offset) << kNames[i];
  }
  // What is known of this one serves the next as well.
  Document third(now);
  third.like = &after;
  third.prefix = now.size();
  const auto again = peeker.fields(third, kNames);
  ASSERT_TRUE(again);
  for (size_t i = 0; i < kNames.size(); ++i) {
    if ((*found)[i]) EXPECT_EQ((*again)[i]->value.text, (*found)[i]->value.text);
  }
}

TEST(PeekLikenessTest, EveryChangeReadsAsIfAllWasRead) {
  const std::vector<std::string> conversations{
      "[]",
      "[ ]",
      R"([{"role":"user","content":"hello"}])",
      R"([{"role":"user","content":"hellooo"}])",
      R"([{"role":"user","content":"hello"},{"role":"assistant","content":null}])",
      R"([{"role":"user","content":"hello"} , {"role":"assistant","content":null} ,[1,"]"], "}" ])",
      R"([ {"role":"assistant","content":null}])",
      R"([1,2,3])",
      R"([1,2,3,4])",
      R"([1,22,3])",
      R"([2,3])",
      R"(["\"","\\"])",
      R"(["\"","\\\"]"])",
      // No JSON, or no array.
      R"([1,2,3,])",
      R"([1,,3])",
      R"([1 2 3])",
      R"([,1,2,3])",
      R"([1,2],[3])",
      R"([1,2)",
      R"([1,2,"3])",
      R"([1,2,{"a":[}])",
      R"("[1,2,3]")",
      "[1,2,\"\xFF\"]",
  };
  for (const std::string& before : conversations) {
    const Bytes old = R"({"model":"m","messages":)" + before + R"(,"stream":true})";
    if (!Peeker().fields(old, kNames)) continue;
    for (const std::string& now : conversations) {
      expect_same_by_likeness(old, R"({"model":"m","messages":)" + now + R"(,"stream":true})");
    }
    expect_same_by_likeness(old, R"({"model":"n","messages":)" + before + R"(,"stream":true})");
    expect_same_by_likeness(old, R"({"model":"m","messages":)" + before + R"(,"stream":false})");
    expect_same_by_likeness(old, R"({"messages":)" + before + "}");
    expect_same_by_likeness(
        old, R"({"model":"m","messages":)" + before + R"(,"model":"m","stream":true})");
  }
}

TEST(PeekLikenessTest, NothingButTheChangedElementsIsRead) {
  const Bytes before = R"({"messages":[{"a":1},{"b":2}],"model":"m"})";
  const Bytes now = R"({"messages":[{"a":1},{"b":2},{"c":3}],"model":"m"})";
  Peeker peeker;
  Outline outline;
  Document first(before);
  first.outline = &outline;
  ASSERT_TRUE(peeker.fields(first, kNames));
  Bytes broken = now;
  broken[broken.find('a')] = '\xFF';  // which nobody who reads all of it accepts
  ASSERT_FALSE(Peeker().fields(broken, kNames));
  Document second(broken);
  second.like = &outline;
  second.prefix = before.find(R"({"b":2})") + 7;
  second.suffix = before.size() - second.prefix;
  const auto found = peeker.fields(second, kNames);
  ASSERT_TRUE(found);
  EXPECT_EQ((*found)[1]->count, 3u);
}

// What of `now` nobody named is refused too, whether all of it is read or, by what is known of
// `before`, what has changed.
std::string checked_error(const Bytes& before, const Bytes& now) {
  Peeker peeker;
  Outline outline;
  Document first(before);
  first.check = Document::Check::kAll;
  first.outline = &outline;
  EXPECT_TRUE(peeker.fields(first, kNames, 1));
  Document second(now);
  second.check = Document::Check::kAll;
  const auto read = peeker.fields(second, kNames, 1);
  second.like = &outline;
  second.prefix = common_prefix(before, now);
  second.suffix =
      common_suffix(ByteView(before).substr(second.prefix), ByteView(now).substr(second.prefix));
  const auto known = peeker.fields(second, kNames, 1);
  EXPECT_EQ(read.has_value(), known.has_value());
  if (known) return "";
  EXPECT_EQ(read.error().message, known.error().message);
  return known.error().message;
}

TEST(PeekCheckTest, WhatIsNotNamedIsRefusedToItsDepthsIfThatIsAsked) {
  const auto document = [](std::string_view element, std::string_view more = "{}") {
    return Bytes(R"({"model":"m","messages":[{"role":"user"})") + Bytes(element) +
           R"(],"tools":[{"name":"x","parameters":)" + Bytes(more) + "}]}";
  };
  const auto error = [&](std::string_view element) {
    return checked_error(document(""), document("," + std::string(element)));
  };
  EXPECT_EQ(error(R"({"a":[1,{"b":"\u00e9\ud800"}]})"), "");
  EXPECT_NE(error(R"({"a":[1,{"b":tru}]})"), "");
  EXPECT_NE(error(R"({"a":[1 2]})"), "");
  EXPECT_NE(error(R"({"a":"\q"})"), "");
  EXPECT_NE(error(R"({"a":NaN})"), "");
  EXPECT_NE(checked_error(document(""), document("", R"({"a":01})")), "");
  // One limit, counted from the document's own brackets: the list's elements are two down.
  const auto nested = [](size_t levels) {
    return std::string(levels, '[') + std::string(levels, ']');
  };
  EXPECT_EQ(error(nested(kMaxDepth - 2)), "");
  EXPECT_NE(error(nested(kMaxDepth - 1)).find("nested too deeply"), std::string::npos);
  EXPECT_EQ(error("[" + std::string(kMaxNumber, '9') + "]"), "");
  EXPECT_NE(error("[" + std::string(kMaxNumber + 1, '9') + "]").find("too many characters"),
            std::string::npos);
}

TEST(PeekLikenessTest, TellsWhichElementsAreFresh) {
  const Bytes before =
      R"({"messages":[{"a":1},{"b":2}],"model":"m","stream":[7,8,9,"long enough"]})";
  const Bytes now =
      R"({"messages":[{"a":1},{"b":2} , {"c":3}],"model":"m","stream":[7,8,9,"long enough"]})";
  Peeker peeker;
  Outline outline;
  Document first(before);
  first.outline = &outline;
  const auto all = peeker.fields(first, kNames, 1);
  ASSERT_TRUE(all);
  EXPECT_EQ((*all)[1]->fresh, R"({"a":1},{"b":2})");
  EXPECT_EQ((*all)[1]->fresh_at, 0u);
  Document second(now);
  second.like = &outline;
  second.prefix = common_prefix(before, now);
  second.suffix = before.size() - second.prefix;
  const auto found = peeker.fields(second, kNames, 1);
  ASSERT_TRUE(found);
  // From the last that nothing was seen to change in: what stands behind it has.
  EXPECT_EQ((*found)[1]->fresh, R"({"b":2} , {"c":3})");
  EXPECT_EQ((*found)[1]->fresh_at, 1u);
  EXPECT_EQ((*found)[2]->fresh, "");  // another array, which has not changed
}

TEST(PeekLikenessTest, OtherNamesAreLookedForAnew) {
  constexpr std::array<std::string_view, 3> kOthers{"stream", "model", "messages"};
  const Bytes document = R"({"messages":[1],"model":"m"})";
  Peeker peeker;
  Outline outline;
  Document first(document);
  first.outline = &outline;
  ASSERT_TRUE(peeker.fields(first, kNames));
  Document second(document);
  second.like = &outline;
  second.prefix = document.size();
  const auto found = peeker.fields(second, kOthers);
  ASSERT_TRUE(found);
  EXPECT_FALSE((*found)[0]);
  EXPECT_EQ((*found)[2]->value.text, "[1]");
}

}  // namespace
}  // namespace sluice::json
