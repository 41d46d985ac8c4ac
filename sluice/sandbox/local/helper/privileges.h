// Privileges: what a sandbox's first process gives up before it becomes the guest.
//
// Each ends the process if the kernel refuses: a sandbox with more than it may have is none.
#pragma once

#include "sluice/sandbox/local/helper/report.h"
#include "sluice/sandbox/local/plan.h"

namespace sluice::sandbox::local {

// From the host's user to the sandbox's first. REQUIRES: the ids are mapped.
void become_first_user(const Setup& setup, Report report);

// All capabilities but those with which the guest becomes users, ends their processes and arranges
// their files; for good, and no program regains any (no_new_privs).
void drop_capabilities(const Setup& setup, Report report);

// REQUIRES: no_new_privs is set.
void install_filter(const Setup& setup, Report report);

}  // namespace sluice::sandbox::local
