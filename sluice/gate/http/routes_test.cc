#include "sluice/gate/http/routes.h"

#include <gtest/gtest.h>

namespace sluice::gate::http {
namespace {

using Kind = Route::Kind;

const RolloutId kId{"r0"};

Kind kind(std::string_view method, std::string_view path) {
  return route(method, path, kId).kind;
}

TEST(RoutesTest, CallsAreFoundBelowEveryBaseThatAgentsUse) {
  for (const char* path :
       {"/rollout/r0/v1/chat/completions", "/rollout/r0/chat/completions", "/v1/chat/completions",
        "/chat/completions", "/rollout/r%30/v1/chat/completions"}) {
    EXPECT_EQ(kind("POST", path), Kind::kCall) << path;
    EXPECT_EQ(route("POST", path, kId).dialect, llm::Dialect::kChat);
  }
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

TEST(RoutesTest, Models) {
  EXPECT_EQ(kind("GET", "/v1/models"), Kind::kModels);
  EXPECT_EQ(kind("GET", "/rollout/r0/v1/models"), Kind::kModels);
  const Route one = route("GET", "/v1/models/org/name", kId);
  EXPECT_EQ(one.kind, Kind::kModel);
  EXPECT_EQ(one.target.model, "org/name");
}

TEST(RoutesTest, WrongMethodsAreToldWhichIsRight) {
  EXPECT_EQ(kind("GET", "/v1/chat/completions"), Kind::kWrongMethod);
  EXPECT_EQ(route("GET", "/v1/chat/completions", kId).allow, "POST");
  EXPECT_EQ(route("DELETE", "/v1/models", kId).allow, "GET");
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
