#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "sluice/sandbox/local/helper/cgroups.h"
#include "sluice/sandbox/local/helper/ranges.h"

namespace sluice::sandbox::local {
namespace {

class RangesTest : public ::testing::Test {
 protected:
  ~RangesTest() override { std::filesystem::remove_all(base_); }

  Fd locks() {
    auto file = open_id_locks(base_ + "/ids");
    EXPECT_TRUE(file) << file.error().message;
    return std::move(*file);
  }
  static size_t open_files() {
    std::filesystem::directory_iterator all("/proc/self/fd");
    return static_cast<size_t>(std::distance(begin(all), end(all)));
  }

  const std::string base_ = ::testing::TempDir() + "/ranges-" + std::to_string(::getpid());
};

TEST_F(RangesTest, NoTwoAreTheSameWhoeverAsks) {
  // Two engines with the same idea of what is free.
  Ranges one(200'000'000, 65'536, {}, locks());
  Ranges two(200'000'000, 65'536, {}, locks());
  const size_t before = open_files();
  std::vector<Range> held;
  std::set<uint32_t> seen;
  for (int i = 0; i < 20; ++i) {
    for (Ranges* ranges : {&one, &two}) {
      auto range = ranges->take();
      ASSERT_TRUE(range) << range.error().message;
      EXPECT_TRUE(seen.insert(range->first).second) << range->first;
      EXPECT_EQ((range->first - 200'000'000) % 65'536, 0u);
      held.push_back(std::move(*range));
    }
  }
  EXPECT_EQ(open_files(), before) << "none for a sandbox";
  // Nor is one with ranges of another size given what they hold.
  Ranges small(held.front().first, 2048, {}, locks());
  EXPECT_EQ(small.take_with(held.front().first + 5000).error().code, ErrorCode::kAlreadyExists);
}

TEST_F(RangesTest, AnEngineThatDiesFreesWhatItHad) {
  constexpr uint32_t kFirst = UINT32_MAX - 65'536 - 65'536;  // room for one
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    Ranges theirs(kFirst, 65'536, {}, locks());
    const auto range = theirs.take();
    if (range && ::write(ends[1], "x", 1) == 1) ::pause();
    ::_exit(1);
  }
  char told = 0;
  ASSERT_EQ(::read(ends[0], &told, 1), 1);
  Ranges ours(kFirst, 65'536, {}, locks());
  EXPECT_EQ(ours.take().error().code, ErrorCode::kExhausted);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_TRUE(ours.take());
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_F(RangesTest, ItsPlaceIsNobodyElses) {
  struct stat st{};
  (void)locks();
  ASSERT_EQ(::stat((base_ + "/ids").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0700u);
  ASSERT_EQ(::stat((base_ + "/ids/locks").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  ASSERT_EQ(::chmod((base_ + "/ids").c_str(), 0777), 0);
  EXPECT_EQ(open_id_locks(base_ + "/ids").error().code, ErrorCode::kPermissionDenied);
  std::filesystem::remove_all(base_ + "/ids");
  std::filesystem::create_directory_symlink("/tmp", base_ + "/ids");
  EXPECT_FALSE(open_id_locks(base_ + "/ids"));
  EXPECT_FALSE(open_id_locks("/proc/none/ids"));
}

TEST_F(RangesTest, WithoutAFileNoTwoOfOneEngineAreTheSame) {
  Ranges ranges(200'000'000, 65'536, {}, Fd());
  const auto one = ranges.take();
  const auto two = ranges.take();
  ASSERT_TRUE(one && two);
  EXPECT_NE(one->first, two->first);
  EXPECT_EQ(ranges.take_with(one->first).error().code, ErrorCode::kAlreadyExists);
}

TEST_F(RangesTest, WhatIsTakenIsLeftOutAndWhatIsFreedComesAgain) {
  // Room for four, two of which are somebody else's.
  constexpr uint32_t kFirst = UINT32_MAX - 65'536 - 4 * 65'536;
  Ranges ranges(kFirst, 65'536, {{kFirst + 10, 1}, {kFirst + 2 * 65'536, 65'536}}, locks());
  auto a = ranges.take();
  auto b = ranges.take();
  ASSERT_TRUE(a);
  ASSERT_TRUE(b);
  EXPECT_EQ(ranges.take().error().code, ErrorCode::kExhausted);
  const uint32_t first = a->first;
  EXPECT_EQ(ranges.take_with(first + 1000).error().code, ErrorCode::kAlreadyExists);
  a->owner.reset();
  auto again = ranges.take_with(first + 1000);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->first, first);
  EXPECT_EQ(ranges.take_with(5).error().code, ErrorCode::kNotFound);
}

TEST(CgroupsTest, ANameTellsWhetherItsOwnerLives) {
  const std::string mine = owner_name(::getpid());
  EXPECT_EQ(owner_name(::getpid()), mine);
  EXPECT_NE(start_time(::getpid()), 0u);
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(start_time(child), 0u);  // dead, though not reaped yet
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(start_time(child), 0u);
}

CgroupFacts facts(std::string mountinfo, std::string own, bool root) {
  return {std::move(mountinfo), std::move(own), root};
}

TEST(CgroupsTest, TheirPlaceFollowsTheKindOfHost) {
  using Version = CgroupPlace::Version;
  // Version 1, one hierarchy per controller, and a unified one without any.
  char name[] = "/tmp/sluice-test-cgroups-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string top = name;
  for (const char* below : {"/memory/own/group", "/cpu", "/unified/user/app"}) {
    std::filesystem::create_directories(top + below);
  }
  const std::string one =
      "30 20 0:27 / " + top + "/memory rw,relatime - cgroup cgroup rw,memory\n" + "31 20 0:28 / " +
      top + "/cpu rw - cgroup cgroup rw,cpu,cpuacct\n" + "32 20 0:29 / " + top +
      "/devices rw - cgroup cgroup rw,devices\n" + "33 20 0:30 / " + top +
      "/unified rw shared:9 - cgroup2 cgroup2 rw\n" + "34 20 0:31 / /proc rw - proc proc rw\n";
  auto places = plan_cgroups(facts(one, "4:memory:/own/group\n2:cpu,cpuacct:/\n0::/\n", true));
  ASSERT_EQ(places.size(), 2u);
  EXPECT_EQ(places[0].base, top + "/memory/own/group");
  EXPECT_TRUE(places[0].has.memory && !places[0].has.pids && !places[0].has.cpu);
  EXPECT_EQ(places[1].base, top + "/cpu");
  EXPECT_EQ(places[1].version, Version::kOne);

  // Version 2: root takes the top, others their own group; with the group's own controllers.
  std::ofstream(top + "/unified/cgroup.controllers") << "cpuset cpu io memory hugetlb pids\n";
  std::ofstream(top + "/unified/user/app/cgroup.controllers") << "memory pids\n";
  const std::string two = "33 20 0:30 / " + top + "/unified rw shared:9 - cgroup2 cgroup2 rw\n";
  places = plan_cgroups(facts(two, "0::/user/app\n", true));
  ASSERT_EQ(places.size(), 1u);
  EXPECT_EQ(places[0].base, top + "/unified");
  EXPECT_TRUE(places[0].has.memory && places[0].has.pids && places[0].has.cpu);
  places = plan_cgroups(facts(two, "0::/user/app\n", false));
  ASSERT_EQ(places.size(), 1u);
  EXPECT_EQ(places[0].base, top + "/unified/user/app");
  EXPECT_TRUE(places[0].has.memory && places[0].has.pids && !places[0].has.cpu);
  // A second backend of an engine that was moved aside.
  std::filesystem::create_directories(top + "/unified/user/app/sluice-engine");
  places = plan_cgroups(facts(two, "0::/user/app/sluice-engine\n", false));
  ASSERT_EQ(places.size(), 1u);
  EXPECT_EQ(places[0].base, top + "/unified/user/app");
  // A container that sees its own part as the whole.
  const std::string part = "33 20 0:30 /user/app " + top + "/unified/user/app rw - cgroup2 c rw\n";
  places = plan_cgroups(facts(part, "0::/user/app\n", false));
  ASSERT_EQ(places.size(), 1u);
  EXPECT_EQ(places[0].base, top + "/unified/user/app");
  // None, and nonsense.
  EXPECT_TRUE(plan_cgroups(facts("", "", true)).empty());
  EXPECT_TRUE(plan_cgroups(facts("1 2\n - cgroup2\n5 5 0:1 / /x - cgroup\n", "::", true)).empty());
  EXPECT_NE(Cgroups::open_at({}).problem(), "");
  std::filesystem::remove_all(top);
}

TEST(CgroupsTest, LimitsAreSetAndEverythingIsRemovedAgain) {
  if (::geteuid() != 0) {
    const Cgroups none = Cgroups::open();
    const Controllers& has = none.controllers();
    if (has.memory || has.pids || has.cpu) GTEST_SKIP() << "delegated to this user";
    EXPECT_NE(none.problem(), "");
    return;
  }
  const Cgroups groups = Cgroups::open();
  const Controllers& has = groups.controllers();
  if (!has.memory || !has.pids) GTEST_SKIP() << groups.problem();
  CgroupLimits limits;
  limits.memory_bytes = 64 * 1024 * 1024;
  limits.pids = 10;
  auto group = groups.make("test");
  ASSERT_TRUE(group) << group.error().message;
  EXPECT_FALSE(groups.make("test"));  // the name is taken
  ASSERT_TRUE(groups.limit(&*group, "test", limits));
  const pid_t child = ::fork();
  if (child == 0) {
    ::pause();
    ::_exit(0);
  }
  ASSERT_TRUE(Cgroups::add(*group, child));
  EXPECT_FALSE(Cgroups::remove(*group));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  for (int i = 0; i < 200 && !Cgroups::remove(*group); ++i) ::usleep(5'000);
  for (const std::string& directory : group->directories) {
    EXPECT_FALSE(std::filesystem::exists(directory));
  }
  groups.remove_all();
  for (const std::string& directory : groups.directories()) {
    EXPECT_FALSE(std::filesystem::exists(directory));
  }
}

TEST(CgroupsTest, WhatADeadOwnerLeftIsRemovedWithItsProcesses) {
  if (::geteuid() != 0) GTEST_SKIP() << "control groups need root";
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  const pid_t owner = ::fork();
  if (owner == 0) {
    const Cgroups groups = Cgroups::open();
    CgroupLimits limits;
    limits.pids = 10;
    const auto group = groups.make("left");
    const pid_t inside = ::fork();
    if (inside == 0) {
      ::pause();
      ::_exit(0);
    }
    if (group) (void)Cgroups::add(*group, inside);
    const std::string directory = group && !group->directories.empty() ? group->directories[0] : "";
    [[maybe_unused]] auto n = ::write(pipe[1], &inside, sizeof inside);
    n = ::write(pipe[1], directory.data(), directory.size());
    ::_exit(0);
  }
  ::close(pipe[1]);
  pid_t inside = 0;
  ASSERT_EQ(::read(pipe[0], &inside, sizeof inside), static_cast<ssize_t>(sizeof inside));
  char text[4096];
  const ssize_t n = ::read(pipe[0], text, sizeof text);
  ::waitpid(owner, nullptr, 0);
  ::close(pipe[0]);
  if (n <= 0) {
    ::kill(inside, SIGKILL);
    GTEST_SKIP() << "no control groups here";
  }
  const std::string directory(text, static_cast<size_t>(n));
  EXPECT_TRUE(std::filesystem::exists(directory));
  // Another owner lives: this test's.
  const Cgroups alive = Cgroups::open();
  EXPECT_GE(remove_dead_cgroups(), 1);
  EXPECT_FALSE(std::filesystem::exists(directory));
  EXPECT_EQ(start_time(inside), 0u);
  for (const std::string& mine : alive.directories()) EXPECT_TRUE(std::filesystem::exists(mine));
  alive.remove_all();
}

}  // namespace
}  // namespace sluice::sandbox::local
