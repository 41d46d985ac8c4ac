#include "sluice/sandbox/local/local.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/core/syscalls.h"
#include "sluice/guest/blob.h"
#include "sluice/guest/client/client.h"
#include "sluice/net/shard.h"
#include "sluice/net/wait.h"
#include "sluice/sandbox/guest_sandbox.h"
#include "sluice/sandbox/local/helper/blob.h"
#include "sluice/sandbox/local/helper/cgroups.h"
#include "sluice/sandbox/local/host.h"
#include "sluice/sandbox/local/image/store.h"
#include "sluice/sandbox/local/layout.h"
#include "sluice/sandbox/local/seccomp.h"
#include "sluice/sandbox/sandbox_journal.h"
#include "sluice/sandbox/setup_proxy.h"

namespace sluice::sandbox::local {

using namespace std::chrono_literals;

namespace {

// For what takes the helper milliseconds.
constexpr Duration kHelperTime = 20s;

// A coroutine's wait for one answer of the helper. The reader thread posts the answer to its shard;
// both may let go first.
template <class T>
struct Awaited {
  explicit Awaited(net::Shard* s) : shard(s), changed(s) {}
  net::Shard* shard;
  net::Broadcast changed;
  std::optional<Result<T>> answer;
};
template <class T>
using AwaitedPtr = std::shared_ptr<Awaited<T>>;

template <class T>
void give(const AwaitedPtr<T>& to, Result<T> answer) {
  to->shard->post([to, answer = std::move(answer)]() mutable {
    to->answer = std::move(answer);
    to->changed.notify_all();
  });
}

template <class T>
awaitable<Result<T>> answer_of(AwaitedPtr<T> awaited, const char* what) {
  const Deadline deadline = Deadline::in(kHelperTime);
  while (!awaited->answer) {
    auto waited = co_await awaited->changed.wait(deadline);
    if (!waited) co_return std::move(waited).error().within(what);
  }
  co_return std::move(*awaited->answer);
}

std::string random_id() {
  unsigned char bytes[6] = {};
  [[maybe_unused]] const auto n = ::getrandom(bytes, sizeof bytes, 0);
  return "local-" + to_hex({reinterpret_cast<const char*>(bytes), sizeof bytes});
}

}  // namespace

struct Backend::State {
  BackendOptions options;
  std::unique_ptr<SandboxJournal> journal;
  std::unique_ptr<ImageStore> images;
  net::BlockingPool unpackers{2};
  const std::shared_ptr<net::BlockingPool> spoolers = std::make_shared<net::BlockingPool>(2);
  std::atomic<bool> no_overlay = false;  // the kernel refused it once
  IdPlan ids;
  SetupDone ready;
  Fd socket;
  pid_t helper = -1;
  std::thread reader;

  std::mutex mutex;
  uint64_t next_id = 1;
  bool ended = false;
  std::map<uint64_t, AwaitedPtr<Created>> creating;
  std::map<uint64_t, AwaitedPtr<Gone>> removing;
  std::set<uint64_t> live;                // created, and not known to be gone
  std::map<uint64_t, std::string> names;  // what the journal has as being made or there

  bool one_user() const { return ids.mapping == Mapping::kOwn; }
  Capabilities capabilities() const;

  Result<void> spawn_helper();
  Result<void> send(Message::Kind kind, const Bytes& body, const Fd* along);
  Result<Message> receive();
  Result<void> set_up();
  void read_answers();
  void on_end();
  void forget(uint64_t number);  // with the lock held
};

Capabilities Backend::State::capabilities() const {
  Capabilities can;
  can.images = true;
  can.limits = ready.controllers.memory && ready.controllers.pids;
  can.network_none = true;
  can.listen_passed = !options.carry_connections;
  can.snapshots = true;
  can.guest_isolated = !one_user();
  return can;
}

Result<void> Backend::State::spawn_helper() {
  SLUICE_TRY(const Fd program, sealed_memfd("sluice-sandboxes", helper_program()));
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return errno_error("start the sandbox helper", errno);
  }
  socket = Fd(ends[0]);
  const Fd theirs(ends[1]);
  // Room for a message of every size.
  for (const int fd : {socket.get(), theirs.get()}) {
    const int bytes = 4 * static_cast<int>(kMaxMessage);
    ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  }
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawnattr_init(&attributes);
  // A session of its own: the terminal's Ctrl-C is for the engine, which then cleans up through it.
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
  sigset_t none;
  ::sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  // dup2 of a descriptor onto itself would leave it close-on-exec; the program must not be where
  // the socket goes.
  const Fd image(::fcntl(program.get(), F_DUPFD_CLOEXEC, 10));
  const Fd above(::fcntl(theirs.get(), F_DUPFD_CLOEXEC, 10));
  ::posix_spawn_file_actions_adddup2(&actions, above.get(), 3);
  ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  const std::string path = "/proc/self/fd/" + std::to_string(image.get());
  char name[] = "sluice-sandboxes";
  char* argv[] = {name, nullptr};
  char* envp[] = {nullptr};
  const int failure = ::posix_spawn(&helper, path.c_str(), &actions, &attributes, argv, envp);
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (failure != 0) return errno_error("start the sandbox helper", failure);
  return {};
}

Result<void> Backend::State::send(Message::Kind kind, const Bytes& body, const Fd* along) {
  const Bytes bytes = Message{kind, body}.encode();
  if (bytes.size() > kMaxMessage) {
    return Error(ErrorCode::kTooLarge, "the sandbox's description is too large: fewer bundles");
  }
  std::vector<int> fds;
  if (along != nullptr) fds.push_back(along->get());
  // Never waits: a helper that is that far behind is none.
  if (send_with_fds(socket.get(), bytes, fds, MSG_DONTWAIT) >= 0) return {};
  if (errno == EAGAIN) {
    return Error(ErrorCode::kUnavailable, "the sandbox helper is busy: too many at once");
  }
  return Error(ErrorCode::kClosed, "the sandbox helper is gone");
}

Result<Message> Backend::State::receive() {
  Bytes buffer(kMaxMessage, '\0');
  const ssize_t n = TEMP_FAILURE_RETRY(::recv(socket.get(), buffer.data(), buffer.size(), 0));
  if (n <= 0) return Error(ErrorCode::kClosed, "the sandbox helper is gone");
  buffer.resize(static_cast<size_t>(n));
  return Message::decode(buffer);
}

Result<void> Backend::State::set_up() {
  Setup setup;
  SLUICE_TRY(setup.seccomp, make_filter(one_user() ? Uids::kOne : Uids::kMany));
  setup.root = base_layout(one_user() ? Users::kOne : Users::kMany);
  static_cast<Ids&>(setup) = ids;
  setup.ready = std::min<uint32_t>(options.ready, 64);
  SLUICE_TRY(const Fd guest, sealed_memfd("sluice-guest", guest::guest_program()));
  SLUICE_TRY_VOID(send(Message::Kind::kSetup, encode(setup), &guest));
  SLUICE_TRY(const Message answer, receive());
  if (answer.kind == Message::Kind::kFailed) return Error(ErrorCode::kInternal, answer.body);
  if (answer.kind != Message::Kind::kSetupDone) {
    return Error(ErrorCode::kProtocol, "the sandbox helper answers something else");
  }
  SLUICE_TRY(ready, decode<SetupDone>(answer.body));
  return {};
}

void Backend::State::read_answers() {
  for (;;) {
    const auto message = receive();
    if (!message) break;
    switch (message->kind) {
      case Message::Kind::kCreated: {
        auto created = decode<Created>(message->body);
        if (!created) break;
        const std::lock_guard lock(mutex);
        const auto found = creating.find(created->id);
        if (found == creating.end()) break;
        if (created->ok) {
          live.insert(created->id);
        } else {
          forget(created->id);
        }
        give(found->second,
             created->ok ? Result<Created>(*created)
                         : Result<Created>(std::move(created->error).from(ErrorOrigin::kEngine)));
        creating.erase(found);
        break;
      }
      case Message::Kind::kGone: {
        const auto gone = decode<Gone>(message->body);
        if (!gone) break;
        const std::lock_guard lock(mutex);
        live.erase(gone->id);
        forget(gone->id);
        const auto found = removing.find(gone->id);
        if (found == removing.end()) break;
        give(found->second, Result<Gone>(*gone));
        removing.erase(found);
        break;
      }
      case Message::Kind::kFailed:
        options.log.error("sandbox", "the helper gave up", {{"why", message->body}});
        break;
      default:
        break;
    }
  }
  on_end();
}

void Backend::State::forget(uint64_t number) {
  const auto found = names.find(number);
  if (found == names.end()) return;
  if (journal) journal->gone(found->second);
  names.erase(found);
}

// The helper is gone, by our will or not: what it made dies with it. Only directories can be left.
void Backend::State::on_end() {
  int status = 0;
  TEMP_FAILURE_RETRY(::waitpid(helper, &status, 0));
  for (const std::string& directory : ready.cgroups) remove_cgroup_tree(directory);
  const std::lock_guard lock(mutex);
  ended = true;
  for (const auto& [id, awaited] : creating) {
    give(awaited, Result<Created>(Error(ErrorCode::kClosed, "the sandbox helper is gone")));
  }
  for (const auto& [id, awaited] : removing) give(awaited, Result<Gone>(Gone{id, 0}));
  creating.clear();
  removing.clear();
  while (!names.empty()) forget(names.begin()->first);
}

Result<std::unique_ptr<Backend>> Backend::start(BackendOptions options) {
  remove_dead_cgroups();
  auto state = std::make_shared<State>();
  if (!options.journal_directory.empty()) {
    SandboxJournal::forget_dead(options.journal_directory);
    SLUICE_TRY(state->journal, SandboxJournal::open(options.journal_directory));
  }
  SLUICE_TRY(state->ids, plan_ids(read_id_facts()));
  state->options = std::move(options);
  state->images = std::make_unique<ImageStore>(state->options.image_directory);
  SLUICE_TRY_VOID(state->spawn_helper());
  std::unique_ptr<Backend> backend(new Backend(state));
  const auto ready = state->set_up();
  if (!ready) {
    state->socket.reset();
    state->on_end();
    return ready.error().within("start local sandboxes");
  }
  state->reader = std::thread([raw = state.get()] { raw->read_answers(); });
  return backend;
}

Backend::~Backend() {
  if (!state_->reader.joinable()) return;
  // Its end of file is the helper's word to remove everything.
  ::shutdown(state_->socket.get(), SHUT_WR);
  state_->reader.join();
}

Capabilities Backend::capabilities() const {
  return state_->capabilities();
}

int Backend::helper_pid() const {
  return state_->helper;
}

namespace {

// What of the wished limits the helper can enforce. The rest is a warning or a refusal.
struct LimitPlan {
  CgroupLimits groups;
  uint64_t disk_bytes = 0, disk_inodes = 0, open_files = 0;
};

bool host_has_swap() {
  const auto swaps = read_file("/proc/swaps", 64 * 1024);
  // A heading, then a line for each.
  return swaps && swaps->find('\n') + 1 < swaps->size();
}

Result<LimitPlan> plan_limits(const Limits& limits, const SetupDone& ready,
                              std::vector<std::string>* warnings) {
  LimitPlan plan;
  Result<void> refused;
  auto take = [&](const std::optional<Limit>& limit, const char* what, bool kept, uint64_t* into) {
    if (!limit) return;
    if (kept) {
      *into = limit->value;
      return;
    }
    const std::string why = fmt::format(
        "the limit of {} is not enforced here: {}", what,
        ready.cgroup_problem.empty() ? "the kernel has no such controller" : ready.cgroup_problem);
    if (limit->strictness == Strictness::kRequire && refused) {
      refused = Error(ErrorCode::kUnsupported, why);
    }
    warnings->push_back(why);
  };
  const Controllers& can = ready.controllers;
  take(limits.memory_bytes, "memory", can.memory, &plan.groups.memory_bytes);
  // A host without swap gives none.
  plan.groups.swap_bytes = kUnlimited;
  const bool no_swap = limits.swap_bytes && limits.swap_bytes->value == 0 && !host_has_swap();
  const bool counted = can.memory && can.swap && plan.groups.memory_bytes != 0;
  if (!no_swap || counted) take(limits.swap_bytes, "swap", counted, &plan.groups.swap_bytes);
  take(limits.pids, "processes", can.pids, &plan.groups.pids);
  take(limits.cpu_millis, "CPU time", can.cpu, &plan.groups.cpu_millis);
  take(limits.disk_bytes, "disk space", true, &plan.disk_bytes);
  take(limits.disk_inodes, "files", true, &plan.disk_inodes);
  take(limits.open_files, "open files", true, &plan.open_files);
  if (!refused) return std::move(refused).error();
  return plan;
}

Result<std::string> prepare_kept(const std::string& path, std::vector<std::string>* warnings) {
  if (path.empty()) return path;
  if (!path.starts_with('/')) {
    return Error(ErrorCode::kInvalidArgument, path + ": the kept directory needs a whole path");
  }
  if (::mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) return errno_error(path, errno);
  struct stat st{};
  if (::lstat(path.c_str(), &st) != 0) return errno_error(path, errno);
  if (!S_ISDIR(st.st_mode)) {
    return Error(ErrorCode::kInvalidArgument, path + " is not a directory");
  }
  warnings->push_back("the home directory is kept in " + path +
                      ": the limit of disk space does not hold there");
  return path;
}

bool is_file(const std::string& path) {
  struct stat st{};
  return ::stat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode);
}

bool names_image(const std::string& image) {
  return !image.empty() && image != "host";
}

// What is wrong with an image is the doing of the task that names it; a full disk is not.
Error of_image(Error error) {
  switch (error.code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kNotFound:
    case ErrorCode::kPermissionDenied:
    case ErrorCode::kTooLarge:
    case ErrorCode::kUnsupported:
      return std::move(error).from(ErrorOrigin::kTask);
    default:
      return error;
  }
}

awaitable<Result<std::shared_ptr<const Image>>> open_image(ImageStore* store,
                                                           net::BlockingPool* pool,
                                                           std::string path) {
  Result<std::shared_ptr<const Image>> opened;
  std::function<void()> work = [&] {
    opened = store->open(path);
  };
  co_await pool->run(std::move(work));
  if (!opened) co_return of_image(std::move(opened).error());
  co_return opened;
}

Result<std::vector<Step>> layout_of(const std::string& root, Users users) {
  auto layout = image_layout(root, users);
  if (!layout) return of_image(std::move(layout).error());
  return layout;
}

}  // namespace

Result<void> check_image(const std::string& image) {
  if (!names_image(image)) return {};
  if (is_file(image)) {
    auto whole = ImageStore::check(image);
    return whole ? whole : Result<void>(of_image(std::move(whole).error()));
  }
  SLUICE_TRY_VOID(layout_of(image, Users::kMany));
  return {};
}

Result<void> Backend::check_image(const Options& options) {
  return local::check_image(options.image);
}

awaitable<Result<std::unique_ptr<Sandbox>>> Backend::create(net::Shard* shard, Options options) {
  return make(state_, shard, std::move(options), Snapshot());
}

awaitable<Result<std::unique_ptr<Sandbox>>> Backend::clone(net::Shard* shard, Snapshot snapshot,
                                                           Options options) {
  if (!snapshot.content) {
    co_return Error(ErrorCode::kInvalidArgument, "a snapshot of another backend, or of none");
  }
  if (snapshot.content->image != options.image) {
    co_return Error(ErrorCode::kInvalidArgument, "the snapshot is of image \"" +
                                                     snapshot.content->image + "\", not of \"" +
                                                     options.image + "\"");
  }
  co_return co_await make(state_, shard, std::move(options), std::move(snapshot));
}

// What the helper made for a request.
struct Backend::Asked {
  Created made;
  std::string name;
  Fd link;  // our end
};

awaitable<Result<Backend::Asked>> Backend::ask(std::shared_ptr<State> state, net::Shard* shard,
                                               Create request, Labels labels) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    co_return errno_error("make a sandbox's link", errno);
  }
  Asked asked;
  asked.link = Fd(ends[0]);
  Fd theirs(ends[1]);
  const auto created = std::make_shared<Awaited<Created>>(shard);
  asked.name = random_id();
  request.name = asked.name;
  Result<void> sent;
  {
    const std::lock_guard lock(state->mutex);
    if (state->ended) co_return Error(ErrorCode::kClosed, "the sandbox helper is gone");
    request.id = state->next_id++;
    if (state->journal) {
      SLUICE_CO_TRY_VOID(state->journal->creating("local", asked.name, labels));
      state->names[request.id] = asked.name;
    }
    state->creating[request.id] = created;
    sent = state->send(Message::Kind::kCreate, encode(request), &theirs);
    if (!sent) {
      state->creating.erase(request.id);
      state->forget(request.id);
    }
  }
  theirs.reset();
  if (!sent) co_return std::move(sent).error();
  SLUICE_CO_TRY(asked.made, co_await answer_of(created, "make a sandbox"));
  co_return asked;
}

awaitable<Result<std::unique_ptr<Sandbox>>> Backend::make(std::shared_ptr<State> state,
                                                          net::Shard* shard, Options options,
                                                          Snapshot snapshot) {
  const bool has_image = names_image(options.image);
  if (has_image && !options.keep_files_in.empty()) {
    co_return Error(ErrorCode::kUnsupported, "the files of a sandbox with an image cannot be kept",
                    ErrorOrigin::kCaller);
  }
  if (options.network == Network::kSetup) {
    SLUICE_CO_TRY_VOID(check_setup_hosts(options.setup_hosts));
  }
  std::vector<std::string> warnings;
  if (!state->ids.note.empty()) warnings.push_back(state->ids.note);
  if (options.network == Network::kOpen) {
    warnings.emplace_back("the network is the host's own, its loopback included");
  }
  const bool own_network = options.network != Network::kOpen;
  SLUICE_CO_TRY(const LimitPlan limits, plan_limits(options.limits, state->ready, &warnings));
  const auto users = state->one_user() ? Users::kOne : Users::kMany;
  std::shared_ptr<const Image> image;
  if (has_image && is_file(options.image)) {
    auto opening = open_image(state->images.get(), &state->unpackers, options.image);
    SLUICE_CO_TRY(image, co_await std::move(opening));
  }
  Create request;
  SLUICE_CO_TRY(const auto extra, extra_layout(options, users));
  SLUICE_CO_TRY(request.kept_home, prepare_kept(options.keep_files_in, &warnings));
  request.disk_bytes = limits.disk_bytes;
  request.disk_inodes = limits.disk_inodes;
  request.limits = limits.groups;
  request.own_network = own_network;
  request.whole_root = has_image;
  std::optional<Asked> asked;
  // Subordinate ids are the only ones inside, and the unpacked files are not theirs.
  if (image && state->ids.mapping != Mapping::kByTools && !state->no_overlay) {
    request.extra = overlay_layout(image->passwd, image->group, users);
    request.extra.insert(request.extra.end(), extra.begin(), extra.end());
    request.image_root = image->root;
    auto made = co_await ask(state, shard, request, options.labels);
    if (made) {
      asked = std::move(*made);
    } else if (is_no_overlay(made.error())) {
      state->no_overlay = true;
      state->options.log.warn("sandbox", "images are read-only here",
                              {{"why", made.error().message}});
    } else {
      co_return std::move(made).error();
    }
  }
  if (!asked) {
    request.image_root.clear();
    request.extra.clear();
    if (has_image) {
      SLUICE_CO_TRY(request.extra, layout_of(image ? image->root : options.image, users));
    }
    if (image) {
      warnings.emplace_back(
          "the image is read-only here, and only its /usr, /etc, /opt and /srv are seen, of which "
          "only what everybody may read: laying changes over it needs root, or a single user id");
    }
    request.extra.insert(request.extra.end(), extra.begin(), extra.end());
    SLUICE_CO_TRY(asked, co_await ask(state, shard, request, options.labels));
  }
  const Created made = std::move(asked->made);
  const std::string id = std::move(asked->name);
  SLUICE_CO_TRY(auto link, guest::make_socket_link(*shard, std::move(asked->link)));
  // Should anything fail from here on, the end of the link ends the sandbox.
  guest::ClientOptions link_options;
  link_options.deadline = options.deadline;
  link_options.single_user = state->one_user();
  link_options.open_files = limits.open_files;
  SLUICE_CO_TRY(auto client, co_await guest::Client::connect(shard, std::move(link), link_options));
  if (snapshot.content) {
    SLUICE_CO_TRY_VOID(co_await restore(client.get(), std::move(snapshot)));
  }
  std::shared_ptr<SetupProxy> proxy;
  if (options.network == Network::kSetup) {
    const auto how =
        state->options.carry_connections ? guest::Carry::kConnections : guest::Carry::kSocket;
    SLUICE_CO_TRY(auto listener, co_await client->listen(kSetupProxyPort, how));
    SetupProxyOptions proxy_options;
    proxy_options.hosts = options.setup_hosts;
    proxy = SetupProxy::start(shard, std::move(listener), std::move(proxy_options));
  }
  GuestSandboxParts parts;
  parts.id = id;
  parts.setup_proxy = std::move(proxy);
  parts.image = options.image;
  if (image) parts.image_env = image->env;
  parts.spoolers = state->spoolers;
  parts.capabilities = state->capabilities();
  parts.warnings = std::move(warnings);
  parts.client = std::move(client);
  parts.destroy = [state, shard, number = made.id] {
    return remove(state, shard, number);
  };
  if (!made.oom_file.empty()) {
    parts.oom_kills = [file = made.oom_file] {
      return count_oom_kills(file);
    };
  }
  co_return make_guest_sandbox(shard, std::move(parts));
}

awaitable<Result<void>> Backend::remove(std::shared_ptr<State> state, net::Shard* shard,
                                        uint64_t number) {
  const auto removed = std::make_shared<Awaited<Gone>>(shard);
  Result<void> sent;
  {
    const std::lock_guard lock(state->mutex);
    if (state->ended || !state->live.contains(number)) co_return Result<void>();
    state->removing[number] = removed;
    Destroy request;
    request.id = number;
    sent = state->send(Message::Kind::kDestroy, encode(request), nullptr);
    if (!sent) state->removing.erase(number);
  }
  // A helper that is gone has taken everything with it.
  if (!sent && sent.error().code != ErrorCode::kClosed) co_return sent;
  if (!sent) co_return Result<void>();
  SLUICE_CO_TRY_VOID(co_await answer_of(removed, "remove a sandbox"));
  co_return Result<void>();
}

awaitable<Result<int>> Backend::reap() {
  const int groups = remove_dead_cgroups();
  const std::string& directory = state_->options.journal_directory;
  const int written = directory.empty() ? 0 : SandboxJournal::forget_dead(directory);
  co_return std::max(groups, written);
}

}  // namespace sluice::sandbox::local
