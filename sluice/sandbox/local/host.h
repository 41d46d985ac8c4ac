// What this host lets an engine do, and what is to be done about the rest: for the backend, and for
// people (`sluice doctor`).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "sluice/base/core/result.h"
#include "sluice/sandbox/local/plan.h"

namespace sluice::sandbox::local {

// How this process may map ids into a sandbox.
struct IdPlan : Ids {
  std::string note;  // why it is not better
};

// From the files' contents, so that it can be tested: who we are, /proc/self/uid_map, /etc/subuid
// and /etc/subgid.
struct IdFacts {
  uid_t uid = 0;
  gid_t gid = 0;
  std::string user;  // by name
  std::string uid_map, subuid, subgid;
  bool tools = false;  // newuidmap and newgidmap are there
};
Result<IdPlan> plan_ids(const IdFacts& facts);
IdFacts read_id_facts();

// How far a process of this one gets on the way to a sandbox: the first step that the kernel
// refuses. Tried in a child that ends.
struct Trial {
  enum class Step : uint8_t {
    kUserNamespace,
    kOtherNamespaces,
    kMounts,
    kProc,
    kOverlay,  // for container images alone
    kNone,     // nothing is refused
  };
  Step refused = Step::kNone;
  int failure = 0;  // errno
};
Trial try_namespaces();
// What is in the way and what to do, from the trial and the contents of /proc/self/status,
// /proc/sys/user/max_user_namespaces, kernel/unprivileged_userns_clone and
// kernel/apparmor_restrict_unprivileged_userns ("" where there is none).
struct TrialFacts {
  Trial trial;
  bool root = false;
  std::string status, max_user_namespaces, userns_clone, apparmor_restricts;
};
std::string explain_trial(const TrialFacts& facts);

// One need of the backend: for `doctor`.
struct Need {
  std::string name;
  enum class State : uint8_t { kOk, kLess, kMissing } state = State::kOk;
  std::string detail;  // what there is, or what is lost and how to get it
};
std::vector<Need> inspect_host();

}  // namespace sluice::sandbox::local
