#include "sluice/net/content_coding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sluice/net/coded_testing.h"

namespace sluice::net {
namespace {

using ::testing::HasSubstr;

constexpr size_t kMax = 1 << 20;

ErrorCode refused(std::string_view coding, ByteView coded, size_t max = kMax) {
  const auto body = decode_content(coding, coded, max);
  EXPECT_FALSE(body) << coding << " of " << coded.size();
  return body ? ErrorCode() : body.error().code;
}

TEST(ContentCodingTest, BodiesAreWhatTheyWere) {
  for (const auto& [coding, bytes] : testing::coded_question()) {
    const auto body = decode_content(coding, bytes, kMax);
    ASSERT_TRUE(body) << coding;
    EXPECT_EQ(*body, testing::kCodedQuestion) << coding;
    EXPECT_GE(body->capacity(), body->size() + 64) << coding;
  }
  for (const auto& [coding, bytes] : testing::coded_filler()) {
    EXPECT_EQ(decode_content(coding, bytes, kMax), Bytes(100'000, 'x')) << coding;
  }
}

TEST(ContentCodingTest, NamesAreOfAnyCase) {
  for (const char* name : {"gzip", "GZIP", "x-gzip", "zstd", "Zstd", "br", "BR"}) {
    EXPECT_TRUE(is_content_coding(name)) << name;
  }
  for (const char* name : {"", "identity", "deflate", "compress", "gzip, br", "gzip ", "zst"}) {
    EXPECT_FALSE(is_content_coding(name)) << name;
  }
  EXPECT_TRUE(decode_content("X-GZIP", testing::coded_question()[0].bytes, kMax));
}

TEST(ContentCodingTest, NoMoreIsMadeThanMayCome) {
  for (const auto& [coding, bytes] : testing::coded_filler()) {
    EXPECT_TRUE(decode_content(coding, bytes, 100'000)) << coding;
    for (const size_t max : {0u, 1u, 1000u, 65'536u, 99'999u}) {
      EXPECT_EQ(refused(coding, bytes, max), ErrorCode::kTooLarge) << coding << " " << max;
    }
    EXPECT_THAT(decode_content(coding, bytes, 1000).error().message, HasSubstr("over 1000 bytes"));
  }
}

TEST(ContentCodingTest, WhatIsCutOffOrOfAnotherCodingIsRefused) {
  const auto samples = testing::coded_question();
  for (const auto& [coding, bytes] : samples) {
    for (size_t size = 0; size < bytes.size(); ++size) {
      EXPECT_EQ(refused(coding, ByteView(bytes).substr(0, size)), ErrorCode::kInvalidArgument)
          << size;
    }
    EXPECT_EQ(refused(coding, testing::kCodedQuestion), ErrorCode::kInvalidArgument);
    for (const auto& other : samples) {
      if (other.coding == coding) continue;
      EXPECT_EQ(refused(coding, other.bytes), ErrorCode::kInvalidArgument) << other.coding;
    }
  }
}

// What was compressed twice is not taken off twice: its size is bounded once.
TEST(ContentCodingTest, OneCodingIsTakenOffNotMore) {
  // gzip of the gzip of "{}".
  const Bytes twice = *from_base64("H4sIAAAAAAACA5Pv5mAAASbm1etYGZz3L1vMBOQBAGPkxh8WAAAA");
  const auto once = decode_content("gzip", twice, kMax);
  ASSERT_TRUE(once);
  EXPECT_EQ(once->substr(0, 2), "\x1f\x8b");
  EXPECT_EQ(decode_content("gzip", *once, kMax), "{}");
}

}  // namespace
}  // namespace sluice::net
