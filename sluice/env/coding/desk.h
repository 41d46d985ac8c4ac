// RolloutDesk: what stands between a call of run_rollout and the engine. It checks the request,
// makes an order of it, tells the client and the board how far it is, and gives the result its
// shape. Private to the folder.
//
// On the server's shard.
#pragma once

#include <string>

#include "sluice/env/coding/parts.h"
#include "sluice/env/coding/request.h"

namespace sluice::env::coding {

class RolloutDesk {
 public:
  RolloutDesk(CodingParts parts, const CodingOptions& options)
      : parts_(std::move(parts)), options_(options) {}

  // The result as the client gets it; a failure of any kind is one, with its error. `context` may
  // be cancelled: then the rollout is ended first.
  static awaitable<json::Object> run(RolloutDesk* self, RolloutRequest request, std::string episode,
                                     CallContext* context);

 private:
  class Ordered;
  Result<void> check(RolloutRequest* request) const;

  const CodingParts parts_;
  const CodingOptions& options_;
};

}  // namespace sluice::env::coding
