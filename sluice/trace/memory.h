// MemoryRecorder: keeps what it was told in order, for tests of the rooms that record. What it is
// told is recorded at once. Any thread.
#pragma once

#include <algorithm>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "sluice/trace/recorder.h"

namespace sluice::trace {

class MemoryRecorder : public Recorder {
 public:
  struct Entry {
    std::string kind;  // "opened", "arrived", ...; of an event: "event:" and its kind
    CallId call;
    llm::Outcome outcome = llm::Outcome::kFailed;  // of "ended"
    std::string detail;                            // of "ended" and events
  };

  void opened(const RolloutId&, const RolloutInfo&) override { add("opened", {}); }
  void arrived(const llm::Call& call) override { add("arrived", call.id); }
  void answered(const llm::Call& call, const llm::Answer&) override { add("answered", call.id); }
  void ended(const llm::Call& call, llm::Outcome outcome, std::string_view detail) override {
    add("ended", call.id, outcome, detail);
  }
  void confirmed(const llm::Call& call) override { add("confirmed", call.id); }
  void event(const RolloutId&, const Event& event) override {
    add("event:" + event.kind, {}, llm::Outcome::kFailed, event.detail);
  }
  void closed(const RolloutId&, const ResultSummary&) override { add("closed", {}); }
  void flush(const RolloutId&, net::Shard& shard, Flushed told) override {
    shard.post([told = std::move(told)] { told({}); });
  }
  std::string location(const RolloutId&) const override { return "memory"; }

  std::vector<Entry> entries() const {
    const std::lock_guard lock(mutex_);
    return entries_;
  }
  size_t count(std::string_view kind) const {
    const std::lock_guard lock(mutex_);
    return static_cast<size_t>(std::count_if(
        entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.kind == kind; }));
  }
  size_t count(llm::Outcome outcome) const {
    const std::lock_guard lock(mutex_);
    return static_cast<size_t>(std::count_if(
        entries_.begin(), entries_.end(),
        [&](const Entry& entry) { return entry.kind == "ended" && entry.outcome == outcome; }));
  }

 private:
  void add(std::string kind, CallId call, llm::Outcome outcome = llm::Outcome::kFailed,
           std::string_view detail = {}) {
    const std::lock_guard lock(mutex_);
    entries_.push_back({std::move(kind), std::move(call), outcome, std::string(detail)});
  }
  mutable std::mutex mutex_;
  std::vector<Entry> entries_;
};

}  // namespace sluice::trace
