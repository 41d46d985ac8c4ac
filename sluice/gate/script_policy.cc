#include "sluice/gate/script_policy.h"

namespace sluice::gate {

struct ScriptPolicy::Delayed {
  Delayed(Script::Verdict v, Reply r, net::Wheel& wheel)
      : verdict(std::move(v)), reply(std::move(r)), timer(wheel) {}
  Script::Verdict verdict;
  Reply reply;
  net::Wheel::Timer timer;
};

ScriptPolicy::ScriptPolicy(Script script, net::Shard& shard)
    : script_(std::move(script)), shard_(shard) {}
ScriptPolicy::~ScriptPolicy() = default;

Result<std::shared_ptr<ScriptPolicy>> ScriptPolicy::load(const std::string& path,
                                                         net::Shard& shard) {
  SLUICE_TRY(Script script, Script::load(path));
  return std::make_shared<ScriptPolicy>(std::move(script), shard);
}

void ScriptPolicy::give(Script::Verdict verdict, Reply reply) {
  if (auto* answer = std::get_if<llm::Answer>(&verdict.reply)) {
    reply.answer(std::move(*answer));
  } else {
    reply.refuse(std::get<llm::Refusal>(std::move(verdict.reply)));
  }
}

void ScriptPolicy::submit(std::shared_ptr<const llm::Call> call, Reply reply) {
  Script::Verdict verdict = script_.judge(*call);
  if (verdict.delay <= Duration::zero()) {
    give(std::move(verdict), std::move(reply));
    return;
  }
  const Deadline when = Deadline::in(verdict.delay);
  const auto entry =
      delayed_.emplace(delayed_.end(), std::move(verdict), std::move(reply), shard_.wheel());
  entry->timer.arm(when, [this, entry] {
    Script::Verdict due = std::move(entry->verdict);
    Reply to = std::move(entry->reply);
    delayed_.erase(entry);
    give(std::move(due), std::move(to));
  });
}

}  // namespace sluice::gate
