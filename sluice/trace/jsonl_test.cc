#include "sluice/trace/jsonl.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "sluice/llm/answer.h"
#include "sluice/trace/files_testing.h"
#include "sluice/trace/memory.h"

namespace sluice::trace {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TraceTest;

TEST_F(TraceTest, ReadsBackWhatWasRecorded) {
  JsonlRecorder recorder(directory_, Logger());
  recorder.opened(rollout_,
                  {"hello", "opencode 1.18.33", "g1", "interception_gate", "script", "hello@2"});
  // Bytes that would break a line, if they stood in one.
  Bytes hostile("{\"model\":\"m\",\"x\":\"\n\r\n{\\\"type\\\":\\\"closed\\\"}\xFF");
  hostile.push_back('\0');
  const auto first = call(hostile);
  const auto second = call("{}");
  recorder.arrived(*first);
  recorder.event(rollout_, {"phase", "{\n \"phase\": \"setup\"\n}"});
  recorder.arrived(*second);
  llm::Answer answer = llm::text_answer("line\nbreak", llm::Origin::kSampled);
  answer.choices[0].ids = {1, 2};
  answer.choices[0].logprobs = {-0.25f, -1e-7f};
  recorder.answered(*first, answer);
  recorder.ended(*first, llm::Outcome::kDelivered, "");
  recorder.confirmed(*first);
  recorder.ended(*second, llm::Outcome::kRefused, "over the \"budget\"\n");
  recorder.event(rollout_, {"warning", "not json"});
  recorder.closed(rollout_, {0.5, "agent", "exit 1"});
  ASSERT_TRUE(testing::flush(recorder, rollout_));

  const Trace trace = load_trace();
  EXPECT_EQ(trace.broken_lines, 0u);
  EXPECT_EQ(trace.rollout, rollout_);
  EXPECT_EQ(trace.info.task, "hello");
  EXPECT_EQ(trace.info.agent, "opencode 1.18.33");
  EXPECT_EQ(trace.info.group, "g1");
  EXPECT_EQ(trace.info.name, "hello@2");
  EXPECT_EQ(trace.info.policy, "script");
  ASSERT_EQ(trace.calls.size(), 2u);
  const CallRecord& record = trace.calls[0];
  EXPECT_EQ(record.id, first->id);
  EXPECT_EQ(record.ordinal, 1u);
  EXPECT_EQ(record.model, "m\"1");
  EXPECT_EQ(record.session, first->session);
  EXPECT_TRUE(record.stream);
  EXPECT_EQ(record.digest, first->digest.hex());
  EXPECT_EQ(*trace.body(record), hostile);
  EXPECT_EQ(*trace.body(trace.calls[1]), "{}");
  ASSERT_TRUE(record.answer);
  EXPECT_EQ(record.answer->choices[0].message.text, "line\nbreak");
  EXPECT_EQ(record.answer->choices[0].logprobs, answer.choices[0].logprobs);
  EXPECT_EQ(record.outcome, llm::Outcome::kDelivered);
  EXPECT_TRUE(record.confirmed);
  EXPECT_LE(record.arrived_ms, record.answered_ms);
  EXPECT_THAT(record.arrived_at, ::testing::MatchesRegex("....-..-..T..:..:..\\.......Z"));
  EXPECT_EQ(trace.calls[1].outcome, llm::Outcome::kRefused);
  EXPECT_EQ(trace.calls[1].detail, "over the \"budget\"\n");
  EXPECT_FALSE(trace.calls[1].confirmed);
  ASSERT_EQ(trace.events.size(), 2u);
  EXPECT_EQ(trace.events[0].detail, "{  \"phase\": \"setup\" }");
  EXPECT_EQ(trace.events[1].detail, "\"not json\"");
  ASSERT_TRUE(trace.summary);
  EXPECT_EQ(trace.summary->reward, 0.5);
  EXPECT_EQ(trace.summary->error_kind, "agent");
}

class LikeBodiesTest : public TraceTest {
 protected:
  // A call whose body is that of `earlier` but for what stands between its first `prefix` and its
  // last `suffix` bytes.
  std::shared_ptr<llm::Call> like(const llm::Call& earlier, size_t prefix, Bytes middle,
                                  size_t suffix) {
    const Bytes before = **earlier.body.bytes();
    auto made = call(before.substr(0, prefix) + middle + before.substr(before.size() - suffix));
    made->like = llm::Likeness{earlier.ordinal, prefix, suffix};
    return made;
  }
  uint64_t bodies_size(Recorder& recorder) {
    EXPECT_TRUE(testing::flush(recorder, rollout_));
    return std::filesystem::file_size(directory_ + "/" + rollout_.value + ".bodies");
  }
  void expect_bodies(Recorder& recorder, const std::vector<std::shared_ptr<llm::Call>>& calls) {
    const Trace trace = load_trace(recorder);
    ASSERT_EQ(trace.calls.size(), calls.size());
    for (size_t i = 0; i < calls.size(); ++i) {
      const auto body = trace.body(trace.calls[i]);
      ASSERT_TRUE(body) << i << ": " << body.error().message;
      EXPECT_EQ(*body, **calls[i]->body.bytes()) << i;
    }
  }
};

TEST_F(LikeBodiesTest, WhatABodyRepeatsIsWrittenOnce) {
  JsonlRecorder recorder(directory_, Logger());
  const auto first = call("system,one]tools");
  const auto grown = like(*first, 10, ",two", 6);
  const auto again = like(*grown, 14, ",three", 6);
  const auto cut = like(*again, 6, "", 6);  // an agent that compacted its history
  const auto same = like(*cut, 12, "", 0);  // nothing new
  const auto other = call("something else");
  // Within one batch, and of one before.
  recorder.arrived(*first);
  recorder.arrived(*grown);
  ASSERT_TRUE(testing::flush(recorder, rollout_));
  for (const auto& one : {again, cut, same, other}) recorder.arrived(*one);
  EXPECT_EQ(bodies_size(recorder), 16u + 4 + 6 + 14);
  expect_bodies(recorder, {first, grown, again, cut, same, other});
}

TEST_F(LikeBodiesTest, ALikenessToWhatIsNotKnownIsNotUsed) {
  JsonlRecorder recorder(directory_, Logger());
  const auto first = call("0123456789");
  recorder.arrived(*first);
  auto stranger = call("0123456789");
  stranger->like = llm::Likeness{1000, 5, 5};
  auto overlapping = call("0123456789");
  overlapping->like = llm::Likeness{first->ordinal, 8, 8};
  recorder.arrived(*stranger);
  recorder.arrived(*overlapping);
  EXPECT_EQ(bodies_size(recorder), 30u);
  expect_bodies(recorder, {first, stranger, overlapping});
}

TEST_F(LikeBodiesTest, ALongConversationIsNowAndThenWrittenWhole) {
  JsonlRecorder recorder(directory_, Logger());
  std::vector<std::shared_ptr<llm::Call>> calls{call(Bytes(1000, 'a') + Bytes(1000, 'z'))};
  recorder.arrived(*calls[0]);
  size_t whole = calls[0]->body.size();
  for (int i = 0; i < 200; ++i) {
    const llm::Call& last = *calls.back();
    calls.push_back(like(last, last.body.size() - 1000, std::to_string(i), 1000));
    recorder.arrived(*calls.back());
    whole += calls.back()->body.size();
  }
  EXPECT_LT(bodies_size(recorder), whole / 20);
  const Trace trace = load_trace(recorder);
  for (const CallRecord& call : trace.calls) EXPECT_LE(call.body_parts.size(), 64u);
  expect_bodies(recorder, calls);
}

TEST_F(LikeBodiesTest, NothingRefersToWhatCouldNotBeWritten) {
  const auto disk = std::make_shared<testing::FullDisk>();
  JsonlRecorder recorder(directory_, Logger(), {.files = disk});
  recorder.opened(rollout_, {});
  const auto first = call(Bytes(20'000, 'x'));
  const auto after = like(*first, 20'000, "y", 0);
  disk->set_limit(4096);
  recorder.arrived(*first);
  EXPECT_FALSE(testing::flush(recorder, rollout_));
  disk->set_limit(UINT64_MAX);
  recorder.arrived(*after);
  EXPECT_TRUE(testing::flush(recorder, rollout_));
  const Trace trace = load_trace();
  ASSERT_EQ(trace.calls.size(), 2u);
  EXPECT_FALSE(trace.calls[0].has_body);
  EXPECT_FALSE(first->body.put_away());
  EXPECT_TRUE(after->body.put_away());
  EXPECT_EQ(*trace.body(trace.calls[1]), **after->body.bytes());
}

// The disk is full for one body of a batch: it is null, what is built on it is written whole or is
// null as well, and the others are there.
TEST_F(LikeBodiesTest, OneThatDoesNotFitCostsNoOtherOfItsBatch) {
  const auto disk = std::make_shared<testing::FullDisk>();
  JsonlRecorder recorder(directory_, Logger(), {.files = disk});
  const auto before = call(Bytes(1000, 'b'));
  recorder.arrived(*before);
  ASSERT_TRUE(testing::flush(recorder, rollout_));
  const auto large = call(Bytes(20'000, 'x'));
  const auto grown = like(*large, 20'000, "y", 0);
  const auto shrunk = like(*large, 1000, "", 0);
  const auto other = like(*before, 1000, "z", 0);
  disk->set_limit(4096);
  for (const auto& one : {large, grown, shrunk, other}) recorder.arrived(*one);
  EXPECT_FALSE(testing::flush(recorder, rollout_));
  const Trace trace = load_trace();
  EXPECT_EQ(trace.broken_lines, 0u);
  ASSERT_EQ(trace.calls.size(), 5u);
  EXPECT_EQ(*trace.body(trace.calls[0]), **before->body.bytes());
  EXPECT_FALSE(trace.calls[1].has_body);
  EXPECT_FALSE(trace.calls[2].has_body);
  EXPECT_EQ(*trace.body(trace.calls[3]), **shrunk->body.bytes());
  EXPECT_EQ(*trace.body(trace.calls[4]), **other->body.bytes());
  EXPECT_FALSE(grown->body.put_away());
  EXPECT_EQ(std::filesystem::file_size(directory_ + "/r1.bodies"), 1000u + 1000 + 1);
}

TEST_F(LikeBodiesTest, WhatIsWrittenCanBePutAway) {
  const auto disk = std::make_shared<testing::StallingDisk>();
  JsonlRecorder recorder(directory_, Logger(), {.files = disk});
  const Bytes large(20'000, 'x');
  const auto small = call("{}");
  const auto first = call(large + "1" + large);
  const auto grown = like(*first, 20'001, "2", 20'000);
  disk->stall();
  for (const auto& each : {small, first, grown}) recorder.arrived(*each);
  disk->wait_for_a_writer();
  EXPECT_FALSE(first->body.put_away()) << "before it was written";
  disk->resume();
  ASSERT_TRUE(testing::flush(recorder, rollout_));
  EXPECT_FALSE(small->body.put_away()) << "not worth it";
  for (const auto& each : {first, grown}) {
    ASSERT_TRUE(each->body.put_away());
    EXPECT_EQ(each->body.in_memory(), nullptr);
  }
  EXPECT_EQ(**first->body.bytes(), large + "1" + large);
  EXPECT_EQ(**grown->body.bytes(), large + "12" + large);
  recorder.closed(rollout_, {});
  ASSERT_TRUE(testing::flush(recorder, rollout_));
  EXPECT_EQ(**grown->body.bytes(), large + "12" + large) << "a trainer may have it still";
  std::filesystem::resize_file(directory_ + "/" + rollout_.value + ".bodies", 30'000);
  EXPECT_EQ(grown->body.bytes().error().code, ErrorCode::kIo);
  EXPECT_THAT(grown->body.bytes().error().message, HasSubstr("cut short"));
}

TEST_F(LikeBodiesTest, PiecesThatDoNotAddUpAreRefused) {
  JsonlRecorder recorder(directory_, Logger());
  const auto first = call("0123456789");
  recorder.arrived(*first);
  Trace trace = load_trace(recorder);
  CallRecord& record = trace.calls[0];
  for (const Parts& parts : {Parts{}, {{0, 9}}, {{0, 10}, {0, 1}}, {{0, UINT64_MAX}, {0, 10}}}) {
    record.body_parts = parts;
    EXPECT_FALSE(trace.body(record));
  }
  record.body_parts = {{5, 5}, {0, 5}};
  EXPECT_EQ(*trace.body(record), "5678901234");
}

TEST(TraceReaderTest, BodiesOfVersionOneAreOnePiece) {
  const auto trace = parse(
      R"({"type":"arrived","call":"c1","body":{"offset":7,"size":3,"digest":"00"}})", "x.jsonl");
  ASSERT_TRUE(trace);
  ASSERT_EQ(trace->calls[0].body_parts.size(), 1u);
  EXPECT_EQ(trace->calls[0].body_parts[0].offset, 7u);
  EXPECT_EQ(trace->calls[0].body_parts[0].size, 3u);
}

TEST_F(TraceTest, AnUnknownRewardIsNullNotZero) {
  JsonlRecorder recorder(directory_, Logger());
  recorder.opened(rollout_, {});
  recorder.closed(rollout_, {});
  EXPECT_THAT(lines(recorder), HasSubstr("\"reward\":null"));
  EXPECT_EQ(load_trace(recorder).summary->reward, std::nullopt);
}

TEST_F(TraceTest, FilesAreForTheirOwnerOnly) {
  JsonlRecorder recorder(directory_, Logger());
  recorder.opened(rollout_, {});
  ASSERT_TRUE(testing::flush(recorder, rollout_));
  const auto mode = [](const std::string& path) {
    struct stat status{};
    EXPECT_EQ(::stat(path.c_str(), &status), 0) << path;
    return status.st_mode & 0777;
  };
  EXPECT_EQ(mode(base_ + "/a"), 0700u);
  EXPECT_EQ(mode(directory_), 0700u);
  EXPECT_EQ(mode(recorder.location(rollout_)), 0600u);
  EXPECT_EQ(mode(directory_ + "/r1.bodies"), 0600u);
}

TEST_F(TraceTest, ADeadProcessLeavesWhatItRecordedAndATornLineIsCounted) {
  {
    JsonlRecorder recorder(directory_, Logger());
    recorder.opened(rollout_, {});
    recorder.arrived(*call("{\"a\":1}"));
  }
  std::ofstream(directory_ + "/r1.jsonl", std::ios::app) << R"({"type":"answered","call":")";
  Trace trace = load_trace();
  EXPECT_EQ(trace.broken_lines, 1u);
  ASSERT_EQ(trace.calls.size(), 1u);
  EXPECT_FALSE(trace.calls[0].outcome);
  EXPECT_FALSE(trace.summary);

  // The next process to append does not write into the torn line.
  JsonlRecorder again(directory_, Logger());
  const auto later = call("{\"b\":2}");
  again.arrived(*later);
  trace = load_trace(again);
  EXPECT_EQ(trace.broken_lines, 1u);
  ASSERT_EQ(trace.calls.size(), 2u);
  EXPECT_EQ(*trace.body(trace.calls[0]), "{\"a\":1}");
  EXPECT_EQ(*trace.body(trace.calls[1]), "{\"b\":2}");
}

TEST_F(TraceTest, ALineForACallThatNeverArrivedIsCountedAsBroken) {
  JsonlRecorder recorder(directory_, Logger());
  recorder.opened(rollout_, {});
  recorder.ended(*call("{}"), llm::Outcome::kFailed, "");
  EXPECT_EQ(load_trace(recorder).broken_lines, 1u);
}

TEST_F(TraceTest, ABodyThatIsNotThereIsAnError) {
  JsonlRecorder recorder(directory_, Logger());
  recorder.opened(rollout_, {});
  recorder.arrived(*call("0123456789"));
  ASSERT_TRUE(testing::flush(recorder, rollout_));
  ASSERT_EQ(::truncate((directory_ + "/r1.bodies").c_str(), 5), 0);
  const Trace trace = load_trace(recorder);
  EXPECT_EQ(trace.body(trace.calls[0]).error().code, ErrorCode::kProtocol);
}

TEST_F(TraceTest, WhatIsNoTraceIsRefused) {
  EXPECT_EQ(load(base_ + "/absent.jsonl").error().code, ErrorCode::kNotFound);
  std::ofstream(base_ + "/other.jsonl") << "hello\n{\"a\":1}\n";
  EXPECT_EQ(load(base_ + "/other.jsonl").error().code, ErrorCode::kInvalidArgument);
}

TEST_F(TraceTest, AnIdThatIsNoFileNameWritesNothing) {
  JsonlRecorder recorder(directory_, Logger());
  const RolloutId outside{"../../outside"};
  recorder.opened(outside, {});
  EXPECT_EQ(testing::flush(recorder, outside).error().code, ErrorCode::kInvalidArgument);
  EXPECT_FALSE(std::filesystem::exists(base_ + "/outside.jsonl"));
}

TEST_F(TraceTest, ADirectoryThatCannotBeMadeIsReportedByFlushOnce) {
  std::ofstream(base_ + "/file") << "x";
  JsonlRecorder recorder(base_ + "/file/traces", Logger());
  recorder.opened(rollout_, {});
  recorder.arrived(*call("{}"));
  recorder.closed(rollout_, {});
  const auto flushed = testing::flush(recorder, rollout_);
  ASSERT_FALSE(flushed);
  EXPECT_THAT(flushed.error().message, HasSubstr("trace directory"));
  EXPECT_EQ(recorder.rollouts(), 0u);
  EXPECT_TRUE(testing::flush(recorder, rollout_)) << "forgotten after a closed rollout was flushed";
}

// Python's str.splitlines(), for one, cuts at these too.
TEST_F(TraceTest, NothingButALineFeedEndsALine) {
  const std::string ends = "\u0085 \u2028 \u2029";
  JsonlRecorder recorder(directory_, Logger());
  const auto asked = call("{\"a\":\"" + ends + "\"}");
  recorder.arrived(*asked);
  recorder.answered(*asked, llm::text_answer(ends, llm::Origin::kCanned));
  recorder.event(rollout_, {"agent", "{\"text\":\"" + ends + "\"}"});
  EXPECT_THAT(lines(recorder), ::testing::Not(::testing::AnyOf(
                                   HasSubstr("\u0085"), HasSubstr("\u2028"), HasSubstr("\u2029"))));
  recorder.event(rollout_, {"agent", "{\"text\":\"" + ends + "\"}"});  // with no body beside it
  const Trace trace = load_trace(recorder);
  EXPECT_EQ(trace.broken_lines, 0u);
  EXPECT_EQ(trace.calls[0].answer->choices[0].message.text, ends);
  EXPECT_EQ(trace.events[1].detail, R"({"text":"\u0085 \u2028 \u2029"})");
  EXPECT_EQ(*trace.body(trace.calls[0]), "{\"a\":\"" + ends + "\"}") << "the body as it was sent";
}

TEST_F(TraceTest, WithoutAFileEveryFlushSaysSo) {
  std::ofstream(base_ + "/file") << "x";
  JsonlRecorder recorder(base_ + "/file/traces", Logger());
  for (int i = 0; i < 2; ++i) {
    recorder.arrived(*call("{}"));
    EXPECT_FALSE(testing::flush(recorder, rollout_));
  }
  EXPECT_TRUE(testing::flush(recorder, rollout_)) << "nothing was told since";
}

TEST_F(TraceTest, AFullDiskLosesWholeEntriesNotHalfOnes) {
  const auto disk = std::make_shared<testing::FullDisk>();
  JsonlRecorder recorder(directory_, Logger(), {.files = disk});
  recorder.opened(rollout_, {});
  recorder.arrived(*call("{\"small\":1}"));
  ASSERT_TRUE(testing::flush(recorder, rollout_));
  // Room for one line of three.
  disk->set_limit(std::filesystem::file_size(directory_ + "/r1.jsonl") + 150);
  recorder.event(rollout_, {"phase", "\"" + Bytes(1000, 'x') + "\""});
  recorder.event(rollout_, {"phase", "{}"});
  recorder.event(rollout_, {"phase", "[]"});
  EXPECT_FALSE(testing::flush(recorder, rollout_));
  disk->set_limit(UINT64_MAX);
  recorder.arrived(*call("{\"after\":1}"));
  EXPECT_TRUE(testing::flush(recorder, rollout_)) << "what is behind the last flush is there";
  recorder.closed(rollout_, {});
  EXPECT_FALSE(testing::flush(recorder, rollout_)) << "of the whole rollout, not all is";

  const Trace trace = load_trace();
  EXPECT_EQ(trace.broken_lines, 0u);
  ASSERT_EQ(trace.events.size(), 1u);
  EXPECT_EQ(trace.events[0].detail, "{}");
  ASSERT_EQ(trace.calls.size(), 2u);
  EXPECT_EQ(*trace.body(trace.calls[0]), "{\"small\":1}");
  EXPECT_EQ(*trace.body(trace.calls[1]), "{\"after\":1}");
}

TEST_F(TraceTest, ManyBatchesReadBack) {
  JsonlRecorder recorder(directory_, Logger());
  recorder.opened(rollout_, {});
  // More than one write takes, twice.
  std::vector<std::shared_ptr<llm::Call>> calls;
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 100; ++i) {
      calls.push_back(call(std::to_string(i) + Bytes(1000 + 37 * static_cast<size_t>(i), 'x')));
      recorder.arrived(*calls.back());
      recorder.answered(*calls.back(), llm::text_answer("a", llm::Origin::kCanned));
    }
    recorder.ended(*calls[0], llm::Outcome::kDelivered, "");
    EXPECT_TRUE(testing::flush(recorder, rollout_));
    // A small one in between, by itself.
    calls.push_back(call("{\"small\":" + std::to_string(round) + "}"));
    recorder.arrived(*calls.back());
    EXPECT_TRUE(testing::flush(recorder, rollout_));
  }
  const Trace trace = load_trace();
  EXPECT_EQ(trace.broken_lines, 0u);
  ASSERT_EQ(trace.calls.size(), calls.size());
  for (size_t i = 0; i < calls.size(); ++i) {
    ASSERT_EQ(trace.calls[i].id, calls[i]->id);
    ASSERT_EQ(*trace.body(trace.calls[i]), *calls[i]->body.in_memory()) << i;
  }
}

TEST_F(TraceTest, ARecorderThatGoesWritesWhatItWasTold) {
  {
    JsonlRecorder recorder(directory_, Logger());
    recorder.arrived(*call("{}"));
  }
  EXPECT_EQ(load_trace().calls.size(), 1u);
}

// What nobody waits for is written all the same.
TEST_F(TraceTest, NobodyHasToFlush) {
  JsonlRecorder recorder(directory_, Logger());
  recorder.arrived(*call("{}"));
  const std::string path = recorder.location(rollout_);
  while (!std::filesystem::exists(path) || std::filesystem::file_size(path) == 0) {
    std::this_thread::yield();
  }
  EXPECT_EQ(load_trace().calls.size(), 1u);
}

TEST_F(TraceTest, AClosedTraceTakesNoMoreOfTheDiskThanItHolds) {
  JsonlRecorder recorder(directory_, Logger());
  for (int i = 0; i < 40; ++i) recorder.arrived(*call(Bytes(100'000, 'x')));
  recorder.closed(rollout_, {});
  ASSERT_TRUE(testing::flush(recorder, rollout_));
  struct stat status{};
  ASSERT_EQ(::stat((directory_ + "/" + rollout_.value + ".bodies").c_str(), &status), 0);
  EXPECT_GE(status.st_size, 4'000'000);
  EXPECT_LT(status.st_blocks * 512, status.st_size + (1 << 20));
}

// Whoever tells never waits for the disk; what it is told is recorded when the disk is there again,
// for all in one post to each shard and in few writes.
class StallTest : public TraceTest {
 protected:
  StallTest() { disk_->stall(); }
  // A flush of it, noted by `name` when it is told.
  void note_flush(Recorder& recorder, const RolloutId& rollout, net::Shard& shard,
                  const std::string& name) {
    recorder.flush(rollout, shard, [this, name, &shard](Result<void> done) {
      EXPECT_TRUE(done);
      EXPECT_TRUE(shard.on_thread());
      told_.push_back(name);
    });
  }

  const std::shared_ptr<testing::StallingDisk> disk_ = std::make_shared<testing::StallingDisk>();
  std::vector<std::string> told_;
};

TEST_F(StallTest, NobodyWhoTellsWaitsAndAcknowledgementsDo) {
  net::Shard shard;
  JsonlRecorder recorder(directory_, Logger(), {.files = disk_});
  const RolloutId other{"r2"};
  recorder.opened(rollout_, {});
  disk_->wait_for_a_writer();
  std::vector<std::shared_ptr<llm::Call>> calls;
  for (int i = 0; i < 100; ++i) {
    calls.push_back(call(std::to_string(i)));
    recorder.arrived(*calls.back());
    recorder.ended(*calls.back(), llm::Outcome::kDelivered, "");
    if (i % 10 == 0) note_flush(recorder, rollout_, shard, std::to_string(i));
  }
  recorder.opened(other, {});
  note_flush(recorder, other, shard, "other");
  while (shard.context().poll() > 0) {
  }
  EXPECT_TRUE(told_.empty());
  EXPECT_TRUE(lines().empty());

  const int before = disk_->writes();
  disk_->resume();
  shard.run_until([&] { return !told_.empty(); });
  EXPECT_EQ(told_.size(), 11u) << "one post for all";
  EXPECT_EQ(told_.front(), "0");
  EXPECT_EQ(told_.back(), "other");
  // The first line, then of each rollout at most its bodies (in two writes: they are many) and its
  // lines.
  EXPECT_LE(disk_->writes() - before, 1 + 3 + 1);
  EXPECT_EQ(load_trace().calls.size(), 100u);
  for (const CallRecord& call : load_trace().calls) EXPECT_TRUE(call.outcome);
}

TEST_F(StallTest, EachShardIsToldByItself) {
  net::Shard one, two;
  JsonlRecorder recorder(directory_, Logger(), {.files = disk_});
  recorder.opened(rollout_, {});
  note_flush(recorder, rollout_, one, "one");
  recorder.opened({"r2"}, {});
  note_flush(recorder, {"r2"}, two, "two");
  disk_->resume();
  one.run_until([&] { return !told_.empty(); });
  EXPECT_THAT(told_, ElementsAre("one"));
  two.run_until([&] { return told_.size() == 2; });
  EXPECT_THAT(told_, ElementsAre("one", "two"));
}

TEST_F(StallTest, WhatIsQueuedIsBoundedAndEventsGoFirst) {
  JsonlRecorder recorder(directory_, Logger(), {.queue_bytes = 10'000, .files = disk_});
  EXPECT_TRUE(recorder.has_room(rollout_, 9000));
  EXPECT_FALSE(recorder.has_room(rollout_, 11'000));
  const auto last = call(Bytes(9000, 'y'));
  recorder.arrived(*last);
  disk_->wait_for_a_writer();  // what is being written waits as well
  EXPECT_FALSE(recorder.has_room(rollout_, 0));
  EXPECT_TRUE(recorder.has_room({"other"}, 100)) << "what one has waiting keeps no other out";
  EXPECT_FALSE(recorder.has_room({"other"}, 2000));
  EXPECT_GT(recorder.load().waiting_bytes, 9000u);
  recorder.event(rollout_, {"phase", "{}"});
  recorder.ended(*last, llm::Outcome::kDelivered, "");
  disk_->resume();
  EXPECT_TRUE(testing::flush(recorder, rollout_)) << "no call is missing";
  recorder.closed(rollout_, {});
  const auto flushed = testing::flush(recorder, rollout_);
  ASSERT_FALSE(flushed);
  EXPECT_THAT(flushed.error().message, HasSubstr("events were left out"));
  EXPECT_TRUE(recorder.has_room(rollout_, 9000));
  EXPECT_EQ(recorder.load().waiting_bytes, 0u);
  EXPECT_EQ(recorder.load().incomplete_traces, 1u);
  const Trace trace = load_trace();
  EXPECT_TRUE(trace.events.empty());
  ASSERT_EQ(trace.calls.size(), 1u);
  EXPECT_EQ(trace.calls[0].outcome, llm::Outcome::kDelivered);
}

TEST_F(StallTest, WhatIsToldBehindAFlushOfAClosedRolloutIsNotLost) {
  net::Shard shard;
  JsonlRecorder recorder(directory_, Logger(), {.files = disk_});
  recorder.opened(rollout_, {});
  recorder.closed(rollout_, {});
  disk_->wait_for_a_writer();
  note_flush(recorder, rollout_, shard, "closed");
  recorder.event(rollout_, {"late", "{}"});
  disk_->resume();
  shard.run_until([&] { return !told_.empty(); });
  ASSERT_TRUE(testing::flush(recorder, rollout_));
  EXPECT_EQ(load_trace().events.size(), 1u);
  EXPECT_EQ(recorder.rollouts(), 0u);
}

TEST_F(TraceTest, RolloutsRecordSideBySideFromDifferentThreads) {
  JsonlRecorder recorder(directory_, Logger());
  constexpr int kThreads = 4, kCalls = 200;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&recorder, t] {
      const RolloutId rollout{"side" + std::to_string(t)};
      recorder.opened(rollout, {});
      for (int i = 0; i < kCalls; ++i) {
        llm::Call call;
        call.id = CallId::fresh();
        call.rollout = rollout;
        call.body =
            llm::Body(std::make_shared<const Bytes>(std::to_string(t) + ":" + std::to_string(i)));
        recorder.arrived(call);
        recorder.ended(call, llm::Outcome::kDelivered, "");
      }
      recorder.closed(rollout, {});
      EXPECT_TRUE(testing::flush(recorder, rollout));
    });
  }
  for (auto& thread : threads) thread.join();
  for (int t = 0; t < kThreads; ++t) {
    const auto trace = load(recorder.location({"side" + std::to_string(t)}));
    ASSERT_TRUE(trace);
    ASSERT_EQ(trace->calls.size(), size_t{kCalls});
    EXPECT_EQ(*trace->body(trace->calls[kCalls - 1]), std::to_string(t) + ":199");
  }
}

TEST(MemoryRecorderTest, CountsByKindAndOutcome) {
  MemoryRecorder recorder;
  llm::Call call;
  recorder.arrived(call);
  recorder.ended(call, llm::Outcome::kDelivered, "x");
  recorder.event({}, {"warning", "{}"});
  EXPECT_EQ(recorder.count("arrived"), 1u);
  EXPECT_EQ(recorder.count(llm::Outcome::kDelivered), 1u);
  EXPECT_EQ(recorder.count(llm::Outcome::kFailed), 0u);
  EXPECT_EQ(recorder.count("event:warning"), 1u);
  EXPECT_EQ(recorder.entries()[1].detail, "x");
}

}  // namespace
}  // namespace sluice::trace
