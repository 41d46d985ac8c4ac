// The system call filter of local sandboxes, made once by libseccomp and installed by the helper.
//
// Everything is allowed but what is listed in seccomp.cc, with the reason for each group: agents
// and their tools are ordinary programs and use what there is, so an allow-list would break them
// sooner than it kept anybody in. What the namespaces, the id maps and the dropped capabilities
// forbid anyway is listed where it also keeps a reachable part of the kernel out of reach.
#pragma once

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/result.h"

namespace sluice::sandbox::local {

// Whether the guest runs under another uid than the commands do.
enum class Uids : uint8_t { kMany, kOne };

// The filter as an array of struct sock_filter.
Result<Bytes> make_filter(Uids uids);

}  // namespace sluice::sandbox::local
