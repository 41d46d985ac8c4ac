// The verbs that give files away: give_tree, and hand_over, which makes ready for a verifier what
// an agent left.
#include <fcntl.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "sluice/base/core/defer.h"
#include "sluice/base/core/syscalls.h"
#include "sluice/guest/program/files.h"
#include "sluice/guest/program/tree.h"

namespace sluice::guest::program {
namespace {

using Inode = std::pair<dev_t, ino_t>;

constexpr size_t kPiece = 64 * 1024;
// Of files with names elsewhere, all together.
constexpr uint64_t kMaxCopied = uint64_t{1} << 30;
constexpr int kSweepDepth = 64;
constexpr int kMaxLinks = 40;  // as the kernel's
constexpr size_t kMaxTable = 16 * 1024 * 1024;

// False for what is on a read-only mount.
Result<bool> give(int entry, const User& owner, const std::string& path) {
  if (::fchownat(entry, "", owner.uid, owner.gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0) {
    return true;
  }
  if (errno == EROFS) return false;
  return path_error("chown in " + path, errno);
}

// Of a descriptor that only pins its file.
int change_mode(const Fd& pinned, mode_t mode) {
  return ::chmod(("/proc/self/fd/" + std::to_string(pinned.get())).c_str(), mode);
}

Fd pin_directory(int at, const std::string& name) {
  return Fd(::openat(at, name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

// Puts a copy into the file's place, to which no other name leads. False, with the file as it was,
// if that fails: there may be no room.
bool replace_by_copy(int directory, const std::string& name, int entry, const struct stat& st,
                     const User& owner) {
  const Fd from(::open(("/proc/self/fd/" + std::to_string(entry)).c_str(), O_RDONLY | O_CLOEXEC));
  const std::string temporary = random_name();
  const Fd to(::openat(directory, temporary.c_str(),
                       O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!from || !to) return false;
  Defer remove([&] { ::unlinkat(directory, temporary.c_str(), 0); });
  std::vector<char> buffer(kPiece);
  for (;;) {
    const ssize_t n = TEMP_FAILURE_RETRY(::read(from.get(), buffer.data(), buffer.size()));
    if (n < 0) return false;
    if (n == 0) break;
    if (!write_all(to.get(), {buffer.data(), static_cast<size_t>(n)})) return false;
  }
  const timespec times[] = {{0, UTIME_OMIT}, st.st_mtim};
  if (::fchown(to.get(), owner.uid, owner.gid) != 0 || ::fchmod(to.get(), st.st_mode & 0777) != 0 ||
      ::futimens(to.get(), times) != 0 ||
      ::renameat(directory, temporary.c_str(), directory, name.c_str()) != 0) {
    return false;
  }
  remove.cancel();
  return true;
}

struct Gift {
  std::string path;  // of the tree, for errors
  User to;
  // Whose files with a name elsewhere are replaced by copies; none: they are left alone.
  std::optional<uid_t> copied;
  TooDeep too_deep = TooDeep::kFail;
};
struct Given {
  std::set<Inode> left;  // not given: perhaps a place its owner must not get at
  size_t too_deep = 0;
};

// Gives what is below `top`, and `top` itself at last.
Result<Given> give_all(const Fd& top, const Gift& gift) {
  Given given;
  std::map<Inode, nlink_t> names;
  auto one = [&](int entry, const struct stat& st) -> Result<void> {
    SLUICE_TRY(const bool done, give(entry, gift.to, gift.path));
    if (!done) given.left.emplace(st.st_dev, st.st_ino);
    return {};
  };
  // How many names each file with several has within the tree. One with more names than that has a
  // name outside.
  auto first = [&](int, const std::string&, int entry, const struct stat& st) -> Result<void> {
    if (S_ISDIR(st.st_mode) || st.st_nlink == 1) return one(entry, st);
    ++names[{st.st_dev, st.st_ino}];
    return {};
  };
  SLUICE_TRY(given.too_deep,
             walk(open_directory_at(top.get(), "."), gift.path, gift.too_deep, first));
  uint64_t copied = 0;
  auto second = [&](int directory, const std::string& name, int entry,
                    const struct stat& st) -> Result<void> {
    const auto found = names.find({st.st_dev, st.st_ino});
    if (S_ISDIR(st.st_mode) || found == names.end()) return {};
    if (found->second >= st.st_nlink) return one(entry, st);
    const auto size = static_cast<uint64_t>(st.st_size);
    if (gift.copied && st.st_uid == *gift.copied && S_ISREG(st.st_mode) &&
        size <= kMaxCopied - copied && replace_by_copy(directory, name, entry, st, gift.to)) {
      copied += size;
      --found->second;
    } else {
      given.left.insert(found->first);
    }
    return {};
  };
  if (!names.empty()) {
    SLUICE_TRY_VOID(walk(open_directory_at(top.get(), "."), gift.path, gift.too_deep, second));
  }
  SLUICE_TRY(const bool done, give(top.get(), gift.to, gift.path));
  if (!done) return path_error(gift.path, EROFS);
  return given;
}

class Handover {
 public:
  Handover(const wire::HandOver& request, const VerbProcess& process, User from)
      : request_(request), process_(process), from_(std::move(from)) {}

  Result<wire::HandedOver> run() {
    // First what may make room.
    for (const std::string& path : request_.shared) {
      sweep(open_directory_at(AT_FDCWD, path.c_str()), path, kSweepDepth);
    }
    SLUICE_TRY_VOID(directory(request_.home));
    SLUICE_TRY_VOID(give_workdir());
    SLUICE_TRY_VOID(empty_place());
    SLUICE_TRY_VOID(make_link());
    if (!request_.shared.empty()) remove_ipc();
    find_programs();
    return std::move(done_);
  }

 private:
  bool one_user() const { return process_.users == Users::kSingle; }

  void note(std::string text) {
    if (done_.notes.size() == wire::HandedOver::kMaxNotes) return;
    text.resize(std::min(text.size(), wire::HandedOver::kMaxNote));
    done_.notes.push_back(std::move(text));
  }

  // The directory at `path`. On the way to it everything else goes, what is missing is made, and
  // what is the agent's can be passed through by everybody.
  Result<Fd> directory(const std::string& path) {
    Fd at(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!at) return path_error("/", errno);
    std::istringstream names(path);
    std::string way;
    for (std::string name; std::getline(names, name, '/');) {
      if (name.empty() || name == ".") continue;
      if (name == "..") return Error(ErrorCode::kInvalidArgument, path + ": \"..\" in a path");
      way += "/" + name;
      Fd next = pin_directory(at.get(), name);
      if (!next && (errno == ENOTDIR || errno == ELOOP)) {
        SLUICE_TRY_VOID(remove_entry(at.get(), name, way));
        note(way + " was no directory: it was removed");
        errno = ENOENT;
      } else if (!next && errno == ENOENT && path == request_.workdir) {
        note(way + " was gone: it was made again");
        errno = ENOENT;
      }
      if (!next && errno == ENOENT) {
        if (::mkdirat(at.get(), name.c_str(), 0755) != 0) return path_error(way, errno);
        next = pin_directory(at.get(), name);
        if (next && !one_user()) SLUICE_TRY_VOID(give(next.get(), from_, way));
      }
      struct stat st{};
      if (!next || ::fstat(next.get(), &st) != 0) return path_error(way, errno);
      if (st.st_uid == from_.uid && (st.st_mode & 0755) != 0755 && way != request_.place) {
        if (change_mode(next, (st.st_mode & 0777) | 0755) != 0) return path_error(way, errno);
        note(way + " was closed: it was opened");
      }
      at = std::move(next);
    }
    return at;
  }

  Result<void> give_workdir() {
    SLUICE_TRY(const Fd workdir, directory(request_.workdir));
    // With a single user there is nobody to give anything to.
    if (one_user()) return {};
    const Gift gift{request_.workdir, process_.user, from_.uid, TooDeep::kLeave};
    SLUICE_TRY(const Given given, give_all(workdir, gift));
    if (!given.left.empty()) {
      note(std::to_string(given.left.size()) +
           " files of the workdir also have names outside it and were not given to the verifier");
    }
    if (given.too_deep > 0) {
      note(request_.workdir + " is over " + std::to_string(tree_depth_limit()) +
           " directories deep: what is below was not given to the verifier");
    }
    return {};
  }

  // The verifier's own directory, with one for temporary files.
  Result<void> empty_place() {
    const std::string& path = request_.place;
    SLUICE_TRY(const Fd place, directory(path));
    if (change_mode(place, 0700) != 0) return path_error(path, errno);
    SLUICE_TRY_VOID(empty_directory(place.get(), path));
    if (::mkdirat(place.get(), "tmp", 0700) != 0) return path_error(path, errno);
    if (one_user()) return {};
    const Fd temporary = pin_directory(place.get(), "tmp");
    if (!temporary) return path_error(path, errno);
    SLUICE_TRY_VOID(give(temporary.get(), process_.user, path));
    SLUICE_TRY_VOID(give(place.get(), process_.user, path));
    return {};
  }

  // One that is there already is kept: for another there may be no inode. Nobody changes it then.
  Result<void> make_link() {
    const auto [parent_path, name] = split_last(request_.link);
    SLUICE_TRY(const Fd parent, directory(parent_path));
    if (!one_user()) SLUICE_TRY_VOID(give(parent.get(), User(), parent_path));
    char target[PATH_MAX];
    const ssize_t n = ::readlinkat(parent.get(), name.c_str(), target, sizeof target);
    if (n > 0 && ByteView(target, static_cast<size_t>(n)) == request_.place) return {};
    if (n > 0 || errno != ENOENT) note(request_.link + " was not the verifier's: it was removed");
    SLUICE_TRY_VOID(remove_entry(parent.get(), name, request_.link));
    if (::symlinkat(request_.place.c_str(), parent.get(), name.c_str()) != 0) {
      return path_error(request_.link, errno);
    }
    return {};
  }

  // Removes what is the agent's, with all that is in it.
  void sweep(const Fd& directory, const std::string& path, int depth) {
    struct stat top{}, st{};
    if (!directory || ::fstat(directory.get(), &top) != 0) return;
    const auto names = names_in(directory.get());
    if (!names) return;
    for (const std::string& name : *names) {
      if (::fstatat(directory.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
      if (st.st_dev != top.st_dev) continue;
      const std::string below = path + "/" + name;
      if (st.st_uid == from_.uid) {
        const auto removed = remove_entry(directory.get(), name, below);
        if (!removed) note("the agent's " + removed.error().message + " (it could not be removed)");
      } else if (S_ISDIR(st.st_mode) && depth > 0) {
        sweep(open_directory_at(directory.get(), name.c_str()), below, depth - 1);
      }
    }
  }

  // System V's shared memory, semaphores and message queues. (POSIX's are files.)
  void remove_ipc() const {
    struct Table {
      const char* name;
      size_t owner;  // its column; two further on is who made it
      int (*remove)(int id);
    };
    static constexpr Table kTables[] = {{"shm", 7,
                                         [](int id) {
                                           return ::shmctl(id, IPC_RMID, nullptr);
                                         }},
                                        {"sem", 4,
                                         [](int id) {
                                           return ::semctl(id, 0, IPC_RMID);
                                         }},
                                        {"msg", 7, [](int id) {
                                           return ::msgctl(id, IPC_RMID, nullptr);
                                         }}};
    // Only who owns or made it may remove it.
    if (!one_user() && ::seteuid(from_.uid) != 0) return;
    const std::string agent = std::to_string(from_.uid);
    for (const Table& table : kTables) {
      const auto text = read_file(std::string("/proc/sysvipc/") + table.name, kMaxTable);
      if (!text) continue;  // the kernel has none
      std::istringstream lines(*text);
      for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::vector<std::string> row;
        for (std::string word; words >> word;) row.push_back(std::move(word));
        if (row.size() < table.owner + 3) continue;
        if (row[table.owner] != agent && row[table.owner + 2] != agent) continue;
        const auto id = parse_decimal(row[1]);
        if (id && *id <= INT_MAX) table.remove(static_cast<int>(*id));
      }
    }
    if (!one_user()) (void)::seteuid(0);
  }

  bool agent_can_change(const struct stat& st) const {
    if (st.st_uid == from_.uid || (st.st_mode & 0002) != 0) return true;
    const bool in_group =
        st.st_gid == from_.gid ||
        std::find(from_.groups.begin(), from_.groups.end(), st.st_gid) != from_.groups.end();
    return in_group && (st.st_mode & 0020) != 0;
  }

  // What `path` leads to, if the agent can change neither that nor anything on the way, of links as
  // well; none else. Where all are one user, he can change everything.
  Fd open_safely(const std::string& path) const {
    if (one_user()) return Fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
    Fd at;
    std::string rest = path;
    for (int links = 0; links <= kMaxLinks;) {
      struct stat st{};
      if (rest.starts_with('/')) {
        at = Fd(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (!at || ::fstat(at.get(), &st) != 0 || agent_can_change(st)) return Fd();
      }
      rest.erase(0, std::min(rest.find_first_not_of('/'), rest.size()));
      if (rest.empty()) return at;
      const std::string name = rest.substr(0, rest.find('/'));
      rest.erase(0, std::min(name.size() + 1, rest.size()));
      Fd next(::openat(at.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
      if (!next || ::fstat(next.get(), &st) != 0) return Fd();
      if (S_ISLNK(st.st_mode)) {
        char target[PATH_MAX];
        const ssize_t n = ::readlinkat(next.get(), "", target, sizeof target);
        if (n <= 0) return Fd();
        rest.insert(0, std::string(target, static_cast<size_t>(n)) + "/");
        ++links;
        continue;
      }
      if (agent_can_change(st)) return Fd();
      at = std::move(next);
    }
    return Fd();
  }

  void find_programs() {
    std::vector<std::string> directories;
    std::istringstream all(request_.path);
    for (std::string directory; std::getline(all, directory, ':');) {
      struct stat st{};
      const Fd opened = directory.starts_with('/') ? open_safely(directory) : Fd();
      if (!opened || ::fstat(opened.get(), &st) != 0 || !S_ISDIR(st.st_mode)) continue;
      done_.path += (directories.empty() ? "" : ":") + directory;
      directories.push_back(std::move(directory));
    }
    for (const char* name : {"/bash", "/sh"}) {
      for (const std::string& directory : directories) {
        struct stat st{};
        const Fd program = open_safely(directory + name);
        if (!program || ::fstat(program.get(), &st) != 0) continue;
        if (!S_ISREG(st.st_mode) || (st.st_mode & 0001) == 0) continue;
        done_.shell = directory + name;
        return;
      }
    }
  }

  const wire::HandOver& request_;
  const VerbProcess& process_;
  const User from_;
  wire::HandedOver done_;
};

}  // namespace

Result<VerbReply> carry_out(const wire::GiveTree& request, const VerbProcess& process) {
  SLUICE_TRY(const std::string path, checked(request.path));
  SLUICE_TRY(const Fd top, open_plain(path, Missing::kError, nullptr));
  // With a single user there is nobody to give anything to.
  if (process.users == Users::kSingle) return wire::encode(wire::Count{0});
  SLUICE_TRY(const Given given, give_all(top, {path, process.user, std::nullopt, TooDeep::kFail}));
  return wire::encode(wire::Count{given.left.size()});
}

Result<VerbReply> carry_out(const wire::HandOver& request, const VerbProcess& process) {
  for (const std::string* path : {&request.home, &request.workdir, &request.place, &request.link}) {
    SLUICE_TRY_VOID(checked(*path));
  }
  SLUICE_TRY(User from, look_up_user(request.from));
  SLUICE_TRY(const wire::HandedOver done, Handover(request, process, std::move(from)).run());
  return wire::encode(done);
}

}  // namespace sluice::guest::program
