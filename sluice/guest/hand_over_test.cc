// What happens in a sandbox when its agent has ended: kill_user and hand_over.
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include <fstream>

#include "sluice/base/core/defer.h"
#include "sluice/guest/testing.h"

namespace sluice::guest {
namespace {

// Of nobody on this machine, so that what is removed by uid is a test's own.
constexpr uid_t kAgent = 61'998, kVerifier = 61'997;

class HandOverTest : public GuestTest {
 protected:
  void SetUp() override {
    GuestTest::SetUp();
    if (::getuid() != 0) GTEST_SKIP() << "needs root: an ordinary user can become nobody else";
    for (const char* name : {"home", "home/workdir", "shared"}) {
      std::filesystem::create_directory(path(name));
    }
    for (const char* name : {"home", "home/workdir"}) own(name, kAgent);
    ::chmod(path("shared").c_str(), 01777);
  }

  void own(const std::string& name, uid_t uid) {
    ASSERT_EQ(::lchown(path(name).c_str(), uid, uid), 0) << name;
  }
  // As the agent would.
  void agent(const std::string& script) {
    auto request = shell("cd " + path("home/workdir") + "; " + script);
    request.user = std::to_string(kAgent);
    const auto output = exec(std::move(request));
    EXPECT_EQ(output.exit.exit.status, 0) << script << ": " << output.err;
  }
  void file(const std::string& name, uid_t uid) {
    std::ofstream(path(name)) << "x";
    own(name, uid);
  }

  wire::HandOver request() const {
    wire::HandOver request;
    request.home = path("home");
    request.workdir = path("home/workdir");
    request.place = path("place");
    request.link = path("home/logs/verifier");
    request.user = std::to_string(kVerifier);
    request.from = std::to_string(kAgent);
    request.shared = {path("shared"), path("none")};
    request.path = "/usr/local/bin:/usr/bin:/bin";
    return request;
  }
  wire::HandedOver hand_over(const wire::HandOver& what) {
    auto done = run(shard_, client_->hand_over(what));
    EXPECT_TRUE(done) << done.error().message;
    return done ? std::move(*done) : wire::HandedOver();
  }
  wire::HandedOver hand_over() { return hand_over(request()); }

  // "uid mode" of what is there, itself.
  std::string look(const std::string& name) const {
    struct stat st{};
    if (::lstat(path(name).c_str(), &st) != 0) return "none";
    std::ostringstream out;
    out << st.st_uid << ' ' << std::oct << (st.st_mode & 07777);
    return out.str();
  }
  void expect_ready() {
    EXPECT_EQ(look("home"), "61998 755");
    EXPECT_EQ(look("home/workdir"), "61997 755");
    EXPECT_EQ(look("place"), "61997 700");
    EXPECT_EQ(look("place/tmp"), "61997 700");
    EXPECT_TRUE(std::filesystem::is_symlink(path("home/logs/verifier")));
    EXPECT_EQ(std::filesystem::read_symlink(path("home/logs/verifier")), path("place"));
    auto work = shell("cd " + path("home/workdir") + " && echo 1 > " + path("home/logs/verifier") +
                      "/reward.txt && touch made");
    work.user = std::to_string(kVerifier);
    EXPECT_EQ(exec(std::move(work)).exit.exit.status, 0);
    EXPECT_EQ(*read(path("place/reward.txt")), "1\n");
  }
};
INSTANTIATE_TEST_SUITE_P(Forms, HandOverTest, ::testing::Values(Form::kLibrary, Form::kProgram),
                         form_name);

TEST_P(HandOverTest, AnOrdinaryWorkdirIsGiven) {
  agent("mkdir -p a/b; echo x > a/b/f; ln -s /etc/passwd link; chmod 600 a/b/f");
  const auto done = hand_over();
  EXPECT_EQ(look("home/workdir/a/b/f"), "61997 600");
  EXPECT_EQ(look("home/workdir/link"), "61997 777");
  EXPECT_EQ(done.path, "/usr/local/bin:/usr/bin:/bin");
  EXPECT_TRUE(done.shell == "/usr/bin/bash" || done.shell == "/bin/bash") << done.shell;
  expect_ready();
  EXPECT_TRUE(done.notes.empty()) << done.notes[0];
  hand_over();  // again, as nothing of before is in the way
  EXPECT_EQ(look("place/reward.txt"), "none");
}

TEST_P(HandOverTest, WhatTheAgentPutInTheWayGoes) {
  for (const char* trick :
       {"chmod 0 .", "chmod 0 ..", "chmod 700 ..", "cd ..; rmdir workdir",
        "cd ..; rmdir workdir; echo > workdir", "cd ..; rmdir workdir; ln -s /etc workdir",
        "echo > ../logs", "ln -s /etc ../logs", "mkdir -m 0 ../logs", "mkfifo ../logs",
        "mkdir -p ../logs; echo > ../logs/verifier", "mkdir -p ../logs; ln -s / ../logs/verifier",
        "mkdir -p ../logs/verifier/x; chmod 0 ../logs/verifier", "mkdir -m 0 closed",
        "python3 -c 'import os\nfor _ in range(2200): os.mkdir(\"d\"); os.chdir(\"d\")'"}) {
    SCOPED_TRACE(trick);
    agent(trick);
    hand_over();
    expect_ready();
    // What is that deep only the guest can remove.
    EXPECT_TRUE(run(shard_, client_->reset_directory(path("home"), "0", 0700)));
    TearDown();
    SetUp();
  }
  EXPECT_TRUE(std::filesystem::exists("/etc/passwd"));
}

TEST_P(HandOverTest, WhatWasMendedIsTold) {
  agent("chmod 700 ..; echo > ../logs");
  const auto notes = hand_over().notes;
  ASSERT_EQ(notes.size(), 2u);
  EXPECT_EQ(notes[0], path("home") + " was closed: it was opened");
  EXPECT_EQ(notes[1], path("home/logs") + " was no directory: it was removed");
}

TEST_P(HandOverTest, FilesWithOtherNamesBecomeCopies) {
  agent("echo own > f; chmod 640 f; touch -d @1000 f; ln f ../outside; echo two > a; ln a b");
  file("home/of-root", 0);
  std::filesystem::create_hard_link(path("home/of-root"), path("home/workdir/of-root"));
  const auto done = hand_over();
  struct stat inside{}, outside{};
  ASSERT_EQ(::stat(path("home/workdir/f").c_str(), &inside), 0);
  ASSERT_EQ(::stat(path("home/outside").c_str(), &outside), 0);
  EXPECT_NE(inside.st_ino, outside.st_ino);
  EXPECT_EQ(look("home/workdir/f"), "61997 640");
  EXPECT_EQ(look("home/outside"), "61998 640");
  EXPECT_EQ(inside.st_mtime, 1000);
  EXPECT_EQ(*read(path("home/workdir/f")), "own\n");
  // Both names are within: they stay one file.
  EXPECT_EQ(look("home/workdir/a"), "61997 644");
  ::stat(path("home/workdir/a").c_str(), &inside);
  ::stat(path("home/workdir/b").c_str(), &outside);
  EXPECT_EQ(inside.st_ino, outside.st_ino);
  // Another's file may be one that the verifier must not get at.
  EXPECT_EQ(look("home/workdir/of-root"), "0 644");
  EXPECT_THAT(done.notes, ::testing::Contains(HasSubstr("1 files of the workdir also have names")));
}

TEST_P(HandOverTest, WhatTheAgentLeftForEverybodyGoes) {
  agent("cd " + path("shared") +
        "; mkdir -p cache/deep; echo x > cache/deep/f; echo x > f; "
        "ln -s /etc link; mkdir -m 0 closed");
  std::filesystem::create_directory(path("shared/service"));
  ::chmod(path("shared/service").c_str(), 0777);
  file("shared/service/socket", 0);
  file("shared/service/planted", kAgent);
  file("shared/kept", kVerifier);
  hand_over();
  for (const char* name : {"cache", "f", "link", "closed", "service/planted"}) {
    EXPECT_EQ(look("shared/" + std::string(name)), "none") << name;
  }
  EXPECT_EQ(look("shared/service/socket"), "0 644");
  EXPECT_EQ(look("shared/kept"), "61997 644");
}

TEST_P(HandOverTest, SharedMemoryOfTheAgentGoes) {
  const int mine = ::shmget(IPC_PRIVATE, 4096, 0600);
  const int his = ::shmget(IPC_PRIVATE, 4096, 0600);
  ASSERT_TRUE(mine >= 0 && his >= 0);
  shmid_ds about{};
  ::shmctl(his, IPC_STAT, &about);
  about.shm_perm.uid = kAgent;
  ASSERT_EQ(::shmctl(his, IPC_SET, &about), 0);
  hand_over();
  EXPECT_EQ(::shmctl(mine, IPC_STAT, &about), 0);
  EXPECT_NE(::shmctl(his, IPC_STAT, &about), 0);
  ::shmctl(mine, IPC_RMID, nullptr);
}

// A directory that the agent could change, and one behind a link in such a one, hold no program to
// be trusted.
// In a sandbox where no agent was, what is of its uid is setup's, or the work.
TEST_P(HandOverTest, WhereThereWasNoAgentPlacesForEverybodyAreLeftAlone) {
  file("shared/socket", kAgent);
  const int his = ::shmget(IPC_PRIVATE, 4096, 0600);
  ASSERT_GE(his, 0);
  shmid_ds about{};
  ::shmctl(his, IPC_STAT, &about);
  about.shm_perm.uid = kAgent;
  ASSERT_EQ(::shmctl(his, IPC_SET, &about), 0);
  wire::HandOver what = request();
  what.shared.clear();
  hand_over(what);
  EXPECT_NE(look("shared/socket"), "none");
  EXPECT_EQ(::shmctl(his, IPC_STAT, &about), 0);
  ::shmctl(his, IPC_RMID, nullptr);
}

TEST_P(HandOverTest, ProgramsComeFromWhereTheAgentHasNoSay) {
  // Not below /tmp, where everybody has one.
  char name[] = "/run/sluice-guest-test-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string place = name;
  const Defer remove([&] { std::filesystem::remove_all(place); });
  ::chmod(name, 0755);
  for (const char* directory : {"/his", "/open", "/group", "/fine"}) {
    std::filesystem::create_directory(place + directory);
    std::filesystem::copy_file("/bin/sh", place + directory + "/bash");
  }
  ASSERT_EQ(::lchown((place + "/his").c_str(), kAgent, kAgent), 0);
  ASSERT_EQ(::lchown((place + "/group").c_str(), 0, kAgent), 0);
  ::chmod((place + "/open").c_str(), 0757);
  ::chmod((place + "/group").c_str(), 0775);
  std::filesystem::create_symlink(place + "/fine", place + "/good");
  std::filesystem::create_symlink("/usr/bin", place + "/his/way");
  std::filesystem::create_symlink("his/way", place + "/via");
  auto what = request();
  for (const char* directory : {"/his", "/his/way", "/via", "/open", "/group", "/none", "/good"}) {
    what.path =
        (directory == std::string("/his") ? "relative::" : what.path + ":") + place + directory;
  }
  what.path += ":/usr/bin";
  auto done = hand_over(what);
  EXPECT_EQ(done.path, place + "/good:/usr/bin");
  EXPECT_EQ(done.shell, place + "/good/bash");
  // A program that anybody may write is none either.
  ::chmod((place + "/fine/bash").c_str(), 0757);
  EXPECT_EQ(hand_over(what).shell, "/usr/bin/bash");
  what.path = place + "/open";
  done = hand_over(what);
  EXPECT_EQ(done.path, "");
  EXPECT_EQ(done.shell, "");
}

TEST_P(HandOverTest, BadRequestsAreRefused) {
  auto what = request();
  what.workdir = path("home") + "/../etc";
  EXPECT_EQ(run(shard_, client_->hand_over(what)).error().code, ErrorCode::kInvalidArgument);
  what = request();
  what.place = "relative";
  EXPECT_EQ(run(shard_, client_->hand_over(what)).error().code, ErrorCode::kInvalidArgument);
  what = request();
  what.from = "nobody-of-that-name";
  EXPECT_EQ(run(shard_, client_->hand_over(what)).error().code, ErrorCode::kNotFound);
  what = request();
  what.path = std::string(20'000, 'x');
  EXPECT_EQ(run(shard_, client_->hand_over(what)).error().code, ErrorCode::kTooLarge);
  EXPECT_EQ(look("place"), "none");
}

TEST_P(HandOverTest, AUsersProcessesEndAndNoOthers) {
  auto his = shell("setsid sleep 4242.61 & (trap '' TERM HUP INT; sleep 4242.62) & sleep 4242.63");
  his.user = std::to_string(kAgent);
  const auto job = start(std::move(his));
  const auto mine = start(shell("exec sleep 4242.64"));
  // One whose first thread has ended looks dead.
  auto headless = command({"python3", "-c",
                           "import ctypes, threading, time\n"
                           "threading.Thread(target=lambda: time.sleep(4242)).start()\n"
                           "print('up', flush=True)\n"
                           "ctypes.CDLL(None).syscall(" +
                               std::to_string(SYS_exit) + ", 0)"});
  headless.user = std::to_string(kAgent);
  const auto odd = start(std::move(headless));
  EXPECT_TRUE(run(shard_, odd->read_output(kOut, 3)));
  while (count_processes("4242.63") == 0) exec(shell("sleep 0.01"));
  ASSERT_TRUE(run(shard_, client_->kill_user(std::to_string(kAgent))));
  for (const char* sleeping : {"4242.61", "4242.62", "4242.63"}) {
    EXPECT_EQ(count_processes(sleeping), 0) << sleeping;
  }
  EXPECT_EQ(count_processes("4242.64"), 1);
  EXPECT_EQ(run(shard_, odd->wait(Deadline::in(20s)))->exit.signal, SIGKILL);
  EXPECT_EQ(run(shard_, job->wait(Deadline::in(20s)))->exit.signal, SIGKILL);
  EXPECT_TRUE(run(shard_, client_->kill_user(std::to_string(kAgent))))
      << "again, with nobody there";
  EXPECT_EQ(run(shard_, client_->kill_user("nobody-of-that-name")).error().code,
            ErrorCode::kNotFound);
  ASSERT_TRUE(run(shard_, mine->kill_tree()));
}

}  // namespace
}  // namespace sluice::guest
