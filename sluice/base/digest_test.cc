#include "sluice/base/digest.h"

#include <gtest/gtest.h>

#include <unordered_set>

namespace sluice {
namespace {

TEST(DigestTest, Xxh3IsStableAndTellsBytesApart) {
  // The published value for empty input, seed 0.
  EXPECT_EQ(xxh3_128("").hex(), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(xxh3_128(ByteView()), xxh3_128(""));
  EXPECT_EQ(xxh3_128("abc"), xxh3_128("abc"));
  EXPECT_NE(xxh3_128("abc"), xxh3_128("abd"));
  EXPECT_NE(xxh3_128(Bytes(100'000, 'a')), xxh3_128(Bytes(100'001, 'a')));
  std::unordered_set<Digest> seen{xxh3_128("a"), xxh3_128("b"), xxh3_128("a")};
  EXPECT_EQ(seen.size(), 2u);
}

TEST(DigestTest, Sha256MatchesFips180) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(DigestTest, HmacMatchesRfc4231) {
  EXPECT_EQ(to_hex(hmac_sha256("Jefe", "what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  // A key longer than the hash's block is hashed first.
  EXPECT_EQ(to_hex(hmac_sha256(Bytes(131, '\xAA'),
                               "Test Using Larger Than Block-Size Key - Hash Key First")),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

TEST(DigestTest, AKeyThatIsWorkedInOnceSignsManyMessages) {
  const HmacSha256 key("Jefe");
  for (int i = 0; i < 2; ++i) {
    const auto signature = key.sign("what do ya want for nothing?");
    EXPECT_EQ(to_hex({signature.data(), signature.size()}),
              "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  }
  EXPECT_NE(key.sign(""), HmacSha256("jefe").sign(""));
}

TEST(DigestTest, HmacOfNothingUnderNothing) {
  const std::string expected = "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad";
  EXPECT_EQ(to_hex(hmac_sha256("", "")), expected);
  EXPECT_EQ(to_hex(hmac_sha256(ByteView(), ByteView())), expected);
}

TEST(DigestTest, ConstantTimeEqualityIsEquality) {
  EXPECT_TRUE(equal_in_constant_time("", ""));
  EXPECT_TRUE(equal_in_constant_time(ByteView(), ByteView()));
  EXPECT_TRUE(equal_in_constant_time("secret", "secret"));
  EXPECT_FALSE(equal_in_constant_time("secret", "secres"));
  EXPECT_FALSE(equal_in_constant_time("secret", "tecret"));
  EXPECT_FALSE(equal_in_constant_time("secret", "secre"));
  EXPECT_FALSE(equal_in_constant_time("", "x"));
}

}  // namespace
}  // namespace sluice
