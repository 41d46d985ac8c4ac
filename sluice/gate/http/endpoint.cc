#include "sluice/gate/http/endpoint.h"

#include "sluice/gate/http/serve.h"
#include "sluice/gate/http/shown_key.h"

namespace sluice::gate::http {

std::unique_ptr<net::HttpServer> make_endpoint(const std::shared_ptr<OpenRollout>& rollout) {
  const std::weak_ptr<OpenRollout> weak = rollout;
  net::HttpServerOptions options;
  options.log = rollout->options().log;
  options.limits.connections = 1024;  // of one agent
  options.limits.strangers = 512;
  options.limits.body_bytes = rollout->options().body_bytes;
  options.limits.bodies_bytes = rollout->options().bodies_bytes;
  if (const std::string& key = rollout->registration().key; !key.empty()) {
    options.admit = [key](const net::HttpRequest& head) {
      net::Admission admission;
      if (!shows_key(head, key)) admission.refusal = unauthenticated(head);
      return admission;
    };
  }
  options.refuse = [weak](const net::HttpRequest& request, int status, const Error& error) {
    return refuse_early(*weak.lock(), request, status, error);
  };
  return std::make_unique<net::HttpServer>(
      rollout->shard(),
      [weak](net::HttpRequest request, net::ResponseWriter* writer) {
        return handle(weak.lock(), std::move(request), writer);
      },
      std::move(options));
}

}  // namespace sluice::gate::http
