// A backend without a kernel, for tests of the rooms above: files in a map, commands answered by
// rules or by small coroutines that can read stdin, write output, touch files and connect to a
// carried port as an agent does. It keeps the contract of sandbox.h: exits, deadlines, caps, users'
// permissions, kClosed after close().
//
//   FakeBackend backend;
//   Answer failed;
//   failed.status = 1;
//   backend.on("pytest", failed);                                   // a rule
//   backend.on("my-agent", [](FakeProcess* self) { return my_agent(self); });  // a coroutine
//   ...
//   EXPECT_EQ(backend.last().file("/home/user/workdir/a.py")->content, "...");
//
// Rules are added before machines are made. create() may be called on several shards; a FakeMachine
// and what runs on it belong to the shard it was made on.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sluice/net/memory_stream.h"
#include "sluice/net/shard.h"
#include "sluice/net/wait.h"
#include "sluice/sandbox/sandbox.h"

namespace sluice::sandbox::fake {

class FakeProcess;

// What a rule answers a command with.
struct Answer {
  int status = 0;
  Bytes out, err;
  Duration takes{};  // before it ends
  int signal = 0;    // if set, it dies of this instead
};

// A command as a coroutine: what it returns is how it ended. When it is killed, whatever it waits
// for fails with kCancelled; it must return then, and its result is ignored.
using Program = std::function<awaitable<Exit>(FakeProcess* self)>;

struct FakeFile {
  FileInfo::Type type = FileInfo::Type::kFile;
  Bytes content;
  uint32_t mode = 0644;
  uint32_t uid = 0;
};

// The inside of one fake sandbox; lives as long as anybody holds it, the Sandbox or the test.
class FakeMachine : public std::enable_shared_from_this<FakeMachine> {
 public:
  FakeMachine(net::Shard* shard, std::string id, Options options);

  const std::string& id() const { return id_; }
  const Options& options() const { return options_; }
  // The commands that were run.
  const std::vector<Command>& history() const { return history_; }
  // Their words joined by spaces; of a shell's the script alone.
  std::vector<std::string> commands() const;
  size_t running() const { return processes_.size(); }
  bool closed() const { return closed_; }

  // Files, past all permissions. Parents are made, as root's.
  void put(const std::string& path, Bytes content, uint32_t uid = 1000, uint32_t mode = 0644);
  void put_directory(const std::string& path, uint32_t uid = 1000, uint32_t mode = 0755);
  void remove(const std::string& path);  // and all below it
  std::optional<FakeFile> file(const std::string& path) const;

  // Connects to a port that somebody listens on, as a program inside would.
  Result<std::unique_ptr<net::MemoryStream>> connect(uint16_t port);

  // take_work() fails with this.
  void refuse_work(Error error) { no_work_ = std::move(error); }

  // The sandbox goes away under everybody's feet: commands end as lost, calls fail with kClosed.
  void lose() { end(Exit::Reason::kLost); }

 private:
  friend class FakeBackend;
  friend class FakeJob;
  friend class FakeListener;
  friend class FakeProcess;
  friend class FakeSandbox;

  struct Port {
    explicit Port(net::Shard* shard) : changed(shard) {}
    std::vector<std::unique_ptr<net::MemoryStream>> waiting;
    net::Broadcast changed;
    bool closed = false;
  };

  Result<void> alive() const;
  Result<std::shared_ptr<FakeProcess>> launch(Command command, bool background);
  void kill_all(Exit::Reason reason, const std::string& user = "");
  void end(Exit::Reason reason);
  Result<void> give(const std::string& path, uint32_t uid);
  Result<HandedOver> hand_over(const std::string& workdir);
  Result<Snapshot> snapshot();
  Result<TakenWork> take_work(WorkPlaces places) const;
  Result<void> put_work(const TakenWork& work, uint32_t uid);
  Result<void> plant(const std::string& path, Bytes content, uint32_t mode,
                     const std::string& below);
  // The file, if `uid` may reach it and use it as `want` says (4 to read, 2 to write).
  Result<FakeFile*> reach(const std::string& path, uint32_t uid, uint32_t want);

  net::Shard* shard_;
  std::string id_;
  Options options_;
  std::function<Program(const Command&)> find_program_;
  std::map<std::string, FakeFile> files_;
  std::map<std::string, FakeFile> snapshot_;  // the last one
  std::optional<Error> no_work_;
  std::vector<Command> history_;
  std::vector<std::shared_ptr<FakeProcess>> processes_;  // whose program has not returned
  std::map<uint16_t, std::shared_ptr<Port>> ports_;
  net::Broadcast process_ended_;
  bool closed_ = false;
};

// What a Program sees of itself.
class FakeProcess : public std::enable_shared_from_this<FakeProcess> {
 public:
  FakeProcess(std::shared_ptr<FakeMachine> machine, Command command, bool background);

  const Command& command() const { return command_; }
  FakeMachine& machine() { return *machine_; }

  // stdin: a piece, or empty at its end.
  awaitable<Result<Bytes>> read_input();
  // Waits while 256 KiB are unread (a background job's; exec always reads).
  awaitable<Result<void>> write(Job::Channel channel, Bytes bytes);
  awaitable<Result<void>> sleep(Duration duration);
  // The connection breaks when the process is killed.
  Result<std::unique_ptr<net::MemoryStream>> connect(uint16_t port);

 private:
  friend class FakeMachine;
  friend class FakeSandbox;
  friend class FakeJob;

  struct Pipe {
    Bytes unread;
    Bytes tail;  // of what is over the cap
    uint64_t total = 0;
    bool truncated = false;
  };

  static awaitable<void> run(std::shared_ptr<FakeProcess> self, Program program);
  void kill(Exit::Reason reason, int signal);
  void finish(Exit exit);
  Pipe& pipe(Job::Channel channel) { return channel == Job::Channel::kOut ? out_ : err_; }
  Error killed_error() const;

  std::shared_ptr<FakeMachine> machine_;
  const Command command_;
  const bool background_;
  Pipe out_, err_;
  Bytes input_;
  bool input_ended_ = false;
  net::Broadcast changed_;  // anything below or above did
  net::Wheel::Timer deadline_;
  std::vector<std::function<void()>> resets_;  // its connections'
  std::optional<Exit> exit_;
  bool killed_ = false;
};

class FakeBackend final : public Backend {
 public:
  FakeBackend();
  ~FakeBackend() override;

  // Commands whose words, joined by spaces, contain `text`. The rule added last is asked first; a
  // command that no rule matches ends with exit code 0 and no output.
  FakeBackend& on(std::string text, Answer answer);
  FakeBackend& on(std::string text, Program program);
  // Called for every machine before its Sandbox is handed out: to put files there.
  FakeBackend& prepare(std::function<void(FakeMachine&)> prepare);
  FakeBackend& with_capabilities(Capabilities capabilities);
  FakeBackend& with_warning(std::string warning);
  // The next create() or clone() fails with this; called twice, the next two.
  FakeBackend& fail_next_create(Error error);

  // All that were made, in order, the closed ones too.
  std::vector<std::shared_ptr<FakeMachine>> machines() const;
  FakeMachine& last() const;

  std::string name() const override { return "fake"; }
  Capabilities capabilities() const override;
  awaitable<Result<std::unique_ptr<Sandbox>>> create(net::Shard* shard, Options options) override;
  // A machine that starts with the files of the one that was snapshotted.
  awaitable<Result<std::unique_ptr<Sandbox>>> clone(net::Shard* shard, Snapshot snapshot,
                                                    Options options) override;
  awaitable<Result<int>> reap() override;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace sluice::sandbox::fake
