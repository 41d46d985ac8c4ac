#include "sluice/base/core/passwd.h"

#include <gtest/gtest.h>
#include <pwd.h>
#include <unistd.h>

#include <cstdlib>

namespace sluice {
namespace {

constexpr std::string_view kPasswd =
    "root:x:0:0:root:/root:/bin/bash\n"
    "# a comment\n"
    "broken:x:notanumber:5::/broken:/bin/sh\n"
    "short:x:7\n"
    "\n"
    ":x:9:9::/nameless:\n"
    "homeless:x:30:31::\n"
    "agent:x:1000:1000:Agent,,,:/home/user:/bin/sh\n"
    "twin:x:1000:77::/home/twin:/bin/sh\n"
    "+::::::\n"
    "last:x:40:40::/last:/bin/sh";  // no line break at the end
constexpr std::string_view kGroup =
    "root:x:0:\n"
    "agent:x:1000:agent\n"
    "docker:x:998:other,agent\n"
    "audio:x:29:agentx,xagent\n"
    "bad:x:no:agent\n"
    "video:x:44:agent,last";

TEST(PasswdTest, FindsByName) {
  const auto user = find_user("agent", kPasswd, kGroup);
  ASSERT_TRUE(user);
  EXPECT_EQ(user->uid, 1000u);
  EXPECT_EQ(user->gid, 1000u);
  EXPECT_EQ(user->home, "/home/user");
  // Supplementary groups: whole names only, the primary one left out, broken lines skipped.
  EXPECT_EQ(user->groups, (std::vector<gid_t>{998, 44}));
}

TEST(PasswdTest, FindsByNumberTheFirstLineAndItsGroups) {
  const auto user = find_user("1000", kPasswd, kGroup);
  ASSERT_TRUE(user);
  EXPECT_EQ(user->name, "agent");
  EXPECT_EQ(user->groups, (std::vector<gid_t>{998, 44}));
}

TEST(PasswdTest, TheGroupOfUidColonGidWins) {
  const auto user = find_user("1000:998", kPasswd, kGroup);
  ASSERT_TRUE(user);
  EXPECT_EQ(user->gid, 998u);
  EXPECT_EQ(user->groups, (std::vector<gid_t>{1000, 44}));
}

TEST(PasswdTest, AnUnknownNumberIsAllowedAnUnknownNameIsNot) {
  const auto user = find_user("4242", kPasswd, kGroup);
  ASSERT_TRUE(user);
  EXPECT_EQ(user->name, "");
  EXPECT_EQ(user->uid, 4242u);
  EXPECT_EQ(user->gid, 4242u);
  EXPECT_EQ(user->home, "/");
  EXPECT_TRUE(user->groups.empty());
  for (const std::string_view name :
       {"nobody", "broken", "short", "", "+", "agent:0", "# a comment"}) {
    const auto missing = find_user(name, kPasswd, kGroup);
    ASSERT_FALSE(missing) << name;
    EXPECT_EQ(missing.error().code, ErrorCode::kNotFound) << name;
  }
}

TEST(PasswdTest, MissingHomeIsTheRootAndTheLastLineNeedsNoBreak) {
  EXPECT_EQ(find_user("homeless", kPasswd, kGroup)->home, "/");
  EXPECT_EQ(find_user("last", kPasswd, kGroup)->home, "/last");
  EXPECT_EQ(find_user("last", kPasswd, kGroup)->groups, (std::vector<gid_t>{44}));
}

TEST(PasswdTest, RefusesBadGroupsAndTheNumberThatMeansUnchanged) {
  EXPECT_EQ(find_user("1000:x", kPasswd, kGroup).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(find_user("1000:-1", kPasswd, kGroup).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(find_user("1000:4294967295", kPasswd, kGroup).error().code,
            ErrorCode::kInvalidArgument);
  EXPECT_FALSE(find_user("4294967295", kPasswd, kGroup));
  EXPECT_FALSE(find_user("-1", kPasswd, kGroup));
}

TEST(PasswdTest, EmptyFilesAreNoUsers) {
  EXPECT_FALSE(find_user("root", "", ""));
  EXPECT_TRUE(find_user("0", "", ""));
}

TEST(PasswdTest, HomeIsTheVariablesOrTheFiles) {
  const passwd* entry = ::getpwuid(::geteuid());  // NOLINT(concurrency-mt-unsafe): one thread
  const std::string in_file = entry != nullptr ? entry->pw_dir : "/";
  ::setenv("HOME", "/some/where", 1);  // NOLINT(concurrency-mt-unsafe)
  EXPECT_EQ(home_directory(), "/some/where");
  for (const char* no_path : {"", "relative"}) {
    ::setenv("HOME", no_path, 1);  // NOLINT(concurrency-mt-unsafe)
    EXPECT_EQ(home_directory(), in_file);
  }
  ::unsetenv("HOME");  // NOLINT(concurrency-mt-unsafe)
  EXPECT_EQ(home_directory(), in_file);
}

}  // namespace
}  // namespace sluice
