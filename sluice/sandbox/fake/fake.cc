#include "sluice/sandbox/fake/fake.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <mutex>

#include "sluice/base/core/check.h"

namespace sluice::sandbox::fake {
namespace {

constexpr size_t kUnreadLimit = 256 * 1024;
constexpr size_t kMaxTail = 1024 * 1024;

Error refusal(ErrorCode code, std::string what) {
  return {code, std::move(what), ErrorOrigin::kSandbox};
}

std::string words_of(const Command& command) {
  if (command.is_shell()) return command.argv.back();
  return fmt::format("{}", fmt::join(command.argv, " "));
}

std::string normal(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

std::string parent_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == 0 || slash == std::string::npos ? "/" : path.substr(0, slash);
}

Result<uint32_t> uid_of(const std::string& user) {
  if (user == "root") return uint32_t{0};
  if (user == "user") return uint32_t{1000};
  if (user == "verifier") return uint32_t{1001};
  const auto uid = parse_decimal(user);
  if (!uid || *uid >= UINT32_MAX) {
    return Error(ErrorCode::kNotFound, "no user " + user + " in /etc/passwd");
  }
  return static_cast<uint32_t>(*uid);
}

FileInfo info_of(const std::string& path, const FakeFile& file) {
  return {path, file.type, file.content.size(), file.mode, file.uid, file.uid};
}

awaitable<Exit> give_answer(FakeProcess* self, Answer answer) {
  Exit exit;
  if (answer.takes > Duration::zero()) {
    const auto slept = co_await self->sleep(answer.takes);
    if (!slept) co_return exit;
  }
  (void)co_await self->write(Job::Channel::kOut, std::move(answer.out));
  (void)co_await self->write(Job::Channel::kErr, std::move(answer.err));
  if (answer.signal != 0) {
    exit.reason = Exit::Reason::kSignaled;
    exit.status = -1;
    exit.signal = answer.signal;
  } else {
    exit.status = answer.status;
  }
  co_return exit;
}

}  // namespace

// --- the machine --------------------------------------------------------------------------------

FakeMachine::FakeMachine(net::Shard* shard, std::string id, Options options)
    : shard_(shard), id_(std::move(id)), options_(std::move(options)), process_ended_(shard) {
  for (const char* path : {"/", "/etc", "/usr", "/usr/bin", "/home", "/root"}) {
    put_directory(path, 0);
  }
  put_directory("/tmp", 0, 01777);
  put_directory(kHome);
  put_directory(kWorkdir);
}

std::vector<std::string> FakeMachine::commands() const {
  std::vector<std::string> all;
  for (const Command& command : history_) all.push_back(words_of(command));
  return all;
}

void FakeMachine::put(const std::string& path, Bytes content, uint32_t uid, uint32_t mode) {
  const std::string parent = parent_of(normal(path));
  if (!files_.contains(parent)) put_directory(parent, 0);
  files_[normal(path)] = {FileInfo::Type::kFile, std::move(content), mode, uid};
}

void FakeMachine::put_directory(const std::string& path, uint32_t uid, uint32_t mode) {
  const std::string parent = parent_of(normal(path));
  if (path != "/" && !files_.contains(parent)) put_directory(parent, 0);
  files_[normal(path)] = {FileInfo::Type::kDirectory, {}, mode, uid};
}

void FakeMachine::remove(const std::string& path) {
  const std::string root = normal(path);
  std::erase_if(files_, [&](const auto& entry) {
    return entry.first == root || entry.first.starts_with(root + "/");
  });
}

std::optional<FakeFile> FakeMachine::file(const std::string& path) const {
  const auto found = files_.find(normal(path));
  if (found == files_.end()) return std::nullopt;
  return found->second;
}

Result<FakeFile*> FakeMachine::reach(const std::string& path, uint32_t uid, uint32_t want) {
  if (!path.starts_with('/')) {
    return refusal(ErrorCode::kInvalidArgument, path + " is not an absolute path");
  }
  // Every directory on the way, which must let through, then the file itself.
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const bool last = slash == std::string::npos;
    const auto found = files_.find(last ? normal(path) : path.substr(0, slash));
    if (found == files_.end()) {
      return refusal(ErrorCode::kNotFound, path + ": No such file or directory");
    }
    FakeFile& file = found->second;
    if (!last && file.type != FileInfo::Type::kDirectory) {
      return refusal(ErrorCode::kInvalidArgument, path + ": Not a directory");
    }
    const uint32_t granted = file.uid == uid ? file.mode >> 6 : file.mode;
    const uint32_t wanted = last ? want : 1;
    if (uid != 0 && (granted & wanted) != wanted) {
      return refusal(ErrorCode::kPermissionDenied, path + ": Permission denied");
    }
    if (last) return &file;
  }
}

Result<std::unique_ptr<net::MemoryStream>> FakeMachine::connect(uint16_t port) {
  const auto found = ports_.find(port);
  if (found == ports_.end()) {
    return Error(ErrorCode::kUnavailable, fmt::format("127.0.0.1:{}: Connection refused", port));
  }
  auto ends = net::memory_pair(*shard_);
  found->second->waiting.push_back(std::move(ends.first));
  found->second->changed.notify_all();
  return std::move(ends.second);
}

Result<void> FakeMachine::alive() const {
  if (!closed_) return {};
  return Error(ErrorCode::kClosed, "sandbox " + id_ + " is gone");
}

Result<std::shared_ptr<FakeProcess>> FakeMachine::launch(Command command, bool background) {
  SLUICE_TRY_VOID(alive());
  if (command.argv.empty()) {
    return Error(ErrorCode::kInvalidArgument, "a command without argv");
  }
  SLUICE_TRY_VOID(uid_of(command.user));
  const auto cwd = files_.find(normal(command.cwd));
  if (cwd == files_.end() || cwd->second.type != FileInfo::Type::kDirectory) {
    return refusal(ErrorCode::kNotFound,
                   "working directory " + command.cwd + ": No such file or directory");
  }
  Program program = find_program_(command);
  history_.push_back(command);
  auto process = std::make_shared<FakeProcess>(shared_from_this(), std::move(command), background);
  processes_.push_back(process);
  shard_->spawn(FakeProcess::run(process, std::move(program)));
  return process;
}

void FakeMachine::kill_all(Exit::Reason reason, const std::string& user) {
  const auto running = processes_;
  for (const auto& process : running) {
    if (user.empty() || process->command().user == user) process->kill(reason, 9);
  }
}

void FakeMachine::end(Exit::Reason reason) {
  if (std::exchange(closed_, true)) return;
  kill_all(reason);
  const auto ports = std::move(ports_);
  ports_.clear();
  for (const auto& [number, port] : ports) {
    port->closed = true;
    port->waiting.clear();
    port->changed.notify_all();
  }
}

// --- its processes ------------------------------------------------------------------------------

FakeProcess::FakeProcess(std::shared_ptr<FakeMachine> machine, Command command, bool background)
    : machine_(std::move(machine)),
      command_(std::move(command)),
      background_(background),
      input_(command_.input),
      input_ended_(!background),
      changed_(machine_->shard_),
      deadline_(machine_->shard_->wheel()) {
  deadline_.arm(command_.deadline, [this] { kill(Exit::Reason::kTimedOut, 9); });
}

awaitable<void> FakeProcess::run(std::shared_ptr<FakeProcess> self, Program program) {
  const Exit exit = co_await program(self.get());
  self->finish(exit);
  std::erase(self->machine_->processes_, self);
  self->machine_->process_ended_.notify_all();
}

Error FakeProcess::killed_error() const {
  return Error(ErrorCode::kCancelled, "this process was killed");
}

awaitable<Result<Bytes>> FakeProcess::read_input() {
  while (input_.empty() && !input_ended_ && !killed_) {
    SLUICE_CO_TRY_VOID(co_await changed_.wait(Deadline::never()));
  }
  if (killed_) co_return killed_error();
  co_return std::exchange(input_, Bytes());
}

awaitable<Result<void>> FakeProcess::write(Job::Channel channel, Bytes bytes) {
  Pipe& into = pipe(channel);
  while (background_ && into.unread.size() >= kUnreadLimit && !killed_) {
    SLUICE_CO_TRY_VOID(co_await changed_.wait(Deadline::never()));
  }
  if (killed_) co_return killed_error();
  const size_t tail = std::min(command_.output_cap / 2, kMaxTail);
  const size_t beginning = command_.output_cap - tail;
  const size_t room = beginning - std::min<size_t>(beginning, into.total);
  if (bytes.size() > room) {
    into.tail.append(bytes, room);
    bytes.resize(room);
    into.truncated = into.truncated || into.tail.size() > tail;
    if (into.tail.size() > tail) into.tail.erase(0, into.tail.size() - tail);
  }
  into.total += bytes.size();
  into.unread.append(bytes);
  changed_.notify_all();
  co_return Result<void>();
}

awaitable<Result<void>> FakeProcess::sleep(Duration duration) {
  const Deadline until = Deadline::in(duration);
  while (!killed_) {
    const auto waited = co_await changed_.wait(until);
    if (waited) continue;
    if (waited.error().code == ErrorCode::kTimedOut) co_return Result<void>();
    co_return waited;
  }
  co_return killed_error();
}

Result<std::unique_ptr<net::MemoryStream>> FakeProcess::connect(uint16_t port) {
  if (killed_) return killed_error();
  SLUICE_TRY(auto stream, machine_->connect(port));
  resets_.push_back(stream->resetter());
  return stream;
}

void FakeProcess::kill(Exit::Reason reason, int signal) {
  if (exit_) return;
  killed_ = true;
  Exit exit;
  exit.reason = reason;
  exit.status = -1;
  exit.signal = signal;
  finish(exit);
  for (const auto& reset : resets_) reset();
}

void FakeProcess::finish(Exit exit) {
  if (exit_) return;
  exit.truncated = out_.truncated || err_.truncated;
  exit_ = exit;
  for (Pipe* pipe : {&out_, &err_}) pipe->unread.append(std::exchange(pipe->tail, {}));
  deadline_.disarm();
  changed_.notify_all();
}

// --- what the rooms above get -------------------------------------------------------------------

class FakeJob final : public Job {
 public:
  explicit FakeJob(std::shared_ptr<FakeProcess> process) : process_(std::move(process)) {}

  awaitable<Result<Exit>> wait(Deadline deadline) override {
    const auto process = process_;
    while (!process->exit_) {
      const auto waited = co_await process->changed_.wait(deadline);
      if (!waited) {
        co_return Error(waited.error().code, "the command still runs: " + waited.error().message);
      }
    }
    co_return *process->exit_;
  }

  awaitable<Result<void>> signal(int number) override {
    SLUICE_CO_TRY_VOID(process_->machine_->alive());
    if (process_->exit_) co_return Error(ErrorCode::kNotFound, "the command has ended");
    process_->kill(Exit::Reason::kSignaled, number);
    co_return Result<void>();
  }

  awaitable<Result<void>> kill_tree() override {
    SLUICE_CO_TRY_VOID(process_->machine_->alive());
    process_->kill(Exit::Reason::kSignaled, 9);
    co_return Result<void>();
  }

  awaitable<Result<void>> write_stdin(Bytes bytes) override {
    const auto process = process_;
    for (;;) {
      SLUICE_CO_TRY_VOID(process->machine_->alive());
      if (process->exit_ || process->input_ended_) {
        co_return Error(ErrorCode::kClosed, "the command does not read its stdin any more");
      }
      if (process->input_.size() < kUnreadLimit) break;
      SLUICE_CO_TRY_VOID(co_await process->changed_.wait(Deadline::never()));
    }
    process->input_.append(bytes);
    process->changed_.notify_all();
    co_return Result<void>();
  }

  awaitable<Result<void>> close_stdin() override {
    process_->input_ended_ = true;
    process_->changed_.notify_all();
    co_return Result<void>();
  }

  awaitable<Result<Bytes>> read_output(Channel channel, size_t max) override {
    const auto process = process_;
    auto& pipe = process->pipe(channel);
    while (pipe.unread.empty() && !process->exit_) {
      SLUICE_CO_TRY_VOID(co_await process->changed_.wait(Deadline::never()));
    }
    SLUICE_CO_TRY_VOID(process->machine_->alive());
    Bytes piece = pipe.unread.substr(0, max);
    pipe.unread.erase(0, piece.size());
    process->changed_.notify_all();
    co_return piece;
  }

 private:
  std::shared_ptr<FakeProcess> process_;
};

class FakeListener final : public net::Listener {
 public:
  FakeListener(std::shared_ptr<FakeMachine> machine, uint16_t number)
      : machine_(std::move(machine)), port_(machine_->ports_.at(number)), number_(number) {}
  ~FakeListener() override { FakeListener::close(); }

  awaitable<Result<std::unique_ptr<net::Stream>>> accept() override {
    const auto port = port_;
    while (port->waiting.empty()) {
      if (port->closed) co_return Error(ErrorCode::kClosed, "accept: closed");
      SLUICE_CO_TRY_VOID(co_await port->changed.wait(Deadline::never()));
    }
    std::unique_ptr<net::Stream> stream = std::move(port->waiting.front());
    port->waiting.erase(port->waiting.begin());
    co_return stream;
  }

  void close() override {
    if (std::exchange(port_->closed, true)) return;
    machine_->ports_.erase(number_);
    port_->waiting.clear();
    port_->changed.notify_all();
  }

  std::string address() const override { return fmt::format("127.0.0.1:{}", number_); }

 private:
  std::shared_ptr<FakeMachine> machine_;
  std::shared_ptr<FakeMachine::Port> port_;
  const uint16_t number_;
};

class FakeSandbox final : public Sandbox {
 public:
  FakeSandbox(std::shared_ptr<FakeMachine> machine, Capabilities capabilities,
              std::vector<std::string> warnings)
      : machine_(std::move(machine)), capabilities_(capabilities), warnings_(std::move(warnings)) {}
  ~FakeSandbox() override { machine_->end(Exit::Reason::kLost); }

  const std::string& id() const override { return machine_->id(); }
  const Capabilities& capabilities() const override { return capabilities_; }
  const std::vector<std::string>& warnings() const override { return warnings_; }

  awaitable<Result<Output>> exec(Command command) override {
    const auto began = Clock::now();
    const auto take = command.take;
    SLUICE_CO_TRY(const auto process, machine_->launch(std::move(command), false));
    while (!process->exit_) {
      SLUICE_CO_TRY_VOID(co_await process->changed_.wait(Deadline::never()));
    }
    if (process->exit_->reason == Exit::Reason::kLost) co_return machine_->alive().error();
    Bytes out = std::move(process->out_.unread), err = std::move(process->err_.unread);
    if (take) {
      co_await take(Channel::kOut, std::move(out));
      co_await take(Channel::kErr, std::move(err));
      out = err = Bytes();
    }
    co_return Output{*process->exit_, std::move(out), std::move(err), Clock::now() - began};
  }

  awaitable<Result<std::unique_ptr<Job>>> start(Command command) override {
    SLUICE_CO_TRY(auto process, machine_->launch(std::move(command), true));
    co_return std::unique_ptr<Job>(std::make_unique<FakeJob>(std::move(process)));
  }

  awaitable<Result<void>> write_file(std::string path, Bytes content,
                                     WriteOptions options) override {
    SLUICE_CO_TRY_VOID(machine_->alive());
    SLUICE_CO_TRY(const uint32_t uid, uid_of(options.user));
    SLUICE_CO_TRY_VOID(make_parents(path, uid));
    const auto there = machine_->reach(path, uid, 0);
    if (there && (*there)->type != FileInfo::Type::kFile) co_return not_a_file(path);
    if (!there && there.error().code != ErrorCode::kNotFound) co_return there.error();
    SLUICE_CO_TRY_VOID(machine_->reach(parent_of(path), uid, 2));
    machine_->files_[path] = {FileInfo::Type::kFile, std::move(content), options.mode, uid};
    co_return Result<void>();
  }

  awaitable<Result<Bytes>> read_file(std::string path, size_t max, std::string user) override {
    SLUICE_CO_TRY_VOID(machine_->alive());
    SLUICE_CO_TRY(const uint32_t uid, uid_of(user));
    SLUICE_CO_TRY(const FakeFile* file, machine_->reach(path, uid, 4));
    if (file->type != FileInfo::Type::kFile) co_return not_a_file(path);
    if (file->content.size() > max) {
      co_return refusal(ErrorCode::kTooLarge, fmt::format("{}: more than {} bytes", path, max));
    }
    co_return file->content;
  }

  awaitable<Result<FileInfo>> stat(std::string path, std::string user) override {
    SLUICE_CO_TRY_VOID(machine_->alive());
    SLUICE_CO_TRY(const uint32_t uid, uid_of(user));
    SLUICE_CO_TRY(const FakeFile* file, machine_->reach(path, uid, 0));
    co_return info_of(path, *file);
  }

  awaitable<Result<std::vector<FileInfo>>> list(std::string path, int depth, size_t max,
                                                std::string user) override {
    SLUICE_CO_TRY_VOID(machine_->alive());
    SLUICE_CO_TRY(const uint32_t uid, uid_of(user));
    SLUICE_CO_TRY(const FakeFile* root, machine_->reach(path, uid, 4));
    if (root->type != FileInfo::Type::kDirectory) {
      co_return Error(ErrorCode::kInvalidArgument, path + ": Not a directory");
    }
    const std::string prefix = normal(path) == "/" ? "/" : normal(path) + "/";
    std::vector<FileInfo> entries;
    for (const auto& [name, file] : machine_->files_) {
      if (!name.starts_with(prefix) || name == prefix) continue;
      const std::string relative = name.substr(prefix.size());
      if (std::count(relative.begin(), relative.end(), '/') >= depth) continue;
      if (!machine_->reach(parent_of(name), uid, 4)) continue;
      if (entries.size() == max) break;
      entries.push_back(info_of(relative, file));
    }
    co_return entries;
  }

  awaitable<Result<void>> reset_directory(std::string path, std::string user,
                                          uint32_t mode) override {
    SLUICE_CO_TRY_VOID(machine_->alive());
    SLUICE_CO_TRY(const uint32_t uid, uid_of(user));
    machine_->remove(path);
    machine_->put_directory(path, uid, mode);
    co_return Result<void>();
  }

  awaitable<Result<uint64_t>> give_tree(std::string path, std::string user) override {
    SLUICE_CO_TRY(const uint32_t uid, uid_of(user));
    SLUICE_CO_TRY_VOID(machine_->give(path, uid));
    co_return uint64_t{0};
  }

  awaitable<Result<HandedOver>> hand_over(std::string workdir, Leftovers) override {
    co_return machine_->hand_over(workdir);
  }

  awaitable<Result<std::unique_ptr<net::Listener>>> listen(uint16_t port) override {
    SLUICE_CO_TRY_VOID(machine_->alive());
    auto& ports = machine_->ports_;
    if (port == 0) {
      port = 32'768;
      while (ports.contains(port)) ++port;
    }
    if (ports.contains(port)) {
      co_return Error(ErrorCode::kAlreadyExists,
                      fmt::format("listen on 127.0.0.1:{}: Address already in use", port));
    }
    ports[port] = std::make_shared<FakeMachine::Port>(machine_->shard_);
    co_return std::unique_ptr<net::Listener>(std::make_unique<FakeListener>(machine_, port));
  }

  awaitable<Result<void>> end_setup() override {
    SLUICE_CO_TRY_VOID(machine_->alive());
    co_return Result<void>();
  }

  awaitable<Result<Snapshot>> snapshot() override { co_return machine_->snapshot(); }

  awaitable<Result<TakenWork>> take_work(WorkPlaces places, Duration /*changed*/) override {
    co_return machine_->take_work(std::move(places));
  }
  awaitable<Result<void>> put_work(TakenWork work, std::string user) override {
    SLUICE_CO_TRY(const uint32_t uid, uid_of(user));
    co_return machine_->put_work(work, uid);
  }
  awaitable<Result<void>> plant_file(std::string path, Bytes content, uint32_t mode,
                                     std::string below) override {
    co_return machine_->plant(path, std::move(content), mode, below);
  }

  awaitable<Result<void>> kill_all() override {
    SLUICE_CO_TRY_VOID(machine_->alive());
    machine_->kill_all(Exit::Reason::kSignaled);
    co_await programs_returned();
    co_return Result<void>();
  }

  awaitable<Result<void>> kill_user(std::string user) override {
    SLUICE_CO_TRY_VOID(machine_->alive());
    machine_->kill_all(Exit::Reason::kSignaled, user);
    co_await programs_returned(std::move(user));
    co_return Result<void>();
  }

  awaitable<Result<void>> close() override {
    machine_->end(Exit::Reason::kLost);
    co_await programs_returned();
    co_return Result<void>();
  }

 private:
  awaitable<void> programs_returned(std::string of = "") {
    const auto machine = machine_;
    const auto runs = [&of](const auto& process) {
      return of.empty() || process->command().user == of;
    };
    while (std::ranges::any_of(machine->processes_, runs)) {
      const auto waited = co_await machine->process_ended_.wait(Deadline::never());
      if (!waited) break;
    }
  }

  Result<void> make_parents(const std::string& path, uint32_t uid) {
    for (size_t slash = path.find('/', 1); slash != std::string::npos;
         slash = path.find('/', slash + 1)) {
      const std::string directory = path.substr(0, slash);
      if (machine_->files_.contains(directory)) continue;
      SLUICE_TRY_VOID(machine_->reach(parent_of(directory), uid, 2));
      machine_->put_directory(directory, uid);
    }
    return {};
  }

  static Error not_a_file(const std::string& path) {
    return Error(ErrorCode::kInvalidArgument, path + " is a directory");
  }

  std::shared_ptr<FakeMachine> machine_;
  const Capabilities capabilities_;
  const std::vector<std::string> warnings_;
};

// --- the backend --------------------------------------------------------------------------------

struct FakeBackend::State {
  std::vector<std::pair<std::string, Program>> rules;
  std::vector<std::function<void(FakeMachine&)>> prepare;
  Capabilities capabilities;
  std::vector<std::string> warnings;

  std::mutex mutex;  // of what create() changes
  std::deque<Error> failures;
  std::vector<std::shared_ptr<FakeMachine>> machines;

  Program find(const Command& command) const {
    const std::string words = words_of(command);
    for (auto rule = rules.rbegin(); rule != rules.rend(); ++rule) {
      if (words.find(rule->first) != std::string::npos) return rule->second;
    }
    return [](FakeProcess* self) {
      return give_answer(self, Answer());
    };
  }
};

FakeBackend::FakeBackend() : state_(std::make_shared<State>()) {
  state_->capabilities.network_none = true;
  state_->capabilities.snapshots = true;
}

FakeBackend::~FakeBackend() {
  // The machines hold the rules: without this neither would ever go.
  const std::lock_guard lock(state_->mutex);
  state_->machines.clear();
}

FakeBackend& FakeBackend::on(std::string text, Answer answer) {
  return on(std::move(text),
            [answer = std::move(answer)](FakeProcess* self) { return give_answer(self, answer); });
}

FakeBackend& FakeBackend::on(std::string text, Program program) {
  state_->rules.emplace_back(std::move(text), std::move(program));
  return *this;
}

FakeBackend& FakeBackend::prepare(std::function<void(FakeMachine&)> prepare) {
  state_->prepare.push_back(std::move(prepare));
  return *this;
}

FakeBackend& FakeBackend::with_capabilities(Capabilities capabilities) {
  state_->capabilities = capabilities;
  return *this;
}

FakeBackend& FakeBackend::with_warning(std::string warning) {
  state_->warnings.push_back(std::move(warning));
  return *this;
}

FakeBackend& FakeBackend::fail_next_create(Error error) {
  const std::lock_guard lock(state_->mutex);
  state_->failures.push_back(std::move(error));
  return *this;
}

Capabilities FakeBackend::capabilities() const {
  return state_->capabilities;
}

std::vector<std::shared_ptr<FakeMachine>> FakeBackend::machines() const {
  const std::lock_guard lock(state_->mutex);
  return state_->machines;
}

FakeMachine& FakeBackend::last() const {
  const std::lock_guard lock(state_->mutex);
  CHECK(!state_->machines.empty());
  return *state_->machines.back();
}

awaitable<Result<std::unique_ptr<Sandbox>>> FakeBackend::create(net::Shard* shard,
                                                                Options options) {
  return clone(shard, Snapshot{}, std::move(options));
}

awaitable<Result<std::unique_ptr<Sandbox>>> FakeBackend::clone(net::Shard* shard, Snapshot snapshot,
                                                               Options options) {
  std::shared_ptr<FakeMachine> machine;
  {
    const std::lock_guard lock(state_->mutex);
    if (!state_->failures.empty()) {
      Error error = std::move(state_->failures.front());
      state_->failures.pop_front();
      co_return error;
    }
    machine = std::make_shared<FakeMachine>(
        shard, fmt::format("fake-{}", state_->machines.size() + 1), std::move(options));
    if (!snapshot.id.empty()) {
      const auto found = std::find_if(
          state_->machines.begin(), state_->machines.end(),
          [&](const std::shared_ptr<FakeMachine>& other) { return other->id() == snapshot.id; });
      if (found == state_->machines.end()) {
        co_return Error(ErrorCode::kNotFound, "no snapshot " + snapshot.id);
      }
      machine->files_ = (*found)->snapshot_;
    }
    state_->machines.push_back(machine);
  }
  machine->find_program_ = [state = state_](const Command& command) {
    return state->find(command);
  };
  for (const Bundle& bundle : machine->options().bundles) {
    machine->put_directory(bundle.guest_path, 0);
  }
  for (const auto& prepare : state_->prepare) prepare(*machine);
  co_return std::unique_ptr<Sandbox>(
      std::make_unique<FakeSandbox>(machine, state_->capabilities, state_->warnings));
}

awaitable<Result<int>> FakeBackend::reap() {
  co_return 0;
}

}  // namespace sluice::sandbox::fake
