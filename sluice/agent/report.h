// Report: what happened to one agent in one sandbox, as far as it did. Plain values; any thread.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/deadline.h"
#include "sluice/base/core/result.h"
#include "sluice/sandbox/sandbox.h"

namespace sluice::sandbox {
class Spool;
}

namespace sluice::agent {

// What a program printed, where that is more than the last of it and is kept (printed.h).
struct Whole {
  std::shared_ptr<const sandbox::Spool> out = nullptr, err = nullptr;
};

// One setup or verify command and how it went.
struct CommandRow {
  std::string cmd;
  sandbox::Output output;  // the last of what it printed
  std::string error;       // why it was not run; "" if it was
  Whole whole = {};

  bool ok() const { return error.empty() && output.exit.ok(); }
  // How it ended, for people.
  std::string ended() const { return error.empty() ? describe(output.exit) : error; }
};

struct PhaseTime {
  std::string name;
  Duration began{};  // since the driver's start
  Duration took{};
};

struct Artifact {
  std::string name;
  std::string path;
  Bytes content;
};

// How the agent's own process went.
struct AgentRun {
  sandbox::Exit exit;
  std::optional<std::string> error;  // the agent's last error event
  bool ok = false;                   // by the spec's measure of success
  Bytes out, err;                    // the last of each
  Whole whole;                       // up to the output cap
  Bytes log_tail;                    // of both, as they came
};

struct Report {
  std::string sandbox_id;
  std::string program;
  std::vector<std::string> warnings;
  bool guest_isolated = true;
  std::vector<PhaseTime> phases;
  std::vector<CommandRow> setup, verify;
  std::vector<CommandRow> start;  // of verify's, in a fresh sandbox
  std::optional<AgentRun> agent;  // none: it was never started
  bool verified = false;          // verify came to its end, whatever its commands said
  std::string unjudged;           // why none of its commands was run; "" if they were
  std::string task_fault;         // why no agent's work could have been judged; "" if it could
  std::optional<Bytes> reward_file;
  std::string reward_file_error;  // why the one that is there cannot be read
  std::optional<double> verifier_reward;
  std::string verify_where = "same";  // in the agent's sandbox, or a "fresh" one
  std::vector<Artifact> artifacts;
  std::map<std::string, Bytes> files;  // of the workdir, after verify
  std::vector<std::string> files_extra;
  std::optional<Error> error;  // what ended the rollout early
  std::string failed_phase;    // where
  // Of Driver::prepare() only, if nothing went wrong.
  std::optional<sandbox::Snapshot> snapshot;
};

}  // namespace sluice::agent
