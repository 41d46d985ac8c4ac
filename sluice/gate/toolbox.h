// ToolBox: the tools of one open rollout and the calls of them that run. Checks names, arguments,
// sizes and time; runs handlers, or queues the call for the trainer. What a tool's failure was is
// for the log and the trace; the agent is told what it can do something about.
//
// Lives on the rollout's shard; every member runs there. Internal to the gate.
#pragma once

#include "sluice/gate/allowance.h"
#include "sluice/json/schema.h"

namespace sluice::gate {

class ToolBox {
 public:
  // What became of a call. Errors are for the agent to read: kNotFound (no such tool),
  // kInvalidArgument (it is told what does not fit), kTooLarge, kExhausted (too many run),
  // kTimedOut, kCancelled (the rollout ends), kInternal (the tool failed, and does not say why), or
  // why its rollout does not allow it.
  using Done = std::function<void(Result<ToolResult>)>;

  // `owner` has this one, and is held by a shared_ptr when a tool is called.
  // REQUIRES: check_tool() passes each of the registration's tools.
  ToolBox(CallOwner& owner, const Registration& registration, Core& core, Ledger& ledger,
          Allowance& allowance);
  ~ToolBox();
  ToolBox(const ToolBox&) = delete;
  ToolBox& operator=(const ToolBox&) = delete;

  bool empty() const { return offered_.empty(); }
  // Its name, description and parameters.
  struct Offered {
    const Tool* tool;
    json::Schema schema;
  };
  const std::vector<Offered>& offered() const { return offered_; }

  // Calls `done` once, possibly before this returns. What it returns stops the call, if it still
  // runs: `done` is not called then.
  std::optional<ToolCallId> call(std::string_view tool, std::string_view arguments, Done done);
  void stop(const ToolCallId& id);
  // The answer, from wherever it comes; see CallOwner. kFailedPrecondition if the call is over.
  Result<void> reply(const ToolCallId& id, Result<ToolResult> result);
  // Ends what runs.
  void stop_all();

 private:
  struct Running;

  const Offered* find(std::string_view name) const;
  std::optional<Error> refuse(const Offered* offered, std::string_view arguments);
  void run_handler(const Offered& offered, const std::shared_ptr<const ToolRequest>& request);
  void end(const ToolCallId& id, Result<ToolResult> result, std::string_view why);
  void record(const Running& running, const Result<ToolResult>& result, std::string_view why);

  CallOwner& owner_;
  const RolloutId rollout_;
  Core& core_;
  Ledger& ledger_;
  Allowance& allowance_;
  std::vector<Offered> offered_;
  std::unordered_map<ToolCallId, std::unique_ptr<Running>> running_;
};

}  // namespace sluice::gate
