// JsonlRecorder: a rollout's trace as two append-only files, DIR/ROLLOUT.jsonl (one event a line)
// and DIR/ROLLOUT.bodies (the exact request bytes, to which the lines refer by offset; of what a
// body repeats of an earlier one, only where that stands; of what a prompt's token ids repeat of an
// earlier turn, only which that is). Their format is in docs/trace.md;
// reader.h reads them back.
//
// Whoever tells it something makes the line, in memory, and leaves it to the writer: one thread,
// which takes all that there is at a time. For each rollout of such a batch it appends the bodies,
// then the lines with one write(2); then it tells those who wait, with one post to each shard. It
// is woken once for a batch: at once if somebody waits or much has come together, else it waits a
// little for more. A killed process leaves whole lines, at worst a torn last one.
//
// Threads as in recorder.h. The destructor writes what it was told, however long that takes.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "sluice/base/log.h"
#include "sluice/trace/file_calls.h"
#include "sluice/trace/recorder.h"

namespace sluice::trace {

class JsonlRecorder final : public Recorder {
 public:
  struct Options {
    // Of lines, and of bodies held for them. There is room for a rollout while it has no more
    // waiting than is free, so that one alone takes half, and leaves the others theirs.
    size_t queue_bytes = 256 << 20;
    std::shared_ptr<FileCalls> files = std::make_shared<FileCalls>();
  };
  // `directory` is made (mode 0700) when the first file is; files have mode 0600.
  JsonlRecorder(std::string directory, Logger log, Options options);
  JsonlRecorder(std::string directory, Logger log);
  ~JsonlRecorder() override;

  void opened(const RolloutId& rollout, const RolloutInfo& info) override;
  void arrived(const llm::Call& call) override;
  void answered(const llm::Call& call, const llm::Answer& answer) override;
  void ended(const llm::Call& call, llm::Outcome outcome, std::string_view detail) override;
  void confirmed(const llm::Call& call) override;
  void event(const RolloutId& rollout, const Event& event) override;
  void closed(const RolloutId& rollout, const ResultSummary& summary) override;
  void flush(const RolloutId& rollout, net::Shard& shard, Flushed told) override;
  bool has_room(const RolloutId& rollout, size_t bytes) const override;
  Load load() const override { return {queued_bytes_, incomplete_traces_}; }
  std::string location(const RolloutId& rollout) const override;
  bool has(const RolloutId& rollout) const override;
  // Of rollouts that it has not forgotten.
  size_t rollouts() const;

 private:
  struct Said;
  struct Track;
  struct Told;
  struct Batch;
  struct Locked;
  class Line;
  enum class Hurry : uint8_t { kNone, kAtOnce };

  std::string path(const RolloutId& rollout, std::string_view suffix) const;
  std::unique_lock<std::mutex> lock(const RolloutId& rollout, std::shared_ptr<Track>& track);
  void enqueue(const std::shared_ptr<Track>& track, Hurry hurry);

  // The writer's.
  void run();
  void write(Track& track, Batch& batch);
  void append(Track& track, Batch& batch);
  static ByteView compose(Track& track, Batch& batch, size_t end);
  Result<void> open_files(Track& track) const;
  Result<void> append_lines(Track& track, ByteView lines) const;
  void fail(Track& track, Error error);
  void forget(Track& track);
  static void tell(std::vector<Told> told);

  const std::string directory_;
  const Logger log_;
  const Options options_;
  std::atomic<size_t> queued_bytes_ = 0;
  std::atomic<uint64_t> incomplete_traces_ = 0;

  mutable std::mutex mutex_;  // the next ones'; taken last
  std::unordered_map<RolloutId, std::shared_ptr<Track>> tracks_;
  std::vector<std::shared_ptr<Track>> queue_;  // of those that have something to write
  enum class Writer : uint8_t { kSleeps, kGathers, kWorks } writer_ = Writer::kWorks;
  std::atomic<bool> hurry_ = false;
  bool stopping_ = false;
  std::condition_variable changed_;
  std::thread thread_;
};

}  // namespace sluice::trace
