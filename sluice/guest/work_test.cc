// An agent's work, out of one place and into another.
#include "sluice/guest/program/work.h"

#include <sys/time.h>

#include <map>
#include <random>
#include <set>

#include "sluice/guest/program/records.h"
#include "sluice/guest/testing.h"

namespace sluice::guest {
namespace {

using program::Entry;
using program::EntryKind;

awaitable<Result<Bytes>> take_all(Client* client, wire::TakeWork request, wire::WorkTaken* taken) {
  SLUICE_CO_TRY(auto reader, co_await client->take_work(std::move(request), taken));
  Bytes all;
  for (;;) {
    SLUICE_CO_TRY(const Bytes piece, co_await reader->read_some());
    if (piece.empty()) co_return all;
    all += piece;
  }
}

awaitable<Result<void>> put_all(Client* client, wire::PutWork request, Bytes stream) {
  SLUICE_CO_TRY(auto writer, co_await client->put_work(std::move(request)));
  const ByteView view = stream;
  SLUICE_CO_TRY_VOID(co_await writer->write(view));
  co_return co_await writer->finish();
}

template <class T>
Error error_of(const Result<T>& result) {
  EXPECT_FALSE(result);
  return result ? Error() : result.error();
}

class WorkTest : public GuestTest {
 protected:
  void SetUp() override {
    GuestTest::SetUp();
    top_ = path("work");
    std::filesystem::create_directory(top_);
  }

  wire::TakeWork request() const {
    wire::TakeWork request;
    request.paths = {top_};
    request.exclude = exclude_;
    request.max = 64 * kMiB;
    request.max_entries = 10'000;
    return request;
  }
  Result<Bytes> take() { return take(request()); }
  Result<Bytes> take(wire::TakeWork request) {
    return run(shard_, take_all(client_.get(), std::move(request), &taken_));
  }
  Result<void> put(Bytes stream) {
    wire::PutWork request;
    request.paths = {top_};
    request.exclude = exclude_;
    request.user = ::getuid() == 0 ? "1001" : user();
    return run(shard_, put_all(client_.get(), std::move(request), std::move(stream)));
  }
  Result<void> make_way(const std::string& to, const std::string& below) {
    return run(shard_, client_->make_way(to, below));
  }

  std::string in(const std::string& name) const { return top_ + "/" + name; }
  std::string sh(const std::string& script) {
    return exec(shell("cd " + top_ + " && " + script)).out;
  }
  void renew() {
    std::filesystem::remove_all(top_);
    std::filesystem::create_directory(top_);
  }

  std::string top_;
  std::vector<std::string> exclude_;
  wire::WorkTaken taken_;
};
INSTANTIATE_TEST_SUITE_P(Forms, WorkTest, ::testing::Values(Form::kLibrary, Form::kProgram),
                         form_name);

// --- The property --------------------------------------------------------------------------------

// What of a file is to be kept.
struct Kept {
  mode_t type = 0, mode = 0;
  int64_t seconds = 0, nanoseconds = 0;
  Bytes content;  // or a link's text

  bool operator==(const Kept&) const = default;
};
void PrintTo(const Kept& kept, std::ostream* out) {
  *out << std::oct << kept.type << " " << kept.mode << std::dec << " " << kept.seconds << "."
       << kept.nanoseconds << " " << kept.content.size() << " bytes";
}
using Tree = std::map<std::string, Kept>;

Kept look_at(const std::string& path) {
  struct stat st{};
  EXPECT_EQ(::lstat(path.c_str(), &st), 0) << path;
  Kept kept{st.st_mode & S_IFMT, st.st_mode & 07777, st.st_mtim.tv_sec, st.st_mtim.tv_nsec, {}};
  if (S_ISLNK(st.st_mode)) {
    kept.content.resize(4096);
    const ssize_t n = ::readlink(path.c_str(), kept.content.data(), kept.content.size());
    kept.content.resize(n > 0 ? static_cast<size_t>(n) : 0);
    kept.mode = 0777;
  } else if (S_ISREG(st.st_mode)) {
    if (::access(path.c_str(), R_OK) != 0) ::chmod(path.c_str(), 0600);
    kept.content = *read_file(path, 16 * kMiB);
  } else if (S_ISDIR(st.st_mode) && ::getuid() != 0) {
    ::chmod(path.c_str(), 0700);
  }
  return kept;
}

// All that is there, by its name below the top.
void look_at_all(const std::string& top, const std::string& name, Tree* tree) {
  const std::string path = name.empty() ? top : top + "/" + name;
  const Kept& here = (*tree)[name] = look_at(path);
  if (!S_ISDIR(here.type)) return;
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    const std::string child = entry.path().filename();
    look_at_all(top, name.empty() ? child : name + "/" + child, tree);
  }
}

// Trees of all that an agent may leave.
class Random {
 public:
  explicit Random(unsigned seed) : random_(seed) {}

  size_t below(size_t end) { return std::uniform_int_distribution<size_t>(0, end - 1)(random_); }

  // Any bytes but those that no name has.
  std::string name() {
    static constexpr const char* kNames[] = {"-rf", " ", "\n", "a\nb", "...", "*", "\xff\xfe", "é"};
    if (below(3) == 0) return kNames[below(std::size(kNames))];
    std::string name(1 + (below(20) == 0 ? below(255) : below(12)), 'x');
    for (char& c : name) c = static_cast<char>(1 + below(255));
    for (char& c : name) c = c == '/' ? '_' : c;
    return name == "." || name == ".." ? "dots" : name;
  }

  void fill(const std::string& directory, int depth, const std::string& outside) {
    for (size_t i = below(7); i > 0; --i) make(directory + "/" + name(), depth, outside);
    settle(directory);
  }

 private:
  void make(const std::string& path, int depth, const std::string& outside) {
    struct stat st{};
    if (::lstat(path.c_str(), &st) == 0) return;
    switch (below(10)) {
      case 0:
      case 1:
      case 2:
        if (depth == 0 || ::mkdir(path.c_str(), 0700) != 0) return;
        fill(path, depth - 1, outside);
        return;
      case 3:
        (void)::symlink(below(2) == 0 ? outside.c_str() : name().c_str(), path.c_str());
        break;
      case 4:
        // Within the tree, or to what is outside.
        (void)::link(files_.empty() || below(2) == 0 ? (outside + "/file").c_str()
                                                     : files_[below(files_.size())].c_str(),
                     path.c_str());
        return;
      case 5:
        (void)::mkfifo(path.c_str(), 0644);
        break;
      default:
        write(path);
    }
    settle(path);
  }

  void write(const std::string& path) {
    const Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file) return;
    files_.push_back(path);
    // Pieces with holes between, at the beginning and at the end.
    for (size_t i = below(4); i > 0; --i) {
      ::lseek(file.get(), static_cast<off_t>(below(3) * 64 * 1024), SEEK_CUR);
      Bytes piece(below(5) == 0 ? below(200'000) : below(100), '\0');
      for (size_t at = 0; at < piece.size(); at += 7) piece[at] = static_cast<char>(below(256));
      EXPECT_TRUE(write_all(file.get(), piece));
    }
    if (below(3) == 0) {
      EXPECT_EQ(::ftruncate(file.get(), static_cast<off_t>(below(300'000))), 0);
    }
  }

  // Any owner, mode and time.
  void settle(const std::string& path) {
    static constexpr uid_t kOwners[] = {0, 1000, 1001, 7};
    if (::getuid() == 0) {
      (void)::lchown(path.c_str(), kOwners[below(4)], static_cast<gid_t>(kOwners[below(4)]));
    }
    struct stat st{};
    if (::lstat(path.c_str(), &st) == 0 && !S_ISLNK(st.st_mode)) {
      // An ordinary user must get on with the tree himself.
      ::chmod(path.c_str(), static_cast<mode_t>(below(010000)) | (::getuid() == 0 ? 0 : 0700));
    }
    const timespec times[] = {
        {0, UTIME_OMIT},
        {static_cast<time_t>(below(2'000'000'000)), static_cast<long>(below(1'000'000'000))}};
    ::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW);
  }

  std::mt19937 random_;
  std::vector<std::string> files_;
};

// Contents, modes, times and what is missing arrive, and nothing else happens.
TEST_P(WorkTest, WhateverTreeIsTakenIsWhatIsPut) {
  const std::string outside = path("outside");
  for (unsigned seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    std::filesystem::remove_all(outside);
    std::filesystem::create_directory(outside);
    ASSERT_TRUE(write(outside + "/file", "not the agent's"));
    renew();
    random.fill(top_, 4, outside);
    Tree expected;
    look_at_all(top_, "", &expected);
    std::erase_if(expected, [](const auto& entry) {
      return !S_ISREG(entry.second.type) && !S_ISDIR(entry.second.type) &&
             !S_ISLNK(entry.second.type);
    });
    for (auto& [name, kept] : expected) kept.mode &= 0777;
    const auto stream = take();
    ASSERT_TRUE(stream) << stream.error().message;
    EXPECT_EQ(taken_.entries, expected.size());
    expected.at("").mode |= 0700;

    // Where it goes, something else was prepared.
    renew();
    random.fill(top_, 3, outside);
    Tree before;
    look_at_all(outside, "", &before);
    const auto put = this->put(*stream);
    ASSERT_TRUE(put) << put.error().message;
    Tree after, around;
    look_at_all(outside, "", &around);
    // The times of a directory in which names were linked and unlinked are not looked at: none
    // were.
    EXPECT_EQ(before, around);
    if (::getuid() == 0) {
      for (const auto& [name, kept] : expected) {
        struct stat st{};
        const std::string place = name.empty() ? top_ : in(name);
        ASSERT_EQ(::lstat(place.c_str(), &st), 0);
        EXPECT_EQ(st.st_uid, 1001u);
        if (S_ISREG(st.st_mode)) EXPECT_EQ(st.st_nlink, 1u);
      }
    }
    look_at_all(top_, "", &after);
    EXPECT_EQ(after, expected);
  }
}

// --- Out -----------------------------------------------------------------------------------------

TEST_P(WorkTest, HolesStayHoles) {
  sh("truncate -s 64M sparse; printf end >> sparse; printf begin | dd of=sparse conv=notrunc 2>&1");
  struct stat st{};
  ASSERT_EQ(::stat(in("sparse").c_str(), &st), 0);
  const auto stream = take();
  ASSERT_TRUE(stream) << stream.error().message;
  const bool knows_holes = st.st_blocks < 1000;
  if (knows_holes) EXPECT_LT(stream->size(), 1 * kMiB);
  renew();
  ASSERT_TRUE(put(*stream));
  EXPECT_EQ(sh("stat -c %s sparse; head -c 5 sparse; tail -c 3 sparse"), "67108867\nbeginend");
  ASSERT_EQ(::stat(in("sparse").c_str(), &st), 0);
  if (knows_holes) EXPECT_LT(st.st_blocks, 1000);
}

TEST_P(WorkTest, WhatIsTooMuchIsNotTaken) {
  sh("mkdir d; printf %100s > d/a; echo > b");
  wire::TakeWork small = request();
  small.max_entries = 4;
  EXPECT_TRUE(take(small));
  small.max_entries = 3;
  EXPECT_EQ(error_of(take(small)).code, ErrorCode::kTooLarge);
  EXPECT_THAT(error_of(take(small)).message, HasSubstr("over 3 files and directories"));
  small = request();
  small.max = 300;
  EXPECT_EQ(error_of(take(small)).code, ErrorCode::kTooLarge);
  EXPECT_THAT(error_of(take(small)).message, HasSubstr("over 300 bytes"));
  // Deeper than any path can say.
  sh("python3 -c 'import os\nfor i in range(2200): os.mkdir(\"e\"); os.chdir(\"e\")'");
  EXPECT_EQ(error_of(take()).code, ErrorCode::kTooLarge);
  EXPECT_THAT(error_of(take()).message, HasSubstr("too deep"));
  EXPECT_TRUE(run(shard_, client_->reset_directory(top_, user(), 0755)));
}

TEST_P(WorkTest, WhatIsNoFileIsLeftOutAndCounted) {
  sh("mkfifo pipe; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'; "
     "ln -s pipe link");
  const auto stream = take();
  ASSERT_TRUE(stream);
  EXPECT_EQ(taken_.left_out, 2u);
  EXPECT_EQ(taken_.entries, 2u);
  renew();
  ASSERT_TRUE(put(*stream));
  EXPECT_EQ(sh("ls; readlink link"), "link\npipe\n");
}

TEST_P(WorkTest, NoLinkLeadsAstray) {
  ASSERT_TRUE(write(path("elsewhere/file"), "x"));
  std::filesystem::remove_all(top_);
  // The work itself is a link: it is taken as one.
  std::filesystem::create_symlink(path("elsewhere"), top_);
  const auto link = take();
  ASSERT_TRUE(link) << link.error().message;
  EXPECT_EQ(taken_.entries, 1u);
  // A link on the way to it: nothing is there.
  std::filesystem::create_symlink(path("elsewhere"), path("way"));
  wire::TakeWork through = request();
  through.paths = {path("way/file")};
  ASSERT_TRUE(take(through));
  EXPECT_EQ(taken_.entries, 0u);
  EXPECT_EQ(taken_.missing, through.paths);
  // Where it is put, it takes the directory's place, and nothing is written through it.
  std::filesystem::remove(top_);
  std::filesystem::create_directory(top_);
  ASSERT_TRUE(write(in("prepared"), "x"));
  ASSERT_TRUE(put(*link));
  EXPECT_EQ(std::filesystem::read_symlink(top_), path("elsewhere"));
  EXPECT_TRUE(std::filesystem::exists(path("elsewhere/file")));
}

TEST_P(WorkTest, AWorkThatIsGoneIsRemoved) {
  std::filesystem::remove_all(top_);
  const auto nothing = take();
  ASSERT_TRUE(nothing);
  EXPECT_EQ(taken_.entries, 0u);
  EXPECT_THAT(taken_.missing, ::testing::ElementsAre(top_));
  ASSERT_TRUE(write(in("a/b"), "prepared"));
  ASSERT_TRUE(put(*nothing));
  EXPECT_FALSE(std::filesystem::exists(top_));
}

// Not over the link: all files of this machine would be looked at.
TEST_P(WorkTest, FilesThatChangedElsewhereAreCounted) {
  for (const char* name : {"work/mine", "etc/one", "etc/two", "tmp/temporary", "var/tmp/more"}) {
    ASSERT_TRUE(write(path(name), "x"));
  }
  std::filesystem::create_symlink("/etc", path("etc/three"));
  const Fd root(::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const Fd out(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  wire::TakeWork counting = request();
  counting.paths = {"/work"};
  const auto changed = [&](uint64_t within_ms) {
    counting.changed_ms = within_ms;
    const auto taken = program::take_work(root.get(), counting, out.get(), program::Users::kMany);
    return taken ? taken->changed : 1000;
  };
  EXPECT_EQ(changed(0), 0u);
  EXPECT_EQ(changed(600'000), 3u);
  EXPECT_EQ(changed(UINT64_MAX), 3u);
}

TEST_P(WorkTest, BadRequestsAreRefused) {
  for (const char* bad : {"relative", "/", "/a/../b", "/a//b", "/a/.", "/a/"}) {
    wire::TakeWork take = request();
    take.paths = {bad};
    EXPECT_EQ(error_of(this->take(take)).code, ErrorCode::kInvalidArgument) << bad;
    EXPECT_EQ(error_of(make_way(bad, "")).code, ErrorCode::kInvalidArgument) << bad;
    EXPECT_EQ(error_of(make_way(in("x"), bad)).code, ErrorCode::kInvalidArgument) << bad;
  }
  wire::TakeWork many = request();
  many.paths.assign(wire::kMaxWorkPlaces + 1, top_);
  EXPECT_EQ(error_of(take(many)).code, ErrorCode::kTooLarge);
  many.paths = {std::string("/a\0b", 4)};
  EXPECT_EQ(error_of(take(many)).code, ErrorCode::kInvalidArgument);
  many.paths = {"/" + std::string(wire::kMaxPath, 'x')};
  EXPECT_EQ(error_of(take(many)).code, ErrorCode::kInvalidArgument);
}

// --- In ------------------------------------------------------------------------------------------

TEST_P(WorkTest, WhatIsExcludedStaysAsItWasPrepared) {
  exclude_ = {"conftest.py", in("tests/hidden"), in("**/*.keep")};
  sh("mkdir -p src tests a; echo mine > src/conftest.py; echo mine > src/a; echo mine > x.keep");
  const auto stream = take();
  ASSERT_TRUE(stream);
  EXPECT_EQ(taken_.entries, 5u);
  renew();
  sh("mkdir -p src tests/hidden/deep b/c; echo p | tee conftest.py tests/hidden/deep/t b/c/y.keep "
     "b/other src/old > /dev/null; chmod 710 tests/hidden");
  ASSERT_TRUE(put(*stream));
  EXPECT_EQ(sh("find . -type f | sort; stat -c %a tests/hidden; cat conftest.py src/a"),
            "./b/c/y.keep\n./conftest.py\n./src/a\n./tests/hidden/deep/t\n710\np\nmine\n");
}

// The agent puts something of his own where tests that are not his lie.
TEST_P(WorkTest, ADirectoryThatHoldsWhatIsExcludedIsNotReplaced) {
  exclude_ = {in("tests/*/hidden")};
  for (const char* instead : {"ln -s mine tests; mkdir -p mine/a; echo mine > mine/a/hidden",
                              "echo mine > tests", "mkdir tests; ln -s ../mine tests/a", "true"}) {
    renew();
    sh(instead);
    const auto stream = take();
    ASSERT_TRUE(stream);
    renew();
    sh("mkdir -p tests/a/empty; echo honest > tests/a/hidden; echo > tests/a/other");
    const auto put = this->put(*stream);
    ASSERT_TRUE(put) << put.error().message;
    EXPECT_EQ(sh("cat tests/a/hidden; find tests | sort; find . -type l"),
              "honest\ntests\ntests/a\ntests/a/hidden\n")
        << instead;
  }
}

TEST_P(WorkTest, SeveralPathsAreTakenAndTheirParentsMade) {
  ASSERT_TRUE(write(in("src/a"), "1"));
  ASSERT_TRUE(write(path("deep/er/out/b"), "2"));
  ASSERT_TRUE(write(in("not/taken"), "3"));
  wire::TakeWork some = request();
  some.paths = {in("src"), path("deep/er/out/b")};
  const auto stream = take(some);
  ASSERT_TRUE(stream);
  EXPECT_EQ(taken_.entries, 3u);
  renew();
  std::filesystem::remove_all(path("deep"));
  wire::PutWork put;
  put.paths = some.paths;
  put.user = user();
  ASSERT_TRUE(run(shard_, put_all(client_.get(), put, *stream)));
  EXPECT_EQ(*read(path("deep/er/out/b")), "2");
  EXPECT_EQ(*read(in("src/a")), "1");
  EXPECT_FALSE(std::filesystem::exists(in("not")));
}

// A stream as somebody may forge it who has taken over the agent's sandbox.
Bytes stream_of(const std::vector<Entry>& entries) {
  Bytes all;
  for (const Entry& entry : entries) {
    wire::Writer record;
    record.string(wire::encode(entry), 16'384);
    if (entry.kind == EntryKind::kFile) record.numbers(entry.size, uint64_t{0});
    all += record.take();
  }
  return all;
}
Entry entry(EntryKind kind, std::string path, std::string link = "") {
  Entry out;
  out.kind = kind;
  out.path = std::move(path);
  out.link = std::move(link);
  out.mode = 0755;
  return out;
}

TEST_P(WorkTest, AForgedStreamReachesNothingElse) {
  ASSERT_TRUE(write(path("outside/file"), "x"));
  exclude_ = {"hidden"};
  const std::string top = top_.substr(1);
  const Entry end = entry(EntryKind::kEnd, "");
  const Entry itself = entry(EntryKind::kDirectory, top);
  const Entry way = entry(EntryKind::kSymlink, top + "/way", path("outside"));
  for (const Entry& bad :
       {entry(EntryKind::kFile, path("outside/new").substr(1)),
        entry(EntryKind::kFile, path("outside/new")), entry(EntryKind::kFile, top + "/../new"),
        entry(EntryKind::kFile, top + "/./new"), entry(EntryKind::kFile, top + "//new"),
        entry(EntryKind::kFile, top + "/new/"), entry(EntryKind::kFile, ""),
        entry(EntryKind::kFile, "."), entry(EntryKind::kFile, top + "x/new"),
        entry(EntryKind::kFile, top + "/way/new"), entry(EntryKind::kDirectory, top + "/way"),
        entry(EntryKind::kDirectory, top + "/way/new"),
        entry(EntryKind::kSymlink, top + "/way/new", "x"), entry(EntryKind::kFile, top + "/hidden"),
        entry(EntryKind::kFile, top + "/hidden/new"),
        entry(EntryKind::kHardLink, top + "/new", path("outside/file").substr(1)),
        entry(EntryKind::kPipe, top + "/new"), entry(EntryKind::kImage, top + "/new")}) {
    const auto put = this->put(stream_of({itself, way, bad, end}));
    EXPECT_FALSE(put) << bad.path;
  }
  Bytes cut = stream_of({itself, way});
  EXPECT_EQ(error_of(put(cut)).code, ErrorCode::kProtocol);
  cut.resize(cut.size() - 7);
  EXPECT_EQ(error_of(put(cut)).code, ErrorCode::kProtocol);
  EXPECT_EQ(error_of(put(Bytes(100, '\xff'))).code, ErrorCode::kProtocol);
  // Pieces of a file that lie where they cannot.
  Entry file = entry(EntryKind::kFile, top + "/f");
  file.size = 8;
  for (const auto& [at, length] : {std::pair<uint64_t, uint64_t>{9, 1}, {4, 5}, {0, ~0ull}}) {
    Bytes stream = stream_of({itself, file});
    stream.resize(stream.size() - 16);
    wire::Writer piece;
    piece.numbers(at, length);
    stream += piece.take() + Bytes(64, 'x');
    EXPECT_EQ(error_of(put(stream)).code, ErrorCode::kProtocol) << at;
  }
  EXPECT_EQ(exec(shell("ls " + path("outside"))).out, "file\n");
  EXPECT_EQ(exec(shell("ls " + directory_)).out, "outside\nwork\n");
  // The same two without the bad one are fine.
  EXPECT_TRUE(put(stream_of({itself, way, end})));
}

// --- The way for files that the agent never saw
// ---------------------------------------------------

TEST_P(WorkTest, WhateverTheAgentPutInTheWayIsRemoved) {
  ASSERT_TRUE(write(path("outside/file"), "x"));
  const std::string target = in("tests/unit/t.py");
  for (const char* way :
       {"true", "ln -s ../outside tests", "echo > tests", "mkfifo tests",
        "mkdir tests; ln -s ../../outside tests/unit", "mkdir tests; echo > tests/unit",
        "mkdir -p tests/unit/t.py/deep; ln -s / tests/unit/t.py/root",
        "mkdir -p tests/unit; ln -s ../../../outside/file tests/unit/t.py",
        "mkdir -p tests/unit; mkfifo tests/unit/t.py",
        "mkdir -p tests/unit; echo mine > tests/unit/t.py",
        "mkdir -p tests/unit; : > tests/unit/t.py; chmod 0 tests/unit/t.py tests/unit tests"}) {
    renew();
    sh(way);
    const auto made = make_way(target, top_);
    ASSERT_TRUE(made) << way << ": " << made.error().message;
    ASSERT_TRUE(write(target, "hidden")) << way;
    EXPECT_EQ(sh("cat tests/unit/t.py; find . -type l; cat ../outside/file"), "hiddenx") << way;
  }
  // The place itself, too.
  std::filesystem::remove_all(top_);
  std::filesystem::create_symlink(path("outside"), top_);
  ASSERT_TRUE(make_way(target, top_));
  EXPECT_TRUE(std::filesystem::is_directory(in("tests/unit")));
  EXPECT_FALSE(std::filesystem::exists(path("outside/tests")));
}

TEST_P(WorkTest, OutsideTheWorkNothingIsRemoved) {
  ASSERT_TRUE(write(path("a/file"), "x"));
  std::filesystem::create_symlink(path("a"), path("link"));
  EXPECT_TRUE(make_way(path("a/new/file"), ""));
  EXPECT_TRUE(std::filesystem::is_directory(path("a/new")));
  EXPECT_TRUE(make_way(path("a/file"), top_));
  for (const char* taken : {"link/file", "a/file/below", "a/new", "link"}) {
    EXPECT_EQ(error_of(make_way(path(taken), "")).code, ErrorCode::kFailedPrecondition) << taken;
    EXPECT_EQ(error_of(make_way(path(taken), top_)).code, ErrorCode::kFailedPrecondition) << taken;
  }
  EXPECT_EQ(*read(path("a/file")), "x");
}

}  // namespace
}  // namespace sluice::guest
