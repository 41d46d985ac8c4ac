// WebDesk: the wire of a client's page. One environment that all its viewers share, with what was
// done to it, pushed to each of them.
//
// On the server's shard.
#pragma once

#include <deque>
#include <list>
#include <memory>
#include <string>

#include "sluice/env/core.h"
#include "sluice/net/wait.h"

namespace sluice::env {

class WebDesk {
 public:
  WebDesk(Core* core, std::string client)
      : core_(core), client_(std::move(client)), changed_(&core->shard) {}

  // What a body asked for.
  static awaitable<net::HttpResponse> reset(WebDesk* self, json::Value body);
  static awaitable<net::HttpResponse> step(WebDesk* self, json::Value body);
  static awaitable<net::HttpResponse> state(WebDesk* self);
  net::HttpResponse metadata() const;

  // Pushes the state to one viewer until it leaves.
  static awaitable<SocketClose> show(WebDesk* self, net::WebSocket* socket);

  // Ends the environment. No call follows.
  static awaitable<void> stop(WebDesk* self);

 private:
  static awaitable<std::optional<net::HttpResponse>> open(WebDesk* self);
  static awaitable<void> listen(WebDesk* self, net::WebSocket* socket);
  void note_state();
  std::string state_update() const;

  Core* const core_;
  const std::string client_;
  std::shared_ptr<EnvSession> session_;
  bool opening_ = false;
  bool stopped_ = false;

  json::Value episode_id_;
  json::Value step_count_ = 0;
  json::Value observation_;
  std::deque<json::Object> actions_;
  bool is_reset_ = true;
  uint64_t version_ = 1;
  net::Broadcast changed_;
};

}  // namespace sluice::env
