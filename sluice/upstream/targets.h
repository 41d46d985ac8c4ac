// Targets: where a base URL that a client names may lead. A server asks it from its own place in
// the network, where much answers that the client itself cannot reach: the machine's own services,
// its neighbours, the metadata that clouds give away on link-local addresses. So those are refused,
// but for hosts that are allowed by name, whatever their addresses.
//
// Plain values; any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "sluice/net/http_client.h"

namespace sluice::upstream {

class Targets {
 public:
  enum class Private : uint8_t { kRefused, kAllowed };
  explicit Targets(Private inner) : private_(inner) {}

  // "host" or "host:port", as a URL has it; kInvalidArgument for what is none.
  Result<void> allow(std::string_view host);
  // The host and port of a URL.
  void allow(const net::Url& url);

  // Judges what the URL's host leads to, by kPermissionDenied; none where the host is allowed.
  net::AddressCheck check(const net::Url& url) const;
  // Looks the host up and judges it. A name that leads nowhere passes: whoever connects tells that.
  // Blocks.
  Result<void> look(const std::string& base_url) const;

 private:
  struct Place {
    std::string host;
    uint16_t port = 0;  // 0: any
  };
  const Private private_;
  std::vector<Place> allowed_;
};

}  // namespace sluice::upstream
