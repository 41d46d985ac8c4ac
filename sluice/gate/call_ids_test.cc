#include "sluice/gate/call_ids.h"

#include <gtest/gtest.h>

namespace sluice::gate {
namespace {

TEST(CallIdsTest, KnowsItsOwn) {
  const CallIds ids;
  const CallId id = ids.fresh();
  EXPECT_TRUE(is_valid_id(id.value)) << id.value;
  EXPECT_TRUE(ids.is_ours(id));
  EXPECT_NE(ids.fresh(), id);
}

TEST(CallIdsTest, RefusesForgedOnes) {
  const CallIds ids;
  const std::string good = ids.fresh().value;
  for (size_t i = 0; i < good.size(); ++i) {
    std::string forged = good;
    forged[i] = forged[i] == '0' ? '1' : '0';
    EXPECT_FALSE(ids.is_ours({forged})) << i;
  }
  for (const auto& other : {std::string(), std::string("x"), good + "0", good.substr(1),
                            std::string(61, '.'), std::string(61, '\0')}) {
    EXPECT_FALSE(ids.is_ours({other}));
  }
}

// There is no way to give a gate an empty or a guessable key: it makes its own.
TEST(CallIdsTest, finding_06_every_gate_has_a_key_of_its_own) {
  const CallIds one, other;
  EXPECT_FALSE(one.is_ours(other.fresh()));
  EXPECT_FALSE(other.is_ours(one.fresh()));
}

}  // namespace
}  // namespace sluice::gate
