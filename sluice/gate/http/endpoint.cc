#include "sluice/gate/http/endpoint.h"

#include "sluice/gate/http/serve.h"
#include "sluice/net/http_server.h"

namespace sluice::gate::http {
namespace {

class HttpEndpoint final : public Endpoint {
 public:
  explicit HttpEndpoint(const std::shared_ptr<OpenRollout>& rollout)
      : server_(rollout->shard(), handler(rollout), options(rollout)) {}

  void serve(std::unique_ptr<net::Listener> listener) override {
    server_.serve(std::move(listener));
  }
  net::awaitable<void> stop(Deadline deadline) override { return server_.stop(deadline); }

 private:
  // The rollout owns this endpoint and outlives its handlers: stop() joins them.
  static net::HttpHandler handler(const std::weak_ptr<OpenRollout>& rollout) {
    return [rollout](net::HttpRequest request, net::ResponseWriter* writer) {
      return handle(rollout.lock(), std::move(request), writer);
    };
  }
  static net::HttpServerOptions options(const std::shared_ptr<OpenRollout>& rollout) {
    net::HttpServerOptions options;
    options.log = rollout->options().log;
    options.limits.connections = 1024;  // of one agent
    options.limits.bodies_bytes = rollout->options().bodies_bytes;
    options.refuse = [weak = std::weak_ptr(rollout)](const net::HttpRequest& request, int status,
                                                     const Error& error) {
      return refuse_early(*weak.lock(), request, status, error);
    };
    return options;
  }

  net::HttpServer server_;
};

}  // namespace

std::unique_ptr<Endpoint> make_endpoint(const std::shared_ptr<OpenRollout>& rollout) {
  return std::make_unique<HttpEndpoint>(rollout);
}

}  // namespace sluice::gate::http
