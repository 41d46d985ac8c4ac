// The endpoint of one rollout: an HTTP server for its listeners. On the rollout's shard.
#pragma once

#include <memory>

#include "sluice/gate/open_rollout.h"

namespace sluice::gate::http {

// The rollout's own, which outlives the server's handlers: stop() joins them.
std::unique_ptr<net::HttpServer> make_endpoint(const std::shared_ptr<OpenRollout>& rollout);

}  // namespace sluice::gate::http
