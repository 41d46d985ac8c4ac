#include "sluice/sandbox/local/helper/root.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "sluice/sandbox/local/helper/mounts.h"

namespace sluice::sandbox::local {
namespace {

bool is_directory(int at, const char* name) {
  struct stat st{};
  return ::fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

// Makes what a bind is put onto, if it is not there: a directory or an empty file, as the source.
int make_target(int tree, int at, const char* name) {
  struct stat st{};
  if (::fstat(tree, &st) != 0) return -1;
  const int made =
      S_ISDIR(st.st_mode) ? ::mkdirat(at, name, 0755) : ::mknodat(at, name, S_IFREG | 0644, 0);
  if (made == 0) return 0;
  return errno == EEXIST ? 0 : -1;
}

int attach_new(const Fd& tree, int at, const char* name) {
  return tree ? attach_mount(tree.get(), at, name) : -1;
}

// With the sandbox's bounds.
Fd new_tmpfs(const Create& create, const char* mode) {
  NewFilesystem fs("tmpfs");
  fs.set("mode", mode);
  if (create.disk_bytes != 0) fs.set("size", std::to_string(create.disk_bytes));
  if (create.disk_inodes != 0) fs.set("nr_inodes", std::to_string(create.disk_inodes));
  return fs.mount(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
}

}  // namespace

int Root::Place::at() const {
  return directory ? directory.get() : AT_FDCWD;
}

void Root::take_sources(Create create, Fd image) {
  create_ = std::move(create);
  image_ = std::move(image);
  if (create_.whole_root) sources_.clear();
  take_all(create_.extra);
  if (!create_.kept_home.empty()) {
    home_ = clone_mount(AT_FDCWD, create_.kept_home.c_str(), AT_RECURSIVE);
    if (!home_ || restrict_mount(home_.get(), 0) != 0) report_.fail(create_.kept_home, errno);
  }
  if (has_image() && !image_) {
    image_ = clone_mount(AT_FDCWD, create_.image_root.c_str(), 0);
    if (!image_ || restrict_mount(image_.get(), Step::kReadOnly) != 0) {
      report_.fail(create_.image_root, errno);
    }
  }
}

void Root::make() {
  root_ = new_tmpfs(create_, "0755");
  if (!root_) report_.fail("make the root filesystem", errno);
  // It needs a place until it is the root. This one is there on every machine, its content is
  // among the sources already, and only this process sees it covered.
  if (attach_mount(root_.get(), AT_FDCWD, "/usr") != 0 || ::fchdir(root_.get()) != 0) {
    report_.fail("mount the root filesystem", errno);
  }
  if (has_image()) lay_over_image();
}

void Root::build() {
  auto source = sources_.cbegin();
  auto carry_out_all = [&](const std::vector<Step>& steps) {
    for (const Step& step : steps) {
      if (carry_out(step, *source++) != 0) report_.fail("make /" + step.path, errno);
    }
  };
  if (!create_.whole_root) carry_out_all(setup_.root);
  if (home_ && create_.whole_root) report_.fail("keep the home of an image", EINVAL);
  if (home_ && attach_mount(home_.get(), AT_FDCWD, "home/user") != 0) {
    report_.fail("mount /home/user", errno);
  }
  carry_out_all(create_.extra);
  home_.reset();
  sources_.clear();
}

void Root::enter() {
  if (::fchdir(root_.get()) != 0 || ::syscall(SYS_pivot_root, ".", ".") != 0 ||
      ::umount2(".", MNT_DETACH) != 0 || ::chdir("/") != 0) {
    report_.fail("change the root", errno);
  }
  root_.reset();
}

// The root is then an overlay: below the image, read-only, above it the filesystem of bounded
// size. That one is seen nowhere once the root has changed.
void Root::lay_over_image() {
  for (const char* name : {"image", "changes", "work", "root"}) {
    if (::mkdir(name, 0755) != 0) report_.fail(kNoOverlay, errno);
  }
  if (attach_mount(image_.get(), AT_FDCWD, "image") != 0) report_.fail(kNoOverlay, errno);
  image_ = clone_mount(AT_FDCWD, "image", AT_RECURSIVE);
  NewFilesystem fs("overlay");
  fs.set("lowerdir", "image");
  fs.set("upperdir", "changes");
  fs.set("workdir", "work");
  fs.set("userxattr");  // what it notes down is ours to write, as no root of the host
  Fd overlay = fs.mount(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
  if (!overlay || attach_mount(overlay.get(), AT_FDCWD, "root") != 0 ||
      ::fchdir(overlay.get()) != 0) {
    report_.fail(kNoOverlay, errno);
  }
  root_ = std::move(overlay);
  // The guest tells from it what has changed.
  constexpr char kPlace[] = ".image";
  if (!is_directory(AT_FDCWD, kPlace)) ::unlink(kPlace);
  const bool made = ::mkdir(kPlace, 0755) == 0 || errno == EEXIST;
  if (!made || !image_ || attach_mount(image_.get(), AT_FDCWD, kPlace) != 0) {
    report_.fail("show the image", errno);
  }
  image_.reset();
}

// Links in an image lead where they like, but never out of the new root.
Fd Root::open_within(const char* path) const {
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  return Fd(static_cast<int>(::syscall(SYS_openat2, root_.get(), path, &how, sizeof how)));
}

// Without an image every link below the root is our own.
Root::Place Root::place_of(const std::string& path) const {
  Place place;
  place.name = path;
  if (!has_image()) return place;
  const size_t slash = path.rfind('/');
  place.directory = open_within(slash == path.npos ? "." : path.substr(0, slash).c_str());
  place.name = path.substr(slash + 1);
  place.good = static_cast<bool>(place.directory);
  return place;
}

Fd Root::clone_inside(const char* path) const {
  if (!has_image()) return clone_mount(AT_FDCWD, path, AT_RECURSIVE);
  const Fd opened = open_within(path);
  return opened ? clone_mount(opened.get(), "", AT_RECURSIVE | AT_EMPTY_PATH) : Fd();
}

int Root::make_directory(const Step& step, const Place& place) {
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

void Root::take_all(const std::vector<Step>& steps) {
  for (const Step& step : steps) {
    const bool outside = step.kind == Step::Kind::kBind && (step.flags & Step::kInside) == 0;
    sources_.emplace_back(outside ? take(step) : Fd());
  }
}

Fd Root::take(const Step& step) {
  Fd tree = clone_mount(AT_FDCWD, step.text.c_str(), AT_RECURSIVE);
  if (!tree) {
    if ((step.flags & Step::kOptional) != 0 && (errno == ENOENT || errno == EACCES)) return Fd();
    report_.fail("bind " + step.text, errno);
  }
  if (restrict_mount(tree.get(), step.flags) != 0) report_.fail("bind " + step.text, errno);
  return tree;
}

int Root::carry_out(const Step& step, const Fd& source) {
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
      return attach_new(fs.mount(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC), at,
                        name);
    }
    case Step::Kind::kTerminals: {
      NewFilesystem fs("devpts");
      fs.set("newinstance");
      fs.set("ptmxmode", "0666");
      fs.set("mode", "0620");
      if (step.gid != 0) fs.set("gid", std::to_string(step.gid));
      return attach_new(fs.mount(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC), at, name);
    }
    case Step::Kind::kQueues: {
      NewFilesystem fs("mqueue");
      const Fd queues = fs.mount(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
      // A kernel without them knows no such filesystem.
      return queues || errno != ENODEV ? attach_new(queues, at, name) : 0;
    }
    case Step::Kind::kApart:
      return attach_new(new_tmpfs(create_, "0700"), at, name);
  }
  errno = EINVAL;
  return -1;
}

int Root::bind(const Step& step, const Place& place, const Fd& source) {
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
    if (restrict_mount(tree.get(), step.flags) != 0) return -1;
    return attach_mount(tree.get(), place.at(), place.c_str());
  }
  if (!source) return 0;  // optional, and not there
  if (make_target(source.get(), place.at(), place.c_str()) != 0) return -1;
  return attach_mount(source.get(), place.at(), place.c_str());
}

}  // namespace sluice::sandbox::local
