#include "sluice/guest/client/core.h"

#include <algorithm>

namespace sluice::guest {

using wire::FrameType;

namespace {

// Writers of data wait while more than this is not with the link yet.
constexpr size_t kCongestion = 1024 * 1024;
// Of what a guest may open; the rest is for requests.
constexpr size_t kMaxGuestStreams = wire::kMaxStreams / 2;

Error protocol(std::string what) {
  return {ErrorCode::kProtocol, "guest link: " + std::move(what)};
}

}  // namespace

uint64_t milliseconds_left(Deadline deadline) {
  if (deadline.is_never()) return 0;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline.remaining()).count();
  return static_cast<uint64_t>(std::max<int64_t>(left, 1));
}

ClientCore::ClientCore(net::Shard* shard, std::unique_ptr<Link> link, ClientOptions options)
    : shard_(shard),
      link_(std::move(link)),
      options_(options),
      out_room_(shard),
      greeted_changed_(shard),
      heard_(Clock::now()),
      keep_alive_timer_(shard->wheel()) {}

ClientCore::~ClientCore() = default;

awaitable<Result<void>> ClientCore::shake_hands() {
  wire::HostHello mine;
  mine.lease_ms = static_cast<uint32_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(options_.lease).count());
  mine.deadline_ms = milliseconds_left(options_.deadline);
  mine.single_user = options_.single_user;
  mine.open_files = options_.open_files;
  send(FrameType::kHello, 0, wire::encode(mine));
  const auto self = shared_from_this();
  shard_->spawn(read_loop(self));
  shard_->spawn(write_loop(self));
  const Deadline deadline = Deadline::in(options_.patience);
  while (!greeted_) {
    if (ended()) co_return why_;
    auto waited = co_await greeted_changed_.wait(deadline);
    if (!waited) {
      Error error = std::move(waited).error().within("waiting for the guest's hello");
      end(error);
      co_return error;
    }
  }
  keep_alive();
  co_return Result<void>();
}

void ClientCore::keep_alive() {
  if (ended()) return;
  if (Clock::now() - heard_ > options_.silence) {
    end(Error(ErrorCode::kClosed, "the guest has been silent for too long"));
    return;
  }
  send(FrameType::kKeepAlive, 0);
  keep_alive_timer_.arm(Deadline::in(options_.keep_alive), [this] { keep_alive(); });
}

void ClientCore::end(Error why) {
  if (ended()) return;
  why_ = std::move(why).from(whose_end_ ? whose_end_() : ErrorOrigin::kEngine);
  if (why_.message.empty()) why_.message = "the guest's link is closed";
  link_->close();
  keep_alive_timer_.disarm();
  out_.clear();
  out_ready_.notify();
  out_room_.notify_all();
  greeted_changed_.notify_all();
  const auto channels = std::move(channels_);
  channels_.clear();
  for (const auto& [id, channel] : channels) {
    channel->closed_there = true;
    channel->reset = true;
    if (!channel->failure) channel->failure = why_;
    channel->changed.notify_all();
    tell_watch(channel, net::PeerClose::kReset);
  }
  for (Fd& socket : sockets_) close_foreign(std::move(socket));
  sockets_.clear();
}

Error ClientCore::broken(std::string what) {
  Error error = protocol(std::move(what));
  end(error);
  return error;
}

Result<void> ClientCore::alive() const {
  if (!ended()) return {};
  return Error(ErrorCode::kClosed, why_.message, why_.origin);
}

// --- the loops ----------------------------------------------------------------------------------

awaitable<void> ClientCore::read_loop(std::shared_ptr<ClientCore> core) {
  std::vector<Fd> fds;
  while (!core->ended()) {
    const auto n = co_await core->link_->read_some(core->decoder_.space(), &fds);
    for (Fd& fd : fds) core->sockets_.push_back(std::move(fd));
    fds.clear();
    if (core->ended()) break;
    if (!n || *n == 0) {
      Error error = n ? Error(ErrorCode::kClosed, "the sandbox has ended") : n.error();
      error.code = ErrorCode::kClosed;
      core->end(std::move(error));
      break;
    }
    core->heard_ = Clock::now();
    core->decoder_.commit(*n);
    while (!core->ended()) {
      auto frame = core->decoder_.next();
      if (frame && !*frame) break;
      auto handled = frame ? core->handle(**frame) : Result<void>(std::move(frame).error());
      if (!handled) core->end(std::move(handled).error());
    }
    if (!core->ended() && core->sockets_.size() > core->sockets_expected_) {
      (void)core->broken("descriptors that nobody asked for");
    }
  }
  for (Fd& socket : core->sockets_) close_foreign(std::move(socket));
  core->sockets_.clear();
}

awaitable<void> ClientCore::write_loop(std::shared_ptr<ClientCore> core) {
  Bytes batch;
  while (!core->ended()) {
    if (core->out_.empty()) {
      co_await core->out_ready_.wait();
      continue;
    }
    batch.clear();
    std::swap(batch, core->out_);
    core->out_room_.notify_all();
    const ByteView view = batch;
    auto written = co_await core->link_->write_all(view);
    if (!written && !core->ended()) {
      Error error = std::move(written).error();
      error.code = ErrorCode::kClosed;
      core->end(std::move(error));
    }
  }
}

// --- what comes in ------------------------------------------------------------------------------

Result<void> ClientCore::handle(const wire::Frame& frame) {
  if (!greeted_ && frame.type != FrameType::kHello) return protocol("no hello came first");
  if (wire::on_link(frame.type)) return handle_link(frame);
  SLUICE_TRY(const auto verdict, incoming_.accept(frame));
  if (verdict == wire::Incoming::Verdict::kDuplicate) {
    return protocol("a frame came twice over a link that does not resume");
  }
  if (frame.type == FrameType::kOpen) return handle_open(frame);
  const auto found = channels_.find(frame.stream);
  if (found == channels_.end()) return protocol("a frame on an unknown stream");
  const ChannelPtr channel = found->second;
  if (channel->closed_there) return protocol("a frame behind a close");
  return handle_stream(channel, frame);
}

Result<void> ClientCore::handle_link(const wire::Frame& frame) {
  if (frame.type == FrameType::kKeepAlive) {
    if (!frame.payload.empty()) return protocol("a keep-alive with a payload");
    return {};
  }
  if (frame.type != FrameType::kHello || greeted_) {
    return protocol("a link frame that does not belong here");
  }
  SLUICE_TRY_VOID(wire::decode<wire::GuestHello>(frame.payload));
  greeted_ = true;
  greeted_changed_.notify_all();
  return {};
}

Result<void> ClientCore::handle_open(const wire::Frame& frame) {
  if (wire::opened_by_host(frame.stream) || frame.stream <= last_guest_stream_) {
    return protocol("a stream number that is not the guest's, or not new");
  }
  if (channels_.size() >= kMaxGuestStreams) return protocol("too many streams");
  last_guest_stream_ = frame.stream;
  SLUICE_TRY(const auto request, assembler_.open(frame.payload));
  if (!request || request->verb != wire::Verb::kAccepted) {
    return protocol("a request that no guest makes");
  }
  SLUICE_TRY(const auto accepted, wire::decode<wire::Accepted>(request->body));
  const auto found = channels_.find(accepted.listener);
  if (found == channels_.end() || found->second->kind != Channel::Kind::kListener ||
      found->second->closed_there) {
    return protocol("a connection of no listener");
  }
  const ChannelPtr listener = found->second;
  const ChannelPtr connection = add(frame.stream, Channel::Kind::kConnection);
  if (listener->closed_here) {
    close(connection, wire::Close::Reason::kReset);
    return {};
  }
  listener->accepted.emplace_back(connection, accepted.peer_port);
  listener->changed.notify_all();
  return {};
}

Result<void> ClientCore::judge_reply(const Channel& channel) const {
  if (!wire::opened_by_host(channel.id) || channel.kind == Channel::Kind::kErrors) {
    return protocol("an answer to what was no request");
  }
  if (channel.failure) return protocol("an answer behind a failure");
  return {};
}

Result<void> ClientCore::handle_stream(const ChannelPtr& channel, const wire::Frame& frame) {
  switch (frame.type) {
    case FrameType::kReply:
      SLUICE_TRY_VOID(judge_reply(*channel));
      if (channel->reply) return protocol("a second reply");
      channel->reply = Bytes(frame.payload);
      break;
    case FrameType::kFail: {
      SLUICE_TRY_VOID(judge_reply(*channel));
      SLUICE_TRY(auto failure, wire::decode<wire::Failure>(frame.payload));
      channel->failure = std::move(failure.error);
      break;
    }
    case FrameType::kData:
      SLUICE_TRY_VOID(handle_data(*channel, frame.payload));
      break;
    case FrameType::kEnd: {
      SLUICE_TRY(const auto end, wire::decode<wire::End>(frame.payload));
      if (!channel->takes_data()) return protocol("an end on a stream without data");
      if (std::exchange(channel->ended, true)) return protocol("a second end");
      channel->truncated = end.truncated;
      if (channel->inbox.empty()) tell_watch(channel, net::PeerClose::kFin);
      break;
    }
    case FrameType::kCredit: {
      SLUICE_TRY(const auto grant, wire::decode<wire::Credit>(frame.payload));
      SLUICE_TRY_VOID(channel->credit.grant(grant.bytes));
      break;
    }
    case FrameType::kStop:
      if (!frame.payload.empty()) return protocol("a stop with a payload");
      if (!channel->takes_data()) return protocol("a stop on a stream without data");
      channel->stopped = true;
      break;
    case FrameType::kExit: {
      if (channel->kind != Channel::Kind::kCommand || !channel->reply || channel->exit) {
        return protocol("an exit of what does not run");
      }
      SLUICE_TRY(channel->exit, wire::decode<wire::Exit>(frame.payload));
      break;
    }
    case FrameType::kDrained:
      if (!frame.payload.empty()) return protocol("a drained with a payload");
      if (!std::exchange(channel->draining, false)) return protocol("drained unasked");
      break;
    case FrameType::kClose: {
      SLUICE_TRY(const auto how, wire::decode<wire::Close>(frame.payload));
      channel->closed_there = true;
      channel->reset = how.reason == wire::Close::Reason::kReset;
      if (channel->closed_here) {
        forget(channel);
      } else if (channel->kind == Channel::Kind::kConnection) {
        tell_watch(channel, net::PeerClose::kReset);
      }
      break;
    }
    default:
      return protocol("a frame of the host's own");
  }
  channel->changed.notify_all();
  return {};
}

Result<void> ClientCore::handle_data(Channel& channel, ByteView bytes) {
  if (!channel.takes_data()) return protocol("data on a stream without");
  if (bytes.empty()) return protocol("data without data");
  if (channel.ended) return protocol("data behind the end");
  SLUICE_TRY_VOID(channel.window.received(bytes.size()));
  if (channel.closed_here) return {};  // it crossed our close
  // Bytes end the watch; they are kept for the next read.
  channel.watch = nullptr;
  if (channel.collects) {
    if (bytes.size() > *channel.collects - channel.inbox.size()) {
      return protocol("more output than the cap allows");
    }
    channel.inbox.append(bytes);
    give_credit(channel, bytes.size());
    return {};
  }
  channel.inbox.append(bytes);
  held_ += bytes.size();
  if (held_ > options_.max_held) {
    return Error(
        ErrorCode::kExhausted,
        "guest link: more than " + std::to_string(options_.max_held) + " bytes wait to be read");
  }
  return {};
}

void ClientCore::give_credit(Channel& channel, size_t consumed) {
  const uint32_t grant = channel.window.consumed(consumed);
  if (grant != 0 && !channel.closed_here && !channel.closed_there && !channel.ended) {
    send(FrameType::kCredit, channel.id, wire::encode(wire::Credit{grant}));
  }
}

void ClientCore::tell_watch(const ChannelPtr& channel, net::PeerClose how) {
  if (!channel->watch) return;
  // Later, so that whoever is told finds us in order; and only if it still wants to know.
  shard_->post([channel, how] {
    const auto watch = std::exchange(channel->watch, nullptr);
    if (watch) watch(how);
  });
}

// --- what goes out ------------------------------------------------------------------------------

void ClientCore::send(FrameType type, uint32_t stream, ByteView payload) {
  if (ended()) return;
  outgoing_.append(out_, type, stream, payload);
  out_ready_.notify();
}

ChannelPtr ClientCore::add(uint32_t id, Channel::Kind kind) {
  auto channel = std::make_shared<Channel>(shard_, id, kind);
  channels_.emplace(id, channel);
  return channel;
}

Result<ChannelPtr> ClientCore::open(const wire::Request& request, Channel::Kind kind) {
  SLUICE_TRY_VOID(alive());
  if (channels_.size() + 2 > wire::kMaxStreams || next_stream_ > UINT32_MAX - 4) {
    return Error(ErrorCode::kExhausted, "too many operations at once in one sandbox");
  }
  SLUICE_TRY(const auto parts, wire::split(request));
  ChannelPtr channel = add(next_stream_, kind);
  next_stream_ += 2;
  for (size_t i = 0; i < parts.size(); ++i) {
    send(i == 0 ? FrameType::kOpen : FrameType::kMore, channel->id, parts[i]);
  }
  return channel;
}

Result<std::pair<ChannelPtr, ChannelPtr>> ClientCore::open_command(wire::Exec request) {
  request.err_stream = next_stream_ + 2;
  SLUICE_TRY(auto out, open(wire::Request(request), Channel::Kind::kCommand));
  auto err = add(next_stream_, Channel::Kind::kErrors);
  next_stream_ += 2;
  return std::pair(std::move(out), std::move(err));
}

awaitable<Result<Bytes>> ClientCore::reply_of(std::shared_ptr<ClientCore> core,
                                              ChannelPtr channel) {
  while (!channel->reply && !channel->failure) {
    if (channel->closed_there) {
      (void)core->broken("a request was closed without an answer");
      break;
    }
    SLUICE_CO_TRY_VOID(co_await channel->changed.wait(Deadline::never()));
  }
  if (channel->failure) co_return *channel->failure;
  if (!channel->reply) co_return core->why();
  co_return *channel->reply;
}

awaitable<Result<Bytes>> ClientCore::ask(std::shared_ptr<ClientCore> core, wire::Request request) {
  SLUICE_CO_TRY(const ChannelPtr channel, core->open(request, Channel::Kind::kPlain));
  auto reply = co_await reply_of(core, channel);
  core->close(channel);
  co_return reply;
}

awaitable<Result<void>> ClientCore::send_data(std::shared_ptr<ClientCore> core, ChannelPtr channel,
                                              ByteView bytes) {
  while (!bytes.empty()) {
    SLUICE_CO_TRY_VOID(core->alive());
    if (channel->closed_here) co_return Error(ErrorCode::kClosed, "closed here");
    if (channel->stopped || channel->over()) co_return Result<void>();
    if (core->out_.size() > kCongestion) {
      SLUICE_CO_TRY_VOID(co_await core->out_room_.wait(Deadline::never()));
      continue;
    }
    const size_t n =
        std::min<size_t>({bytes.size(), channel->credit.available(), wire::kMaxPayload});
    if (n == 0) {
      SLUICE_CO_TRY_VOID(co_await channel->changed.wait(Deadline::never()));
      continue;
    }
    channel->credit.spend(n);
    core->send(FrameType::kData, channel->id, bytes.substr(0, n));
    bytes.remove_prefix(n);
  }
  co_return Result<void>();
}

void ClientCore::send_end(Channel& channel) {
  if (channel.closed_here || std::exchange(channel.end_sent, true)) return;
  send(FrameType::kEnd, channel.id, wire::encode(wire::End{}));
}

void ClientCore::close(const ChannelPtr& channel, wire::Close::Reason reason) {
  if (std::exchange(channel->closed_here, true)) return;
  channel->watch = nullptr;
  if (!channel->collects) held_ -= std::min(held_, channel->inbox.size());
  if (channel->kind == Channel::Kind::kListener) {
    for (const auto& [connection, port] : std::exchange(channel->accepted, {})) {
      close(connection, wire::Close::Reason::kReset);
    }
  }
  channel->changed.notify_all();
  if (ended()) return;
  send(FrameType::kClose, channel->id, wire::encode(wire::Close{reason}));
  if (channel->closed_there) forget(channel);
}

void ClientCore::forget(const ChannelPtr& channel) {
  channels_.erase(channel->id);
}

awaitable<Result<void>> ClientCore::wait_for_data(std::shared_ptr<ClientCore> core,
                                                  ChannelPtr channel) {
  while (channel->inbox.empty() && !channel->ended && !channel->over()) {
    if (channel->closed_here) co_return Error(ErrorCode::kClosed, "closed here");
    SLUICE_CO_TRY_VOID(co_await channel->changed.wait(Deadline::never()));
  }
  if (channel->closed_here) co_return Error(ErrorCode::kClosed, "closed here");
  co_return Result<void>();
}

Bytes ClientCore::take(Channel& channel, size_t max) {
  Bytes piece;
  if (channel.inbox.size() <= max) {
    piece.swap(channel.inbox);
  } else {
    piece = channel.inbox.substr(0, max);
    channel.inbox.erase(0, max);
  }
  held_ -= std::min(held_, piece.size());
  give_credit(channel, piece.size());
  return piece;
}

Result<Fd> ClientCore::take_socket() {
  --sockets_expected_;
  if (sockets_.empty()) return broken("a socket was announced that did not come");
  Fd socket = std::move(sockets_.front());
  sockets_.pop_front();
  return socket;
}

}  // namespace sluice::guest
