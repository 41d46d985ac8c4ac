// For tests of traces in files: a directory for one rollout's, calls to record, and the trace as it
// is read back.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "sluice/base/core/fd.h"
#include "sluice/trace/reader.h"
#include "sluice/trace/testing.h"

namespace sluice::trace::testing {

class TraceTest : public ::testing::Test {
 protected:
  TraceTest() {
    std::string pattern = ::testing::TempDir() + "sluice-test-trace-XXXXXX";
    base_ = ::mkdtemp(pattern.data());
    directory_ = base_ + "/a/b";
  }
  ~TraceTest() override { std::filesystem::remove_all(base_); }

  std::shared_ptr<llm::Call> call(Bytes body) {
    auto call = std::make_shared<llm::Call>();
    call->id = CallId::fresh();
    call->rollout = rollout_;
    call->model = "m\"1";
    call->ordinal = ++calls_;
    call->stream = true;
    call->session = {"ses_1", "ses_0"};
    call->digest = xxh3_128(body);
    call->body = llm::Body(std::make_shared<const Bytes>(std::move(body)));
    return call;
  }

  // All that was told to `recorder`.
  Trace load_trace(Recorder& recorder) {
    EXPECT_TRUE(flush(recorder, rollout_));
    return load_trace();
  }
  Trace load_trace() {
    auto trace = load(directory_ + "/" + rollout_.value + ".jsonl");
    EXPECT_TRUE(trace) << trace.error().message;
    return trace.value_or(Trace());
  }
  Bytes lines(Recorder& recorder) {
    EXPECT_TRUE(flush(recorder, rollout_));
    return lines();
  }
  Bytes lines() { return *read_file(directory_ + "/" + rollout_.value + ".jsonl", 1 << 20); }

  std::string base_;
  std::string directory_;
  RolloutId rollout_{"r1"};
  uint64_t calls_ = 0;
};

}  // namespace sluice::trace::testing
