// A rollout's result as run_rollout returns it: the fields of OpenEnv's RolloutResult in their
// order, of both its generations, and ours behind them.
//
// Plain functions; any thread.
#pragma once

#include <string>
#include <string_view>

#include "sluice/env/coding/turns.h"
#include "sluice/json/value.h"
#include "sluice/rollout/result.h"

namespace sluice::env::coding {

json::Object result_json(const rollout::RolloutResult& result, const std::string& workdir,
                         const TurnLog& turns);

// The result of a rollout that never began; `error_kind` as in rollout::to_string.
json::Object refused_result(std::string_view task_id, std::string_view mode,
                            std::string_view error_kind, std::string_view error, double wall_s);

}  // namespace sluice::env::coding
