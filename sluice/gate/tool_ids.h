// ToolIds: the ids of tool calls as a rollout's agent sees them, each once. Claude Code drops whole
// turns on a repeat; it, OpenCode and Pi drop the second of two calls of one id. Servers number
// calls anew with every answer ("call_0").
//
// On the rollout's shard. Internal to the gate.
#pragma once

#include <memory>
#include <string>
#include <unordered_set>

#include "sluice/base/digest.h"
#include "sluice/llm/call.h"
#include "sluice/llm/own_ids.h"

namespace sluice::gate {

class ToolIds {
 public:
  // As many calls are told apart by the ids that they came with, and as long an id is remembered.
  // Beyond that a call has an id of ours, also in what whoever answers is given.
  static constexpr size_t kMost = 1 << 14;
  static constexpr size_t kMaxOwn = 256;

  // Gives an answer's tool calls the ids that its agent is to see: their own, where these are new
  // and of a form that every client takes, else ones made from rollout, ordinal and place. Tells
  // which are not what they were: a JSON object of what was sent and what it came as; "" if none.
  std::string name(llm::Answer& answer, const llm::Call& call);
  // For the calls to come; null while none was renamed.
  std::shared_ptr<const llm::OwnIds> own() const { return own_; }

 private:
  bool is_new(const std::string& id);

  std::unordered_set<Digest> seen_;  // of ids
  std::shared_ptr<llm::OwnIds> own_;
  size_t renamed_ = 0;
};

}  // namespace sluice::gate
