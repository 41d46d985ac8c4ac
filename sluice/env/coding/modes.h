// The modes of a rollout, by the names they have on the wire.
#pragma once

#include <string_view>

namespace sluice::env::coding {

inline constexpr std::string_view kBlackBox = "black_box";
inline constexpr std::string_view kGateMode = "interception_gate";
// OpenEnv's older default; a deprecated name here.
inline constexpr std::string_view kProxyMode = "transparent_proxy";

}  // namespace sluice::env::coding
