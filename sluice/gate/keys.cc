#include "sluice/gate/keys.h"

#include "sluice/base/digest.h"

namespace sluice::gate {
namespace {

constexpr std::string_view kPrefix = "sluice.";
constexpr size_t kRegistration = 32;  // 128 bits, in hex
constexpr size_t kSignature = 32;     // the same
constexpr size_t kMaxKey = 64 + 128;  // an id, and what is around it

}  // namespace

bool RolloutKeys::Holder::is(const Holder& other) const {
  const bool same_rollout = equal_in_constant_time(rollout.value, other.rollout.value);
  return equal_in_constant_time(registration, other.registration) && same_rollout;
}

RolloutKeys::Holder RolloutKeys::fresh_holder(RolloutId rollout) {
  return {std::move(rollout), random_hex(kRegistration / 2)};
}

Error RolloutKeys::unauthenticated() {
  return Error(ErrorCode::kUnauthenticated, "missing, wrong or expired key", ErrorOrigin::kCaller);
}

RolloutKeys::RolloutKeys() : secret_(random_hex(32)) {}

Bytes RolloutKeys::signature(std::string_view signed_part) const {
  return to_hex(hmac_sha256(secret_, signed_part).substr(0, kSignature / 2));
}

std::string RolloutKeys::make(const Holder& holder, Time expires) const {
  std::string key(kPrefix);
  key += holder.rollout.value + "." + holder.registration + "." +
         std::to_string(expires.time_since_epoch().count());
  const Bytes signed_by = signature(key);
  return key + "." + signed_by;
}

Result<RolloutKeys::Holder> RolloutKeys::check(std::string_view key, Time now) const {
  if (key.size() > kMaxKey || key.size() < kPrefix.size() + kSignature + 1 ||
      !key.starts_with(kPrefix)) {
    return unauthenticated();
  }
  const std::string_view signed_part = key.substr(0, key.size() - kSignature - 1);
  // Before anything in it is read.
  if (!equal_in_constant_time(key.substr(key.size() - kSignature), signature(signed_part))) {
    return unauthenticated();
  }
  // From behind: an id may have dots.
  const size_t dot = signed_part.rfind('.');
  const auto expires = parse_decimal(signed_part.substr(dot + 1));
  const auto seconds = static_cast<uint64_t>(now.time_since_epoch().count());
  const std::string_view holder = signed_part.substr(0, dot);
  const size_t between = holder.rfind('.');
  if (key[signed_part.size()] != '.' || between == holder.npos || between < kPrefix.size() ||
      !expires || seconds >= *expires) {
    return unauthenticated();
  }
  return Holder{{std::string(holder.substr(kPrefix.size(), between - kPrefix.size()))},
                std::string(holder.substr(between + 1))};
}

}  // namespace sluice::gate
