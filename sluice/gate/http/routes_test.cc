#include "sluice/gate/http/routes.h"

#include <gtest/gtest.h>

namespace sluice::gate::http {
namespace {

using Kind = Route::Kind;

const RolloutId kId{"r0"};

Route routed(std::string_view method, std::string_view target, net::Headers headers = {}) {
  net::HttpRequest request;
  request.method = method;
  request.target = target;
  request.headers = std::move(headers);
  return route(request, kId);
}

Kind kind(std::string_view method, std::string_view target) {
  return routed(method, target).kind;
}

TEST(RoutesTest, CallsAreFoundBelowEveryBaseThatAgentsUse) {
  for (const char* path :
       {"/rollout/r0/v1/chat/completions", "/rollout/r0/chat/completions", "/v1/chat/completions",
        "/chat/completions", "/rollout/r%30/v1/chat/completions"}) {
    EXPECT_EQ(kind("POST", path), Kind::kCall) << path;
    EXPECT_EQ(routed("POST", path).dialect, llm::Dialect::kChat);
  }
}

TEST(RoutesTest, EveryDialectsCallsAndCounts) {
  using llm::Dialect;
  struct Row {
    std::string_view target;
    Kind kind;
    Dialect dialect;
  };
  for (const Row& row : {
           Row{"/v1/responses", Kind::kCall, Dialect::kResponses},
           Row{"/responses", Kind::kCall, Dialect::kResponses},
           Row{"/v1/responses/input_tokens", Kind::kCount, Dialect::kResponses},
           Row{"/v1/messages", Kind::kCall, Dialect::kMessages},
           Row{"/v1/messages?beta=true", Kind::kCall, Dialect::kMessages},
           Row{"/v1/messages/count_tokens?beta=true", Kind::kCount, Dialect::kMessages},
           Row{"/v1beta/models/m:generateContent", Kind::kCall, Dialect::kGemini},
           Row{"/v1/models/m:streamGenerateContent", Kind::kCall, Dialect::kGemini},
           Row{"/v1beta/models/m:countTokens", Kind::kCount, Dialect::kGemini},
       }) {
    for (const std::string base : {"", "/rollout/r0"}) {
      const Route found = routed("POST", base + std::string(row.target));
      EXPECT_EQ(found.kind, row.kind) << base << row.target;
      EXPECT_EQ(found.dialect, row.dialect) << base << row.target;
      EXPECT_EQ(kind("PUT", base + std::string(row.target)), Kind::kWrongMethod);
    }
  }
}

TEST(RoutesTest, GeminisUrlsNameTheModelAndTheFraming) {
  const Route whole = routed("POST", "/v1beta/models/org%2Fm:generateContent?alt=json");
  EXPECT_EQ(whole.target.model, "org/m");
  EXPECT_EQ(whole.target.stream, false);
  const Route array = routed("POST", "/v1beta/models/m:streamGenerateContent?key=k");
  EXPECT_EQ(array.target.stream, true);
  EXPECT_EQ(array.target.framing, llm::Framing::kArray);
  const Route events = routed("POST", "/v1beta/models/m:streamGenerateContent?key=k&alt=sse");
  EXPECT_EQ(events.target.framing, llm::Framing::kEvents);
  EXPECT_EQ(kind("POST", "/v1beta/models/m:embedContent"), Kind::kUnknown);
}

// A path that several vendors have is answered in the shape of the one whose client asks.
TEST(RoutesTest, ListsOfModelsAreInTheAskersShape) {
  using llm::Dialect;
  EXPECT_EQ(routed("GET", "/v1/models").dialect, Dialect::kChat);
  EXPECT_EQ(routed("GET", "/v1beta/models").dialect, Dialect::kGemini);
  EXPECT_EQ(routed("GET", "/v1/models", {{"x-goog-api-client", "x"}}).dialect, Dialect::kGemini);
  EXPECT_EQ(routed("GET", "/v1/models", {{"Anthropic-Version", "2023-06-01"}}).dialect,
            Dialect::kMessages);
  EXPECT_EQ(routed("GET", "/v1/what", {{"Anthropic-Version", "2023-06-01"}}).dialect,
            Dialect::kMessages);
  const Route tagged = routed("GET", "/v1/models/name:8b");
  EXPECT_EQ(tagged.kind, Kind::kModel);
  EXPECT_EQ(tagged.target.model, "name:8b");
}

TEST(RoutesTest, AnotherRolloutsPathIsNotServed) {
  for (const char* path :
       {"/rollout/r1/v1/chat/completions", "/rollout/r00/v1/chat/completions", "/rollout",
        "/rollout/", "/rollout//v1/chat/completions", "/rollout/r0%2F/x/v1/chat/completions"}) {
    EXPECT_NE(kind("POST", path), Kind::kCall) << path;
  }
  EXPECT_EQ(kind("POST", "/rollout/r1/v1/chat/completions"), Kind::kOtherRollout);
  EXPECT_EQ(kind("GET", "/rollout/r1/v1/models"), Kind::kOtherRollout);
}

TEST(RoutesTest, PlainRoutesAreToldOfErrorsPlainlyBelowWhicheverRollout) {
  for (const char* path :
       {"/rollout/r0/v1/tools/search", "/rollout/r1/v1/tools/search", "/rollout/r1/v1/exit",
        "/rollout/r0/exit", "/v1/exit", "/tools/search", "/rollout/r1/v1/tools/a%2Fb"}) {
    EXPECT_EQ(routed("POST", path).errors, Route::Errors::kPlain) << path;
    EXPECT_EQ(routed("GET", path).errors, Route::Errors::kPlain) << path;
  }
  for (const char* path :
       {"/rollout/r1/v1/chat/completions", "/rollout/exit", "/rollout/tools/x", "/v1/tools",
        "/v1/exit/x", "/rollout", "/rollout/r0/v1/mcp", "/", "/%zz/exit"}) {
    EXPECT_EQ(routed("POST", path).errors, Route::Errors::kOfDialect) << path;
  }
}

TEST(RoutesTest, Models) {
  EXPECT_EQ(kind("GET", "/v1/models"), Kind::kModels);
  EXPECT_EQ(kind("GET", "/rollout/r0/v1/models"), Kind::kModels);
  const Route one = routed("GET", "/v1/models/org/name");
  EXPECT_EQ(one.kind, Kind::kModel);
  EXPECT_EQ(one.target.model, "org/name");
  EXPECT_EQ(kind("HEAD", "/v1/models"), Kind::kModels);
  EXPECT_EQ(kind("HEAD", "/v1beta/models/name"), Kind::kModel);
}

TEST(RoutesTest, WrongMethodsAreToldWhichIsRight) {
  EXPECT_EQ(kind("GET", "/v1/chat/completions"), Kind::kWrongMethod);
  EXPECT_EQ(routed("GET", "/v1/chat/completions").allow, "POST");
  EXPECT_EQ(routed("DELETE", "/v1/models").allow, "GET");
  EXPECT_EQ(kind("HEAD", "/v1/messages"), Kind::kWrongMethod);
}

TEST(RoutesTest, ProbesAndUnknownPaths) {
  EXPECT_EQ(kind("HEAD", "/"), Kind::kAlive);
  EXPECT_EQ(kind("HEAD", "/api/hello"), Kind::kAlive);
  EXPECT_EQ(kind("HEAD", "/rollout/r0"), Kind::kAlive);
  for (const char* path : {"/", "", "/v1", "/v1/", "/health", "/v1/chat", "/v1chat/completions",
                           "/v1/v1/chat/completions", "/v1/chat/completions/", "/v1/models/",
                           "/%zz", "/v1/chat/completions%00"}) {
    EXPECT_EQ(kind("GET", path), Kind::kUnknown) << path;
  }
}

}  // namespace
}  // namespace sluice::gate::http
