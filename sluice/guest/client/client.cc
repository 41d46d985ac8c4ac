#include "sluice/guest/client/client.h"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "sluice/guest/client/core.h"
#include "sluice/net/socket.h"

namespace sluice::guest {

using wire::FrameType;
using CorePtr = std::shared_ptr<ClientCore>;
using Kind = Channel::Kind;

namespace {

constexpr size_t kReadPiece = 256 * 1024;

wire::Exec to_exec(CommandRequest& request, bool takes_input) {
  request.timeout_ms = milliseconds_left(request.deadline);
  request.takes_input = takes_input;
  return std::move(request);
}

// The wire cannot say what a C string cannot hold.
Result<void> check_command(const CommandRequest& request) {
  auto bad = [](const std::string& text) {
    return text.find('\0') != std::string::npos;
  };
  if (request.argv.empty() || request.argv[0].empty()) {
    return Error(ErrorCode::kInvalidArgument, "a command without a program");
  }
  const size_t strings = std::max(request.argv.size(), request.env.size());
  const bool nul = std::any_of(request.argv.begin(), request.argv.end(), bad) ||
                   std::any_of(request.env.begin(), request.env.end(), bad) || bad(request.cwd) ||
                   bad(request.user);
  if (nul) {
    return Error(ErrorCode::kInvalidArgument,
                 "a command's arguments, environment, directory and user cannot hold a NUL");
  }
  auto too_long = [](const std::string& text) {
    return text.size() >= wire::kMaxArgument;
  };
  if (strings > wire::kMaxArguments ||
      std::any_of(request.argv.begin(), request.argv.end(), too_long) ||
      std::any_of(request.env.begin(), request.env.end(), too_long)) {
    return Error(ErrorCode::kTooLarge,
                 "an argument or variable of the command is over the kernel's 128 KiB: pass large "
                 "input through stdin or a file");
  }
  if (request.cwd.size() > wire::kMaxPath || request.user.size() > wire::kMaxUser) {
    return Error(ErrorCode::kInvalidArgument, "the command's directory or user is too long a name");
  }
  return {};
}

Result<void> check_mode(uint32_t mode) {
  if (mode <= 0777) return {};
  return Error(ErrorCode::kInvalidArgument, "a mode has only permission bits");
}

Result<void> check_path(const std::string& path, const std::string& user) {
  if (path.empty() || path.size() > wire::kMaxPath || path.find('\0') != std::string::npos) {
    return Error(ErrorCode::kInvalidArgument,
                 "a path must have 1 to " + std::to_string(wire::kMaxPath) + " bytes and no NUL");
  }
  if (user.size() > wire::kMaxUser || user.find('\0') != std::string::npos) {
    return Error(ErrorCode::kInvalidArgument, "no such user name");
  }
  return {};
}

Result<void> check_places(const std::vector<std::string>& paths,
                          const std::vector<std::string>& exclude) {
  if (std::max(paths.size(), exclude.size()) > wire::kMaxWorkPlaces) {
    return Error(ErrorCode::kTooLarge, "a work has at most " +
                                           std::to_string(wire::kMaxWorkPlaces) +
                                           " paths, and as many that are excluded");
  }
  for (const auto* texts : {&paths, &exclude}) {
    for (const std::string& text : *texts) SLUICE_TRY_VOID(check_path(text, ""));
  }
  return {};
}

// Decodes what the guest answered; an answer that does not parse ends the link.
template <class T>
Result<T> decode_or_end(ClientCore& core, ByteView bytes) {
  auto value = wire::decode<T>(bytes);
  if (!value) core.end(value.error());
  return value;
}
Result<void> expect_empty(ClientCore& core, const Bytes& reply) {
  if (reply.empty()) return {};
  return core.broken("a reply with more than was asked for");
}

// One request with a small reply, and one with an empty reply.
template <class T>
awaitable<Result<T>> ask_for(CorePtr core, wire::Request request) {
  SLUICE_CO_TRY(const Bytes reply, co_await ClientCore::ask(core, std::move(request)));
  co_return decode_or_end<T>(*core, reply);
}
awaitable<Result<void>> ask(CorePtr core, wire::Request request) {
  SLUICE_CO_TRY(const Bytes reply, co_await ClientCore::ask(core, std::move(request)));
  co_return expect_empty(*core, reply);
}

CommandExit exit_of(const Channel& out, const Channel& err) {
  CommandExit exit;
  exit.lost = !out.exit;
  if (out.exit) exit.exit = *out.exit;
  exit.truncated = out.truncated || err.truncated;
  return exit;
}

// Asks for the end of a command that nobody waits for any more.
void kill_and_forget(const CorePtr& core, const ChannelPtr& command) {
  const auto kill = core->open(wire::Request(wire::KillTree{command->id}), Kind::kPlain);
  if (kill) core->close(*kill);
}

class ProcessHandle final : public Process {
 public:
  ProcessHandle(CorePtr core, ChannelPtr out, ChannelPtr err)
      : core_(std::move(core)), out_(std::move(out)), err_(std::move(err)) {}
  ~ProcessHandle() override {
    core_->close(out_);
    core_->close(err_);
  }

  awaitable<Result<CommandExit>> wait(Deadline deadline) override {
    const auto out = out_;
    const auto err = err_;
    while (!out->exit && !out->over()) {
      auto waited = co_await out->changed.wait(deadline);
      if (!waited) co_return std::move(waited).error().within("the command still runs");
    }
    co_return exit_of(*out, *err);
  }

  awaitable<Result<void>> signal(int number) override {
    if (number < 1 || number > 64) co_return Error(ErrorCode::kInvalidArgument, "no such signal");
    const wire::Signal signal{out_->id, static_cast<uint8_t>(number)};
    co_return co_await ask(core_, wire::Request(signal));
  }

  awaitable<Result<void>> kill_tree() override {
    return ask(core_, wire::Request(wire::KillTree{out_->id}));
  }

  awaitable<Result<void>> write_stdin(Bytes bytes) override {
    const auto out = out_;
    if (out->end_sent) co_return Error(ErrorCode::kClosed, "its stdin was closed");
    const ByteView view = bytes;
    SLUICE_CO_TRY_VOID(co_await ClientCore::send_data(core_, out, view));
    if (out->stopped || out->over()) {
      co_return Error(ErrorCode::kClosed, "the command does not read its stdin any more");
    }
    co_return Result<void>();
  }

  awaitable<Result<void>> close_stdin() override {
    SLUICE_CO_TRY_VOID(core_->alive());
    core_->send_end(*out_);
    co_return Result<void>();
  }

  awaitable<Result<Bytes>> read_output(Channel which, size_t max) override {
    const auto core = core_;
    const auto channel = which == Channel::kOut ? out_ : err_;
    SLUICE_CO_TRY_VOID(co_await ClientCore::wait_for_data(core, channel));
    if (channel->inbox.empty() && !channel->ended) {
      SLUICE_CO_TRY_VOID(core->alive());
    }
    co_return core->take(*channel, max);
  }

 private:
  const CorePtr core_;
  const ChannelPtr out_, err_;
};

class ReaderHandle final : public PieceReader {
 public:
  // When the guest answers the request: before the bytes, or behind them.
  enum class Reply : uint8_t { kTaken, kAtTheEnd };

  ReaderHandle(CorePtr core, ChannelPtr channel, uint64_t max, Reply reply,
               wire::WorkTaken* taken = nullptr)
      : core_(std::move(core)),
        channel_(std::move(channel)),
        left_(max),
        reply_(reply),
        taken_(taken) {}
  ~ReaderHandle() override { core_->close(channel_); }

  awaitable<Result<Bytes>> read_some() override {
    const auto core = core_;
    const auto channel = channel_;
    SLUICE_CO_TRY_VOID(co_await ClientCore::wait_for_data(core, channel));
    // What came before a failure is of no use.
    if (channel->failure) co_return *channel->failure;
    if (!channel->inbox.empty()) {
      Bytes piece = core->take(*channel, kReadPiece);
      if (piece.size() > left_) co_return core->broken("more bytes than were asked for");
      left_ -= piece.size();
      co_return piece;
    }
    if (!channel->ended) co_return core->broken("a file ends without its end");
    if (reply_ == Reply::kAtTheEnd) {
      SLUICE_CO_TRY(const Bytes reply, co_await ClientCore::reply_of(core, channel));
      if (taken_ == nullptr) {
        SLUICE_CO_TRY_VOID(expect_empty(*core, reply));
      } else {
        SLUICE_CO_TRY(*taken_, decode_or_end<wire::WorkTaken>(*core, reply));
      }
    }
    co_return Bytes();
  }

 private:
  const CorePtr core_;
  const ChannelPtr channel_;
  uint64_t left_;
  const Reply reply_;
  wire::WorkTaken* const taken_;  // if not null, what the reply says
};

class WriterHandle final : public PieceWriter {
 public:
  WriterHandle(CorePtr core, ChannelPtr channel)
      : core_(std::move(core)), channel_(std::move(channel)) {}
  ~WriterHandle() override { core_->close(channel_); }

  awaitable<Result<void>> write(ByteView piece) override {
    // If the guest stops reading, it says why in its answer: finish() tells.
    return ClientCore::send_data(core_, channel_, piece);
  }

  awaitable<Result<void>> finish() override {
    const auto core = core_;
    const auto channel = channel_;
    if (!channel->stopped) core->send_end(*channel);
    SLUICE_CO_TRY(const Bytes reply, co_await ClientCore::reply_of(core, channel));
    core->close(channel);
    co_return expect_empty(*core, reply);
  }

 private:
  const CorePtr core_;
  const ChannelPtr channel_;
};

// A connection of a program inside the sandbox.
class CarriedStream final : public net::Stream {
 public:
  CarriedStream(CorePtr core, ChannelPtr channel, uint16_t port)
      : core_(std::move(core)),
        channel_(std::move(channel)),
        peer_("127.0.0.1:" + std::to_string(port)) {}
  ~CarriedStream() override { CarriedStream::close(); }

  awaitable<Result<size_t>> read_some(std::span<std::byte> into) override {
    const auto core = core_;
    const auto channel = channel_;
    SLUICE_CO_TRY_VOID(co_await ClientCore::wait_for_data(core, channel));
    if (channel->inbox.empty()) {
      if (channel->ended) co_return size_t{0};
      co_return broken("read from ");
    }
    const Bytes piece = core->take(*channel, into.size());
    std::memcpy(into.data(), piece.data(), piece.size());
    co_return piece.size();
  }

  awaitable<Result<void>> write_all(std::span<const std::byte> bytes) override {
    const auto channel = channel_;
    const ByteView view = as_view(bytes);
    auto sent = co_await ClientCore::send_data(core_, channel, view);
    if (sent && (channel->stopped || channel->over())) co_return broken("write to ");
    co_return sent;
  }

  awaitable<Result<void>> drained(Deadline deadline) override {
    const auto core = core_;
    const auto channel = channel_;
    // One question at a time: an earlier one's answer is waited for first.
    for (bool asked = false; !asked || channel->draining;) {
      if (channel->closed_here) co_return Error(ErrorCode::kClosed, "drain: closed here");
      if (channel->over()) co_return broken("drain to ");
      if (!channel->draining) {
        asked = true;
        channel->draining = true;
        core->send(FrameType::kDrain, channel->id);
      }
      auto waited = co_await channel->changed.wait(deadline);
      if (!waited) {
        co_return std::move(waited).error().within("bytes were not acknowledged by " + peer_);
      }
    }
    co_return Result<void>();
  }

  void on_peer_closed(std::function<void(net::PeerClose)> callback) override {
    const auto channel = channel_;
    channel->watch = nullptr;
    // Bytes that are here have ended the watch already.
    if (!callback || channel->closed_here || !channel->inbox.empty()) return;
    channel->watch = std::move(callback);
    if (!channel->over() && !channel->ended) return;
    core_->tell_watch(channel, channel->over() ? net::PeerClose::kReset : net::PeerClose::kFin);
  }

  void finish() override {
    if (!channel_->over()) core_->send_end(*channel_);
  }

  void close() override { core_->close(channel_); }

  std::string peer() const override { return peer_; }

 private:
  Error broken(const char* what) const {
    return Error(ErrorCode::kClosed, what + peer_ + ": the connection is broken");
  }

  const CorePtr core_;
  const ChannelPtr channel_;
  const std::string peer_;
};

class CarriedListener final : public net::Listener {
 public:
  CarriedListener(CorePtr core, ChannelPtr channel, uint16_t port)
      : core_(std::move(core)),
        channel_(std::move(channel)),
        address_("127.0.0.1:" + std::to_string(port)) {}
  ~CarriedListener() override { CarriedListener::close(); }

  awaitable<Result<std::unique_ptr<net::Stream>>> accept() override {
    const auto core = core_;
    const auto channel = channel_;
    while (channel->accepted.empty()) {
      if (channel->closed_here || channel->over()) {
        co_return Error(ErrorCode::kClosed, "accept on " + address_ + ": closed");
      }
      SLUICE_CO_TRY_VOID(co_await channel->changed.wait(Deadline::never()));
    }
    auto [connection, port] = std::move(channel->accepted.front());
    channel->accepted.pop_front();
    co_return std::unique_ptr<net::Stream>(
        std::make_unique<CarriedStream>(core, std::move(connection), port));
  }

  void close() override { core_->close(channel_); }
  std::string address() const override { return address_; }

 private:
  const CorePtr core_;
  const ChannelPtr channel_;
  const std::string address_;
};

// A command that is waited for, and who takes what it prints.
struct Running {
  ChannelPtr out, err;
  Bytes input;
  Deadline deadline;
  TakeOutput take;
  uint64_t cap = 0;
  std::shared_ptr<int> taking = std::make_shared<int>(0);  // pieces
};

awaitable<void> take_output(CorePtr core, Running command, OutputChannel which) {
  const ChannelPtr channel = which == OutputChannel::kOut ? command.out : command.err;
  for (uint64_t left = command.cap;;) {
    const auto there = co_await ClientCore::wait_for_data(core, channel);
    if (!there || channel->inbox.empty()) co_return;
    Bytes piece = core->take(*channel, kReadPiece);
    if (piece.size() > left) {
      (void)core->broken("more output than the cap allows");
      co_return;
    }
    left -= piece.size();
    ++*command.taking;
    co_await command.take(which, std::move(piece));
    --*command.taking;
  }
}

// Closes both channels in the end. The takers have everything by then, or get no more.
awaitable<Result<CommandOutput>> attend(CorePtr core, Running command, net::TaskGroup* takers) {
  const auto& [out, err, input, deadline, take, cap, taking] = command;
  auto give_up = [&, o = out, e = err] {
    kill_and_forget(core, o);
    core->close(o);
    core->close(e);
  };
  if (!input.empty()) {
    const ByteView view = input;
    auto sent = co_await ClientCore::send_data(core, out, view);
    if (!sent) {
      give_up();
      co_return std::move(sent).error();
    }
    core->send_end(*out);
  }
  // An honest guest ends the command at its deadline and tells the end of both channels at once.
  Deadline limit = deadline;
  if (!limit.is_never()) limit = Deadline(limit.at() + core->options().patience);
  while (!out->over() && !(out->exit && out->ended && err->ended)) {
    if (out->exit && limit.is_never()) limit = Deadline::in(core->options().patience);
    net::Broadcast& next = out->exit && out->ended ? err->changed : out->changed;
    auto waited = co_await next.wait(limit);
    if (waited) continue;
    if (waited.error().code == ErrorCode::kTimedOut) {
      // A guest cannot tell the end while we do not take what is before it.
      if (*taking > 0) {
        limit = Deadline::in(core->options().patience);
        continue;
      }
      (void)core->broken("a command's end is overdue");
      break;
    }
    give_up();
    co_return std::move(waited).error();
  }
  if (out->ended && err->ended) co_await takers->join();
  core->close(out);
  core->close(err);
  if (out->failure && !out->exit) co_return *out->failure;
  if (!out->exit || !out->ended || !err->ended) {
    (void)core->broken("a command was closed before its end");
    co_return core->why();
  }
  CommandOutput output;
  output.exit = exit_of(*out, *err);
  output.out = std::move(out->inbox);
  output.err = std::move(err->inbox);
  co_return output;
}

awaitable<Result<CommandOutput>> run_command(CorePtr core, CommandRequest request) {
  SLUICE_CO_TRY_VOID(check_command(request));
  Running command;
  command.input = std::move(request.input);
  command.deadline = request.deadline;
  command.take = std::move(request.take);
  command.cap = request.output_cap;
  const bool takes_input = !command.input.empty();
  SLUICE_CO_TRY(const auto channels, core->open_command(to_exec(request, takes_input)));
  std::tie(command.out, command.err) = channels;
  net::TaskGroup takers(core->shard()->executor());
  if (command.take) {
    takers.spawn(take_output(core, command, OutputChannel::kOut));
    takers.spawn(take_output(core, command, OutputChannel::kErr));
  } else {
    command.out->collects = command.err->collects = command.cap;
  }
  auto output = co_await attend(core, std::move(command), &takers);
  co_await takers.join();
  co_return output;
}

}  // namespace

awaitable<Result<std::unique_ptr<Client>>> Client::connect(net::Shard* shard,
                                                           std::unique_ptr<Link> link,
                                                           ClientOptions options) {
  auto core = std::make_shared<ClientCore>(shard, std::move(link), options);
  std::unique_ptr<Client> client(new Client(core));
  SLUICE_CO_TRY_VOID(co_await core->shake_hands());
  co_return client;
}

Client::~Client() {
  Client::close();
}

awaitable<Result<CommandOutput>> Client::exec(CommandRequest request) {
  return run_command(core_, std::move(request));
}

awaitable<Result<std::unique_ptr<Process>>> Client::start(CommandRequest request) {
  const auto core = core_;
  SLUICE_CO_TRY_VOID(check_command(request));
  SLUICE_CO_TRY(const auto channels, core->open_command(to_exec(request, true)));
  auto process = std::make_unique<ProcessHandle>(core, channels.first, channels.second);
  SLUICE_CO_TRY(const Bytes reply, co_await ClientCore::reply_of(core, channels.first));
  SLUICE_CO_TRY_VOID(decode_or_end<wire::Started>(*core, reply));
  if (!request.input.empty()) {
    SLUICE_CO_TRY_VOID(co_await process->write_stdin(std::move(request.input)));
  }
  co_return std::unique_ptr<Process>(std::move(process));
}

awaitable<Result<std::unique_ptr<PieceReader>>> Client::open_reader(std::string path, uint64_t max,
                                                                    std::string user) {
  const auto core = core_;
  SLUICE_CO_TRY_VOID(check_path(path, user));
  const wire::Read read{std::move(path), std::move(user), max};
  SLUICE_CO_TRY(const auto channel, core->open(wire::Request(read), Kind::kBytes));
  auto reader = std::make_unique<ReaderHandle>(core, channel, max, ReaderHandle::Reply::kTaken);
  SLUICE_CO_TRY(const Bytes reply, co_await ClientCore::reply_of(core, channel));
  SLUICE_CO_TRY_VOID(decode_or_end<wire::FileStat>(*core, reply));
  co_return std::unique_ptr<PieceReader>(std::move(reader));
}

awaitable<Result<std::unique_ptr<PieceWriter>>> Client::open_writer(std::string path, uint32_t mode,
                                                                    std::string user) {
  const auto core = core_;
  SLUICE_CO_TRY_VOID(check_path(path, user));
  SLUICE_CO_TRY_VOID(check_mode(mode));
  const wire::Write write{std::move(path), std::move(user), mode};
  SLUICE_CO_TRY(auto channel, core->open(wire::Request(write), Kind::kBytes));
  co_return std::unique_ptr<PieceWriter>(std::make_unique<WriterHandle>(core, std::move(channel)));
}

awaitable<Result<wire::FileStat>> Client::stat(std::string path, std::string user) {
  const auto core = core_;
  SLUICE_CO_TRY_VOID(check_path(path, user));
  const wire::Stat stat{std::move(path), std::move(user)};
  co_return co_await ask_for<wire::FileStat>(core, wire::Request(stat));
}

awaitable<Result<std::vector<wire::FileStat>>> Client::list(std::string path, uint32_t depth,
                                                            size_t max, std::string user) {
  const auto core = core_;
  SLUICE_CO_TRY_VOID(check_path(path, user));
  const wire::List list{std::move(path), std::move(user), depth, max};
  SLUICE_CO_TRY(const auto channel, core->open(wire::Request(list), Kind::kBytes));
  ReaderHandle reader(core, channel, UINT64_MAX, ReaderHandle::Reply::kAtTheEnd);
  wire::ListDecoder decoder(max);
  for (;;) {
    SLUICE_CO_TRY(const Bytes piece, co_await reader.read_some());
    if (piece.empty()) break;
    const auto fed = decoder.feed(piece);
    if (fed) continue;
    core->end(fed.error());
    co_return fed.error();
  }
  auto entries = decoder.finish();
  if (!entries) core->end(entries.error());
  co_return entries;
}

awaitable<Result<void>> Client::reset_directory(std::string path, std::string user, uint32_t mode) {
  const auto core = core_;
  SLUICE_CO_TRY_VOID(check_path(path, user));
  SLUICE_CO_TRY_VOID(check_mode(mode));
  const wire::ResetDirectory reset{std::move(path), std::move(user), mode};
  co_return co_await ask(core, wire::Request(reset));
}

awaitable<Result<uint64_t>> Client::give_tree(std::string path, std::string user) {
  const auto core = core_;
  SLUICE_CO_TRY_VOID(check_path(path, user));
  const wire::GiveTree give{std::move(path), std::move(user)};
  SLUICE_CO_TRY(const auto count, co_await ask_for<wire::Count>(core, wire::Request(give)));
  co_return count.value;
}

awaitable<Result<std::unique_ptr<PieceReader>>> Client::pack(uint64_t max) {
  const auto core = core_;
  SLUICE_CO_TRY(const auto channel, core->open(wire::Request(wire::Pack{max}), Kind::kBytes));
  const auto reply = ReaderHandle::Reply::kAtTheEnd;
  co_return std::unique_ptr<PieceReader>(std::make_unique<ReaderHandle>(core, channel, max, reply));
}

awaitable<Result<std::unique_ptr<PieceWriter>>> Client::unpack() {
  const auto core = core_;
  SLUICE_CO_TRY(const auto channel, core->open(wire::Request(wire::Unpack()), Kind::kBytes));
  co_return std::unique_ptr<PieceWriter>(std::make_unique<WriterHandle>(core, channel));
}

awaitable<Result<std::unique_ptr<PieceReader>>> Client::take_work(wire::TakeWork request,
                                                                  wire::WorkTaken* taken) {
  const auto core = core_;
  SLUICE_CO_TRY_VOID(check_places(request.paths, request.exclude));
  SLUICE_CO_TRY(const auto channel, core->open(wire::Request(request), Kind::kBytes));
  const auto reply = ReaderHandle::Reply::kAtTheEnd;
  co_return std::unique_ptr<PieceReader>(
      std::make_unique<ReaderHandle>(core, channel, request.max, reply, taken));
}

awaitable<Result<std::unique_ptr<PieceWriter>>> Client::put_work(wire::PutWork request) {
  const auto core = core_;
  SLUICE_CO_TRY_VOID(check_places(request.paths, request.exclude));
  SLUICE_CO_TRY(const auto channel, core->open(wire::Request(request), Kind::kBytes));
  co_return std::unique_ptr<PieceWriter>(std::make_unique<WriterHandle>(core, channel));
}

awaitable<Result<void>> Client::make_way(std::string path, std::string below) {
  const auto core = core_;
  SLUICE_CO_TRY_VOID(check_path(path, ""));
  if (!below.empty()) SLUICE_CO_TRY_VOID(check_path(below, ""));
  const wire::MakeWay request{std::move(path), std::move(below)};
  co_return co_await ask(core, wire::Request(request));
}

awaitable<Result<std::unique_ptr<net::Listener>>> Client::listen(uint16_t port, Carry carry) {
  const auto core = core_;
  const bool pass = carry == Carry::kSocket && core->passes_sockets();
  const wire::Listen listen{port, pass};
  SLUICE_CO_TRY(const auto channel, core->open(wire::Request(listen), Kind::kListener));
  if (pass) core->expect_socket();
  auto reply = co_await ClientCore::reply_of(core, channel);
  Error cancelled;
  if (!reply && reply.error().code == ErrorCode::kCancelled && pass) {
    // The socket is on its way and must be taken, or the next one would be mistaken for it.
    cancelled = reply.error();
    reply = co_await ClientCore::reply_of(core, channel);
  }
  auto answer = reply ? decode_or_end<wire::Listening>(*core, *reply)
                      : Result<wire::Listening>(std::move(reply).error());
  if (answer && answer->has_socket != pass) {
    answer = core->broken("a port is not carried as asked for");
  }
  if (!answer) {
    if (pass) core->expect_no_socket();
    core->close(channel);
    co_return std::move(answer).error();
  }
  if (!pass) {
    co_return std::unique_ptr<net::Listener>(
        std::make_unique<CarriedListener>(core, channel, answer->port));
  }
  core->close(channel);
  SLUICE_CO_TRY(Fd socket, core->take_socket());
  if (!cancelled.message.empty()) {
    close_foreign(std::move(socket));
    co_return cancelled;
  }
  co_return net::adopt_tcp_listener(*core->shard(), std::move(socket));
}

awaitable<Result<void>> Client::kill_all() {
  return ask(core_, wire::Request(wire::KillAll()));
}

awaitable<Result<void>> Client::kill_user(std::string user) {
  const auto core = core_;
  SLUICE_CO_TRY_VOID(check_path("/", user));
  const wire::KillUser kill{std::move(user)};
  co_return co_await ask(core, wire::Request(kill));
}

awaitable<Result<wire::HandedOver>> Client::hand_over(wire::HandOver request) {
  const auto core = core_;
  for (const std::string* path : {&request.home, &request.workdir, &request.place, &request.link}) {
    SLUICE_CO_TRY_VOID(check_path(*path, request.user));
  }
  if (request.path.size() > wire::kMaxSearchPath) {
    co_return Error(ErrorCode::kTooLarge, "the image's PATH is over 16 KiB long");
  }
  co_return co_await ask_for<wire::HandedOver>(core, wire::Request(request));
}

void Client::close() {
  core_->end(Error(ErrorCode::kClosed, "the sandbox was closed"));
}

void Client::on_end(std::function<ErrorOrigin()> whose) {
  core_->on_end(std::move(whose));
}

const Error& Client::why_closed() const {
  return core_->why();
}

}  // namespace sluice::guest
