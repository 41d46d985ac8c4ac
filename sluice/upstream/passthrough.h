// passthrough: the gate's policy for black-box rollouts. Each call goes to one fixed model endpoint
// and its answer comes back byte for byte as it arrives; nothing is parked, and no token ids
// are captured (sizes, times, status and what the answer says of itself are).
//
// The key is added here and is never in a sandbox, a log or a trace. An agent chooses neither host
// nor path nor credentials: its own authorization goes no further than the gate, and redirects are
// refused.
//
// Lives on one shard; every rollout that uses it lives there too.
#pragma once

#include <memory>
#include <string>

#include "sluice/base/core/deadline.h"
#include "sluice/gate/policy.h"
#include "sluice/llm/rewrite.h"
#include "sluice/net/http_client.h"
#include "sluice/net/shard.h"

namespace sluice::upstream {

using llm::Rewrite;
using llm::Thinking;

struct PassthroughOptions {
  std::string base_url;     // up to and with the version: "https://api.example.com/v1"
  std::string key;          // sent in the header that the call's dialect has for it; "" sends none
  Rewrite rewrite;          // the trace has bodies as agents sent them
  net::AddressCheck check;  // of what the URL's host leads to; none: all are asked
  Duration timeout = std::chrono::hours(1);  // of one call, its body included
  net::HttpClientLimits limits;

  // How long the endpoint may say nothing, before an answer and in it.
  void set_silence(Duration most) { limits.first_byte_timeout = limits.idle_timeout = most; }
};

// kInvalidArgument if the URL or the key cannot be used.
Result<std::shared_ptr<gate::Policy>> make_passthrough(net::Shard& shard, net::BlockingPool& names,
                                                       PassthroughOptions options);

// The same over connections made otherwise; the URL still gives Host and path.
Result<std::shared_ptr<gate::Policy>> make_passthrough(net::Shard& shard, net::Connector connector,
                                                       PassthroughOptions options);

}  // namespace sluice::upstream
