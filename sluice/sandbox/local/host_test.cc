#include "sluice/sandbox/local/host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sluice::sandbox::local {
namespace {

using ::testing::HasSubstr;

constexpr char kWholeHost[] = "         0          0 4294967295\n";

IdFacts user(const std::string& subuid = "", const std::string& subgid = "") {
  IdFacts facts;
  facts.uid = 1234;
  facts.gid = 1234;
  facts.user = "alice";
  facts.uid_map = kWholeHost;
  facts.subuid = subuid;
  facts.subgid = subgid;
  facts.tools = true;
  return facts;
}

IdFacts root(const std::string& uid_map) {
  IdFacts facts;
  facts.user = "root";
  facts.uid_map = uid_map;
  return facts;
}

bool is_taken(const IdPlan& plan, uint32_t id) {
  for (const auto& [first, count] : plan.taken) {
    if (id >= first && id - first < count) return true;
  }
  return false;
}

TEST(PlanIdsTest, RootHasARangePerSandboxAndLeavesOthersAlone) {
  IdFacts facts = root(kWholeHost);
  facts.subuid = "alice:100000:65536\nbroken\nbob:x:y\n";
  facts.subgid = "carol:300000:65536\n";
  const auto plan = plan_ids(facts);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->mapping, Mapping::kDirect);
  EXPECT_EQ(plan->range_first, 100'000u);
  EXPECT_EQ(plan->range_size, 65'536u);
  EXPECT_TRUE(is_taken(*plan, 100'000));
  EXPECT_TRUE(is_taken(*plan, 365'535));
  EXPECT_FALSE(is_taken(*plan, 365'536));
  EXPECT_EQ(plan->note, "");
}

TEST(PlanIdsTest, RootOfASmallNamespaceHasSmallRanges) {
  const auto plan = plan_ids(root("0 1000 1\n1 100000 65536\n"));
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->mapping, Mapping::kDirect);
  EXPECT_EQ(plan->range_first, 1u);
  EXPECT_EQ(plan->range_size, 2048u);
  EXPECT_TRUE(is_taken(*plan, 65'537));
  EXPECT_NE(plan->note, "");

  const auto none = plan_ids(root("0 1000 1\n"));
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kUnsupported);
}

TEST(PlanIdsTest, AUserWithSubordinateIdsUsesThem) {
  const auto plan = plan_ids(user("bob:1:9\nalice:200000:65536\n", "1234:300000:70000\n"));
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->mapping, Mapping::kByTools);
  ASSERT_EQ(plan->uids.size(), 1u);
  EXPECT_EQ(plan->uids[0].inside, 0u);
  EXPECT_EQ(plan->uids[0].outside, 200'000u);
  EXPECT_EQ(plan->uids[0].count, 65'536u);
  EXPECT_EQ(plan->gids[0].outside, 300'000u);
  EXPECT_EQ(plan->gids[0].count, 65'536u);
}

TEST(PlanIdsTest, WithoutThemThereIsOneUserAndItIsSaidWhy) {
  IdFacts no_tools = user("alice:200000:65536\n", "alice:200000:65536\n");
  no_tools.tools = false;
  for (const auto& [facts, why] :
       {std::pair(user(), "usermod --add-subuids"), std::pair(no_tools, "package uidmap"),
        // Too few to hold the sandbox's users.
        std::pair(user("alice:200000:1000\n", "alice:200000:1000\n"), "/etc/subuid"),
        // Host id 0 is nobody's to give.
        std::pair(user("alice:0:65536\n", "alice:0:65536\n"), "/etc/subuid")}) {
    const auto plan = plan_ids(facts);
    ASSERT_TRUE(plan);
    EXPECT_EQ(plan->mapping, Mapping::kOwn);
    ASSERT_EQ(plan->uids.size(), 1u);
    EXPECT_EQ(plan->uids[0].inside, 1000u);
    EXPECT_EQ(plan->uids[0].outside, 1234u);
    EXPECT_EQ(plan->uids[0].count, 1u);
    EXPECT_THAT(plan->note, HasSubstr(why));
  }
}

TEST(PlanIdsTest, TheGroupOfHostRootIsNeverMapped) {
  IdFacts facts = user();
  facts.gid = 0;
  EXPECT_EQ(plan_ids(facts).error().code, ErrorCode::kUnsupported);
}

TEST(InspectHostTest, NamesEveryNeedAndWhatToDo) {
  const auto needs = inspect_host();
  EXPECT_GE(needs.size(), 4u);
  for (const Need& need : needs) {
    EXPECT_NE(need.name, "");
    if (need.state != Need::State::kOk) EXPECT_NE(need.detail, "") << need.name;
  }
}

// What reaches the helper is checked there once more.
TEST(SetupTest, NoMapWithHostRootIsDecoded) {
  local::Setup setup;
  setup.seccomp = Bytes(8, '\0');
  setup.mapping = Mapping::kOwn;
  setup.uids = {{1000, 1234, 1}};
  setup.gids = {{1000, 1234, 1}};
  EXPECT_TRUE(local::Setup::decode(setup.encode()));
  for (const IdMap bad : {IdMap{0, 0, 1}, IdMap{0, 1, 0}, IdMap{0, UINT32_MAX - 1, 5}}) {
    setup.uids = {bad};
    EXPECT_FALSE(local::Setup::decode(setup.encode()));
  }
  setup.uids = {};
  EXPECT_FALSE(local::Setup::decode(setup.encode()));
  setup.mapping = Mapping::kDirect;
  EXPECT_FALSE(local::Setup::decode(setup.encode()));  // without ranges
}

TEST(SetupTest, NamesAndPathsStayInTheirPlace) {
  Create create;
  create.name = "local-1";
  EXPECT_TRUE(Create::decode(create.encode()));
  for (const char* name : {"", "a/b", "..", ".hidden"}) {
    create.name = name;
    EXPECT_FALSE(Create::decode(create.encode())) << name;
  }
  create.name = "local-1";
  Step step;
  for (const char* path : {"", "/etc"}) {
    step.path = path;
    create.extra = {step};
    EXPECT_FALSE(Create::decode(create.encode())) << path;
  }
}

}  // namespace
}  // namespace sluice::sandbox::local
