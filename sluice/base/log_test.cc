#include "sluice/base/log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <limits>
#include <thread>
#include <vector>

#include <boost/json.hpp>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/fd.h"

namespace sluice {
namespace {

using namespace std::string_literals;
using ::testing::HasSubstr;
using ::testing::Not;

class RedactorTest : public ::testing::Test {
 protected:
  Redactor redactor_;
};

TEST_F(RedactorTest, ReplacesEveryOccurrence) {
  redactor_.add_secret("correct horse");
  EXPECT_EQ(redactor_.redact("correct horse and correct horsecorrect horse."),
            "[redacted] and [redacted][redacted].");
  EXPECT_EQ(redactor_.redact("nothing here"), "nothing here");
  EXPECT_EQ(redactor_.redact(""), "");
}

TEST_F(RedactorTest, OfOverlappingSecretsNothingStays) {
  redactor_.add_secret("abcdef");
  redactor_.add_secret("abcdefghij");  // begins with the first
  redactor_.add_secret("efghijklmn");  // begins inside the second
  EXPECT_EQ(redactor_.redact("<abcdefghij>"), "<[redacted]>");
  EXPECT_EQ(redactor_.redact("<abcdefghijklmn>"), "<[redacted]>");
  redactor_.add_secret("xyxyxyx");  // overlaps itself
  EXPECT_EQ(redactor_.redact("<xyxyxyxyx>"), "<[redacted]>");
}

TEST_F(RedactorTest, ASecretInsideTheReplacementIsHarmless) {
  redactor_.add_secret("redacted");
  redactor_.add_secret("secret-value");
  EXPECT_EQ(redactor_.redact("secret-value"), "[redacted]");
}

TEST_F(RedactorTest, ShortSecretsAreIgnored) {
  redactor_.add_secret("");
  redactor_.add_secret("12345");
  EXPECT_EQ(redactor_.redact("a12345b"), "a12345b");
}

TEST_F(RedactorTest, FindsSecretsAsJsonQuotesThem) {
  redactor_.add_secret("pa\"ss\\word\n");
  EXPECT_EQ(redactor_.redact(R"(body: {"key":"pa\"ss\\word\n"})"), R"(body: {"key":"[redacted]"})");
  EXPECT_EQ(redactor_.redact("raw pa\"ss\\word\n!"), "raw [redacted]!");
}

TEST_F(RedactorTest, KnowsWhatKeysLookLike) {
  EXPECT_EQ(redactor_.redact("Authorization: Bearer abc.def-123456 rest"),
            "Authorization: Bearer [redacted] rest");
  EXPECT_EQ(redactor_.redact("authorization: bearer abc.def-123456"),
            "authorization: bearer [redacted]");
  EXPECT_EQ(redactor_.redact("key=sk-proj-0123456789abcdef, next"), "key=[redacted], next");
  EXPECT_EQ(redactor_.redact("hf_abcdefghijklmnopqrst e2b_0123456789abcdef0123"),
            "[redacted] [redacted]");
  EXPECT_EQ(redactor_.redact("Bearer sk-0123456789abcdef"), "Bearer [redacted]");
  EXPECT_EQ(redactor_.redact("\"sk-0123456789abcdef\""), "\"[redacted]\"");
}

TEST_F(RedactorTest, LeavesWordsAlone) {
  for (const std::string text : {"task-0123456789abcdef", "a Bearer of news", "sk-short",
                                 "the half_hour_is_a_long_time", "Bearer"}) {
    EXPECT_EQ(redactor_.redact(text), text);
  }
}

TEST_F(RedactorTest, OddAdversarialKeys) {
  for (const std::string& secret : {"sk-test '$(leak)"s, "a\0b\0c\0d"s, "\xFF\xFE\xFD\xFC\xFB\xFA"s,
                                    "......"s, "[redacted]"s}) {
    Redactor redactor;
    redactor.add_secret(secret);
    EXPECT_EQ(redactor.redact("x" + secret + "y" + secret), "x[redacted]y[redacted]");
  }
}

class LogTest : public ::testing::Test {
 protected:
  LogTest() : fd_(::memfd_create("log", MFD_CLOEXEC)) {}

  std::string written() const {
    log_.flush();
    std::string text(1 << 20, '\0');
    text.resize(static_cast<size_t>(::pread(fd_.get(), text.data(), text.size(), 0)));
    return text;
  }
  // Every line must be one JSON object.
  std::vector<boost::json::object> lines() const {
    std::vector<boost::json::object> out;
    const std::string text = written();
    for (size_t at = 0; at < text.size();) {
      const size_t end = text.find('\n', at);
      EXPECT_NE(end, std::string::npos) << "a line was not ended";
      boost::json::error_code error;
      auto value = boost::json::parse(text.substr(at, end - at), error);
      EXPECT_FALSE(error) << text.substr(at, end - at);
      out.push_back(value.as_object());
      at = end + 1;
    }
    return out;
  }

  Fd fd_;
  Logger log_ = Logger::to_fd(fd_.get(), LogLevel::kInfo);
};

TEST_F(LogTest, ALineIsOneObjectWithTimeLevelRoomMessageAndFields) {
  log_.warn("gate", "call parked",
            {{"rollout", "r1"},
             {"text", "t"s},
             {"bytes", size_t{18'446'744'073'709'551'615u}},
             {"delta", -3},
             {"seconds", 1.5},
             {"whole", 2.0f},
             {"final", true}});
  const auto line = lines().at(0);
  EXPECT_EQ(line.at("level"), "warn");
  EXPECT_EQ(line.at("room"), "gate");
  EXPECT_EQ(line.at("message"), "call parked");
  EXPECT_EQ(line.at("rollout"), "r1");
  EXPECT_EQ(line.at("text"), "t");
  EXPECT_EQ(line.at("bytes").as_uint64(), UINT64_MAX);
  EXPECT_EQ(line.at("delta").as_int64(), -3);
  EXPECT_EQ(line.at("seconds").as_double(), 1.5);
  EXPECT_EQ(line.at("final"), true);
  EXPECT_THAT(
      std::string(line.at("time").as_string()),
      ::testing::MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z"));
}

TEST_F(LogTest, NumbersThatJsonDoesNotHaveAreNull) {
  log_.info("r", "m",
            {{"nan", std::numeric_limits<double>::quiet_NaN()},
             {"inf", -std::numeric_limits<double>::infinity()}});
  EXPECT_TRUE(lines().at(0).at("nan").is_null());
  EXPECT_TRUE(lines().at(0).at("inf").is_null());
}

TEST_F(LogTest, AnythingInAMessageStaysInsideItsString) {
  std::string all;
  for (int i = 0; i < 128; ++i) all.push_back(static_cast<char>(i));
  log_.info("r", all, {{"k", all}});
  log_.info("r", "{} {0} {:x} %s %v");  // no format string
  ASSERT_EQ(lines().size(), 2u);
  EXPECT_EQ(std::string(lines()[0].at("message").as_string()), all);
  EXPECT_EQ(std::string(lines()[0].at("k").as_string()), all);
  EXPECT_EQ(lines()[1].at("message"), "{} {0} {:x} %s %v");
}

TEST_F(LogTest, InvalidUtf8IsReplaced) {
  log_.info("r",
            "a\xFF"
            "b",
            {{"k", "\xC3"}});
  EXPECT_EQ(lines().at(0).at("message"),
            "a\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(lines().at(0).at("k"), "\xEF\xBF\xBD");
}

TEST_F(LogTest, SecretsLeaveNeitherByMessageNorByField) {
  log_.redactor().add_secret("very-secret-key");
  log_.redactor().add_secret("qu\"oted\\key");
  log_.redactor().add_secret("bytes\xFF\xFEkey");
  log_.info(
      "r", "sent very-secret-key to x",
      {{"key", "very-secret-key"}, {"quoted", "<qu\"oted\\key>"}, {"raw", "<bytes\xFF\xFEkey>"}});
  const auto line = lines().at(0);
  EXPECT_EQ(line.at("message"), "sent [redacted] to x");
  EXPECT_EQ(line.at("key"), "[redacted]");
  EXPECT_EQ(line.at("quoted"), "<[redacted]>");
  EXPECT_EQ(line.at("raw"), "<[redacted]>");
  EXPECT_THAT(written(), Not(HasSubstr("secret-key")));
}

TEST_F(LogTest, CopiesShareTheSinkAndItsSecrets) {
  const Logger copy = log_;
  copy.redactor().add_secret("added-to-the-copy");
  log_.info("r", "added-to-the-copy");
  EXPECT_EQ(lines().at(0).at("message"), "[redacted]");
}

TEST_F(LogTest, LevelsBelowTheLoggersAreDropped) {
  log_.debug("r", "no");
  log_.info("r", "yes");
  log_.warn("r", "yes");
  log_.error("r", "yes");
  Logger::to_fd(fd_.get(), LogLevel::kOff).error("r", "no");
  Logger().error("r", "no");
  EXPECT_EQ(lines().size(), 3u);
}

TEST_F(LogTest, LinesOfSeveralThreadsDoNotMix) {
  // The memory file's offset is shared by all writers, as a log file's is.
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([log = log_] {
      for (int i = 0; i < 200; ++i) log.info("r", std::string(100, 'x'));
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(lines().size(), 800u);
}

TEST(LogFileTest, AppendsAndIsTheOwnersAlone) {
  const std::string path =
      ::testing::TempDir() + "/sluice_log_test.jsonl." + std::to_string(::getpid());
  ::unlink(path.c_str());
  {
    Fd old(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
  }
  ::chmod(path.c_str(), 0666);
  Logger::to_file(path, LogLevel::kInfo).info("r", "first");
  Logger::to_file(path, LogLevel::kInfo).info("r", "second");
  struct stat st{};
  ASSERT_EQ(::stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  const auto text = read_file(path, 1 << 16);
  ASSERT_TRUE(text);
  EXPECT_THAT(*text, HasSubstr("first"));
  EXPECT_THAT(*text, HasSubstr("second"));
  ::unlink(path.c_str());
}

TEST(LogFileTest, NobodyWaitsForAnOutputThatStallsAndWhatIsMissingIsSaid) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const Fd out(ends[0]);
  Fd in(ends[1]);
  constexpr size_t kLines = 2'500;
  constexpr size_t kText = 1000;
  static_assert(kLines * kText > 2 * kMaxLogQueued);  // the writer holds as much again
  std::thread reader;
  Result<Bytes> text = Bytes();
  {
    const Logger log = Logger::to_fd(in.get(), LogLevel::kInfo);
    // A pipe takes 64 KiB, and nobody reads before all of this is logged.
    for (size_t i = 0; i < kLines; ++i) log.info("r", std::string(kText, 'x'), {{"i", i}});
    reader = std::thread([&] { text = read_to_end(out.get(), 2 * kLines * kText); });
  }
  in.reset();
  reader.join();
  ASSERT_TRUE(text);

  size_t written = 0, missing = 0;
  for (std::string_view rest = *text; !rest.empty(); rest.remove_prefix(rest.find('\n') + 1)) {
    const auto line = boost::json::parse(rest.substr(0, rest.find('\n'))).as_object();
    if (const auto* lines = line.if_contains("lines")) {
      EXPECT_EQ(line.at("level"), "warn");
      missing += lines->to_number<size_t>();
    } else {
      EXPECT_EQ(line.at("i").to_number<size_t>(), written + missing);
      ++written;
    }
  }
  EXPECT_GT(missing, 0u);
  EXPECT_EQ(written + missing, kLines);
}

TEST(LogFileTest, AnUnusablePathIsSaidAtOnce) {
  try {
    Logger::to_file("/nonexistent/x.log", LogLevel::kInfo);
    FAIL() << "no exception";
  } catch (const std::runtime_error& e) {
    EXPECT_THAT(e.what(), HasSubstr("/nonexistent/x.log: No such file or directory"));
  }
}

}  // namespace
}  // namespace sluice
