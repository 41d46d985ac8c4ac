#include "sluice/rollout/results_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

namespace sluice::rollout {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

class ResultsFileTest : public ::testing::Test {
 protected:
  ResultsFileTest() { std::filesystem::remove(path_); }
  ~ResultsFileTest() override { std::filesystem::remove(path_); }

  static Finished ended(std::string name, ErrorKind kind, std::optional<double> reward) {
    Finished finished;
    finished.name = std::move(name);
    finished.result.emplace();
    finished.result->rollout = RolloutId::fresh();
    finished.result->error_kind = kind;
    finished.result->reward = reward;
    return finished;
  }

  void append(const Finished& finished) {
    std::vector<ResultLine> before;
    auto file = ResultsFile::open(path_, &before);
    ASSERT_TRUE(file) << file.error().message;
    ASSERT_TRUE(file->append(to_line(finished, "t", "g")));
  }

  std::vector<ResultLine> entries() {
    std::vector<ResultLine> entries;
    auto file = ResultsFile::open(path_, &entries);
    EXPECT_TRUE(file) << file.error().message;
    return entries;
  }

  const std::string path_ =
      ::testing::TempDir() + "/sluice_results_file_test." + std::to_string(::getpid());
};

TEST_F(ResultsFileTest, reads_back_what_was_written) {
  Finished finished = ended("t@1", ErrorKind::kNone, 0.5);
  finished.failed_attempts.push_back(
      {RolloutId{"lost"}, ErrorKind::kInfrastructure, "no room", {}});
  finished.failed_attempts.push_back({RolloutId{"out"}, ErrorKind::kPolicy, "no trainer", {}});
  append(finished);
  const auto read = entries();
  ASSERT_EQ(read.size(), 1u);
  EXPECT_EQ(read[0].name, "t@1");
  EXPECT_EQ(read[0].task, "t");
  EXPECT_EQ(read[0].group, "g");
  EXPECT_EQ(read[0].reward, 0.5);
  EXPECT_FALSE(read[0].reward_unusable || read[0].reward_clamped);
  EXPECT_THAT(read[0].failed_attempts, ElementsAre(Pair("infrastructure", 1u), Pair("policy", 1u)));
  EXPECT_THAT(read[0].rollouts, ElementsAre("lost", "out", finished.result->rollout.value));
  EXPECT_TRUE(read[0].settled());
}

TEST_F(ResultsFileTest, what_was_no_good_number_is_told) {
  Finished finished = ended("t@1", ErrorKind::kNone, 0);
  finished.result->reward_error = "reward.txt is empty";
  append(finished);
  finished.result->reward_error.clear();
  finished.result->reward_clamped = "-1";
  append(finished);
  const auto read = entries();
  ASSERT_EQ(read.size(), 2u);
  EXPECT_TRUE(read[0].reward_unusable && !read[0].reward_clamped);
  EXPECT_TRUE(!read[1].reward_unusable && read[1].reward_clamped);
}

bool settled(const Finished& finished) {
  const auto line = parse_line(to_line(finished, "t", ""));
  EXPECT_TRUE(line) << line.error().message;
  return line->settled();
}

TEST_F(ResultsFileTest, no_text_in_a_line_ends_it) {
  Finished finished = ended("t@1", ErrorKind::kTask, std::nullopt);
  finished.why = "\u2029";
  finished.result->error = "a\u0085b\u2028c";
  const std::string line = to_line(finished, "t", "");
  EXPECT_THAT(line, HasSubstr(R"("a\u0085b\u2028c")"));
  EXPECT_THAT(line, HasSubstr(R"("why":"\u2029")"));
}

TEST_F(ResultsFileTest, only_attempts_that_were_made_are_settled) {
  EXPECT_TRUE(settled(ended("a", ErrorKind::kAgent, 0)));
  EXPECT_TRUE(settled(ended("a", ErrorKind::kTask, {})));
  EXPECT_FALSE(settled(ended("a", ErrorKind::kInfrastructure, {})));
  EXPECT_FALSE(settled(ended("a", ErrorKind::kPolicy, {})));
  EXPECT_FALSE(settled(ended("a", ErrorKind::kCancelled, {})));
  EXPECT_FALSE(settled(Finished{}));
}

TEST_F(ResultsFileTest, what_never_ran_has_no_result) {
  Finished finished;
  finished.name = "t@1";
  finished.why = "interrupted";
  append(finished);
  const auto read = entries();
  ASSERT_EQ(read.size(), 1u);
  EXPECT_FALSE(read[0].has_result);
  EXPECT_EQ(read[0].reward, std::nullopt);
  EXPECT_EQ(read[0].why, "interrupted");
}

TEST_F(ResultsFileTest, a_torn_last_line_is_taken_off) {
  append(ended("t@1", ErrorKind::kNone, 1));
  auto content = read_file(path_, 1 << 20);
  ASSERT_TRUE(content);
  ASSERT_TRUE(write_file_atomically(path_, *content + content->substr(0, 40)));
  EXPECT_EQ(entries().size(), 1u);
  append(ended("t@2", ErrorKind::kNone, 1));
  EXPECT_EQ(entries().size(), 2u);
}

TEST_F(ResultsFileTest, a_whole_line_that_is_not_ours_is_refused) {
  for (const char* line : {"nonsense\n", "[]\n", "{\"name\":\"x\"}\n", "\n", "\xff\n"}) {
    ASSERT_TRUE(write_file_atomically(path_, line));
    std::vector<ResultLine> entries;
    const auto file = ResultsFile::open(path_, &entries);
    ASSERT_FALSE(file) << line;
    EXPECT_EQ(file.error().code, ErrorCode::kProtocol);
    EXPECT_THAT(file.error().message, HasSubstr("line 1"));
    EXPECT_EQ(*read_file(path_, 100), line) << "left as it was";
  }
}

TEST_F(ResultsFileTest, one_at_a_time) {
  std::vector<ResultLine> entries;
  const auto first = ResultsFile::open(path_, &entries);
  ASSERT_TRUE(first);
  const auto second = ResultsFile::open(path_, &entries);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kFailedPrecondition);
}

}  // namespace
}  // namespace sluice::rollout
