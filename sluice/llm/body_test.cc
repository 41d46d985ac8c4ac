#include "sluice/llm/body.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace sluice::llm {
namespace {

struct Elsewhere : Body::Store {
  explicit Elsewhere(Result<Bytes> b) : bytes(std::move(b)) {}
  Result<Bytes> read() const override {
    ++reads;
    return bytes;
  }
  Result<Bytes> bytes;
  mutable std::atomic<int> reads = 0;
};

TEST(BodyTest, StaysInMemoryWhileNobodyElseKeepsIt) {
  const Body body(std::make_shared<const Bytes>("abc"));
  EXPECT_FALSE(body.put_away());
  EXPECT_EQ(*body.in_memory(), "abc");
  EXPECT_EQ(**body.bytes(), "abc");
  EXPECT_EQ(body.size(), 3u);
}

TEST(BodyTest, IsReadAgainOnceItWasPutAway) {
  auto bytes = std::make_shared<const Bytes>("abc");
  const std::weak_ptr<const Bytes> memory = bytes;
  const Body body(std::move(bytes));
  Body copy;
  copy = body;
  body.kept_in(std::make_shared<Elsewhere>(Bytes("abc")));
  EXPECT_EQ(body.in_memory(), memory.lock());  // until it is put away
  auto held = *copy.bytes();
  EXPECT_TRUE(body.put_away());
  EXPECT_EQ(*held, "abc");
  held.reset();
  EXPECT_TRUE(memory.expired());
  EXPECT_EQ(copy.in_memory(), nullptr);
  EXPECT_EQ(**copy.bytes(), "abc");
  EXPECT_EQ(copy.size(), 3u);
  EXPECT_TRUE(copy.put_away());  // it is
}

TEST(BodyTest, IsAtHandWhileSomebodyHoldsWhatWasRead) {
  const Body body(std::make_shared<const Bytes>("abc"));
  const auto store = std::make_shared<Elsewhere>(Bytes("abc"));
  body.kept_in(store);
  EXPECT_EQ(body.at_hand(), body.in_memory());
  ASSERT_TRUE(body.put_away());
  EXPECT_EQ(body.at_hand(), nullptr);
  auto held = *body.bytes();
  EXPECT_EQ(body.at_hand(), held);
  EXPECT_EQ(*body.bytes(), held);
  EXPECT_EQ(body.in_memory(), nullptr);
  EXPECT_EQ(store->reads, 1);
  held.reset();
  EXPECT_EQ(body.at_hand(), nullptr);
}

TEST(BodyTest, ThatItCannotBeReadIsAnErrorAtEachLook) {
  const Body body(std::make_shared<const Bytes>("abc"));
  body.kept_in(std::make_shared<Elsewhere>(Error(ErrorCode::kIo, "gone")));
  ASSERT_TRUE(body.put_away());
  EXPECT_EQ(body.bytes().error().message, "gone");
  EXPECT_EQ(body.bytes().error().code, ErrorCode::kIo);
}

TEST(BodyTest, IsLookedAtWhileItIsPutAway) {
  const Body body(std::make_shared<const Bytes>(Bytes(100'000, 'x')));
  body.kept_in(std::make_shared<Elsewhere>(Bytes(100'000, 'x')));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([body] {
      for (int n = 0; n < 200; ++n) ASSERT_EQ((*body.bytes())->size(), 100'000u);
    });
  }
  body.put_away();
  for (auto& thread : threads) thread.join();
}

}  // namespace
}  // namespace sluice::llm
