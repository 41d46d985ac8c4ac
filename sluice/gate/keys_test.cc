#include "sluice/gate/keys.h"

#include <gtest/gtest.h>

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;

constexpr RolloutKeys::Time kNow{1'800'000'000s};

TEST(RolloutKeysTest, AKeyNamesItsRolloutUntilItExpires) {
  const RolloutKeys keys;
  // Dots in an id do not confuse it.
  for (const char* id : {"r0", "a.b.c", "018f.1700000000"}) {
    const std::string key = keys.make({id}, kNow + 10s);
    EXPECT_EQ(keys.check(key, kNow)->value, id);
    EXPECT_EQ(keys.check(key, kNow + 9s)->value, id);
    const auto late = keys.check(key, kNow + 10s);
    ASSERT_FALSE(late);
    EXPECT_EQ(late.error().code, ErrorCode::kUnauthenticated);
  }
}

TEST(RolloutKeysTest, finding_50_a_forged_or_foreign_key_opens_nothing) {
  const RolloutKeys keys, others;
  const std::string key = keys.make({"r0"}, kNow + 10s);
  EXPECT_FALSE(others.check(key, kNow));
  for (size_t i = 0; i < key.size(); ++i) {
    std::string forged = key;
    forged[i] = forged[i] == 'a' ? 'b' : 'a';
    EXPECT_FALSE(keys.check(forged, kNow)) << i;
    EXPECT_FALSE(keys.check(key.substr(0, i), kNow)) << i;
  }
  EXPECT_FALSE(keys.check(key + "0", kNow));
  EXPECT_FALSE(keys.check("", kNow));
  EXPECT_FALSE(keys.check(std::string(100'000, '.'), kNow));
  // Another rollout's name, or a later end, under the same signature.
  EXPECT_FALSE(keys.check("sluice.r1" + key.substr(9), kNow));
}

}  // namespace
}  // namespace sluice::gate
