// Guest: the program that runs inside every sandbox, as its first process where the sandbox has a
// process namespace of its own. It carries out what the host asks over the link (guest/wire) and
// ends everything in the sandbox when the link ends, when the host falls silent, or at the
// sandbox's deadline.
//
// One thread. What blocks (file verbs, the keeper of a command) is a process of its own. The host
// is taken for hostile as far as memory and protocol go: it may well do what it likes otherwise.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sluice/base/core/fd.h"
#include "sluice/base/core/result.h"
#include "sluice/guest/program/files.h"
#include "sluice/guest/program/loop.h"
#include "sluice/guest/program/process.h"
#include "sluice/guest/program/pump.h"
#include "sluice/guest/wire/credit.h"
#include "sluice/guest/wire/frame.h"
#include "sluice/guest/wire/messages.h"
#include "sluice/guest/wire/sequence.h"

namespace sluice::guest::program {

struct GuestOptions {
  int link_in = 3, link_out = 3;  // the same for a socket
  int log = 2;                    // where it says why it ends; -1: nowhere
  // Tests put something harmless in their place.
  pid_t (*fork)() = ::fork;
  bool may_listen = true;
};

// Why the guest ended; also its exit code.
enum class End : int { kHostGone = 0, kDeadline = 3, kLease = 4, kProtocol = 76 };

class Guest {
 public:
  explicit Guest(GuestOptions options);
  ~Guest();
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;

  // Serves until the end, then kills whatever still runs.
  End run();
  // One pass of the loop; what ended it, if anything did.
  std::optional<End> pass(Deadline deadline);

 private:
  class Stream;
  class CommandStream;
  class VerbStream;
  class ListenerStream;
  class Connection;
  struct Command;
  struct FileVerb;
  using CommandPtr = std::shared_ptr<Command>;
  using VerbPtr = std::shared_ptr<FileVerb>;

  // The link.
  void on_link_readable();
  Result<void> handle(const wire::Frame& frame);
  Result<void> handle_link(const wire::Frame& frame);
  Result<void> handle_stream(const wire::Frame& frame);
  Result<void> open_stream(uint32_t id, const wire::Request& request);
  void flush();
  bool congested() const;
  void watch_link();
  void stop(End why, std::string_view message = {});

  // Streams.
  // REQUIRES: the payload fits a frame; on a stream, Close was not sent on it.
  void send(wire::FrameType type, uint32_t stream, ByteView payload);
  void send_with_socket(wire::FrameType type, uint32_t stream, ByteView payload, Fd socket);
  void fail(Stream& stream, const Error& error);
  // The reply and the end of a request, if the host still waits for it.
  void answer(uint32_t id, const Result<Bytes>& reply);
  void close(Stream& stream, wire::Close::Reason reason = wire::Close::Reason::kDone);
  template <class T, class... Args>
  T& add_stream(uint32_t id, Args&&... args);
  Stream* find_stream(uint32_t id);
  // Null where Close was sent already.
  Stream* find_open(uint32_t id);
  // Between a descriptor and the stream `id`.
  Source::Outlet outlet_to(uint32_t id, std::function<void(bool failed)> ended);
  Sink::Inlet inlet_from(uint32_t id, std::function<void()> ended);

  // Commands.
  Result<void> start_command(uint32_t id, wire::Exec request);
  Result<void> launch(const CommandPtr& command);
  void on_report(const CommandPtr& command);
  void tell_started(const CommandPtr& command);
  void ended(const CommandPtr& command, int wait_status);
  void on_command_changed(const CommandPtr& command);
  void kill_command(const CommandPtr& command);
  void kill_command_again(const CommandPtr& command, Duration pause);
  bool tree_is_gone(const CommandPtr& command) const;
  Result<CommandPtr> find_command(uint32_t id);
  Result<void> send_signal(const wire::Signal& signal);

  // Files.
  struct VerbKind;
  struct VerbPlan;
  template <class M>
  Result<void> start_verb(uint32_t id, ByteView body, VerbKind kind);
  void launch_verb(uint32_t id, const VerbPlan& plan);
  void on_control(const VerbPtr& verb);
  void watch_verb(const VerbPtr& verb);
  void finish_verb(const VerbPtr& verb);

  // Ports.
  void start_listener(uint32_t id, const wire::Listen& request);
  void on_connection(ListenerStream& listener);
  void resume_listeners();

  void kill_user(uint32_t id, uid_t uid, Deadline deadline);
  void start_kill_all(uint32_t id);
  void continue_kill_all();
  void reap();
  void kill_everything();

  GuestOptions options_;
  Loop loop_;
  Users users_ = Users::kMany;
  uint64_t open_files_ = 0;
  bool owns_namespace_ = false;
  uid_t uid_ = 0;

  Fd signals_;
  wire::Decoder decoder_;
  wire::Incoming incoming_;
  wire::Outgoing outgoing_;
  wire::Assembler assembler_;
  uint32_t assembling_ = 0;  // the stream of the request that comes in pieces
  bool greeted_ = false;
  Duration lease_{};
  Clock::time_point heard_;
  std::optional<End> end_;

  Bytes out_;           // frames to be written
  size_t written_ = 0;  // of out_
  // Sockets that go with the byte of `out_` at this position.
  std::deque<std::pair<size_t, Fd>> sockets_;

  uint32_t last_host_stream_ = 0;
  uint32_t next_guest_stream_ = 2;
  std::unordered_map<uint32_t, std::unique_ptr<Stream>> streams_;
  bool was_congested_ = false;
  std::vector<std::shared_ptr<void>> trash_;  // destroyed between passes, not under its own feet

  std::set<CommandPtr> commands_;
  std::unordered_map<pid_t, CommandPtr> keepers_;
  std::unordered_map<pid_t, CommandPtr>
      leaders_;  // the commands themselves, while their end is unknown
  std::set<VerbPtr> verbs_;
  size_t connections_ = 0;
  bool listeners_rest_ = false;
  // Closed by the host, with bytes left for the program.
  std::vector<std::shared_ptr<Connection>> lingering_;

  std::vector<uint32_t> kill_all_waiters_;
  Deadline kill_all_deadline_;
};

// --- Its streams, and what is behind them: commands, file verbs, ports --------------------------

inline Error protocol_error(std::string what) {
  return Error(ErrorCode::kProtocol, "guest link: " + std::move(what));
}

void set_nonblocking(int fd);

// How long killing may take before the caller is told that it failed.
inline constexpr Duration kKillTime = std::chrono::seconds(5);

// By itself: a request that is answered and done.
class Guest::Stream {
 public:
  Stream(Guest& g, uint32_t i) : guest(g), id(i) {}
  virtual ~Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // The descriptors behind it, if it has any: what they give is sent, what the host sends they
  // take.
  virtual Source* source() { return nullptr; }
  virtual Sink* sink() { return nullptr; }
  // The host asks whether all of its data has arrived.
  virtual Result<void> on_drain() { return protocol_error("a drain on what is no connection"); }
  virtual void on_close() {}
  // Both sides are done: it is no longer in the table.
  virtual void on_gone() {}
  // It may send more: credit came, or the link has room again.
  void on_room() {
    if (source() != nullptr) source()->resume();
  }

  Guest& guest;
  const uint32_t id;
  wire::SendCredit credit;
  wire::ReceiveCredit window;
  // Frames that make no sense on a stream break the protocol.
  bool has_data = false;
  bool takes_input = false;
  bool closed_here = false;
  bool ended_there = false;
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

// Its input and stdout, or its stderr.
class Guest::CommandStream final : public Stream {
 public:
  CommandStream(Guest& g, uint32_t i, CommandPtr c) : Stream(g, i), command(std::move(c)) {
    has_data = true;
    takes_input = !is_err() && command->plan.request.takes_input;
  }

  bool is_err() const { return id == command->err_stream; }
  Source* source() override { return (is_err() ? command->err : command->out).get(); }
  Sink* sink() override { return is_err() ? nullptr : command->in.get(); }
  void on_close() override {
    if (source() != nullptr) source()->drop();
    if (sink() != nullptr) sink()->close();
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
  VerbStream(Guest& g, uint32_t i, VerbPtr v) : Stream(g, i), verb(std::move(v)) {
    has_data = true;
  }

  Source* source() override { return verb->out.get(); }
  Sink* sink() override { return verb->in.get(); }
  void on_close() override {
    // The process sees its pipes end, cleans up and goes.
    verb->failed = true;
    guest.finish_verb(verb);
  }

  const VerbPtr verb;
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

  Source* source() override { return source_.get(); }
  Sink* sink() override { return sink_.get(); }
  Result<void> on_drain() override;

  // Whether there still are bytes for the program, which may take some time yet.
  bool lingers() const { return !gone_ && sink_->open() && !sink_->empty(); }
  void linger();

 private:
  void source_ended(bool failed);
  void broke();
  void drain(Duration pause);

  std::unique_ptr<Sink> sink_;
  std::unique_ptr<Source> source_;
  Fd ended_;  // the socket, when our bytes have ended: a drain still asks about it
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
