#include "sluice/net/call_on.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "sluice/net/testing.h"

namespace sluice::net {
namespace {

awaitable<std::string> where(Shard* expected, std::string text) {
  co_return text + (expected->on_thread() ? " there" : " elsewhere");
}
awaitable<int> fail() {
  throw std::runtime_error("broken");
  co_return 0;
}
awaitable<std::string> wait_until(Signal* signal) {
  co_await signal->wait();
  co_return "ended";
}

class CallOnTest : public ::testing::Test {
 protected:
  CallOnTest() { there_.start(); }
  ~CallOnTest() override { there_.stop(); }

  Shard here_{0};
  Shard there_{1};
};

TEST_F(CallOnTest, brings_the_result_back) {
  std::function<awaitable<std::string>()> make = [this] {
    return where(&there_, "ran");
  };
  EXPECT_EQ(testing::run(here_, call_on<std::string>(&there_, &here_, make, nullptr)), "ran there");
}

TEST_F(CallOnTest, brings_exceptions_back) {
  std::function<awaitable<int>()> make = fail;
  EXPECT_THROW(testing::run(here_, call_on<int>(&there_, &here_, make, nullptr)),
               std::runtime_error);
}

awaitable<void> call_and_keep(Shard* there, Shard* here,
                              std::function<awaitable<std::string>()> make,
                              std::function<void()> cancel, std::string* result) {
  *result = co_await call_on<std::string>(there, here, std::move(make), std::move(cancel));
}

TEST_F(CallOnTest, a_cancelled_caller_ends_the_work_and_waits_for_it) {
  Signal stop;  // the other shard's
  std::string result;
  TaskGroup group(here_.executor());
  group.spawn(call_and_keep(
      &there_, &here_, [&stop] { return wait_until(&stop); }, [&stop] { stop.notify(); }, &result));
  here_.post([&] { group.cancel(); });
  testing::run(here_, group.join());
  EXPECT_EQ(result, "ended");
}

}  // namespace
}  // namespace sluice::net
