// The inside of a local sandbox: which of the host's files are seen and how, and what else there
// is.
//
// Read-only from the host: /usr and what belongs to it, and an allow-list of /etc that cannot hold
// a secret. All else is fresh and empty, in memory of bounded size.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "sluice/sandbox/local/plan.h"
#include "sluice/sandbox/sandbox.h"

namespace sluice::sandbox::local {

enum class Users : uint8_t { kMany, kOne };

// What all sandboxes of a host have in common. With one user everything is his.
std::vector<Step> base_layout(Users users);

// The same with the directory `image` of this host in place of the host's root: its /usr, /etc,
// /opt and /srv, read-only. kInvalidArgument for what is no root directory.
Result<std::vector<Step>> image_layout(const std::string& image, Users users);

// The same laid over a container image that was unpacked: all of it is seen and can be changed.
// `passwd` and `group` are the image's own; what in them is not about our users stays.
std::vector<Step> overlay_layout(std::string_view passwd, std::string_view group, Users users);

// The accounts of a sandbox with an image: ours, then those of `theirs` with other names and ids.
std::string merge_accounts(std::string_view ours, std::string_view theirs);

// What the options add. kInvalidArgument for a bundle that is not there or whose place is taken.
Result<std::vector<Step>> extra_layout(const Options& options, Users users);

}  // namespace sluice::sandbox::local
