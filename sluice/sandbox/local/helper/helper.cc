#include "sluice/sandbox/local/helper/helper.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <sched.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "sluice/base/core/syscalls.h"
#include "sluice/sandbox/local/helper/construct.h"
#include "sluice/sandbox/local/helper/mounts.h"

namespace sluice::sandbox::local {

using namespace std::chrono_literals;

namespace {

constexpr uint32_t kUser = 1000;  // whose the home is, inside
constexpr size_t kMaxReport = 4096;
// How long the control group of a sandbox that went by itself stays to be read.
constexpr Duration kGroupOfDead = 2s;
// A sandbox's memory goes before the engine's (proc(5), oom_score_adj).
constexpr char kOomScore[] = "300";

Result<void> write_proc(pid_t pid, const char* file, const std::string& text) {
  return write_kernel_file("/proc/" + std::to_string(pid) + "/" + file, text);
}

std::string lines_of(const std::vector<IdMap>& maps) {
  std::string text;
  for (const IdMap& map : maps) {
    text += std::to_string(map.inside) + " " + std::to_string(map.outside) + " " +
            std::to_string(map.count) + "\n";
  }
  return text;
}

// newuidmap PID INSIDE OUTSIDE COUNT ...: the set-user-id tools that write maps of subordinate ids.
Result<void> map_by_tool(const char* tool, pid_t pid, const std::vector<IdMap>& maps) {
  std::vector<std::string> words = {tool, std::to_string(pid)};
  for (const IdMap& map : maps) {
    for (const uint32_t number : {map.inside, map.outside, map.count}) {
      words.push_back(std::to_string(number));
    }
  }
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  char path[] = "PATH=/usr/local/bin:/usr/bin:/bin";
  char* envp[] = {path, nullptr};
  pid_t child = -1;
  const int failure = ::posix_spawnp(&child, tool, nullptr, nullptr, argv.data(), envp);
  if (failure != 0) return errno_error(tool, failure);
  int status = 0;
  TEMP_FAILURE_RETRY(::waitpid(child, &status, 0));
  if (status != 0) {
    return Error(ErrorCode::kPermissionDenied,
                 std::string(tool) + " refused the ids of /etc/subuid and /etc/subgid");
  }
  return {};
}

}  // namespace

Helper::Helper(Fd socket) : socket_(std::move(socket)) {}

int Helper::run() {
  // Ctrl-C is the engine's affair; so is every other end.
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) ::signal(number, SIG_IGN);
  ::prctl(PR_SET_NAME, "sluice-sandboxes");
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  loop_.watch(socket_.get(), EPOLLIN, [this](uint32_t) { on_message(); });
  while (!ending_) loop_.run_once(Deadline::never());
  // The engine is gone: so goes everything.
  loop_.forget(socket_.get());
  for (const auto& [id, box] : boxes_) kill(*box);
  const Deadline deadline = Deadline::in(10s);
  while (!boxes_.empty() && !deadline.expired()) loop_.run_once(deadline);
  cgroups_.remove_all();
  return 0;
}

void Helper::on_message() {
  Bytes buffer(kMaxMessage, '\0');
  std::vector<Fd> fds;
  const ssize_t n =
      receive_with_fds(socket_.get(), as_writable_byte_span(buffer), &fds, MSG_DONTWAIT);
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) {
    ending_ = true;
    return;
  }
  buffer.resize(static_cast<size_t>(n));
  auto message = Message::decode(buffer);
  auto handled = message ? handle(*message, fds) : Result<void>(std::move(message).error());
  if (!handled) fail(handled.error());
}

// What makes no sense ends the helper: its engine is not what it should be.
void Helper::fail(const Error& error) {
  send(Message::Kind::kFailed, error.message);
  ending_ = true;
}

void Helper::send(Message::Kind kind, const Bytes& body) {
  // Blocking is right: an engine that does not read its answers asks for nothing more either.
  send_with_fds(socket_.get(), Message{kind, body}.encode(), {}, 0);
}

Result<void> Helper::handle(const Message& message, std::vector<Fd>& fds) {
  switch (message.kind) {
    case Message::Kind::kSetup: {
      SLUICE_TRY(auto setup, decode<Setup>(message.body));
      return set_up(std::move(setup), fds);
    }
    case Message::Kind::kCreate: {
      SLUICE_TRY(const auto request, decode<Create>(message.body));
      if (!setup_ || fds.size() != 1 || boxes_.contains(request.id) || request.id >= kFirstReady) {
        return Error(ErrorCode::kProtocol, "sandbox helper: a create that does not fit");
      }
      const auto made = create(request, std::move(fds[0]));
      if (made) return {};
      Created refused;
      refused.id = request.id;
      refused.error = made.error();
      send(Message::Kind::kCreated, encode(refused));
      return {};
    }
    case Message::Kind::kDestroy: {
      SLUICE_TRY(const auto destroy, decode<Destroy>(message.body));
      const auto found = boxes_.find(destroy.id);
      // Else it went by itself, and its end was told already.
      if (found == boxes_.end()) return {};
      Box& box = *found->second;
      box.unwanted = true;
      if (box.status) {
        remove(box);
      } else {
        kill(box);
      }
      return {};
    }
    default:
      return Error(ErrorCode::kProtocol, "sandbox helper: a message of its own");
  }
}

Result<void> Helper::set_up(Setup setup, std::vector<Fd>& fds) {
  if (setup_ || fds.size() != 1) {
    return Error(ErrorCode::kProtocol, "sandbox helper: a setup that does not fit");
  }
  guest_ = std::move(fds[0]);
  cgroups_ = Cgroups::open();
  if (setup.mapping == Mapping::kDirect) {
    // Where there is no place for it, `doctor` says what that means.
    auto locks = open_id_locks();
    ranges_.emplace(setup.range_first, setup.range_size, setup.taken,
                    locks ? std::move(*locks) : Fd());
  }
  setup_ = std::move(setup);
  SetupDone done;
  done.cgroups = cgroups_.directories();
  done.controllers = cgroups_.controllers();
  done.cgroup_problem = cgroups_.problem();
  send(Message::Kind::kSetupDone, encode(done));
  return {};
}

// A kept home belongs to the range that its owner is in; a fresh one is given to a new range.
Result<Range> Helper::range_for(const Create& create) {
  if (create.kept_home.empty()) return ranges_->take();
  struct stat st{};
  if (::stat(create.kept_home.c_str(), &st) != 0) return errno_error(create.kept_home, errno);
  auto own = ranges_->take_with(st.st_uid);
  if (own) return own;
  if (own.error().code == ErrorCode::kAlreadyExists) {
    return Error(ErrorCode::kFailedPrecondition,
                 create.kept_home + " is in use by another sandbox");
  }
  auto fresh = ranges_->take();
  if (!fresh) return fresh;
  const uid_t owner = fresh->first + kUser;
  if (::chown(create.kept_home.c_str(), owner, owner) != 0) {
    return errno_error("give " + create.kept_home + " to the sandbox", errno);
  }
  return fresh;
}

// Gives a fresh home to the sandbox's user where that is one of our subordinate ids: only within a
// user namespace that holds them and ourselves may we change the owner.
Result<void> Helper::give_home(const std::string& path) const {
  struct stat st{};
  if (::stat(path.c_str(), &st) != 0) return errno_error(path, errno);
  const IdMap& uids = setup_->uids[0];
  const IdMap& gids = setup_->gids[0];
  if (st.st_uid == uids.outside + kUser) return {};
  if (st.st_uid != ::geteuid()) {
    return Error(ErrorCode::kPermissionDenied, path + " is somebody else's");
  }
  SLUICE_TRY(Pipe gate, make_pipe());
  clone_args arguments{};
  arguments.flags = CLONE_NEWUSER;
  arguments.exit_signal = SIGCHLD;
  const auto pid = static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof arguments));
  if (pid < 0) return errno_error("make a user namespace", errno);
  if (pid == 0) {
    gate.write.reset();
    char go = 0;
    if (::read(gate.read.get(), &go, 1) != 1) ::_exit(EPERM);
    // Inside, 0 is ourselves and the subordinate ids begin at 1.
    ::_exit(::chown(path.c_str(), 1 + kUser, 1 + kUser) == 0 ? 0 : errno);
  }
  const std::vector<IdMap> all_uids = {{0, ::geteuid(), 1}, {1, uids.outside, uids.count}};
  const std::vector<IdMap> all_gids = {{0, ::getegid(), 1}, {1, gids.outside, gids.count}};
  auto done = map_by_tool("newuidmap", pid, all_uids);
  if (done) done = map_by_tool("newgidmap", pid, all_gids);
  if (done) done = write_all(gate.write.get(), "g");
  gate.write.reset();
  int status = 0;
  ::waitpid(pid, &status, 0);
  SLUICE_TRY_VOID(done);
  if (status != 0) return errno_error("give " + path + " to the sandbox", WEXITSTATUS(status));
  return {};
}

Result<void> Helper::create(const Create& create, Fd link) {
  if (setup_->mapping == Mapping::kByTools && !create.kept_home.empty()) {
    SLUICE_TRY_VOID(give_home(create.kept_home));
  }
  std::unique_ptr<Box> box;
  if (create.own_network && create.kept_home.empty()) box = take_ready();
  // One that died meanwhile, or cannot become what is asked for, is none.
  if (box && !tell(*box, create, link)) discard(std::exchange(box, nullptr));
  if (!box) {
    Range range;
    if (ranges_) {
      SLUICE_TRY(range, range_for(create));
    }
    const Network network = create.own_network ? Network::kOwn : Network::kHosts;
    SLUICE_TRY(box, prepare(create.name, std::move(range), network));
    const auto told = tell(*box, create, link);
    if (!told) {
      discard(std::move(box));
      return told;
    }
  }
  Box& made = keep(std::move(box), create.id);
  loop_.watch(made.report.get(), EPOLLIN, [this, &made](uint32_t) { on_report(made); });
  return {};
}

void Helper::kill(const Box& box) {
  if (!box.status) ::syscall(SYS_pidfd_send_signal, box.process.get(), SIGKILL, nullptr, 0);
}

// From here on its end is noticed.
Helper::Box& Helper::keep(std::unique_ptr<Box> box, uint64_t id) {
  Box& kept = *box;
  kept.id = id;
  boxes_.emplace(id, std::move(box));
  loop_.watch(kept.process.get(), EPOLLIN, [this, &kept](uint32_t) { on_exit(kept); });
  return kept;
}

// Its end is noticed, and told to nobody.
void Helper::discard(std::unique_ptr<Box> box) {
  kill(*box);
  keep(std::move(box), next_ready_++);
}

// A sandbox's process, in its namespaces and on the way into its groups.
Result<std::unique_ptr<Helper::Box>> Helper::prepare(const std::string& name, Range range,
                                                     Network network) {
  auto box = std::make_unique<Box>();
  box->name = name;
  box->range = std::move(range);
  SLUICE_TRY(box->group, cgroups_.make(name));
  auto started = start(*box, network);
  if (started) return box;
  if (box->pid > 0) {
    ::kill(box->pid, SIGKILL);
    int status = 0;
    ::waitpid(box->pid, &status, 0);
  }
  Cgroups::remove(box->group);
  return std::move(started).error();
}

std::unique_ptr<Helper::Box> Helper::take_ready() {
  if (ready_.empty()) return nullptr;
  const auto found = boxes_.find(ready_.front());
  ready_.pop_front();
  std::unique_ptr<Box> box = std::move(found->second);
  boxes_.erase(found);
  loop_.forget(box->process.get());
  return box;
}

// One at a time, so that whoever asks for something else waits for one at most.
void Helper::refill() {
  constexpr Duration kFresh = 5s;
  refilling_ = false;
  if (ending_ || ready_.size() >= setup_->ready) return;
  const uint64_t id = next_ready_++;
  Range range;
  if (ranges_) {
    auto taken = ranges_->take();
    if (!taken) return;
    range = std::move(*taken);
  }
  auto box = prepare("ready-" + std::to_string(id - kFirstReady), std::move(range), Network::kOwn);
  if (!box) return;  // who asks for a sandbox is told why
  keep(std::move(*box), id);
  ready_.push_back(id);
  loop_.at(Deadline::in(kFresh), [this, id] {
    const auto found = std::find(ready_.begin(), ready_.end(), id);
    if (found == ready_.end()) return;
    ready_.erase(found);
    kill(*boxes_[id]);
  });
  if (ready_.size() >= setup_->ready) return;
  refilling_ = true;
  loop_.at(Deadline::in(0ms), [this] { refill(); });
}

Result<void> Helper::start(Box& box, Network network) {
  int gate[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, gate) != 0) {
    return errno_error("socketpair", errno);
  }
  const Fd gate_read(gate[0]);
  box.gate = Fd(gate[1]);
  const int room = 4 * static_cast<int>(kMaxMessage);
  ::setsockopt(box.gate.get(), SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
  SLUICE_TRY(Pipe report, make_pipe());
  box.report = std::move(report.read);
  SLUICE_TRY(const auto groups, Cgroups::doors(box.group));

  clone_args arguments{};
  int process = -1;
  arguments.flags = CLONE_PIDFD | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC |
                    CLONE_NEWUTS | (network == Network::kOwn ? CLONE_NEWNET : 0);
  arguments.pidfd = reinterpret_cast<uint64_t>(&process);
  arguments.exit_signal = SIGCHLD;
  // This process has one thread: its child may do what it likes.
  const auto pid = ::syscall(SYS_clone3, &arguments, sizeof arguments);
  if (pid == 0) {
    construct(*setup_, groups, gate_read.get(), Report{report.write.get()}, guest_.get());
  }
  if (pid < 0) {
    const int failure = errno;
    Error error = errno_error("make the sandbox's namespaces", failure);
    if (failure == EPERM || failure == ENOSPC || failure == EUSERS || failure == EINVAL) {
      error.code = ErrorCode::kUnsupported;
      error.message +=
          " (user namespaces are forbidden or used up here: see the sysctls "
          "user.max_user_namespaces, kernel.unprivileged_userns_clone and "
          "kernel.apparmor_restrict_unprivileged_userns, or the container's seccomp profile)";
    }
    return error;
  }
  box.pid = static_cast<pid_t>(pid);
  box.process = Fd(process);
  SLUICE_TRY_VOID(map_ids(box));
  (void)write_proc(box.pid, "oom_score_adj", kOomScore);  // a preference
  return {};
}

// Lets the child go on to become what is asked for.
Result<void> Helper::tell(Box& box, const Create& create, const Fd& link) {
  SLUICE_TRY_VOID(cgroups_.limit(&box.group, box.name, create.limits));
  box.oom_file = box.group.oom_file;
  Fd image;
  if (!create.image_root.empty() && setup_->mapping == Mapping::kDirect) {
    SLUICE_TRY(image, image_mount(create.image_root, box));
  }
  const int fds[] = {link.get(), image.get()};
  const std::span<const int> passed(fds, image ? 2 : 1);
  if (send_with_fds(box.gate.get(), encode(create), passed, MSG_DONTWAIT) < 0) {
    return errno_error("start a sandbox", errno);
  }
  box.gate.reset();
  return {};
}

// The image's files with the sandbox's ids in place of the host's, so that its root's files are
// root's inside: a mount of its own, attached nowhere.
Result<Fd> Helper::image_mount(const std::string& root, const Box& box) {
  Fd tree = clone_mount(AT_FDCWD, root.c_str(), 0);
  // Root of a container may not have mounts of its own.
  if (!tree) return errno_error(std::string(kNoOverlay) + ": " + root, errno);
  const std::string path = "/proc/" + std::to_string(box.pid) + "/ns/user";
  const Fd space(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!space) return errno_error(path, errno);
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_IDMAP;
  attributes.userns_fd = static_cast<uint64_t>(space.get());
  if (::syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) !=
      0) {
    return errno_error(std::string(kNoOverlay) + ": map its owners", errno);
  }
  return tree;
}

Result<void> Helper::map_ids(const Box& box) const {
  const Setup& setup = *setup_;
  switch (setup.mapping) {
    case Mapping::kDirect: {
      const std::vector<IdMap> map = {{0, box.range.first, setup.range_size}};
      SLUICE_TRY_VOID(write_proc(box.pid, "uid_map", lines_of(map)));
      return write_proc(box.pid, "gid_map", lines_of(map));
    }
    case Mapping::kByTools:
      SLUICE_TRY_VOID(map_by_tool("newuidmap", box.pid, setup.uids));
      return map_by_tool("newgidmap", box.pid, setup.gids);
    case Mapping::kOwn:
      // Without this an ordinary user may not map a group (user_namespaces(7)).
      SLUICE_TRY_VOID(write_proc(box.pid, "setgroups", "deny"));
      SLUICE_TRY_VOID(write_proc(box.pid, "uid_map", lines_of(setup.uids)));
      return write_proc(box.pid, "gid_map", lines_of(setup.gids));
  }
  return Error(ErrorCode::kInternal, "no such mapping");
}

void Helper::on_report(Box& box) {
  char text[kMaxReport];
  const ssize_t n = ::read(box.report.get(), text, sizeof text);
  if (n < 0 && errno == EINTR) return;
  loop_.forget(box.report.get());
  box.report.reset();
  Created created;
  created.id = box.id;
  created.pid = box.pid;
  created.oom_file = box.oom_file;
  created.ok = n == 0;
  if (n > 0) {
    const auto code = static_cast<uint8_t>(text[0]);
    created.error = Error(code < kErrorCodes ? static_cast<ErrorCode>(code) : ErrorCode::kIo,
                          "make a sandbox: " + std::string(text + 1, static_cast<size_t>(n) - 1));
    if (created.error.code == ErrorCode::kPermissionDenied) {
      created.error.message += " (`sluice doctor` tells what is forbidden here)";
    }
  }
  send(Message::Kind::kCreated, encode(created));
  if (refilling_ || ending_) return;
  // A moment later: what was just made is wanted at once.
  refilling_ = true;
  loop_.at(Deadline::in(1ms), [this] { refill(); });
}

void Helper::on_exit(Box& box) {
  // Its end may come before its report was read.
  if (is_ready_one(box)) {
    const auto found = std::find(ready_.begin(), ready_.end(), box.id);
    if (found != ready_.end()) ready_.erase(found);
  } else if (box.report) {
    on_report(box);
  }
  loop_.forget(box.process.get());
  int status = 0;
  ::waitpid(box.pid, &status, 0);
  box.status = status;
  // Where the kernel killed for memory, who lost the sandbox is to read that in its group.
  const bool asked = box.unwanted || ending_ || box.oom_file.empty();
  if (!asked && count_oom_kills(box.oom_file) > 0) {
    loop_.at(Deadline::in(kGroupOfDead), [this, id = box.id] {
      const auto found = boxes_.find(id);
      if (found != boxes_.end()) remove(*found->second);
    });
    return;
  }
  remove(box);
}

void Helper::remove(Box& box) {
  // The kernel counts the dead for a moment yet.
  if (!Cgroups::remove(box.group) && ++box.removals < 1000) {
    loop_.at(Deadline::in(box.removals < 20 ? 1ms : 20ms), [this, id = box.id] {
      const auto found = boxes_.find(id);
      if (found != boxes_.end()) remove(*found->second);
    });
    return;
  }
  Gone gone;
  gone.id = box.id;
  gone.wait_status = *box.status;
  const bool asked_for = !is_ready_one(box);
  boxes_.erase(gone.id);
  if (!asked_for) return;
  send(Message::Kind::kGone, encode(gone));
}

}  // namespace sluice::sandbox::local
