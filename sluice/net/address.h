// What a numeric address is: who reaches it, and who is reached by it.
//
// Plain functions; any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "sluice/base/core/result.h"

namespace sluice::net {

enum class AddressScope : uint8_t {
  kPublic,   // a globally routable unicast address
  kPrivate,  // of this machine, of a private network, or for documents, tests and relays
  kLink,     // of the link (the clouds' metadata), of no single machine, or no address at all
};
AddressScope scope_of(const std::string& address);
inline bool is_public_address(const std::string& address) {
  return scope_of(address) == AddressScope::kPublic;
}

// Judges an address before it is connected to; its error is that of the connection.
using AddressCheck = std::function<Result<void>(const std::string& address)>;

}  // namespace sluice::net
