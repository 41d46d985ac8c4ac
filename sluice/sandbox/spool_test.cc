#include "sluice/sandbox/spool.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "sluice/net/testing.h"

namespace sluice::sandbox {
namespace {

using net::testing::run;

std::set<std::string> open_files() {
  std::set<std::string> found;
  std::error_code gone;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    found.insert(std::filesystem::read_symlink(entry.path(), gone).string());
  }
  return found;
}

bool is_there(std::string_view what) {
  for (const std::string& file : open_files()) {
    if (file.find(what) != file.npos) return true;
  }
  return false;
}

TEST(SpoolTest, GivesWhatItWasGivenToAnyNumber) {
  net::Shard shard;
  const auto spool = std::make_shared<Spool>(std::make_shared<net::BlockingPool>(1));
  ASSERT_TRUE(run(shard, spool->append("one ")));
  ASSERT_TRUE(run(shard, spool->append(Bytes(100'000, 'x'))));
  ASSERT_TRUE(run(shard, spool->append("")));
  EXPECT_EQ(spool->size(), 100'004u);
  for (int reader = 0; reader < 2; ++reader) {
    Bytes all;
    for (;;) {
      const auto piece = run(shard, spool->read(all.size(), 1000));
      ASSERT_TRUE(piece) << piece.error().message;
      if (piece->empty()) break;
      EXPECT_LE(piece->size(), 1000u);
      all += *piece;
    }
    EXPECT_EQ(all, "one " + Bytes(100'000, 'x'));
  }
  EXPECT_EQ(*run(shard, spool->read(1'000'000, 10)), "");
}

TEST(SpoolTest, IsSavedWhole) {
  net::Shard shard;
  const auto spool = std::make_shared<Spool>(std::make_shared<net::BlockingPool>(1));
  ASSERT_TRUE(run(shard, spool->append(Bytes(700'000, 'x') + "end")));
  const std::string path = ::testing::TempDir() + "/saved-spool";
  ASSERT_TRUE(spool->save(path, 0600));
  EXPECT_EQ(*read_file(path, 1 << 20), Bytes(700'000, 'x') + "end");
  EXPECT_EQ(spool->save("/nowhere/at/all", 0600).error().code, ErrorCode::kNotFound);
  std::filesystem::remove(path);
}

TEST(SpoolTest, ItsFileHasNoNameAndGoesWithIt) {
  net::Shard shard;
  auto spool = std::make_unique<Spool>(std::make_shared<net::BlockingPool>(1));
  EXPECT_EQ(*run(shard, spool->read(0, 10)), "");
  EXPECT_FALSE(is_there("/tmp/"));
  ASSERT_TRUE(run(shard, spool->append("x")));
  EXPECT_TRUE(is_there("(deleted)"));
  spool.reset();
  EXPECT_FALSE(is_there("/tmp/"));
}

}  // namespace
}  // namespace sluice::sandbox
