// JsonlRecorder: a rollout's trace as two append-only files, DIR/ROLLOUT.jsonl (one event a line)
// and DIR/ROLLOUT.bodies (the exact request bytes, to which the lines refer by offset; of what a
// body repeats of an earlier one, only where that stands). Their format is in docs/trace.md;
// reader.h reads them back.
//
// Lines are written with one write(2) each, or with one for all that was said while the rollout was
// held, to a file opened for appending: a killed process leaves whole lines, at worst a torn last
// one. Threads as in recorder.h.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "sluice/base/log.h"
#include "sluice/trace/recorder.h"

namespace sluice::trace {

class JsonlRecorder final : public Recorder {
 public:
  // `directory` is made (mode 0700) when the first file is; files have mode 0600.
  JsonlRecorder(std::string directory, Logger log);
  ~JsonlRecorder() override;

  void opened(const RolloutId& rollout, const RolloutInfo& info) override;
  void arrived(const llm::Call& call) override;
  void answered(const llm::Call& call, const llm::Answer& answer) override;
  void ended(const llm::Call& call, llm::Outcome outcome, std::string_view detail) override;
  void confirmed(const llm::Call& call) override;
  void event(const RolloutId& rollout, const Event& event) override;
  void closed(const RolloutId& rollout, const ResultSummary& summary) override;
  void hold(const RolloutId& rollout) override;
  void release(const RolloutId& rollout) override;
  Result<void> flush(const RolloutId& rollout) override;
  std::string location(const RolloutId& rollout) const override;

 private:
  class Bodies;
  struct Files;
  class Line;
  std::shared_ptr<Files> files(const RolloutId& rollout);
  std::string path(const RolloutId& rollout, std::string_view suffix) const;
  Result<void> open_files(const RolloutId& rollout, Files& files) const;
  // What the last member said, unless the rollout is held.
  void written(Files& files);
  void write(Files& files);
  void fail(Files& files, Error error);

  const std::string directory_;
  const Logger log_;
  std::mutex mutex_;  // guards rollouts_, not what it points to
  std::unordered_map<RolloutId, std::shared_ptr<Files>> rollouts_;
};

}  // namespace sluice::trace
