// For tests: program and client against each other over a socket pair, without a sandbox.
#pragma once

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "sluice/base/core/fd.h"
#include "sluice/guest/blob.h"
#include "sluice/guest/client/client.h"
#include "sluice/guest/program/guest.h"
#include "sluice/net/socket.h"
#include "sluice/net/testing.h"

namespace sluice::guest {

using namespace std::chrono_literals;
using net::testing::run;
using ::testing::HasSubstr;
using Reason = wire::Exit::Reason;
inline constexpr auto kOut = Process::Channel::kOut;
inline constexpr auto kErr = Process::Channel::kErr;
inline constexpr uint64_t kMiB = 1024 * 1024;

// The program's parts in this (sanitized) binary; the static program as it is shipped; and that one
// over a link that is a plain stream.
enum class Form { kLibrary, kProgram, kStream };
inline std::string form_name(const ::testing::TestParamInfo<Form>& form) {
  constexpr const char* kNames[] = {"Library", "Program", "Stream"};
  return kNames[static_cast<size_t>(form.param)];
}

// Tests find their processes by what they sleep: "4242.3" stands for a number of this run's own, as
// other runs go on beside it.
inline std::string own(std::string text) {
  for (size_t at = text.find("4242."); at != std::string::npos; at = text.find("4242.", at + 5)) {
    text.insert(at + 5, std::to_string(::getpid()));
  }
  return text;
}

class GuestTest : public ::testing::TestWithParam<Form> {
 protected:
  void SetUp() override {
    char name[] = "/tmp/sluice-guest-test-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    directory_ = name;
    ::chmod(name, 0755);
    connect();
  }

  void connect(ClientOptions options = {}) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    start_guest(ends[1]);
    ::close(ends[1]);
    options.single_user = ::getuid() != 0;
    auto link = make_link(Fd(ends[0]));
    ASSERT_TRUE(link);
    auto client = run(shard_, Client::connect(&shard_, std::move(*link), options));
    ASSERT_TRUE(client) << client.error().message;
    client_ = std::move(*client);
  }

  Result<std::unique_ptr<Link>> make_link(Fd socket) {
    if (GetParam() != Form::kStream) return make_socket_link(shard_, std::move(socket));
    SLUICE_TRY(auto stream, net::adopt_socket(shard_, std::move(socket)));
    return make_stream_link(std::move(stream));
  }

  void start_guest(int link) {
    if (GetParam() == Form::kLibrary) {
      guest_ = ::fork();
      ASSERT_GE(guest_, 0);
      if (guest_ != 0) return;
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::prctl(PR_SET_CHILD_SUBREAPER, 1);
      ::signal(SIGPIPE, SIG_IGN);
      program::GuestOptions options;
      options.link_in = options.link_out = ::dup3(link, ::fcntl(link, F_DUPFD, 100), O_CLOEXEC);
      ::close_range(3, static_cast<unsigned>(options.link_in) - 1, 0);
      ::closefrom(options.link_in + 1);
      program::Guest guest(options);
      ::_exit(static_cast<int>(guest.run()));
    }
    auto image = sealed_memfd("sluice-guest", guest_program());
    ASSERT_TRUE(image);
    const std::string path = "/proc/self/fd/" + std::to_string(image->get());
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, link, 3);
    char* argv[] = {const_cast<char*>("sluice-guest"), nullptr};
    char* envp[] = {nullptr};
    ASSERT_EQ(::posix_spawn(&guest_, path.c_str(), &actions, nullptr, argv, envp), 0);
    ::posix_spawn_file_actions_destroy(&actions);
  }

  void TearDown() override {
    if (client_) client_->close();
    if (guest_ > 0) {
      int status = 0;
      EXPECT_EQ(::waitpid(guest_, &status, 0), guest_);
      EXPECT_TRUE(WIFEXITED(status)) << "the guest was killed by signal " << WTERMSIG(status);
    }
    std::filesystem::remove_all(directory_);
  }

  // Waits for the guest's end and returns its exit code.
  int guest_ended() {
    int status = 0;
    ::waitpid(std::exchange(guest_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  static CommandRequest command(std::vector<std::string> argv) {
    CommandRequest request;
    request.argv = std::move(argv);
    request.env = {"PATH=/usr/local/bin:/usr/bin:/bin"};
    request.user = user();
    return request;
  }
  static CommandRequest shell(std::string script) {
    return command({"sh", "-c", own(std::move(script))});
  }
  static std::string user() { return std::to_string(::getuid()); }

  CommandOutput exec(CommandRequest request) {
    auto output = run(shard_, client_->exec(std::move(request)));
    EXPECT_TRUE(output) << output.error().message;
    return output ? std::move(*output) : CommandOutput();
  }
  Error exec_error(CommandRequest request) {
    auto output = run(shard_, client_->exec(std::move(request)));
    EXPECT_FALSE(output);
    return output ? Error() : output.error();
  }
  std::unique_ptr<Process> start(CommandRequest request) {
    auto process = run(shard_, client_->start(std::move(request)));
    EXPECT_TRUE(process) << process.error().message;
    return process ? std::move(*process) : nullptr;
  }
  Result<Bytes> read(const std::string& path, uint64_t max = kMiB) {
    return run(shard_, read_all(client_.get(), path, max, user()));
  }
  Result<void> write(const std::string& path, Bytes content, uint32_t mode = 0644) {
    return run(shard_, write_all_of(client_.get(), path, std::move(content), mode, user()));
  }

  static awaitable<Result<Bytes>> read_all(Client* client, std::string path, uint64_t max,
                                           std::string user) {
    SLUICE_CO_TRY(auto reader, co_await client->open_reader(path, max, user));
    Bytes all;
    for (;;) {
      SLUICE_CO_TRY(const Bytes piece, co_await reader->read_some());
      if (piece.empty()) co_return all;
      all += piece;
    }
  }
  static awaitable<Result<void>> write_all_of(Client* client, std::string path, Bytes content,
                                              uint32_t mode, std::string user) {
    SLUICE_CO_TRY(auto writer, co_await client->open_writer(path, mode, user));
    const ByteView view = content;
    SLUICE_CO_TRY_VOID(co_await writer->write(view));
    co_return co_await writer->finish();
  }

  // How many processes run with `marker` among their arguments.
  static int count_processes(const std::string& sleeping) {
    const std::string marker = own(sleeping);
    int found = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      std::ifstream file(entry.path() / "cmdline");
      std::ostringstream text;  // not an iterator: it throws at a process that ends meanwhile
      text << file.rdbuf();
      if (text.str().find(marker) != std::string::npos) ++found;
    }
    return found;
  }

  std::string path(const std::string& name) const { return directory_ + "/" + name; }

  net::Shard shard_;
  std::unique_ptr<Client> client_;
  pid_t guest_ = -1;
  std::string directory_;
};

}  // namespace sluice::guest
