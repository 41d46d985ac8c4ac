#include "sluice/gate/outage_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Kind = Outage::Kind;
using Time = Clock::time_point;

constexpr Duration kLease = 60s;
constexpr uint64_t kOne = 1, kTwo = 2, kThree = 3;

Time at(Duration since_start) {
  return Time(1h) + since_start;
}
constexpr Time kNever = Time::min();

std::optional<Kind> kind_of(const std::optional<Outage>& outage) {
  return outage ? std::optional(outage->kind) : std::nullopt;
}

// --- Trainers ------------------------------------------------------------------------------------

TEST(OutageWatchTest, a_call_that_waits_for_a_silent_trainer_is_an_outage) {
  OutageWatch watch;
  watch.asked(kOne, at(0s));
  watch.ended(at(60s));
  const auto outage = watch.trainer(kNever, kLease);
  ASSERT_EQ(kind_of(outage), Kind::kNoTrainer);
  EXPECT_EQ(outage->since, at(0s));
  EXPECT_EQ(watch.trainer(at(-10s), kLease)->since, at(0s));
}

TEST(OutageWatchTest, any_sign_of_life_within_the_lease_is_none) {
  OutageWatch watch;
  watch.asked(kOne, at(0s));
  watch.ended(at(100s));
  EXPECT_EQ(kind_of(watch.trainer(at(40s), kLease)), Kind::kNoTrainer);
  EXPECT_EQ(watch.trainer(at(40s), kLease)->since, at(40s));
  EXPECT_FALSE(watch.trainer(at(40s) + 1ns, kLease));
  EXPECT_FALSE(watch.trainer(at(100s), kLease));
}

// Else an agent would void itself by a call that it does not wait for, while a trainer is busy.
TEST(OutageWatchTest, the_call_must_have_waited_for_the_lease_itself) {
  OutageWatch watch;
  watch.asked(kOne, at(0s));
  watch.ended(at(59s));
  EXPECT_FALSE(watch.trainer(kNever, kLease));
}

TEST(OutageWatchTest, without_a_call_there_is_none) {
  OutageWatch watch;
  watch.ended(at(1000s));
  EXPECT_FALSE(watch.trainer(kNever, kLease));
  EXPECT_FALSE(watch.upstream());
}

TEST(OutageWatchTest, an_answered_call_is_none_though_the_trainer_dies_then) {
  OutageWatch watch;
  watch.asked(kOne, at(0s));
  watch.answered(kOne);
  watch.ended(at(1000s));
  EXPECT_FALSE(watch.trainer(at(1s), kLease));
}

TEST(OutageWatchTest, a_later_answer_is_a_recovery) {
  OutageWatch watch;
  watch.asked(kOne, at(0s));
  watch.left(kOne);  // its agent did not come back
  watch.asked(kTwo, at(70s));
  watch.answered(kTwo);
  watch.ended(at(1000s));
  EXPECT_FALSE(watch.trainer(at(80s), kLease));
}

TEST(OutageWatchTest, a_call_that_its_agent_left_counts_and_so_do_several) {
  OutageWatch watch;
  watch.asked(kOne, at(0s));
  watch.left(kOne);
  watch.asked(kTwo, at(50s));
  watch.left(kTwo);
  watch.asked(kThree, at(61s));
  watch.ended(at(62s));
  ASSERT_EQ(kind_of(watch.trainer(kNever, kLease)), Kind::kNoTrainer);
  EXPECT_EQ(watch.trainer(kNever, kLease)->since, at(0s));
}

// An answer to one of several calls that are open is no answer to the others.
TEST(OutageWatchTest, calls_beside_each_other) {
  OutageWatch watch;
  watch.asked(kOne, at(0s));
  watch.asked(kTwo, at(1s));
  watch.answered(kTwo);
  watch.ended(at(100s));
  EXPECT_EQ(kind_of(watch.trainer(at(2s), kLease)), Kind::kNoTrainer);
}

TEST(OutageWatchTest, replies_that_never_fit_are_an_outage_of_a_living_trainer) {
  OutageWatch watch;
  watch.asked(kOne, at(0s));
  watch.rejected(kOne, at(10s), "no ids");
  watch.rejected(kOne, at(20s), "no logprobs");
  watch.ended(at(70s));
  const auto outage = watch.trainer(at(70s), kLease);
  ASSERT_EQ(kind_of(outage), Kind::kRejected);
  EXPECT_EQ(outage->since, at(10s));
  EXPECT_EQ(outage->why, "no ids");
}

TEST(OutageWatchTest, a_rejection_that_is_not_the_leases_length_ago_is_none) {
  OutageWatch watch;
  watch.asked(kOne, at(0s));
  watch.rejected(kOne, at(10s) + 1ns, "no ids");
  watch.ended(at(70s));
  EXPECT_FALSE(watch.trainer(at(70s), kLease));
}

TEST(OutageWatchTest, a_rejected_reply_and_a_good_one_is_none) {
  OutageWatch watch;
  watch.asked(kOne, at(0s));
  watch.rejected(kOne, at(10s), "no ids");
  watch.answered(kOne);
  watch.asked(kTwo, at(500s));
  watch.ended(at(510s));
  EXPECT_FALSE(watch.trainer(at(509s), kLease));
}

TEST(OutageWatchTest, what_is_told_behind_the_end_does_not_count) {
  OutageWatch watch;
  watch.asked(kOne, at(0s));
  watch.ended(at(100s));
  watch.answered(kOne);
  watch.asked(kTwo, at(101s));
  watch.rejected(kTwo, at(101s), "no ids");
  watch.failed(kTwo, at(101s), "refused");
  watch.left(kTwo);
  watch.ended(at(1000s));
  const auto outage = watch.trainer(kNever, kLease);
  ASSERT_EQ(kind_of(outage), Kind::kNoTrainer);
  EXPECT_FALSE(watch.trainer(at(50s), kLease)) << "it ended at 100 s";
}

// --- Upstreams -----------------------------------------------------------------------------------

TEST(OutageWatchTest, failures_count_from_the_first_behind_the_last_answer) {
  OutageWatch watch;
  watch.asked(kOne, at(0s));
  watch.failed(kOne, at(1s), "status 500");
  watch.asked(kTwo, at(2s));
  watch.answered(kTwo);
  for (const uint64_t call : {kOne, kThree}) {
    watch.asked(call, at(10s));
    watch.failed(call, at(call == kOne ? 11s : 20s), call == kOne ? "status 429" : "refused");
  }
  watch.ended(at(21s));
  const auto outage = watch.upstream();
  ASSERT_EQ(kind_of(outage), Kind::kUpstream);
  EXPECT_EQ(outage->since, at(11s));
  EXPECT_EQ(outage->why, "refused");
}

TEST(OutageWatchTest, an_upstream_that_says_nothing_is_suspected_too) {
  OutageWatch watch;
  watch.asked(kOne, at(5s));
  watch.ended(at(100s));
  ASSERT_TRUE(watch.upstream());
  EXPECT_EQ(watch.upstream()->since, at(5s));
  EXPECT_EQ(watch.upstream()->why, "");
}

TEST(OutageWatchTest, an_upstream_that_answered_last_is_not) {
  OutageWatch watch;
  watch.asked(kOne, at(0s));
  watch.failed(kOne, at(1s), "status 500");
  watch.asked(kTwo, at(2s));
  watch.answered(kTwo);
  watch.ended(at(100s));
  EXPECT_FALSE(watch.upstream());
}

TEST(OutageWatchTest, calls_that_were_not_asked_are_passed_over) {
  OutageWatch watch;
  watch.failed(kOne, at(1s), "a title's");
  watch.left(kTwo);
  watch.ended(at(100s));
  EXPECT_FALSE(watch.upstream());
  OutageWatch other;
  other.asked(kOne, at(0s));
  other.answered(kTwo);  // the gate itself answered it
  other.ended(at(100s));
  EXPECT_TRUE(other.upstream());
}

TEST(ServedLogTest, tells_whether_others_were_served_since) {
  ServedLog log;
  const RolloutId mine{"mine"}, other{"other"}, third{"third"};
  EXPECT_FALSE(log.others_served("u", mine, at(0s)));
  log.served("u", mine, at(1s));
  EXPECT_FALSE(log.others_served("u", mine, at(0s)));
  EXPECT_TRUE(log.others_served("u", other, at(1s)));
  EXPECT_FALSE(log.others_served("u", other, at(1s) + 1ns));
  EXPECT_FALSE(log.others_served("another", other, at(0s)));
  log.served("u", other, at(2s));
  log.served("u", mine, at(3s));
  log.served("u", mine, at(4s));
  EXPECT_TRUE(log.others_served("u", mine, at(2s)));
  EXPECT_FALSE(log.others_served("u", mine, at(3s)));
  log.served("u", third, at(5s));
  EXPECT_TRUE(log.others_served("u", third, at(4s)));
}

TEST(ServedLogTest, is_bounded_and_forgets_the_oldest) {
  ServedLog log;
  const RolloutId one{"one"}, other{"other"};
  for (size_t i = 0; i < ServedLog::kMost + 1; ++i) {
    log.served("u" + std::to_string(i), one, at(std::chrono::seconds(i)));
  }
  EXPECT_FALSE(log.others_served("u0", other, at(0s)));
  EXPECT_TRUE(log.others_served("u1", other, at(0s)));
}

// --- In words ------------------------------------------------------------------------------------

TEST(OutageTextTest, says_what_it_was_since_when_and_what_to_do) {
  const auto wall = std::chrono::system_clock::time_point(12h + 90s);
  const auto told = [&](Kind kind, std::string why) {
    const Outage outage{kind, at(0s), std::move(why)};
    return describe(outage, "http://127.0.0.1:8000/v1", "status 503", at(89s), wall);
  };
  EXPECT_EQ(
      told(Kind::kUpstream, "status 500"),
      "the upstream at http://127.0.0.1:8000/v1 failed this rollout's calls (status 500) from "
      "12:00:01 UTC until the agent ended, and failed the gate's own request to "
      "http://127.0.0.1:8000/v1/models too (status 503): start it, give it more room, or name "
      "one that answers");
  EXPECT_THAT(told(Kind::kUpstream, ""), HasSubstr("/v1 did not answer from 12:00:01 UTC"));
  EXPECT_THAT(told(Kind::kNoTrainer, ""),
              AllOf(HasSubstr("nothing was heard of a trainer from 12:00:01 UTC until"),
                    HasSubstr("start the trainer")));
  EXPECT_THAT(told(Kind::kRejected, "no ids"), AllOf(HasSubstr("rejected from 12:00:01 UTC"),
                                                     HasSubstr("the first because of no ids"),
                                                     HasSubstr("mend what the trainer replies")));
}

}  // namespace
}  // namespace sluice::gate
