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

// "http://gate/rollout/r0/" + "/v1/chat/completions", and the like.
TEST(RoutesTest, ASlashTooManyIsNone) {
  using llm::Dialect;
  struct Row {
    std::string_view path;
    Kind kind;
    Dialect dialect;
  };
  for (const Row& row : {
           Row{"/v1/chat/completions", Kind::kCall, Dialect::kChat},
           Row{"/v1/responses", Kind::kCall, Dialect::kResponses},
           Row{"/v1/responses/input_tokens", Kind::kCount, Dialect::kResponses},
           Row{"/v1/messages", Kind::kCall, Dialect::kMessages},
           Row{"/v1/messages/count_tokens", Kind::kCount, Dialect::kMessages},
           Row{"/v1beta/models/m:generateContent", Kind::kCall, Dialect::kGemini},
           Row{"/v1beta/models/m:countTokens", Kind::kCount, Dialect::kGemini},
           Row{"/mcp", Kind::kMcp, Dialect::kChat},
           Row{"/v1/tools/search", Kind::kTool, Dialect::kChat},
           Row{"/v1/exit", Kind::kExit, Dialect::kChat},
       }) {
    for (const std::string base : {"", "/rollout/r0"}) {
      std::string everywhere = base + std::string(row.path);
      for (size_t at = 0; (at = everywhere.find('/', at)) != std::string::npos; at += 2) {
        everywhere.insert(at, "/");
      }
      for (const std::string& path : {base + "/" + std::string(row.path),
                                      base + std::string(row.path) + "/", everywhere + "//"}) {
        const Route found = routed("POST", path + "?beta=true");
        EXPECT_EQ(found.kind, row.kind) << path;
        EXPECT_EQ(found.dialect, row.dialect) << path;
        EXPECT_EQ(found.tool, row.kind == Kind::kTool ? "search" : "") << path;
      }
    }
  }
  EXPECT_EQ(kind("GET", "//v1/models/"), Kind::kModels);
  EXPECT_EQ(routed("GET", "/v1/models/org/name/").target.model, "org/name");
  EXPECT_EQ(kind("HEAD", "//"), Kind::kAlive);
  EXPECT_EQ(kind("HEAD", "/rollout//r0/"), Kind::kAlive);
  EXPECT_EQ(kind("POST", "//rollout//r1//v1/chat/completions"), Kind::kOtherRollout);
  // What is escaped is part of a name.
  EXPECT_EQ(routed("GET", "/v1/models/org%2F%2Fname").target.model, "org//name");
  EXPECT_EQ(kind("POST", "/v1/chat/completions%2F"), Kind::kUnknown);
}

TEST(RoutesTest, ADialForWebSocketIsToldFromAWrongMethod) {
  const auto dialed = [](std::string_view method, std::string_view path, std::string upgrade) {
    return routed(method, path, {{"Connection", "Upgrade"}, {"Upgrade", std::move(upgrade)}}).kind;
  };
  EXPECT_EQ(dialed("GET", "/v1/responses", "websocket"), Kind::kWebSocket);
  EXPECT_EQ(dialed("GET", "/rollout/r0/responses", "WebSocket"), Kind::kWebSocket);
  EXPECT_EQ(dialed("GET", "/v1/responses", "h2c"), Kind::kWrongMethod);
  EXPECT_EQ(dialed("POST", "/v1/responses", "websocket"), Kind::kCall);
  EXPECT_EQ(dialed("GET", "/v1/models", "websocket"), Kind::kModels);
  EXPECT_EQ(dialed("GET", "/rollout/r1/v1/responses", "websocket"), Kind::kOtherRollout);
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
                           "/v1/v1/chat/completions", "/v1/chat/completions%2F", "/v1/models%2F",
                           "/%zz", "/v1/chat/completions%00"}) {
    EXPECT_EQ(kind("GET", path), Kind::kUnknown) << path;
  }
}

}  // namespace
}  // namespace sluice::gate::http
