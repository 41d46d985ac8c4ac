#include "sluice/base/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace sluice {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(MetricsTest, CountersAndGaugesAppearWithHelpTypeAndValue) {
  Metrics metrics;
  auto calls = metrics.counter("sluice_calls_total", "Calls admitted");
  auto open = metrics.gauge("sluice_open", "Open now");
  calls.add();
  calls.add(2);
  open.set(5);
  open.add(-1.5);
  const std::string text = metrics.text();
  EXPECT_THAT(text, HasSubstr("# HELP sluice_calls_total Calls admitted\n"
                              "# TYPE sluice_calls_total counter\n"
                              "sluice_calls_total 3\n"));
  EXPECT_THAT(text, HasSubstr("# TYPE sluice_open gauge\nsluice_open 3.5\n"));
}

TEST(MetricsTest, TheSameNameAndLabelsAreTheSameCounter) {
  Metrics metrics;
  metrics.counter("n", "help", {{"shard", "0"}}).add();
  metrics.counter("n", "help", {{"shard", "0"}}).add();
  metrics.counter("n", "help", {{"shard", "1"}}).add();
  EXPECT_THAT(metrics.text(), HasSubstr("n{shard=\"0\"} 2\n"));
  EXPECT_THAT(metrics.text(), HasSubstr("n{shard=\"1\"} 1\n"));
}

TEST(MetricsTest, LabelValuesAreEscaped) {
  Metrics metrics;
  metrics.counter("n", "help", {{"agent", "a\"b\\c\nd"}}).add();
  EXPECT_THAT(metrics.text(), HasSubstr("n{agent=\"a\\\"b\\\\c\\nd\"} 1\n"));
}

TEST(MetricsTest, TwoObjectsShareNothing) {
  Metrics first, second;
  first.counter("only_here", "help").add();
  EXPECT_THAT(second.text(), Not(HasSubstr("only_here")));
}

TEST(MetricsTest, AnyThreadMayCount) {
  Metrics metrics;
  auto counter = metrics.counter("n", "help");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([counter]() mutable {
      for (int i = 0; i < 1000; ++i) counter.add();
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(metrics.text(), HasSubstr("n 4000\n"));
}

}  // namespace
}  // namespace sluice
