#include "sluice/gate/keys.h"

#include <gtest/gtest.h>

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;

constexpr RolloutKeys::Time kNow{1'800'000'000s};

TEST(RolloutKeysTest, AKeyNamesItsRegistrationUntilItExpires) {
  const RolloutKeys keys;
  // Dots in an id do not confuse it, and the longest one fits.
  for (const std::string& id : {std::string("r0"), std::string("a.b.c"),
                                std::string("018f.1700000000"), std::string(64, 'x')}) {
    const auto holder = RolloutKeys::fresh_holder({id});
    const std::string key = keys.make(holder, kNow + 10s);
    const auto found = keys.check(key, kNow);
    ASSERT_TRUE(found) << id;
    EXPECT_EQ(found->rollout.value, id);
    EXPECT_TRUE(found->is(holder));
    EXPECT_TRUE(keys.check(key, kNow + 9s));
    const auto late = keys.check(key, kNow + 10s);
    ASSERT_FALSE(late);
    EXPECT_EQ(late.error().code, ErrorCode::kUnauthenticated);
  }
}

TEST(RolloutKeysTest, AnIdRegisteredAgainIsAnotherHolder) {
  const auto first = RolloutKeys::fresh_holder({"r0"}), second = RolloutKeys::fresh_holder({"r0"});
  EXPECT_TRUE(first.is(first));
  EXPECT_FALSE(first.is(second));
  EXPECT_FALSE(first.is({{"r1"}, first.registration}));
}

TEST(RolloutKeysTest, finding_50_a_forged_or_foreign_key_opens_nothing) {
  const RolloutKeys keys, others;
  const std::string key = keys.make(RolloutKeys::fresh_holder({"r0"}), kNow + 10s);
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
