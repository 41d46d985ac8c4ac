// SetupProxy: the network of a sandbox during set-up: an HTTP proxy that reaches the hosts on a
// list and nothing else. The guest carries its port; the names are looked up and the connections
// made out here, so the sandbox itself has a loopback and no more.
//
// It forwards CONNECT (TLS and all else) and plain http requests. A name is looked up once, every
// address that is not a public one is refused, and the connection goes to the address that was
// judged: a name cannot be turned into an inner address behind the check.
//
// Lives on one shard.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/net/shard.h"
#include "sluice/net/stream.h"

namespace sluice::sandbox {

struct SetupProxyOptions {
  // "example.org", "*.example.org" (its subdomains), "example.org:8443". Without a port: 80 and
  // 443.
  std::vector<std::string> hosts;
  // Tests put others in their places.
  std::function<Result<std::vector<std::string>>(const std::string& host)> look_up;
  std::function<bool(const std::string& address)> may_reach;
};

// kInvalidArgument, with what is wrong, for a list that holds no host or what is none.
Result<void> check_setup_hosts(const std::vector<std::string>& hosts);

// What a request's head, up to and with its empty line, asks for.
struct SetupRequest {
  std::string host;
  uint16_t port = 0;
  std::string first;    // what the server gets of the head: nothing for a tunnel
  bool tunnel = false;  // CONNECT
};
Result<SetupRequest> parse_setup_request(std::string_view head);

class SetupProxy {
 public:
  static std::unique_ptr<SetupProxy> start(net::Shard* shard,
                                           std::unique_ptr<net::Listener> listener,
                                           SetupProxyOptions options);
  // Closes everything at once.
  ~SetupProxy();
  SetupProxy(const SetupProxy&) = delete;
  SetupProxy& operator=(const SetupProxy&) = delete;

  // Closes the listener and every connection. From then on nothing goes through.
  void close();

 private:
  struct State;
  explicit SetupProxy(std::shared_ptr<State> state) : state_(std::move(state)) {}
  static net::awaitable<void> serve(std::shared_ptr<State> state);
  static net::awaitable<void> attend(std::shared_ptr<State> state,
                                     std::shared_ptr<net::Stream> client);
  std::shared_ptr<State> state_;
};

}  // namespace sluice::sandbox
