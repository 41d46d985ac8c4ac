// The way of a sandbox's first process from clone(2) to the guest: it builds the root, leaves the
// host's, gives up what it may and runs the guest.
//
// Everything happens in the new namespaces, so that nothing of it is ever to be cleaned up: root,
// mounts and network go with the process.
#pragma once

#include "sluice/sandbox/local/plan.h"

namespace sluice::sandbox::local {

// REQUIRES: this is the fresh child of clone3 with new user, mount, process, IPC, UTS and (if
// own_network) network namespaces. Waits at the socket `gate` for the parent's word that ids are
// mapped and groups are joined; an image's mount may come with it. Says what failed on `report`
// (closed by a successful exec); `guest` is the program, `link` the guest's end of its link.
[[noreturn]] void construct(const Setup& setup, const Create& create, int gate, int report,
                            int guest, int link);

}  // namespace sluice::sandbox::local
