// Rollout: one attempt of one agent at one task, joined from task, agent, sandbox, gate and verify.
// Lives on one shard and is used once. Only the engine (engine.h) runs it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "sluice/agent/driver.h"
#include "sluice/base/log.h"
#include "sluice/gate/gate.h"
#include "sluice/net/shard.h"
#include "sluice/rollout/group.h"
#include "sluice/rollout/result.h"
#include "sluice/rollout/task.h"
#include "sluice/sandbox/sandbox.h"
#include "sluice/trace/recorder.h"

namespace sluice::rollout {

// Judges the work after the verify commands, in their sandbox, when the agent's tree is dead.
// The reward, or none to leave it to the commands.
using Verifier = std::function<net::awaitable<Result<std::optional<double>>>(
    sandbox::Sandbox* sandbox, const Task* task)>;

// Who answers, under the names that results use.
struct PolicyChoice {
  std::string mode = "interception_gate";  // or "black_box"
  std::string name = "trainer";            // "script", "passthrough", ...
  std::shared_ptr<gate::Policy> policy;    // none: the trainer's handle
};

struct RolloutOptions {
  RolloutId id = RolloutId::fresh();
  std::string name;              // of its order, which the engine sets
  std::string group_id;          // of attempts at one task; "" if none, or that of `group`
  std::shared_ptr<Group> group;  // whose preparation it shares; none: it prepares for itself
  std::shared_ptr<const Task> task;
  std::shared_ptr<const agent::Spec> spec;
  std::string bundle_path;
  std::string model = "policy";
  std::optional<int64_t> max_tokens_cap;  // of one answer, whatever the task says of max_output
  llm::Dialect dialect = llm::Dialect::kChat;
  PolicyChoice policy;
  Verifier verifier;
  std::string keep_files_in;
  // Writes what programs print, where that is much; none: only the last of it is kept.
  std::shared_ptr<net::BlockingPool> output_files;
  // Records this one instead of the engine's recorder, which it may pass everything on to.
  std::shared_ptr<trace::Recorder> recorder;
  // Called on the rollout's shard, for whoever shows the rollout live. What they throw ends the
  // rollout. At on_end() nothing of it is open any more.
  std::function<void(std::string_view phase)> on_phase;
  std::function<void(const agent::AgentEvent& event)> on_agent_event;
  std::function<void(const RolloutResult& result)> on_end;
};

class Rollout {
 public:
  // All must outlive the rollout.
  struct Parts {
    net::Shard& shard;
    sandbox::Backend& backend;
    gate::Operator& gate;
    trace::Recorder& recorder;
    Logger log;
  };

  Rollout(Parts parts, RolloutOptions options);
  ~Rollout();
  Rollout(const Rollout&) = delete;
  Rollout& operator=(const Rollout&) = delete;

  const RolloutId& id() const;

  // Runs it to its end, whatever that is, an exception included: that is an error of the result, of
  // kInfrastructure. When it returns, the sandbox is destroyed, the gate's registration closed and
  // the trace complete.
  net::awaitable<RolloutResult> run();

  // Ends it early. Idempotent. REQUIRES: the shard's thread.
  void cancel(std::string why);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::rollout
