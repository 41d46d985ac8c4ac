// Fresh: whether an agent's work is judged in a sandbox in which the agent never was, and how it
// gets there (docs/tasks.md, "Where verify runs").
//
// An Error of kAgent is of something that the agent left: the verdict is unusable, and nothing else
// is wrong.
//
// Coroutines of the sandbox's shard; what they point to must outlive them.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "sluice/agent/printed.h"
#include "sluice/agent/report.h"
#include "sluice/agent/work.h"
#include "sluice/net/shard.h"
#include "sluice/sandbox/sandbox.h"

namespace sluice::agent {

using net::awaitable;

// Whether what [verify] says of places, files and start commands can be meant.
Result<void> check_places(const Work& work);
// kUnsupported where a task asks for a fresh sandbox that the backend cannot make.
Result<void> check_verify(const Work& work, const sandbox::Capabilities& can);
bool verifies_fresh(const Work& work, const sandbox::Capabilities& can);

// What of the agent's sandbox is his work; none of the paths is within another.
sandbox::WorkPlaces work_places(const Work& work);

// A sandbox as the task wants it, for its verifier.
sandbox::Options for_verifier(sandbox::Options options);

// The state that an agent is about to find. What set-up left running goes on, and may change a file
// under our eyes: then it is tried again.
awaitable<Result<sandbox::Snapshot>> keep_prepared(sandbox::Sandbox* sandbox);
// Out of the agent's sandbox, in which he has ended. `ran`: how long ago he began.
awaitable<Result<sandbox::TakenWork>> take_work(sandbox::Sandbox* sandbox, const Work* work,
                                                Duration ran, Report* report);
// Into a fresh one, and then the files that no agent sees.
awaitable<Result<void>> give_work(sandbox::Sandbox* sandbox, const Work* work,
                                  sandbox::TakenWork taken);
// What the verifier needs to run beside it.
awaitable<Result<void>> run_start(sandbox::Sandbox* sandbox, const Work* work, Report* report,
                                  const OutputPlace* outputs);

// The move of what set-up left, where no agent was: what fails there as well is no agent's doing.
// Start commands are left out: to make them work may be the task.
class Rehearsal {
 public:
  Rehearsal(net::Shard& shard, sandbox::Backend& backend)
      : shard_(shard), backend_(backend), closing_(shard.executor()) {}
  // "" if it goes well, or cannot be tried.
  awaitable<std::string> fault_of(const Work* work, sandbox::Snapshot prepared);
  void cancel();

 private:
  awaitable<Result<void>> move(const Work* work, sandbox::Snapshot prepared);

  net::Shard& shard_;
  sandbox::Backend& backend_;
  std::unique_ptr<sandbox::Sandbox> sandbox_;
  bool cancelled_ = false;
  net::TaskGroup closing_;
};

// A clean shell of setup's user.
sandbox::Command setup_command(const Work& work, const std::string& script, Duration timeout);

// The same error as the agent's, if it speaks of files or programs in a sandbox and not of the
// sandbox itself or of us.
Error of_agent(Error error, std::string_view context);

}  // namespace sluice::agent
