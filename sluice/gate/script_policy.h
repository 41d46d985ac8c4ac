// ScriptPolicy: answers calls by the rules of a Script, for demos and tests.
//
// Lives on one shard; every rollout that uses it lives there too.
#pragma once

#include <list>
#include <memory>
#include <string>

#include "sluice/gate/policy.h"
#include "sluice/gate/script.h"
#include "sluice/net/shard.h"

namespace sluice::gate {

class ScriptPolicy final : public Policy {
 public:
  ScriptPolicy(Script script, net::Shard& shard);
  ~ScriptPolicy() override;
  // Reads the rules from a file.
  static Result<std::shared_ptr<ScriptPolicy>> load(const std::string& path, net::Shard& shard);

  void submit(std::shared_ptr<const llm::Call> call, Reply reply) override;

 private:
  struct Delayed;
  static void give(Script::Verdict verdict, Reply reply);

  const Script script_;
  net::Shard& shard_;
  std::list<Delayed> delayed_;
};

}  // namespace sluice::gate
