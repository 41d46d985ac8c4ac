#include "sluice/sandbox/local/host.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "sluice/base/core/fd.h"

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

Trial refused(Trial::Step step, int failure) {
  return {step, failure};
}

TEST(TrialTest, EachRefusalIsExplainedWithWhatToDo) {
  using Step = Trial::Step;
  TrialFacts facts;
  EXPECT_EQ(explain_trial(facts), "");
  const auto said = [&](Trial trial) {
    facts.trial = trial;
    return explain_trial(facts);
  };
  EXPECT_THAT(said(refused(Step::kUserNamespace, ENOSPC)), HasSubstr("user.max_user_namespaces"));
  EXPECT_THAT(said(refused(Step::kProc, EPERM)), HasSubstr("systempaths=unconfined"));
  EXPECT_THAT(said(refused(Step::kOverlay, EPERM)), HasSubstr("read-only"));
  facts.status = "Name:\tx\nSeccomp:\t2\n";
  EXPECT_THAT(said(refused(Step::kUserNamespace, EPERM)), HasSubstr("seccomp=containers/"));
  EXPECT_THAT(said(refused(Step::kMounts, EACCES)), HasSubstr("apparmor=unconfined"));
  facts.apparmor_restricts = "1\n";
  EXPECT_THAT(said(refused(Step::kUserNamespace, EACCES)),
              HasSubstr("kernel.apparmor_restrict_unprivileged_userns=0"));
  facts.userns_clone = "0\n";
  EXPECT_THAT(said(refused(Step::kUserNamespace, EPERM)),
              HasSubstr("kernel.unprivileged_userns_clone=1"));
  facts.root = true;  // whom the latter two do not concern
  EXPECT_THAT(said(refused(Step::kUserNamespace, EPERM)), HasSubstr("seccomp=containers/"));
  facts.max_user_namespaces = "0\n";
  EXPECT_THAT(said(refused(Step::kUserNamespace, EPERM)), HasSubstr("user.max_user_namespaces"));
  EXPECT_THAT(said(refused(Step::kProc, EPERM)), HasSubstr("no local sandboxes at all"));
}

// A user namespace in which no further one is allowed, as sysctl user.max_user_namespaces=0 does.
TEST(TrialTest, ForbiddenUserNamespacesAreNoticed) {
  if (try_namespaces().refused == Trial::Step::kUserNamespace) {
    GTEST_SKIP() << "they are forbidden already";
  }
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const auto put = [](const char* path, const std::string& text) {
      const Fd file(::open(path, O_WRONLY | O_CLOEXEC));
      return file && ::write(file.get(), text.data(), text.size()) > 0;
    };
    const std::string map = "0 " + std::to_string(::geteuid()) + " 1";
    if (::unshare(CLONE_NEWUSER) != 0 || !put("/proc/self/uid_map", map)) ::_exit(77);
    if (!put("/proc/sys/user/max_user_namespaces", "0")) ::_exit(77);
    const Trial trial = try_namespaces();
    const bool seen = trial.refused == Trial::Step::kUserNamespace && trial.failure == ENOSPC;
    bool told = false;
    for (const Need& need : inspect_host()) {
      told = told || (need.name == "user namespaces" && need.state == Need::State::kMissing &&
                      need.detail.find("user.max_user_namespaces=10000") != std::string::npos);
    }
    ::_exit(seen && told ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "the setting cannot be changed here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

// What reaches the helper is checked there once more.
TEST(SetupTest, NoMapWithHostRootIsDecoded) {
  local::Setup setup;
  setup.seccomp = Bytes(8, '\0');
  setup.mapping = Mapping::kOwn;
  setup.uids = {{1000, 1234, 1}};
  setup.gids = {{1000, 1234, 1}};
  EXPECT_TRUE(decode<local::Setup>(encode(setup)));
  for (const IdMap bad : {IdMap{0, 0, 1}, IdMap{0, 1, 0}, IdMap{0, UINT32_MAX - 1, 5}}) {
    setup.uids = {bad};
    EXPECT_FALSE(decode<local::Setup>(encode(setup)));
  }
  setup.uids = {};
  EXPECT_FALSE(decode<local::Setup>(encode(setup)));
  setup.mapping = Mapping::kDirect;
  EXPECT_FALSE(decode<local::Setup>(encode(setup)));  // without ranges
}

TEST(SetupTest, NamesAndPathsStayInTheirPlace) {
  Create create;
  create.name = "local-1";
  EXPECT_TRUE(decode<Create>(encode(create)));
  for (const char* name : {"", "a/b", "..", ".hidden"}) {
    create.name = name;
    EXPECT_FALSE(decode<Create>(encode(create))) << name;
  }
  create.name = "local-1";
  Step step;
  for (const char* path : {"", "/etc"}) {
    step.path = path;
    create.extra = {step};
    EXPECT_FALSE(decode<Create>(encode(create))) << path;
  }
}

}  // namespace
}  // namespace sluice::sandbox::local
