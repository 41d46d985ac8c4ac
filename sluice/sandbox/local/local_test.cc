// Local sandboxes on the real kernel: what there is in them, images, snapshots, ports. Run as root
// and, by a second ctest entry, as an ordinary user.
#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "sluice/net/socket.h"
#include "sluice/sandbox/guest_sandbox.h"
#include "sluice/sandbox/local/host.h"
#include "sluice/sandbox/local/testing.h"

namespace sluice::sandbox::local {

const char* const kInsideDirectory = SLUICE_INSIDE_DIR;

namespace {

TEST_F(LocalTest, UsersAndPlacesAreAsTheyShouldBe) {
  EXPECT_EQ(out_of("id -u; id -g; pwd; echo $HOME"),
            "1000\n1000\n/home/user/workdir\n/home/user\n");
  EXPECT_EQ(out_of("hostname; id -un"), "sandbox\nuser\n");
  if (sandbox_->capabilities().guest_isolated) {
    EXPECT_EQ(out_of("id -u", kSetupUser), "0\n");
    EXPECT_EQ(out_of("id -un", kVerifyUser), "verifier\n");
    EXPECT_EQ(out_of("id -u", "nobody"), "65534\n");
  } else {
    // One user for all, and it is said.
    EXPECT_EQ(out_of("id -u", kSetupUser), "1000\n");
    EXPECT_THAT(sandbox_->warnings(), ::testing::Contains(HasSubstr("one user")));
  }
  if (const char* ids = std::getenv("SLUICE_TEST_IDS")) {  // run_as_user.sh
    EXPECT_EQ(sandbox_->capabilities().guest_isolated, ids == std::string("subordinate"));
  }
  EXPECT_TRUE(sandbox_->capabilities().network_none);
  // Writable: home, /tmp, /dev/shm, /var/tmp.
  for (const char* place : {kHome, kWorkdir, "/tmp", "/var/tmp", "/dev/shm"}) {
    EXPECT_EQ(out_of(std::string("echo x > ") + place + "/f && cat " + place + "/f"), "x\n");
  }
}

TEST_F(LocalTest, WhereSandboxesAreMadeTheTrialSaysSo) {
  EXPECT_GE(try_namespaces().refused, Trial::Step::kOverlay);
}

TEST_F(LocalTest, ProgramsOfTheHostWork) {
  EXPECT_EQ(out_of("git init -q . && git -c user.name=a -c user.email=b commit -q --allow-empty "
                   "-m m && git log --format=%s"),
            "m\n");
  EXPECT_EQ(out_of("python3 -c 'import socket, ssl, threading, multiprocessing as m; "
                   "print(m.Pool(2).map(abs, [-1, -2]))'"),
            "[1, 2]\n");
  EXPECT_EQ(out_of("echo 'int main(){return 7;}' > a.c; (clang-19 --ld-path=ld.lld-19 a.c -o a && "
                   "./a); echo $?"),
            "7\n");
  EXPECT_EQ(out_of("seq 3 | xargs -P3 -n1 echo | sort | tr '\\n' ' '"), "1 2 3 ");
  EXPECT_EQ(out_of("cat <(echo process substitution)"), "process substitution\n");
  EXPECT_EQ(out_of("awk '{print $2}' /proc/net/dev | tail -n +3 | wc -l"), "1\n");
  const Output node = exec(shell(
      "command -v node >/dev/null || { echo absent; exit; }; node -e 'const os = require(\"os\");"
      "console.log(Object.keys(os.networkInterfaces()).join(), os.cpus().length > 0,"
      " require(\"child_process\").execSync(\"echo child\").toString().trim())'"));
  EXPECT_TRUE(node.out == "lo true child\n" || node.out == "absent\n") << node.out << node.err;
}

TEST_F(LocalTest, ATerminalIsToBeHad) {
  const Output output = exec(shell(
      "python3 -c 'import pty,sys; sys.exit(pty.spawn([\"sh\", \"-c\", \"tty; stty size\"]))'"));
  EXPECT_THAT(output.out, HasSubstr("/dev/pts/0"));
}

TEST_F(LocalTest, TheShellIsCleanAndIsReplacedWhereThereIsNoBash) {
  ASSERT_TRUE(run(shard_, sandbox_->write_file("/home/user/.bashrc", "echo rc", WriteOptions())));
  ASSERT_TRUE(run(shard_, sandbox_->write_file("/home/user/.profile", "echo pr", WriteOptions())));
  EXPECT_EQ(out_of("echo $0"), "bash\n");
  Command command = shell("echo $0");
  ASSERT_TRUE(run(shard_, sandbox_->exec(shell("mkdir bin; ln -s /bin/sh bin/sh"))));
  command.env = {{"PATH", std::string(kWorkdir) + "/bin"}};
  EXPECT_EQ(exec(command).out, "sh\n");
}

TEST_F(LocalTest, FilesOfUsersGoInAndOut) {
  WriteOptions as_root;
  as_root.user = kSetupUser;
  ASSERT_TRUE(run(shard_, sandbox_->write_file("/home/user/workdir/a/b", "x", WriteOptions())));
  EXPECT_EQ(*run(shard_, sandbox_->read_file("/home/user/workdir/a/b", 10, kAgentUser)), "x");
  EXPECT_EQ(run(shard_, sandbox_->stat("/home/user/workdir/a", kAgentUser))->uid, 1000u);
  const auto entries = run(shard_, sandbox_->list(kWorkdir, 5, 100, kAgentUser));
  ASSERT_TRUE(entries);
  EXPECT_EQ(entries->size(), 2u);

  ASSERT_TRUE(run(shard_, sandbox_->reset_directory(kVerifierDir, kVerifyUser, 0700)));
  WriteOptions as_verifier;
  as_verifier.user = kVerifyUser;
  const std::string reward = std::string(kVerifierDir) + "/reward.txt";
  ASSERT_TRUE(run(shard_, sandbox_->write_file(reward, "1", as_verifier)));
  EXPECT_EQ(*run(shard_, sandbox_->read_file(reward, 10, kVerifyUser)), "1");
  if (sandbox_->capabilities().guest_isolated) {
    EXPECT_EQ(run(shard_, sandbox_->read_file(reward, 10, kAgentUser)).error().code,
              ErrorCode::kPermissionDenied);
    EXPECT_EQ(out_of("echo 9 > " + reward + " || echo refused"), "refused\n");
    ASSERT_TRUE(run(shard_, sandbox_->give_tree(kWorkdir, kVerifyUser)));
    EXPECT_EQ(out_of("touch more || echo refused"), "refused\n");
    EXPECT_EQ(out_of("stat -c %u a/b", kVerifyUser), "1001\n");
  } else {
    EXPECT_EQ(*run(shard_, sandbox_->give_tree(kWorkdir, kVerifyUser)), 0u);
  }
}

TEST_F(LocalTest, TheVerifiersPlaceIsOutOfTheAgentsReach) {
  if (!sandbox_->capabilities().guest_isolated) GTEST_SKIP() << "there is one user";
  EXPECT_EQ(out_of("ls /.verifier || echo refused; mv /.verifier /tmp || echo refused; "
                   "echo x > /.verifier/x || echo refused"),
            "refused\nrefused\nrefused\n");
  EXPECT_EQ(out_of("stat -f -c %T /.verifier; stat -c '%u %a' /.verifier", kSetupUser),
            "tmpfs\n0 700\n");
}

TEST_F(LocalTest, BundlesAreMountedReadOnly) {
  char name[] = "/tmp/sluice-local-test-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  ::chmod(name, 0755);
  std::ofstream(std::string(name) + "/tool") << "#!/bin/sh\necho bundled\n";
  ::chmod((std::string(name) + "/tool").c_str(), 0755);
  Options options;
  options.bundles.push_back({name, "/opt/agents/one"});
  renew(options);
  EXPECT_EQ(out_of("/opt/agents/one/tool"), "bundled\n");
  EXPECT_EQ(out_of("touch /opt/agents/one/x || echo refused", kSetupUser), "refused\n");
  EXPECT_THAT(out_of("grep /opt/agents/one /proc/self/mountinfo"),
              AllOf(HasSubstr("ro,"), HasSubstr("nosuid"), HasSubstr("nodev")));
  std::filesystem::remove_all(name);

  for (const char* place :
       {"/usr/x", "/etc", "/home/user", "relative", "/opt/../etc", "/", "", "/proc/x", "/opt//x"}) {
    Options bad;
    bad.bundles.push_back({"/usr", place});
    EXPECT_EQ(create_error(bad).code, ErrorCode::kInvalidArgument) << place;
  }
  Options missing;
  missing.bundles.push_back({"/no/such/bundle", "/opt/x"});
  EXPECT_EQ(create_error(missing).code, ErrorCode::kInvalidArgument);
}

TEST_F(LocalTest, AHomeThatIsKeptIsThereAgain) {
  char name[] = "/tmp/sluice-local-test-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  ::chmod(name, 0755);
  Options options;
  options.keep_files_in = std::string(name) + "/kept";
  renew(options);
  EXPECT_EQ(out_of("echo mine > file; stat -c %u file; touch ~/top"), "1000\n");
  const Error in_use = is_root() ? create_error(options) : Error();
  if (is_root()) EXPECT_THAT(in_use.message, HasSubstr("in use"));
  ASSERT_TRUE(run(shard_, sandbox_->close()));
  EXPECT_EQ(read_text(std::string(name) + "/kept/workdir/file"), "mine\n");
  // Another sandbox over the same files: they are its user's.
  sandbox_ = create(options);
  EXPECT_EQ(out_of("cat file; echo more >> file; stat -c %u file ~/top"), "mine\n1000\n1000\n");
  ASSERT_TRUE(run(shard_, sandbox_->close()));
  EXPECT_EQ(read_text(std::string(name) + "/kept/workdir/file"), "mine\nmore\n");
  // And one of another backend.
  auto other = Backend::start();
  ASSERT_TRUE(other);
  auto again = run(shard_, (*other)->create(&shard_, options));
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(exec_in(**again, shell("cat file")).out, "mine\nmore\n");
  // Whose files they are outside, is the sandbox's affair: so is removing them.
  exec_in(**again, shell("cd /home/user && rm -rf *", kSetupUser));
  ASSERT_TRUE(run(shard_, (*again)->close()));
  std::filesystem::remove_all(name);
}

TEST_F(LocalTest, WhatIsNotThereIsRefusedByName) {
  for (const char* name : {"debian:12", "relative", "/no/such/root", "/etc", "/"}) {
    Options image;
    image.image = name;
    const Error refused = create_error(image);
    EXPECT_EQ(refused.code, ErrorCode::kInvalidArgument) << name;
    EXPECT_EQ(refused.origin, ErrorOrigin::kTask) << name;
    // And before there is a sandbox.
    const auto looked_at = backend_->check_image(image);
    ASSERT_FALSE(looked_at) << name;
    EXPECT_EQ(looked_at.error().message, refused.message);
    EXPECT_EQ(looked_at.error().origin, ErrorOrigin::kTask) << name;
  }
  Options setup;
  setup.network = Network::kSetup;
  EXPECT_EQ(create_error(setup).code, ErrorCode::kInvalidArgument);  // without hosts
  setup.setup_hosts = {"http://example.org"};
  EXPECT_EQ(create_error(setup).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(run(shard_, backend_->clone(&shard_, Snapshot(), Options())).error().code,
            ErrorCode::kInvalidArgument);
  Options kept;
  kept.keep_files_in = "relative";
  EXPECT_EQ(create_error(kept).code, ErrorCode::kInvalidArgument);
  EXPECT_TRUE(run(shard_, sandbox_->end_setup()));
}

TEST_F(LocalTest, ASetupNetworkIsAProxyThatIsGoneBehindSetup) {
  Options options;
  options.network = Network::kSetup;
  options.setup_hosts = {"packages.example.org"};
  renew(options);
  // What is not listed is refused by the proxy, and there is no other way out.
  const std::string ask =
      "exec 3<>/dev/tcp/127.0.0.1/3128 && printf 'CONNECT internal.example.org:443 HTTP/1.1\\r\\n"
      "\\r\\n' >&3 && head -n 1 <&3";
  EXPECT_EQ(out_of(ask), "HTTP/1.1 403 Forbidden\r\n");
  EXPECT_EQ(out_of("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"), "lo\n");
  EXPECT_EQ(out_of("(exec 3<>/dev/tcp/1.1.1.1/443) 2>/dev/null || echo refused"), "refused\n");
  auto held =
      run(shard_, sandbox_->start(shell("exec 3<>/dev/tcp/127.0.0.1/3128; echo in; cat <&3; "
                                        "echo cut")));
  ASSERT_TRUE(held);
  EXPECT_EQ(*run(shard_, (*held)->read_output(kOut, 3)), "in\n");
  ASSERT_TRUE(run(shard_, sandbox_->end_setup()));
  EXPECT_EQ(*run(shard_, (*held)->read_output(kOut, 10)), "cut\n");
  EXPECT_EQ(out_of("(exec 3<>/dev/tcp/127.0.0.1/3128) 2>/dev/null || echo refused"), "refused\n");
  EXPECT_TRUE(run(shard_, sandbox_->end_setup()));
}

TEST_F(LocalTest, AnOpenNetworkIsTheHostsOwn) {
  Options options;
  options.network = Network::kOpen;
  renew(options);
  EXPECT_THAT(sandbox_->warnings(), ::testing::Contains(HasSubstr("host's own")));
  auto listener = net::listen_tcp(shard_, "127.0.0.1", 0);
  ASSERT_TRUE(listener);
  const std::string port = (*listener)->address().substr(10);
  EXPECT_EQ(out_of("exec 3<>/dev/tcp/127.0.0.1/" + port + " && echo connected"), "connected\n");
}

// --- images ---

TEST_F(LocalTest, AnImageIsARootDirectoryOfTheHost) {
  char name[] = "/var/tmp/sluice-local-test-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  ::chmod(name, 0755);
  const std::string root = name;
  // A root with one static program and nothing else.
  for (const char* directory : {"/usr/bin", "/etc/conf.d", "/opt/tool", "/home/secret"}) {
    std::filesystem::create_directories(root + directory);
  }
  std::filesystem::copy_file(std::string(kInsideDirectory) + "/attacks", root + "/usr/bin/attacks");
  std::filesystem::create_symlink("usr/bin", root + "/bin");
  std::ofstream(root + "/etc/conf.d/file") << "of the image";
  std::ofstream(root + "/etc/passwd") << "root::0:0::/:/bin/evil\n";
  std::ofstream(root + "/opt/tool/file") << "a tool";
  std::filesystem::create_symlink("/etc/hostname", root + "/etc/link");
  std::filesystem::create_symlink("/root", root + "/srv");  // of the host's nothing comes in by it
  Options options;
  options.image = root;
  options.bundles.push_back({kInsideDirectory, "/opt/inside"});
  renew(options);
  EXPECT_TRUE(sandbox_->capabilities().images);
  auto read = [&](const char* path) {
    auto content = run(shard_, sandbox_->read_file(path, 1000, kAgentUser));
    return content ? *content : "<" + content.error().message + ">";
  };
  EXPECT_EQ(read("/etc/conf.d/file"), "of the image");
  EXPECT_EQ(read("/opt/tool/file"), "a tool");
  EXPECT_THAT(read("/etc/passwd"), HasSubstr("verifier"));  // always the sandbox's own
  const auto entries = run(shard_, sandbox_->list("/usr/bin", 1, 100, kAgentUser));
  ASSERT_TRUE(entries);
  EXPECT_EQ(entries->size(), 1u);
  const auto srv = run(shard_, sandbox_->list("/srv", 1, 100, kSetupUser));
  EXPECT_TRUE(srv && srv->empty());
  for (const char* program : {"/bin/attacks", "/opt/inside/attacks"}) {
    for (const char* attack : {"mounts", "host_identity", "namespaces"}) {
      Command command;
      command.argv = {program, attack};
      command.deadline = Deadline::in(60s);
      const Output output = exec(std::move(command));
      EXPECT_TRUE(output.exit.ok()) << output.out;
    }
  }
  ASSERT_TRUE(run(shard_, sandbox_->close()));
  std::filesystem::remove_all(root);
}

// --- snapshots ---

TEST_F(LocalTest, AGroupIsClonedFromOnePreparation) {
  const char* setup = kSetupUser;
  exec(
      shell("mkdir -p deep/er; echo one > deep/er/file; ln deep/er/file hard; ln -s deep soft; "
            "mkfifo pipe; chmod 0751 deep; touch -d @1000000000 deep/er/file; "
            "python3 -c 'print(\"x\" * 3000000, end=\"\")' > large; : > empty; rm -r /var/tmp/* "
            "2>/dev/null; echo t > /tmp/t; chmod 4755 hard; chmod 555 deep/er"));
  exec(shell("echo made by setup > /srv/s; rmdir /var/spool; echo 127.9.9.9 extra >> /etc/hosts",
             setup));
  auto snapshot = run(shard_, sandbox_->snapshot());
  ASSERT_TRUE(snapshot) << snapshot.error().message;
  EXPECT_GT(snapshot->bytes, 3'000'000u);
  exec(shell("echo later > later"));
  ASSERT_TRUE(run(shard_, sandbox_->close()));  // it is not needed any more

  Options options;
  auto made = run(shard_, backend_->clone(&shard_, *snapshot, options));
  ASSERT_TRUE(made) << made.error().message;
  sandbox_ = std::move(*made);
  EXPECT_EQ(
      out_of("cat deep/er/file hard; stat -c '%a %h %Y' deep/er/file; stat -c %a deep deep/er; "
             "readlink soft; test -p pipe && echo pipe; wc -c < large; wc -c < empty; "
             "cat /tmp/t; ls later 2>/dev/null; find . | wc -l"),
      "one\none\n4755 2 1000000000\n751\n555\ndeep\npipe\n3000000\n0\nt\n9\n");
  const bool many = sandbox_->capabilities().guest_isolated;
  if (many) {
    EXPECT_EQ(out_of("cat /srv/s; ls -d /var/spool 2>/dev/null; grep -c extra /etc/hosts; "
                     "stat -c %u:%g /srv/s . large"),
              "made by setup\n1\n0:0\n1000:1000\n1000:1000\n");
  }
  // What a clone does is its own affair, and it is as shut in as any other.
  auto sibling = run(shard_, backend_->clone(&shard_, *snapshot, options));
  ASSERT_TRUE(sibling) << sibling.error().message;
  exec(shell("echo mine > mine; echo changed > deep/../empty"));
  EXPECT_EQ(exec_in(**sibling, shell("ls mine 2>/dev/null; cat empty")).out, "");
  EXPECT_EQ(out_of("exec 3<>/dev/tcp/1.1.1.1/80 && echo connected"), "");
  ASSERT_TRUE(run(shard_, (*sibling)->close()));

  // Clones of clones, with other limits; and what cannot be.
  auto again = run(shard_, sandbox_->snapshot());
  ASSERT_TRUE(again);
  options.limits.disk_bytes = Limit{kMiB, Strictness::kRequire};
  const auto full = run(shard_, backend_->clone(&shard_, *again, options));
  ASSERT_FALSE(full);
  EXPECT_THAT(full.error().message, HasSubstr("large"));
  Options other;
  other.image = "/";
  EXPECT_EQ(run(shard_, backend_->clone(&shard_, *again, other)).error().code,
            ErrorCode::kInvalidArgument);
}

TEST_F(LocalTest, ASnapshotThatIsForgedHarmsOnlyItsClone) {
  auto snapshot = run(shard_, sandbox_->snapshot());
  ASSERT_TRUE(snapshot);
  const Bytes all = *run(shard_, snapshot->content->files->read(0, snapshot->bytes));
  ASSERT_EQ(all.size(), snapshot->bytes);
  auto with_files = [&](const Bytes& files) {
    auto spool = std::make_shared<Spool>(std::make_shared<net::BlockingPool>(1));
    EXPECT_TRUE(run(shard_, spool->append(files)));
    auto content = std::make_shared<SnapshotContent>(*snapshot->content);
    content->files = std::move(spool);
    Snapshot copy = *snapshot;
    copy.content = std::move(content);
    return copy;
  };
  auto forged = [&](std::string_view path, std::string_view by) {
    Bytes files = all;
    const size_t at = files.find(path);
    EXPECT_NE(at, Bytes::npos);
    return with_files(files.replace(at, by.size(), by));
  };
  for (const auto& [path, by] : {std::pair("home/user/workdir", "../../../../../x/"),
                                 {"home/user/workdir", "/etc/passwdxxxxxx"},
                                 {"home/user/workdir", std::string_view("home\0user", 9).data()},
                                 {"var/cache", "proc/self"}}) {
    auto made = run(shard_, backend_->clone(&shard_, forged(path, by), Options()));
    if (made) {
      EXPECT_EQ(exec_in(**made, shell("echo on", kSetupUser)).out, "on\n");
      EXPECT_TRUE(run(shard_, (*made)->close()));
    }
  }
  const Snapshot torn = with_files(all.substr(0, 200));
  EXPECT_EQ(run(shard_, backend_->clone(&shard_, torn, Options())).error().code,
            ErrorCode::kProtocol);
}

TEST_F(LocalTest, AHomeThatIsKeptIsInTheSnapshot) {
  char name[] = "/tmp/sluice-test-local-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  Options options;
  options.keep_files_in = std::string(name) + "/kept";
  renew(options);
  exec(shell("echo one > file; echo two > ~/above"));
  exec(shell("echo three > /srv/s", kSetupUser));
  const auto snapshot = run(shard_, sandbox_->snapshot());
  ASSERT_TRUE(snapshot) << snapshot.error().message;
  auto clone = run(shard_, backend_->clone(&shard_, *snapshot, Options()));
  ASSERT_TRUE(clone) << clone.error().message;
  EXPECT_EQ(exec_in(**clone, shell("cat file ~/above; stat -c %u file; echo new > new")).out,
            "one\ntwo\n1000\n");
  if (sandbox_->capabilities().guest_isolated) {
    EXPECT_EQ(exec_in(**clone, shell("cat /srv/s")).out, "three\n");
  }
  EXPECT_TRUE(run(shard_, (*clone)->close()));
  EXPECT_FALSE(std::filesystem::exists(std::string(name) + "/kept/workdir/new"));
  EXPECT_TRUE(run(shard_, sandbox_->close()));
  sandbox_.reset();
  std::filesystem::remove_all(name);
}

// --- an agent's work ---

TEST_F(LocalTest, AnAgentsWorkGoesFromSandboxToSandbox) {
  exec(
      shell("mkdir -p tests; echo prepared | tee tests/honest kept gone > /dev/null; "
            "echo prepared > ~/out"));
  const auto snapshot = run(shard_, sandbox_->snapshot());
  ASSERT_TRUE(snapshot);
  // What the agent does.
  exec(
      shell("rm gone; echo mine > made; chmod 4711 made; ln -s made link; rm -r tests; "
            "ln -s /tmp tests; mkfifo pipe; echo mine | tee ~/.bashrc ~/out /tmp/x > /dev/null; "
            "mkdir -m 0 shut; echo mine > secret; chmod 0 secret; chmod 0 ."));
  WorkPlaces places;
  places.paths = {"/home/user/out", kWorkdir};
  places.exclude = {"honest"};
  const auto work = run(shard_, sandbox_->take_work(places, 1h));
  ASSERT_TRUE(work) << work.error().message;
  EXPECT_EQ(work->left_out, 1u);
  EXPECT_EQ(work->entries, 8u);
  EXPECT_GE(work->changed_elsewhere, 1u);
  ASSERT_TRUE(run(shard_, sandbox_->close()));

  auto made = run(shard_, backend_->clone(&shard_, *snapshot, Options()));
  ASSERT_TRUE(made) << made.error().message;
  sandbox_ = std::move(*made);
  const auto put = run(shard_, sandbox_->put_work(*work, kVerifyUser));
  ASSERT_TRUE(put) << put.error().message;
  ASSERT_TRUE(run(shard_, sandbox_->plant_file("/home/user/workdir/tests/more/hidden", "hidden\n",
                                               0755, kWorkdir)));
  ASSERT_TRUE(run(shard_, sandbox_->plant_file("/opt/judge/hidden", "hidden\n", 0644, "")));
  EXPECT_EQ(out_of("ls; cat kept made link tests/honest tests/more/hidden ~/out /opt/judge/hidden; "
                   "stat -c %a made tests/more/hidden; ls ~/.bashrc /tmp/x 2>/dev/null; "
                   "stat -c %a . shut secret",
                   kVerifyUser),
            "kept\nlink\nmade\nsecret\nshut\ntests\nprepared\nmine\nmine\nprepared\nhidden\nmine\n"
            "hidden\n711\n755\n700\n0\n0\n");
  if (sandbox_->capabilities().guest_isolated) {
    EXPECT_EQ(out_of("stat -c %u . made tests/more/hidden /opt/judge", kVerifyUser),
              "1001\n1001\n0\n0\n");
    EXPECT_EQ(run(shard_, sandbox_->plant_file("/usr/share/x/y", "x", 0644, "")).error().code,
              ErrorCode::kFailedPrecondition);
  }
  EXPECT_EQ(run(shard_, sandbox_->plant_file("/bin/hidden", "x", 0644, "")).error().code,
            ErrorCode::kFailedPrecondition);
  EXPECT_EQ(run(shard_, sandbox_->put_work(TakenWork(), kVerifyUser)).error().code,
            ErrorCode::kInvalidArgument);
}

// --- ports ---

TEST_F(LocalTest, AProgramInsideReachesItsListener) {
  auto listener = run(shard_, sandbox_->listen(8080));
  ASSERT_TRUE(listener) << listener.error().message;
  EXPECT_EQ((*listener)->address(), "127.0.0.1:8080");
  auto job =
      run(shard_,
          sandbox_->start(shell("exec 3<>/dev/tcp/127.0.0.1/8080; echo question >&3; cat <&3")));
  ASSERT_TRUE(job);
  auto stream = run(shard_, (*listener)->accept());
  ASSERT_TRUE(stream);
  Bytes buffer(100, '\0');
  const auto n = run(shard_, (*stream)->read_some(as_writable_byte_span(buffer)));
  EXPECT_EQ(buffer.substr(0, *n), "question\n");
  ASSERT_TRUE(run(shard_, net::write_all(stream->get(), "answer\n")));
  EXPECT_TRUE(run(shard_, (*stream)->drained(Deadline::in(5s))));
  (*stream)->close();
  EXPECT_TRUE(run(shard_, (*job)->wait(Deadline::in(10s)))->ok());
  EXPECT_EQ(*run(shard_, (*job)->read_output(kOut, 100)), "answer\n");
  EXPECT_EQ(run(shard_, sandbox_->listen(8080)).error().code, ErrorCode::kAlreadyExists);
}

}  // namespace
}  // namespace sluice::sandbox::local
