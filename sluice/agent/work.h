// Work: what a task has an agent do, and how that is judged; the same for every agent. Plain
// values; any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/deadline.h"
#include "sluice/sandbox/sandbox.h"

namespace sluice::agent {

struct Upload {
  std::string path;  // absolute, or relative to the workdir
  Bytes content;
  uint32_t mode = 0644;
};

enum class Approvals : uint8_t {
  kAgentDefault,  // what the agent would ask about, it refuses itself
  kBypass,        // its documented switch, by somebody's explicit choice
};
inline std::string_view to_string(Approvals approvals) {
  return approvals == Approvals::kBypass ? "bypass" : "agent_default";
}

enum class RewardFrom : uint8_t { kAuto, kFile, kCommands };
enum class VerifyWhere : uint8_t { kDefault, kSame, kFresh };
// How a task's work is judged: the table [verify].
struct Verify {
  std::vector<std::string> commands;
  Duration timeout = std::chrono::minutes(2);  // per command
  RewardFrom reward = RewardFrom::kAuto;
  double reward_min = 0;  // of an unusable verdict, too
  double reward_max = std::numeric_limits<double>::infinity();
  VerifyWhere where = VerifyWhere::kDefault;
  std::vector<std::string> paths;    // what of the agent's work is judged; empty: the workdir
  std::vector<std::string> exclude;  // below them, globs
  std::vector<Upload> files;         // hidden files, written in the fresh sandbox only
  std::vector<std::string> start;  // run before the commands, in the fresh sandbox, as setup's user
};

// What an agent is told of its model where nobody says otherwise, in tokens.
inline constexpr int64_t kContextWindow = 131072, kMaxOutput = 8192;
inline constexpr int64_t kMostTokens = int64_t{1} << 30;

struct Work {
  std::string instruction;
  sandbox::Options sandbox;
  std::string workdir = sandbox::kWorkdir;
  std::vector<Upload> uploads;
  std::vector<std::string> setup;
  std::string setup_user = sandbox::kSetupUser;
  Verify verify;
  Duration setup_timeout = std::chrono::minutes(5);  // per command
  Duration agent_timeout{};                          // 0: the spec's
  Approvals approvals = Approvals::kAgentDefault;
  std::map<std::string, std::string> options;  // by name; text, or JSON where the spec says so
  std::map<std::string, std::string> env;      // for the agent
  // {context_window} and {max_output} of its spec: the model's window, and the most of one answer.
  std::optional<int64_t> context_window, max_output;
};

}  // namespace sluice::agent
