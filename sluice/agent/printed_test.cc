#include "sluice/agent/printed.h"

#include <gtest/gtest.h>

#include "sluice/net/testing.h"

namespace sluice::agent {
namespace {

class PrintedTest : public ::testing::Test {
 protected:
  PrintedTest() { place_.files = std::make_shared<net::BlockingPool>(1); }

  void add(Printed& printed, Bytes piece) {
    net::testing::run(shard_, printed.add(std::move(piece)));
  }
  Bytes all(const std::shared_ptr<const sandbox::Spool>& spool) {
    return *net::testing::run(shard_, spool->read(0, 1 << 24));
  }

  net::Shard shard_;
  OutputPlace place_;
};

TEST_F(PrintedTest, WhatIsLittleIsHeldAndWhatIsMuchIsInAFile) {
  Printed printed(&place_);
  const Bytes little(Printed::kTail, 'a');
  add(printed, little);
  EXPECT_EQ(printed.tail(), little);
  EXPECT_EQ(printed.whole(), nullptr);
  add(printed, "b");
  add(printed, "");
  add(printed, Bytes(200'000, 'c') + "end");
  ASSERT_NE(printed.whole(), nullptr);
  EXPECT_EQ(all(printed.whole()), little + "b" + Bytes(200'000, 'c') + "end");
  EXPECT_EQ(printed.tail(), Bytes(Printed::kTail - 3, 'c') + "end");
  EXPECT_EQ(printed.lost(), "");
}

TEST_F(PrintedTest, OnePieceMayBeMuch) {
  Printed printed(&place_);
  add(printed, Bytes(1 << 20, 'x'));
  EXPECT_EQ(printed.whole()->size(), 1u << 20);
  EXPECT_EQ(printed.tail().size(), Printed::kTail);
}

TEST_F(PrintedTest, WithoutAPlaceOnlyTheEndIsKept) {
  const OutputPlace none;
  for (const OutputPlace* place : {&none, static_cast<const OutputPlace*>(nullptr)}) {
    Printed printed(place);
    add(printed, Bytes(1 << 20, 'x') + "end");
    EXPECT_EQ(printed.whole(), nullptr);
    EXPECT_TRUE(printed.tail().ends_with("xend"));
    EXPECT_EQ(printed.lost(), "");
  }
}

TEST_F(PrintedTest, WhereThereIsNoRoomTheBeginningStaysAndItIsSaid) {
  uint64_t left = 300'000;
  place_.take = [&](uint64_t bytes) {
    if (bytes > left) return false;
    left -= bytes;
    return true;
  };
  Printed printed(&place_);
  for (int i = 0; i < 10; ++i) add(printed, Bytes(50'000, static_cast<char>('0' + i)));
  EXPECT_EQ(all(printed.whole()).size(), 300'000u);
  EXPECT_EQ(left, 0u);
  EXPECT_NE(printed.lost(), "");
  EXPECT_TRUE(printed.tail().ends_with('9'));
}

}  // namespace
}  // namespace sluice::agent
