#include "sluice/sandbox/local/helper/construct.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "sluice/base/core/fd.h"

namespace sluice::sandbox::local {
namespace {

// What the guest keeps: to become users, end their processes and arrange their files.
constexpr int kKept[] = {CAP_SETUID, CAP_SETGID, CAP_KILL, CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER};

bool is_kept(int capability) {
  for (const int kept : kKept) {
    if (kept == capability) return true;
  }
  return false;
}

[[noreturn]] void fail(int report, const std::string& what, int failure) {
  Error error = errno_error(what, failure);
  Bytes message(1, static_cast<char>(error.code));
  message.append(error.message);
  // Nobody else is to be told.
  [[maybe_unused]] const auto ignored = ::write(report, message.data(), message.size());
  ::_exit(1);
}

// A copy of the mount (and all below it) at `path`, attached nowhere yet.
Fd clone_tree(int at, const char* path) {
  return Fd(static_cast<int>(
      ::syscall(SYS_open_tree, at, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE)));
}

int restrict(int tree, uint8_t flags) {
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_NOSUID;
  if ((flags & Step::kReadOnly) != 0) attributes.attr_set |= MOUNT_ATTR_RDONLY;
  if ((flags & Step::kNoExec) != 0) attributes.attr_set |= MOUNT_ATTR_NOEXEC;
  if ((flags & Step::kDevices) == 0) attributes.attr_set |= MOUNT_ATTR_NODEV;
  return static_cast<int>(::syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE,
                                    &attributes, sizeof attributes));
}

int attach(int tree, int at, const char* path) {
  return static_cast<int>(::syscall(SYS_move_mount, tree, "", at, path, MOVE_MOUNT_F_EMPTY_PATH));
}

// A filesystem that is being configured.
class NewFilesystem {
 public:
  explicit NewFilesystem(const char* type)
      : fs_(static_cast<int>(::syscall(SYS_fsopen, type, FSOPEN_CLOEXEC))),
        good_(static_cast<bool>(fs_)) {}
  void set(const char* key, const std::string& value) {
    good_ = good_ &&
            ::syscall(SYS_fsconfig, fs_.get(), FSCONFIG_SET_STRING, key, value.c_str(), 0) == 0;
  }
  void set(const char* key) {
    good_ = good_ && ::syscall(SYS_fsconfig, fs_.get(), FSCONFIG_SET_FLAG, key, nullptr, 0) == 0;
  }
  // Attached nowhere yet; none, with errno, if anything failed.
  Fd mount(unsigned attributes) {
    if (!good_ ||
        ::syscall(SYS_fsconfig, fs_.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
      return Fd();
    }
    return Fd(static_cast<int>(::syscall(SYS_fsmount, fs_.get(), FSMOUNT_CLOEXEC, attributes)));
  }

 private:
  Fd fs_;
  bool good_;
};

// Where a step works: a name in a directory.
struct Place {
  Fd directory;  // none: the working directory
  std::string name;
  bool good = true;
  int at() const { return directory ? directory.get() : AT_FDCWD; }
  const char* c_str() const { return name.c_str(); }
};

bool is_directory(int at, const char* name) {
  struct stat st{};
  return ::fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

// Makes what a bind is put onto, if it is not there: a directory or an empty file, as the source.
int make_target(int tree, const Place& place) {
  struct stat st{};
  if (::fstat(tree, &st) != 0) return -1;
  const int made = S_ISDIR(st.st_mode) ? ::mkdirat(place.at(), place.c_str(), 0755)
                                       : ::mknodat(place.at(), place.c_str(), S_IFREG | 0644, 0);
  if (made == 0) return 0;
  return errno == EEXIST ? 0 : -1;
}

class Builder {
 public:
  Builder(const Setup& setup, int report) : setup_(setup), report_(report) {}

  // What comes from the host is taken while this process still is the host's user, who may go
  // where the sandbox's may not, and before anything covers it. First what all sandboxes have.
  void take_common_sources() { take_all(setup_.root); }

  void take_sources(Create create, Fd image) {
    create_ = std::move(create);
    image_ = std::move(image);
    if (create_.whole_root) sources_.clear();
    take_all(create_.extra);
    if (!create_.kept_home.empty()) {
      home_ = clone_tree(AT_FDCWD, create_.kept_home.c_str());
      if (!home_ || restrict(home_.get(), 0) != 0) fail(report_, create_.kept_home, errno);
    }
    if (has_image() && !image_) {
      image_ = Fd(static_cast<int>(::syscall(SYS_open_tree, AT_FDCWD, create_.image_root.c_str(),
                                             OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
      if (!image_ || restrict(image_.get(), Step::kReadOnly) != 0) {
        fail(report_, create_.image_root, errno);
      }
    }
  }

  void make_root() {
    NewFilesystem fs("tmpfs");
    fs.set("mode", "0755");
    if (create_.disk_bytes != 0) fs.set("size", std::to_string(create_.disk_bytes));
    if (create_.disk_inodes != 0) fs.set("nr_inodes", std::to_string(create_.disk_inodes));
    root_ = fs.mount(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    if (!root_) fail(report_, "make the root filesystem", errno);
    // It needs a place until it is the root. This one is there on every machine, its content is
    // among the sources already, and only this process sees it covered.
    if (attach(root_.get(), AT_FDCWD, "/usr") != 0 || ::fchdir(root_.get()) != 0) {
      fail(report_, "mount the root filesystem", errno);
    }
    if (has_image()) lay_over_image();
  }

  void build() {
    auto source = sources_.begin();
    auto carry_out_all = [&](const std::vector<Step>& steps) {
      for (const Step& step : steps) {
        if (carry_out(step, *source++) != 0) fail(report_, "make /" + step.path, errno);
      }
    };
    if (!create_.whole_root) carry_out_all(setup_.root);
    if (home_ && create_.whole_root) fail(report_, "keep the home of an image", EINVAL);
    if (home_ && attach(home_.get(), AT_FDCWD, "home/user") != 0) {
      fail(report_, "mount /home/user", errno);
    }
    carry_out_all(create_.extra);
    home_.reset();
    sources_.clear();
  }

  void enter() {
    if (::fchdir(root_.get()) != 0 || ::syscall(SYS_pivot_root, ".", ".") != 0 ||
        ::umount2(".", MNT_DETACH) != 0 || ::chdir("/") != 0) {
      fail(report_, "change the root", errno);
    }
    root_.reset();
  }

 private:
  bool has_image() const { return !create_.image_root.empty(); }

  // The root is then an overlay: below the image, read-only, above it the filesystem of bounded
  // size. That one is seen nowhere once the root has changed.
  void lay_over_image() {
    for (const char* name : {"image", "changes", "work", "root"}) {
      if (::mkdir(name, 0755) != 0) fail(report_, kNoOverlay, errno);
    }
    if (attach(image_.get(), AT_FDCWD, "image") != 0) fail(report_, kNoOverlay, errno);
    image_ = clone_tree(AT_FDCWD, "image");
    NewFilesystem fs("overlay");
    fs.set("lowerdir", "image");
    fs.set("upperdir", "changes");
    fs.set("workdir", "work");
    fs.set("userxattr");  // what it notes down is ours to write, as no root of the host
    Fd overlay = fs.mount(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    if (!overlay || attach(overlay.get(), AT_FDCWD, "root") != 0 || ::fchdir(overlay.get()) != 0) {
      fail(report_, kNoOverlay, errno);
    }
    root_ = std::move(overlay);
    // The guest tells from it what has changed.
    constexpr char kPlace[] = ".image";
    if (!is_directory(AT_FDCWD, kPlace)) ::unlink(kPlace);
    const bool made = ::mkdir(kPlace, 0755) == 0 || errno == EEXIST;
    if (!made || !image_ || attach(image_.get(), AT_FDCWD, kPlace) != 0) {
      fail(report_, "show the image", errno);
    }
    image_.reset();
  }

  // Links in an image lead where they like, but never out of the new root.
  Fd open_within(const char* path) const {
    open_how how{};
    how.flags = O_PATH | O_CLOEXEC;
    how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    return Fd(static_cast<int>(::syscall(SYS_openat2, root_.get(), path, &how, sizeof how)));
  }
  // Without an image every link below the root is our own.
  Place place_of(const std::string& path) const {
    Place place;
    place.name = path;
    if (!has_image()) return place;
    const size_t slash = path.rfind('/');
    place.directory = open_within(slash == path.npos ? "." : path.substr(0, slash).c_str());
    place.name = path.substr(slash + 1);
    place.good = static_cast<bool>(place.directory);
    return place;
  }
  Fd clone_inside(const char* path) const {
    if (!has_image()) return clone_tree(AT_FDCWD, path);
    const Fd opened = open_within(path);
    if (!opened) return Fd();
    return Fd(static_cast<int>(
        ::syscall(SYS_open_tree, opened.get(), "",
                  OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE | AT_EMPTY_PATH)));
  }

  int make_directory(const Step& step, const Place& place) {
    const bool replaces = (step.flags & Step::kReplace) != 0;
    if (replaces && !is_directory(place.at(), place.c_str())) {
      ::unlinkat(place.at(), place.c_str(), 0);
    }
    if (::mkdirat(place.at(), place.c_str(), step.mode & 0777) != 0) {
      if (errno != EEXIST) return -1;
      if (!replaces) return 0;
    }
    // With one user all is his already, and nobody else is known.
    const bool owned = setup_.mapping != Mapping::kOwn;
    if (owned && (step.uid != 0 || replaces) &&
        ::fchownat(place.at(), place.c_str(), step.uid, step.gid, AT_SYMLINK_NOFOLLOW) != 0) {
      return -1;
    }
    // Bits that mkdir does not take: the sticky one.
    if ((step.mode & ~0777u) == 0 && !replaces) return 0;
    return ::fchmodat(place.at(), place.c_str(), step.mode, 0);
  }

  void take_all(const std::vector<Step>& steps) {
    for (const Step& step : steps) {
      const bool outside = step.kind == Step::Kind::kBind && (step.flags & Step::kInside) == 0;
      sources_.emplace_back(outside ? take(step) : Fd());
    }
  }

  Fd take(const Step& step) {
    Fd tree = clone_tree(AT_FDCWD, step.text.c_str());
    if (!tree) {
      if ((step.flags & Step::kOptional) != 0 && (errno == ENOENT || errno == EACCES)) return Fd();
      fail(report_, "bind " + step.text, errno);
    }
    if (restrict(tree.get(), step.flags) != 0) fail(report_, "bind " + step.text, errno);
    return tree;
  }

  int carry_out(const Step& step, const Fd& source) {
    const Place place = place_of(step.path);
    if (!place.good) return -1;
    const int at = place.at();
    const char* name = place.c_str();
    const bool replaces = (step.flags & Step::kReplace) != 0;
    switch (step.kind) {
      case Step::Kind::kDirectory:
        return make_directory(step, place);
      case Step::Kind::kFile: {
        if (replaces) ::unlinkat(at, name, 0);
        const Fd file(
            ::openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, step.mode));
        if (!file) return -1;
        const auto n = ::write(file.get(), step.text.data(), step.text.size());
        return n == static_cast<ssize_t>(step.text.size()) ? 0 : -1;
      }
      case Step::Kind::kSymlink:
        if (replaces) ::unlinkat(at, name, 0);
        return ::symlinkat(step.text.c_str(), at, name);
      case Step::Kind::kBind:
        return bind(step, place, source);
      case Step::Kind::kProc: {
        NewFilesystem fs("proc");
        return attach_new(fs.mount(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC),
                          place);
      }
      case Step::Kind::kTerminals: {
        NewFilesystem fs("devpts");
        fs.set("newinstance");
        fs.set("ptmxmode", "0666");
        fs.set("mode", "0620");
        if (step.gid != 0) fs.set("gid", std::to_string(step.gid));
        return attach_new(fs.mount(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC), place);
      }
    }
    errno = EINVAL;
    return -1;
  }

  static int attach_new(const Fd& tree, const Place& place) {
    return tree ? attach(tree.get(), place.at(), place.c_str()) : -1;
  }

  int bind(const Step& step, const Place& place, const Fd& source) {
    if ((step.flags & Step::kInside) != 0) {
      // Looked at first: a copy of a mount that is attached nowhere costs the kernel a wait for all
      // CPUs when it is closed.
      struct stat st{};
      if ((step.flags & Step::kOptional) != 0 &&
          ::fstatat(place.at(), place.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
        return 0;
      }
      const Fd tree = clone_inside(step.text.c_str());
      if (!tree) return (step.flags & Step::kOptional) != 0 && errno == ENOENT ? 0 : -1;
      if (restrict(tree.get(), step.flags) != 0) return -1;
      return attach(tree.get(), place.at(), place.c_str());
    }
    if (!source) return 0;  // optional, and not there
    if (make_target(source.get(), place) != 0) return -1;
    return attach(source.get(), place.at(), place.c_str());
  }

  const Setup& setup_;
  const int report_;
  Create create_;
  Fd image_;
  std::vector<Fd> sources_;
  Fd home_, root_;
};

// What is to be made, and what comes with it.
struct Told {
  Create create;
  Fd link, image;
};

// Until the helper says so.
Told wait_at(int gate, int report) {
  Bytes buffer(kMaxMessage, '\0');
  iovec piece{buffer.data(), buffer.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  ssize_t n = 0;
  while ((n = ::recvmsg(gate, &header, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR) {
  }
  if (n <= 0) ::_exit(1);  // the helper is gone, or has no use for this one
  ::close(gate);
  Told told;
  const cmsghdr* head = CMSG_FIRSTHDR(&header);
  if (head != nullptr && head->cmsg_type == SCM_RIGHTS) {
    int fds[2] = {-1, -1};
    std::memcpy(fds, CMSG_DATA(head), head->cmsg_len - CMSG_LEN(0));
    told.link = Fd(fds[0]);
    told.image = Fd(fds[1]);
  }
  auto create = Create::decode(ByteView(buffer).substr(0, static_cast<size_t>(n)));
  if (!create || !told.link) fail(report, "understand what is to be made", EPROTO);
  told.create = std::move(*create);
  return told;
}

// This process may wait for long: what belongs to other sandboxes must not live on in it.
void close_all_but(std::vector<int> kept) {
  std::sort(kept.begin(), kept.end());
  unsigned from = 3;
  for (const int fd : kept) {
    const auto number = static_cast<unsigned>(fd);
    if (number > from) ::close_range(from, number - 1, 0);
    from = number + 1;
  }
  ::close_range(from, ~0u, 0);
}

void join_groups(const std::vector<Fd>& groups, int report) {
  // The kernel may take its time (it waits for all CPUs to notice), which is why this process joins
  // and is not joined: the helper goes on.
  for (const Fd& group : groups) {
    if (::write(group.get(), "0", 1) != 1) fail(report, "join a control group", errno);
  }
}

void bring_loopback_up(int report) {
  const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (!socket || ::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) {
    fail(report, "bring the loopback interface up", errno);
  }
}

void drop_privileges(const Setup& setup, int report) {
  // With a single uid the guest is not root inside and needs none.
  const bool keeps = setup.mapping != Mapping::kOwn;
  for (int capability = 0; capability <= 63; ++capability) {
    if (keeps && is_kept(capability)) continue;
    // EINVAL: the kernel knows no more.
    if (::prctl(PR_CAPBSET_DROP, capability) != 0 && errno != EINVAL) {
      fail(report, "drop a capability", errno);
    }
  }
  ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (keeps) {
    for (const int kept : kKept) data[kept / 32].permitted |= 1u << (kept % 32);
    for (auto& half : data) half.effective = half.permitted;
  }
  if (::syscall(SYS_capset, &header, data) != 0) fail(report, "drop capabilities", errno);
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) fail(report, "no_new_privs", errno);
}

void install_filter(const Setup& setup, int report) {
  sock_fprog program{};
  program.len = static_cast<unsigned short>(setup.seccomp.size() / sizeof(sock_filter));
  // The kernel copies it; it asks for a pointer to non-const all the same.
  program.filter = reinterpret_cast<sock_filter*>(const_cast<char*>(setup.seccomp.data()));
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0) {
    fail(report, "install the system call filter", errno);
  }
}

}  // namespace

void construct(const Setup& setup, const std::vector<Fd>& groups, int gate, int report, int guest) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::vector<int> kept = {gate, report, guest};
  for (const Fd& group : groups) kept.push_back(group.get());
  close_all_but(std::move(kept));
  join_groups(groups, report);
  ::setsid();
  // A keyring of its own instead of the engine's; where there are none, none is inherited.
  ::syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr);
  ::umask(0);

  // Its control groups are joined: what the sandbox sees begins there.
  if (::unshare(CLONE_NEWCGROUP) != 0) fail(report, "make a cgroup namespace", errno);
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    fail(report, "make the mounts private", errno);
  }
  Builder builder(setup, report);
  builder.take_common_sources();
  Told told = wait_at(gate, report);
  const bool own_network = told.create.own_network;
  const int link = told.link.get();
  builder.take_sources(std::move(told.create), std::move(told.image));

  const uid_t uid = setup.mapping == Mapping::kOwn ? setup.uids[0].inside : 0;
  const gid_t gid = setup.mapping == Mapping::kOwn ? setup.gids[0].inside : 0;
  if (setup.mapping != Mapping::kOwn && ::syscall(SYS_setgroups, 0, nullptr) != 0) {
    fail(report, "leave the host's groups", errno);
  }
  if (::syscall(SYS_setresgid, gid, gid, gid) != 0 ||
      ::syscall(SYS_setresuid, uid, uid, uid) != 0) {
    fail(report, "become the sandbox's first user", errno);
  }
  builder.make_root();
  builder.build();
  builder.enter();
  if (own_network) bring_loopback_up(report);
  const char name[] = "sandbox";
  if (::sethostname(name, sizeof name - 1) != 0) fail(report, "set the host's name", errno);

  // The programs stand at fixed numbers; nothing else of the helper's goes in.
  const int kept_report = ::fcntl(report, F_DUPFD_CLOEXEC, 20);
  const int kept_guest = ::fcntl(guest, F_DUPFD_CLOEXEC, 20);
  const int kept_link = ::fcntl(link, F_DUPFD_CLOEXEC, 20);
  for (int fd = 0; fd < 3; ++fd) ::close(fd);
  for (int fd = 0; fd < 3; ++fd) {
    if (::open("/dev/null", O_RDWR) != fd) fail(kept_report, "open /dev/null", errno);
  }
  if (::dup2(kept_link, 3) != 3) fail(kept_report, "hand over the link", errno);
  ::close_range(4, 19, 0);
  if (::dup3(kept_report, 4, O_CLOEXEC) != 4 || ::dup3(kept_guest, 5, O_CLOEXEC) != 5) {
    fail(kept_report, "hand over the guest", errno);
  }
  ::close_range(6, ~0u, 0);

  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  ::umask(022);
  for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  drop_privileges(setup, 4);
  // Last of what a change of user would clear: with the helper goes the sandbox.
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) fail(4, "PR_SET_PDEATHSIG", errno);
  pollfd helper{4, 0, 0};  // an error: nobody reads the report any more
  if (::poll(&helper, 1, 0) != 0) ::_exit(1);
  install_filter(setup, 4);
  char program[] = "sluice-guest";
  char* argv[] = {program, nullptr};
  char* envp[] = {nullptr};
  ::syscall(SYS_execveat, 5, "", argv, envp, AT_EMPTY_PATH);
  fail(4, "run the guest", errno);
}

}  // namespace sluice::sandbox::local
