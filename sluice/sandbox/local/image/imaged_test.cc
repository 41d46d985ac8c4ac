// Sandboxes of container images on the real kernel: made here, from a few of this host's programs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <set>

#include "sluice/net/testing.h"
#include "sluice/sandbox/local/image/testing.h"
#include "sluice/sandbox/local/local.h"
#include "sluice/sandbox/testing.h"

namespace sluice::sandbox::local {
namespace {

using namespace std::chrono_literals;
using net::testing::run;
using ::testing::HasSubstr;
using testing::Layer;
using testing::plain_layer;
using testing::Tar;
using testing::write_text;

std::string output_of(const std::string& command) {
  std::string text;
  FILE* pipe = ::popen(command.c_str(), "r");
  char piece[4096];
  while (const size_t n = std::fread(piece, 1, sizeof piece, pipe)) text.append(piece, n);
  ::pclose(pipe);
  return text;
}

// Programs of this host and the libraries that they name, each at /usr/bin and where it was.
Layer programs_layer() {
  Tar tar;
  std::set<std::string> libraries;
  for (const std::string name : {"bash", "sh", "cat", "ls", "id", "rm", "touch", "mkdir", "rmdir",
                                 "stat", "head", "env", "mv", "chmod", "sleep"}) {
    const std::string path = "/usr/bin/" + name;
    tar.file("usr/bin/" + name, read_file(path, 16 << 20).value_or(""), 0755);
    for (const std::string& line : {output_of("ldd " + path)}) {
      for (size_t at = line.find('/'); at != line.npos; at = line.find('/', at)) {
        const size_t end = line.find_first_of(" \n", at);
        libraries.insert(line.substr(at + 1, end - at - 1));
        at = end;
      }
    }
  }
  for (const std::string& path : libraries) {
    tar.file(path, read_file("/" + path, 16 << 20).value_or(""), 0755);
  }
  tar.symlink("bin", "usr/bin");
  return plain_layer(tar);
}

class ImagedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    BackendOptions options;
    options.image_directory = scratch_ / "images";
    auto started = Backend::start(options);
    ASSERT_TRUE(started) << started.error().message;
    backend_ = std::move(*started);
    auto probe = run(shard_, backend_->create(&shard_, Options()));
    if (!probe && probe.error().code == ErrorCode::kUnsupported) {
      SLUICE_CANNOT_BE_TESTED(probe.error().message);
    }
    ASSERT_TRUE(probe) << probe.error().message;
    ASSERT_TRUE(run(shard_, (*probe)->close()));
  }

  // A sandbox of an image with those layers over the programs.
  std::unique_ptr<Sandbox> create(std::vector<Layer> layers, Options options = {},
                                  const std::vector<std::string>& env = {}) {
    layers.insert(layers.begin(), programs_layer());
    write_text(scratch_ / "image.tar", testing::docker_tarball(layers, env));
    return again(std::move(options));
  }
  std::unique_ptr<Sandbox> again(Options options = {}) {
    options.image = scratch_ / "image.tar";
    auto made = run(shard_, backend_->create(&shard_, std::move(options)));
    EXPECT_TRUE(made) << made.error().message;
    return made ? std::move(*made) : nullptr;
  }
  static bool is_read_only(const Sandbox& sandbox) {
    for (const std::string& warning : sandbox.warnings()) {
      if (warning.find("the image is read-only here") != warning.npos) return true;
    }
    return false;
  }
  Output exec(Sandbox& sandbox, const std::string& script, const char* user = kAgentUser) {
    Command command = Command::shell(script);
    command.env = {{"PATH", "/usr/local/bin:/usr/bin:/bin"}, {"HOME", kHome}};
    command.user = user;
    command.deadline = Deadline::in(60s);
    auto output = run(shard_, sandbox.exec(std::move(command)));
    EXPECT_TRUE(output) << output.error().message;
    return output ? std::move(*output) : Output();
  }
  std::string out_of(Sandbox& sandbox, const std::string& script, const char* user = kAgentUser) {
    const Output output = exec(sandbox, script, user);
    return output.out + output.err;
  }
  void close(std::unique_ptr<Sandbox>& sandbox) { EXPECT_TRUE(run(shard_, sandbox->close())); }

  testing::Scratch scratch_;
  net::Shard shard_;
  std::unique_ptr<Backend> backend_;
};

TEST_F(ImagedTest, AnImageIsSeenAndChangesAreTheSandboxesOwn) {
  Tar tar;
  tar.directory("app").file("app/data", "of the image").file("opt/tool", "tool");
  tar.directory("app/theirs", 0755, 1000, 1000).file("app/theirs/x", "x", 0644, 1000, 1000);
  tar.file("etc/passwd", "root:x:0:0::/:/bin/evil\nwww:x:33:33::/:/bin/sh\n");
  tar.file("usr/bin/su", "#!/bin/sh\n", 06755);
  auto sandbox = create({plain_layer(tar)});
  ASSERT_TRUE(sandbox);
  EXPECT_TRUE(sandbox->capabilities().images);
  EXPECT_EQ(out_of(*sandbox, "cat /opt/tool"), "tool");
  EXPECT_EQ(out_of(*sandbox, "id -u; echo $HOME; pwd"), "1000\n/home/user\n/home/user/workdir\n");
  EXPECT_EQ(out_of(*sandbox, "touch x /tmp/x /var/tmp/x /dev/shm/x && echo made"), "made\n");
  EXPECT_EQ(out_of(*sandbox, "ls -A /sys; echo > /dev/null && ls /proc/self/fd/0"),
            "/proc/self/fd/0\n");
  // The host's own are not there.
  EXPECT_NE(exec(*sandbox, "ls /usr/bin/python3 /etc/debian_version").exit.status, 0);
  if (is_read_only(*sandbox)) {
    EXPECT_NE(exec(*sandbox, "echo new > /opt/tool", kSetupUser).exit.status, 0);
    close(sandbox);
    return;
  }
  EXPECT_EQ(out_of(*sandbox, "cat /app/data"), "of the image");
  EXPECT_EQ(out_of(*sandbox, "echo new > /app/data; mkdir /app/more; rm /opt/tool; cat /app/data",
                   kSetupUser),
            "new\n");
  EXPECT_EQ(out_of(*sandbox, "echo y > /app/theirs/x && cat /app/theirs/x"), "y\n");
  EXPECT_EQ(out_of(*sandbox, "stat -c %a /usr/bin/su"), "755\n");
  EXPECT_EQ(
      out_of(*sandbox, "rmdir /app/more; rm -r /app/theirs; mkdir /app/theirs; ls /app/theirs",
             kSetupUser),
      "");
  if (sandbox->capabilities().guest_isolated) {
    EXPECT_EQ(out_of(*sandbox, "id -un 33; id -un 0", kSetupUser), "www\nroot\n");
    EXPECT_NE(exec(*sandbox, "echo mine > /app/data").exit.status, 0);
    EXPECT_NE(exec(*sandbox, "rm -f /usr/bin/cat; touch /usr/bin/x").exit.status, 0);
    EXPECT_EQ(out_of(*sandbox, "stat -c %u /usr/bin/cat /app/theirs"), "0\n0\n");
  }
  // Another one begins with the image as it is, and so does the next engine.
  auto second = again();
  ASSERT_TRUE(second);
  EXPECT_EQ(out_of(*second, "cat /app/data /opt/tool"), "of the imagetool");
  close(second);
  close(sandbox);
}

TEST_F(ImagedTest, WhatIsWrittenOverAnImageIsBounded) {
  Options options;
  options.limits.disk_bytes = Limit{8 << 20, Strictness::kRequire};
  options.limits.disk_inodes = Limit{200, Strictness::kRequire};
  auto sandbox = create({}, options);
  ASSERT_TRUE(sandbox);
  EXPECT_THAT(out_of(*sandbox, "head -c 20000000 /dev/zero > big; rm big"),
              HasSubstr("No space left"));
  EXPECT_THAT(out_of(*sandbox, "for i in {1..300}; do touch f$i || break; done"),
              HasSubstr("No space left"));
  close(sandbox);
}

TEST_F(ImagedTest, TheImagesEnvironmentStandsBehindTheCommands) {
  auto sandbox = create({}, {}, {"PATH=/opt/venv/bin:/usr/bin:/bin", "LANG=C.UTF-8", "HOME=/root"});
  ASSERT_TRUE(sandbox);
  EXPECT_EQ(out_of(*sandbox, "echo $PATH $LANG $HOME"),
            "/opt/venv/bin:/usr/bin:/bin:/usr/local/bin C.UTF-8 /home/user\n");
  Command command = Command::shell("echo $PATH $LANG");
  command.env = {{"PATH", "/opt/own/bin:/usr/bin"}, {"LANG", "de"}};
  auto output = run(shard_, sandbox->exec(std::move(command)));
  ASSERT_TRUE(output);
  EXPECT_EQ(output->out, "/opt/own/bin:/opt/venv/bin:/usr/bin:/bin de\n");
  close(sandbox);
}

// An image whose directories are links to wherever: what the sandbox needs is put in its own root.
TEST_F(ImagedTest, LinksInAnImageLeadNowhereElse) {
  const std::string up = "../../../../../../..";
  Tar tar;
  for (const char* name : {"etc", "dev", "proc", "sys", "tmp", "run", "home", "root", "mnt"}) {
    tar.symlink(name, up + (scratch_ / "host"));
  }
  tar.symlink("var", scratch_ / "host");
  ASSERT_EQ(::mkdir((scratch_ / "host").c_str(), 0777), 0);
  ASSERT_EQ(::chmod((scratch_ / "host").c_str(), 0777), 0);
  std::vector<Layer> layers = {plain_layer(tar)};
  layers.insert(layers.begin(), programs_layer());
  write_text(scratch_ / "image.tar", testing::docker_tarball(layers));
  Options options;
  options.image = scratch_ / "image.tar";
  auto made = run(shard_, backend_->create(&shard_, options));
  // `var` leads to what is not there inside, so there is none; but whatever comes of it, the host's
  // directory is as it was.
  EXPECT_TRUE(std::filesystem::is_empty(scratch_ / "host"));
  if (made) close(*made);

  Tar better;
  for (const char* name : {"etc", "dev", "proc", "sys", "tmp", "run", "home"}) {
    better.symlink(name, up + (scratch_ / "host"));
  }
  auto sandbox = create({plain_layer(better)});
  ASSERT_TRUE(sandbox);
  EXPECT_EQ(out_of(*sandbox, "echo x > /tmp/x; cat /tmp/x /etc/hostname; ls /proc/self/fd/0"),
            "x\nsandbox\n/proc/self/fd/0\n");
  EXPECT_TRUE(std::filesystem::is_empty(scratch_ / "host"));
  close(sandbox);
}

TEST_F(ImagedTest, WhatIsNoImageIsRefusedWithTheReason) {
  Tar tar;
  const Layer hostile = plain_layer(tar.file("../x", "x"));
  write_text(scratch_ / "image.tar", testing::docker_tarball({hostile}));
  Options options;
  options.image = scratch_ / "image.tar";
  const auto made = run(shard_, backend_->create(&shard_, options));
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(made.error().message, HasSubstr("leaves the image"));
  // The next one is made as if nothing had been.
  auto sandbox = create({});
  ASSERT_TRUE(sandbox);
  close(sandbox);
}

TEST_F(ImagedTest, ManyRolloutsOfAnImageAtOnce) {
  std::vector<Layer> layers = {programs_layer()};
  write_text(scratch_ / "image.tar", testing::docker_tarball(layers));
  std::vector<std::unique_ptr<Sandbox>> made;
  int failed = 0;
  const auto one = [](Backend* backend, net::Shard* shard, std::string image,
                      std::vector<std::unique_ptr<Sandbox>>* into, int* bad) -> awaitable<void> {
    Options options;
    options.image = std::move(image);
    auto sandbox = co_await backend->create(shard, std::move(options));
    if (sandbox) {
      into->push_back(std::move(*sandbox));
    } else {
      ++*bad;
    }
  };
  for (int i = 0; i < 12; ++i) {
    shard_.spawn(one(backend_.get(), &shard_, scratch_ / "image.tar", &made, &failed));
  }
  shard_.run_until([&] { return made.size() + static_cast<size_t>(failed) == 12; });
  EXPECT_EQ(failed, 0);
  for (auto& sandbox : made) {
    EXPECT_EQ(out_of(*sandbox, "echo well"), "well\n");
    close(sandbox);
  }
}

TEST_F(ImagedTest, ACloneHasTheImageAndTheChanges) {
  Tar tar;
  tar.directory("app").file("app/kept", "kept").file("app/changed", "was").file("app/gone", "was");
  tar.directory("app/sub").file("app/sub/x", "x").directory("app/cut").file("app/cut/y", "y");
  tar.symlink("app/link", "kept").file("app/mode", "m", 0644).hard_link("app/twin", "app/mode");
  auto sandbox = create({plain_layer(tar)});
  ASSERT_TRUE(sandbox);
  if (is_read_only(*sandbox)) {
    close(sandbox);
    GTEST_SKIP() << "the image cannot be changed here";
  }
  // The same size, and the times put back: that it was changed shows all the same.
  EXPECT_EQ(
      out_of(*sandbox,
             "cd /app; touch -r changed /tmp/t; echo -n now > changed; touch -r /tmp/t changed;"
             "rm -r gone cut; echo n > new; chmod 600 mode; mkdir -p more/deep; mv sub moved;"
             "echo x > /usr/bin/tool; rm /usr/bin/env",
             kSetupUser),
      "");
  ASSERT_EQ(exec(*sandbox, "echo mine > file").exit.status, 0);
  const auto snapshot = run(shard_, sandbox->snapshot());
  ASSERT_TRUE(snapshot) << snapshot.error().message;
  // The image itself is not in it.
  EXPECT_LT(snapshot->bytes, 100'000u);
  close(sandbox);
  Options options;
  options.image = scratch_ / "image.tar";
  auto made = run(shard_, backend_->clone(&shard_, *snapshot, options));
  ASSERT_TRUE(made) << made.error().message;
  auto& clone = *made;
  EXPECT_EQ(
      out_of(*clone, "cd /app; ls; cat kept link changed new moved/x; stat -c %a mode", kSetupUser),
      "changed\nkept\nlink\nmode\nmore\nmoved\nnew\ntwin\nkeptkeptnown\nx600\n");
  EXPECT_EQ(out_of(*clone, "cat file /usr/bin/tool; ls /usr/bin/env /app/more"),
            "mine\nx\n/app/more:\ndeep\nls: cannot access '/usr/bin/env': No such file or "
            "directory\n");
  close(clone);
}

TEST_F(ImagedTest, WorkInAnImagesFilesIsTakenAndPut) {
  Tar tar;
  tar.directory("app").file("app/kept", "kept ").file("app/gone", "was").directory("app/sub");
  tar.file("app/sub/x", "x").directory("app/tests").file("app/tests/t", "honest");
  auto sandbox = create({plain_layer(tar)});
  ASSERT_TRUE(sandbox);
  if (is_read_only(*sandbox)) {
    close(sandbox);
    GTEST_SKIP() << "the image cannot be changed here";
  }
  const auto snapshot = run(shard_, sandbox->snapshot());
  ASSERT_TRUE(snapshot) << snapshot.error().message;
  EXPECT_EQ(out_of(*sandbox,
                   "cd /app; rm -r gone sub tests; echo -n 'mine ' > sub; echo -n 'mine ' > new; "
                   "echo x > /usr/bin/tool",
                   kSetupUser),
            "");
  WorkPlaces places;
  places.paths = {"/app"};
  places.exclude = {"tests"};
  const auto work = run(shard_, sandbox->take_work(places, Duration{}));
  ASSERT_TRUE(work) << work.error().message;
  EXPECT_EQ(work->entries, 4u);
  EXPECT_EQ(work->changed_elsewhere, 0u);
  close(sandbox);
  Options options;
  options.image = scratch_ / "image.tar";
  auto made = run(shard_, backend_->clone(&shard_, *snapshot, options));
  ASSERT_TRUE(made) << made.error().message;
  const auto put = run(shard_, (*made)->put_work(*work, kSetupUser));
  ASSERT_TRUE(put) << put.error().message;
  EXPECT_EQ(out_of(**made, "cd /app; ls; cat kept new sub tests/t; test -e /usr/bin/tool || echo .",
                   kSetupUser),
            "kept\nnew\nsub\ntests\nkept mine mine honest.\n");
  close(*made);
}

// An image's PATH may name directories that the agent can write: none of them is verify's.
TEST_F(ImagedTest, VerifyTakesNoProgramsFromWhereTheAgentCouldPutThem) {
  Tar tar;
  tar.directory("app").directory("app/bin", 0755, 1000, 1000);
  tar.file("app/bin/bash", "#!/bin/sh\necho forged\n", 0755, 1000, 1000);
  tar.directory("tools").file("tools/judge", "#!/bin/sh\necho judged\n", 0755);
  auto sandbox = create({plain_layer(tar)}, {}, {"PATH=/app/bin:/tools:/usr/bin", "LEVEL=3"});
  ASSERT_TRUE(sandbox);
  if (is_read_only(*sandbox) || !sandbox->capabilities().guest_isolated) {
    GTEST_SKIP() << "the image is not all there, or all of it is one user's";
  }
  EXPECT_EQ(out_of(*sandbox, "true"), "forged\n");
  const auto handed = run(shard_, sandbox->hand_over(kWorkdir, Leftovers::kRemove));
  ASSERT_TRUE(handed) << handed.error().message;
  EXPECT_EQ(handed->path, "/tools:/usr/bin:/bin");
  EXPECT_EQ(handed->shell, "/usr/bin/bash");
  Command command = Command::shell("judge; echo $PATH $LEVEL", handed->shell);
  command.env = {{"PATH", handed->path}};
  command.user = kVerifyUser;
  command.image_path = Command::ImagePath::kLeftOut;
  const auto output = run(shard_, sandbox->exec(std::move(command)));
  ASSERT_TRUE(output) << output.error().message;
  EXPECT_EQ(output->out, "judged\n/tools:/usr/bin:/bin 3\n");
  close(sandbox);
}

TEST_F(ImagedTest, FilesOfAnImagesSandboxAreNotKept) {
  auto sandbox = create({});
  ASSERT_TRUE(sandbox);
  close(sandbox);
  Options options;
  options.keep_files_in = scratch_ / "kept";
  options.image = scratch_ / "image.tar";
  const auto kept = run(shard_, backend_->create(&shard_, options));
  ASSERT_FALSE(kept);
  EXPECT_EQ(kept.error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace sluice::sandbox::local
