#include "sluice/env/access.h"

#include <fmt/format.h>

#include <algorithm>

#include "sluice/base/digest.h"

namespace sluice::env {
namespace {

constexpr size_t kMinKey = 16;

// "host" and "port" of "host:port", "[::1]:80" or "host".
struct HostPort {
  std::string_view host, port;
};

HostPort split(std::string_view text) {
  if (text.starts_with('[')) {
    const size_t end = text.find(']');
    if (end == text.npos) return {text, {}};
    const std::string_view rest = text.substr(end + 1);
    return {text.substr(1, end - 1), rest.starts_with(':') ? rest.substr(1) : std::string_view()};
  }
  const size_t colon = text.rfind(':');
  if (colon == text.npos || text.find(':') != colon) return {text, {}};
  return {text.substr(0, colon), text.substr(colon + 1)};
}

bool is_loopback_host(std::string_view host) {
  while (host.ends_with('.')) host.remove_suffix(1);
  if (net::equal_ignoring_case(host, "localhost") || host == "::1") return true;
  constexpr std::string_view below = ".localhost";
  if (host.size() > below.size() &&
      net::equal_ignoring_case(host.substr(host.size() - below.size()), below)) {
    return true;
  }
  // 127.0.0.0/8, all four numbers: "127.evil.example" is a name.
  return host.starts_with("127.") && std::count(host.begin(), host.end(), '.') == 3 &&
         host.find_first_not_of("0123456789.") == host.npos;
}

std::string_view default_port(std::string_view scheme) {
  return scheme == "https" ? "443" : "80";
}

bool equal_hosts(HostPort a, HostPort b, std::string_view scheme) {
  const auto port = [&](std::string_view given) {
    return given.empty() ? default_port(scheme) : given;
  };
  return net::equal_ignoring_case(a.host, b.host) && port(a.port) == port(b.port);
}

}  // namespace

bool is_loopback(std::string_view address) {
  // A unix socket's listener has no host, a test's has no address at all.
  return address == "unix" || address == "memory" || is_loopback_host(split(address).host);
}

Result<Access> Access::make(AccessOptions options) {
  for (const std::string& key : options.keys) {
    const bool plain =
        std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c < 0x7F; });
    if (key.size() < kMinKey || !plain) {
      return Error(ErrorCode::kInvalidArgument,
                   fmt::format("a server's key must be at least {} printable characters without "
                               "spaces; `openssl rand -hex 24` makes a good one",
                               kMinKey),
                   ErrorOrigin::kCaller);
    }
  }
  return Access(std::move(options));
}

Result<void> Access::check_listener(std::string_view address) const {
  if (is_loopback(address) || needs_key() || options_.policy == KeyPolicy::kOff) return {};
  return Error(ErrorCode::kFailedPrecondition,
               fmt::format("{} can be reached from other machines, and the server has no key: give "
                           "it one, listen on 127.0.0.1, or switch keys off in so many words",
                           address),
               ErrorOrigin::kCaller);
}

std::optional<size_t> Access::place_of(std::string_view key) const {
  std::optional<size_t> place;
  for (size_t i = 0; i < options_.keys.size(); ++i) {
    if (equal_in_constant_time(options_.keys[i], key)) place = i;
  }
  return place;
}

std::optional<size_t> Access::shown_by(const net::HttpRequest& request) const {
  const std::string_view header = request.headers.get_or("Authorization", "");
  const size_t space = header.find(' ');
  if (space == header.npos) return std::nullopt;
  const std::string_view scheme = header.substr(0, space);
  std::string_view rest = header.substr(space + 1);
  while (rest.starts_with(' ')) rest.remove_prefix(1);
  if (net::equal_ignoring_case(scheme, "Bearer")) return place_of(rest);
  if (!net::equal_ignoring_case(scheme, "Basic")) return std::nullopt;
  const auto pair = from_base64(rest);
  const size_t colon = pair ? pair->find(':') : std::string::npos;
  if (colon == std::string::npos) return std::nullopt;
  return place_of(std::string_view(*pair).substr(colon + 1));
}

std::string Access::client_of(const net::HttpRequest& request) const {
  const auto place = needs_key() ? shown_by(request) : std::nullopt;
  return place ? fmt::format("key {}", *place + 1) : "";
}

std::optional<Refusal> Access::check(const net::HttpRequest& request, Reach reach) const {
  const auto host_header = request.headers.get("Host");
  const HostPort host = split(host_header.value_or(""));
  const auto is_allowed_host = [&](std::string_view name) {
    return std::any_of(options_.allowed_hosts.begin(), options_.allowed_hosts.end(),
                       [&](const std::string& one) { return net::equal_ignoring_case(one, name); });
  };
  // A page can have its own name point to 127.0.0.1, and is then of the same origin.
  if (reach == Reach::kLoopback && host_header && !is_loopback_host(host.host) &&
      !is_allowed_host(host.host)) {
    return Refusal{403,
                   "this server is addressed as localhost (another name must be allowed first)"};
  }
  if (const auto origin = request.headers.get("Origin")) {
    const size_t slashes = origin->find("://");
    const std::string_view scheme = origin->substr(0, std::min(slashes, origin->size()));
    const HostPort from = slashes == origin->npos ? HostPort{} : split(origin->substr(slashes + 3));
    const bool ours = slashes != origin->npos &&
                      (equal_hosts(from, host, scheme) ||
                       (reach == Reach::kLoopback && is_loopback_host(from.host)) ||
                       std::any_of(options_.allowed_origins.begin(), options_.allowed_origins.end(),
                                   [&](const std::string& one) {
                                     return net::equal_ignoring_case(one, *origin);
                                   }));
    if (!ours) return Refusal{403, "requests from pages of this origin are not taken"};
  }
  // A body of nobody's is not read for the one page that is open to all.
  const bool open = request.path() == "/health" && !request.announces_body();
  if (needs_key() && !open && !shown_by(request)) {
    return Refusal{401, "Unauthorized"};
  }
  return std::nullopt;
}

}  // namespace sluice::env
