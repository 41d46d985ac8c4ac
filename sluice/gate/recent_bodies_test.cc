#include "sluice/gate/recent_bodies.h"

#include <gtest/gtest.h>

namespace sluice::gate {
namespace {

std::atomic<uint64_t> total{0};

struct Recent : RecentBodies {
  uint64_t calls = 0;

  Recent() : RecentBodies(&total) {}

  uint64_t sent(std::string session, Bytes body,
                std::shared_ptr<const llm::Body::Store> store = nullptr) {
    llm::Call call;
    call.ordinal = ++calls;
    call.session.value = std::move(session);
    call.body = llm::Body(std::make_shared<const Bytes>(std::move(body)));
    if (store) call.body.kept_in(std::move(store));
    add(call, {});
    return call.ordinal;
  }
  std::optional<llm::Likeness> like(std::string session, const Bytes& body) const {
    const auto found = likeness({std::move(session), ""}, body);
    if (!found) return std::nullopt;
    return found->what;
  }
};

const Bytes kSystem(2000, 's');
const Bytes kTools(3000, 't');

TEST(RecentBodiesTest, TheFirstIsLikeNothing) {
  EXPECT_FALSE(Recent().like("a", kSystem));
}

TEST(RecentBodiesTest, AConversationThatGrewKeepsItsBeginningAndItsEnd) {
  Recent recent;
  const uint64_t first = recent.sent("a", kSystem + "[1]" + kTools);
  const auto like = recent.like("a", kSystem + "[1,2]" + kTools);
  ASSERT_TRUE(like);
  EXPECT_EQ(like->ordinal, first);
  EXPECT_EQ(like->prefix, kSystem.size() + 2);
  EXPECT_EQ(like->suffix, kTools.size() + 1);
}

TEST(RecentBodiesTest, BeginningAndEndDoNotOverlap) {
  Recent recent;
  recent.sent("a", Bytes(2000, 'x'));
  for (const size_t size : {1500, 2000, 5000}) {
    const auto like = recent.like("a", Bytes(size, 'x'));
    ASSERT_TRUE(like) << size;
    EXPECT_EQ(like->prefix + like->suffix, std::min<size_t>(size, 2000));
  }
}

TEST(RecentBodiesTest, LittleInCommonIsNotWorthTelling) {
  Recent recent;
  recent.sent("a", kSystem);
  EXPECT_FALSE(recent.like("a", Bytes(1023, 's')));
  EXPECT_TRUE(recent.like("a", Bytes(1024, 's')));
  EXPECT_FALSE(recent.like("a", kTools));
}

TEST(RecentBodiesTest, ASessionIsComparedWithItselfAndANewOneWithTheLast) {
  Recent recent;
  const uint64_t main = recent.sent("main", kSystem);
  const uint64_t side = recent.sent("side", kTools);
  EXPECT_EQ(recent.like("main", kSystem)->ordinal, main);
  EXPECT_EQ(recent.like("side", kTools)->ordinal, side);
  EXPECT_EQ(recent.like("new", kTools)->ordinal, side);
  EXPECT_FALSE(recent.like("new", kSystem));
}

TEST(RecentBodiesTest, OldSessionsAndLargeBodiesMakeRoom) {
  Recent recent;
  recent.sent("first", kSystem);
  for (int i = 0; i < 7; ++i) recent.sent("s" + std::to_string(i), kTools);
  EXPECT_TRUE(recent.like("first", kSystem));
  recent.sent("s7", kTools);
  EXPECT_FALSE(recent.like("first", kSystem));
  // What is over the limit by itself is not kept, and what was kept goes with it.
  recent.sent("large", Bytes(9 << 20, 'x'));
  EXPECT_FALSE(recent.like("large", Bytes(9 << 20, 'x')));
  EXPECT_FALSE(recent.like("s7", kTools));
  recent.sent("s7", kTools);
  EXPECT_TRUE(recent.like("s7", kTools));
}

TEST(RecentBodiesTest, WhatWasPutAwayIsComparedAndTakesNoMemory) {
  struct Elsewhere : llm::Body::Store {
    Result<Bytes> read() const override { return kSystem; }
  };
  const auto store = std::make_shared<Elsewhere>();
  Recent recent;
  const uint64_t first = recent.sent("a", kSystem, store);
  const uint64_t second = recent.sent("b", kTools);
  EXPECT_TRUE(recent.put_away(first)) << "one is younger";
  EXPECT_EQ(total, kTools.size());
  EXPECT_TRUE(recent.put_away(second)) << "nobody else keeps the second yet";
  EXPECT_EQ(total, kTools.size());
  EXPECT_FALSE(recent.put_away_before({"b", ""}));
  const auto body = recent.put_away_before({"a", ""});
  ASSERT_TRUE(body);
  EXPECT_FALSE(recent.like("a", kSystem + "more")) << "before it was read again";
  {
    const auto held = *body->bytes();
    EXPECT_FALSE(recent.put_away_before({"a", ""}));
    const auto like = recent.like("a", kSystem + "more");
    ASSERT_TRUE(like);
    EXPECT_EQ(like->ordinal, first);
    EXPECT_EQ(like->prefix, kSystem.size());
  }
  EXPECT_FALSE(recent.like("a", kSystem));
  recent.sent("a", kSystem);
  EXPECT_EQ(total, kTools.size() + kSystem.size());
}

TEST(RecentBodiesTest, AllOfAGateHaveALimitTogether) {
  {
    Recent one, other;
    one.sent("a", kSystem);
    other.sent("a", kTools);
    EXPECT_EQ(total, kSystem.size() + kTools.size());
    one.sent("a", kTools);
    EXPECT_EQ(total, 2 * kTools.size());
    total += uint64_t{1} << 29;  // what others hold
    one.sent("b", kSystem);
    EXPECT_FALSE(one.like("b", kSystem));
    EXPECT_TRUE(one.like("a", kTools));
    total -= uint64_t{1} << 29;
    one.sent("b", kSystem);
    EXPECT_TRUE(one.like("b", kSystem));
  }
  EXPECT_EQ(total, 0u);
}

}  // namespace
}  // namespace sluice::gate
