// Files, going in and out.
#include "sluice/sandbox/conformance/case.h"

namespace sluice::sandbox::conformance {

Area files{"files", {}};

namespace {

std::string at(const std::string& name) {
  return std::string(kWorkdir) + "/" + name;
}
Result<void> put(Try& t, Sandbox& sandbox, const std::string& path, Bytes content,
                 const char* user = kAgentUser, uint32_t mode = 0644) {
  WriteOptions options;
  options.user = user;
  options.mode = mode;
  return t.wait(sandbox.write_file(path, std::move(content), options));
}
Result<Bytes> get(Try& t, Sandbox& sandbox, const std::string& path, size_t max = 64 * kMiB,
                  const char* user = kAgentUser) {
  return t.wait(sandbox.read_file(path, max, user));
}

SLUICE_CASE(files, every_size_goes_there_and_back) {
  Sandbox& sandbox = t.shared();
  for (const size_t size : {size_t{0}, size_t{1}, size_t{4095}, size_t{65'535}, size_t{65'536},
                            size_t{65'537}, size_t{262'145}, size_t{20'000'000}}) {
    Bytes content(size, '\0');
    for (size_t i = 0; i < size; ++i) content[i] = static_cast<char>(i * 2'654'435'761u >> 16);
    SLUICE_EXPECT_OK(t, put(t, sandbox, at("file"), content));
    const auto back = get(t, sandbox, at("file"));
    SLUICE_EXPECT_OK(t, back);
    SLUICE_EXPECT(t, back && *back == content);
  }
}

SLUICE_CASE(files, a_gibibyte_goes_there_and_back) {
  if (!t.whole()) return t.skip("1 GiB: only in the whole run");
  Sandbox& sandbox = t.shared();
  SLUICE_EXPECT_OK(t, put(t, sandbox, at("large"), Bytes(1024 * kMiB, 'g')));
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "stat -c %s large; tail -c 1 large"), "1073741824\ng");
  const auto back = get(t, sandbox, at("large"), 1024 * kMiB);
  SLUICE_EXPECT(t, back && back->size() == 1024 * kMiB);
}

SLUICE_CASE(files, parents_are_made) {
  Sandbox& sandbox = t.shared();
  SLUICE_EXPECT_OK(t, put(t, sandbox, at("a/b/c/file"), "x"));
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "stat -c '%a %u' a a/b/c a/b/c/file"),
                   "755 1000\n755 1000\n644 1000\n");
}

SLUICE_CASE(files, modes_are_as_asked) {
  Sandbox& sandbox = t.shared();
  for (const uint32_t mode : {0600u, 0755u, 0400u, 0777u}) {
    SLUICE_EXPECT_OK(t, put(t, sandbox, at("file"), "x", kAgentUser, mode));
    const auto info = t.wait(sandbox.stat(at("file"), kAgentUser));
    SLUICE_EXPECT_OK(t, info);
    if (info) SLUICE_EXPECT_EQ(t, info->mode, mode);
    t.sh(sandbox, "rm -f file");
  }
  SLUICE_EXPECT_ERROR(t, put(t, sandbox, at("file"), "x", kAgentUser, 04755),
                      ErrorCode::kInvalidArgument);
}

SLUICE_CASE(files, owners_are_who_writes) {
  Sandbox& sandbox = t.shared();
  if (!sandbox.capabilities().guest_isolated) return t.skip("one user");
  SLUICE_EXPECT_OK(t, put(t, sandbox, "/tmp/of-verify", "x", kVerifyUser, 0600));
  SLUICE_EXPECT_OK(t, put(t, sandbox, "/tmp/of-root", "x", kSetupUser, 0600));
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "stat -c %u /tmp/of-verify /tmp/of-root"), "1001\n0\n");
  SLUICE_EXPECT_ERROR(t, get(t, sandbox, "/tmp/of-verify"), ErrorCode::kPermissionDenied);
  SLUICE_EXPECT_ERROR(t, get(t, sandbox, "/tmp/of-root"), ErrorCode::kPermissionDenied);
  SLUICE_EXPECT_ERROR(t, put(t, sandbox, "/usr/x", "x"), ErrorCode::kPermissionDenied);
  SLUICE_EXPECT_ERROR(t, put(t, sandbox, "/root/x", "x"), ErrorCode::kPermissionDenied);
  t.sh(sandbox, "rm /tmp/of-*", kSetupUser);
}

SLUICE_CASE(files, a_file_is_replaced_in_one_step) {
  Sandbox& sandbox = t.shared();
  SLUICE_EXPECT_OK(t, put(t, sandbox, at("file"), Bytes(100'000, 'a')));
  const auto job = t.start(sandbox,
                           "while :; do head -c 1 file; tail -c 1 file; done | "
                           "tr -d '\\n' | fold -w 2 | grep -c -e ab -e ba");
  for (int i = 0; i < 20; ++i) {
    SLUICE_EXPECT_OK(t, put(t, sandbox, at("file"), Bytes(100'000, i % 2 == 0 ? 'b' : 'a')));
    const auto back = get(t, sandbox, at("file"));
    SLUICE_EXPECT(t, back && back->size() == 100'000 && back->front() == back->back());
  }
  SLUICE_EXPECT_OK(t, t.wait(job->kill_tree()));
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "ls -A"), "file\n");
}

SLUICE_CASE(files, odd_names_are_names) {
  Sandbox& sandbox = t.shared();
  for (const std::string& name :
       {std::string("-rf"), std::string("a b"), std::string("line\nbreak"), std::string("é"),
        std::string("\xff\xfe"), std::string("$(id)"), std::string("'"), std::string(255, 'n'),
        std::string("...")}) {
    SLUICE_EXPECT_OK(t, put(t, sandbox, at(name), name));
    const auto back = get(t, sandbox, at(name));
    SLUICE_EXPECT(t, back && *back == name);
  }
  SLUICE_EXPECT_ERROR(t, put(t, sandbox, at(std::string(256, 'n')), "x"),
                      ErrorCode::kInvalidArgument);
}

SLUICE_CASE(files, bad_paths_are_refused) {
  Sandbox& sandbox = t.shared();
  for (const std::string& path :
       {std::string(""), std::string("relative"), std::string("./x"), std::string("/tmp/a\0b", 8),
        std::string("/") + std::string(5000, 'x')}) {
    SLUICE_EXPECT_ERROR(t, get(t, sandbox, path), ErrorCode::kInvalidArgument);
    SLUICE_EXPECT_ERROR(t, put(t, sandbox, path, "x"), ErrorCode::kInvalidArgument);
    SLUICE_EXPECT_ERROR(t, t.wait(sandbox.stat(path, kAgentUser)), ErrorCode::kInvalidArgument);
  }
}

SLUICE_CASE(files, what_is_missing_is_not_found) {
  Sandbox& sandbox = t.shared();
  SLUICE_EXPECT_ERROR(t, get(t, sandbox, at("none")), ErrorCode::kNotFound);
  SLUICE_EXPECT_ERROR(t, get(t, sandbox, at("none/none")), ErrorCode::kNotFound);
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.stat(at("none"), kAgentUser)), ErrorCode::kNotFound);
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.list(at("none"), 1, 10, kAgentUser)), ErrorCode::kNotFound);
}

SLUICE_CASE(files, a_directory_is_no_file) {
  Sandbox& sandbox = t.shared();
  t.sh(sandbox, "mkdir d; echo x > d/f");
  SLUICE_EXPECT_ERROR(t, get(t, sandbox, at("d")), ErrorCode::kInvalidArgument);
  SLUICE_EXPECT_ERROR(t, put(t, sandbox, at("d"), "x"), ErrorCode::kInvalidArgument);
  SLUICE_EXPECT_ERROR(t, get(t, sandbox, at("d/f/x")), ErrorCode::kInvalidArgument);
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "cat d/f"), "x\n");
}

SLUICE_CASE(files, too_large_is_said) {
  Sandbox& sandbox = t.shared();
  SLUICE_EXPECT_OK(t, put(t, sandbox, at("file"), Bytes(1001, 'x')));
  SLUICE_EXPECT_ERROR(t, get(t, sandbox, at("file"), 1000), ErrorCode::kTooLarge);
  SLUICE_EXPECT(t, get(t, sandbox, at("file"), 1001).has_value());
  SLUICE_EXPECT_ERROR(t, get(t, sandbox, "/proc/self/maps", 10), ErrorCode::kTooLarge);
}

SLUICE_CASE(files, links_are_not_followed) {
  Sandbox& sandbox = t.shared();
  t.sh(sandbox,
       "echo secret > target; ln -s target link; ln -s nowhere dangling; ln -s loop loop; "
       "mkdir d; ln -s d way");
  for (const char* name : {"link", "dangling", "loop"}) {
    SLUICE_EXPECT_ERROR(t, get(t, sandbox, at(name)), ErrorCode::kInvalidArgument);
    SLUICE_EXPECT_ERROR(t, put(t, sandbox, at(name), "x"), ErrorCode::kInvalidArgument);
    const auto info = t.wait(sandbox.stat(at(name), kAgentUser));
    SLUICE_EXPECT(t, info && info->type == FileInfo::Type::kSymlink);
  }
  SLUICE_EXPECT_ERROR(t, t.wait(sandbox.list(at("way"), 1, 10, kAgentUser)),
                      ErrorCode::kInvalidArgument);
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "cat target; test -e nowhere || echo none"), "secret\nnone\n");
}

SLUICE_CASE(files, what_is_no_file_does_not_hang) {
  Sandbox& sandbox = t.shared();
  t.sh(sandbox,
       "mkfifo pipe; python3 -c 'import socket; "
       "socket.socket(socket.AF_UNIX).bind(\"socket\")' 2>/dev/null || :");
  SLUICE_EXPECT_ERROR(t, get(t, sandbox, at("pipe")), ErrorCode::kInvalidArgument);
  SLUICE_EXPECT_ERROR(t, put(t, sandbox, at("pipe"), "x"), ErrorCode::kInvalidArgument);
  SLUICE_EXPECT_ERROR(t, get(t, sandbox, "/dev/zero"), ErrorCode::kInvalidArgument);
  SLUICE_EXPECT_ERROR(t, get(t, sandbox, "/dev/null"), ErrorCode::kInvalidArgument);
  if (t.out(sandbox, "test -S socket && echo y") == "y\n") {
    SLUICE_EXPECT_ERROR(t, get(t, sandbox, at("socket")), ErrorCode::kInvalidArgument);
  }
}

SLUICE_CASE(files, permissions_are_the_users) {
  Sandbox& sandbox = t.shared();
  t.sh(sandbox, "echo x > closed; chmod 0 closed; mkdir -m 0 shut; mkdir -m 500 fixed");
  SLUICE_EXPECT_ERROR(t, get(t, sandbox, at("closed")), ErrorCode::kPermissionDenied);
  SLUICE_EXPECT_ERROR(t, get(t, sandbox, at("shut/x")), ErrorCode::kPermissionDenied);
  SLUICE_EXPECT_ERROR(t, put(t, sandbox, at("fixed/x"), "x"), ErrorCode::kPermissionDenied);
  t.sh(sandbox, "chmod 700 shut fixed");
}

SLUICE_CASE(files, stat_tells_what_is_there) {
  Sandbox& sandbox = t.shared();
  t.sh(sandbox, "printf 12345 > f; chmod 640 f; mkdir d; mkfifo p");
  const auto file = t.wait(sandbox.stat(at("f"), kAgentUser));
  SLUICE_EXPECT(t, file && file->type == FileInfo::Type::kFile && file->size == 5 &&
                       file->mode == 0640 && file->uid == 1000 && file->gid == 1000);
  const auto directory = t.wait(sandbox.stat(at("d"), kAgentUser));
  SLUICE_EXPECT(t, directory && directory->type == FileInfo::Type::kDirectory);
  const auto other = t.wait(sandbox.stat(at("p"), kAgentUser));
  SLUICE_EXPECT(t, other && other->type == FileInfo::Type::kOther);
}

SLUICE_CASE(files, lists_keep_to_their_bounds) {
  Sandbox& sandbox = t.shared();
  t.sh(sandbox, "mkdir -p a/b/c; touch a/1 a/b/2 a/b/c/3; ln -s /usr a/usr");
  auto count = [&](int depth, size_t max) {
    const auto entries = t.wait(sandbox.list(kWorkdir, depth, max, kAgentUser));
    SLUICE_EXPECT_OK(t, entries);
    return entries ? entries->size() : 0;
  };
  SLUICE_EXPECT_EQ(t, count(0, 100), size_t{0});
  SLUICE_EXPECT_EQ(t, count(1, 100), size_t{1});
  SLUICE_EXPECT_EQ(t, count(2, 100), size_t{4});
  SLUICE_EXPECT_EQ(t, count(9, 100), size_t{7});
  SLUICE_EXPECT_EQ(t, count(9, 3), size_t{3});
  t.sh(sandbox, "seq 3000 | xargs touch");
  SLUICE_EXPECT_EQ(t, count(1, 10'000), size_t{3001});
}

SLUICE_CASE(files, a_directory_is_reset_whatever_was_there) {
  Sandbox& sandbox = t.shared();
  for (const char* before : {"rm -rf x", "mkdir -p x/y/z; touch x/y/f; chmod 0 x/y", "echo > x",
                             "ln -s /tmp x", "mkfifo x", "mkdir x; ln -s / x/root"}) {
    t.sh(sandbox, std::string(before));
    SLUICE_EXPECT_OK(t, t.wait(sandbox.reset_directory(at("x"), kAgentUser, 0750)));
    SLUICE_EXPECT_EQ(t, t.out(sandbox, "stat -c '%F %a %u' x; ls -A x; rmdir x"),
                     "directory 750 1000\n");
  }
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "test -d /usr/bin && test -d /tmp && echo still"), "still\n");
}

SLUICE_CASE(files, a_deep_tree_is_reset) {
  Sandbox& sandbox = t.shared();
  t.sh(sandbox, "mkdir x; mkdir -p x/$(printf 'd/%.0s' $(seq 1500))");
  SLUICE_EXPECT_OK(t, t.wait(sandbox.reset_directory(at("x"), kAgentUser, 0755)));
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "ls -A x | wc -l"), "0\n");
}

SLUICE_CASE(files, a_tree_is_given_and_links_are_not_followed) {
  Sandbox& sandbox = t.shared();
  if (!sandbox.capabilities().guest_isolated) return t.skip("one user");
  t.sh(sandbox,
       "mkdir -p tree/a; echo x > tree/a/f; ln -s /etc tree/etc; echo o > outside; "
       "ln outside tree/hard; mkfifo tree/p; ln tree/a/f tree/within");
  const auto left = t.wait(sandbox.give_tree(at("tree"), kVerifyUser));
  SLUICE_EXPECT_OK(t, left);
  if (left) SLUICE_EXPECT_EQ(t, *left, uint64_t{1});
  SLUICE_EXPECT_EQ(t,
                   t.out(sandbox,
                         "stat -c %u tree tree/a tree/a/f tree/p tree/within tree/hard "
                         "outside; stat -L -c %u tree/etc"),
                   "1001\n1001\n1001\n1001\n1001\n1000\n1000\n0\n");
}

SLUICE_CASE(files, a_link_is_never_given) {
  Sandbox& sandbox = t.shared();
  if (!sandbox.capabilities().guest_isolated) return t.skip("one user");
  t.sh(sandbox, "ln -s /etc way; mkdir real; ln -s real via");
  for (const char* name : {"way", "via", "via/"}) {
    SLUICE_EXPECT_ERROR(t, t.wait(sandbox.give_tree(at(name), kVerifyUser)),
                        ErrorCode::kInvalidArgument);
  }
  SLUICE_EXPECT_EQ(t, t.out(sandbox, "stat -c %u /etc real"), "0\n1000\n");
}

awaitable<void> copy_one(Sandbox* sandbox, int number, int* right, int* left, std::string* why) {
  const std::string path = at("many/" + std::to_string(number));
  const Bytes content(10'000, static_cast<char>('a' + number % 26));
  auto written = co_await sandbox->write_file(path, content, WriteOptions());
  auto back = co_await sandbox->read_file(path, 100'000, kAgentUser);
  if (!written) *why = written.error().message;
  if (!back) *why = back.error().message;
  if (written && back && *back == content) ++*right;
  --*left;
}

SLUICE_CASE(files, a_hundred_files_at_once) {
  Sandbox& sandbox = t.shared();
  int right = 0;
  int left = 100;
  std::string why;
  for (int i = 0; i < 100; ++i) t.shard().spawn(copy_one(&sandbox, i, &right, &left, &why));
  t.shard().run_until([&] { return left == 0; });
  SLUICE_EXPECT_EQ(t, right, 100);
  SLUICE_EXPECT_EQ(t, why, "");
}

}  // namespace

}  // namespace sluice::sandbox::conformance
