// Verify: from the agent's end to what his verdict is made of. The work is handed to the verifier,
// whatever the agent made of it, the commands are run, and what they left as a reward is read.
//
// Nothing that lies in the sandbox is an Error here: what keeps a command from being started stands
// in its row. An Error is the sandbox's end, or whoever ends the rollout.
//
// Coroutines of the sandbox's shard.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "sluice/agent/printed.h"
#include "sluice/agent/report.h"
#include "sluice/agent/work.h"
#include "sluice/sandbox/sandbox.h"

namespace sluice::agent {

using net::awaitable;

struct VerifyParts {
  sandbox::Sandbox* sandbox = nullptr;  // in which nothing of the agent runs any more
  const Work* work = nullptr;
  Report* report = nullptr;
  const OutputPlace* outputs = nullptr;
  std::function<Result<void>()> go_on;  // asked between commands
};
// The rows and the reward file of the report.
awaitable<Result<void>> verify(VerifyParts parts);

// Ends what the agent started, and that alone where he has a uid of his own.
awaitable<Result<void>> kill_agent(sandbox::Sandbox* sandbox, Report* report);

// So that whatever waits for it ends; how that goes is told to whoever closes it again.
awaitable<void> close_quietly(sandbox::Sandbox* sandbox);

// Whether an error says that there is no sandbox any more (or no wish for one), rather than of
// something in it.
bool is_end(const Error& error);

// One setup or verify command: its own clean shell, its own row, with the last of its output. All
// rows of a report together keep so much in full, and the end of each, at `outputs`, if there is
// one.
inline constexpr size_t kWholeOutput = 64 * 1024 * 1024;
awaitable<Result<void>> run_row(sandbox::Sandbox* sandbox, std::vector<CommandRow>* rows,
                                std::string script, sandbox::Command command,
                                const OutputPlace* outputs);

// A clean shell's environment.
sandbox::Env shell_env(std::string home, std::string user);

}  // namespace sluice::agent
