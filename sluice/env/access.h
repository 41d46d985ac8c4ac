// Who may talk to the server: keys, and which pages a browser may come from.
//
// OpenEnv's server asks nothing of anybody. Here a server that listens beyond loopback wants a key,
// unless it is told in so many words not to; and what a browser sends on behalf of a foreign page
// is refused everywhere, keys or not, because a page on any site can reach the loopback of whoever
// looks at it (also by a name of its own that it lets point there).
//
// Plain values; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/base/core/result.h"
#include "sluice/net/http.h"

namespace sluice::env {

enum class KeyPolicy : uint8_t {
  kByAddress,  // needed beyond loopback; on loopback only if there are any
  kOff,        // never asked for
};

struct AccessOptions {
  // Any of them opens everything but GET /health, which needs none. Sent as "Authorization: Bearer
  // KEY", or as the password of basic authentication: ws://user:KEY@host is all that OpenEnv's
  // client has a place for.
  std::vector<std::string> keys;
  KeyPolicy policy = KeyPolicy::kByAddress;
  // "https://trainer.example.com": pages of other origins whose requests are taken. A page of the
  // server's own origin always is.
  std::vector<std::string> allowed_origins;
  // Names under which a loopback server may be addressed, besides localhost and its addresses.
  std::vector<std::string> allowed_hosts;
};

struct Refusal {
  int status = 403;
  std::string message;
};

class Access {
 public:
  // kInvalidArgument for a key that is too short to be one, or that no header can carry.
  static Result<Access> make(AccessOptions options);

  // `address` is what a listener listens on ("127.0.0.1:8000"). kFailedPrecondition, with what to
  // do, if it is reachable from elsewhere and nothing protects it.
  Result<void> check_listener(std::string_view address) const;

  // Whether only this machine reaches the server.
  enum class Reach : uint8_t { kLoopback, kAnywhere };
  // By the request's head alone.
  std::optional<Refusal> check(const net::HttpRequest& request, Reach reach) const;

  // Who asks: which of the keys the request shows; "" where nobody is asked for one.
  // REQUIRES: check() has no objection.
  std::string client_of(const net::HttpRequest& request) const;

  bool needs_key() const { return !options_.keys.empty() && options_.policy != KeyPolicy::kOff; }

 private:
  explicit Access(AccessOptions options) : options_(std::move(options)) {}
  // Which of the keys, as their places in the list.
  std::optional<size_t> shown_by(const net::HttpRequest& request) const;
  std::optional<size_t> place_of(std::string_view key) const;

  AccessOptions options_;
};

// "127.0.0.1:8000", "[::1]:8000", "localhost:8000", a unix socket's path, "memory".
bool is_loopback(std::string_view address);

}  // namespace sluice::env
