#include "sluice/sandbox/guest_sandbox.h"

#include <algorithm>

#include "sluice/net/wait.h"

namespace sluice::sandbox {
namespace {

// The arguments of Command::shell before the script, which a plain sh takes as "-c".
constexpr uint8_t kShellPrefix = 4;
static_assert(kMaxArgument + 1 == guest::wire::kMaxArgument);

guest::CommandRequest to_request(Command& command) {
  guest::CommandRequest request;
  const bool may_be_sh = command.is_shell() && command.argv.size() > kShellPrefix;
  request.shell_prefix = may_be_sh ? kShellPrefix : 0;
  request.argv = std::move(command.argv);
  for (const auto& [name, value] : command.env) request.env.push_back(name + "=" + value);
  request.cwd = std::move(command.cwd);
  request.user = std::move(command.user);
  request.input = std::move(command.input);
  request.deadline = command.deadline;
  request.output_cap = command.output_cap;
  if (command.take) {
    request.take = [take = std::move(command.take)](guest::OutputChannel from, Bytes piece) {
      const auto channel = from == guest::OutputChannel::kOut ? Channel::kOut : Channel::kErr;
      return take(channel, std::move(piece));
    };
  }
  return request;
}

// An environment's names cannot hold a '=': it would become part of the value.
Result<void> check_env(const Env& env) {
  for (const auto& [name, value] : env) {
    if (name.empty() || name.find('=') != std::string::npos) {
      return Error(ErrorCode::kInvalidArgument,
                   "\"" + name + "\" is no name of an environment variable");
    }
  }
  return {};
}

std::vector<std::string_view> directories_in(std::string_view path) {
  std::vector<std::string_view> all;
  while (!path.empty()) {
    const size_t colon = path.find(':');
    if (colon != 0) all.push_back(path.substr(0, colon));
    path = colon == path.npos ? std::string_view() : path.substr(colon + 1);
  }
  return all;
}

std::string join_paths(std::string_view own, std::string_view image) {
  constexpr std::string_view kStandard[] = {"/usr/local/sbin", "/usr/local/bin", "/usr/sbin",
                                            "/usr/bin",        "/sbin",          "/bin"};
  std::vector<std::string_view> joined;
  const auto add = [&](std::string_view directory) {
    if (std::find(joined.begin(), joined.end(), directory) == joined.end()) {
      joined.push_back(directory);
    }
  };
  std::vector<std::string_view> standard;
  for (const std::string_view directory : directories_in(own)) {
    const bool is_standard =
        std::find(std::begin(kStandard), std::end(kStandard), directory) != std::end(kStandard);
    if (is_standard) {
      standard.push_back(directory);
    } else {
      add(directory);
    }
  }
  for (const std::string_view directory : directories_in(image)) {
    if (directory.starts_with('/')) add(directory);
  }
  for (const std::string_view directory : standard) add(directory);
  std::string path;
  for (const std::string_view directory : joined) {
    if (!path.empty()) path += ':';
    path += directory;
  }
  return path;
}

FileInfo to_info(guest::wire::FileStat stat) {
  using Wire = guest::wire::FileStat::Type;
  static_assert(static_cast<int>(Wire::kOther) == static_cast<int>(FileInfo::Type::kOther));
  const auto type = static_cast<FileInfo::Type>(stat.type);
  return {std::move(stat.path), type, stat.size, stat.mode, stat.uid, stat.gid};
}

// Counts the kernel's kills for memory over the time of one command.
class OomWatch {
 public:
  explicit OomWatch(std::function<uint64_t()> count)
      : count_(std::move(count)), before_(count_ ? count_() : 0) {}
  bool happened() const { return count_ && count_() > before_; }

 private:
  std::function<uint64_t()> count_;
  uint64_t before_;
};

Exit to_exit(const guest::CommandExit& end, const OomWatch& oom) {
  Exit exit;
  exit.truncated = end.truncated;
  exit.status = -1;
  if (end.lost) {
    exit.reason = Exit::Reason::kLost;
    return exit;
  }
  exit.signal = end.exit.signal;
  using Wire = guest::wire::Exit::Reason;
  static_assert(static_cast<int>(Wire::kTimedOut) == static_cast<int>(Exit::Reason::kTimedOut));
  exit.reason = static_cast<Exit::Reason>(end.exit.reason);
  if (exit.reason == Exit::Reason::kExited) exit.status = end.exit.status;
  // It may have been a child that was killed, of which the command only reports a code.
  exit.oom = exit.reason != Exit::Reason::kTimedOut && !exit.ok() && oom.happened();
  return exit;
}

class GuestJob final : public Job {
 public:
  GuestJob(std::unique_ptr<guest::Process> process, OomWatch oom)
      : process_(std::move(process)), oom_(std::move(oom)) {}

  awaitable<Result<Exit>> wait(Deadline deadline) override {
    SLUICE_CO_TRY(const auto end, co_await process_->wait(deadline));
    co_return to_exit(end, oom_);
  }
  awaitable<Result<void>> signal(int number) override { return process_->signal(number); }
  awaitable<Result<void>> kill_tree() override { return process_->kill_tree(); }
  awaitable<Result<void>> write_stdin(Bytes bytes) override {
    return process_->write_stdin(std::move(bytes));
  }
  awaitable<Result<void>> close_stdin() override { return process_->close_stdin(); }
  awaitable<Result<Bytes>> read_output(Channel channel, size_t max) override {
    return process_->read_output(
        channel == Channel::kOut ? guest::Process::Channel::kOut : guest::Process::Channel::kErr,
        max);
  }

 private:
  std::unique_ptr<guest::Process> process_;
  const OomWatch oom_;
};

constexpr size_t kSpoolPiece = 256 * 1024;

struct SpooledWork final : WorkContent {
  explicit SpooledWork(std::shared_ptr<const Spool> s) : stream(std::move(s)) {}
  const std::shared_ptr<const Spool> stream;
};

// A work that is no larger finds room on the host, or that is our fault.
constexpr uint64_t kSmallWork = uint64_t{64} << 20;

// All that comes.
awaitable<Result<void>> spool_all(std::unique_ptr<guest::PieceReader> reader,
                                  std::shared_ptr<Spool> spool) {
  for (;;) {
    SLUICE_CO_TRY(Bytes piece, co_await reader->read_some());
    if (piece.empty()) co_return Result<void>();
    SLUICE_CO_TRY_VOID(co_await spool->append(std::move(piece)));
  }
}

awaitable<Result<void>> give_all(std::shared_ptr<const Spool> spool,
                                 std::unique_ptr<guest::PieceWriter> writer) {
  for (uint64_t at = 0;;) {
    SLUICE_CO_TRY(const Bytes piece, co_await spool->read(at, kSpoolPiece));
    if (piece.empty()) break;
    const ByteView view = piece;
    SLUICE_CO_TRY_VOID(co_await writer->write(view));
    at += piece.size();
  }
  co_return co_await writer->finish();
}

class GuestSandbox final : public Sandbox {
 public:
  GuestSandbox(net::Shard* shard, GuestSandboxParts parts)
      : parts_(std::move(parts)), removed_changed_(shard) {
    if (!parts_.oom_kills) return;
    // A guest that dies where the kernel killed for memory is the doing of who used it up: of what
    // was prepared, or of the agent.
    parts_.client->on_end([kills = parts_.oom_kills, in_background = in_background_] {
      if (kills() == 0) return ErrorOrigin::kEngine;
      return *in_background ? ErrorOrigin::kAgent : ErrorOrigin::kTask;
    });
  }

  const std::string& id() const override { return parts_.id; }
  const Capabilities& capabilities() const override { return parts_.capabilities; }
  const std::vector<std::string>& warnings() const override { return parts_.warnings; }

  awaitable<Result<Output>> exec(Command command) override {
    SLUICE_CO_TRY_VOID(check_env(command.env));
    add_image_env(&command);
    const OomWatch oom(parts_.oom_kills);
    const auto began = Clock::now();
    SLUICE_CO_TRY(auto ended, co_await parts_.client->exec(to_request(command)));
    Output output;
    output.wall = Clock::now() - began;
    output.exit = to_exit(ended.exit, oom);
    output.out = std::move(ended.out);
    output.err = std::move(ended.err);
    co_return output;
  }

  awaitable<Result<std::unique_ptr<Job>>> start(Command command) override {
    SLUICE_CO_TRY_VOID(check_env(command.env));
    add_image_env(&command);
    OomWatch oom(parts_.oom_kills);
    *in_background_ = true;
    SLUICE_CO_TRY(auto process, co_await parts_.client->start(to_request(command)));
    co_return std::unique_ptr<Job>(std::make_unique<GuestJob>(std::move(process), std::move(oom)));
  }

  awaitable<Result<void>> write_file(std::string path, Bytes content,
                                     WriteOptions options) override {
    SLUICE_CO_TRY(auto writer, co_await parts_.client->open_writer(std::move(path), options.mode,
                                                                   std::move(options.user)));
    const ByteView view = content;
    SLUICE_CO_TRY_VOID(co_await writer->write(view));
    co_return co_await writer->finish();
  }

  awaitable<Result<Bytes>> read_file(std::string path, size_t max, std::string user) override {
    SLUICE_CO_TRY(auto reader,
                  co_await parts_.client->open_reader(std::move(path), max, std::move(user)));
    Bytes all;
    for (;;) {
      SLUICE_CO_TRY(const Bytes piece, co_await reader->read_some());
      if (piece.empty()) co_return all;
      all.append(piece);
    }
  }

  awaitable<Result<FileInfo>> stat(std::string path, std::string user) override {
    SLUICE_CO_TRY(auto stat, co_await parts_.client->stat(std::move(path), std::move(user)));
    co_return to_info(std::move(stat));
  }

  awaitable<Result<std::vector<FileInfo>>> list(std::string path, int depth, size_t max,
                                                std::string user) override {
    const auto levels = static_cast<uint32_t>(std::max(depth, 0));
    SLUICE_CO_TRY(auto entries,
                  co_await parts_.client->list(std::move(path), levels, max, std::move(user)));
    std::vector<FileInfo> infos;
    infos.reserve(entries.size());
    for (auto& entry : entries) infos.push_back(to_info(std::move(entry)));
    co_return infos;
  }

  awaitable<Result<void>> reset_directory(std::string path, std::string user,
                                          uint32_t mode) override {
    return parts_.client->reset_directory(std::move(path), std::move(user), mode);
  }

  awaitable<Result<uint64_t>> give_tree(std::string path, std::string user) override {
    return parts_.client->give_tree(std::move(path), std::move(user));
  }

  awaitable<Result<HandedOver>> hand_over(std::string workdir, Leftovers leftovers) override {
    guest::wire::HandOver request;
    request.home = kHome;
    request.workdir = std::move(workdir);
    request.place = kVerifierPlace;
    request.link = kVerifierDir;
    request.user = kVerifyUser;
    request.from = kAgentUser;
    if (leftovers == Leftovers::kRemove) {
      request.shared = {"/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/dev/mqueue"};
    }
    request.path = with_image_env({{"PATH", kStandardPath}}, parts_.image_env).front().second;
    SLUICE_CO_TRY(auto done, co_await parts_.client->hand_over(std::move(request)));
    HandedOver handed{std::move(done.shell), std::move(done.path), std::move(done.notes)};
    co_return handed;
  }

  awaitable<Result<std::unique_ptr<net::Listener>>> listen(uint16_t port) override {
    return parts_.client->listen(port, parts_.capabilities.listen_passed
                                           ? guest::Carry::kSocket
                                           : guest::Carry::kConnections);
  }

  awaitable<Result<void>> end_setup() override {
    if (parts_.setup_proxy) parts_.setup_proxy->close();
    if (!parts_.client->why_closed().message.empty()) {
      co_return Error(ErrorCode::kClosed, parts_.client->why_closed().message,
                      parts_.client->why_closed().origin);
    }
    co_return Result<void>();
  }

  awaitable<Result<Snapshot>> snapshot() override {
    auto content = std::make_shared<SnapshotContent>();
    content->image = parts_.image;
    SLUICE_CO_TRY(auto reader, co_await parts_.client->pack(kMaxSnapshot));
    const auto spool = std::make_shared<Spool>(parts_.spoolers);
    SLUICE_CO_TRY_VOID(co_await spool_all(std::move(reader), spool));
    content->files = spool;
    Snapshot snapshot;
    snapshot.id = parts_.id;
    snapshot.bytes = content->files->size();
    snapshot.content = std::move(content);
    co_return snapshot;
  }

  awaitable<Result<TakenWork>> take_work(WorkPlaces places, Duration changed_within) override {
    guest::wire::TakeWork request;
    request.paths = places.paths;
    request.exclude = places.exclude;
    request.max = kMaxWork;
    request.max_entries = kMaxWorkEntries;
    request.changed_ms = static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::milliseconds>(changed_within).count());
    guest::wire::WorkTaken taken;
    SLUICE_CO_TRY(auto reader, co_await parts_.client->take_work(std::move(request), &taken));
    const auto spool = std::make_shared<Spool>(parts_.spoolers);
    auto spooled = co_await spool_all(std::move(reader), spool);
    if (!spooled) {
      Error error = std::move(spooled).error();
      const bool too_large = error.code == ErrorCode::kExhausted && spool->size() >= kSmallWork;
      if (too_large) error = Error(ErrorCode::kTooLarge, error.message, ErrorOrigin::kSandbox);
      co_return error;
    }
    TakenWork work;
    work.places = std::move(places);
    work.entries = taken.entries;
    work.left_out = taken.left_out;
    work.changed_elsewhere = taken.changed;
    work.missing = std::move(taken.missing);
    work.content = std::make_shared<SpooledWork>(spool);
    co_return work;
  }

  awaitable<Result<void>> put_work(TakenWork work, std::string user) override {
    const auto content = std::dynamic_pointer_cast<const SpooledWork>(work.content);
    if (!content) {
      co_return Error(ErrorCode::kInvalidArgument, "a work of another backend, or of none");
    }
    guest::wire::PutWork request;
    request.paths = std::move(work.places.paths);
    request.exclude = std::move(work.places.exclude);
    request.user = std::move(user);
    SLUICE_CO_TRY(auto writer, co_await parts_.client->put_work(std::move(request)));
    co_return co_await give_all(content->stream, std::move(writer));
  }

  awaitable<Result<void>> plant_file(std::string path, Bytes content, uint32_t mode,
                                     std::string below) override {
    SLUICE_CO_TRY_VOID(co_await parts_.client->make_way(path, std::move(below)));
    WriteOptions options;
    options.user = kSetupUser;
    options.mode = mode;
    co_return co_await write_file(std::move(path), std::move(content), std::move(options));
  }

  awaitable<Result<void>> kill_all() override { return parts_.client->kill_all(); }
  awaitable<Result<void>> kill_user(std::string user) override {
    return parts_.client->kill_user(std::move(user));
  }

  awaitable<Result<void>> close() override {
    if (parts_.setup_proxy) parts_.setup_proxy->close();
    parts_.client->close();
    if (!std::exchange(removing_, true)) {
      removed_ = parts_.destroy ? co_await parts_.destroy() : Result<void>();
      removed_changed_.notify_all();
    }
    // Whoever calls meanwhile waits for the same removal.
    while (!removed_) {
      SLUICE_CO_TRY_VOID(co_await removed_changed_.wait(Deadline::never()));
    }
    co_return *removed_;
  }

 private:
  void add_image_env(Command* command) const {
    Env image = parts_.image_env;
    if (command->image_path == Command::ImagePath::kLeftOut) {
      std::erase_if(image, [](const auto& variable) { return variable.first == "PATH"; });
    }
    command->env = with_image_env(std::move(command->env), image);
  }

  GuestSandboxParts parts_;
  // An agent was started. Shared, for what the client hands out may outlive this.
  const std::shared_ptr<bool> in_background_ = std::make_shared<bool>(false);
  bool removing_ = false;
  std::optional<Result<void>> removed_;
  net::Broadcast removed_changed_;
};

}  // namespace

Env with_image_env(Env env, const Env& image) {
  for (const auto& [name, value] : image) {
    if (name == "HOME" || name == "USER" || name == "LOGNAME" || name == "PWD") continue;
    const auto own = std::find_if(env.begin(), env.end(),
                                  [&](const auto& variable) { return variable.first == name; });
    if (own == env.end()) {
      env.emplace_back(name, value);
    } else if (name == "PATH") {
      own->second = join_paths(own->second, value);
    }
  }
  return env;
}

awaitable<Result<void>> restore(guest::Client* client, Snapshot snapshot) {
  if (!snapshot.content) {
    co_return Error(ErrorCode::kInvalidArgument, "a snapshot of another backend, or of none");
  }
  SLUICE_CO_TRY(auto writer, co_await client->unpack());
  co_return co_await give_all(snapshot.content->files, std::move(writer));
}

std::unique_ptr<Sandbox> make_guest_sandbox(net::Shard* shard, GuestSandboxParts parts) {
  return std::make_unique<GuestSandbox>(shard, std::move(parts));
}

}  // namespace sluice::sandbox
