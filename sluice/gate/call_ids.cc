#include "sluice/gate/call_ids.h"

namespace sluice::gate {
namespace {

constexpr size_t kUuid = 36;
constexpr size_t kSignature = 24;  // 96 bits, in hex: with the UUID within the 64 of an id

}  // namespace

CallIds::CallIds() : key_(random_hex(32)) {}

void CallIds::append_signature(Bytes& out, std::string_view uuid) const {
  const HmacSha256::Signature all = key_.sign(uuid);
  append_hex(out, {all.data(), kSignature / 2});
}

CallId CallIds::fresh() const {
  const std::string uuid = new_uuid();
  CallId id;
  id.value.reserve(kUuid + 1 + kSignature);
  id.value.append(uuid).append(".");
  append_signature(id.value, uuid);
  return id;
}

bool CallIds::is_ours(const CallId& id) const {
  const std::string_view text = id.value;
  if (text.size() != kUuid + 1 + kSignature || text[kUuid] != '.') return false;
  Bytes expected;
  append_signature(expected, text.substr(0, kUuid));
  return equal_in_constant_time(text.substr(kUuid + 1), expected);
}

}  // namespace sluice::gate
