// The way of a sandbox's first process from clone(2) to the guest: it builds the root (root.h),
// leaves the host's, gives up what it may (privileges.h) and runs the guest.
//
// Everything happens in the new namespaces, so that nothing of it is ever to be cleaned up: root,
// mounts and network go with the process.
#pragma once

#include <vector>

#include "sluice/base/core/fd.h"
#include "sluice/sandbox/local/helper/report.h"
#include "sluice/sandbox/local/plan.h"

namespace sluice::sandbox::local {

// REQUIRES: this is the fresh child of clone3 with new user, mount, process, IPC, UTS and (for
// sandboxes with one of their own) network namespaces. Joins its control groups through `groups`,
// does what can be done without knowing for what, and waits at the socket `gate` for the parent's
// word that ids are mapped: a Create, with the guest's end of its link and perhaps an image's
// mount. Says what failed on `report` (closed by a successful exec); `guest` is the program.
[[noreturn]] void construct(const Setup& setup, const std::vector<Fd>& groups, int gate,
                            Report report, int guest);

}  // namespace sluice::sandbox::local
