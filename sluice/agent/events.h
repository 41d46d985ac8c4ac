// Reading an agent's output: lines of JSON become events by the rules of its spec; what is no JSON
// (a crash trace, a warning) is kept as text and never lost.
//
// One reader per running agent; one thread at a time.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/agent/spec.h"
#include "sluice/base/core/bytes.h"

namespace sluice::agent {

struct AgentEvent {
  EventKind kind = EventKind::kText;
  std::string text, tool, id, status;
};

class EventReader {
 public:
  explicit EventReader(const std::vector<EventRule>& rules);

  // Takes a piece of stdout, however it is cut, and returns the events that it completed.
  std::vector<AgentEvent> feed(ByteView piece);
  // The end of stdout: an unfinished last line counts as a line.
  std::vector<AgentEvent> finish();

  // The text of the last error event, unless the agent got over it: unless a kDone came later.
  const std::optional<std::string>& error() const { return error_; }
  // What the events say of how it went: no error and, where the rules know how a good end looks,
  // such an end.
  bool success() const { return !error_ && (done_ || !knows_done_); }

 private:
  // Longer lines are not parsed: an event that matters is not that long, a runaway print may be.
  static constexpr size_t kMaxLine = 512 * 1024;

  void line(std::string_view text, std::vector<AgentEvent>& events);

  std::vector<EventRule> rules_;
  Bytes partial_;
  bool skipping_ = false;  // inside a line over the limit
  std::optional<std::string> error_;
  bool knows_done_ = false, done_ = false;
};

// The last `capacity` bytes of what was added.
class Tail {
 public:
  explicit Tail(size_t capacity) : capacity_(capacity) {}
  void add(ByteView bytes);
  Bytes bytes() const {
    return bytes_.size() > capacity_ ? bytes_.substr(bytes_.size() - capacity_) : bytes_;
  }

 private:
  size_t capacity_;
  Bytes bytes_;
};

}  // namespace sluice::agent
