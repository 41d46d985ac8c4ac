// The client over a link that is a plain stream: one in memory, whose pipe takes a few bytes at a
// time, with a guest that is played by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/guest/client/client.h"
#include "sluice/guest/wire/frame.h"
#include "sluice/net/memory_stream.h"
#include "sluice/net/testing.h"

namespace sluice::guest {
namespace {

using net::testing::run;
using wire::FrameType;

struct Heard {
  FrameType type = FrameType::kHello;
  uint32_t stream = 0;
  Bytes payload;
};

class StreamLinkTest : public ::testing::Test {
 protected:
  // Less than a frame's header: every frame is written and read in pieces.
  static constexpr size_t kCredit = 7;

  void SetUp() override {
    auto ends = net::memory_pair(shard_, kCredit);
    guest_ = std::move(ends.second);
    shard_.spawn(say_hello(this));
    auto connecting =
        Client::connect(&shard_, make_stream_link(std::move(ends.first)), ClientOptions());
    auto client = run(shard_, std::move(connecting));
    ASSERT_TRUE(client) << client.error().message;
    client_ = std::move(*client);
    EXPECT_EQ(hear().type, FrameType::kHello);
  }
  // What waits for the link ends with it.
  void TearDown() override {
    client_->close();
    shard_.context().poll();
  }

  static awaitable<void> say_hello(StreamLinkTest* test) {
    const Bytes hello = test->frame(FrameType::kHello, 0, wire::encode(wire::GuestHello{}));
    const auto said = co_await net::write_all(test->guest_.get(), hello);
    EXPECT_TRUE(said);
  }

  Bytes frame(FrameType type, uint32_t stream, ByteView payload) {
    Bytes bytes;
    wire::append_frame(bytes, type, stream, wire::on_link(type) ? 0 : ++seq_, payload);
    return bytes;
  }
  void say(ByteView bytes) { EXPECT_TRUE(run(shard_, net::write_all(guest_.get(), bytes))); }

  // The client's next frame, keep-alives left out.
  static awaitable<Heard> next(StreamLinkTest* test) {
    Bytes buffer(100, '\0');
    for (;;) {
      auto frame = test->decoder_.next();
      EXPECT_TRUE(frame);
      if (!frame) co_return Heard();
      if (*frame && (*frame)->type != FrameType::kKeepAlive) {
        co_return Heard{(*frame)->type, (*frame)->stream, Bytes((*frame)->payload)};
      }
      if (*frame) continue;
      const auto n = co_await test->guest_->read_some(as_writable_byte_span(buffer));
      EXPECT_TRUE(n && *n > 0);
      if (!n || *n == 0) co_return Heard();
      test->decoder_.feed(ByteView(buffer).substr(0, *n));
    }
  }
  Heard hear() { return run(shard_, next(this)); }

  // The request of an Open frame.
  template <class M>
  M heard_request() {
    const Heard open = hear();
    EXPECT_EQ(open.type, FrameType::kOpen);
    wire::Assembler assembler;
    const auto request = assembler.open(open.payload);
    EXPECT_TRUE(request && *request && (*request)->verb == M::kVerb);
    auto message = request && *request ? wire::decode<M>((*request)->body) : Result<M>(Error());
    EXPECT_TRUE(message);
    return message ? *message : M();
  }

  static awaitable<void> read_file(Client* client, Result<Bytes>* content, bool* done) {
    auto reader = co_await client->open_reader("/f", 1'000'000, "0");
    if (!reader) *content = reader.error();
    while (reader) {
      auto piece = co_await (*reader)->read_some();
      if (!piece) *content = piece.error();
      if (!piece || piece->empty()) break;
      **content += *piece;
    }
    *done = true;
  }

  net::Shard shard_;
  std::unique_ptr<net::MemoryStream> guest_;
  wire::Decoder decoder_;
  uint64_t seq_ = 0;
  std::unique_ptr<Client> client_;
};

TEST_F(StreamLinkTest, FramesArriveInWhateverPiecesTheyAreCarried) {
  Result<Bytes> content;
  bool done = false;
  shard_.spawn(read_file(client_.get(), &content, &done));
  EXPECT_EQ(heard_request<wire::Read>().path, "/f");
  const Bytes sent(3000, 'f');
  say(frame(FrameType::kReply, 1, wire::encode(wire::FileStat{})) +
      frame(FrameType::kData, 1, sent) + frame(FrameType::kData, 1, "end") +
      frame(FrameType::kEnd, 1, wire::encode(wire::End{})) +
      frame(FrameType::kClose, 1, wire::encode(wire::Close{})));
  shard_.run_until([&] { return done; });
  ASSERT_TRUE(content) << content.error().message;
  EXPECT_EQ(*content, sent + "end");
  EXPECT_EQ(hear().type, FrameType::kClose);
}

TEST_F(StreamLinkTest, ItsEndWithinAFrameEndsEveryCall) {
  Result<Bytes> content;
  bool done = false;
  shard_.spawn(read_file(client_.get(), &content, &done));
  heard_request<wire::Read>();
  say(frame(FrameType::kReply, 1, wire::encode(wire::FileStat{})).substr(0, 20));
  guest_->finish();
  shard_.run_until([&] { return done; });
  ASSERT_FALSE(content);
  EXPECT_EQ(content.error().code, ErrorCode::kClosed);
  EXPECT_EQ(client_->why_closed().code, ErrorCode::kClosed);
  EXPECT_TRUE(guest_->peer_gone());
}

TEST_F(StreamLinkTest, AResetEndsEveryCall) {
  Result<Bytes> content;
  bool done = false;
  shard_.spawn(read_file(client_.get(), &content, &done));
  heard_request<wire::Read>();
  guest_->reset();
  shard_.run_until([&] { return done; });
  EXPECT_EQ(content.error().code, ErrorCode::kClosed);
}

awaitable<void> accept_one(Client* client, std::unique_ptr<net::Stream>* into) {
  auto listener = co_await client->listen(0, Carry::kSocket);
  EXPECT_TRUE(listener) << listener.error().message;
  if (!listener) co_return;
  auto stream = co_await (*listener)->accept();
  EXPECT_TRUE(stream) << stream.error().message;
  if (stream) *into = std::move(*stream);
}

// No descriptor gets through: the guest is asked to carry what a socket was wanted for.
TEST_F(StreamLinkTest, ConnectionsAreCarriedWhereNoSocketCanBePassed) {
  std::unique_ptr<net::Stream> stream;
  shard_.spawn(accept_one(client_.get(), &stream));
  EXPECT_FALSE(heard_request<wire::Listen>().pass_socket);
  const wire::Request accepted(wire::Accepted{1, 40'000});
  say(frame(FrameType::kReply, 1, wire::encode(wire::Listening{8080, false})) +
      frame(FrameType::kOpen, 2, wire::split(accepted)->front()) +
      frame(FrameType::kData, 2, "question"));
  shard_.run_until([&] { return stream != nullptr; });
  Bytes buffer(100, '\0');
  const auto n = run(shard_, stream->read_some(as_writable_byte_span(buffer)));
  ASSERT_TRUE(n);
  EXPECT_EQ(buffer.substr(0, *n), "question");
  EXPECT_EQ(stream->peer(), "127.0.0.1:40000");
  EXPECT_TRUE(client_->why_closed().message.empty()) << client_->why_closed().message;
}

}  // namespace
}  // namespace sluice::guest
