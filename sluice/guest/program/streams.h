// The guest's streams and what is behind them: commands, file verbs, ports. Internal to the guest.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sluice/guest/program/files.h"
#include "sluice/guest/program/guest.h"
#include "sluice/guest/program/pump.h"

namespace sluice::guest::program {

inline Error protocol_error(std::string what) {
  return Error(ErrorCode::kProtocol, "guest link: " + std::move(what));
}

void set_nonblocking(int fd);

// How long killing may take before the caller is told that it failed.
inline constexpr Duration kKillTime = std::chrono::seconds(5);

class Guest::Stream {
 public:
  Stream(Guest& g, uint32_t i) : guest(g), id(i) {}
  virtual ~Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // What the host sends. A frame that makes no sense on this stream breaks the protocol.
  virtual Result<void> on_data(ByteView) {
    return protocol_error("data on a stream that takes none");
  }
  virtual Result<void> on_end() { return protocol_error("an end on a stream that takes no data"); }
  virtual Result<void> on_stop() { return protocol_error("a stop on a stream without data"); }
  virtual Result<void> on_drain() { return protocol_error("a drain on what is no connection"); }
  virtual void on_close() {}
  // Both sides are done: it is no longer in the table.
  virtual void on_gone() {}
  // It may send more: credit came, or the link has room again.
  virtual void on_room() {}

  Guest& guest;
  const uint32_t id;
  wire::SendCredit credit;
  wire::ReceiveCredit window;
  bool closed_here = false;
  bool ended_there = false;
};

// A request that is answered and done.
class Guest::Plain final : public Stream {
 public:
  using Stream::Stream;
};

struct Guest::Command {
  CommandPlan plan;
  uint32_t out_stream = 0, err_stream = 0;
  std::unique_ptr<Source> out, err;
  std::unique_ptr<Sink> in;
  Fd report;
  pid_t keeper = -1;
  std::optional<Tree> tree;  // below the keeper
  pid_t leader = -1;
  Fd leader_handle;  // a pidfd: never another process that got the number
  std::optional<int> status;
  bool exit_sent = false;
  bool timed_out = false;
  bool keeper_gone = false;
  bool killing = false;
  bool kill_failed = false;
  bool swept = false;  // it was killed together with everything else in the sandbox
  Deadline kill_deadline;
  Loop::TimerId deadline_timer, kill_timer;
  std::vector<uint32_t> kill_waiters;
};

class Guest::CommandOut final : public Stream {
 public:
  CommandOut(Guest& g, uint32_t i, CommandPtr j) : Stream(g, i), command(std::move(j)) {}

  Result<void> on_data(ByteView bytes) override {
    if (!command->plan.request.takes_input)
      return protocol_error("input for a command that takes none");
    if (command->in) command->in->write(bytes);
    return {};
  }
  Result<void> on_end() override {
    if (!command->plan.request.takes_input)
      return protocol_error("input for a command that takes none");
    if (command->in) command->in->end();
    return {};
  }
  Result<void> on_stop() override {
    if (command->out) command->out->drop();
    return {};
  }
  void on_room() override {
    if (command->out) command->out->resume();
  }
  void on_close() override {
    if (command->out) command->out->drop();
    if (command->in) command->in->close();
  }
  void on_gone() override { guest.on_command_changed(command); }

  const CommandPtr command;
};

class Guest::CommandErr final : public Stream {
 public:
  CommandErr(Guest& g, uint32_t i, CommandPtr j) : Stream(g, i), command(std::move(j)) {}

  Result<void> on_stop() override {
    if (command->err) command->err->drop();
    return {};
  }
  void on_room() override {
    if (command->err) command->err->resume();
  }
  void on_close() override {
    if (command->err) command->err->drop();
  }
  void on_gone() override { guest.on_command_changed(command); }

  const CommandPtr command;
};

struct Guest::VerbKind {
  bool takes_input = false;
  bool gives_output = false;
  bool as_guest = false;  // stays the guest's own user; works through a whole tree in one go
};

struct Guest::VerbPlan {
  VerbKind kind;
  std::string user;
  // Runs in the process of the verb, as the user.
  std::function<Result<VerbReply>(const VerbProcess& process)> body;
};

struct Guest::FileVerb {
  uint32_t stream = 0;
  pid_t pid = -1;
  std::unique_ptr<Source> out;
  std::unique_ptr<Sink> in;
  Fd control;
  Bytes records;
  bool answered = false;
  bool failed = false;
  bool finished = false;
  Duration patience{};
  uint64_t moved = 0;  // when it was last looked at
  Loop::TimerId timer;
};

class Guest::VerbStream final : public Stream {
 public:
  VerbStream(Guest& g, uint32_t i, VerbPtr v) : Stream(g, i), verb(std::move(v)) {}

  Result<void> on_data(ByteView bytes) override {
    if (!takes_input) return Stream::on_data(bytes);
    if (verb->in) verb->in->write(bytes);
    return {};
  }
  Result<void> on_end() override {
    if (!takes_input) return Stream::on_end();
    if (verb->in) verb->in->end();
    return {};
  }
  Result<void> on_stop() override {
    if (verb->out) verb->out->drop();
    return {};
  }
  void on_room() override {
    if (verb->out) verb->out->resume();
  }
  void on_close() override {
    // The process sees its pipes end, cleans up and goes.
    verb->failed = true;
    guest.finish_verb(verb);
  }

  const VerbPtr verb;
  bool takes_input = false;
};

class Guest::ListenerStream final : public Stream {
 public:
  ListenerStream(Guest& g, uint32_t i, Fd s) : Stream(g, i), socket(std::move(s)) { watch(); }
  ~ListenerStream() override { stop(); }

  void watch() {
    if (socket) {
      guest.loop_.watch(socket.get(), EPOLLIN, [this](uint32_t) { guest.on_connection(*this); });
    }
  }
  void pause() {
    if (socket) guest.loop_.forget(socket.get());
  }
  void stop() {
    pause();
    socket.reset();
  }
  void on_close() override { stop(); }

  Fd socket;
};

// A connection of a program inside, carried to the host. Its two directions are two descriptors of
// the one socket, as they are watched apart.
class Guest::Connection final : public Stream {
 public:
  Connection(Guest& g, uint32_t i, Fd socket);
  ~Connection() override;

  Result<void> on_data(ByteView bytes) override;
  Result<void> on_end() override;
  Result<void> on_stop() override;
  Result<void> on_drain() override;
  void on_room() override { source_->resume(); }

  // Whether there still are bytes for the program, which may take some time yet.
  bool lingers() const { return !gone_ && sink_->open() && !sink_->empty(); }
  void linger();

 private:
  void source_ended(bool failed);
  void broke();
  void drain(Duration pause);

  std::unique_ptr<Sink> sink_;
  std::unique_ptr<Source> source_;
  Loop::TimerId timer_;
  bool draining_ = false;
  bool gone_ = false;
};

template <class T, class... Args>
T& Guest::add_stream(uint32_t id, Args&&... args) {
  auto made = std::make_unique<T>(*this, id, std::forward<Args>(args)...);
  T& stream = *made;
  streams_.emplace(id, std::move(made));
  return stream;
}

}  // namespace sluice::guest::program
