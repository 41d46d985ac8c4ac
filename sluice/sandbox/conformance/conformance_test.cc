// The suite on local sandboxes: as whoever runs the tests; as an ordinary user by ctest entries of
// their own (CMakeLists.txt).
#include "sluice/sandbox/conformance/conformance.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include "sluice/net/shard.h"
#include "sluice/net/testing.h"
#include "sluice/sandbox/local/local.h"
#include "sluice/sandbox/testing.h"

namespace sluice::sandbox::conformance {
namespace {

class ConformanceTest : public ::testing::TestWithParam<std::string> {};

TEST_P(ConformanceTest, LocalSandboxesConform) {
  auto passing = local::Backend::start();
  ASSERT_TRUE(passing) << passing.error().message;
  local::BackendOptions carry;
  carry.carry_connections = true;
  auto carrying = local::Backend::start(carry);
  ASSERT_TRUE(carrying) << carrying.error().message;
  {
    net::Shard shard;
    auto probe = net::testing::run(shard, (*passing)->create(&shard, sandbox::Options()));
    if (!probe && probe.error().code == ErrorCode::kUnsupported) {
      SLUICE_CANNOT_BE_TESTED(probe.error().message);
    }
    ASSERT_TRUE(probe) << probe.error().message;
    ASSERT_TRUE(net::testing::run(shard, (*probe)->close()));
  }
  Options options;
  options.backend = passing->get();
  options.carrying = carrying->get();
  options.matching = GetParam() + ".";
  if (std::getenv("SLUICE_SLOW") != nullptr) options.size = Options::Size::kWhole;
  size_t told = 0;
  const auto outcomes = run(options, [&](const Outcome& outcome) {
    ++told;
    if (outcome.state == Outcome::State::kFailed) {
      ADD_FAILURE() << outcome.area << "." << outcome.name << ":\n" << outcome.why;
    }
    if (outcome.state == Outcome::State::kSkipped) {
      std::cout << "skipped " << outcome.name << ": " << outcome.why << "\n";
    }
  });
  EXPECT_EQ(outcomes.size(), told);
  EXPECT_GE(outcomes.size(), 10u);
}

INSTANTIATE_TEST_SUITE_P(Areas, ConformanceTest, ::testing::ValuesIn(areas()),
                         [](const auto& area) { return area.param; });

}  // namespace
}  // namespace sluice::sandbox::conformance
