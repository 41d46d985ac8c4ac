#include "sluice/gate/call_ids.h"

#include "sluice/base/digest.h"

namespace sluice::gate {
namespace {

constexpr size_t kUuid = 36;
constexpr size_t kSignature = 24;  // 96 bits, in hex: with the UUID within the 64 of an id

}  // namespace

CallIds::CallIds() : key_(random_hex(32)) {}

Bytes CallIds::signature(std::string_view uuid) const {
  return to_hex(hmac_sha256(key_, uuid).substr(0, kSignature / 2));
}

CallId CallIds::fresh() const {
  std::string uuid = new_uuid();
  const Bytes signed_by = signature(uuid);
  return {std::move(uuid) + "." + signed_by};
}

bool CallIds::is_ours(const CallId& id) const {
  const std::string_view text = id.value;
  if (text.size() != kUuid + 1 + kSignature || text[kUuid] != '.') return false;
  return equal_in_constant_time(text.substr(kUuid + 1), signature(text.substr(0, kUuid)));
}

}  // namespace sluice::gate
