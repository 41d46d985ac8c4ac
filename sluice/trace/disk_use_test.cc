// What a rollout has written to the disk, as its recorder counts it.
#include <gtest/gtest.h>

#include <filesystem>

#include "sluice/base/id.h"
#include "sluice/llm/answer.h"
#include "sluice/trace/jsonl.h"
#include "sluice/trace/testing.h"

namespace sluice::trace {
namespace {

class DiskUseTest : public ::testing::Test {
 protected:
  ~DiskUseTest() override { std::filesystem::remove_all(directory_); }

  std::shared_ptr<llm::Call> call(Bytes body, std::optional<llm::Likeness> like = {}) {
    auto call = std::make_shared<llm::Call>();
    call->id = {"c" + std::to_string(++calls_)};
    call->rollout = rollout_;
    call->ordinal = calls_;
    call->like = like;
    call->body = llm::Body(std::make_shared<const Bytes>(std::move(body)));
    return call;
  }

  uint64_t on_disk() const {
    return std::filesystem::file_size(directory_ + "/r1.jsonl") +
           std::filesystem::file_size(directory_ + "/r1.bodies");
  }

  const std::string directory_ = ::testing::TempDir() + "/disk-use-" + random_hex(8);
  const RolloutId rollout_{"r1"};
  const std::shared_ptr<DiskUse> disk_ = std::make_shared<DiskUse>();
  uint64_t calls_ = 0;
};

TEST_F(DiskUseTest, ItIsWhatTheFilesHave) {
  JsonlRecorder recorder(directory_, Logger());
  RolloutInfo info;
  info.disk = disk_;
  recorder.opened(rollout_, info);
  const auto first = call(Bytes(100'000, 'a'));
  recorder.arrived(*first);
  recorder.answered(*first, llm::text_answer(std::string(5000, 'b'), llm::Origin::kCanned));
  recorder.event(rollout_, {"agent", "{\"text\":\"x\"}"});
  ASSERT_TRUE(testing::flush(recorder, rollout_));
  // Of a body that repeats an earlier one only what is new.
  const auto second = call(Bytes(100'000, 'a') + Bytes(10, 'c'), llm::Likeness{1, 100'000, 0});
  recorder.arrived(*second);
  ASSERT_TRUE(testing::flush(recorder, rollout_));
  EXPECT_EQ(disk_->bytes.load(), on_disk());
  EXPECT_LT(disk_->bytes.load(), 120'000u);
}

TEST_F(DiskUseTest, NobodyNeedCount) {
  JsonlRecorder recorder(directory_, Logger());
  recorder.opened(rollout_, {});
  recorder.arrived(*call("{}"));
  EXPECT_TRUE(testing::flush(recorder, rollout_));
}

}  // namespace
}  // namespace sluice::trace
