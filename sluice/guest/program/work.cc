#include "sluice/guest/program/work.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <ctime>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/base/core/deadline.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/core/glob.h"
#include "sluice/base/core/syscalls.h"
#include "sluice/guest/program/files.h"
#include "sluice/guest/program/records.h"

namespace sluice::guest::program {
namespace {

// What programs leave there means nothing when they have ended.
constexpr const char* kTemporary[] = {"tmp", "var/tmp", "dev/shm", "run"};

// An agent can make a tree through which there is no quick way. What is counted is but a warning.
constexpr Duration kTakeTime = std::chrono::seconds(60);
constexpr Duration kCountTime = std::chrono::seconds(2);

std::pair<std::string, std::string> split_last(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == path.npos) return {".", path};
  return {path.substr(0, slash), path.substr(slash + 1)};
}

// A name below the top, of an absolute path or of an entry's: none of its parts empty or dots.
Result<std::string> plain(std::string_view path, ErrorCode code) {
  std::string whole(path);
  while (!path.empty()) {
    const std::string_view name = path.substr(0, path.find('/'));
    if (name.empty() || name == "." || name == "..") break;
    if (name.size() == path.size()) return whole;
    path.remove_prefix(name.size() + 1);
  }
  return Error(code, "no path of a work: \"" + whole + "\"");
}
Result<std::string> below_top(const std::string& path) {
  return plain(path.starts_with('/') ? std::string_view(path).substr(1) : std::string_view(),
               ErrorCode::kInvalidArgument);
}

struct Found {
  int directory = -1;  // that it is in
  std::string name;
  std::string path;
  struct statx st{};

  bool is(mode_t type) const { return (mode_t{st.stx_mode} & S_IFMT) == type; }
  bool is_mount() const { return (st.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0; }
};

// False if it is not there.
bool look(Found& found) {
  return ::syscall(SYS_statx, found.directory, found.name.c_str(), AT_SYMLINK_NOFOLLOW,
                   STATX_BASIC_STATS, &found.st) == 0;
}

// The sandbox's files, as its guest may see and change them.
class Files {
 public:
  Files(int top, Users users) : top_(top), users_(users) {}

  // Follows no link. Where all is one user's, the agent may have closed to us what is ours: that is
  // opened.
  Fd open(int at, const std::string& name, int flags) const {
    const int all = flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    Fd opened(::openat(at, name.c_str(), all));
    if (users_ == Users::kMany) return opened;
    struct stat st{};
    const bool closed = opened ? (flags & O_DIRECTORY) != 0 && ::fstat(opened.get(), &st) == 0 &&
                                     (st.st_mode & 0700) != 0700
                               : errno == EACCES;
    if (!closed) return opened;
    const Fd pinned(::openat(at, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (pinned && ::fstat(pinned.get(), &st) == 0) {
      const std::string itself = "/proc/self/fd/" + std::to_string(pinned.get());
      ::chmod(itself.c_str(), (st.st_mode & 07777) | 0700);
    }
    return Fd(::openat(at, name.c_str(), all));
  }

  Fd open_top() const { return Fd(::openat(top_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)); }

  // The directory, reached through no link; none, with errno, if there is none.
  Fd reach(const std::string& path) const {
    // At once where nothing is in the way,
    open_how how{};
    how.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    Fd at(static_cast<int>(::syscall(SYS_openat2, top_, path.c_str(), &how, sizeof how)));
    struct stat st{};
    const bool ours = at && (users_ == Users::kMany ||
                             (::fstat(at.get(), &st) == 0 && (st.st_mode & 0700) == 0700));
    if (ours) return at;
    // where the directory alone is closed to us, from the one it is in,
    const auto [parent_path, own_name] = split_last(path);
    at = Fd(static_cast<int>(::syscall(SYS_openat2, top_, parent_path.c_str(), &how, sizeof how)));
    if (at && ::fstat(at.get(), &st) == 0 && (st.st_mode & 0700) == 0700) {
      return open(at.get(), own_name, O_RDONLY | O_DIRECTORY);
    }
    // else name by name.
    at = open_top();
    std::string_view rest = path == "." ? std::string_view() : path;
    while (at && !rest.empty()) {
      const std::string name(rest.substr(0, rest.find('/')));
      rest.remove_prefix(std::min(rest.size(), name.size() + 1));
      at = open(at.get(), name, O_RDONLY | O_DIRECTORY);
    }
    return at;
  }
  Result<Fd> open_directory(const std::string& path) const {
    Fd directory = reach(path);
    if (!directory) return at_path(path, errno);
    return directory;
  }
  // Whether something has that path; not where only a link leads to it. What is found is in
  // `parent`.
  Result<bool> find(const std::string& path, Fd* parent, Found* found) const {
    const auto [parent_path, name] = split_last(path);
    *parent = reach(parent_path);
    if (!*parent) {
      if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP) return false;
      return at_path(path, errno);
    }
    *found = Found{parent->get(), name, path, {}};
    return look(*found);
  }

  // Calls `visit` for all that is below the directory, a directory before what is in it, and goes
  // into those for which it says so. What is mounted is not the sandbox's own.
  template <class Visit>
  Result<void> walk(std::string path, Visit visit) const {
    std::vector<std::string> waiting = {std::move(path)};
    while (!waiting.empty()) {
      const std::string here = std::move(waiting.back());
      waiting.pop_back();
      SLUICE_TRY(const Fd directory, open_directory(here));
      SLUICE_TRY(auto names, names_in(directory.get()));
      std::sort(names.begin(), names.end());
      for (const std::string& name : names) {
        Found found{directory.get(), name, below(here, name), {}};
        if (!look(found) || found.is_mount()) continue;
        SLUICE_TRY(const bool enter, visit(found));
        if (enter) waiting.push_back(std::move(found.path));
      }
    }
    return {};
  }

  // Removes what is found and all below it that is no directory; directories are noted.
  template <class Spared>
  Result<void> remove_files(const Found& found, std::set<std::string>* directories,
                            Spared spared) const {
    const auto visit = [directories](const Found& entry) -> Result<bool> {
      if (!entry.is(S_IFDIR)) {
        if (::unlinkat(entry.directory, entry.name.c_str(), 0) == 0) return false;
        return at_path(entry.path, errno);
      }
      directories->insert(entry.path);
      return true;
    };
    SLUICE_TRY(const bool enter, visit(found));
    if (!enter) return {};
    return walk(found.path, [&](const Found& entry) -> Result<bool> {
      if (spared(entry.path)) return false;
      return visit(entry);
    });
  }
  // One that is not empty, or is mounted, stays.
  void remove_directory(const std::string& path) const {
    const auto [parent_path, name] = split_last(path);
    const Fd parent = reach(parent_path);
    if (parent) ::unlinkat(parent.get(), name.c_str(), AT_REMOVEDIR);
  }

 private:
  const int top_;
  const Users users_;
};

// The paths and patterns of a request.
struct Places {
  std::vector<std::string> tops;  // below the root
  std::vector<std::string> exclude;

  template <class M>
  static Result<Places> of(const M& request) {
    Places places;
    for (const std::string& path : request.paths) {
      SLUICE_TRY(std::string top, below_top(path));
      places.tops.push_back(std::move(top));
    }
    places.exclude = request.exclude;
    return places;
  }

  const std::string* top_of(std::string_view path) const {
    for (const std::string& top : tops) {
      if (is_at_or_below(path, top)) return &top;
    }
    return nullptr;
  }
  bool excludes(const std::string& path) const {
    return std::any_of(exclude.begin(), exclude.end(),
                       [&](const std::string& pattern) { return glob_matches(pattern, path); });
  }
};

// --- Out -----------------------------------------------------------------------------------------

class Taker {
 public:
  Taker(Files files, const wire::TakeWork& request, Places places, int out)
      : files_(files),
        request_(request),
        places_(std::move(places)),
        out_(out, request.max, "the work is over " + std::to_string(request.max) + " bytes") {}

  Result<wire::WorkTaken> take() {
    for (const std::string& top : places_.tops) SLUICE_TRY_VOID(take(top));
    SLUICE_TRY_VOID(out_.finish());
    // As far as it can be: the work does not depend on it.
    if (request_.changed_ms != 0) (void)count_changed();
    return taken_;
  }

 private:
  Result<void> take(const std::string& top) {
    Fd parent;
    Found found;
    SLUICE_TRY(const bool there, files_.find(top, &parent, &found));
    if (!there) {
      if (taken_.missing.size() < wire::WorkTaken::kMaxMissing) taken_.missing.push_back("/" + top);
      return {};
    }
    SLUICE_TRY(const bool enter, add(found));
    if (!enter) return {};
    return files_.walk(top, [this](const Found& entry) -> Result<bool> {
      if (deadline_.expired()) {
        return Error(ErrorCode::kTooLarge, "the work takes too long to be gone through");
      }
      if (places_.excludes(entry.path)) return false;
      return add(entry);
    });
  }

  // Whether it is a directory, which is to be gone through.
  Result<bool> add(const Found& found) {
    const auto& st = found.st;
    if (!found.is(S_IFDIR) && !found.is(S_IFREG) && !found.is(S_IFLNK)) {
      ++taken_.left_out;
      return false;
    }
    if (++taken_.entries > request_.max_entries) {
      return Error(
          ErrorCode::kTooLarge,
          "the work has over " + std::to_string(request_.max_entries) + " files and directories");
    }
    if (found.path.size() >= wire::kMaxPath) {
      return Error(ErrorCode::kTooLarge, "/" + found.path.substr(0, 200) + "...: too deep to take");
    }
    Entry entry;
    entry.path = found.path;
    entry.mode = st.stx_mode & 0777;
    entry.seconds = static_cast<uint64_t>(st.stx_mtime.tv_sec);
    entry.nanoseconds = st.stx_mtime.tv_nsec;
    if (found.is(S_IFDIR)) {
      entry.kind = EntryKind::kDirectory;
      SLUICE_TRY_VOID(out_.put(entry));
      return true;
    }
    if (found.is(S_IFLNK)) {
      char text[PATH_MAX];
      const ssize_t n = ::readlinkat(found.directory, found.name.c_str(), text, sizeof text);
      if (n < 0) return at_path(found.path, errno);
      entry.kind = EntryKind::kSymlink;
      entry.link.assign(text, static_cast<size_t>(n));
      SLUICE_TRY_VOID(out_.put(entry));
      return false;
    }
    const Fd file = files_.open(found.directory, found.name, O_RDONLY);
    struct stat now{};
    if (!file || ::fstat(file.get(), &now) != 0) return at_path(found.path, errno);
    if (!S_ISREG(now.st_mode)) return at_path(found.path, EIO);
    entry.kind = EntryKind::kFile;
    entry.size = static_cast<uint64_t>(now.st_size);
    SLUICE_TRY_VOID(out_.put(entry));
    SLUICE_TRY_VOID(out_.put_content(file.get(), entry.size, found.path));
    return false;
  }

  // By the time of the last change of any kind, which nobody can set.
  Result<void> count_changed() {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    constexpr uint64_t kEver = uint64_t{1} << 40;
    const Deadline until = Deadline::in(kCountTime).earlier(deadline_);
    constexpr int64_t kSecond = 1'000'000'000;
    const int64_t since = now.tv_sec * kSecond + now.tv_nsec -
                          static_cast<int64_t>(std::min(request_.changed_ms, kEver)) * 1'000'000;
    return files_.walk(".", [&](const Found& found) -> Result<bool> {
      if (until.expired()) return Error(ErrorCode::kTimedOut, "counting takes too long");
      if (places_.top_of(found.path) != nullptr) return false;
      for (const char* temporary : kTemporary) {
        if (found.path == temporary) return false;
      }
      // As deep as a path can name it.
      if (found.is(S_IFDIR)) return found.path.size() < wire::kMaxPath;
      const auto& changed = found.st.stx_ctime;
      if (changed.tv_sec * kSecond + changed.tv_nsec >= since) ++taken_.changed;
      return false;
    });
  }

  const Files files_;
  const wire::TakeWork& request_;
  const Places places_;
  EntryWriter out_;
  wire::WorkTaken taken_;
  const Deadline deadline_ = Deadline::in(kTakeTime);
};

// --- In ------------------------------------------------------------------------------------------

class Putter {
 public:
  Putter(Files files, Places places, int in, const User& owner, Users users)
      : files_(files), places_(std::move(places)), in_(in), owner_(owner), users_(users) {}

  Result<void> put() {
    for (const std::string& top : places_.tops) SLUICE_TRY_VOID(clear(top));
    for (;;) {
      SLUICE_TRY(const Entry entry, in_.next());
      if (entry.kind == EntryKind::kEnd) break;
      auto made = make(entry);
      if (!made) return std::move(made).error().within("put /" + entry.path);
    }
    parent_.reset();
    for (auto path = left_.rbegin(); path != left_.rend(); ++path) files_.remove_directory(*path);
    // At the end: making what is in a directory changes its times and needs a permission that it
    // may deny.
    for (auto entry = directories_.rbegin(); entry != directories_.rend(); ++entry) {
      SLUICE_TRY_VOID(finish(*entry));
    }
    return {};
  }

 private:
  // Removes what is no directory. A directory may come again, and is removed only if it did not:
  // one of a container image cannot be made anew by every kernel.
  Result<void> clear(const std::string& top) {
    Fd parent;
    Found found;
    SLUICE_TRY(const bool there, files_.find(top, &parent, &found));
    if (!there) return {};
    return files_.remove_files(found, &left_,
                               [this](const std::string& path) { return places_.excludes(path); });
  }

  void remove_tree(const std::string& path) {
    // All below it and nothing else: '0' comes behind '/'.
    const auto first = left_.lower_bound(path + "/");
    auto last = left_.lower_bound(path + "0");
    while (last != first) {
      --last;
      files_.remove_directory(*last);
    }
    left_.erase(first, left_.lower_bound(path + "0"));
    if (left_.erase(path) != 0) files_.remove_directory(path);
  }

  Result<void> make(const Entry& entry) {
    SLUICE_TRY(const std::string path, plain(entry.path, ErrorCode::kProtocol));
    const std::string* top = places_.top_of(path);
    if (top == nullptr || glob_covers(places_.exclude, *top, path)) {
      return Error(ErrorCode::kProtocol, "it does not belong to the work");
    }
    const auto [parent_path, name] = split_last(path);
    SLUICE_TRY_VOID(go_to(parent_path));
    const int parent = parent_.get();
    if (entry.kind == EntryKind::kDirectory) {
      left_.erase(path);
      if (::mkdirat(parent, name.c_str(), 0700) != 0 && errno != EEXIST) {
        return at_path(path, errno);
      }
      const Fd made = files_.open(parent, name, O_RDONLY | O_DIRECTORY);
      if (!made) return at_path(path, errno);
      directories_.push_back(entry);
      return own(made.get(), "", AT_EMPTY_PATH, path);
    }
    remove_tree(path);
    if (entry.kind == EntryKind::kSymlink) {
      if (::symlinkat(entry.link.c_str(), parent, name.c_str()) != 0) {
        return errno == EEXIST ? Result<void>() : at_path(path, errno);
      }
      SLUICE_TRY_VOID(own(parent, name.c_str(), AT_SYMLINK_NOFOLLOW, path));
      ::utimensat(parent, name.c_str(), times_of(entry).data(), AT_SYMLINK_NOFOLLOW);
      return {};
    }
    if (entry.kind != EntryKind::kFile) {
      return Error(ErrorCode::kProtocol, "a work holds no such thing");
    }
    const Fd file(
        ::openat(parent, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file) {
      // Something is spared below this name.
      return errno == EEXIST ? in_.take_content(entry, -1) : at_path(path, errno);
    }
    SLUICE_TRY_VOID(in_.take_content(entry, file.get()));
    SLUICE_TRY_VOID(own(file.get(), "", AT_EMPTY_PATH, path));
    if (::fchmod(file.get(), entry.mode & 0777) != 0) return at_path(path, errno);
    ::futimens(file.get(), times_of(entry).data());
    return {};
  }

  // Makes `parent_` that directory, which is made if it is missing. Most often it is that already.
  Result<void> go_to(const std::string& path) {
    if (parent_ && parent_path_ == path) return {};
    parent_ = files_.reach(path);
    if (!parent_ && errno == ENOENT && path != ".") {
      const auto [above, name] = split_last(path);
      SLUICE_TRY_VOID(go_to(above));
      if (::mkdirat(parent_.get(), name.c_str(), 0755) != 0) return at_path(path, errno);
      SLUICE_TRY_VOID(own(parent_.get(), name.c_str(), AT_SYMLINK_NOFOLLOW, path));
      parent_ = files_.reach(path);
    }
    if (!parent_) return at_path(path, errno);
    parent_path_ = path;
    return {};
  }

  Result<void> own(int at, const char* name, int flags, const std::string& path) const {
    if (users_ == Users::kSingle) return {};
    if (::fchownat(at, name, owner_.uid, owner_.gid, flags) == 0) return {};
    return at_path(path, errno);
  }

  Result<void> finish(const Entry& entry) const {
    SLUICE_TRY(const Fd made, files_.open_directory(entry.path));
    ::futimens(made.get(), times_of(entry).data());
    // Whoever judges must get into what is taken.
    const auto& tops = places_.tops;
    const bool is_top = std::find(tops.begin(), tops.end(), entry.path) != tops.end();
    const mode_t mode = (entry.mode & 0777) | (is_top ? 0700 : 0);
    if (::fchmod(made.get(), mode) != 0) return at_path(entry.path, errno);
    return {};
  }

  const Files files_;
  const Places places_;
  EntryReader in_;
  const User& owner_;
  const Users users_;
  std::string parent_path_;  // of parent_
  Fd parent_;
  std::set<std::string> left_;  // directories that were there and have not come
  std::vector<Entry> directories_;
};

Result<Fd> open_root() {
  Fd top(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!top) return errno_error("/", errno);
  return top;
}

}  // namespace

Result<wire::WorkTaken> take_work(int top, const wire::TakeWork& request, int out, Users users) {
  SLUICE_TRY(Places places, Places::of(request));
  return Taker(Files(top, users), request, std::move(places), out).take();
}

Result<void> put_work(int top, const wire::PutWork& request, int in, const User& owner,
                      Users users) {
  SLUICE_TRY(Places places, Places::of(request));
  return Putter(Files(top, users), std::move(places), in, owner, users).put();
}

Result<void> make_way(int top, const wire::MakeWay& request, Users users) {
  SLUICE_TRY(const std::string path, below_top(request.path));
  std::string within;
  if (!request.below.empty()) {
    SLUICE_TRY(within, below_top(request.below));
  }
  const Files files(top, users);
  Fd at = files.open_top();
  for (size_t begin = 0; at;) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const bool is_file = end == path.size();
    Found found{at.get(), path.substr(begin, end - begin), path.substr(0, end), {}};
    begin = end + 1;
    const bool theirs = !within.empty() && is_at_or_below(found.path, within);
    bool there = look(found);
    if (there && !found.is(is_file ? S_IFREG : S_IFDIR)) {
      if (!theirs) {
        return Error(ErrorCode::kFailedPrecondition,
                     "/" + found.path + (is_file ? " is no file" : " is a link or no directory"));
      }
      std::set<std::string> directories;
      SLUICE_TRY_VOID(files.remove_files(found, &directories, [](const auto&) { return false; }));
      for (auto directory = directories.rbegin(); directory != directories.rend(); ++directory) {
        files.remove_directory(*directory);
      }
      there = false;
    }
    if (is_file) return {};
    if (!there && ::mkdirat(at.get(), found.name.c_str(), 0755) != 0) {
      if (errno != EROFS) return at_path(found.path, errno);
      return Error(ErrorCode::kFailedPrecondition, "/" + found.path + ": on what is read-only");
    }
    at = files.open(at.get(), found.name, O_RDONLY | O_DIRECTORY);
    // Nor is one that lets nobody in.
    if (at && there && theirs) ::fchmod(at.get(), (found.st.stx_mode & 07777) | 0700);
  }
  return at_path(path, errno);
}

Result<VerbReply> carry_out(const wire::TakeWork& request, const VerbProcess& process) {
  SLUICE_TRY(const Fd top, open_root());
  SLUICE_TRY(const auto taken, take_work(top.get(), request, process.out, process.users));
  return wire::encode(taken);
}

Result<VerbReply> carry_out(const wire::PutWork& request, const VerbProcess& process) {
  SLUICE_TRY(const Fd top, open_root());
  SLUICE_TRY_VOID(put_work(top.get(), request, process.in, process.user, process.users));
  return Bytes();
}

Result<VerbReply> carry_out(const wire::MakeWay& request, const VerbProcess& process) {
  SLUICE_TRY(const Fd top, open_root());
  SLUICE_TRY_VOID(make_way(top.get(), request, process.users));
  return Bytes();
}

}  // namespace sluice::guest::program
