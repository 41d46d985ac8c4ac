#include "sluice/net/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>

namespace sluice::net {
namespace {

AddressScope scope_of_v4(uint32_t ip) {
  const auto within = [ip](uint32_t net, int bits) {
    return (ip >> (32 - bits)) == (net >> (32 - bits));
  };
  // Link-local, multicast, reserved.
  if (within(0xa9fe0000, 16) || within(0xe0000000, 4) || within(0xf0000000, 4)) {
    return AddressScope::kLink;
  }
  // RFC 6890 and what came after it: this network, private, shared, loopback, protocol assignments,
  // documentation, relays, benchmarks.
  const bool inner = within(0x00000000, 8) || within(0x0a000000, 8) || within(0x64400000, 10) ||
                     within(0x7f000000, 8) || within(0xac100000, 12) || within(0xc0000000, 24) ||
                     within(0xc0000200, 24) || within(0xc0586300, 24) || within(0xc0a80000, 16) ||
                     within(0xc6120000, 15) || within(0xc6336400, 24) || within(0xcb007100, 24);
  return inner ? AddressScope::kPrivate : AddressScope::kPublic;
}

}  // namespace

AddressScope scope_of(const std::string& address) {
  in_addr four{};
  if (::inet_pton(AF_INET, address.c_str(), &four) == 1) return scope_of_v4(ntohl(four.s_addr));
  in6_addr six{};
  if (::inet_pton(AF_INET6, address.c_str(), &six) != 1) return AddressScope::kLink;
  const uint8_t* b = six.s6_addr;
  if (b[0] == 0xff || (b[0] == 0xfe && (b[1] & 0xc0) == 0x80)) return AddressScope::kLink;
  if (IN6_IS_ADDR_V4MAPPED(&six)) {
    // The kernel connects to the address inside.
    uint32_t inside = 0;
    std::memcpy(&inside, b + 12, sizeof inside);
    return std::max(scope_of_v4(ntohl(inside)), AddressScope::kPrivate);
  }
  // Global unicast only, and none that wraps another address (Teredo, 6to4) or is for documents.
  const bool is_public = (b[0] & 0xe0) == 0x20 && !(b[0] == 0x20 && b[1] == 0x02) &&
                         !(b[0] == 0x20 && b[1] == 0x01 && b[2] < 0x02) &&
                         !(b[0] == 0x20 && b[1] == 0x01 && b[2] == 0x0d && b[3] == 0xb8);
  return is_public ? AddressScope::kPublic : AddressScope::kPrivate;
}

}  // namespace sluice::net
