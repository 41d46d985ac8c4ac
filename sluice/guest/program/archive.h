// The writable layer of a sandbox as one stream of bytes, and back: what a group's rollouts are
// cloned from.
//
// Where the files began as a container image, what is as it was there is only named, since the
// clone begins with the same. Only files travel: processes, mounts and what lies on other mounts
// (bundles, the host's /usr) do not. Unpacking takes the stream for hostile: it follows no link,
// leaves no mount, and can do no more than root of the sandbox that it fills.
#pragma once

#include <cstdint>

#include "sluice/base/core/result.h"
#include "sluice/guest/program/process.h"

namespace sluice::guest::program {

// Writes what is on the filesystem of the directory `top` to `out`; kTooLarge over `max` bytes.
Result<void> pack_tree(int top, int out, uint64_t max);

// Makes the directory `top` hold what pack_tree() read from `in`: what is there and not in the
// stream is removed, but for mounts.
Result<void> unpack_tree(int top, int in, Users users);

}  // namespace sluice::guest::program
