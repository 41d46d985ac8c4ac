#include "sluice/base/core/glob.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TEST(GlobTest, APlaceHoldsWhatIsBelowIt) {
  EXPECT_TRUE(is_at_or_below("/a/b", "/a/b"));
  EXPECT_TRUE(is_at_or_below("/a/b/c", "/a/b"));
  EXPECT_FALSE(is_at_or_below("/a/bc", "/a/b"));
  EXPECT_FALSE(is_at_or_below("/a", "/a/b"));
}

TEST(GlobTest, AStarStaysWithinItsName) {
  EXPECT_TRUE(glob_matches("/w/*.py", "/w/a.py"));
  EXPECT_TRUE(glob_matches("/w/*", "/w/.hidden"));
  EXPECT_TRUE(glob_matches("/w/?b*", "/w/ab"));
  EXPECT_FALSE(glob_matches("/w/*.py", "/w/a/b.py"));
  EXPECT_FALSE(glob_matches("/w/*.py", "/w/a.pyc"));
  EXPECT_FALSE(glob_matches("/w/?", "/w/"));
  EXPECT_FALSE(glob_matches("/w/a", "/w/ab"));
  EXPECT_FALSE(glob_matches("/w/a", "/w"));
}

TEST(GlobTest, TwoStarsAreAnyNumberOfNames) {
  EXPECT_TRUE(glob_matches("/w/**/x", "/w/x"));
  EXPECT_TRUE(glob_matches("/w/**/x", "/w/a/b/x"));
  EXPECT_TRUE(glob_matches("/w/**/a/**/x", "/w/b/a/c/a/x"));
  EXPECT_TRUE(glob_matches("/w/**", "/w/a/b"));
  EXPECT_FALSE(glob_matches("/w/**/x", "/w/a/b/y"));
  EXPECT_FALSE(glob_matches("/w/**/x", "/v/x"));
  // Within a name they are no more than one.
  EXPECT_FALSE(glob_matches("/w/a**x", "/w/a/x"));
}

TEST(GlobTest, WithoutASlashItIsTheLastName) {
  EXPECT_TRUE(glob_matches("*.pyc", "/w/a/b.pyc"));
  EXPECT_TRUE(glob_matches("conftest.py", "conftest.py"));
  EXPECT_FALSE(glob_matches("a", "/w/a/b"));
}

TEST(GlobTest, ADirectoryCoversWhatIsInIt) {
  EXPECT_TRUE(glob_covers({"no", "tests"}, "/w", "/w/tests/a/b"));
  EXPECT_TRUE(glob_covers({"/w/tests"}, "/w", "/w/tests/a"));
  EXPECT_TRUE(glob_covers({"/w/tests"}, "/w", "/w/tests"));
  EXPECT_FALSE(glob_covers({"/w/tests"}, "/w", "/w/test"));
  EXPECT_FALSE(glob_covers({"/w/tests/*"}, "/w", "/w/tests"));
  EXPECT_FALSE(glob_covers({}, "/w", "/w/a"));
  // Not what the top lies in, nor the top.
  EXPECT_FALSE(glob_covers({"user", "work"}, "/home/user/work", "/home/user/work/a"));
  EXPECT_FALSE(glob_covers({"work"}, "/home/user/work", "/home/user/work"));
}

TEST(GlobTest, BytesAreOnlyBytes) {
  EXPECT_TRUE(glob_matches("/w/\xff*\n", std::string("/w/\xff\x01\n")));
  EXPECT_TRUE(glob_matches("[a]", "[a]"));
  EXPECT_FALSE(glob_matches("[a]", "a"));
}

// What takes some matchers years.
TEST(GlobTest, ManyStarsEnd) {
  std::string pattern, name(5000, 'a');
  for (int i = 0; i < 200; ++i) pattern += "a*";
  EXPECT_FALSE(glob_matches(pattern + "b", name));
  EXPECT_TRUE(glob_matches(pattern, name));
}

}  // namespace
}  // namespace sluice
