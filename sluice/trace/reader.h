// Reading a trace back (docs/trace.md): what happened, call by call, with the exact request bytes.
// Plain values; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sluice/trace/file_calls.h"
#include "sluice/trace/recorder.h"

namespace sluice::trace {

struct CallRecord : llm::Head {
  CallId id;
  uint64_t ordinal = 0;
  llm::SessionKey session;
  llm::Dialect dialect = llm::Dialect::kChat;
  llm::Purpose purpose = llm::Purpose::kMain;
  std::string digest;
  // Where the body's pieces are in the file of bodies.
  Parts body_parts;
  uint64_t body_size = 0;
  bool has_body = false;

  std::string arrived_at;  // UTC, as written
  double arrived_ms = 0;   // since the rollout was opened, on the monotonic clock
  std::optional<llm::Answer> answer;
  double answered_ms = 0;
  std::optional<llm::Outcome> outcome;  // none: the recording process died first
  std::string detail;
  double ended_ms = 0;
  bool confirmed = false;
};

struct EventRecord {
  std::string at;
  double ms = 0;
  std::string kind;
  std::string detail;  // JSON
};

struct Trace {
  std::string path;  // of the .jsonl file
  RolloutId rollout;
  RolloutInfo info;
  std::vector<CallRecord> calls;  // in order of arrival
  std::vector<EventRecord> events;
  std::optional<ResultSummary> summary;  // none: not closed
  size_t broken_lines = 0;               // torn by a crash, or of calls never seen to arrive

  const CallRecord* find(const CallId& id) const;
  // The request's bytes, exactly as they came.
  Result<Bytes> body(const CallRecord& call) const;
};

// kNotFound, or kInvalidArgument if the file is no trace. A torn line is counted, not an error.
Result<Trace> load(const std::string& path);

// The same from a .jsonl file's content; `path` is where body() looks.
Result<Trace> parse(std::string_view lines, std::string path);

}  // namespace sluice::trace
