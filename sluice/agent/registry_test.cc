#include "sluice/agent/registry.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "sluice/base/core/fd.h"

namespace sluice::agent {
namespace {

constexpr char kSpec[] = R"(
name = "mine"
version = "2"
[install]
commands = ["true"]
program = "sh"
[run]
command = ["sh"]
[dialects.chat]
)";

class RegistryTest : public ::testing::Test {
 protected:
  RegistryTest()
      : directory_(::testing::TempDir() + "/sluice_registry_test." + std::to_string(::getpid())) {
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
  }
  ~RegistryTest() override { std::filesystem::remove_all(directory_); }

  void put(const std::string& name, const std::string& text) {
    ASSERT_TRUE(write_file_atomically(directory_ + "/" + name, text));
  }

  std::string directory_;
};

TEST_F(RegistryTest, FindsBuiltInSpecsByName) {
  const Registry registry("/nonexistent");
  for (const auto& [name, text] : builtin_specs()) EXPECT_TRUE(registry.find(name));
}

// An agent is added by a file, without a rebuild; nothing lists agents in code.
TEST_F(RegistryTest, finding_26_agents_are_found_not_hard_coded) {
  put("mine.toml", kSpec);
  const Registry registry(directory_);
  const auto by_name = registry.find("mine");
  ASSERT_TRUE(by_name) << by_name.error().message;
  EXPECT_EQ(by_name->version, "2");
  EXPECT_TRUE(registry.find(directory_ + "/mine.toml"));
  EXPECT_EQ(registry.list().size(), builtin_specs().size() + 1);
}

TEST_F(RegistryTest, AUsersSpecHidesABuiltInOne) {
  const std::string name(builtin_specs().at(0).first);
  put(name + ".toml", kSpec);
  EXPECT_EQ(Registry(directory_).find(name)->name, "mine");
}

TEST_F(RegistryTest, UnknownNamesListTheKnownOnes) {
  put("mine.toml", kSpec);
  const auto unknown = Registry(directory_).find("yours");
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, ErrorCode::kNotFound);
  EXPECT_NE(unknown.error().message.find("mine"), std::string::npos);
  EXPECT_NE(unknown.error().message.find(directory_), std::string::npos);
}

TEST_F(RegistryTest, ABrokenSpecIsListedWithItsError) {
  put("broken.toml", "name = ");
  for (const auto& entry : Registry(directory_).list()) {
    if (entry.name != "broken") continue;
    ASSERT_FALSE(entry.spec);
    EXPECT_NE(entry.spec.error().message.find("broken.toml:1"), std::string::npos);
    return;
  }
  FAIL() << "not listed";
}

}  // namespace
}  // namespace sluice::agent
