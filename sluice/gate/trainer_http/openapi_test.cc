// The trainer API's document (openapi.json): every route, examples that are read, and bounds that
// the readers have.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "sluice/gate/trainer_http/messages.h"
#include "sluice/gate/trainer_http/service.h"
#include "sluice/json/value.h"

namespace sluice::gate::trainer_http {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

std::string lower(std::string_view method) {
  std::string out;
  for (const char c : method) out.push_back(static_cast<char>(c | 0x20));
  return out;
}

TEST(OpenapiTest, TheDocumentNamesEveryRouteAndNoOther) {
  const auto document = json::parse(kOpenapi);
  ASSERT_TRUE(document) << document.error().message;
  std::set<std::string> served, documented;
  for (const Route& route : routes()) {
    served.insert(lower(route.method) + " " + std::string(route.path));
  }
  for (const auto& [path, methods] : document->at("paths").as_object()) {
    for (const auto& [method, operation] : methods.as_object()) {
      documented.insert(std::string(method) + " " + std::string(path));
    }
  }
  EXPECT_EQ(documented, served);
}

class ExampleTest : public ::testing::Test {
 protected:
  // What the document has of a request's body under `name`: "example" or "examples".
  json::Value content(std::string_view path, std::string_view name) {
    const auto document = json::parse(kOpenapi);
    const std::string pointer = "/post/requestBody/content/application~1json/" + std::string(name);
    boost::json::error_code error;
    const json::Value* found = document->at("paths").at(path).find_pointer(pointer, error);
    EXPECT_NE(found, nullptr) << path;
    return found == nullptr ? json::Value() : *found;
  }
};

TEST_F(ExampleTest, TakesAreRead) {
  for (const char* path : {"/v1/next_batch", "/v1/rollouts/{id}/next"}) {
    const auto take = take_from_json(json::serialize(content(path, "example")));
    ASSERT_TRUE(take) << take.error().message;
    EXPECT_EQ(take->request.taker.name, "node-1");
    EXPECT_EQ(take->wait, 30s);
  }
}

TEST_F(ExampleTest, RepliesAreRead) {
  const json::Value examples = content("/v1/reply", "examples");
  std::set<std::string> ways;
  for (const auto& [name, example] : examples.as_object()) {
    const auto message = replies_from_json(json::serialize(example.at("value")));
    ASSERT_TRUE(message) << std::string_view(name) << ": " << message.error().message;
    for (const auto& each : message->replies) {
      EXPECT_TRUE(each.reply) << std::string_view(name) << ": " << each.reply.error().message;
    }
    // Each shows the way that it is named by.
    if (name == "batch") continue;
    ways.insert(std::string(name));
    EXPECT_TRUE(example.at("value").as_object().contains(name)) << std::string_view(name);
  }
  EXPECT_EQ(ways,
            (std::set<std::string>{"answer", "completion", "piece", "refusal", "tool_result"}));
}

// It shows every member that the schema has, so that a gate which knows no such member is found
// out.
TEST_F(ExampleTest, ARegistrationIsReadWithEveryMember) {
  const json::Value example = content("/v1/rollouts", "example");
  const auto message = registration_from_json(json::serialize(example));
  ASSERT_TRUE(message) << message.error().message;
  EXPECT_EQ(message->registration.tools_in_requests, ToolsInRequests::kAdded);
  EXPECT_TRUE(check_tool(message->registration.tools.at(0)));
  const auto document = json::parse(kOpenapi);
  const json::Value& schema = document->at("components").at("schemas").at("Registration");
  std::set<std::string> shown, known;
  for (const auto& [name, value] : example.as_object()) shown.emplace(name);
  for (const auto& [name, value] : schema.at("properties").as_object()) known.emplace(name);
  EXPECT_EQ(shown, known);
}

// The bounds that the document has are those that messages are held to.
class BoundsTest : public ::testing::Test {
 protected:
  using Reads = std::function<bool(const json::Object&)>;

  // Each member of a schema: at its bounds it is read, beyond them it is not, nor as anything else.
  static int check(const json::Value& schema, const Reads& reads) {
    int bounds = 0;
    EXPECT_FALSE(schema.at("additionalProperties").as_bool());
    EXPECT_FALSE(reads({{"no_such_member", 1}}));
    for (const auto& [name, member] : schema.at("properties").as_object()) {
      const std::string_view said = name;
      const json::Object& one = member.as_object();
      const auto with = [&](json::Value value) {
        json::Object message;
        message[said] = std::move(value);
        return reads(message);
      };
      EXPECT_TRUE(with(nullptr)) << said;
      EXPECT_FALSE(with(json::Object{{"no such", 1}})) << said;
      for (const auto& [bound, step] : {std::pair{"minimum", -1}, std::pair{"maximum", 1}}) {
        const json::Value* limit = one.if_contains(bound);
        if (limit == nullptr) continue;
        ++bounds;
        EXPECT_TRUE(with(*limit)) << said << ' ' << bound;
        EXPECT_FALSE(with(limit->to_number<int64_t>() + step)) << said << ' ' << bound;
      }
      if (const json::Value* properties = one.if_contains("properties")) {
        if (properties->as_object().empty()) continue;
        bounds += check(member, [&](const json::Object& part) { return with(part); });
      }
      const json::Value* most = one.if_contains("maxItems");
      if (most == nullptr) continue;
      ++bounds;
      EXPECT_FALSE(with(json::Array(most->to_number<size_t>() + 1, 1))) << said;
    }
    return bounds;
  }
  static json::Value schema(std::string_view name) {
    return json::parse(kOpenapi)->at("components").at("schemas").at(name);
  }
};

TEST_F(BoundsTest, OfATake) {
  EXPECT_EQ(check(schema("Take"),
                  [](const json::Object& message) {
                    return take_from_json(json::serialize(json::Value(message))).has_value();
                  }),
            6);
}

TEST_F(BoundsTest, OfARegistration) {
  EXPECT_EQ(
      check(schema("Registration"),
            [](const json::Object& message) {
              return registration_from_json(json::serialize(json::Value(message))).has_value();
            }),
      27);
  EXPECT_FALSE(registration_from_json(R"({"id":""})"));
}

}  // namespace
}  // namespace sluice::gate::trainer_http
