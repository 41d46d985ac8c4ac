#include "sluice/sandbox/local/layout.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <sstream>

#include "sluice/base/core/bytes.h"

namespace sluice::sandbox::local {
namespace {

using Kind = Step::Kind;

constexpr uint32_t kUser = 1000;
constexpr uint32_t kVerifier = 1001;
constexpr uint32_t kTerminalGroup = 5;

constexpr char kPasswd[] =
    "root:x:0:0:root:/root:/bin/bash\n"
    "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
    "user:x:1000:1000:user:/home/user:/bin/bash\n"
    "verifier:x:1001:1001:verifier:/home/user/logs/verifier:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
constexpr char kGroup[] =
    "root:x:0:\n"
    "daemon:x:1:\n"
    "tty:x:5:\n"
    "users:x:100:\n"
    "user:x:1000:\n"
    "verifier:x:1001:\n"
    "nogroup:x:65534:\n";
constexpr char kHosts[] =
    "127.0.0.1 localhost sandbox\n"
    "::1 localhost ip6-localhost ip6-loopback\n";
constexpr char kNsswitch[] =
    "passwd: files\n"
    "group: files\n"
    "shadow: files\n"
    "hosts: files dns\n"
    "services: files\n"
    "protocols: files\n"
    "ethers: files\n"
    "rpc: files\n";

// What programs below /usr look for in /etc and what says nothing of this host or its people:
// the loader's cache, alternatives, certificate authorities (never private keys: those are below
// ssl/private), interpreters' own settings, fonts, names of services, the time zone.
constexpr char kEtc[] =
    "alternatives bash.bashrc bash_completion.d ca-certificates ca-certificates.conf "
    "debian_version fonts groff gss host.conf inputrc ld.so.cache ld.so.conf ld.so.conf.d "
    "locale.alias localtime magic magic.mime manpath.config mime.types networks os-release "
    "perl protocols python3 python3.9 python3.10 python3.11 python3.12 python3.13 "
    "redhat-release rpc services skel ssl/certs ssl/openssl.cnf pki/ca-trust pki/tls/certs "
    "terminfo timezone vim xattr.conf java-11-openjdk java-17-openjdk java-21-openjdk";

// Of the kernel's own tree: what only tells, read-only; what was made for root, gone.
constexpr const char* kProcReadOnly[] = {"proc/sys", "proc/bus", "proc/fs", "proc/irq"};
constexpr const char* kProcEmptyFiles[] = {
    "proc/kcore",         "proc/keys",          "proc/key-users",   "proc/timer_list",
    "proc/sysrq-trigger", "proc/latency_stats", "proc/sched_debug", "proc/kmsg"};
constexpr const char* kProcEmptyDirectories[] = {"proc/acpi", "proc/scsi"};

constexpr const char* kDevices[] = {"null", "zero", "full", "random", "urandom", "tty"};

class Layout {
 public:
  explicit Layout(Users users, uint8_t flags = 0) : users_(users), flags_(flags) {}

  void directory(std::string path, uint32_t owner = 0, uint32_t mode = 0755) {
    // With one user all is his already.
    const uint32_t id = users_ == Users::kMany ? owner : 0;
    steps_.push_back({Kind::kDirectory, flags_, mode, id, id, std::move(path), ""});
  }
  void file(std::string path, std::string content) {
    steps_.push_back({Kind::kFile, flags_, 0644, 0, 0, std::move(path), std::move(content)});
  }
  void symlink(std::string path, std::string target) {
    steps_.push_back({Kind::kSymlink, flags_, 0755, 0, 0, std::move(path), std::move(target)});
  }
  void bind(std::string source, std::string path, uint8_t flags) {
    steps_.push_back({Kind::kBind, flags, 0755, 0, 0, std::move(path), std::move(source)});
  }
  void special(Kind kind, std::string path, uint32_t group = 0) {
    steps_.push_back({kind, 0, 0755, 0, group, std::move(path), ""});
  }

  std::vector<Step> take() { return std::move(steps_); }

 private:
  const Users users_;
  const uint8_t flags_;  // of what is made, not of binds
  std::vector<Step> steps_;
};

// /bin, /lib64 and so on: a link where the host has one (merged /usr), else the directory itself.
void add_usr_sibling(Layout& layout, const std::string& root, const std::string& name) {
  const std::string path = root + "/" + name;
  struct stat st{};
  if (::lstat(path.c_str(), &st) != 0) return;
  if (S_ISLNK(st.st_mode)) {
    char target[PATH_MAX];
    const ssize_t n = ::readlink(path.c_str(), target, sizeof target);
    if (n > 0) layout.symlink(name, std::string(target, static_cast<size_t>(n)));
  } else if (S_ISDIR(st.st_mode)) {
    layout.bind(path, name, Step::kReadOnly);
  }
}

// What of /etc is always the sandbox's own.
constexpr const char* kOwnEtc[] = {"passwd",      "group",         "hosts", "hostname",
                                   "resolv.conf", "nsswitch.conf", "mtab"};

void add_own_etc(Layout& layout, std::string passwd = kPasswd, std::string group = kGroup) {
  layout.directory("etc");
  layout.file("etc/passwd", std::move(passwd));
  layout.file("etc/group", std::move(group));
  layout.file("etc/hosts", kHosts);
  layout.file("etc/hostname", "sandbox\n");
  layout.file("etc/resolv.conf", "");  // nobody to ask; an open network lays the host's over it
  layout.file("etc/nsswitch.conf", kNsswitch);
  layout.symlink("etc/mtab", "/proc/self/mounts");
}

void add_etc(Layout& layout, Users users) {
  add_own_etc(layout);
  std::set<std::string> parents;
  std::istringstream names(kEtc);
  for (std::string name; names >> name;) {
    const std::string path = "/etc/" + name;
    struct stat st{};
    if (::lstat(path.c_str(), &st) != 0) continue;
    for (size_t slash = name.find('/'); slash != std::string::npos;
         slash = name.find('/', slash + 1)) {
      if (parents.insert(name.substr(0, slash)).second) {
        layout.directory("etc/" + name.substr(0, slash));
      }
    }
    char target[PATH_MAX];
    const ssize_t n = S_ISLNK(st.st_mode) ? ::readlink(path.c_str(), target, sizeof target) : -1;
    if (n > 0) {
      layout.symlink("etc/" + name, std::string(target, static_cast<size_t>(n)));
    } else if (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) {
      layout.bind(path, "etc/" + name, Step::kReadOnly | Step::kNoExec | Step::kOptional);
    }
  }
  // The one user could replace what other commands trust.
  if (users == Users::kOne) layout.bind("etc", "etc", Step::kReadOnly | Step::kInside);
}

void add_devices(Layout& layout, Users users) {
  layout.directory("dev");
  for (const char* name : kDevices) {
    layout.bind(std::string("/dev/") + name, std::string("dev/") + name,
                Step::kDevices | Step::kNoExec);
  }
  layout.directory("dev/shm", 0, 01777);
  layout.directory("dev/mqueue");
  layout.special(Kind::kQueues, "dev/mqueue");
  layout.directory("dev/pts");
  layout.special(Kind::kTerminals, "dev/pts", users == Users::kMany ? kTerminalGroup : 0);
  layout.symlink("dev/ptmx", "pts/ptmx");
  layout.symlink("dev/fd", "/proc/self/fd");
  layout.symlink("dev/stdin", "/proc/self/fd/0");
  layout.symlink("dev/stdout", "/proc/self/fd/1");
  layout.symlink("dev/stderr", "/proc/self/fd/2");
}

void add_proc(Layout& layout) {
  layout.directory("proc");
  layout.special(Kind::kProc, "proc");
  for (const std::string path : kProcReadOnly) {
    layout.bind(path, path, Step::kReadOnly | Step::kNoExec | Step::kInside | Step::kOptional);
  }
  for (const char* path : kProcEmptyFiles) {
    layout.bind("dev/null", path,
                Step::kReadOnly | Step::kNoExec | Step::kInside | Step::kOptional);
  }
  layout.directory("sys", 0, 0555);  // and nothing in it
  for (const char* path : kProcEmptyDirectories) {
    layout.bind("sys", path, Step::kReadOnly | Step::kNoExec | Step::kInside | Step::kOptional);
  }
}

bool is_below(std::string_view path, std::string_view top) {
  return path == top || (path.starts_with(top) && path[top.size()] == '/');
}

void add_usr(Layout& layout, const std::string& root) {
  layout.directory("usr");
  layout.bind(root + "/usr", "usr", Step::kReadOnly);
  for (const char* name : {"bin", "sbin", "lib", "lib32", "lib64", "libx32"}) {
    add_usr_sibling(layout, root, name);
  }
}

enum class VarLinks : uint8_t { kMake, kLeave };

void add_places(Layout& layout, VarLinks links = VarLinks::kMake) {
  layout.directory("tmp", 0, 01777);
  layout.directory("run", 0, 0755);
  layout.directory("run/lock", 0, 01777);
  layout.directory("var");
  layout.directory("var/tmp", 0, 01777);
  for (const char* path : {"var/cache", "var/lib", "var/log", "var/spool"}) layout.directory(path);
  if (links == VarLinks::kMake) {
    layout.symlink("var/run", "/run");
    layout.symlink("var/lock", "/run/lock");
  }
  for (const char* path : {"mnt", "opt", "srv", "home"}) layout.directory(path);
  layout.directory("root", 0, 0700);
  layout.directory(kVerifierPlace + 1, 0, 0700);
  layout.special(Kind::kApart, kVerifierPlace + 1);
  layout.directory("home/user", kUser);
}

bool is_plain_directory(const std::string& path) {
  struct stat st{};
  return ::lstat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

// Each entry of a directory of the image by itself, so that others can stand beside them. A link
// stays one: what it names is looked up inside.
Result<void> add_entries(Layout& layout, const std::string& image, const std::string& name) {
  constexpr size_t kMost = 400;
  const std::string path = image + "/" + name;
  if (!is_plain_directory(path)) return {};
  std::error_code error;
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    const std::string own = entry.path().filename().string();
    const bool ours = name == "etc" && std::any_of(std::begin(kOwnEtc), std::end(kOwnEtc),
                                                   [&](const char* e) { return own == e; });
    if (ours) continue;
    if (++count > kMost) {
      return Error(ErrorCode::kTooLarge, path + " has more than " + std::to_string(kMost) +
                                             " entries: too many for an image");
    }
    const std::string inside = name + "/" + own;
    if (entry.is_symlink(error)) {
      layout.symlink(inside, std::filesystem::read_symlink(entry.path(), error).string());
    } else if (entry.is_directory(error) || entry.is_regular_file(error)) {
      layout.bind(entry.path().string(), inside, Step::kReadOnly | Step::kOptional);
    }
  }
  if (error) return errno_error(path, error.value());
  return {};
}

}  // namespace

std::vector<Step> base_layout(Users users) {
  Layout layout(users);
  add_usr(layout, "");
  add_etc(layout, users);
  add_devices(layout, users);
  add_proc(layout);
  add_places(layout);
  return layout.take();
}

Result<std::vector<Step>> image_layout(const std::string& image, Users users) {
  const bool plain = image.size() > 1 && image.front() == '/' && image.find('\0') == image.npos;
  if (!plain || !is_plain_directory(image) || !is_plain_directory(image + "/usr")) {
    return Error(ErrorCode::kInvalidArgument,
                 "image \"" + image +
                     "\" is no root directory: give the absolute path of one that holds /usr, as "
                     "debootstrap makes, or of a tarball, as docker save makes, or leave the image "
                     "out to see this host's /usr");
  }
  Layout layout(users);
  add_usr(layout, image);
  add_own_etc(layout);
  SLUICE_TRY_VOID(add_entries(layout, image, "etc"));
  if (users == Users::kOne) layout.bind("etc", "etc", Step::kReadOnly | Step::kInside);
  add_devices(layout, users);
  add_proc(layout);
  add_places(layout);
  for (const char* name : {"opt", "srv"}) SLUICE_TRY_VOID(add_entries(layout, image, name));
  return layout.take();
}

std::string merge_accounts(std::string_view ours, std::string_view theirs) {
  constexpr size_t kMost = 48 * 1024;
  const auto is_name = [](std::string_view name) {
    return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
             c == '_' || c == '-' || c == '.';
    });
  };
  std::string merged(ours);
  std::set<std::string> names;
  for (std::string_view rest = ours; !rest.empty();) {
    names.emplace(rest.substr(0, rest.find(':')));
    rest.remove_prefix(std::min(rest.size(), rest.find('\n')) + 1);
  }
  while (!theirs.empty()) {
    const size_t end = theirs.find('\n');
    const std::string_view line = theirs.substr(0, end);
    theirs = end == theirs.npos ? std::string_view() : theirs.substr(end + 1);
    const size_t one = line.find(':');
    const size_t two = line.find(':', one + 1);
    if (one == line.npos || two == line.npos || !is_name(line.substr(0, one))) continue;
    const auto id = parse_decimal(line.substr(two + 1, line.find(':', two + 1) - two - 1));
    if (!id || *id == 0 || *id == kUser || *id == kVerifier) continue;
    if (merged.size() + line.size() > kMost) break;
    if (!names.emplace(line.substr(0, one)).second) continue;
    merged += std::string(line) + "\n";
  }
  return merged;
}

std::vector<Step> overlay_layout(std::string_view passwd, std::string_view group, Users users) {
  Layout layout(users, Step::kReplace);
  add_own_etc(layout, merge_accounts(kPasswd, passwd), merge_accounts(kGroup, group));
  if (users == Users::kOne) layout.bind("etc", "etc", Step::kReadOnly | Step::kInside);
  add_devices(layout, users);
  add_proc(layout);
  add_places(layout, VarLinks::kLeave);
  return layout.take();
}

Result<std::vector<Step>> extra_layout(const Options& options, Users users) {
  Layout layout(users);
  layout.directory("home/user/workdir", kUser);
  if (options.network == Network::kOpen) {
    // Names are looked up as the host looks them up.
    layout.bind("/etc/resolv.conf", "etc/resolv.conf",
                Step::kReadOnly | Step::kNoExec | Step::kOptional);
  }
  std::set<std::string> made = {"opt", "mnt", "srv", "home", "var", "run", "tmp"};
  for (const Bundle& bundle : options.bundles) {
    struct stat st{};
    if (!bundle.host_path.starts_with('/') || ::stat(bundle.host_path.c_str(), &st) != 0 ||
        !S_ISDIR(st.st_mode)) {
      return Error(ErrorCode::kInvalidArgument,
                   "bundle " + bundle.host_path + " is no directory of this host");
    }
    std::string path = bundle.guest_path;
    while (path.ends_with('/')) path.pop_back();
    const bool plain =
        path.starts_with('/') && path.size() > 1 && path.find("//") == std::string::npos &&
        (path + "/").find("/./") == std::string::npos &&
        (path + "/").find("/../") == std::string::npos && path.find('\0') == std::string::npos;
    if (!plain) {
      return Error(ErrorCode::kInvalidArgument,
                   "bundle place \"" + bundle.guest_path + "\" must be an absolute, plain path");
    }
    for (const char* reserved : {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc",
                                 "/dev", "/proc", "/sys", "/home/user"}) {
      if (is_below(path, reserved)) {
        return Error(ErrorCode::kInvalidArgument,
                     "bundle place " + path + ": " + reserved +
                         " belongs to the sandbox; below /opt is a good place");
      }
    }
    path.erase(0, 1);
    for (size_t slash = path.find('/'); slash != std::string::npos;
         slash = path.find('/', slash + 1)) {
      if (made.insert(path.substr(0, slash)).second) layout.directory(path.substr(0, slash));
    }
    layout.bind(bundle.host_path, path, Step::kReadOnly);
  }
  return layout.take();
}

}  // namespace sluice::sandbox::local
