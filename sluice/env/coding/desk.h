// RolloutDesk: runs the rollouts of all sessions, within the limit on how many run at a time, and
// shows them on the board. Private to the folder.
//
// On the server's shard.
#pragma once

#include <string>

#include "sluice/env/coding/coding.h"
#include "sluice/env/coding/request.h"
#include "sluice/net/wait.h"

namespace sluice::env::coding {

class RolloutDesk {
 public:
  RolloutDesk(CodingParts parts, const CodingOptions& options)
      : parts_(std::move(parts)), options_(options), freed_(&parts_.server) {}

  // The result as the client gets it; a failure of any kind is one, with its error. `context` may
  // be cancelled: then the rollout is ended first.
  static awaitable<json::Object> run(RolloutDesk* self, RolloutRequest request, std::string episode,
                                     CallContext* context);

 private:
  struct Job;
  static awaitable<json::Object> admitted(RolloutDesk* self, RolloutRequest request,
                                          std::string episode, CallContext* context);
  static awaitable<json::Object> begun(RolloutDesk* self, std::shared_ptr<Job> job);
  static awaitable<json::Object> run_on_shard(std::shared_ptr<Job> job);
  static awaitable<Result<void>> find_bundle(RolloutDesk* self, std::shared_ptr<Job> job);
  awaitable<Result<bool>> trainer_comes(CallContext* context);
  std::shared_ptr<Job> make_job(RolloutRequest request, const std::string& episode,
                                CallContext* context);

  const CodingParts parts_;
  const CodingOptions& options_;
  size_t running_ = 0;
  size_t next_shard_ = 0;
  net::Broadcast freed_;
};

}  // namespace sluice::env::coding
