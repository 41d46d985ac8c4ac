#include "sluice/agent/bundle.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "sluice/base/core/fd.h"

namespace sluice::agent {
namespace {

namespace fs = std::filesystem;

constexpr char kSpec[] = R"(
name = "echo"
version = "1.0"
[bundle]
npm = ["echo-agent@{version}"]
install_scripts = ["echo-agent"]
keep = ["node_modules/echo-agent"]
program = "{bundle}/node_modules/echo-agent/bin"
[run]
command = ["{program}"]
[dialects.chat]
)";

// An npm that makes the tree without a registry, logs its arguments, and can be told to fail. The
// real one is used by the whole-system tests.
constexpr char kNpm[] = R"sh(#!/bin/sh
echo "$* $(cat package.json)" >> "$NPM_LOG"
[ -n "$NPM_FAILS" ] && { echo "npm ERR! 404 no such package" >&2; exit 1; }
mkdir -p node_modules/echo-agent/lib node_modules/other
echo '#!/bin/sh' > node_modules/echo-agent/bin
chmod 700 node_modules/echo-agent/bin
echo x > node_modules/echo-agent/lib/private
chmod 600 node_modules/echo-agent/lib/private
echo x > node_modules/other/file
[ -n "$NPM_DIES" ] && kill -9 $$
exit 0
)sh";

class BundleTest : public ::testing::Test {
 protected:
  BundleTest()
      : root_(::testing::TempDir() + "/sluice_bundle_test." + std::to_string(::getpid())),
        bundles_(root_ + "/cache") {
    fs::remove_all(root_);
    fs::create_directories(root_ + "/bin");
    EXPECT_TRUE(write_file_atomically(root_ + "/bin/npm", kNpm, 0755));
    path_ = std::getenv("PATH");
    ::setenv("PATH", (root_ + "/bin:" + path_).c_str(), 1);
    ::setenv("NPM_LOG", (root_ + "/log").c_str(), 1);
    auto spec = parse_spec(kSpec, "echo.toml");
    EXPECT_TRUE(spec) << spec.error().message;
    spec_ = std::move(*spec);
  }
  ~BundleTest() override {
    ::setenv("PATH", path_.c_str(), 1);
    ::unsetenv("NPM_FAILS");
    ::unsetenv("NPM_DIES");
    fs::remove_all(root_);
  }

  Result<std::string> install() {
    return bundles_.install(spec_, [](std::string_view) {});
  }
  std::string log() const { return read_file(root_ + "/log", 1 << 20).value_or(""); }

  std::string root_, path_;
  Bundles bundles_;
  Spec spec_;
};

TEST_F(BundleTest, InstallsOncePrunesAndMakesReadable) {
  EXPECT_FALSE(bundles_.find(spec_));
  const auto path = install();
  ASSERT_TRUE(path) << path.error().message;
  EXPECT_EQ(bundles_.find(spec_), *path);
  EXPECT_TRUE(fs::exists(*path + "/node_modules/echo-agent/bin"));
  EXPECT_FALSE(fs::exists(*path + "/node_modules/other"));
  struct stat st{};
  ASSERT_EQ(::stat((*path + "/node_modules/echo-agent/lib/private").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0644u);
  ASSERT_EQ(::stat((*path + "/node_modules/echo-agent/bin").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0755u);
  EXPECT_NE(log().find("echo-agent@1.0"), std::string::npos);
  EXPECT_NE(log().find("\"allowScripts\": {\"echo-agent\": true}"), std::string::npos);
  ASSERT_TRUE(install());
  const std::string all = log();
  EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 1);
}

TEST_F(BundleTest, ProgramsOfTheSpecsOwnAreInIt) {
  spec_.program = "{bundle}/bin/echo";
  spec_.bundle->files["bin/echo"] = "#!/bin/sh\nexec true\n";
  const auto path = install();
  ASSERT_TRUE(path) << path.error().message;
  struct stat st{};
  ASSERT_EQ(::stat((*path + "/bin/echo").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0755u);
  // A changed one makes another bundle.
  spec_.bundle->files["bin/echo"] += "# changed\n";
  EXPECT_NE(bundles_.path_of(spec_), *path);
}

TEST_F(BundleTest, AFailureTellsNpmsOwnWordsAndLeavesNothing) {
  ::setenv("NPM_FAILS", "1", 1);
  const auto path = install();
  ASSERT_FALSE(path);
  EXPECT_EQ(path.error().code, ErrorCode::kUnavailable);
  EXPECT_NE(path.error().message.find("npm ERR! 404 no such package"), std::string::npos);
  EXPECT_FALSE(bundles_.find(spec_));
  EXPECT_FALSE(fs::exists(bundles_.path_of(spec_)));
}

TEST_F(BundleTest, AnInterruptedInstallIsNotTrusted) {
  ::setenv("NPM_DIES", "1", 1);
  EXPECT_FALSE(install());
  EXPECT_FALSE(bundles_.find(spec_));
  ::unsetenv("NPM_DIES");
  // Nor is a directory that lacks the mark of completion, whoever made it.
  fs::create_directories(bundles_.path_of(spec_) + "/node_modules");
  EXPECT_FALSE(bundles_.find(spec_));
  EXPECT_TRUE(install());
}

TEST_F(BundleTest, AProgramThatIsNotThereIsReported) {
  spec_.program = "{bundle}/node_modules/echo-agent/elsewhere";
  const auto path = install();
  ASSERT_FALSE(path);
  EXPECT_NE(path.error().message.find("no program node_modules/echo-agent/elsewhere"),
            std::string::npos);
}

TEST_F(BundleTest, WithoutNpmItSaysWhatToInstall) {
  ::setenv("PATH", "/nonexistent", 1);
  const auto path = install();
  ASSERT_FALSE(path);
  EXPECT_EQ(path.error().code, ErrorCode::kUnavailable);
  EXPECT_NE(path.error().message.find("install Node.js with npm"), std::string::npos);
}

TEST_F(BundleTest, ProgramsOfTheSpecsOwnNeedNoNpm) {
  ::setenv("PATH", "/nonexistent", 1);
  spec_.bundle = BundleSpec{};
  spec_.bundle->files = {{"bin/agent", "#!/bin/sh\n"}};
  spec_.program = "{bundle}/bin/agent";
  const auto path = install();
  ASSERT_TRUE(path) << path.error().message;
  EXPECT_EQ(::access((*path + "/bin/agent").c_str(), X_OK), 0);
}

TEST_F(BundleTest, AnotherVersionIsAnotherBundle) {
  const std::string before = bundles_.path_of(spec_);
  spec_.bundle->npm = {"echo-agent@1.1"};
  EXPECT_NE(bundles_.path_of(spec_), before);
}

}  // namespace
}  // namespace sluice::agent
