#include "sluice/base/id.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <regex>
#include <set>
#include <thread>
#include <unordered_set>

namespace sluice {
namespace {

TEST(IdTest, finding_32_uuids_have_version_7s_form_and_differ) {
  const std::regex form("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}");
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = new_uuid();
    EXPECT_TRUE(std::regex_match(id, form)) << id;
    EXPECT_TRUE(is_valid_id(id));
    seen.insert(id);
  }
  EXPECT_EQ(seen.size(), 1000u);
}

TEST(IdTest, AForkedProcessDrawsUuidsOfItsOwn) {
  new_uuid();  // some that are drawn ahead
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const std::string id = new_uuid();
    ::_exit(::write(ends[1], id.data(), id.size()) == static_cast<ssize_t>(id.size()) ? 0 : 1);
  }
  const std::string ours = new_uuid();
  std::string theirs(36, '\0');
  ASSERT_EQ(::read(ends[0], theirs.data(), theirs.size()), 36);
  ::waitpid(child, nullptr, 0);
  ::close(ends[0]);
  ::close(ends[1]);
  EXPECT_NE(ours.substr(16), theirs.substr(16));
}

TEST(IdTest, UuidsSortByTheMillisecondTheyWereMadeIn) {
  const std::string first = new_uuid();
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  EXPECT_LT(first, new_uuid());
}

TEST(IdTest, TheTimeIsInTheFirst48Bits) {
  using namespace std::chrono;
  const auto now = [] {
    return duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
  };
  const auto before = now();
  const std::string id = new_uuid();
  const auto after = now();
  const auto stamp = std::stoll(id.substr(0, 8) + id.substr(9, 4), nullptr, 16);
  EXPECT_GE(stamp, before);
  EXPECT_LE(stamp, after);
}

TEST(IdTest, RandomHexHasTheAskedLength) {
  EXPECT_EQ(random_hex(0), "");
  EXPECT_EQ(random_hex(16).size(), 32u);
  EXPECT_NE(random_hex(16), random_hex(16));
}

TEST(IdTest, TypedIdsCompareAndHash) {
  const auto a = RolloutId::fresh();
  const auto b = RolloutId::fresh();
  EXPECT_NE(a, b);
  EXPECT_TRUE(RolloutId().empty());
  EXPECT_EQ((std::unordered_set<RolloutId>{a, b, a}).size(), 2u);
  static_assert(!std::is_convertible_v<RolloutId, CallId>);
}

TEST(IdTest, OutsideIdsAreSafeInPathsAndUrls) {
  for (const std::string_view good : {"a", "A-b_c.9", "0"}) EXPECT_TRUE(is_valid_id(good)) << good;
  EXPECT_TRUE(is_valid_id(std::string(64, 'x')));
  EXPECT_FALSE(is_valid_id(std::string(65, 'x')));
  for (const std::string_view bad :
       {std::string_view(""), std::string_view("."), std::string_view(".."),
        std::string_view(".hidden"), std::string_view("-flag"), std::string_view("a/b"),
        std::string_view("a b"), std::string_view("a%2e"), std::string_view("\xC3\xA9"),
        std::string_view("a\0b", 3), std::string_view("a\n")}) {
    EXPECT_FALSE(is_valid_id(bad)) << bad;
  }
}

}  // namespace
}  // namespace sluice
