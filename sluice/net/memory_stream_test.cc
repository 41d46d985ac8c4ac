#include "sluice/net/memory_stream.h"

#include <gtest/gtest.h>

#include "sluice/net/testing.h"

namespace sluice::net {
namespace {

using namespace std::chrono_literals;

awaitable<void> write_then_set(Stream* stream, Bytes bytes, std::optional<Result<void>>* result) {
  auto written = co_await write_all(stream, bytes);
  result->emplace(std::move(written));
}

awaitable<void> drain_then_set(Stream* stream, Deadline deadline,
                               std::optional<Result<void>>* result) {
  auto drained = co_await stream->drained(deadline);
  result->emplace(std::move(drained));
}

class MemoryStreamTest : public ::testing::Test {
 protected:
  Result<Bytes> read(Stream& stream) {
    Bytes buffer(4096, '\0');
    auto n = testing::run(shard_, stream.read_some(as_writable_byte_span(buffer)));
    if (!n) return n.error();
    buffer.resize(*n);
    return buffer;
  }
  Result<void> write(Stream& stream, Bytes bytes) {
    return testing::run(shard_, write_all(&stream, bytes));
  }

  Shard shard_;
  MemoryPair pair_ = memory_pair(shard_, 10);
  MemoryStream& a_ = *pair_.first;
  MemoryStream& b_ = *pair_.second;
};

TEST_F(MemoryStreamTest, CarriesBytesBothWaysAndReportsTheEnd) {
  ASSERT_TRUE(write(a_, "ping"));
  EXPECT_EQ(read(b_), "ping");
  ASSERT_TRUE(write(b_, "pong"));
  EXPECT_EQ(read(a_), "pong");
  a_.finish();
  EXPECT_EQ(read(b_), "");
  ASSERT_TRUE(write(b_, "still"));
  EXPECT_EQ(read(a_), "still");
}

TEST_F(MemoryStreamTest, AWriterWaitsForCredit) {
  std::optional<Result<void>> written;
  shard_.spawn(write_then_set(&a_, "0123456789abcdef", &written));
  shard_.context().poll();
  EXPECT_FALSE(written);
  EXPECT_EQ(b_.unread(), 10u);
  EXPECT_EQ(read(b_), "0123456789");
  shard_.context().poll();
  ASSERT_TRUE(written);
  EXPECT_TRUE(*written);
  EXPECT_EQ(read(b_), "abcdef");
}

TEST_F(MemoryStreamTest, DrainedWaitsForTheAcknowledgement) {
  EXPECT_TRUE(testing::run(shard_, a_.drained(Deadline::in(1h))));
  b_.set_acknowledge(MemoryStream::Acknowledge::kByHand);
  ASSERT_TRUE(write(a_, "x"));
  EXPECT_EQ(read(b_), "x");
  const auto late = testing::run(shard_, a_.drained(Deadline::in(1ms)));
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, ErrorCode::kTimedOut);
  std::optional<Result<void>> drained;
  shard_.spawn(drain_then_set(&a_, Deadline::never(), &drained));
  shard_.context().poll();
  EXPECT_FALSE(drained);
  b_.acknowledge();
  shard_.context().poll();
  ASSERT_TRUE(drained);
  EXPECT_TRUE(*drained);
}

TEST_F(MemoryStreamTest, TellsAFinFromAReset) {
  std::optional<PeerClose> seen;
  const auto note = [&](PeerClose close) {
    seen = close;
  };
  b_.on_peer_closed(note);
  a_.close();
  EXPECT_FALSE(seen) << "never from inside a call";
  shard_.context().poll();
  EXPECT_EQ(seen, PeerClose::kFin);

  MemoryPair broken = memory_pair(shard_);
  seen.reset();
  ASSERT_TRUE(write(*broken.second, "unread"));
  broken.second->on_peer_closed(note);
  broken.first->close();
  shard_.context().poll();
  EXPECT_EQ(seen, PeerClose::kReset);
  EXPECT_FALSE(read(*broken.second));

  // Also when it happened before anybody asked.
  MemoryPair before = memory_pair(shard_);
  seen.reset();
  before.first->reset();
  before.second->on_peer_closed(note);
  shard_.context().poll();
  EXPECT_EQ(seen, PeerClose::kReset);
}

// As Linux does it: the reset does not take back what the peer's kernel has.
TEST_F(MemoryStreamTest, WhatHadArrivedBeforeAResetCanStillBeRead) {
  ASSERT_TRUE(write(a_, "answer"));
  ASSERT_TRUE(write(b_, "unread"));
  a_.close();  // with unread bytes: a reset
  EXPECT_FALSE(write(b_, "x"));
  EXPECT_EQ(read(b_), "answer");
  const auto end = read(b_);
  ASSERT_FALSE(end) << "a reset is no orderly end";
  EXPECT_EQ(end.error().code, ErrorCode::kClosed);
}

TEST_F(MemoryStreamTest, BytesEndTheWatchAndAreKept) {
  bool called = false;
  b_.on_peer_closed([&](PeerClose) { called = true; });
  ASSERT_TRUE(write(a_, "next"));
  a_.finish();
  shard_.context().poll();
  EXPECT_FALSE(called);
  EXPECT_EQ(read(b_), "next");
  EXPECT_EQ(read(b_), "");
}

TEST_F(MemoryStreamTest, CloseEndsWhatIsPending) {
  std::optional<Result<void>> written;
  shard_.spawn(write_then_set(&a_, Bytes(20, 'x'), &written));
  shard_.context().poll();
  a_.close();
  shard_.context().poll();
  ASSERT_TRUE(written);
  EXPECT_EQ(written->error().code, ErrorCode::kClosed);
  EXPECT_EQ(read(a_).error().code, ErrorCode::kClosed);
  EXPECT_TRUE(b_.peer_gone());
  EXPECT_FALSE(write(b_, "x"));
  // What had arrived before the orderly end can still be read.
  EXPECT_EQ(read(b_), Bytes(10, 'x'));
  EXPECT_EQ(read(b_), "");
}

TEST_F(MemoryStreamTest, CancellationEndsARead) {
  TaskGroup group(shard_.executor());
  std::optional<Result<void>> written;
  group.spawn(write_then_set(&a_, Bytes(20, 'x'), &written));
  shard_.context().poll();
  group.cancel();
  testing::run(shard_, group.join());
  EXPECT_EQ(written->error().code, ErrorCode::kCancelled);
}

TEST(MemoryListenerTest, AcceptsWhatConnectsAndEndsWithClose) {
  Shard shard;
  MemoryListener listener(shard);
  auto client = listener.connect();
  auto server = testing::run(shard, listener.accept());
  ASSERT_TRUE(server);
  ASSERT_TRUE(testing::run(shard, write_all(client.get(), "hi")));
  Bytes buffer(10, '\0');
  EXPECT_EQ(testing::run(shard, (*server)->read_some(as_writable_byte_span(buffer))), 2u);

  auto waiting = listener.connect();
  listener.close();
  EXPECT_EQ(testing::run(shard, listener.accept()).error().code, ErrorCode::kClosed);
  EXPECT_TRUE(waiting->peer_gone());
  EXPECT_TRUE(listener.connect()->peer_gone());
}

}  // namespace
}  // namespace sluice::net
