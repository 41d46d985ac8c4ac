// gate/http: the agents' side of the gate as HTTP. Turns requests into arrivals and answers into
// responses: plain or streamed, with headers at once and keep-alive frames while a call is parked,
// errors in the dialect's own shape. On the rollout's shard.
#pragma once

#include <memory>

#include "sluice/gate/http/routes.h"
#include "sluice/gate/open_rollout.h"
#include "sluice/net/http.h"

namespace sluice::gate::http {

// Serves one request of the rollout's agent. `writer` is valid until the coroutine ends.
net::awaitable<void> handle(std::shared_ptr<OpenRollout> rollout, net::HttpRequest request,
                            net::ResponseWriter* writer);

// Shapes the answer to a request that was refused before handle() could see it, and counts it.
net::HttpResponse refuse_early(OpenRollout& rollout, const net::HttpRequest& request, int status,
                               const Error& error);

// An error in the shape that who asked along `route` reads.
net::HttpResponse error_response(const Route& route, int status, const llm::Problem& problem);

}  // namespace sluice::gate::http
