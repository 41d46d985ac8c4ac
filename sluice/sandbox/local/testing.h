// For tests: a local sandbox per test, on the real kernel, and looks at what is left of it.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "sluice/base/core/fd.h"
#include "sluice/net/testing.h"
#include "sluice/sandbox/local/helper/cgroups.h"
#include "sluice/sandbox/local/local.h"
#include "sluice/sandbox/testing.h"

namespace sluice::sandbox::local {

using namespace std::chrono_literals;
using net::testing::run;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
inline constexpr auto kOut = Job::Channel::kOut;
inline constexpr uint64_t kMiB = 1024 * 1024;
// Where the build left the programs of tests/inside.
extern const char* const kInsideDirectory;

// Empty if it cannot be read (a process that went meanwhile).
inline std::string read_text(const std::string& path) {
  auto content = read_file(path, 16 * 1024 * 1024);
  return content ? std::move(*content) : std::string();
}

// The processes below `ancestor`, itself left out.
inline std::set<int> descendants_of(int ancestor) {
  std::multimap<int, int> children;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    if (std::atoi(entry.path().filename().c_str()) <= 0) continue;
    const std::string text = read_text(entry.path() / "stat");
    const size_t end = text.rfind(')');
    if (end == std::string::npos) continue;
    int parent = 0;
    if (std::sscanf(text.c_str() + end + 1, " %*c %d", &parent) != 1) continue;
    children.emplace(parent, std::atoi(text.c_str()));
  }
  std::set<int> found;
  std::vector<int> next = {ancestor};
  while (!next.empty()) {
    const auto [begin, end] = children.equal_range(next.back());
    next.pop_back();
    for (auto it = begin; it != end; ++it) {
      if (found.insert(it->second).second) next.push_back(it->second);
    }
  }
  return found;
}

// The control groups of the helper with that name (owner_name()). Other runs have theirs, which
// come and go meanwhile: a directory that vanishes hides nothing but itself.
inline std::set<std::string> cgroups_of(const std::string& owner) {
  std::set<std::string> found;
  std::vector<std::filesystem::path> next = {"/sys/fs/cgroup"};
  while (!next.empty()) {
    const std::filesystem::path directory = std::move(next.back());
    next.pop_back();
    std::error_code gone;
    for (std::filesystem::directory_iterator it(directory, gone), end; !gone && it != end;
         it.increment(gone)) {
      std::error_code not_there;
      if (it->is_symlink(not_there) || !it->is_directory(not_there)) continue;
      if (it->path().filename() == owner) found.insert(it->path());
      next.push_back(it->path());
    }
  }
  return found;
}

// Tests find their processes by what they sleep: "4343.3" stands for a number of this run's own.
inline std::string own(std::string text) {
  for (size_t at = text.find("4343."); at != std::string::npos; at = text.find("4343.", at + 5)) {
    text.insert(at + 5, std::to_string(::getpid()));
  }
  return text;
}

template <class Predicate>
bool eventually(Predicate predicate, Duration limit = 10s) {
  const Deadline deadline = Deadline::in(limit);
  while (!predicate()) {
    if (deadline.expired()) return false;
    std::this_thread::sleep_for(5ms);
  }
  return true;
}

// Neither gone nor dead and not reaped yet.
inline bool is_alive(int pid) {
  return start_time(pid) != 0;
}

inline bool is_root() {
  return ::geteuid() == 0;
}

class LocalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto started = Backend::start();
    ASSERT_TRUE(started) << started.error().message;
    backend_ = std::move(*started);
    auto probe = run(shard_, backend_->create(&shard_, Options()));
    if (!probe && probe.error().code == ErrorCode::kUnsupported) {
      SLUICE_CANNOT_BE_TESTED(probe.error().message);
    }
    ASSERT_TRUE(probe) << probe.error().message;
    sandbox_ = std::move(*probe);
  }

  void TearDown() override {
    if (sandbox_) EXPECT_TRUE(run(shard_, sandbox_->close()));
    if (!backend_) return;
    const int helper = backend_->helper_pid();
    const std::string owner = owner_name(helper);
    backend_.reset();
    EXPECT_FALSE(is_alive(helper)) << "the helper outlived its backend";
    EXPECT_TRUE(cgroups_of(owner).empty()) << "control groups are left";
  }

  std::unique_ptr<Sandbox> create(Options options = {}) {
    auto made = run(shard_, backend_->create(&shard_, std::move(options)));
    EXPECT_TRUE(made) << made.error().message;
    return made ? std::move(*made) : nullptr;
  }
  // The same with the options, in place of the fixture's own.
  void renew(Options options) {
    EXPECT_TRUE(run(shard_, sandbox_->close()));
    sandbox_ = create(std::move(options));
    ASSERT_TRUE(sandbox_);
  }
  // For tests that count the helper's processes: none is begun ahead.
  void renew_without_ready_ones() {
    EXPECT_TRUE(run(shard_, sandbox_->close()));
    sandbox_.reset();
    BackendOptions options;
    options.ready = 0;
    auto started = Backend::start(options);
    ASSERT_TRUE(started) << started.error().message;
    backend_ = std::move(*started);
    sandbox_ = create();
    ASSERT_TRUE(sandbox_);
  }
  Error create_error(Options options) {
    auto made = run(shard_, backend_->create(&shard_, std::move(options)));
    EXPECT_FALSE(made);
    return made ? Error() : made.error();
  }

  static Command shell(const std::string& script, const char* user = kAgentUser) {
    Command command = Command::shell(own(script));
    command.env = {{"PATH", "/usr/local/bin:/usr/bin:/bin"}, {"HOME", kHome}};
    command.user = user;
    command.deadline = Deadline::in(60s);
    return command;
  }
  Output exec(Command command) { return exec_in(*sandbox_, std::move(command)); }
  Output exec_in(Sandbox& sandbox, Command command) {
    auto output = run(shard_, sandbox.exec(std::move(command)));
    EXPECT_TRUE(output) << output.error().message;
    return output ? std::move(*output) : Output();
  }
  std::string out_of(const std::string& script, const char* user = kAgentUser) {
    return exec(shell(script, user)).out;
  }

  Options with_programs() {
    Options options;
    options.bundles.push_back({kInsideDirectory, "/opt/inside"});
    return options;
  }
  // Runs an attack program as each user to whom it may be worth something.
  void attack(const std::string& name, const std::vector<std::string>& arguments = {}) {
    renew(with_programs());
    for (const char* user : {kAgentUser, kVerifyUser, kSetupUser}) {
      Command command;
      command.argv = {"/opt/inside/" + name};
      command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
      command.user = user;
      command.cwd = "/";
      command.deadline = Deadline::in(60s);
      const Output output = exec(std::move(command));
      EXPECT_TRUE(output.exit.ok())
          << name << " as " << user << ": " << describe(output.exit) << "\n"
          << output.out << output.err;
    }
    // The guest is as it was.
    EXPECT_EQ(out_of("echo well"), "well\n");
  }

  net::Shard shard_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Sandbox> sandbox_;
};

}  // namespace sluice::sandbox::local
