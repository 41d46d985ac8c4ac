#include "sluice/net/http.h"

#include <gtest/gtest.h>

namespace sluice::net {
namespace {

TEST(HeadersTest, NamesCompareWithoutCaseAndTheFirstFieldCounts) {
  Headers headers{{"Content-Type", "text/plain"}, {"X-Id", "1"}, {"x-id", "2"}};
  EXPECT_EQ(headers.get("content-type"), "text/plain");
  EXPECT_EQ(headers.get("X-ID"), "1");
  EXPECT_EQ(headers.get("X-I"), std::nullopt);
  EXPECT_EQ(headers.get_or("accept", "*/*"), "*/*");
  EXPECT_EQ(headers.get_or("x-id", "none"), "1");
}

TEST(HeadersTest, SetReplacesAllOfThatNameInPlace) {
  Headers headers{{"A", "1"}, {"B", "2"}, {"a", "3"}, {"C", "4"}, {"A", "5"}};
  headers.set("a", "new");
  headers.set("D", "6");
  EXPECT_EQ(headers.fields(),
            (std::vector<Headers::Field>{{"A", "new"}, {"B", "2"}, {"C", "4"}, {"D", "6"}}));
}

TEST(HeadersTest, CaseFoldingIsAsciiAlone) {
  EXPECT_TRUE(equal_ignoring_case("AbZ-09", "aBz-09"));
  EXPECT_FALSE(equal_ignoring_case("[", "{"));
  EXPECT_FALSE(equal_ignoring_case("@", "`"));
  EXPECT_FALSE(equal_ignoring_case("\xC4", "\xE4"));
  EXPECT_FALSE(equal_ignoring_case("a", "ab"));
}

struct Split {
  std::string target, path, query;
};

TEST(HttpRequestTest, PathAndQueryOfEveryFormOfTarget) {
  for (const Split& s : std::vector<Split>{
           {"/v1/models?limit=2", "/v1/models", "limit=2"},
           {"/", "/", ""},
           {"/?", "/", ""},
           {"/a?b?c", "/a", "b?c"},
           {"/a%3Fb", "/a%3Fb", ""},
           {"*", "*", ""},
           {"http://host:80/a/b?c", "/a/b", "c"},
           {"HTTPS://host", "/", ""},
           {"http://host?q", "/", "q"},
           {"//evil/x", "//evil/x", ""},
           {"", "", ""},
       }) {
    HttpRequest request;
    request.target = s.target;
    EXPECT_EQ(request.path(), s.path) << s.target;
    EXPECT_EQ(request.query(), s.query) << s.target;
  }
}

TEST(HttpRequestTest, AHeadAnnouncesItsBody) {
  const auto announces = [](Headers headers) {
    HttpRequest request;
    request.headers = std::move(headers);
    return request.announces_body();
  };
  EXPECT_TRUE(announces({{"content-length", "5"}}));
  EXPECT_TRUE(announces({{"Transfer-Encoding", "chunked"}}));
  EXPECT_FALSE(announces({{"Content-Length", "0"}}));
  EXPECT_FALSE(announces({}));
}

TEST(PercentDecodeTest, DecodesOnceAndRefusesBrokenEscapesAndNul) {
  EXPECT_EQ(percent_decode("/a%2Fb%2f%C3%A9+"), "/a/b/\xC3\xA9+");
  EXPECT_EQ(percent_decode("%2541"), "%41");
  EXPECT_EQ(percent_decode(""), "");
  for (const std::string_view bad :
       {std::string_view("%"), std::string_view("%4"), std::string_view("a%zz"),
        std::string_view("%4g"), std::string_view("%00"), std::string_view("a\0b", 3),
        std::string_view("%-1")}) {
    EXPECT_EQ(percent_decode(bad), std::nullopt) << bad;
  }
}

TEST(JsonResponseTest, SaysWhatItIs) {
  const HttpResponse response = json_response(201, "{}");
  EXPECT_EQ(response.status, 201);
  EXPECT_EQ(response.headers.get("content-type"), "application/json");
  EXPECT_EQ(response.body, "{}");
}

TEST(HttpRequestTest, AKeyIsShownByBearerInAnyCase) {
  const auto key = [](std::string value) {
    HttpRequest request;
    request.headers.add("Authorization", std::move(value));
    return std::string(request.bearer().value_or("none"));
  };
  for (const char* value : {"Bearer k", "bearer k", "BEARER k", "Bearer   k"}) {
    EXPECT_EQ(key(value), "k") << value;
  }
  EXPECT_EQ(key("Bearer "), "");
  EXPECT_EQ(key("Bearer a b"), "a b");
  for (const char* value : {"", "Bearer", "k", "Basic k", "Bearerk", "Bearer\tk"}) {
    EXPECT_EQ(key(value), "none") << value;
  }
  EXPECT_FALSE(HttpRequest().bearer());
}

}  // namespace
}  // namespace sluice::net
