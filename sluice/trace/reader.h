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
  CallId parent;  // that it goes on from; "" if there is none
  llm::Dialect dialect = llm::Dialect::kChat;
  llm::Purpose purpose = llm::Purpose::kMain;
  std::string digest;
  // Where the body's pieces are in the file of bodies.
  Parts body_parts;
  uint64_t body_size = 0;
  bool has_body = false;

  std::string arrived_at;  // UTC, as written
  double arrived_ms = 0;   // since the rollout was opened, on the monotonic clock
  // Of a prompt that begins with that and the completion of an earlier turn, `prompt_ids` are only
  // what comes behind them, and `prompt_after` is that turn's place among the trace's calls:
  // Trace::prompt_ids() has all.
  std::optional<llm::Answer> answer;
  std::optional<size_t> prompt_after;
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
  // The token ids of the prompt, if whoever answered gave them.
  Result<std::vector<int32_t>> prompt_ids(const CallRecord& call) const;
};

// kNotFound, kInvalidArgument if the file is no trace, or kUnsupported if it is of a version that
// did not exist yet. A torn line is counted, not an error.
Result<Trace> load(const std::string& path);

// The same from a .jsonl file's content; `path` is where body() looks.
Result<Trace> parse(std::string_view lines, std::string path);

}  // namespace sluice::trace
