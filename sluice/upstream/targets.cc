#include "sluice/upstream/targets.h"

#include <fmt/format.h>

#include <algorithm>

#include "sluice/net/socket.h"

namespace sluice::upstream {

Result<void> Targets::allow(std::string_view host) {
  const auto url = net::Url::parse(fmt::format("http://{}", host));
  if (!url || !url->path.empty()) {
    return Error(ErrorCode::kInvalidArgument,
                 fmt::format("\"{}\" is no host: write it as example.org, example.org:8000, "
                             "10.0.0.5 or [fd00::5]",
                             to_valid_utf8(host)),
                 ErrorOrigin::kCaller);
  }
  const size_t colon = host.rfind(':');
  const bool port = colon != host.npos && !host.ends_with(']');
  allowed_.push_back({url->host, port ? url->port : uint16_t{0}});
  return {};
}

void Targets::allow(const net::Url& url) {
  allowed_.push_back({url.host, url.port});
}

net::AddressCheck Targets::check(const net::Url& url) const {
  const bool allowed = std::any_of(allowed_.begin(), allowed_.end(), [&](const Place& place) {
    return net::equal_ignoring_case(place.host, url.host) &&
           (place.port == 0 || place.port == url.port);
  });
  if (allowed) return nullptr;
  const auto most =
      private_ == Private::kAllowed ? net::AddressScope::kPrivate : net::AddressScope::kPublic;
  return [most, host = url.host](const std::string& address) -> Result<void> {
    const net::AddressScope scope = net::scope_of(address);
    if (scope <= most) return {};
    return Error(ErrorCode::kPermissionDenied,
                 fmt::format("{} is {}, {} address, which this server asks for nobody unless it is "
                             "told to (--allow-upstreams)",
                             host, address,
                             scope == net::AddressScope::kPrivate ? "a private" : "a link-local"),
                 ErrorOrigin::kCaller);
  };
}

Result<void> Targets::look(const std::string& base_url) const {
  SLUICE_TRY(const net::Url url, net::Url::parse(base_url));
  const net::AddressCheck judge = check(url);
  if (!judge) return {};
  const auto addresses = net::look_up(url.host);
  if (!addresses) return {};
  for (const std::string& address : *addresses) SLUICE_TRY_VOID(judge(address));
  return {};
}

}  // namespace sluice::upstream
