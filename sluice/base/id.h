// Ids: UUIDv7 (RFC 9562), so that they sort by the time they were made, and typed, so that a
// rollout's id cannot be passed where a call's is wanted. Plain values; any thread.
#pragma once

#include <compare>
#include <functional>
#include <string>
#include <string_view>

namespace sluice {

// A fresh UUIDv7 in its 36-character text form. Aborts only if the kernel has no randomness.
std::string new_uuid();

// `bytes` random bytes as lower-case hex: keys and nonces.
std::string random_hex(size_t bytes);

template <class Tag>
struct Id {
  std::string value;

  static Id fresh() { return {new_uuid()}; }
  bool empty() const { return value.empty(); }
  auto operator<=>(const Id&) const = default;
};

using RolloutId = Id<struct RolloutTag>;
using CallId = Id<struct CallTag>;

// Ids that come from outside end up in file names, URLs and labels: 1 to 64 of [A-Za-z0-9_.-],
// not starting with '.' or '-'.
bool is_valid_id(std::string_view text);

}  // namespace sluice

template <class Tag>
struct std::hash<sluice::Id<Tag>> {
  size_t operator()(const sluice::Id<Tag>& id) const { return std::hash<std::string>()(id.value); }
};
