#include "sluice/base/core/fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <thread>

namespace sluice {
namespace {

bool is_open(int fd) {
  return ::fcntl(fd, F_GETFD) >= 0;
}

class FdTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = ::testing::TempDir() + "/sluice_test_fd.XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  size_t entries() const {
    size_t n = 0;
    for ([[maybe_unused]] const auto& e : std::filesystem::directory_iterator(directory_)) ++n;
    return n;
  }
  std::string directory_;
};

TEST_F(FdTest, ClosesWhatItOwnsOnce) {
  const int raw = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  {
    Fd first(raw);
    Fd second(std::move(first));
    EXPECT_FALSE(first);  // NOLINT: moved from is none
    EXPECT_TRUE(is_open(raw));
    Fd& itself = second;
    second = std::move(itself);
    EXPECT_TRUE(is_open(raw));
  }
  EXPECT_FALSE(is_open(raw));
}

TEST_F(FdTest, AssignmentClosesTheOldOneAndReleaseKeepsIt) {
  Fd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const int old = fd.get();
  fd = Fd(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
  EXPECT_FALSE(is_open(old));
  const int kept = fd.release();
  EXPECT_FALSE(fd);
  EXPECT_TRUE(is_open(kept));
  ::close(kept);
}

TEST_F(FdTest, WritesAllThroughAPipeThatTakesItInPieces) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  Fd reader(ends[0]);
  Fd writer(ends[1]);
  const Bytes sent(1'000'000, 'x');
  std::thread writing([&] {
    EXPECT_TRUE(write_all(writer.get(), sent));
    writer.reset();
  });
  const auto got = read_to_end(reader.get(), sent.size());
  writing.join();
  EXPECT_EQ(got, sent);
}

TEST_F(FdTest, ReadToEndRefusesOneByteTooMany) {
  ASSERT_TRUE(write_file_atomically(path("f"), "12345"));
  EXPECT_EQ(read_file(path("f"), 5), "12345");
  const auto over = read_file(path("f"), 4);
  ASSERT_FALSE(over);
  EXPECT_EQ(over.error().code, ErrorCode::kTooLarge);
  EXPECT_NE(over.error().message.find(path("f")), std::string::npos);
}

TEST_F(FdTest, ReadFileTakesOnlyRegularFilesAndDoesNotHang) {
  EXPECT_EQ(read_file(path("none"), 10).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(read_file(directory_, 10).error().code, ErrorCode::kInvalidArgument);
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_EQ(read_file(path("pipe"), 10).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(FdTest, WriteFileAtomicallyReplacesWithTheModeAndLeavesNothingElse) {
  ASSERT_TRUE(write_file_atomically(path("f"), "old", 0600));
  ASSERT_TRUE(write_file_atomically(path("f"), "new", 0640));
  EXPECT_EQ(read_file(path("f"), 10), "new");
  struct stat st{};
  ASSERT_EQ(::stat(path("f").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0640u);
  EXPECT_EQ(entries(), 1u);

  // A directory is in the way: the error names the file and the temporary one is gone.
  ASSERT_EQ(::mkdir(path("d").c_str(), 0700), 0);
  const auto failed = write_file_atomically(path("d"), "x");
  ASSERT_FALSE(failed);
  EXPECT_NE(failed.error().message.find(path("d")), std::string::npos);
  EXPECT_EQ(entries(), 2u);
}

TEST_F(FdTest, SealedMemfdCannotBeChanged) {
  auto fd = sealed_memfd("test", "content");
  ASSERT_TRUE(fd);
  EXPECT_LT(::pwrite(fd->get(), "x", 1, 0), 0);
  EXPECT_NE(::ftruncate(fd->get(), 0), 0);
  EXPECT_NE(::fcntl(fd->get(), F_GETFD) & FD_CLOEXEC, 0);
  char got[16];
  ASSERT_EQ(::pread(fd->get(), got, sizeof got, 0), 7);
  EXPECT_EQ(std::string_view(got, 7), "content");
}

}  // namespace
}  // namespace sluice
