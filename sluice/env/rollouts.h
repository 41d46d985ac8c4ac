// RolloutBoard: what happens beside the wire. An environment whose steps take minutes posts each of
// its rollouts here; /rollouts lists them, shows one, streams its events and asks for its end. The
// wire of OpenEnv is strictly one frame for one frame and has no room for any of that.
//
// On the server's shard. Records are bounded: the oldest that ended go first, of one rollout the
// oldest events.
#pragma once

#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/base/core/result.h"
#include "sluice/env/environment.h"
#include "sluice/json/value.h"
#include "sluice/net/shard.h"
#include "sluice/net/wait.h"

namespace sluice::env {

struct RolloutEvent {
  uint64_t number = 0;  // 1, 2, ... within its rollout
  double at = 0;        // seconds since the rollout began
  std::string kind;     // "phase", "agent", "ended", ...
  json::Object detail;
};

struct RolloutBoardLimits {
  size_t ended_rollouts = 1000;
  size_t events_each = 1000;
  size_t event_bytes_each = 256 * 1024;
};

class RolloutBoard {
 public:
  explicit RolloutBoard(net::Shard& shard, RolloutBoardLimits limits = {});
  ~RolloutBoard();
  RolloutBoard(const RolloutBoard&) = delete;
  RolloutBoard& operator=(const RolloutBoard&) = delete;

  // A rollout began. `summary` is shown in lists ("agent", "task_id", "session", ...);
  // "rollout_id", "state", "began_at", "wall_s" and, at its end, what finish() gives are added.
  // `cancel` is called at most once and not after finish(). `client`: whose it is; nobody else sees
  // or cancels it. Does nothing for an id that is there already.
  void begin(const std::string& id, json::Object summary, std::function<void()> cancel,
             std::string client = "");
  void event(const std::string& id, std::string kind, json::Object detail);
  // Shown from now on beside the summary ("reward", "error", ...).
  void update(const std::string& id, json::Object fields);
  // It is over; `result` is what one rollout's page shows under "result".
  void finish(const std::string& id, json::Object fields, json::Object result);

  // A client's, the newest first. `state` is "running", "cancelling", "ended" or "" for all.
  json::Array list(std::string_view state, size_t limit, std::string_view client = "") const;
  std::optional<json::Object> find(std::string_view id, std::string_view client = "") const;

  // kNotFound, or kFailedPrecondition if it has ended.
  Result<void> cancel(std::string_view id, std::string_view client = "");

  // The events behind number `after`, waiting for one if there are none yet; nothing when the
  // rollout has ended and all have been given; kNotFound; kTimedOut at the deadline.
  awaitable<Result<std::vector<RolloutEvent>>> events(std::string id, uint64_t after,
                                                      Deadline deadline);

 private:
  struct Record;
  Record* record(std::string_view id) const;
  json::Object row(const Record& record) const;
  void add_event(Record& record, std::string kind, json::Object detail);
  void forget_oldest();

  net::Shard& shard_;
  const RolloutBoardLimits limits_;
  std::map<std::string, std::shared_ptr<Record>, std::less<>> records_;
  std::list<std::string> order_;  // by begin
  size_t ended_ = 0;
};

json::Object to_json(const RolloutEvent& event);

}  // namespace sluice::env
