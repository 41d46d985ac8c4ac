// What the parts of the client share: the link's loops, the table of streams, and what may come on
// each. Internal to guest/client.
#pragma once

#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/deadline.h"
#include "sluice/base/core/fd.h"
#include "sluice/base/core/result.h"
#include "sluice/guest/client/link.h"
#include "sluice/guest/client/options.h"
#include "sluice/guest/wire/credit.h"
#include "sluice/guest/wire/frame.h"
#include "sluice/guest/wire/messages.h"
#include "sluice/guest/wire/sequence.h"
#include "sluice/net/shard.h"
#include "sluice/net/stream.h"
#include "sluice/net/wait.h"
#include "sluice/net/wheel.h"

namespace sluice::guest {

// Until then, at least 1; 0 for never.
uint64_t milliseconds_left(Deadline deadline);

// One stream as the host sees it. Handles share it with the table: it outlives both.
struct Channel {
  enum class Kind : uint8_t { kPlain, kBytes, kCommand, kErrors, kListener, kConnection };

  Channel(net::Shard* shard, uint32_t number, Kind k) : id(number), kind(k), changed(shard) {}

  bool takes_data() const { return kind != Kind::kPlain && kind != Kind::kListener; }
  bool over() const { return closed_there || failure.has_value(); }

  const uint32_t id;
  const Kind kind;
  net::Broadcast changed;  // anything below did
  wire::SendCredit credit;
  wire::ReceiveCredit window;

  std::optional<Bytes> reply;
  std::optional<Error> failure;  // of the request, or the link's end
  std::optional<wire::Exit> exit;
  Bytes inbox;         // data that nobody has taken yet
  bool ended = false;  // no more data will come
  bool truncated = false;
  // Data is taken as it comes, at most so much: for whoever wants it all.
  std::optional<uint64_t> collects;
  bool stopped = false;   // the guest reads no more of ours
  bool end_sent = false;  // our data has ended
  bool draining = false;
  bool closed_here = false;
  bool closed_there = false;
  bool reset = false;  // a connection: broken rather than closed
  // A listener's. (An empty deque would hold half a KiB in every channel.)
  std::list<std::pair<std::shared_ptr<Channel>, uint16_t>> accepted;
  std::function<void(net::PeerClose)> watch;  // a connection's
};
using ChannelPtr = std::shared_ptr<Channel>;

class ClientCore : public std::enable_shared_from_this<ClientCore> {
 public:
  ClientCore(net::Shard* shard, std::unique_ptr<Link> link, ClientOptions options);
  ~ClientCore();

  // REQUIRES: it is called once, before anything else.
  awaitable<Result<void>> shake_hands();
  // Ends everything, for good; the first reason counts. Whose doing it is, whose_end() says.
  void end(Error why);
  void on_end(std::function<ErrorOrigin()> whose) { whose_end_ = std::move(whose); }
  // The same because the guest broke the protocol: `what` it did. Returns that as an Error.
  Error broken(std::string what);
  bool ended() const { return !why_.message.empty(); }

  // kClosed when the link is.
  Result<void> alive() const;
  // Sends a request on a new stream. REQUIRES: hands were shaken.
  Result<ChannelPtr> open(const wire::Request& request, Channel::Kind kind);
  // A command's two streams.
  Result<std::pair<ChannelPtr, ChannelPtr>> open_command(wire::Exec request);
  // The request's reply, or why there is none. REQUIRES: `channel` is of open(): what the guest
  // opened, or a command's second stream, is never replied to.
  static awaitable<Result<Bytes>> reply_of(std::shared_ptr<ClientCore> core, ChannelPtr channel);
  // One request with a small answer. REQUIRES: hands were shaken.
  static awaitable<Result<Bytes>> ask(std::shared_ptr<ClientCore> core, wire::Request request);

  // REQUIRES: the payload fits a frame, and we have not sent Close on the stream.
  void send(wire::FrameType type, uint32_t stream, ByteView payload = {});
  // Within credit and with regard to a full link. Ends early, without an Error, when the guest
  // reads no more: `channel->stopped` tells. REQUIRES: `bytes` live until it returns, no other
  // send_data() of the channel runs, and send_end() was not called.
  static awaitable<Result<void>> send_data(std::shared_ptr<ClientCore> core, ChannelPtr channel,
                                           ByteView bytes);
  void send_end(Channel& channel);
  // The host is done with the stream: what still comes on it is dropped. Idempotent.
  void close(const ChannelPtr& channel, wire::Close::Reason reason = wire::Close::Reason::kDone);

  // Tells whoever watches the connection how it ended.
  void tell_watch(const ChannelPtr& channel, net::PeerClose how);

  // Waits for data, its end or the stream's. Then `inbox` holds something, or nothing will come.
  // REQUIRES: channel->takes_data().
  static awaitable<Result<void>> wait_for_data(std::shared_ptr<ClientCore> core,
                                               ChannelPtr channel);
  // Takes at most `max` bytes out of the inbox. REQUIRES: the channel does not collect.
  Bytes take(Channel& channel, size_t max);
  // Whether the link lets the guest hand over sockets.
  bool passes_sockets() const { return link_->passes_descriptors(); }
  // How many sockets may be on their way: a guest that sends others breaks the protocol.
  // REQUIRES, of the second: an expect_socket() whose request failed, so that no socket comes.
  void expect_socket() { ++sockets_expected_; }
  void expect_no_socket() { --sockets_expected_; }
  // The expected one. REQUIRES: an expect_socket() whose reply said that it comes along. Replies
  // are taken in their order, as sockets come in that order.
  Result<Fd> take_socket();

  net::Shard* shard() const { return shard_; }
  const ClientOptions& options() const { return options_; }
  const Error& why() const { return why_; }

 private:
  static awaitable<void> read_loop(std::shared_ptr<ClientCore> core);
  static awaitable<void> write_loop(std::shared_ptr<ClientCore> core);
  void keep_alive();
  Result<void> handle(const wire::Frame& frame);
  Result<void> handle_link(const wire::Frame& frame);
  Result<void> handle_open(const wire::Frame& frame);
  Result<void> handle_stream(const ChannelPtr& channel, const wire::Frame& frame);
  Result<void> handle_data(Channel& channel, ByteView bytes);
  Result<void> judge_reply(const Channel& channel) const;
  void give_credit(Channel& channel, size_t consumed);
  void forget(const ChannelPtr& channel);
  // REQUIRES: no stream had the number before.
  ChannelPtr add(uint32_t id, Channel::Kind kind);

  net::Shard* shard_;
  std::unique_ptr<Link> link_;
  const ClientOptions options_;
  Error why_;
  std::function<ErrorOrigin()> whose_end_;

  wire::Decoder decoder_;
  wire::Incoming incoming_;
  wire::Outgoing outgoing_;
  wire::Assembler assembler_;
  Bytes out_;
  net::Signal out_ready_;
  net::Broadcast out_room_;
  net::Broadcast greeted_changed_;
  bool greeted_ = false;
  Clock::time_point heard_;
  net::Wheel::Timer keep_alive_timer_;

  uint32_t next_stream_ = 1;
  uint32_t last_guest_stream_ = 0;
  std::unordered_map<uint32_t, ChannelPtr> channels_;
  size_t held_ = 0;  // bytes in all inboxes
  std::deque<Fd> sockets_;
  size_t sockets_expected_ = 0;
};

}  // namespace sluice::guest
